"""The picker keeps its state without a browser, and sends images only in messages."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from perfkit import annotations, suggestions
from perfkit.aif import expert_aif
from perfkit.annotations import Pick
from perfkit.maps import perfusion_maps
from perfkit.phantom import make_case
from perfkit.picker import MAX_VOXELS, AIFPicker
from perfkit.preprocessing import prepare


@pytest.fixture
def scan():
    random = np.random.default_rng(0)
    return SimpleNamespace(
        id="case_1",
        concentration=random.normal(0, 20, (8, 6, 2, 12)).astype(np.float32),
        baseline=np.full((8, 6, 2), 35.0, np.float32),
        brain=np.ones((8, 6, 2), bool),
        affine=np.diag([2.0, 3.0, 5.0, 1.0]),
        dt=1.0,
    )


@pytest.fixture
def picker(scan, tmp_path):
    return AIFPicker(scan, rater="mh", path=tmp_path / "mh.csv")


@pytest.fixture(scope="module")
def prepared():
    case = make_case(3, size="tiny")
    return prepare(case), case


def test_the_aif_is_the_mean_curve_of_the_picked_voxels(picker, scan):
    assert picker.aif is None and picker.aif_quality is None
    picker.pick(1, 2, 0).pick(3, 4, 1)
    expected = (scan.concentration[1, 2, 0] + scan.concentration[3, 4, 1]) / 2
    np.testing.assert_allclose(picker.aif.curve, expected, rtol=1e-6)
    assert picker.aif.method == "mh" and picker.vof is None
    assert picker.aif_quality.peak == pytest.approx(expected.max())


def test_picking_a_voxel_again_takes_it_away(picker):
    assert picker.pick(1, 2, 0).pick(1, 2, 1).pick(1, 2, 0).voxels == ((1, 2, 1),)


def test_a_region_is_added_taken_away_and_put_in_place_in_one_step(picker):
    region = np.array([[1, 1, 0], [2, 1, 0], [2, 1, 0]])
    picker.pick(2, 1, 0).pick_roi(region)
    assert picker.voxels == ((2, 1, 0), (1, 1, 0))
    picker.pick_roi([(1, 1, 0), (5, 5, 0)], way="remove")
    assert picker.voxels == ((2, 1, 0),)
    picker.pick_roi([(3, 3, 1)], way="only").undo()
    assert picker.voxels == ((2, 1, 0),)
    before = picker.can_redo
    picker.pick_roi([(2, 1, 0)], way="add")  # it is there already: no step
    assert picker.can_redo == before


def test_aif_and_vof_are_kept_apart(picker, scan):
    picker.pick(1, 2, 0).pick(1, 2, 0, kind="vof")
    assert picker.voxels == picker.vof_voxels == ((1, 2, 0),)
    np.testing.assert_array_equal(picker.vof.curve, scan.concentration[1, 2, 0])
    assert picker.aif_quality.vof_area_ratio == pytest.approx(1)


def test_undo_and_redo_walk_through_every_step(picker):
    picker.pick(0, 0, 0).pick(1, 1, 1).clear()
    assert [len(picker.undo().voxels) for _ in range(4)] == [2, 1, 0, 0]
    assert [len(picker.redo().voxels) for _ in range(4)] == [1, 2, 0, 0]
    picker.undo().pick(2, 2, 0)
    assert not picker.can_redo and picker.voxels == ((0, 0, 0), (1, 1, 1), (2, 2, 0))


def test_every_change_is_on_disk_at_once(picker):
    def on_disk():
        return annotations.latest(picker.path).get("case_1", Pick("case_1")).voxels

    picks = (lambda: picker.pick(1, 2, 0), lambda: picker.pick(4, 4, 1))
    for change in (*picks, picker.undo, picker.redo, picker.clear, picker.undo):
        change()
        assert picker.saved and on_disk() == picker.voxels
    picker.note("  clear\nM1 ")
    assert annotations.latest(picker.path)["case_1"].comment == "clear M1"


def test_without_autosave_nothing_is_written_before_save(scan, tmp_path):
    picker = AIFPicker(scan, path=tmp_path / "mh.csv", autosave=False).pick(1, 2, 0)
    assert not picker.saved and not picker.path.exists()
    assert picker.save(comment="M1") == picker.path and picker.saved
    assert annotations.latest(picker.path)["case_1"].voxels == ((1, 2, 0),)


def test_a_saved_pick_is_loaded_by_the_next_session(picker, scan):
    picker.pick(1, 2, 0).pick(4, 4, 1, kind="vof").note("clear M1")
    again = AIFPicker(scan, path=picker.path)
    assert again.load() and again.saved and not again.can_undo
    assert (again.voxels, again.vof_voxels, again.comment) == (((1, 2, 0),), ((4, 4, 1),), "clear M1")
    assert again.rater == "mh"


def test_loading_keeps_what_was_picked_before_one_undo_away(picker, scan):
    other = AIFPicker(scan, path=picker.path, autosave=False).pick(7, 5, 1)
    picker.pick(1, 2, 0)
    other.load()
    assert other.voxels == ((1, 2, 0),) and other.undo().voxels == ((7, 5, 1),)


def test_a_pick_that_cannot_be_saved_is_kept_and_said(picker, monkeypatch):
    picker.pick(1, 2, 0)

    def full(path, pick):
        raise OSError("No space left on device.")

    monkeypatch.setattr(annotations, "append", full)
    with pytest.raises(OSError, match=r"No space left.*not on disk"):
        picker.pick(2, 2, 0)
    assert picker.voxels == ((1, 2, 0), (2, 2, 0)) and not picker.saved
    monkeypatch.undo()
    picker.save()
    assert annotations.latest(picker.path)["case_1"].voxels == ((1, 2, 0), (2, 2, 0))


def test_nothing_to_load_is_no_error(picker, scan):
    assert not picker.load()
    annotations.append(picker.path, Pick("case_2", ((0, 0, 0),)))
    assert not picker.load()


def test_a_pick_of_another_scan_is_refused(picker):
    annotations.append(picker.path, Pick("case_1", ((90, 90, 0),)))
    with pytest.raises(ValueError, match="another scan"):
        picker.load()
    assert picker.voxels == ()


@pytest.mark.parametrize("voxel", [(8, 0, 0), (-1, 0, 0), (0, 0, 2), (0.5, 0, 0)])
def test_a_voxel_outside_is_refused_and_changes_nothing(picker, voxel):
    with pytest.raises(ValueError, match="voxel"):
        picker.pick(*voxel)
    assert picker.voxels == () and not picker.can_undo


def test_unknown_kinds_and_too_large_regions_are_refused(scan):
    scan.brain = np.ones((30, 30, 1), bool)
    scan.concentration = np.zeros((30, 30, 1, 12), np.float32)
    picker = AIFPicker(scan)
    with pytest.raises(ValueError, match="'vein'"):
        picker.pick(1, 1, 0, kind="vein")
    with pytest.raises(ValueError, match=f"{MAX_VOXELS} voxels at most: 900"):
        picker.pick_roi(np.argwhere(scan.brain))
    assert picker.voxels == ()


def test_saving_without_a_file_says_what_would_do(scan):
    with pytest.raises(ValueError, match="path="):
        AIFPicker(scan).pick(0, 0, 0).save()


def test_curves_outside_the_brain_are_taken_as_measured(prepared):
    scan, case = prepared
    outside = tuple(int(i) for i in np.argwhere(~scan.brain)[0])
    inside = tuple(int(i) for i in np.argwhere(scan.brain)[0])
    picker = AIFPicker(scan, measured=case).pick(*outside).pick(*inside)
    curves = picker.slice_curves(outside[2])
    measured = case.ctp[outside] - case.ctp[outside][: scan.n_baseline].mean()
    np.testing.assert_allclose(curves[outside[:2]], measured, atol=1e-3)
    np.testing.assert_array_equal(picker.slice_curves(inside[2])[inside[:2]], scan.concentration[inside])
    used_later = expert_aif(scan, {scan.id: Pick(scan.id, picker.voxels)}, case)
    np.testing.assert_array_equal(picker.aif.curve, used_later.curve)
    assert "outside the brain" in " ".join(picker.aif.notes)


def test_rcbf_and_core_follow_the_aif(prepared):
    scan, case = prepared
    picker = AIFPicker(scan, measured=case)
    assert picker.rcbf is None and np.isnan(picker.core_ml)
    artery = np.unravel_index(scan.concentration.max(axis=-1).argmax(), scan.brain.shape)
    picker.pick(*artery)
    cbf = perfusion_maps(scan.concentration, picker.aif.curve, scan.dt, mask=scan.brain).cbf
    expected = cbf / cbf[scan.reference_tissue].mean()
    np.testing.assert_allclose(picker.rcbf[scan.brain], expected[scan.brain], rtol=1e-4)
    voxel_ml = abs(np.linalg.det(scan.affine[:3, :3])) / 1000
    assert picker.core_ml == pytest.approx((scan.tissue & (expected < 0.38)).sum() * voxel_ml, rel=0.02)
    assert AIFPicker(case).pick(*artery).rcbf is None  # a bare case knows no reference tissue


def test_a_suggestion_is_taken_by_its_number_and_undone(prepared):
    scan, case = prepared
    picker = AIFPicker(scan, measured=case).pick(0, 0, 0)
    with pytest.raises(ValueError, match=r"no suggestion 1.*suggest\(\)"):
        picker.accept(1)
    first = picker.suggest()[0]
    picker.accept(first.number)
    assert {*picker.voxels} == {tuple(v) for v in first.voxels.tolist()}
    assert picker.undo().voxels == ((0, 0, 0),)


def answers(view, monkeypatch):
    sent = []
    monkeypatch.setattr(view, "send", lambda content, buffers=None: sent.append((content, buffers)))
    return sent


def test_the_widget_follows_the_state_and_syncs_no_image(picker, scan):
    view = picker.widget()
    picker.pick(1, 2, 0)
    assert view.state["aif"] == [[1, 2, 0]] and view.state["saved"]
    np.testing.assert_allclose(view.state["curves"]["aif"], scan.concentration[1, 2, 0], atol=0.006)
    synced = {name: view.get_state(name)[name] for name in ("scan", "state")}
    assert len(str(synced)) < 3000


def test_the_widget_answers_the_browser(picker, scan, monkeypatch):
    view = picker.widget()
    sent = answers(view, monkeypatch)
    view._answer(view, {"do": "slice", "z": 1}, [])
    (content, (curves, baseline, brain)) = sent[0]
    curves = np.frombuffer(curves, "<i2").reshape(6, 8, 12) / 16
    np.testing.assert_allclose(curves, scan.concentration[:, :, 1].swapaxes(0, 1), atol=1 / 31)
    assert np.frombuffer(brain, np.uint8).reshape(6, 8).all()
    assert content == {"slice": 1, "visit": 0} and set(np.frombuffer(baseline, "<i2")) == {35 * 16}
    view._answer(view, {"do": "pick", "voxels": [[3, 1, 0]], "kind": "aif"}, [])
    assert picker.voxels == ((3, 1, 0),)
    view._answer(view, {"do": "undo"}, [])
    assert picker.voxels == ()
    view._answer(view, {"do": "pick", "voxels": [[30, 1, 0]], "kind": "aif"}, [])
    assert "inside the volume" in view.state["problem"]
    view._answer(view, {"do": "redo"}, [])
    assert view.state["problem"] == "" and picker.voxels == ((3, 1, 0),)
    view._answer(view, {"do": "something newer"}, [])


def test_the_widget_sends_rcbf_and_core_of_the_present_aif(prepared, monkeypatch):
    scan, case = prepared
    picker = AIFPicker(scan, measured=case)
    view = picker.widget()
    sent = answers(view, monkeypatch)
    view._answer(view, {"do": "rcbf", "z": 0}, [])
    assert sent[-1] == ({"rcbf": 0, "visit": 0, "of": ""}, None)
    artery = [int(i) for i in np.unravel_index(scan.concentration.max(axis=-1).argmax(), scan.brain.shape)]
    view._answer(view, {"do": "pick", "voxels": [artery], "kind": "aif"}, [])
    view._answer(view, {"do": "rcbf", "z": artery[2]}, [])
    content, (flow, core) = sent[-1]
    shape = scan.brain.shape[1::-1]
    flow, core = (
        np.frombuffer(flow, np.uint8).reshape(shape).T,
        np.frombuffer(core, np.uint8).reshape(shape).T,
    )
    inside = scan.brain[:, :, artery[2]]
    expected = np.clip(picker.rcbf[:, :, artery[2]], 0, 2.54)
    np.testing.assert_allclose(flow[inside] / 100, expected[inside], atol=0.0051)
    assert (flow[~inside] == 255).all()
    np.testing.assert_array_equal(core, picker.core[:, :, artery[2]])
    assert content["of"] == view.state["key"] and content["core_ml"] == pytest.approx(
        picker.core_ml, abs=0.01
    )


def test_suggestions_reach_the_browser_with_their_curves(prepared, monkeypatch):
    scan, case = prepared
    view = AIFPicker(scan, measured=case).widget()
    sent = answers(view, monkeypatch)
    view._suggest(view.picker, view._visit)
    offers = sent[-1][0]["suggestions"]
    expected = suggestions.suggest(scan)
    assert [o["number"] for o in offers] == [s.number for s in expected]
    curve = scan.concentration[tuple(np.array(offers[0]["voxels"]).T)].mean(axis=0)
    np.testing.assert_allclose(offers[0]["curve"], curve, atol=0.006)
    before = len(sent)
    view._suggest(view.picker, view._visit + 1)  # of a case that was left meanwhile
    assert len(sent) == before


def test_a_curve_of_noise_is_warned_about_not_fitted_silently(picker):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picker.pick(1, 2, 0)
    assert picker.aif_quality.warnings and picker.widget().state["warnings"]


def test_a_pick_that_stands_in_the_file_is_taken_over_not_withdrawn(picker, scan):
    picker.pick(1, 2, 0)
    again = AIFPicker(scan, path=picker.path)
    again.save()
    assert again.voxels == annotations.latest(picker.path)["case_1"].voxels == ((1, 2, 0),)


def test_a_later_pick_counts_though_the_clock_of_the_earlier_was_ahead(picker, scan):
    annotations.append(picker.path, Pick("case_1", ((1, 1, 1),), time="2999-01-01T00:00:00.000400+00:00"))
    ahead = AIFPicker(scan, path=picker.path).pick(2, 2, 0)
    assert annotations.latest(picker.path)["case_1"].voxels == ahead.voxels == ((1, 1, 1), (2, 2, 0))


def test_a_comment_without_a_voxel_is_stored_and_counts_as_no_pick(picker, scan):
    picker.note("no artery in this slab")
    assert annotations.latest(picker.path) == {} and picker.saved
    assert annotations.standing(picker.path)["case_1"].comment == "no artery in this slab"
    assert AIFPicker(scan, path=picker.path).comment == "no artery in this slab"
    assert AIFPicker(scan).note("no artery").unsaved


def test_a_file_damaged_meanwhile_keeps_the_pick_and_says_so(picker):
    picker.pick(1, 2, 0)
    good = picker.path.read_text()
    picker.path.write_text("somebody;else\n")
    with pytest.raises(OSError, match=r"not a file of picks.*kept here"):
        picker.pick(2, 2, 0)
    assert len(picker.voxels) == 2 and picker.unsaved
    assert picker.path.read_text() == "somebody;else\n"
    picker.path.write_text(good)
    picker.save()
    assert len(annotations.latest(picker.path)["case_1"].voxels) == 2


@pytest.mark.parametrize("case", [None, "case_1", [1, 2]])
def test_what_is_no_scan_is_refused_in_words(case):
    with pytest.raises(TypeError, match="takes one scan"):
        AIFPicker(case)


def test_slips_of_the_keyboard_are_refused_in_words(picker):
    with pytest.raises(ValueError, match="whole numbers"):
        picker.pick(float("inf"), 0, 0)
    with pytest.raises(TypeError, match="5 came"):
        picker.note(5)
    with pytest.raises(ValueError, match="none came"):
        picker.mean_curve([])
    with pytest.raises(ValueError, match="inside the volume"):
        picker.mean_curve([(99, 0, 0)])
    with pytest.raises(ValueError, match=r"'1'.*whole number"):
        picker.accept("1")
    with pytest.raises(TypeError, match="5 came"):
        picker.save(comment=5)
    with pytest.raises(ValueError, match="2 slices, counted from 0: 7 came"):
        picker.slice_curves(7)
    assert picker.comment == ""


def test_a_place_where_no_file_can_be_is_said_in_words(scan, tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder\. Give path="):
        AIFPicker(scan, path=tmp_path)
    (tmp_path / "file").write_text("")
    picker = AIFPicker(scan, path=tmp_path / "file" / "mh.csv", autosave=False)
    with pytest.raises(OSError, match=r"is in the way\. Give the path of a file"):
        picker.pick(1, 1, 0).save()
    assert picker.voxels == ((1, 1, 0),)


def test_a_measured_case_of_another_grid_is_refused(prepared):
    scan, case = prepared
    other = SimpleNamespace(id="other", ctp=case.ctp[1:])
    with pytest.raises(ValueError, match="must be the Case of the same scan"):
        AIFPicker(scan, measured=other)


def test_the_vof_is_judged_as_a_vein(scan):
    t = np.arange(12.0)
    scan.concentration[1, 1, 0] = 100 * np.exp(-((t - 4) ** 2) / 4)
    scan.concentration[2, 2, 0] = 20 * np.exp(-((t - 6) ** 2) / 4)
    scan.concentration[3, 3, 0] = 90 * np.exp(-((t - 10) ** 2) / 4)
    picker = AIFPicker(scan).pick(1, 1, 0)
    view = picker.widget()
    assert picker.vof_warnings == () and not any(w.startswith("VOF") for w in view.state["warnings"])
    picker.pick(2, 2, 0, "vof")
    assert picker.vof_warnings == ("It is no vein: it peaks at 20 HU, its artery at 100 HU.",)
    picker.pick_roi([(3, 3, 0)], "vof", way="only")
    assert "truncated" in picker.vof_warnings[0]
    assert view.state["warnings"][-1] == f"VOF: {picker.vof_warnings[-1]}"


def test_a_width_that_is_not_seen_is_no_number(scan):
    scan.concentration[1, 1, 0] = np.arange(12.0) * 5
    assert "its width is not seen" in AIFPicker(scan).pick(1, 1, 0).summary
