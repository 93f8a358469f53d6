"""The phantom: its physics against slow oracles, its cohort against facts of real scans, its tree on disk."""

import ast
import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from scipy.integrate import quad

from perfkit import anatomy, annotations, forward, lesion, phantom, recipe, scanner
from perfkit.metrics import dice
from perfkit.recipe import draw_recipe

MADE_OF = ("phantom", "kudo", "anatomy", "forward", "lesion", "recipe", "scanner", "layout")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def case():
    return phantom.make_case(0, 3, size="tiny")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return phantom.write_cohort(
        tmp_path_factory.mktemp("cohorts") / "tiny", 3, 5, size="tiny", five_d=0.3, progress=False
    )


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


# Forward model


@pytest.mark.parametrize("family", forward.FAMILIES)
def test_residue_integrates_to_the_transit_time(family):
    for mtt in (1.5, 4.0, 15.0):
        assert forward.residue_integral(60 * mtt, mtt, family, 2.3) == pytest.approx(mtt, rel=1e-6)
        assert forward.residue_integral(1e-5, mtt, family, 2.3) == pytest.approx(1e-5, rel=1e-3)  # R(0) = 1
        assert forward.residue_integral(-1.0, mtt, family, 2.3) == 0


def residue(t, mtt, family, shape):
    if family == "exponential":
        return np.exp(-t / mtt)
    if family == "gamma":
        density = lambda s: s ** (shape - 1) * np.exp(-s * shape / mtt)  # noqa: E731
        return quad(density, t, np.inf)[0] / quad(density, 0, np.inf)[0]
    if family == "box":
        return 1.0 if t < 0.6 * mtt else np.exp(-(t - 0.6 * mtt) / (0.4 * mtt))
    return max(0.0, 1 - t / (2 * mtt))


@pytest.mark.parametrize("family", [name for name, _ in recipe.RESIDUES])
def test_tissue_curve_equals_quadrature(family):
    def aif(t):
        return 180 * max(t - 3, 0) ** 3 * np.exp(3 - max(t - 3, 0) / 2) / 6**3

    mtt, shape, frames = 5.3, 2.4, np.array([6.0, 9.0, 14.0, 25.0, 40.0])
    fine = np.array([aif(t) for t in forward.STEP * np.arange(450)])
    curve = forward.tissue_curves(fine, [mtt], family, shape)[0]
    for t in frames:
        breaks = [s for s in (t - 0.6 * mtt, t - 2 * mtt) if 0 < s < t]
        integral = quad(
            lambda s, t=t: aif(s) * residue(t - s, mtt, family, shape), 0, t, points=breaks or None
        )
        expected = 1.04 * 0.75 / 0.55 / 6000 * integral[0]
        assert curve[round(t / forward.STEP)] == pytest.approx(expected, abs=1e-3 * curve.max())


def test_grey_matter_peaks_at_seven_to_eight_hu():
    bolus = forward.Bolus(
        vof_peak=1, fwhm=12.1, onset=7, rise=8.7, lag=6, widening=1.2, second=0.2, second_lag=15, plateau=0.07
    )
    aif = 180 * forward.arterial_input(bolus, 450)
    peak = 53 * forward.tissue_curves(aif, [60 * 3.3 / 53]).max()
    assert 6.8 < peak < 8  # at the median width; a broad bolus comes to 8.4, the blood volume's share


def test_dispersion_delays_by_its_time_and_keeps_the_volume():
    aif = forward.gamma_variate(forward.STEP * np.arange(1500), 5, 3, 2)
    plain, dispersed = (forward.tissue_curves(aif, [4.0], dispersion=theta)[0] for theta in (0, 1.5))
    times = forward.STEP * np.arange(1500)
    assert dispersed.sum() == pytest.approx(plain.sum(), rel=1e-4)
    moments = [(times * c).sum() / c.sum() for c in (plain, dispersed)]
    assert moments[1] - moments[0] == pytest.approx(1.5, abs=0.06)


def test_interpolated_curves_are_within_a_thousandth(rng):
    bolus = forward.Bolus(
        vof_peak=1, fwhm=7, onset=4, rise=5.5, lag=5, widening=1.2, second=0.2, second_lag=14, plateau=0.07
    )
    times = np.arange(40) + 0.03
    aif = forward.arterial_input(bolus, 420)
    worst = []
    for family, _ in recipe.RESIDUES:
        table = forward.CurveTable(times)
        first = table.add(forward.tissue_curves(aif, table.MTT, family, 2.5))
        mtt, delay = rng.uniform(2, 20, 50), rng.uniform(0, 12, 50)
        rows, weights = table.lookup(first, delay, mtt)
        looked_up = table.mix([(rows, weights)])
        exact = forward.tissue_curves(aif, mtt, family, 2.5)
        fine = forward.STEP * np.arange(420)
        exact = np.array([np.interp(times - d, fine, c) for c, d in zip(exact, delay, strict=True)])
        worst.append((np.abs(looked_up - exact).max(axis=1) / exact.max(axis=1)).max())
    assert max(worst) < 1e-3


def test_bolus_is_what_was_asked():
    bolus = forward.Bolus(
        vof_peak=1,
        fwhm=11.3,
        onset=7.6,
        rise=8,
        lag=6.5,
        widening=1.2,
        second=0.2,
        second_lag=15,
        plateau=0.07,
    )
    aif = forward.arterial_input(bolus, 2000)
    vof = forward.venous_output(bolus, aif)
    times = forward.STEP * np.arange(2000)
    assert forward.full_width(aif) == pytest.approx(11.3, abs=0.1)
    assert times[np.argmax(aif > 0.1 * aif.max())] == pytest.approx(7.6, abs=0.2)
    assert times[aif.argmax()] == pytest.approx(15.6, abs=0.5)
    assert times[vof.argmax()] - times[aif.argmax()] == pytest.approx(6.5, abs=0.3)
    assert forward.full_width(vof) / forward.full_width(aif) == pytest.approx(1.2, abs=0.05)
    first_pass = replace(bolus, second=0, plateau=0)  # ends, so that its area is whole
    aif = forward.arterial_input(first_pass, 2000)
    assert forward.venous_output(first_pass, aif).sum() == pytest.approx(aif.sum(), rel=1e-6)


# A rendered scan


def test_voxel_curves_equal_a_slow_convolution():
    drawn = draw_recipe(0, 3, size="tiny")
    drawn = replace(
        drawn, vof_peak=20_000.0, noise_hu=0.0, drift_hu=0.0, jitter=0.0
    )  # rounding hardly counts
    made = phantom.render(drawn)
    grid = [
        o + s * (np.arange(n) - (n - 1) / 2)
        for o, s, n in zip(drawn.offset, drawn.spacing, drawn.shape, strict=True)
    ]
    head = anatomy.Head(np.random.default_rng(drawn.head_seed))
    blood = sum(anatomy.vessel_fractions(head, *grid, drawn.spacing[2], veins=v)[0] for v in (True, False))
    away = ndimage.maximum_filter(blood, (9, 9, 1)) == 0
    healthy = away & made.brain & (made.truth["delay"] < 1.5) & (made.truth["cbf"] > 15)
    voxels = np.argwhere(healthy)[:: max(1, healthy.sum() // 8)]
    step = 0.05
    n = round(drawn.n_frames / step)
    fine = forward.arterial_input(forward.Bolus(**drawn.bolus()), drawn.n_frames * 10)
    scale = made.truth["aif"].max() / fine[:: round(1 / forward.STEP)].max()
    aif = scale * np.interp(step * np.arange(n), forward.STEP * np.arange(len(fine)), fine)
    mtts = [60 * v / f for f, v in (drawn.gm, drawn.wm)]
    lags = step * (np.arange(n) + 0.5)
    unit = 1.04 * 0.75 / 0.55 / 6000 * step
    responses = [[residue(t, m, drawn.residue, drawn.residue_shape) for t in lags] for m in mtts]
    for x, y, z in voxels:
        cbf, cbv, delay = (float(made.truth[name][x, y, z]) for name in ("cbf", "cbv", "delay"))
        flows = np.linalg.solve([[1, 1], mtts], [cbf, 60 * cbv])  # of grey and white matter
        response = flows @ responses
        past = np.arange(drawn.n_frames)[:, None] - delay - lags  # (T, lags)
        expected = unit * np.interp(past, step * np.arange(n), aif) @ response
        measured = made.ctp[x, y, z] - made.ctp[x, y, z, 0].astype(float)
        assert measured == pytest.approx(expected - expected[0], abs=1e-3 * max(expected) + 1.0)
    assert len(voxels) >= 5


def test_truth_is_consistent(case):
    truth = case.truth
    inside = case.brain & (truth["cbf"] > 1)
    assert truth["mtt"][inside] == pytest.approx(60 * truth["cbv"][inside] / truth["cbf"][inside], rel=1e-4)
    assert (truth["delay"][truth["core"]] > 6).all()
    assert (truth["delay"][truth["penumbra"]] > 6).all()
    assert not (truth["core"] & truth["penumbra"]).any()
    assert not (truth["core"] & ~case.brain).any()
    assert not (case.core & ~case.brain).any()
    assert truth["mtt"].max() <= 15.001
    assert {"aif", "vof", "cbf", "cbv", "mtt", "delay", "core", "penumbra"} <= set(truth)


def test_core_has_less_than_a_third_of_its_healthy_flow():
    drawn = draw_recipe(0, 3, size="tiny")
    ill = phantom.render(drawn)
    well = phantom.render(replace(drawn, core_ml=0.0, mismatch=0.0))
    ratio = ill.truth["cbf"] / np.maximum(well.truth["cbf"], 1e-3)
    worst = well.truth["delay"] > 3  # what little lesion remains there
    assert (ratio[ill.truth["core"] & ~worst] < 0.301).all()
    assert (ratio[ill.truth["penumbra"] & ~worst] > 0.299).all()


def test_lesion_has_the_drawn_volume_where_it_fits():
    for number in range(1, 9):
        drawn = draw_recipe(1, number, size="tiny")
        made = phantom.render(drawn)
        core_ml, label_ml = (mask.sum() * made.voxel_ml for mask in (made.truth["core"], made.core))
        assert label_ml == pytest.approx(core_ml, abs=1e-6)
        assert core_ml <= drawn.core_ml + 2 * made.voxel_ml
        if drawn.core_ml < 25:
            assert core_ml == pytest.approx(drawn.core_ml, abs=2 * made.voxel_ml)
        x = np.argwhere(made.truth["core"])[:, 0] * drawn.spacing[0] + made.affine[0, 3]
        assert np.sign(x.mean()) == drawn.side


def test_head_looks_like_ct(case):
    baseline = case.ctp[..., :3].mean(axis=-1)
    corner = np.zeros(case.brain.shape, bool)
    corner[:3, :3] = True
    assert (case.ctp[corner] == -1000).all()
    assert 20 < np.median(baseline[case.brain]) < 45
    full = phantom.make_case(0, 3, size="full", n_slices=1, n_frames=10).ctp[..., 0]
    assert 600 < np.quantile(full, 0.99) < 1200  # the skull's ring is some percent of the image
    assert case.ctp.dtype == np.int16


def test_noise_has_its_size_and_correlation(rng):
    noise = scanner.correlated_noise(rng, (20, 100, 100))
    assert noise.std() == pytest.approx(1, abs=0.01)
    for shifted in (noise[:, 1:] * noise[:, :-1], noise[..., 1:] * noise[..., :-1]):
        assert shifted.mean() == pytest.approx(0.36, abs=0.01)  # a Gaussian of σ .7 px
    assert abs((noise[1:] * noise[:-1]).mean()) < 0.01
    made, clean = (
        phantom.make_case(2, size="tiny", noise=flag).ctp[..., :3].astype(float) for flag in (True, False)
    )
    drawn = draw_recipe(2, size="tiny")
    brain = phantom.make_case(2, size="tiny").brain
    assert (made[..., 0] - made[..., 1])[brain].std() == pytest.approx(np.sqrt(2) * drawn.noise_hu, rel=0.15)
    assert np.ptp(clean[brain][:, :2] - clean[brain][:, :1]) <= 1


def test_motion_shifts_and_turns_the_picture():
    picture = np.zeros((31, 31), np.float32)
    picture[15, 20] = 1
    assert np.argwhere(scanner.moved(picture, (2.0, 0, 0), (1.0, 1.0, 5.0)) > 0.5).tolist() == [[15, 22]]
    assert np.argwhere(scanner.moved(picture, (0, 4.0, 0), (2.0, 2.0, 5.0)) > 0.5).tolist() == [[17, 20]]
    turned = np.argwhere(scanner.moved(picture, (0, 0, 90.0), (1.0, 1.0, 5.0)) > 0.5)
    assert np.abs(turned - 15).max() == 5 and 20 not in turned[:, 1]


def test_warp_is_inverted(rng):
    head = anatomy.Head(rng)
    points = rng.uniform(-60, 60, (50, 3))
    patient = head.to_patient(points)
    back = [[float(c[0, 0, 0]) for c in head.to_template(*p[:, None])] for p in patient]
    assert np.abs(np.array(back) - points).max() < 0.05  # mm


def test_territories_share_the_brain(rng):
    x, y, z = rng.uniform(-70, 70, (3, 1000))
    weights = anatomy.territory(x, y, z)
    assert sum(weights.values()) == pytest.approx(np.ones(1000), abs=1e-5)
    assert anatomy.territory(*np.array([[50.0], [0.0], [10.0]]))["MCA"] > 0.9
    assert anatomy.territory(*np.array([[3.0], [40.0], [20.0]]))["ACA"] > 0.9
    assert anatomy.territory(*np.array([[10.0], [-85.0], [5.0]]))["PCA"] > 0.9


def test_vessels_hold_their_volume():
    head = anatomy.Head(np.random.default_rng(4))
    grid = [np.arange(-100.0, 100, 2.0), np.arange(-130.0, 90, 2.0), np.arange(-70.0, 90, 4.0)]
    fraction, delay = anatomy.vessel_fractions(head, *grid, 4.0, veins=False)
    tree = anatomy.vessel_tree()
    radius = tree.radius[~tree.vein] * head.radius_scale
    volume = (np.pi * radius**2 * anatomy.TUBE_STEP_MM).sum()
    assert fraction.sum() * 16 == pytest.approx(volume, rel=0.1)  # overlaps are counted once
    assert delay.min() >= 0 and delay.max() <= 1.5


# The simulated rater


def test_rater_picks_an_early_artery_and_a_sinus():
    for number in range(1, 7):
        made = phantom.make_case(0, number, size="tiny", noise=False)
        (aif,), (vof,) = (made.truth[name] for name in ("rater_voxels", "rater_vof_voxels"))
        artery, vein = (made.ctp[tuple(v)].astype(float) - made.ctp[(*v, 0)] for v in (aif, vof))
        tissue = made.ctp[made.truth["cbf"] > 10].mean(axis=0, dtype=float)
        assert artery.argmax() <= tissue.argmax() + 1
        assert vein.argmax() > artery.argmax()
        assert artery.max() < made.truth["aif"].max()


def test_rater_slips_as_real_raters_do(monkeypatch):
    head = anatomy.Head(np.random.default_rng(1))
    grid = [0.9 * (np.arange(256) - 127.5), 0.9 * (np.arange(256) - 127.5) - 18, np.array([-10.0, 1.0])]
    artery, delay = anatomy.vessel_fractions(head, *grid, 11.0, veins=False)
    artery = ndimage.gaussian_filter(artery, (0.7, 0.7, 0))

    def picks():
        wishes = np.random.default_rng(2).uniform(0.1, 0.6, 80)
        return np.array(
            [
                scanner.simulated_rater(artery, delay, artery, wish, np.random.default_rng(k))[0][0]
                for k, wish in enumerate(wishes)
            ]
        )

    slipped = picks()
    monkeypatch.setattr(scanner, "SAME_VOXEL", 1.0)
    away = np.hypot(*(slipped - picks())[:, :2].T)
    assert np.mean(away == 0) == pytest.approx(50 / 156, abs=0.12)  # two raters of ISLES 2018
    assert np.median(away) == pytest.approx(1.4, abs=1.0)
    assert np.mean(away) == pytest.approx(20, rel=0.5)


# Recipes: the cohort against docs/science.md §7


@pytest.fixture(scope="module")
def recipes():
    return [draw_recipe(11, number, size="full") for number in range(1, 377)]  # four times the cohort


def test_full_cohort_is_that_of_isles_2018():
    scans = [draw_recipe(3, number, size="full") for number in range(1, 95)]
    counts = Counter((r.shape[2], r.n_frames) for r in scans)
    assert counts == {(2, 43): 15, (2, 45): 2, (2, 46): 29, (2, 49): 5, (4, 43): 11, (4, 44): 8, (8, 49): 9,
                      (16, 53): 9, (16, 64): 4, (22, 61): 2}  # fmt: skip
    patients = Counter(r.patient for r in scans)
    assert (len(patients), sum(n == 2 for n in patients.values())) == (63, 31)
    assert all(r.shape[:2] == (256, 256) and 0.8 <= r.spacing[0] <= 1.0 for r in scans)


def test_two_slabs_share_the_patient_and_touch(recipes):
    by_patient = {}
    for r in recipes:
        by_patient.setdefault(r.patient, []).append(r)
    pairs = [p for p in by_patient.values() if len(p) == 2]
    for a, b in pairs:
        assert (a.slab, b.slab) == ("A", "B")
        for name in ("head_seed", "shape", "n_frames", "spacing", "side", "occlusion", "gm", "wm", "residue"):
            assert getattr(a, name) == getattr(b, name)
        assert a.scan_seed != b.scan_seed and a.vof_peak != b.vof_peak
        assert b.offset[2] - a.offset[2] == pytest.approx(a.shape[2] * a.spacing[2])
    assert len(pairs) == 4 * 31


def test_a_cohort_is_the_beginning_of_a_larger_one():
    assert draw_recipe(3, 7) == draw_recipe(3, 7)
    assert draw_recipe(3, 7) != draw_recipe(4, 7)
    assert draw_recipe(3, 95, size="full").patient == 64  # a second block of 63


@pytest.fixture(scope="module")
def boluses(recipes):
    """Per recipe: VOF peak, FWHM, onset, rise, lag, widening, tails at the end of the scan, AIF peak."""
    rows = []
    for r in recipes[:250]:
        times = np.arange(r.n_frames, dtype=float)
        aif, vof = phantom._bolus_curves(r, times)
        fine = forward.STEP * np.arange(len(aif))
        end = np.searchsorted(fine, times[-1])
        onset = fine[np.argmax(aif > 0.1 * aif.max())]
        rows.append(
            {
                "vof_peak": np.interp(times, fine, vof).max(),
                "fwhm": forward.full_width(aif),
                "onset": onset,
                "rise": fine[aif.argmax()] - onset,
                "lag": fine[vof.argmax()] - fine[aif.argmax()],
                "widening": forward.full_width(vof) / forward.full_width(aif),
                "vof_tail": vof[end] / vof.max(),
                "aif_tail": aif[end] / aif.max(),
                "measured_peak": r.partial_volume * aif.max(),
            }
        )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize(
    ("name", "p5", "p50", "p95", "tolerance"),
    [
        ("vof_peak", 61, 148, 397, 0.25),
        ("fwhm", 8.8, 11.3, 19.5, 0.15),
        ("measured_peak", 16, 40, 215, 0.45),  # the real distribution is more skewed than its two fits
    ],
)
def test_bolus_quantiles(boluses, name, p5, p50, p95, tolerance):
    assert np.quantile(boluses[name], (0.05, 0.5, 0.95)) == pytest.approx([p5, p50, p95], rel=tolerance)


@pytest.mark.parametrize(
    ("name", "mean", "sd"),
    [("onset", 7.6, 3.7), ("rise", 8.7, 2.0), ("lag", 6.5, 1.8), ("vof_tail", 0.32, 0.17)],
)
def test_bolus_means(boluses, name, mean, sd):
    assert boluses[name].mean() == pytest.approx(mean, abs=0.6 * sd)
    assert boluses[name].std() == pytest.approx(sd, rel=0.3)


def test_bolus_relations(boluses):
    assert np.corrcoef(np.log(boluses["fwhm"]), boluses["onset"])[0, 1] == pytest.approx(0.61, abs=0.12)
    assert np.median(np.log(boluses["widening"])) == pytest.approx(0.165, abs=0.04)
    assert boluses["onset"].min() + 0.2 >= 3 and boluses["onset"].max() < 15.3
    assert 0.05 < boluses["aif_tail"].mean() < 0.3
    assert 0.15 < (boluses["vof_tail"] > 0.3).mean() < 0.5  # 39 % of the real ones are cut there


def test_drawn_quantiles(recipes):
    volumes = [r.core_ml for r in recipes]
    assert np.quantile(volumes, (0.05, 0.5, 0.95)) == pytest.approx([2.7, 16.6, 97], rel=0.3)
    assert min(volumes) >= 0.78
    mixed = [r.partial_volume for r in recipes]
    assert np.quantile(mixed, (0.05, 0.5, 0.95)) == pytest.approx([0.10, 0.28, 0.81], rel=0.25)
    for name, shares in (("residue", recipe.RESIDUES), ("occlusion", recipe.OCCLUSIONS)):
        seen = Counter(getattr(r, name) for r in recipes)
        for kind, share in shares:
            assert seen[kind] / len(recipes) == pytest.approx(share, abs=0.09)
    assert np.mean([bool(r.moved) for r in recipes]) == pytest.approx(0.05, abs=0.035)
    assert all(2 <= r.noise_hu <= 5 and 0.5 <= r.psf_px <= 0.8 for r in recipes)
    assert np.mean([r.side > 0 for r in recipes]) == pytest.approx(0.5, abs=0.1)


def test_measured_arteries_are_partial_volumed_as_real_ones():
    ratios = []
    for number in range(1, 13):
        made = phantom.make_case(3, number, size="small", n_slices=2, noise=False)
        curve = made.ctp[tuple(made.truth["rater_voxels"][0])].astype(float)
        ratios.append((curve - curve[0]).sum() / made.truth["vof"].sum())
    assert 0.15 < np.median(ratios) < 0.45
    assert min(ratios) < 0.25 and max(ratios) > 0.35


def test_labels_disagree_as_images_do():
    cases = [phantom.make_case(2, number, size="small", n_slices=2, noise=False) for number in range(1, 11)]
    best = [dice(c.core, c.truth["core"]) for c in cases]
    assert 0.52 < np.mean(best) < 0.75
    assert max(best) < 0.9


# Arguments


def test_same_seed_same_scan(case):
    again, other = phantom.make_case(0, 3, size="tiny"), phantom.make_case(1, 3, size="tiny")
    assert np.array_equal(case.ctp, again.ctp) and np.array_equal(case.core, again.core)
    assert not np.array_equal(case.ctp, other.ctp[: len(case.ctp)]) or case.ctp.shape != other.ctp.shape


def test_acquisition_can_be_asked_for():
    made = phantom.make_case(0, size="tiny", n_slices=1, n_frames=15, dt=2.5)
    assert made.ctp.shape == (48, 48, 1, 15)
    assert made.dt == 2.5
    times = made.truth["frame_times"]
    assert np.abs(times - 2.5 * np.arange(15)).max() <= 0.1
    half = phantom.make_case(0, size="tiny", dt=0.5)
    assert half.n_frames * 0.5 == pytest.approx(phantom.make_case(0, size="tiny").n_frames)  # the same time


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"size": "huge"}, ValueError, "tiny, small, full"),
        ({"size": []}, ValueError, "tiny, small, full"),
        ({"seed": -1}, ValueError, "at least 0"),
        ({"seed": 1.5}, TypeError, "whole number"),
        ({"seed": True}, TypeError, "whole number"),
        ({"case": 0}, ValueError, "at least 1"),
        ({"n_frames": 9}, ValueError, "at least 10"),
        ({"n_slices": 0}, ValueError, "at least 1"),
        ({"dt": 0}, ValueError, "between 0.1 and 5"),
        ({"dt": float("nan")}, ValueError, "between 0.1 and 5"),
        ({"dt": "1"}, TypeError, "seconds"),
    ],
)
def test_make_case_refuses_in_words(wrong, error, words):
    with pytest.raises(error, match=words):
        phantom.make_case(**({"seed": 0} | wrong))


# The tree on disk


def test_tree_is_that_of_isles_2018(cohort):
    for number in (1, 2, 3):
        folders = sorted((cohort / "TRAINING" / f"case_{number}").iterdir())
        kinds = {folder.name.split(".")[4] for folder in folders}
        assert kinds == {"CT", "CT_4DPWI", "CT_CBF", "CT_CBV", "CT_MTT", "CT_Tmax", "OT"}
        assert all([p.name for p in f.iterdir()] == [f"{f.name}.nii.gz"] for f in folders)
    types = {"CT": "int32", "CT_4DPWI": "int16", "CT_CBF": "uint16", "CT_CBV": "uint16", "CT_MTT": "float64",
             "CT_Tmax": "float64", "OT": "uint8"}  # fmt: skip
    for kind, dtype in types.items():
        (path,) = (cohort / "TRAINING" / "case_1").glob(f"*.{kind}.*/*.nii.gz")
        image = nibabel.load(path)
        assert image.get_data_dtype() == dtype
        assert image.header.get_xyzt_units() == ("mm", "sec")


def test_files_hold_the_case(cohort):
    for number in (1, 2, 3):
        made = phantom.make_case(5, number, size="tiny")
        folder = cohort / "TRAINING" / f"case_{number}"

        def load(kind, folder=folder):
            return nibabel.load(next(folder.glob(f"*.{kind}.*/*.nii.gz")))

        series = load("CT_4DPWI")
        assert np.array_equal(np.asarray(series.dataobj).reshape(made.ctp.shape), made.ctp)
        assert series.header["pixdim"][4 if series.ndim == 4 else 5] == made.dt
        assert series.affine == pytest.approx(made.affine, abs=1e-3)
        assert np.array_equal(np.asarray(load("OT").dataobj), made.core)
        for kind, name, step in (("CT_CBF", "cbf", 0.1), ("CT_CBV", "cbv", 0.01), ("CT_Tmax", "delay", 1e-6)):
            assert load(kind).get_fdata() == pytest.approx(made.truth[name], abs=0.51 * step)
        for name in ("cbf", "core", "penumbra"):
            stored = nibabel.load(cohort / "truth" / f"case_{number}" / f"{name}.nii.gz").get_fdata()
            assert stored == pytest.approx(made.truth[name].astype(float))
        noted = json.loads((cohort / "truth" / f"case_{number}" / "truth.json").read_text())
        assert noted["aif"] == pytest.approx(made.truth["aif"], abs=1e-3)
        assert noted["recipe"]["residue"] == draw_recipe(5, number, size="tiny").residue
    dimensions = {nibabel.load(p).ndim for p in cohort.glob("TRAINING/*/*4DPWI*/*")}
    assert dimensions == {4, 5}


def test_tables_stand_beside(cohort):
    with (cohort / "patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    drawn = [draw_recipe(5, number, size="tiny") for number in (1, 2, 3)]
    assert [(r["case"], r["patient"], r["slab"]) for r in rows] == [
        (f"case_{r.case}", f"patient_{r.patient}", r.slab) for r in drawn
    ]
    picks = annotations.latest(cohort / "aif" / "simulated-rater.csv")
    made = phantom.make_case(5, 2, size="tiny")
    assert picks["case_2"].voxels == (tuple(made.truth["rater_voxels"][0]),)
    assert picks["case_2"].vof_voxels == (tuple(made.truth["rater_vof_voxels"][0]),)
    noted = json.loads((cohort / "cohort.json").read_text())
    assert (noted["size"], noted["seed"], noted["n"], noted["finished"]) == ("tiny", 5, 3, True)
    assert not [p for p in cohort.rglob("*") if ".tmp" in p.name]


def test_bytes_do_not_depend_on_workers_or_interruptions(cohort, tmp_path, monkeypatch):
    folder = tmp_path / "again"
    options = {"size": "tiny", "five_d": 0.3, "progress": False, "workers": 1}
    rendered = []
    original = phantom.render

    def failing(drawn):
        rendered.append(drawn.case)
        if rendered == [1, 2]:
            raise KeyboardInterrupt
        return original(drawn)

    monkeypatch.setattr(phantom, "render", failing)
    with pytest.raises(KeyboardInterrupt):
        phantom.write_cohort(folder, 3, 5, **options)
    assert not (folder / "cohort.json").exists()
    phantom.write_cohort(folder, 3, 5, **options)
    assert (rendered.count(1), rendered.count(2)) == (1, 2)  # the finished case was kept
    assert contents(folder) == contents(cohort)


def test_cohort_grows_and_mends(tmp_path):
    options = {"size": "tiny", "n_slices": 1, "n_frames": 12, "progress": False, "compress": False}
    folder = phantom.write_cohort(tmp_path / "c", 1, 2, **options)
    before = contents(folder)
    phantom.write_cohort(folder, 2, 2, **options)
    after = contents(folder)
    kept = [name for name in before if "case_1" in name]
    assert len(kept) == 15 and all(before[name] == after[name] for name in kept)
    next(folder.glob("TRAINING/case_2/*OT*/*.nii")).unlink()
    phantom.write_cohort(folder, 2, 2, **options)
    assert contents(folder) == after
    with pytest.raises(ValueError, match="beyond case_1"):
        phantom.write_cohort(folder, 1, 2, **options)


def test_write_cohort_refuses_in_words(cohort, tmp_path):
    for wrong, error, words in (
        ({"n": 0}, ValueError, "n must be at least 1"),
        ({"n": 2.0}, TypeError, "n must be a whole number"),
        ({"size": "big"}, ValueError, "tiny, small, full"),
        ({"seed": 6}, ValueError, "another phantom cohort.*seed 5 there, 6 asked"),
        ({"size": "small"}, ValueError, "another phantom cohort"),
        ({"five_d": 2}, ValueError, "between 0 and 1"),
        ({"workers": 0}, ValueError, "workers"),
    ):
        with pytest.raises(error, match=words):
            phantom.write_cohort(**({"folder": cohort, "n": 3, "seed": 5, "size": "tiny"} | wrong))
    (tmp_path / "letter.txt").write_text("hello")
    with pytest.raises(ValueError, match="holds other files"):
        phantom.write_cohort(tmp_path, 1, size="tiny")
    with pytest.raises(OSError, match="is a file"):
        phantom.write_cohort(tmp_path / "letter.txt", 1, size="tiny")
    with pytest.raises(OSError):
        phantom.write_cohort("/proc/nowhere", 1, size="tiny")


# Honesty


@pytest.mark.parametrize("module", MADE_OF)
def test_no_inverse_crime(module):
    """What makes the phantom shares no code with what is tested on it."""
    tree = ast.parse((Path(phantom.__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    imported = {
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    } | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    ours = {name.split(".")[1] for name in imported if name.startswith("perfkit.")}
    assert ours <= {*MADE_OF, "case", "annotations", "parallel"}


@pytest.mark.slow
def test_rendered_lesions_are_as_large_as_real_ones():
    made = (phantom.make_case(0, number, size="small", noise=False) for number in range(1, 95))
    volumes = [case.core.sum() * case.voxel_ml for case in made]
    assert np.quantile(volumes, (0.05, 0.5, 0.95)) == pytest.approx([2.7, 16.6, 97], rel=0.35)


@pytest.mark.slow
def test_expert_lands_where_real_experts_do():
    from perfkit.arms import rcbf_map
    from perfkit.evaluation import score
    from perfkit.masks import brain_mask
    from perfkit.preprocessing import prepare

    scores = []
    for number in range(1, 41):
        made = phantom.make_case(0, number, size="small")
        made = replace(made, brain=brain_mask(made.ctp[..., :3].mean(axis=-1), made.spacing))
        prepared = prepare(made)
        aif = prepared.concentration[tuple(made.truth["rater_voxels"][0])]
        scores.append(score(prepared, rcbf_map(prepared, aif)))
    assert 0.3 < np.mean([s["dice"] for s in scores]) < 0.5
    assert 0.80 < np.mean([s["roc_auc"] for s in scores]) < 0.93


def test_severity_follows_its_rule():
    s = np.array([0, 0.05, lesion.PENUMBRA_EDGE, lesion.CORE_EDGE, 1.0])
    assert lesion.lesion_delay(s) == pytest.approx([0, 1.675, 6, 3 + 7 * 0.7 / 0.9, 10])
    assert lesion.slowed(4.0, s)[[0, -1]] == pytest.approx([4, 10])
    assert lesion.slowed(9.0, 1.0) == 15 and lesion.slowed(20.0, 1.0) == 20
    assert pytest.approx(0.30) == 1 - 0.9 * lesion.CORE_EDGE
