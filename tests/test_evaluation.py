"""Evaluation: numbers by hand and by scikit-learn, slabs of a patient joined, failures passed over."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, jaccard_score, roc_auc_score, roc_curve
from synthetic import synthetic_scores

from perfkit import arms, evaluation
from perfkit.maps import perfusion_maps

SPACING = np.array([2.0, 3.0, 5.0])


@pytest.fixture(scope="module")
def scored(prepared, curves):
    return evaluation.evaluate(prepared, curves)


@pytest.fixture
def by_hand(prepared):
    """A scan of 6×6×2 voxels; the brain lacks its last row, the core is a 2×2×1 square."""
    brain = np.ones((6, 6, 2), bool)
    brain[5] = False
    core = np.zeros_like(brain)
    core[1:3, 1:3, 0] = True
    scan = next(iter(prepared.values()))
    return replace(scan, brain=brain, core=core, spacing=SPACING)


def test_a_perfect_map_scores_perfectly(by_hand):
    found = evaluation.score(by_hand, np.where(by_hand.core, 0.1, 1.0))
    assert found["roc_auc"] == found["dice"] == found["jaccard"] == 1
    assert found["hd95_mm"] == 0
    assert found["volume_ml"] == found["reference_volume_ml"] == pytest.approx(4 * 30 / 1000)


def test_scores_by_hand(by_hand):
    """Prediction: the square moved by one voxel along x and one voxel of it missing."""
    rcbf = np.ones((6, 6, 2))
    rcbf[2:4, 1:3, 0] = 0.2
    rcbf[3, 2, 0] = 0.6  # above the threshold
    rcbf[5] = 0.0  # outside the brain: no core there
    found = evaluation.score(by_hand, rcbf)
    assert found["dice"] == pytest.approx(2 * 2 / (4 + 3))
    assert found["jaccard"] == pytest.approx(2 / 5)
    assert found["volume_ml"] == pytest.approx(3 * 30 / 1000)
    a, b = np.argwhere(by_hand.core) * SPACING, np.array([[2, 1, 0], [2, 2, 0], [3, 1, 0]]) * SPACING
    apart = np.linalg.norm(a[:, None] - b[None], axis=-1)  # every voxel of both is surface
    assert found["hd95_mm"] == pytest.approx(
        max(np.percentile(apart.min(1), 95), np.percentile(apart.min(0), 95))
    )
    inside = by_hand.brain
    assert found["roc_auc"] == pytest.approx(roc_auc_score(by_hand.core[inside], -rcbf[inside]))
    assert evaluation.score(by_hand, rcbf, threshold=0.7)["dice"] == pytest.approx(2 * 2 / (4 + 4))


def test_core_outside_the_brain_counts_neither_way(by_hand):
    beyond = by_hand.core.copy()
    beyond[5] = True
    rcbf = np.where(by_hand.core, 0.1, 1.0)
    assert evaluation.score(replace(by_hand, core=beyond), rcbf) == evaluation.score(by_hand, rcbf)


def test_one_row_for_each_scan_arm_and_matrix(scored, prepared, cohort):
    scores = scored.scores
    assert len(scores) == 6 * 3 * 2 == len(scores.drop_duplicates(["case", "arm", "matrix"]))
    assert set(scores["arm"]) == {"expert", "automatic", "brain_mean"} < set(arms.ARMS)
    assert set(scores["matrix"]) == {"circulant", "volterra"}
    assert dict(zip(scores["case"], scores["patient"], strict=True)) == cohort.patients
    assert scored.failures == {}
    volumes = scores.groupby("case")["reference_volume_ml"].unique()
    for case, scan in prepared.items():  # one reference volume, that of the mask in the brain
        assert volumes[case] == pytest.approx([(scan.core & scan.brain).sum() * np.prod(scan.spacing) / 1000])


@pytest.mark.parametrize("matrix", ["circulant", "volterra"])
@pytest.mark.parametrize("arm", ["expert", "brain_mean"])
def test_numbers_are_those_of_scikit_learn(scored, prepared, curves, arm, matrix):
    truth, values, rows = [], [], scored.scores.set_index(["case", "arm", "matrix"])
    for case, scan in prepared.items():
        cbf = perfusion_maps(scan.concentration, curves[arm][case], scan.dt, matrix=matrix).cbf
        rcbf = cbf / cbf[scan.reference_tissue].mean(dtype=float)
        truth.append(scan.core[scan.brain])
        values.append(-rcbf[scan.brain])
        row = rows.loc[(case, arm, matrix)]
        assert row["roc_auc"] == pytest.approx(roc_auc_score(truth[-1], values[-1]), abs=1e-6)
        assert row["jaccard"] == pytest.approx(jaccard_score(truth[-1], values[-1] > -0.38))
        assert row["dice"] == pytest.approx(2 * row["jaccard"] / (1 + row["jaccard"]))
    pooled = roc_auc_score(np.concatenate(truth), np.concatenate(values))
    assert scored.pooled_auc[matrix][arm] == pytest.approx(pooled, abs=1e-6)


def test_the_height_of_an_aif_changes_no_score(scored, prepared, curves):
    tripled = {arm: {case: 3 * curve for case, curve in held.items()} for arm, held in curves.items()}
    again = evaluation.evaluate(prepared, tripled).scores
    for column in ("roc_auc", "dice", "jaccard", "hd95_mm", "volume_ml"):
        np.testing.assert_allclose(again[column], scored.scores[column], rtol=1e-3, atol=1e-3)


def test_an_aif_of_zeros_is_reported_and_the_others_go_on(scored, prepared, curves):
    case, *others = prepared
    broken = {"expert": {**curves["expert"], case: np.zeros_like(curves["expert"][case])}}
    broken["brain_mean"] = curves["brain_mean"]
    told = []
    found = evaluation.evaluate(prepared, broken, matrices=("circulant",), tell=told.append)
    assert list(found.failures) == [(case, "expert")]
    assert "zero" in found.failures[case, "expert"]
    assert set(found.scores.query("arm == 'expert'")["case"]) == set(others)
    assert told == list(prepared)
    rows = scored.scores.query("arm == 'brain_mean' and matrix == 'circulant'")
    left = found.scores.query("arm == 'brain_mean'")
    np.testing.assert_array_equal(left["dice"], rows["dice"])  # the failure of one arm costs no other its row


@pytest.mark.parametrize("bad", [np.full(50, np.nan), np.ones(7), -np.ones(50)])
def test_an_unusable_aif_is_a_failure_not_a_crash(prepared, curves, bad):
    case, scan = next(iter(prepared.items()))
    curve = bad if len(bad) == 7 else np.resize(bad, scan.concentration.shape[-1])
    found = evaluation.evaluate({case: scan}, {"cnn": {case: curve}, "expert": curves["expert"]})
    assert list(found.failures) == [(case, "cnn")]
    assert set(found.scores["arm"]) == {"expert"}


def test_a_scan_whose_arm_has_no_aif_is_reported(prepared, curves):
    case, *others = prepared
    found = evaluation.evaluate(prepared, {"cnn": {name: curves["expert"][name] for name in others}})
    assert set(found.scores["case"]) == set(others)
    assert list(found.failures) == [(case, "cnn")]


def test_scans_without_a_core_are_left_out(prepared, curves):
    case, *others = prepared
    scans = {**prepared, case: replace(prepared[case], core=None)}
    assert set(evaluation.evaluate(scans, curves, matrices=("circulant",)).scores["case"]) == set(others)


def test_example_cases_are_spread_over_the_ranks():
    scores = synthetic_scores()
    chosen = evaluation.example_cases(scores, 3)
    dice = scores.query("arm == 'expert' and matrix == 'circulant'").set_index("case")["dice"]
    ranks = [int(dice.rank(ascending=False)[case]) for case in chosen]
    assert ranks == [4, 11, 17]  # of 20: the middles of three parts, the best first
    assert evaluation.example_cases(scores.sample(frac=1, random_state=0), 3) == chosen
    assert len(evaluation.example_cases(scores, 50)) == 20
    assert evaluation.example_cases(scores[scores["arm"] == "cnn"], 3) == []


def test_a_row_of_fig2_holds_what_the_table_says(scored, prepared, curves):
    scan = next(iter(prepared.values()))
    row = evaluation.example_slice(scan, {**curves, "cnn": {}})
    series = scan.baseline[..., None] + scan.concentration
    np.testing.assert_allclose(row["background"], series.mean(axis=-1), atol=1e-3)
    assert (row["background"] > scan.baseline + 0.5)[scan.brain].any()  # the contrast is in it
    assert set(row["rcbf"]) == {"expert", "automatic", "brain_mean"}
    rows = scored.scores.query("case == @scan.id and matrix == 'circulant'").set_index("arm")
    for arm in row["rcbf"]:
        assert row["predicted"][arm].sum() * np.prod(scan.spacing) / 1000 == pytest.approx(
            rows["volume_ml"][arm]
        )
        assert row["captions"][arm] == f"Dice {rows['dice'][arm]:.2f}"


def test_sensitivity_and_specificity_by_hand(by_hand):
    rcbf = np.ones((6, 6, 2))
    rcbf[1, 1:3, 0] = 0.2  # half the core
    rcbf[4, 4, 1] = 0.2  # and one voxel beside it
    found = evaluation.score(by_hand, rcbf)
    assert found["sensitivity"] == 2 / 4
    assert found["specificity"] == pytest.approx(55 / 56)  # 60 voxels of brain, 4 of them core
    assert found["volume_error_ml"] == pytest.approx((3 - 4) * 30 / 1000)


def test_hypoperfusion_is_the_tissue_that_is_late(scored, prepared, curves):
    case, scan = next(iter(prepared.items()))
    late = (perfusion_maps(scan.concentration, curves["expert"][case], scan.dt).tmax > 6) & scan.brain
    half = scan.tissue & (np.cumsum(late).reshape(late.shape) <= late.sum() // 2)  # the rest: vessel or CSF
    alone = {case: replace(scan, tissue=half)}
    found = evaluation.evaluate(alone, {"expert": curves["expert"]}, matrices=("circulant",)).scores
    voxel_ml = np.prod(scan.spacing) / 1000
    assert 0 < np.count_nonzero(late & half) < np.count_nonzero(late)
    assert found["hypoperfusion_ml"].tolist() == pytest.approx([np.count_nonzero(late & half) * voxel_ml])
    assert scored.scores["hypoperfusion_ml"].between(0, 1500).all()


@pytest.fixture
def two_slabs(prepared):
    """Two scans of one patient, one of another."""
    names = list(prepared)[:3]
    return {name: replace(prepared[name], patient="p" if i < 2 else "q") for i, name in enumerate(names)}


def test_the_slabs_of_a_patient_are_joined_before_anything_is_measured(two_slabs, curves):
    found = evaluation.evaluate(two_slabs, {"expert": curves["expert"]}, matrices=("circulant",))
    assert list(found.patients["patient"]) == ["p", "q"] and list(found.patients["n_scans"]) == [2, 1]
    a, b, alone = two_slabs
    row = found.patients.set_index("patient").loc["p"]
    assert row["cases"] == f"{a} + {b}"
    core, rcbf = [], []
    for name in (a, b):
        scan = two_slabs[name]
        core.append((scan.core & scan.brain)[scan.brain])
        rcbf.append(arms.rcbf_map(scan, curves["expert"][name])[scan.brain])
    core, rcbf = np.concatenate(core), np.concatenate(rcbf)
    assert row["jaccard"] == pytest.approx(jaccard_score(core, rcbf < 0.38))
    assert row["sensitivity"] == pytest.approx((core & (rcbf < 0.38)).sum() / core.sum())
    assert row["roc_auc"] == pytest.approx(roc_auc_score(core, -rcbf))
    scans = found.scores.set_index("case")
    assert row["volume_ml"] == pytest.approx(scans.loc[[a, b], "volume_ml"].sum())
    assert row["hd95_mm"] == pytest.approx(scans.loc[[a, b], "hd95_mm"].mean())
    shared = ["roc_auc", "dice", "hd95_mm", "assd_mm", "specificity", "hypoperfusion_ml"]
    single = found.patients.set_index("patient").loc["q", shared].to_numpy(float)
    np.testing.assert_allclose(single, scans.loc[alone, shared].to_numpy(float))


def test_a_patient_has_no_distance_where_one_of_its_slabs_has_none(two_slabs, curves):
    """The mean of the other slabs could not be compared with that of an arm that has all."""
    first, second, alone = two_slabs
    blind = replace(two_slabs[second], core=np.zeros_like(two_slabs[second].core))
    scans = two_slabs | {second: blind}
    found = evaluation.evaluate(scans, {"expert": curves["expert"]}, matrices=("circulant",))
    slabs, patients = found.scores.set_index("case"), found.patients.set_index("patient")
    assert np.isfinite(slabs.loc[first, "hd95_mm"]) and np.isnan(slabs.loc[second, "hd95_mm"])
    assert patients.loc["p", ["hd95_mm", "assd_mm"]].isna().all() and patients.loc["p", "dice"] > 0
    assert patients.loc["q", "hd95_mm"] == slabs.loc[alone, "hd95_mm"]


def test_curves_of_a_patient_agree_with_its_numbers(two_slabs, curves):
    found = evaluation.evaluate(two_slabs, {"expert": curves["expert"]}, matrices=("volterra",))
    for patient, row in found.patients.set_index("patient").iterrows():
        cut = found.thresholds[found.thresholds["patient"] == patient].set_index("threshold")["dice"]
        assert cut[0.38] == pytest.approx(row["dice"])
        curve = found.roc[found.roc["patient"] == patient]
        assert curve["fpr"].iloc[[0, -1]].tolist() == [0, 1] and curve["tpr"].iloc[-1] == 1
        assert curve["tpr"].is_monotonic_increasing
        assert np.trapezoid(curve["tpr"], curve["fpr"]) == pytest.approx(row["roc_auc"], abs=0.01)


def test_roc_and_threshold_curves_by_hand():
    core = np.array([True, True, False, False, False])
    rcbf = np.array([0.1, 0.3, 0.2, 0.5, 0.9])
    slab = evaluation.Slab.of(core, rcbf, 0.25)
    assert slab.ranking.roc([0, 1 / 3, 2 / 3, 1]) == pytest.approx([0.5, 1, 1, 1])
    dice = slab.ranking.dice(-np.array([0.1, 0.15, 0.25, 0.31, 1.0]))
    assert dice == pytest.approx([0, 2 / 3, 2 / 4, 4 / 5, 4 / 7])  # rCBF equal to the threshold is no core
    assert evaluation.overlap(slab) == pytest.approx(
        {"roc_auc": 5 / 6, "dice": 2 / 4, "jaccard": 1 / 3, "sensitivity": 1 / 2, "specificity": 2 / 3}
    )


def test_curves_of_a_patient_are_those_of_scikit_learn(two_slabs, curves):
    found = evaluation.evaluate(two_slabs, {"expert": curves["expert"]}, matrices=("circulant",))
    core, rcbf = [], []
    for name in list(two_slabs)[:2]:
        scan = two_slabs[name]
        core.append(scan.core[scan.brain])
        rcbf.append(arms.rcbf_map(scan, curves["expert"][name])[scan.brain])
    core, rcbf = np.concatenate(core), np.concatenate(rcbf)
    false, true, _ = roc_curve(core, -rcbf, drop_intermediate=False)
    top = np.append(np.diff(false) > 0, True)
    roc = found.roc[found.roc["patient"] == "p"]
    np.testing.assert_allclose(roc["tpr"], np.interp(roc["fpr"], false[top], true[top]), atol=1e-9)
    cut = found.thresholds[found.thresholds["patient"] == "p"]
    expected = [f1_score(core, rcbf < value) for value in cut["threshold"]]
    np.testing.assert_allclose(cut["dice"], expected)


def test_a_patient_without_any_core_has_curves_that_say_so(two_slabs, curves):
    empty = {name: replace(scan, core=np.zeros_like(scan.core)) for name, scan in two_slabs.items()}
    found = evaluation.evaluate(empty, {"expert": curves["expert"]}, matrices=("circulant",))
    assert found.patients["roc_auc"].isna().all() and found.patients["sensitivity"].isna().all()
    assert found.roc["tpr"].isna().all()
    assert set(found.patients["dice"]) <= {0.0, 1.0}


def test_joined_evaluations_hold_all_tables(two_slabs, curves):
    parts = [evaluation.evaluate(two_slabs, curves, matrices=[m]) for m in ("circulant", "volterra")]
    whole, joined = evaluation.evaluate(two_slabs, curves), evaluation.join(parts)
    order = ["arm", "matrix", "patient"]
    pd.testing.assert_frame_equal(
        joined.patients.sort_values(order, ignore_index=True),
        whole.patients.sort_values(order, ignore_index=True),
    )
    assert len(joined.roc) == len(whole.roc) and joined.pooled_auc == whole.pooled_auc
    assert evaluation.join([]).scores is None
