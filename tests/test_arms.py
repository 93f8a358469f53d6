"""The arms: one pipeline, numbers by hand and by scikit-learn, failures reported and passed over."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import jaccard_score, roc_auc_score
from synthetic import synthetic_scores

from perfkit import annotations, arms
from perfkit.aif import select_aif
from perfkit.datasets import open_cohort
from perfkit.maps import perfusion_maps
from perfkit.preprocessing import prepare_cohort

SPACING = np.array([2.0, 3.0, 5.0])


@pytest.fixture(scope="module")
def cohort(tiny_cohort):
    return open_cohort(tiny_cohort)


@pytest.fixture(scope="module")
def prepared(cohort):
    return prepare_cohort(cohort).scans


@pytest.fixture(scope="module")
def picks(cohort):
    return annotations.latest(cohort.folder / "aif" / "simulated-rater.csv")


@pytest.fixture(scope="module")
def curves(prepared, picks):
    found, failures = arms.arm_aifs(prepared, picks)
    assert not failures
    return found


@pytest.fixture(scope="module")
def evaluation(prepared, curves):
    return arms.evaluate(prepared, curves)


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
    found = arms.score(by_hand, np.where(by_hand.core, 0.1, 1.0))
    assert found["roc_auc"] == found["dice"] == found["jaccard"] == 1
    assert found["hd95_mm"] == 0
    assert found["volume_ml"] == found["reference_volume_ml"] == pytest.approx(4 * 30 / 1000)


def test_scores_by_hand(by_hand):
    """Prediction: the square moved by one voxel along x and one voxel of it missing."""
    rcbf = np.ones((6, 6, 2))
    rcbf[2:4, 1:3, 0] = 0.2
    rcbf[3, 2, 0] = 0.6  # above the threshold
    rcbf[5] = 0.0  # outside the brain: no core there
    found = arms.score(by_hand, rcbf)
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
    assert arms.score(by_hand, rcbf, threshold=0.7)["dice"] == pytest.approx(2 * 2 / (4 + 4))


def test_core_outside_the_brain_counts_neither_way(by_hand):
    beyond = by_hand.core.copy()
    beyond[5] = True
    rcbf = np.where(by_hand.core, 0.1, 1.0)
    assert arms.score(replace(by_hand, core=beyond), rcbf) == arms.score(by_hand, rcbf)


def test_one_row_for_each_scan_arm_and_matrix(evaluation, prepared, cohort):
    scores = evaluation.scores
    assert len(scores) == 6 * 3 * 2 == len(scores.drop_duplicates(["case", "arm", "matrix"]))
    assert set(scores["arm"]) == {"expert", "automatic", "brain_mean"} < set(arms.ARMS)
    assert set(scores["matrix"]) == {"circulant", "volterra"}
    assert dict(zip(scores["case"], scores["patient"], strict=True)) == cohort.patients
    assert evaluation.failures == {}
    volumes = scores.groupby("case")["reference_volume_ml"].unique()
    for case, scan in prepared.items():  # one reference volume, that of the mask in the brain
        assert volumes[case] == pytest.approx([(scan.core & scan.brain).sum() * np.prod(scan.spacing) / 1000])


@pytest.mark.parametrize("matrix", ["circulant", "volterra"])
@pytest.mark.parametrize("arm", ["expert", "brain_mean"])
def test_numbers_are_those_of_scikit_learn(evaluation, prepared, curves, arm, matrix):
    truth, values, rows = [], [], evaluation.scores.set_index(["case", "arm", "matrix"])
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
    assert evaluation.pooled_auc[matrix][arm] == pytest.approx(pooled, abs=1e-6)


def test_rcbf_is_one_in_the_mean_reference_and_nothing_outside(prepared, curves):
    for case, scan in prepared.items():
        rcbf = arms.rcbf_map(scan, curves["expert"][case])
        assert rcbf[scan.reference_tissue].mean() == pytest.approx(1, rel=1e-4)
        assert not rcbf[~scan.brain].any()


def test_the_height_of_an_aif_changes_no_score(evaluation, prepared, curves):
    tripled = {arm: {case: 3 * curve for case, curve in held.items()} for arm, held in curves.items()}
    again = arms.evaluate(prepared, tripled).scores
    for column in ("roc_auc", "dice", "jaccard", "hd95_mm", "volume_ml"):
        np.testing.assert_allclose(again[column], evaluation.scores[column], rtol=1e-3, atol=1e-3)


def test_experts_find_the_physiological_core(cohort, prepared, curves):
    """Known core: the simulation's own, which no rater and no label noise has touched."""
    found = []
    for case, scan in prepared.items():
        core = np.asarray(cohort[case].truth["core"], bool) & scan.brain
        if core.sum() > 5:
            rcbf = arms.rcbf_map(scan, curves["expert"][case])
            found.append(roc_auc_score(core[scan.brain], -rcbf[scan.brain]))
    assert len(found) >= 4 and np.mean(found) > 0.75


def test_an_aif_of_zeros_is_reported_and_the_others_go_on(evaluation, prepared, curves):
    case, *others = prepared
    broken = {"expert": {**curves["expert"], case: np.zeros_like(curves["expert"][case])}}
    broken["brain_mean"] = curves["brain_mean"]
    told = []
    found = arms.evaluate(prepared, broken, matrices=("circulant",), tell=told.append)
    assert list(found.failures) == [(case, "expert")]
    assert "zero" in found.failures[case, "expert"]
    assert set(found.scores.query("arm == 'expert'")["case"]) == set(others)
    assert told == list(prepared)
    rows = evaluation.scores.query("arm == 'brain_mean' and matrix == 'circulant'")
    left = found.scores.query("arm == 'brain_mean'")
    np.testing.assert_array_equal(left["dice"], rows["dice"])  # the failure of one arm costs no other its row


@pytest.mark.parametrize("bad", [np.full(50, np.nan), np.ones(7), -np.ones(50)])
def test_an_unusable_aif_is_a_failure_not_a_crash(prepared, curves, bad):
    case, scan = next(iter(prepared.items()))
    curve = bad if len(bad) == 7 else np.resize(bad, scan.concentration.shape[-1])
    found = arms.evaluate({case: scan}, {"cnn": {case: curve}, "expert": curves["expert"]})
    assert list(found.failures) == [(case, "cnn")]
    assert set(found.scores["arm"]) == {"expert"}


def test_a_missing_pick_is_reported_and_the_others_go_on(prepared, picks):
    case, *others = prepared
    found, failures = arms.arm_aifs(prepared, {name: picks[name] for name in others})
    assert list(failures) == [(case, "expert")] and case in failures[case, "expert"]
    assert list(found["expert"]) == others and list(found["automatic"]) == [case, *others]


def test_a_scan_whose_arm_has_no_aif_is_reported(prepared, curves):
    case, *others = prepared
    found = arms.evaluate(prepared, {"cnn": {name: curves["expert"][name] for name in others}})
    assert set(found.scores["case"]) == set(others)
    assert list(found.failures) == [(case, "cnn")]


def test_scans_without_a_core_are_left_out(prepared, curves):
    case, *others = prepared
    scans = {**prepared, case: replace(prepared[case], core=None)}
    assert set(arms.evaluate(scans, curves, matrices=("circulant",)).scores["case"]) == set(others)


def test_example_cases_are_spread_over_the_ranks():
    scores = synthetic_scores()
    chosen = arms.example_cases(scores, 3)
    dice = scores.query("arm == 'expert' and matrix == 'circulant'").set_index("case")["dice"]
    ranks = [int(dice.rank(ascending=False)[case]) for case in chosen]
    assert ranks == [4, 11, 17]  # of 20: the middles of three parts, the best first
    assert arms.example_cases(scores.sample(frac=1, random_state=0), 3) == chosen
    assert len(arms.example_cases(scores, 50)) == 20
    assert arms.example_cases(scores[scores["arm"] == "cnn"], 3) == []


def test_a_row_of_fig2_holds_what_the_table_says(evaluation, prepared, curves):
    scan = next(iter(prepared.values()))
    row = arms.example_slice(scan, {**curves, "cnn": {}})
    assert set(row["rcbf"]) == {"expert", "automatic", "brain_mean"}
    rows = evaluation.scores.query("case == @scan.id and matrix == 'circulant'").set_index("arm")
    for arm in row["rcbf"]:
        assert row["predicted"][arm].sum() * np.prod(scan.spacing) / 1000 == pytest.approx(
            rows["volume_ml"][arm]
        )
        assert row["captions"][arm] == f"Dice {rows['dice'][arm]:.2f}"


def test_the_automatic_arm_follows_the_method_asked_for(prepared, picks, curves):
    case = next(iter(prepared))
    alone = {case: prepared[case]}
    found, _ = arms.arm_aifs(alone, picks, method="murase")
    expected = select_aif(prepared[case], "murase").curve
    assert np.array_equal(found["automatic"][case], expected)
    assert not np.array_equal(expected, curves["automatic"][case])
    with pytest.raises(ValueError, match=r"one of straka.*'kmeans' came"):
        arms.arm_aifs(alone, picks, method="kmeans")
