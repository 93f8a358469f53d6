"""A rater goes from case to case; nothing picked is lost, whoever signs it and whenever."""

import shutil
import time

import numpy as np
import pytest

from perfkit import annotations
from perfkit.datasets import open_cohort
from perfkit.session import KEPT, PickingSession


@pytest.fixture
def cohort(tiny_cohort):
    return open_cohort(tiny_cohort)


@pytest.fixture
def session(cohort, tmp_path):
    return PickingSession(cohort, "mh", root=tmp_path)


def on_disk(session, rater="mh"):
    path = session.root / session.cohort.folder.name / f"{rater}.csv"
    return {case: pick.voxels for case, pick in annotations.latest(path).items()} if path.exists() else {}


def test_picks_go_to_the_raters_file_of_this_cohort(session):
    first = session.picker.id
    session.picker.pick(3, 4, 0)
    second = session.next().id
    session.picker.pick(5, 5, 1)
    assert second != first
    assert on_disk(session) == {first: ((3, 4, 0),), second: ((5, 5, 1),)}
    assert session.path == session.root / session.cohort.folder.name / "mh.csv"
    assert session.progress == "2 of 6 picked"


def test_a_new_session_opens_the_first_case_without_a_pick(session, cohort, tmp_path):
    session.picker.pick(3, 4, 0)
    again = PickingSession(cohort, "mh", root=tmp_path)
    assert again.picker.id == cohort.ids[1] and again.progress == "1 of 6 picked"
    assert again.previous().voxels == ((3, 4, 0),)
    assert PickingSession(cohort, "mh", root=tmp_path, case=cohort.ids[0]).picker.voxels == ((3, 4, 0),)


def test_going_back_finds_the_pick_even_when_the_case_was_let_go(session):
    first = session.picker.id
    session.picker.pick(3, 4, 0)
    for _ in range(KEPT + 1):
        session.next()
    assert len(session.pickers) == KEPT and first not in session.pickers
    assert session.go(first).voxels == ((3, 4, 0),)


def test_the_ends_of_the_cohort_are_ends(session, cohort):
    assert session.previous().id == cohort.ids[0]
    session.go(cohort.ids[-1])
    assert session.next().id == cohort.ids[-1]


def test_picks_made_before_the_name_is_given_are_saved_under_it(cohort, tmp_path):
    session = PickingSession(cohort, root=tmp_path)
    session.picker.pick(3, 4, 0)
    for _ in range(KEPT + 1):
        session.next()
    assert not list(tmp_path.rglob("*.csv"))
    session.sign("ab")
    assert on_disk(session, "ab") == {cohort.ids[0]: ((3, 4, 0),)}
    session.picker.pick(1, 1, 0)
    assert session.picker.id in on_disk(session, "ab")


def test_another_rater_starts_from_their_own_picks(session):
    session.picker.pick(3, 4, 0)
    session.sign("zz")
    assert session.picker.voxels == () and session.progress == "0 of 6 picked"
    session.picker.pick(7, 7, 0)
    session.sign("mh")
    assert session.picker.voxels == ((3, 4, 0),)
    case = session.picker.id
    assert on_disk(session) == {case: ((3, 4, 0),)} and on_disk(session, "zz") == {case: ((7, 7, 0),)}


def test_a_name_no_file_can_have_is_refused_and_the_old_one_stays(session):
    with pytest.raises(ValueError, match="rater's name"):
        session.sign("../x")
    assert session.rater == "mh" and session.path.name == "mh.csv"


def test_an_unknown_case_is_named_with_its_neighbours(session, cohort, tmp_path):
    with pytest.raises(ValueError, match="case_1"):
        session.go("case_11")
    with pytest.raises(ValueError, match="no scan 'case_99'"):
        PickingSession(cohort, root=tmp_path, case="case_99")
    assert session.picker.id == cohort.ids[0]


def test_a_broken_case_is_passed_over_and_said(tiny_cohort, tmp_path):
    folder = tmp_path / "cohort"
    shutil.copytree(tiny_cohort, folder)
    ids = open_cohort(folder).ids
    (series,) = folder.glob(f"TRAINING/{ids[1]}/*4DPWI*/*.nii*")
    series.write_bytes(series.read_bytes()[:5000])
    session = PickingSession(open_cohort(folder), "mh", root=tmp_path / "aif")
    assert session.next().id == ids[2]
    assert ids[1] in session.problems and f"{ids[1]} was passed over" in session.notes[-1]
    with pytest.raises(ValueError, match=series.name):
        session.go(ids[1])
    table = session.table.set_index("case")
    assert table.loc[ids[1], "problem"] and not table.loc[ids[2], "problem"]


def test_a_recorded_pick_of_another_scan_is_told_and_left_in_the_file(cohort, tmp_path):
    path = annotations.rater_file(cohort.folder, "mh", tmp_path)
    annotations.append(path, annotations.Pick(cohort.ids[1], ((300, 0, 0),)))
    before = path.read_text()
    session = PickingSession(cohort, "mh", root=tmp_path, case=cohort.ids[1])
    assert session.picker.voxels == () and "was not taken over" in session.notes[0]
    assert path.read_text() == before


def test_the_next_case_is_loaded_ahead_and_is_the_same(session, cohort):
    session.prefetch()
    until = time.monotonic() + 30
    while not session._loading[cohort.ids[1]].done() and time.monotonic() < until:
        time.sleep(0.01)
    ahead = session.next()
    alone = PickingSession(cohort, root=session.root, case=cohort.ids[1]).picker
    np.testing.assert_array_equal(ahead.concentration, alone.concentration)


def test_the_table_says_what_was_picked_and_how_long_it_took(session, cohort):
    time.sleep(0.02)
    session.picker.pick(3, 4, 0).pick(3, 5, 0)
    session.next()
    table = session.table.set_index("case")
    assert table["picked"].sum() == 1 and table.loc[cohort.ids[0], "voxels"] == 2
    assert 0.02 <= table.loc[cohort.ids[0], "seconds"] < 20
    assert table["seconds"].notna().sum() == 1


def test_the_view_follows_the_session(session, cohort):
    view = session.widget()
    view._answer(view, {"do": "pick", "voxels": [[3, 4, 0]], "kind": "aif"}, [])
    view._answer(view, {"do": "go", "by": 1}, [])
    assert view.scan["id"] == cohort.ids[1] == session.picker.id and view.state["aif"] == []
    assert view.scan["visit"] == 1
    assert [case for case in view.state["cases"] if case[1]] == [[cohort.ids[0], True, False]]
    view._answer(view, {"do": "sign", "rater": " a  b "}, [])
    assert view.state["rater"] == "a b"
    view._answer(view, {"do": "sign", "rater": "a/b"}, [])
    assert "rater's name" in view.state["problem"] and session.rater == "a b"
    view._answer(view, {"do": "go", "case": "nowhere"}, [])
    assert "nowhere" in view.state["problem"] and view.scan["id"] == cohort.ids[1]
    session.picker.pick(1, 1, 1)
    assert view.state["aif"] == [[1, 1, 1]]
