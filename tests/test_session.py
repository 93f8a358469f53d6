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


@pytest.fixture
def unwritable(monkeypatch):
    """Refuse what goes to the files of these raters."""
    refused, append = set(), annotations.append

    def append_unless_refused(path, pick):
        if path.stem in refused:
            raise PermissionError(f"{path} may not be written. Take another name.")
        append(path, pick)

    monkeypatch.setattr(annotations, "append", append_unless_refused)
    return refused


def test_a_pick_that_cannot_be_saved_goes_with_another_name(session, cohort, unwritable):
    unwritable.add("mh")
    with pytest.raises(OSError, match="not on disk"):
        session.picker.pick(3, 4, 0)
    assert session.progress == "0 of 6 picked, 1 not saved" and session.unsaved == (cohort.ids[0],)
    session.sign("mh2")
    assert session.picker.voxels == ((3, 4, 0),) and not session.unsaved
    assert on_disk(session, "mh2") == {cohort.ids[0]: ((3, 4, 0),)} and on_disk(session) == {}


def test_a_pick_that_can_be_saved_by_now_stays_with_its_rater(session, cohort, unwritable):
    unwritable.add("mh")
    with pytest.raises(OSError):
        session.picker.pick(3, 4, 0)
    unwritable.clear()
    session.sign("zz")
    assert on_disk(session) == {cohort.ids[0]: ((3, 4, 0),)} and session.picker.voxels == ()


def test_a_withdrawal_that_cannot_be_saved_takes_nothing_from_another_rater(session, cohort, unwritable):
    case = cohort.ids[0]
    path = annotations.rater_file(cohort.folder, "zz", session.root)
    annotations.append(path, annotations.Pick(case, ((7, 7, 0),)))
    session.picker.pick(3, 4, 0)
    unwritable.add("mh")
    with pytest.raises(OSError):
        session.picker.clear()
    session.sign("zz")
    assert session.picker.voxels == ((7, 7, 0),) and on_disk(session, "zz") == {case: ((7, 7, 0),)}
    assert "withdrawal could not be saved for mh" in session.notes[-1]


@pytest.mark.parametrize("name", ["x" * 300, "junk"])
def test_a_name_that_fails_costs_no_pick_made_without_one(cohort, tmp_path, name):
    session = PickingSession(cohort, root=tmp_path)
    session.picker.pick(3, 4, 0)
    junk = annotations.rater_file(cohort.folder, "junk", tmp_path)
    junk.parent.mkdir(parents=True)
    junk.write_text("a;b;c\n1;2;3\n")
    with pytest.raises(ValueError, match=r"50 characters|not a file of picks"):
        session.sign(name)
    assert (session.rater, session.path) == ("", None)
    session.sign("ab")
    assert on_disk(session, "ab") == {cohort.ids[0]: ((3, 4, 0),)}


@pytest.mark.parametrize("again", ["ab", "cd"])
def test_a_half_done_signature_is_repeated_until_all_is_on_disk(cohort, tmp_path, monkeypatch, again):
    session = PickingSession(cohort, root=tmp_path)
    session.picker.pick(3, 4, 0)
    session.next().pick(5, 5, 1)
    append, calls = annotations.append, []

    def fails_second(path, pick):
        calls.append(pick)
        if len(calls) > 1:
            raise OSError("The disk is full.")
        append(path, pick)

    monkeypatch.setattr(annotations, "append", fails_second)
    with pytest.raises(OSError, match=r"full.*name again"):
        session.sign("ab")
    assert session.unsaved == (cohort.ids[1],)
    with pytest.raises(OSError, match="full"):
        session.sign("ab")
    monkeypatch.undo()
    session.sign(again)
    assert not session.unsaved
    assert on_disk(session, "ab") | on_disk(session, again) == {
        cohort.ids[0]: ((3, 4, 0),),
        cohort.ids[1]: ((5, 5, 1),),
    }


def test_a_whole_cohort_picked_without_a_name_is_on_disk_once_it_is_given(cohort, tmp_path):
    session = PickingSession(cohort, root=tmp_path)
    for i, name in enumerate(cohort.ids):
        session.go(name).pick(3 + i, 4, 0)
        assert session.pickers[name] is session.picker  # more unsaved cases than are kept otherwise
    assert session.progress == "0 of 6 picked, 6 not saved" and len(cohort) > KEPT + 1
    assert session.go(cohort.ids[KEPT + 1]).voxels == ((3 + KEPT + 1, 4, 0),)
    session.sign(" mh ")  # blanks around a name are nobody else
    assert on_disk(session) == {name: ((3 + i, 4, 0),) for i, name in enumerate(cohort.ids)}
    session.picker.pick(9, 9, 0)
    assert len(on_disk(session)[session.picker.id]) == 2 and not session.unsaved


def test_a_disk_that_fails_for_many_cases_loses_none(session, cohort, unwritable):
    unwritable.add("mh")
    for i, name in enumerate(cohort.ids):
        with pytest.raises(OSError, match="kept here"):
            session.go(name).pick(3 + i, 4, 0)
    unwritable.clear()
    session.sign("mh")
    assert on_disk(session) == {name: ((3 + i, 4, 0),) for i, name in enumerate(cohort.ids)}


def test_a_name_that_is_no_text_is_refused(cohort, tmp_path):
    with pytest.raises(TypeError, match="name is text: 5 came"):
        PickingSession(cohort, 5, root=tmp_path)


def test_no_click_fails_without_words(session, monkeypatch):
    view = session.widget()
    monkeypatch.setattr(view, "_do_undo", lambda _: {}["case_9"])
    view._answer(view, {"do": "undo"}, [])
    assert "KeyError: 'case_9'" in view.state["problem"]


def test_progress_counts_the_picks_of_cases_that_were_let_go(session, cohort):
    for name in cohort.ids:
        session.go(name).pick(3, 4, 0)
    assert session.progress == "6 of 6 picked" and len(session.pickers) == KEPT
    view = session.widget()
    assert all(picked for _, picked, _ in view.state["cases"])
    session.go(cohort.ids[0]).clear()
    for name in cohort.ids[1:]:
        session.go(name)
    assert session.progress == "5 of 6 picked"


def test_nothing_counts_as_picked_before_it_is_on_disk(cohort, tmp_path):
    session = PickingSession(cohort, root=tmp_path)
    session.picker.pick(3, 4, 0)
    assert session.progress == "0 of 6 picked, 1 not saved"
    assert session.widget().state["cases"][0] == [cohort.ids[0], False, False]
    assert session.sign("ab").progress == "1 of 6 picked"


def test_a_vof_and_a_comment_alone_are_kept_until_the_name_is_given(cohort, tmp_path):
    session = PickingSession(cohort, root=tmp_path)
    session.picker.pick(3, 4, 0, kind="vof")
    session.next().note("no artery in this slab")
    for _ in range(KEPT + 1):
        session.next()
    session.sign("ab")
    standing = annotations.standing(session.path)
    assert standing[cohort.ids[0]].vof_voxels == ((3, 4, 0),)
    assert standing[cohort.ids[1]].comment == "no artery in this slab"
    assert session.progress == "0 of 6 picked"
    again = PickingSession(cohort, "ab", root=tmp_path, case=cohort.ids[1])
    assert again.picker.comment == "no artery in this slab" and not again.picker.unsaved


def test_signing_says_that_an_earlier_pick_is_replaced_and_undo_brings_it_back(cohort, tmp_path):
    case = cohort.ids[0]
    PickingSession(cohort, "anna", root=tmp_path, case=case).picker.pick(1, 1, 0).note("M1")
    session = PickingSession(cohort, root=tmp_path, case=case)
    session.picker.pick(3, 4, 0)
    session.sign("anna")
    assert on_disk(session, "anna") == {case: ((3, 4, 0),)}
    assert f"{case} was picked at" in session.notes[-1] and "undo" in session.notes[-1]
    assert (session.picker.undo().voxels, session.picker.comment) == (((1, 1, 0),), "M1")
    assert on_disk(session, "anna") == {case: ((1, 1, 0),)}


def test_a_comment_given_before_the_name_withdraws_no_earlier_pick(cohort, tmp_path):
    case = cohort.ids[0]
    PickingSession(cohort, "anna", root=tmp_path, case=case).picker.pick(1, 1, 0)
    session = PickingSession(cohort, root=tmp_path, case=case)
    session.picker.note("low dose")
    session.sign("anna")
    assert annotations.latest(session.path)[case].voxels == ((1, 1, 0),)
    assert annotations.latest(session.path)[case].comment == "low dose"


def test_two_tabs_never_overwrite_each_other_silently(cohort, tmp_path):
    one = PickingSession(cohort, "mh", root=tmp_path, case=cohort.ids[0])
    two = PickingSession(cohort, "mh", root=tmp_path, case=cohort.ids[0])
    view = two.widget()
    one.picker.pick(1, 1, 0).note("one")
    view._answer(view, {"do": "pick", "voxels": [[3, 4, 0]], "kind": "aif"}, [])
    assert "picked at" in view.state["problem"] and "elsewhere" in view.state["problem"]
    assert view.state["aif"] == [[1, 1, 0]] and view.state["saved"] and two.picker.comment == "one"
    assert on_disk(two) == {cohort.ids[0]: ((1, 1, 0),)}
    view._answer(view, {"do": "undo"}, [])
    assert view.state["problem"] == "" and on_disk(two) == {cohort.ids[0]: ((3, 4, 0),)}
    with pytest.raises(RuntimeError, match="elsewhere"):
        one.picker.clear()
    assert on_disk(one) == {cohort.ids[0]: ((3, 4, 0),)}


def test_an_error_is_gone_after_the_next_success_and_stays_while_the_browser_loads(session):
    view = session.widget()
    view._answer(view, {"do": "go", "case": "nowhere"}, [])
    view._answer(view, {"do": "slice", "z": 0}, [])
    assert "nowhere" in view.state["problem"]
    view._answer(view, {"do": "redo"}, [])
    assert view.state["problem"] == ""


def test_every_message_with_a_number_is_acknowledged_before_work_starts(session, monkeypatch):
    view, sent = session.widget(), []
    monkeypatch.setattr(view, "send", lambda content, buffers=None: sent.append(content))
    view._answer(view, {"do": "ping", "n": 7}, [])
    view._answer(view, {"do": "slice", "z": 0, "n": 8}, [])
    assert sent[0] == {"heard": 7} and sent[1] == {"heard": 8} and sent[2]["slice"] == 0
