"""Arteries are found where arteries are, and nothing is invented where they are not."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from perfkit import aif as aif_module
from perfkit import arteries
from perfkit.aif import brain_mean_aif, expert_aif, partial_volume_factor, select_aif, select_vof, voxel_aif
from perfkit.annotations import Pick
from perfkit.curves import arrival_time, bolus_onset
from perfkit.phantom import make_case
from perfkit.preprocessing import prepare


def bolus(t, onset, width, peak):
    """Gamma variate with alpha 3, written out here to owe nothing to the package."""
    s = np.clip(t - onset, 0, None) / width
    return peak * (s / 3) ** 3 * np.exp(3 - s)


@pytest.fixture
def scan():
    """A prepared scan: tissue, an artery of 4 × 2 voxels, a larger and later vein, one wild voxel."""
    return make_scan()


def make_scan(shape=(24, 24, 2), n_frames=50, dt=1.0, seed=0):
    random = np.random.default_rng(seed)
    t = dt * np.arange(n_frames)
    brain = np.zeros(shape, bool)
    brain[2:-2, 2:-2] = True
    concentration = random.normal(0, 0.5, (*shape, n_frames)).astype(np.float32)
    concentration[brain] += bolus(t, 10, 3, 6).astype(np.float32)
    artery, vein = (slice(6, 10), slice(7, 9), 0), (slice(14, 18), slice(14, 18), slice(0, None))
    concentration[artery] = bolus(t, 7, 2.2, 120) + random.normal(0, 1, (4, 2, n_frames))
    concentration[vein] = bolus(t, 13, 2.6, 200) + random.normal(0, 1, (4, 4, shape[2], n_frames))
    concentration[20, 4, 0] = 0
    concentration[20, 4, 0, 2] = 900  # a spike the median of three frames removes
    return SimpleNamespace(
        id="scan", concentration=concentration, brain=brain, dt=dt, n_baseline=6, artery=artery, vein=vein
    )


def inside(voxels, region, shape):
    mask = np.zeros(shape, bool)
    mask[region] = True
    return mask[tuple(voxels.T)]


def test_the_artery_is_found_and_its_curve_is_the_measured_mean(scan):
    found = select_aif(scan)
    assert len(found.voxels) == 8
    assert inside(found.voxels, scan.artery, scan.brain.shape).all()
    np.testing.assert_allclose(found.curve, scan.concentration[scan.artery].mean(axis=(0, 1)), rtol=1e-5)
    assert found.notes == ()


def test_the_vein_is_found_after_it(scan):
    vof = select_vof(scan, select_aif(scan))
    assert inside(vof.voxels, scan.vein, scan.brain.shape).all()
    assert vof.method == "vof"
    assert vof.time_to_peak - select_aif(scan).time_to_peak == pytest.approx(7, abs=1)


def test_tissue_does_not_pass_for_a_vein(scan):
    artery = select_aif(scan)
    assert select_vof(scan, artery).notes == ()
    scan.concentration[scan.vein] = scan.concentration[2:6, 2:6, :]
    notes = " ".join(select_vof(scan, artery).notes)
    assert "It is weak" in notes and "It is no vein: it peaks at" in notes


def test_a_vein_that_the_scan_cuts_off_says_so(scan):
    artery = select_aif(scan)
    cut = SimpleNamespace(**vars(scan) | {"concentration": scan.concentration[..., :25]})
    vof = select_vof(cut, replace(artery, curve=artery.curve[:25]))
    assert inside(vof.voxels, scan.vein, scan.brain.shape).all()
    end = vof.curve[-3:].mean() / vof.peak
    assert vof.notes == (f"It is truncated: it ends at {end:.0%} of its peak.",) and end > 0.3


def test_the_partial_volume_factor_is_the_ratio_of_areas(scan):
    aif = select_aif(scan)
    vof = select_vof(scan, aif)
    assert partial_volume_factor(aif, vof) == pytest.approx(200 * 2.6 / (120 * 2.2), rel=0.05)
    cut = aif_module.AIF(vof.curve[:23], vof.voxels, 1.0, "vof")
    assert np.isnan(partial_volume_factor(aif, cut))


@pytest.mark.parametrize(("n_frames", "dt", "slices"), [(12, 4.0, 2), (25, 2.0, 1), (90, 0.5, 3)])
def test_any_frame_count_interval_and_slice_count(n_frames, dt, slices):
    scan = make_scan((24, 24, slices), n_frames, dt)
    assert inside(select_aif(scan).voxels, scan.artery, scan.brain.shape).all()


def test_selection_ignores_the_scale_of_the_contrast(scan):
    voxels = select_aif(scan).voxels
    scan.concentration = scan.concentration * 0.25
    np.testing.assert_array_equal(select_aif(scan).voxels, voxels)


def test_a_lone_artery_voxel_is_taken_with_a_note(scan):
    scan.concentration[scan.artery] = scan.concentration[2, 3, 0]
    scan.concentration[scan.vein] = scan.concentration[2, 4, 1]
    scan.concentration[8, 8, 0] = bolus(np.arange(50.0), 7, 2.2, 120)
    found = select_aif(scan, percentile=99.8)
    assert found.voxels.tolist() == [[8, 8, 0]]
    assert "relaxed" in found.notes[0] and "rests on" not in " ".join(found.notes)  # clear of all noise
    scan.concentration[8, 8, 0] = bolus(np.arange(50.0), 7, 2.2, 18)
    scan.concentration[8, 8, 0] += np.random.default_rng(0).normal(0, 4, 50)
    found = select_aif(scan, percentile=99.8)
    assert found.voxels.tolist() == [[8, 8, 0]]
    assert any("It rests on 1 voxel and peaks at" in note for note in found.notes)


def test_a_truncated_bolus_still_gives_a_flagged_answer(scan):
    scan.concentration = scan.concentration[..., :12]
    assert "relaxed" in " ".join(select_aif(scan).notes)


def test_a_head_that_moves_late_does_not_pass_for_an_artery(scan):
    rim = scan.brain & ~np.roll(scan.brain, 2, axis=0)
    scan.concentration[rim, 36:41] += 400
    assert inside(select_aif(scan).voxels, scan.artery, scan.brain.shape).all()


def test_arteries_of_phantoms_are_found():
    good = []
    for number in range(1, 11):
        case = make_case(7, number, size="tiny")
        prepared = prepare(case)
        found = select_aif(prepared)
        tissue = prepared.concentration[prepared.tissue].mean(axis=0)
        early = arrival_time(found.curve, case.dt) < arrival_time(tissue, case.dt)
        good.append(early and np.corrcoef(found.curve, case.truth["aif"])[0, 1] > 0.85)
    assert np.mean(good) >= 0.8


def test_a_weak_artery_is_flagged(scan):
    scan.concentration *= 0.1
    found = select_aif(scan)
    assert found.flagged and any("weak: it peaks at 11.9 HU" in note for note in found.notes)


@pytest.mark.parametrize(("rise", "enough"), [(0.05, False), (0.45, False), (0.6, True)])
def test_a_bump_that_is_no_contrast_is_refused_however_quiet_the_mean(rise, enough):
    """A brain-wide bump under 5 HU of noise; 40 000 voxels leave 0.025 HU of it in their mean."""
    noise = np.random.default_rng(0).normal(0, 5, (200, 200, 1, 50))
    brain = np.ones((200, 200, 1), bool)
    series = (noise + bolus(np.arange(50.0), 10, 3, rise)).astype(np.float32)
    scan = SimpleNamespace(id="scan", concentration=series, brain=brain, dt=1.0)
    if enough:
        assert len(aif_module.brain_curves(scan).curves) == 40_000
    else:
        with pytest.raises(ValueError, match=r"scan: contrast must arrive.*rise by 0\.5 HU"):
            aif_module.brain_curves(scan)


@pytest.mark.parametrize("prepared", [True, False])
def test_every_aif_of_a_scan_that_starts_inside_the_bolus_says_so(prepared):
    case = make_case(7, 1, size="tiny")
    cut = bolus_onset(case.ctp[case.brain].mean(axis=0), case.dt) / case.dt
    late = replace(case, ctp=case.ctp[..., int(cut) + 1 :], core=None, truth={})
    for scan, inside in ((case, False), (late, True)):
        found, _ = aif_module.select_each(prepare(scan) if prepared else scan)
        assert len(found) >= 5
        for one in found.values():
            assert ("No frame before the bolus: the scan starts inside it." in one.notes) is inside


@pytest.mark.parametrize("noise", [0, 3])
def test_a_brain_without_enhancement_is_refused(scan, noise):
    random = np.random.default_rng(1)
    scan.concentration = random.normal(0, noise, scan.concentration.shape).astype(np.float32)
    with pytest.raises(ValueError, match="scan: contrast must arrive"):
        select_aif(scan)


def test_methods_that_are_not_there_are_said_to_be_so(scan):
    with pytest.raises(ValueError, match="'stroka' came"):
        select_aif(scan, method="stroka")


@pytest.mark.parametrize("what", [None, "case_1", np.ones((3, 3, 3, 20))])
def test_what_is_no_scan_is_refused(what):
    with pytest.raises(TypeError, match="in a Case or a prepared scan"):
        select_aif(what)


def test_picked_voxels_become_their_mean_curve(scan):
    pick = Pick("scan", ((6, 7, 0), (7, 7, 0)))
    found = expert_aif(scan, {"scan": pick})
    np.testing.assert_allclose(found.curve, scan.concentration[6:8, 7, 0].mean(axis=0), rtol=1e-6)
    assert found.method == "expert" and found.notes == ()


def test_a_pick_outside_the_brain_is_read_as_measured_or_refused(scan):
    picks = {"scan": Pick("scan", ((0, 0, 0), (6, 7, 0)))}
    with pytest.raises(ValueError, match=r"outside the brain mask, \[\[0, 0, 0\]\].*case="):
        expert_aif(scan, picks)
    case = SimpleNamespace(ctp=np.round(scan.concentration * 3 + 40).astype(np.int16))
    found = expert_aif(scan, picks, case)
    raw = case.ctp[0, 0, 0] - case.ctp[0, 0, 0, :6].mean()
    np.testing.assert_allclose(found.curve, (raw + scan.concentration[6, 7, 0]) / 2, rtol=1e-4, atol=1e-4)
    assert "as measured" in found.notes[0]


def test_an_expert_is_never_invented(scan):
    with pytest.raises(ValueError, match="No AIF was picked for scan: the picks hold case_1"):
        expert_aif(scan, {"case_1": Pick("case_1", ((0, 0, 0),))})


def test_a_voxel_outside_the_volume_is_refused(scan):
    with pytest.raises(ValueError, match=r"\[24, 0, 0\] does not"):
        voxel_aif(scan.concentration, [(1, 1, 1), (24, 0, 0)], 1.0)
    with pytest.raises(ValueError, match="at least one voxel"):
        voxel_aif(scan.concentration, [], 1.0)


def test_the_brain_mean_is_the_mean_of_the_brain(scan):
    np.testing.assert_allclose(
        brain_mean_aif(scan).curve, scan.concentration[2:-2, 2:-2].mean((0, 1, 2)), rtol=1e-4
    )


def test_a_comparison_sees_shape_not_height(scan):
    found = {"automatic": select_aif(scan), "control": brain_mean_aif(scan)}
    table = aif_module.compare(found, bolus(np.arange(50.0), 7, 2.2, 500))
    assert table.loc["automatic", "correlation"] > 0.999 and table.loc["automatic", "rmse"] < 0.02
    assert table.loc["control", "correlation"] < 0.95
    assert table.loc["automatic", "time_to_peak"] == pytest.approx(7 + 3 * 2.2, abs=0.2)
    assert list(table["voxels"]) == [8, 0]
    assert "rmse" not in aif_module.compare(found)


def test_median_and_arrival_by_hand():
    curve = np.array([[0, 0, 9, 0, 1, 3, 5, 4, 2.0]])
    smooth = arteries.filtered(curve, 1.0)
    assert smooth.tolist() == [[0, 0, 0, 1, 1, 3, 4, 4, 2]]
    assert arteries.arrival_frame(smooth, smooth.max(axis=1)) == [2]  # 0 <= .8 < 1


def test_every_method_is_asked_once_and_a_refusal_keeps_its_reason(scan, monkeypatch):
    def refuse(series):
        raise ValueError("no artery here")

    monkeypatch.setitem(aif_module.METHODS, "shi", refuse)
    found, refused = aif_module.select_each(scan, ["rausch", "shi", "straka"])
    assert list(found) == ["rausch", "straka"] and refused == {"shi": "no artery here"}
    alone = select_aif(scan, "rausch")
    assert np.array_equal(found["rausch"].curve, alone.curve)
    with pytest.raises(ValueError, match="vanilla"):
        aif_module.select_each(scan, ["vanilla"])
