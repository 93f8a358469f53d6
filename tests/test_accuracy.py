"""The table of estimators: its measures against their definition, and what it must say of each."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from perfkit import (
    accuracy,
    aifeffect,
    arms,
    cohortaccuracy,
    estimators,
    metamorphic,
    metrics,
    phantom,
    preprocessing,
)

N_ESTIMATORS = 5 + 6 + 5  # D2 needs the circulant matrix


@pytest.fixture(scope="module")
def table():
    return accuracy.accuracy_table()


@pytest.fixture(scope="module")
def cohort():
    return cohortaccuracy.cohort_table([1, 2], size="tiny")


def test_errors_follow_their_definition():
    truth, found = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 5.0])
    row = estimators.errors(found, truth)
    assert row["n"] == 3 and row["bias"] == pytest.approx(0.5)
    assert row["rms"] == pytest.approx(np.sqrt(1.25 / 3))
    assert row["relative_bias"] == pytest.approx(0.5 / (7 / 3))
    assert row["r"] == pytest.approx(np.corrcoef(found, truth)[0, 1])


def test_blocks_are_means_of_voxels():
    values = np.random.default_rng(0).normal(size=(256, 256, 2))
    found = accuracy._blocks(values)
    assert found.shape == (56, 56, 2)
    assert found[3, 5, 1] == pytest.approx(values[12:16, 20:24, 1].mean())


def test_every_estimator_stands_in_the_table_once(table):
    keys = table[["residue", "matrix", "estimator", "map"]]
    assert len(keys.drop_duplicates()) == len(table) == 3 * N_ESTIMATORS * 4
    assert np.isfinite(table[["bias", "rms", "relative_bias", "r"]].to_numpy()).all()


def test_each_image_of_the_grid_has_its_own_correlation():
    truth = np.stack([np.arange(12.0).reshape(3, 4), np.arange(12.0).reshape(3, 4) ** 2], axis=-1)
    found = truth.copy()
    found[0, 0, 1] = 50.0
    assert accuracy._least_r(found, truth) == pytest.approx(
        np.corrcoef(found[..., 1].flat, truth[..., 1].flat)[0, 1]
    )
    assert np.isnan(accuracy._least_r(found, np.ones_like(truth)))


def test_calibrated_flow_and_transit_time_follow_the_truth_in_each_of_the_fifteen_images(table):
    rows = table[(table["estimator"] == "calibrated") & table["map"].isin(["cbf", "mtt"])]
    assert len(rows) == 3 * 3 * 2 and rows["r_image"].min() > 0.9
    volume = table[(table["estimator"] == "calibrated") & (table["map"] == "cbv")]
    assert volume["r"].min() > 0.9 and volume["r_image"].isna().all()  # one CBV per image: only pooled


@pytest.mark.parametrize("matrix", ["circulant", "truncated"])
@pytest.mark.parametrize("residue", ["exponential", "linear"])
def test_calibration_brings_every_map_nearer_to_the_truth(table, residue, matrix):
    rows = table[(table["residue"] == residue) & (table["matrix"] == matrix)]
    by = rows.set_index(["estimator", "map"])
    for name, least in (("cbf", 0.95), ("mtt", 0.95), ("delay", 0.8)):
        calibrated, plain = (by.loc[(label, name)] for label in ("calibrated", "Tikhonov .3"))
        assert calibrated["r"] > max(least, plain["r"] - 0.02), name
        assert abs(calibrated["bias"]) < abs(plain["bias"]), name


def test_the_truths_of_a_scan_are_those_of_its_tissue(cohort):
    maps, _ = cohort
    scan = phantom.make_case(0, 1, size="tiny")
    rows = maps[(maps["scan"] == scan.id) & (maps["matrix"] == "circulant")]
    n = rows["n"].unique()
    assert len(n) == 1 and 500 < n[0] <= np.count_nonzero(scan.truth["cbf"])
    for _, row in rows[rows["map"] == "cbf"].iterrows():
        mean = row["bias"] / row["relative_bias"]  # of the truth
        assert scan.truth["cbf"][scan.brain].min() < mean < scan.truth["cbf"].max()
    assert len(maps) == 2 * N_ESTIMATORS * 4 and np.isfinite(maps["r"]).all()


def test_on_scans_calibration_undoes_most_of_the_loss_of_flow_and_of_the_late_tmax(cohort):
    mean = cohort[0].groupby(["matrix", "estimator", "map"])["bias"].mean()
    for matrix, name in itertools.product(("circulant", "truncated"), ("cbf", "mtt", "delay")):
        assert abs(mean[matrix, "calibrated", name]) < 0.6 * abs(mean[matrix, "Tikhonov .3", name])


def test_volterra_reads_a_delay_as_low_flow(cohort):
    """So the threshold that finds late cores best lies lower than with the circulant matrix."""
    table = cohortaccuracy.core_table(cohort[1])
    by = table[table["estimator"] == "Tikhonov .3"].set_index(["core", "matrix"])
    assert by.loc[("late", "volterra"), "best"] < by.loc[("late", "circulant"), "best"]
    assert set(table["core"]) == {"late", "any"} and len(table) == 2 * N_ESTIMATORS


def test_cores_are_averaged_over_scans_at_one_threshold():
    cuts, n = metamorphic.CUTS, len(metamorphic.CUTS)
    near = np.abs(cuts - 0.4) < 0.005
    names = {"core": "late", "matrix": "circulant", "estimator": "D2"}
    parts = [
        pd.DataFrame({"scan": s} | names | {"threshold": cuts, "dice": d})
        for s, d in (("a", np.where(near, 0.6, 0.2)), ("b", np.where(near, 0.8, 0.4)))
    ]
    (row,) = cohortaccuracy.core_table(pd.concat(parts)).to_dict("records")
    assert row["scans"] == 2 and row["best"] == 0.4 and n == 95
    assert row["dice_best"] == pytest.approx(0.7) and row["dice_nominal"] == pytest.approx(0.3)


def test_dice_at_every_cut_is_that_of_the_masks():
    rng = np.random.default_rng(3)
    rcbf, core = rng.uniform(0, 1.2, 400), rng.uniform(size=400) < 0.2
    found = metamorphic.dice_curve(rcbf, core)
    for i in (0, 25, 60, 94):
        below = rcbf < metamorphic.CUTS[i]
        assert found[i] == pytest.approx(2 * (below & core).sum() / (below.sum() + core.sum()))


@pytest.fixture(scope="module")
def changes():
    table = metamorphic.metamorphic_table()
    return table.set_index(["change", "matrix", "estimator"]).sort_index()


@pytest.mark.parametrize("change", ["8 s earlier", "8 s later"])
@pytest.mark.parametrize("estimator", ["Tikhonov .3", "D2", "calibrated"])
def test_a_shift_that_keeps_the_bolus_in_the_scan_moves_nothing(changes, change, estimator):
    row = changes.loc[(change, "circulant", estimator)]
    assert row["rcbf"] <= 0.01 and row["tmax"] <= 0.1


@pytest.mark.parametrize("label", list(estimators.ESTIMATES))
def test_contrast_and_noise_together_move_nothing(changes, label):
    for change in ("contrast and noise × 0.3", "contrast and noise × 3"):
        rows = changes.xs((change, label), level=("change", "estimator"))
        assert rows[["rcbf", "tmax", "delay", "cbv"]].to_numpy().max() < 1e-6


def test_with_the_noise_kept_the_prior_of_calibration_shows_and_plain_maps_stay(changes):
    weak = changes.xs(("contrast × 0.3", "circulant"), level=("change", "matrix"))["rcbf"]
    assert weak["Tikhonov .3"] < 1e-6 and 0.05 < weak["calibrated"] < 0.25


def test_an_early_end_costs_the_calibrated_blood_volume_less(changes):
    early = changes.xs(("scan ends at 45 s", "circulant"), level=("change", "matrix"))
    assert early.loc["calibrated", "cbv"] < 0.1 < 0.2 < early.loc["Tikhonov .3", "cbv"]
    truncated = changes.loc[("scan ends at 45 s", "truncated", "Tikhonov .3"), "tmax"]
    assert truncated < 0.6 * early.loc["Tikhonov .3", "tmax"]  # the measured rows alone: Tmax stays


def test_the_nominal_threshold_serves_every_width_once_calibrated():
    table = metamorphic.dice_by_width(widths=[8.0, 14.0], families=["gamma", "linear"], n=800)
    plain, calibrated = (table[table["estimator"] == label] for label in metamorphic.SHOWN)
    assert (np.abs(calibrated["best"] - 0.30) <= 0.05).all()
    assert (calibrated["dice_nominal"] >= 0.95 * calibrated["dice_best"]).all()
    assert (plain["dice_nominal"] < 0.9 * plain["dice_best"]).all()


def test_at_the_bias_of_a_tenth_d2_passes_on_less_noise():
    from perfkit import tissuesample
    from perfkit.deconvolution import deconvolution_operator

    tissue = tissuesample.classes(tissuesample.arterial(6.0), residue="exponential")
    ratio, noise = {}, {}
    for label in ("Tikhonov .1", "D2"):
        options = {"matrix": "circulant", **estimators.ESTIMATES[label]}
        ratio[label] = estimators.read(tissue.curves, tissue.aif, 1.0, options)["cbf"] / tissue.cbf
        noise[label] = np.linalg.norm(deconvolution_operator(tissue.aif, 1.0, **options)[0])
    assert np.abs(ratio["D2"] - ratio["Tikhonov .1"]).max() < 0.06
    assert noise["D2"] < 0.8 * noise["Tikhonov .1"]


def of_patients(dice):
    """Dice by (aif, map), patient and cut, 0.1 elsewhere, as ``aifeffect.aif_table`` gives it."""
    rows = [
        {"scan": p, "patient": p, "aif": aif, "map": kind, "threshold": cut, "dice": values.get(cut, 0.1)}
        for (aif, kind), patients in dice.items()
        for p, values in patients.items()
        for cut in metamorphic.CUTS
    ]
    return pd.DataFrame(rows)


AIF_DICE = {
    ("expert", "plain"): {"a": {0.38: 0.5}, "b": {0.38: 0.4}, "c": {0.3: 0.9, 0.38: 0.2}},
    ("true", "calibrated"): {"a": {0.3: 0.6}, "b": {0.3: 0.5}, "c": {0.3: 0.7}},
}


def test_a_threshold_is_chosen_without_the_patient_it_is_used_on():
    table = aifeffect.summary(of_patients(AIF_DICE)).set_index(["aif", "map"])
    plain, calibrated = table.loc[("expert", "plain")], table.loc[("true", "calibrated")]
    # without a or b the cut .30 of c wins (.1 + .9 over .4 + .2); without c it is .38
    assert plain["crossvalidated"] == pytest.approx((0.1 + 0.1 + 0.2) / 3)
    assert calibrated["crossvalidated"] == pytest.approx(0.6) == calibrated["dice_0.30"]
    assert plain["dice_0.38"] == pytest.approx(1.1 / 3)
    gains = np.array([0.5, 0.4, 0.5])
    assert plain["gain"] == 0 and calibrated["gain"] == pytest.approx(gains.mean())
    assert calibrated["error"] == pytest.approx(gains.std(ddof=1) / np.sqrt(3))


def test_a_pooled_aif_is_of_other_patients_at_the_own_time_to_peak():
    def scan(patient, at, height):
        curve = np.zeros(20)
        curve[at : at + 2] = height, height / 2
        return {"patient": patient, "aifs": {"expert": curve}}

    scans = [scan("a", 5, 60.0), scan("a", 9, 1e6), scan("b", 12, 30.0), scan("c", 3, 90.0)]
    np.testing.assert_allclose(aifeffect._pooled(scans[0], scans), scans[0]["aifs"]["expert"])
    assert aifeffect._pooled(scans[0], scans[:2]) is None  # nobody else


def test_every_aif_maps_the_scans_of_a_cohort():
    table = aifeffect.aif_table([1, 2, 3], size="tiny")
    assert set(table["aif"]) == set(aifeffect.AIFS) and set(table["map"]) == set(aifeffect.SHOWN)
    assert table["dice"].between(0, 1).all() and table.groupby(["aif", "map"])["dice"].max().min() > 0.1
    keys = ["scan", "aif", "map", "threshold"]
    assert not table.duplicated(keys).any()


def test_the_arms_of_a_cohort_are_mapped_plain_and_calibrated():
    case = phantom.make_case(0, 1, size="tiny")
    scan = preprocessing.prepare(case)
    bolus = np.asarray(case.truth["aif"], float)
    curves = {
        "true": {case.id: bolus},
        "upside_down": {case.id: bolus - 2 * bolus.mean()},
        "other": {"x": bolus},
    }
    found = aifeffect.effect_table({case.id: scan}, curves)
    kinds = found.groupby("aif")["map"].unique().map(set).to_dict()
    # without an area there is nothing to calibrate
    assert kinds == {"true": {"plain", "calibrated"}, "upside_down": {"plain"}}
    row = found[(found["aif"] == "true") & (found["map"] == "plain") & np.isclose(found["threshold"], 0.38)]
    rcbf = arms.rcbf_map(scan, bolus, "circulant")
    assert scan.brain.sum() < aifeffect.VOXELS  # all voxels are sampled: the study's own core is at hand
    assert row["dice"].item() == pytest.approx(metrics.dice(scan.core[scan.brain], rcbf[scan.brain] < 0.38))
    with pytest.raises(ValueError, match="A core of 20 sampled voxels"):
        aifeffect.effect_table({case.id: replace(scan, core=np.zeros_like(scan.core))}, curves)


def test_it_prints_a_line_for_each_estimator_of_each_view(monkeypatch, table, changes, cohort):
    """With the tables at hand: making them is tested above."""
    monkeypatch.setattr(accuracy, "accuracy_table", lambda: table)
    monkeypatch.setattr(accuracy.cohortaccuracy, "cohort_table", lambda scans: cohort)
    monkeypatch.setattr(accuracy.metamorphic, "metamorphic_table", lambda: changes.reset_index())
    widths = {"widths": [9.0], "families": ["gamma"], "n": 300}
    by_width = metamorphic.dice_by_width
    monkeypatch.setattr(accuracy.metamorphic, "dice_by_width", lambda: by_width(**widths))
    lines = []
    monkeypatch.setattr(accuracy.aifeffect, "aif_table", lambda scans: of_patients(AIF_DICE))
    found = accuracy.measure(lines.append, scans=[1, 2], aif_scans=[1, 2, 3])
    calibrated = sum("calibrated" in line for line in lines)
    # Kudo, its images, scans, their cores, changes, widths, AIF
    assert calibrated == 3 * 3 + 3 + 3 + 2 * 3 + 9 * 3 + 1 + 1
    assert any(line.startswith("  circulant calibrated: exponential 0.9") for line in lines)
    assert all(np.isfinite(value) for value in found.values())
    assert found["kudo_linear_truncated_calibrated_mtt"] > 0.9
    assert found["change_8 s later_circulant_D2"] <= 0.01


def test_scans_without_a_core_leave_dice_out(monkeypatch, cohort):
    maps, cores = cohort
    monkeypatch.setattr(accuracy.cohortaccuracy, "cohort_table", lambda scans: (maps, cores[:0]))
    lines = []
    found = accuracy._cohort(lines.append, [1])
    assert lines[-1].endswith("no Dice.") and not any("dice" in name for name in found)
