"""Changes of a scan that leave its tissue alone, and the table of what they do to the arms."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import signal

from perfkit import arms, perturbations, phantom, robustness
from perfkit.perturbations import perturb, room
from perfkit.preprocessing import Prepared, prepare
from perfkit.recipe import draw_recipe

T, DT = 70, 1.0
ONSET, PEAK_AFTER = 6, 8


def made_scan(n_slices=3, dt=DT, seed=0, noise=0.0):
    """A scan without noise: an artery in the corner of every slice, tissue of three transit times, a core."""
    t = dt * np.arange(T)
    age = np.maximum(t - ONSET, 0)
    aif = 150 * (age / PEAK_AFTER) ** 3 * np.exp(3 * (1 - age / PEAK_AFTER))
    conc = np.zeros((6, 6, n_slices, T), np.float32)
    flow = np.full(conc.shape[:3], 50.0)
    flow[3:, 3:] = 10.0
    for x, y, z in itertools.product(range(6), range(6), range(n_slices)):
        mtt = (4.0, 6.0, 9.0)[(x + y + z) % 3]
        conc[x, y, z] = flow[x, y, z] / 6000 * 1.4 * dt * np.convolve(aif, np.exp(-t / mtt))[:T]
    conc[0, 0] = aif
    brain = np.ones(flow.shape, bool)
    brain[5, 0] = False
    conc[~brain] = 0
    conc[brain] += noise * np.random.default_rng(seed).standard_normal((brain.sum(), T), np.float32)
    tissue = brain.copy()
    tissue[0, 0] = False
    return Prepared(
        id="made", patient="p", concentration=conc, baseline=np.full(flow.shape, 35, np.float32), brain=brain,
        tissue=tissue, reference_tissue=tissue & (flow > 20), sides=np.ones(flow.shape, int), lesion_side=1,
        dt=dt, spacing=np.array([2.0, 2.0, 5.0]), core=flow < 20, n_baseline=ONSET,
        affine=np.array([[-2.0, 0, 0, 90], [0, 2.0, 0.3, -100], [0, -0.3, 5, -40], [0, 0, 0, 1]]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def scan():
    return made_scan()


def artery(scan):
    return scan.concentration[0, 0, 0]


@pytest.mark.parametrize("matrix", ["volterra", "circulant"])
@pytest.mark.parametrize("factor", [0.3, 3.0])
def test_rcbf_without_noise_does_not_feel_the_contrast(scan, matrix, factor):
    changed = perturb(scan, "contrast", factor=factor, noise_free=scan.concentration)
    np.testing.assert_allclose(changed.concentration, factor * scan.concentration, rtol=1e-6)
    before, after = (arms.rcbf_map(s, artery(s), matrix) for s in (scan, changed))
    np.testing.assert_allclose(after, before, atol=2e-5)


@pytest.mark.parametrize("seconds", [-3.0, 5.0])
@pytest.mark.parametrize("known", [True, False])
def test_a_shift_by_whole_frames_rolls_the_curves(scan, seconds, known):
    clean = scan.concentration if known else None
    changed = perturb(scan, "shift", seconds=seconds, noise_free=clean)
    frames = int(seconds)
    rolled = np.roll(scan.concentration, frames, axis=-1)
    kept = slice(frames, None) if frames > 0 else slice(None, frames)
    np.testing.assert_array_equal(changed.concentration[..., kept], rolled[..., kept])
    end = scan.concentration[..., :1] if frames > 0 else scan.concentration[..., -1:]
    filled = changed.concentration[..., :frames] if frames > 0 else changed.concentration[..., frames:]
    np.testing.assert_array_equal(filled, np.broadcast_to(end, filled.shape))
    assert changed.n_baseline == ONSET + frames


def test_known_noise_goes_along_with_the_bolus_and_stays_under_other_changes(scan):
    noisy = made_scan(noise=2.0)
    noise = noisy.concentration - scan.concentration
    moved = perturb(noisy, "shift", seconds=4, noise_free=scan.concentration)
    clean = perturb(scan, "shift", seconds=4, noise_free=scan.concentration)
    left = moved.concentration - clean.concentration
    np.testing.assert_allclose(left, np.roll(noise, 4, -1), atol=2e-5)
    for name, options in (("contrast", {"factor": 3.0}), ("widen", {"width": 3.0})):
        changed, clean = (perturb(s, name, noise_free=scan.concentration, **options) for s in (noisy, scan))
        np.testing.assert_allclose(changed.concentration - clean.concentration, noise, atol=1e-4)


def test_the_bolus_moves_only_as_far_as_the_scan_holds_it(scan):
    peak = int(scan.concentration[scan.brain].mean(axis=0).argmax())
    assert room(scan, -8) == -ONSET and room(scan, -2.9) == -2
    assert room(scan, 8) == 8 and room(scan, 90) == T - 1 - peak - 20
    two = replace(scan, concentration=scan.concentration[..., ::2], dt=2.0, n_baseline=3)
    assert room(two, -5) == -4 and room(two, -20) == -6
    full = replace(scan, n_baseline=0)
    with pytest.raises(ValueError, match="made: the bolus has no room to move earlier"):
        perturb(full, "shift", seconds=-8)


def test_circulant_rcbf_does_not_feel_when_a_whole_bolus_comes(scan):
    changed = perturb(scan, "shift", seconds=6)
    before, after = (arms.rcbf_map(s, artery(s), "circulant") for s in (scan, changed))
    np.testing.assert_allclose(after[scan.tissue], before[scan.tissue], atol=5e-3)


def test_widening_is_a_convolution(scan):
    changed = perturb(scan, "widen", width=3.0, noise_free=scan.concentration)
    kernel = np.exp(-np.arange(T) * DT / 3.0)
    expected = signal.fftconvolve(
        scan.concentration, (kernel / kernel.sum())[None, None, None], axes=-1
    )[..., :T]  # fmt: skip
    np.testing.assert_allclose(changed.concentration, expected, atol=1e-4)


def test_frames_are_cut_and_left_out(scan):
    cut = perturb(scan, "truncate", seconds=45)
    np.testing.assert_array_equal(cut.concentration, scan.concentration[..., :45])
    assert cut.times[-1] == 44
    thin = perturb(scan, "interval", dt=2.0)
    np.testing.assert_array_equal(thin.concentration, scan.concentration[..., ::2])
    np.testing.assert_array_equal(thin.times, scan.times[::2])
    assert thin.n_baseline == 3 and perturb(replace(scan, n_baseline=5), "interval", dt=2.0).n_baseline == 3


@pytest.mark.parametrize("n_slices, n, kept", [(5, 2, [1, 2]), (2, 16, [0] * 8 + [1] * 8), (3, 2, [0, 1])])
def test_slices_are_cut_from_the_middle_or_repeated(n_slices, n, kept):
    scan = made_scan(n_slices)
    changed = perturb(scan, "slices", n=n)
    np.testing.assert_array_equal(changed.concentration, scan.concentration[:, :, kept])
    np.testing.assert_array_equal(changed.core, scan.core[:, :, kept])
    assert changed.final_infarct is None
    height = changed.spacing[2] * n
    assert height == pytest.approx(5 * n_slices if n > n_slices else 10)
    at = changed.affine @ np.array([2, 3, np.arange(n).mean(), 1], dtype=object)
    expected = scan.affine @ np.array([2, 3, np.mean(kept), 1], dtype=object)
    np.testing.assert_allclose(at.astype(float), expected.astype(float))


@pytest.mark.parametrize("n", [2, 16])
def test_the_expert_reads_the_same_place_in_other_slices(n, picks):
    scan = replace(made_scan(4), id="case")
    scan.concentration[...] += 10 * np.arange(4)[:, None]  # a slice can be told by its level
    pick = {"case": replace(next(iter(picks.values())), case="case", voxels=((2, 1, 1), (4, 4, 2)))}
    expert = robustness.standard_arms({"case": scan}, pick)["expert"]
    expected = (scan.concentration[2, 1, 1] + scan.concentration[4, 4, 2]) / 2
    np.testing.assert_array_equal(expert(scan), expected)
    np.testing.assert_array_equal(expert(perturb(scan, "slices", n=n)), expected)
    gone = {"case": replace(pick["case"], voxels=((2, 1, 0),))}
    with pytest.raises(ValueError, match="no picked voxel lies in the brain of the slices"):
        robustness.standard_arms({"case": scan}, gone)["expert"](perturb(scan, "slices", n=2))


def test_noise_grows_and_stays_as_asked(prepared):
    """Against the spread of the frames before the bolus, by NumPy alone."""
    for scan in list(prepared.values())[:3]:
        n = scan.n_baseline

        def spread(s, n=n):
            return np.sqrt(s.concentration[s.tissue][:, :n].var(axis=1, ddof=1).mean())

        level = spread(scan)
        assert spread(perturb(scan, "noise", factor=2.0)) / level == pytest.approx(2, rel=0.05)
        assert spread(perturb(scan, "contrast", factor=0.3)) / level == pytest.approx(1, rel=0.07)
        assert 0.6 < spread(perturb(scan, "widen", width=3.0)) / level < 1.2
        one, same, other = (perturb(scan, "noise", factor=2.0, seed=s).concentration for s in (1, 1, 2))
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other)
        assert not one[~scan.brain].any()
        added = (one - scan.concentration)[scan.brain][:, :n].mean(axis=1)  # the baseline is still zero
        assert np.abs(added).max() < 1e-4 < level


@pytest.fixture(scope="module")
def rendered():
    """A recipe, its scan, and the scan's contrast without noise; so strong that whole HU matter little."""
    recipe = draw_recipe(0, 2, size="tiny", n_frames=60)
    recipe = replace(recipe, vof_peak=2000.0, moved=(), drift_hu=0.0, jitter=0.0)
    scan = prepare(phantom.render(recipe))
    clean = prepare(phantom.render(replace(recipe, noise_hu=0.0))).concentration
    return recipe, scan, clean - clean[..., : scan.n_baseline].mean(axis=-1, keepdims=True)


@pytest.mark.parametrize("name, options, drawn", [
    ("contrast", {"factor": 3.0}, {"vof_peak": 6000.0}),
    ("contrast", {"factor": 0.3}, {"vof_peak": 600.0}),
    ("shift", {"seconds": 4.0}, {}),
])  # fmt: skip
def test_a_changed_scan_is_the_phantom_rendered_anew(rendered, name, options, drawn):
    """The phantom's own forward model, on its fine grid, is the oracle."""
    recipe, scan, clean = rendered
    changed = perturb(scan, name, noise_free=clean, **options).concentration[scan.brain]
    drawn = drawn or {"onset": recipe.onset + 4}
    expected = prepare(phantom.render(replace(recipe, noise_hu=0.0, **drawn))).concentration[scan.brain]
    noise = scan.concentration[scan.brain] - clean[scan.brain]
    off = changed - (np.roll(noise, 4, -1) if name == "shift" else noise) - expected
    assert np.sqrt((off**2).mean()) < 0.02 * expected.max(axis=1).mean()


def test_clean_contrast_is_the_scan_less_its_noise(cohort, prepared):
    scan = next(iter(prepared.values()))
    clean = perturbations.clean_contrast(scan, 0, 1, size="tiny")
    noise = (scan.concentration - clean)[scan.tissue]
    assert np.corrcoef(noise[:, :-15].ravel(), noise[:, 15:].ravel())[0, 1] < 0.5
    assert abs(noise.mean()) < 0.3 * noise.std()
    assert np.abs(noise).mean() < 0.3 * clean[scan.tissue].max(axis=1).mean()
    with pytest.raises(ValueError, match="made must be scan 1 of seed 0"):
        perturbations.clean_contrast(made_scan(), 0, 1, size="tiny")


@pytest.mark.parametrize("name, options, words", [
    ("rotate", {}, "must be one of shift, contrast, widen, noise, truncate, interval, slices: 'rotate' came"),
    ("contrast", {"factor": 3.0}, "made: contrast × 3 in the same noise needs .* give noise_free"),
    ("contrast", {"factor": -1.0}, "must be positive: -1.0 came"),
    ("noise", {"factor": 0.5}, "Noise can only be added: .* 0.5 came"),
    ("truncate", {"seconds": 70.0}, "made: the scan has no frame after 70 s"),
    ("interval", {"dt": 1.5}, "frames every 1.5 s are no selection from frames every 1 s"),
    ("interval", {"dt": 1.0}, "no selection"),
    ("slices", {"n": 3}, "made: the scan has 3 slices already"),
    ("slices", {"n": 0}, "whole number of slices, at least 1: 0 came"),
])  # fmt: skip
def test_changes_that_do_not_apply_are_refused_in_words(scan, name, options, words):
    with pytest.raises(ValueError, match=words):
        perturb(scan, name, **options)


def test_wrong_options_are_refused_in_words(scan):
    with pytest.raises(TypeError, match="'shift' takes seconds: frames came"):
        perturb(scan, "shift", frames=3)
    with pytest.raises(TypeError, match="'noise' takes factor: nothing came"):
        perturb(scan, "noise")
    with pytest.raises(ValueError, match=r"shape \(6, 6, 3, 70\): \(3,\) came"):
        perturb(scan, "shift", seconds=1, noise_free=np.zeros(3))


def frail(scan):
    """The same curve whatever the scan: the tissue moves, and it does not."""
    return np.exp(-((np.arange(scan.concentration.shape[-1]) - 17) ** 2) / 18)


def steady(scan):
    return scan.concentration[scan.brain].mean(axis=0)


@pytest.fixture(scope="module")
def scans(prepared):
    changes = {
        name: perturbations.PERTURBATIONS[name] for name in ("noise × 2", "bolus 4 s later", "2 slices")
    }
    changes |= {"scan ends at 45 s": ("truncate", {"seconds": 45.0})}
    return robustness.scan_changes(prepared, {"frail": frail, "steady": steady}, perturbations=changes)


def test_a_fragile_arm_moves_more_than_a_robust_one(scans):
    table = robustness.summarise(scans).set_index(["change", "arm"])
    moved = table["rcbf_change"].unstack()
    assert moved.loc["bolus 4 s later", "frail"] > 3 * moved.loc["bolus 4 s later", "steady"] > 0


def test_each_row_is_what_maps_before_and_after_say(prepared, scans):
    from sklearn.metrics import roc_auc_score

    case, scan = next(iter(prepared.items()))
    changed = perturb(scan, "noise", factor=2.0)
    before, after = (arms.rcbf_map(s, steady(s), "volterra", 0.3) for s in (scan, changed))
    row = scans[(scans["case"] == case) & (scans["change"] == "noise × 2") & (scans["arm"] == "steady")].iloc[
        0
    ]
    assert row["rcbf_change"] == pytest.approx(np.abs(after - before)[scan.tissue].mean(), rel=1e-5)
    core, low = scan.core[scan.brain], after[scan.brain] < 0.38
    assert row["dice"] == pytest.approx(2 * (core & low).sum() / (core.sum() + low.sum()))
    aucs = [roc_auc_score(core, -r[scan.brain]) for r in (before, after)]
    assert row["roc_auc_change"] == pytest.approx(aucs[1] - aucs[0], abs=1e-6)
    assert row["patient"] == scan.patient and row["reason"] == ""


def test_other_slices_change_the_aif_alone(prepared, scans):
    """The mean over two slices of three is another curve; the map is still that of all voxels."""
    rows = scans[(scans["change"] == "2 slices") & (scans["arm"] == "steady")].set_index("case")
    for case, scan in prepared.items():
        if scan.brain.shape[2] == 2:
            assert rows.loc[case, "reason"] == "the scan has 2 slices already"
            continue
        aif = scan.concentration[:, :, :2][scan.brain[:, :, :2]].mean(axis=0)
        maps = [arms.rcbf_map(scan, curve, "volterra", 0.3) for curve in (steady(scan), aif)]
        expected = np.abs(maps[1] - maps[0])[scan.tissue].mean()
        assert rows.loc[case, "rcbf_change"] == pytest.approx(expected, rel=1e-4)


def test_the_table_counts_scans_patients_and_reasons(prepared, scans):
    table = robustness.summarise(scans).set_index(["change", "arm"])
    cut = table.loc["scan ends at 45 s", "frail"]
    assert cut["n_scans"] == 0 and cut["n_skipped"] == len(prepared) and np.isnan(cut["dice"])
    assert cut["skipped"] == f"{len(prepared)} × the scan has no frame after 45 s"
    noise = table.loc["noise × 2", "steady"]
    assert noise["n_scans"] == len(prepared) and noise["skipped"] == "" and np.isnan(noise["moved"])
    assert noise["n_patients"] == len({scan.patient for scan in prepared.values()})
    part = scans[(scans["change"] == "noise × 2") & (scans["arm"] == "steady")]
    assert noise["dice_change"] == pytest.approx((part["dice"] - part["dice_before"]).mean())
    for name in robustness.CHANGES:
        assert noise[f"{name}_low"] < noise[name] < noise[f"{name}_high"]


def test_the_table_says_how_far_each_bolus_moved(prepared, scans):
    part = scans[(scans["change"] == "bolus 4 s later") & (scans["arm"] == "steady")].set_index("case")
    for case, scan in prepared.items():
        assert part.loc[case, "moved"] == room(scan, 4.0)
    moved = [room(scan, 4.0) for scan in prepared.values() if room(scan, 4.0)]
    row = robustness.summarise(scans).set_index(["change", "arm"]).loc["bolus 4 s later", "steady"]
    found = (row["moved"], row["moved_least"], row["moved_most"])
    assert found == pytest.approx((np.mean(moved), min(moved), max(moved)))
    earlier = robustness.summarise(scans.assign(moved=-scans["moved"])).set_index(["change", "arm"])
    assert earlier.loc["bolus 4 s later", "steady"]["moved_most"] == row["moved_most"]


def test_an_arm_without_an_aif_is_skipped_with_its_reason(prepared, picks):
    _, *others = prepared
    arms_ = robustness.standard_arms(prepared, {name: picks[name] for name in others})
    changes = {"noise × 2": ("noise", {"factor": 2.0})}
    told = []
    table = robustness.robustness_table(prepared, arms_, perturbations=changes, tell=told.append)
    table = table.set_index("arm")
    assert list(table.index) == ["expert", "automatic", "brain_mean"] and told == list(prepared)
    assert table.loc["expert", "skipped"] == "1 × no AIF was picked"
    assert table.loc["expert", "n_scans"] == len(others) and table.loc["brain_mean", "n_scans"] == len(
        prepared
    )


def test_without_a_core_only_flow_is_compared(scan):
    blind = {"made": replace(scan, core=None)}
    row = robustness.robustness_table(
        blind, {"artery": artery}, perturbations={"thin": ("interval", {"dt": 2})}
    )
    assert (
        row["rcbf_change"][0] > 0 and np.isnan(row["dice_change"][0]) and np.isnan(row["rcbf_change_low"][0])
    )


@pytest.mark.parametrize("options, error, words", [
    ({"matrix": "svd"}, ValueError, "volterra, circulant, truncated: 'svd' came"),
    ({"lambda_rel": 0.0}, ValueError, "lambda_rel must be positive: 0.0 came"),
    ({"threshold": np.nan}, ValueError, "threshold must be positive: nan came"),
    ({"perturbations": {}}, ValueError, "one scan, one arm and one change: 1, 1 and 0 came"),
    ({"perturbations": {"x": ("blur", {})}}, ValueError, "'blur' came"),
    ({"perturbations": {"x": ("noise", {"sd": 2})}}, TypeError, "takes factor: sd came"),
])  # fmt: skip
def test_settings_no_scan_could_be_measured_with_are_refused(scan, options, error, words):
    with pytest.raises(error, match=words):
        robustness.robustness_table({"made": scan}, {"artery": artery}, **options)


def test_the_figure_shows_the_table(scans):
    table = robustness.summarise(scans)
    figure = robustness.robustness_figure(table)
    assert [trace.name for trace in figure.data] == ["mean |ΔrCBF|", "ΔDice", "ΔAUC"]
    for trace, name in zip(figure.data, robustness.CHANGES, strict=True):
        for row, change in enumerate(trace.y):
            for column, arm in enumerate(("frail", "steady")):
                cell = table[(table["change"] == change) & (table["arm"] == arm)][name].iloc[0]
                np.testing.assert_equal(trace.z[row][column], cell)
    cell = figure.data[1].z[0][1]
    assert figure.data[1].text[0][1] == f"{cell:+.3f}".replace("0.", ".")
    assert list(figure.data[0].x) == ["frail", "steady"] and len(figure.data[0].y) == 4
    assert figure.layout.yaxis.title.text == "change of the scan" and figure.layout.xaxis.title.text == "arm"
    both = robustness.robustness_figure(robustness.summarise(twice(scans)))
    assert (
        list(both.data[0].x)[:2] == ["frail<br>volterra", "steady<br>volterra"] and len(both.data[0].x) == 4
    )


def twice(scans):
    import pandas as pd

    return pd.concat([scans, scans.assign(matrix="circulant")], ignore_index=True)
