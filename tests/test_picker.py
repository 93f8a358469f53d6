"""The picker keeps its state without a browser, and sends images only in messages."""

from types import SimpleNamespace

import numpy as np
import pytest

from perfkit import annotations
from perfkit.picker import AIFPicker


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


def test_the_aif_is_the_mean_curve_of_the_picked_voxels(picker, scan):
    assert picker.aif is None
    picker.pick(1, 2, 0).pick(3, 4, 1)
    expected = (scan.concentration[1, 2, 0] + scan.concentration[3, 4, 1]) / 2
    np.testing.assert_allclose(picker.aif.curve, expected, rtol=1e-6)
    assert picker.aif.method == "mh" and picker.vof is None


def test_picking_a_voxel_again_takes_it_away(picker):
    assert picker.pick(1, 2, 0).pick(1, 2, 1).pick(1, 2, 0).voxels == ((1, 2, 1),)


def test_aif_and_vof_are_kept_apart(picker, scan):
    picker.pick(1, 2, 0).pick(1, 2, 0, kind="vof")
    assert picker.voxels == picker.vof_voxels == ((1, 2, 0),)
    np.testing.assert_array_equal(picker.vof.curve, scan.concentration[1, 2, 0])


def test_undo_and_redo_walk_through_every_step(picker):
    picker.pick(0, 0, 0).pick(1, 1, 1).clear()
    assert [len(picker.undo().voxels) for _ in range(4)] == [2, 1, 0, 0]
    assert [len(picker.redo().voxels) for _ in range(4)] == [1, 2, 0, 0]
    picker.undo().pick(2, 2, 0)
    assert not picker.can_redo and picker.voxels == ((0, 0, 0), (1, 1, 1), (2, 2, 0))


def test_a_saved_pick_is_loaded_by_the_next_session(picker, scan):
    picker.pick(1, 2, 0).pick(4, 4, 1, kind="vof")
    assert not picker.saved
    assert picker.save(comment="clear M1") == picker.path and picker.saved
    again = AIFPicker(scan, path=picker.path)
    assert again.load() and again.saved
    assert (again.voxels, again.vof_voxels, again.comment) == (((1, 2, 0),), ((4, 4, 1),), "clear M1")
    assert again.rater == "mh"


def test_nothing_to_load_is_no_error(picker, scan):
    assert not picker.load()
    annotations.append(picker.path, annotations.Pick("case_2", ((0, 0, 0),)))
    assert not picker.load()


def test_a_pick_of_another_scan_is_refused(picker):
    annotations.append(picker.path, annotations.Pick("case_1", ((90, 90, 0),)))
    with pytest.raises(ValueError, match="another scan"):
        picker.load()
    assert picker.voxels == ()


@pytest.mark.parametrize("voxel", [(8, 0, 0), (-1, 0, 0), (0, 0, 2)])
def test_a_voxel_outside_is_refused_and_changes_nothing(picker, voxel):
    with pytest.raises(ValueError, match="voxel"):
        picker.pick(*voxel)
    assert picker.voxels == () and not picker.can_undo


def test_saving_without_a_file_says_what_would_do(scan):
    with pytest.raises(ValueError, match="path="):
        AIFPicker(scan).pick(0, 0, 0).save()


def test_the_widget_follows_the_state_and_syncs_no_image(picker, scan):
    view = picker.widget()
    picker.pick(1, 2, 0)
    assert view.state["aif"] == [[1, 2, 0]]
    np.testing.assert_allclose(view.state["curves"]["aif"], scan.concentration[1, 2, 0], atol=0.006)
    synced = {name: view.get_state(name)[name] for name in ("scan", "state")}
    assert len(str(synced)) < 2000


def test_the_widget_answers_the_browser(picker, scan, monkeypatch):
    view, sent = picker.widget(), []
    monkeypatch.setattr(view, "send", lambda content, buffers: sent.append((content, buffers)))
    view._answer(view, {"do": "slice", "z": 1}, [])
    (content, (curves, baseline)) = sent[0]
    curves = np.frombuffer(curves, "<i2").reshape(6, 8, 12) / 16
    np.testing.assert_allclose(curves, scan.concentration[:, :, 1].swapaxes(0, 1), atol=1 / 31)
    assert content == {"slice": 1} and set(np.frombuffer(baseline, "<i2")) == {35 * 16}
    view._answer(view, {"do": "pick", "voxel": [3, 1, 0], "kind": "aif"}, [])
    assert picker.voxels == ((3, 1, 0),)
    view._answer(view, {"do": "undo"}, [])
    assert picker.voxels == ()
    view._answer(view, {"do": "pick", "voxel": [30, 1, 0], "kind": "aif"}, [])
    assert view.state["problem"] and "inside the volume" in view.state["summary"]
