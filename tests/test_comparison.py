"""Table 1 and the paper's tests against SciPy, hand-made cases and the printed numbers."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import synthetic_scores

from perfkit import paper
from perfkit.comparison import (
    METRICS,
    paired_tests,
    paper_table1,
    table1,
)


def of_test(tests, arm, metric, test):
    return tests.query("arm == @arm and metric == @metric and test == @test").iloc[0]


def test_table1_is_mean_and_sample_sd_of_each_arm():
    scores = synthetic_scores()
    table = table1(scores, pooled_auc={"cnn": 0.9})
    assert list(table["arm"]) == ["expert", "automatic", "cnn", "brain_mean"]
    cnn = table.set_index("arm").loc["cnn"]
    values = scores.query("arm == 'cnn' and matrix == 'circulant'")["dice"]
    assert cnn["dice_mean"] == pytest.approx(values.mean())
    assert cnn["dice_sd"] == pytest.approx(values.std())
    assert cnn["dice"] == f"{values.mean():.3f} ({values.std():.3f})"
    assert (cnn["n_scans"], cnn["n_patients"], cnn["pooled_auc"]) == (20, 15, 0.9)
    assert np.isnan(table.set_index("arm").loc["expert", "pooled_auc"])


def test_table1_takes_the_matrix_asked_for():
    scores = synthetic_scores(n=4)
    scores.loc[scores["matrix"] == "volterra", "dice"] = 0.125
    assert set(table1(scores, "volterra")["dice"]) == {"0.125 (0.000)"}
    assert table1(scores)["dice_mean"].gt(0.125).all()


def test_undefined_values_are_left_out_and_counted():
    scores = synthetic_scores(n=4, arms=("expert",)).query("matrix == 'circulant'").reset_index(drop=True)
    scores["hd95_mm"] = [10.0, np.nan, 30.0, np.inf]
    row = table1(scores).iloc[0]
    assert row["hd95_mm"] == "20.0 (14.1)"
    assert row["hd95_mm_undefined"] == 2
    assert row["n_scans"] == 4


@pytest.mark.parametrize(("values", "text"), [([np.nan, np.nan], "–"), ([np.nan, 0.5], "0.500")])
def test_table1_without_values_or_spread_says_so(values, text):
    scores = synthetic_scores(n=2, arms=("cnn",)).query("matrix == 'circulant'").assign(dice=values)
    assert table1(scores)["dice"].item() == text


def test_intervals_of_table1_are_those_of_a_loop_over_drawn_patients():
    """Against a loop that draws patients and joins their scans; both are random, so two decimals."""
    scores = synthetic_scores()
    rows = scores.query("arm == 'cnn' and matrix == 'circulant'")
    by_patient = [group["dice"].to_numpy() for _, group in rows.groupby("patient")]
    rng = np.random.default_rng(3)
    means = [
        np.concatenate([by_patient[i] for i in rng.integers(0, len(by_patient), len(by_patient))]).mean()
        for _ in range(4000)
    ]
    found = table1(scores).set_index("arm").loc["cnn"]
    assert [found["dice_low"], found["dice_high"]] == pytest.approx(
        np.quantile(means, [0.025, 0.975]), abs=0.01
    )
    assert found["dice_low"] < found["dice_mean"] < found["dice_high"]
    assert found["note"] == "15 patients: the interval may be too narrow"


def test_the_same_seed_gives_the_same_intervals():
    scores = synthetic_scores(n=8)
    pd.testing.assert_frame_equal(table1(scores), table1(scores))
    assert not table1(scores)["dice_low"].equals(table1(scores, seed=1)["dice_low"])


def test_an_interval_counts_the_patients_with_a_value():
    scores = synthetic_scores(n=4, arms=("cnn",)).query("matrix == 'circulant'").assign(hd95_mm=np.nan)
    scores["patient"] = list("abcd")
    scores["jaccard"] = [0.1, np.nan, 0.3, np.nan]
    found = table1(scores).iloc[0]
    assert np.isnan(found["hd95_mm_low"])
    assert (found["jaccard_low"], found["jaccard_high"]) == (pytest.approx(0.1), pytest.approx(0.3))
    assert "hd95_mm: no patient: no interval" in found["note"]
    assert "jaccard: 2 patients: the interval may be too narrow" in found["note"]


def test_one_patient_has_no_interval():
    scores = synthetic_scores(n=2, arms=("cnn",))
    found = table1(scores.assign(patient="p")).iloc[0]
    assert np.isnan(found["dice_low"]) and np.isfinite(found["dice_mean"])
    assert found["note"] == "one patient: no interval"


def test_paper_table1_repeats_the_printed_numbers_in_our_columns():
    printed = paper_table1()
    assert list(printed.columns) == list(table1(synthetic_scores(n=2)).columns)
    cnn = printed.set_index("arm").loc["cnn"]
    assert cnn["dice"] == "0.359 (0.201)"
    assert cnn["roc_auc"] == "0.868"
    assert cnn["hd95_mm"] == "53.7 (18.9)"
    assert cnn["dice_mean"] == paper.TABLE1["cnn"]["dice"][0]


def test_paired_tests_equal_scipy_on_the_same_pairs():
    scores = synthetic_scores()
    rows = scores[scores["matrix"] == "circulant"]
    cnn = rows[rows["arm"] == "cnn"].set_index("case")
    expert = rows[rows["arm"] == "expert"].set_index("case").loc[cnn.index]
    tests = paired_tests(scores)
    t = of_test(tests, "cnn", "dice", "paired t-test")
    assert t["p"] == pytest.approx(stats.ttest_1samp(cnn["dice"] - expert["dice"], 0).pvalue)
    assert (t["n"], t["unit"], t["dropped"]) == (20, "scan", 0)
    assert t["difference"] == pytest.approx((cnn["dice"] - expert["dice"]).mean())
    u = of_test(tests, "cnn", "volume_ml", "Mann-Whitney U")
    greater = np.sum(cnn["volume_ml"].to_numpy()[:, None] > expert["volume_ml"].to_numpy())
    assert u["statistic"] == greater  # U counts the pairs in which the first is greater
    w = of_test(tests, "cnn", "dice", "Wilcoxon signed-rank")
    by_patient = (cnn["dice"] - expert["dice"]).groupby(cnn["patient"]).mean()
    assert w["p"] == pytest.approx(stats.wilcoxon(by_patient).pvalue)
    assert (w["n"], w["unit"]) == (15, "patient")
    assert len(tests) == 3 * 5 * 3


def test_signed_rank_p_of_a_hand_case():
    """Six patients, all better: p = 2 / 2⁶."""
    scores = pd.concat(
        pd.DataFrame(
            {
                "case": list("abcdef"),
                "patient": list("abcdef"),
                "arm": arm,
                "matrix": "circulant",
                "dice": 0.3 + gain * np.arange(1, 7),
            }
        )
        for arm, gain in [("expert", 0), ("cnn", 0.01)]
    )
    tests = paired_tests(scores, metrics=["dice"])
    assert of_test(tests, "cnn", "dice", "Wilcoxon signed-rank")["p"] == pytest.approx(2 / 64)


def test_two_slabs_of_one_patient_are_named():
    note = of_test(paired_tests(synthetic_scores()), "cnn", "dice", "paired t-test")["note"]
    assert "20 scans are of 15 patients" in note


@pytest.mark.parametrize(
    ("dice", "reason"),
    [
        ([0.3, 0.4, 0.5], "all differences are zero"),
        ([0.4, 0.5, 0.6], "all differences are equal"),
        ([np.nan, 0.5, np.nan], "n = 1: no test; 2 scans without a value"),
        ([np.nan, np.nan, np.nan], "n = 0: no test; 3 scans without a value"),
    ],
)
def test_degenerate_pairs_are_said_in_words(dice, reason):
    scores = synthetic_scores(n=3, arms=("expert", "cnn")).query("matrix == 'circulant'").sort_values("arm")
    scores["dice"] = [*dice, 0.3, 0.4, 0.5]
    t = of_test(paired_tests(scores, metrics=["dice"]), "cnn", "dice", "paired t-test")
    assert np.isnan(t["p"])
    assert reason in t["note"]


def test_missing_arm_of_a_case_is_dropped_and_counted():
    scores = synthetic_scores().query("not (arm == 'cnn' and case == 'case_3')")
    t = of_test(paired_tests(scores), "cnn", "dice", "paired t-test")
    assert (t["n"], t["dropped"]) == (19, 1)
    assert "1 scan without a value in both arms left out" in t["note"]


def test_few_patients_cannot_be_significant_and_it_is_said():
    w = of_test(paired_tests(synthetic_scores(n=4)), "cnn", "dice", "Wilcoxon signed-rank")
    assert "p cannot fall below .05" in w["note"]
    assert w["p"] > 0.05


def test_scores_at_the_door():
    scores = synthetic_scores(n=2)
    with pytest.raises(ValueError, match=r"\['dice'\] are missing"):
        table1(scores.drop(columns="dice"))
    with pytest.raises(ValueError, match="'toeplitz' was asked for"):
        table1(scores, "toeplitz")
    with pytest.raises(ValueError, match="more than once"):
        table1(pd.concat([scores, scores]))
    with pytest.raises(ValueError, match="'rapid' is not in"):
        paired_tests(scores, reference="rapid")


def test_every_metric_of_the_paper_is_summarised():
    assert set(METRICS) == set(paper.TABLE1["cnn"])
