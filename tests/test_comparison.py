"""Table 1, the tests and the agreement statistics against SciPy, statsmodels and published numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import synthetic_scores

from perfkit import paper
from perfkit.comparison import (
    METRICS,
    bland_altman,
    icc21,
    paired_tests,
    paper_table1,
    table1,
)
from perfkit.comparison import _icc21 as icc_of_many_raters

ISLES18 = Path(__file__).parents[1] / "data/reference/isles18_training_index.csv"


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


def test_agreement_of_two_systems_equals_the_published_numbers():
    index = pd.read_csv(ISLES18)
    ours, rapid = index["core_ml_openperfusion"], index["core_ml_rapid"]
    agreement = bland_altman(ours, rapid)
    assert agreement.bias == pytest.approx(-0.66098, abs=1e-3)
    assert agreement.sd == pytest.approx(3.35147, abs=1e-3)
    assert agreement.lower == pytest.approx(-7.22987, abs=1e-3)
    assert agreement.upper == pytest.approx(5.90791, abs=1e-3)
    assert agreement.n == 94
    assert icc21(ours, rapid) == pytest.approx(0.982178, abs=1e-3)


def test_bland_altman_of_four_pairs_by_hand():
    agreement = bland_altman([1, 2, 3, 4], [0, 2, 2, 6])  # differences 1, 0, 1, -2
    assert agreement.bias == 0
    assert agreement.sd == pytest.approx(np.sqrt(6 / 3))
    assert agreement.upper == pytest.approx(1.96 * np.sqrt(2))


def test_icc_of_shrout_and_fleiss():
    ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
    assert icc_of_many_raters(np.array(ratings, float)) == pytest.approx(0.29, abs=0.005)


def test_icc_equals_the_variance_components_of_statsmodels():
    from statsmodels.formula.api import ols
    from statsmodels.stats.anova import anova_lm

    rng = np.random.default_rng(1)
    truth = rng.lognormal(3, 1, 30)
    x, y = truth + rng.normal(0, 4, 30), 1.1 * truth + rng.normal(2, 4, 30)
    long = pd.DataFrame({"v": np.r_[x, y], "scan": np.tile(np.arange(30), 2), "rater": np.repeat([0, 1], 30)})
    mean_square = anova_lm(ols("v ~ C(scan) + C(rater)", long).fit())["mean_sq"]
    scans, raters, rest = mean_square["C(scan)"], mean_square["C(rater)"], mean_square["Residual"]
    between, bias = (scans - rest) / 2, (raters - rest) / 30
    assert icc21(x, y) == pytest.approx(between / (between + bias + rest))


def test_icc_of_identical_and_of_constant_measurements():
    assert icc21([1, 2, 5], [1, 2, 5]) == pytest.approx(1)
    assert np.isnan(icc21([2, 2], [2, 2]))


@pytest.mark.parametrize("agreement", [bland_altman, icc21])
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2, 3], [1, 2], "one length"),
        ([1], [2], "at least 2 pairs: 1 came"),
        ([1, np.nan], [1, 2], "finite: 1 of 2"),
        ([[1, 2]], [[1, 2]], "paired lists"),
    ],
)
def test_agreement_refuses_bad_measurements(agreement, x, y, words):
    with pytest.raises(ValueError, match=words):
        agreement(x, y)


def test_agreement_refuses_words_for_numbers():
    with pytest.raises(TypeError, match="must be numbers"):
        bland_altman(["much", "more"], [1, 2])


def test_every_metric_of_the_paper_is_summarised():
    assert set(METRICS) == set(paper.TABLE1["cnn"])
