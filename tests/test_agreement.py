"""Agreement statistics against SciPy, statsmodels, scikit-learn, simulations and worked examples in print."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perfkit import agreement, blandaltman
from perfkit.agreement import cohen_kappa, icc21, icc21_interval, lins_ccc
from perfkit.blandaltman import bland_altman

ISLES18 = Path(__file__).parents[1] / "data/reference/isles18_training_index.csv"
# Bland & Altman 1986, Table 1: peak expiratory flow (l/min), first measurement with each meter
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI_WRIGHT = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
SHROUT_FLEISS = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


def test_agreement_of_two_systems_equals_the_published_numbers():
    index = pd.read_csv(ISLES18)
    ours, rapid = index["core_ml_openperfusion"], index["core_ml_rapid"]
    found = bland_altman(ours, rapid)
    assert found.bias == pytest.approx(-0.66098, abs=1e-3)
    assert found.sd == pytest.approx(3.35147, abs=1e-3)
    assert found.lower == pytest.approx(-7.22987, abs=1e-3)
    assert found.upper == pytest.approx(5.90791, abs=1e-3)
    assert found.n == 94
    assert icc21(ours, rapid) == pytest.approx(0.982178, abs=1e-3)


def test_bland_altman_of_four_pairs_by_hand():
    found = bland_altman([1, 2, 3, 4], [0, 2, 2, 6])  # differences 1, 0, 1, -2
    assert found.bias == 0
    assert found.sd == pytest.approx(np.sqrt(6 / 3))
    assert found.upper == pytest.approx(1.96 * np.sqrt(2))


def test_icc_of_shrout_and_fleiss():
    assert agreement._icc21(np.array(SHROUT_FLEISS, float)) == pytest.approx(0.29, abs=0.005)


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


@pytest.mark.parametrize("statistic", [bland_altman, icc21])
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2, 3], [1, 2], "one length"),
        ([1], [2], "at least 2 pairs: 1 came"),
        ([1, np.nan], [1, 2], "finite: 1 of 2"),
        ([[1, 2]], [[1, 2]], "paired lists"),
    ],
)
def test_agreement_refuses_bad_measurements(statistic, x, y, words):
    with pytest.raises(ValueError, match=words):
        statistic(x, y)


def test_agreement_refuses_words_for_numbers():
    with pytest.raises(TypeError, match="must be numbers"):
        bland_altman(["much", "more"], [1, 2])


def test_bland_altman_of_the_two_flow_meters():
    """Bland & Altman 1986: bias −2.1 l/min, SD 38.8, 95 % interval of the bias −22.0 to 17.8."""
    found = bland_altman(WRIGHT, MINI_WRIGHT)
    assert [round(found.bias, 1), round(found.sd, 1)] == [-2.1, 38.8]
    assert [round(found.bias_low, 1), round(found.bias_high, 1)] == [-22.0, 17.8]
    assert found.n == 17


def test_factors_of_the_limits_are_tabulated_tolerance_factors():
    """One-sided tolerance factors of a normal sample, 95 % content, 95 % confidence: 2.911 and 2.396."""
    z = stats.norm.ppf(0.95)
    assert blandaltman._limit_factors(10, z, 0.90)[1] == pytest.approx(2.911, abs=5e-4)
    assert blandaltman._limit_factors(20, z, 0.90)[1] == pytest.approx(2.396, abs=5e-4)


def test_interval_of_a_limit_covers_the_true_limit_of_normal_differences():
    rng = np.random.default_rng(0)
    covered = []
    for sample in rng.normal(1, 2, (1500, 8)):
        found = bland_altman(sample, np.zeros(8))
        covered.append(found.upper_low < 1 + 1.96 * 2 < found.upper_high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_limits_of_many_pairs_have_the_interval_of_bland_and_altman_1999():
    rng = np.random.default_rng(1)
    x, y = rng.normal(0, 3, (2, 400))
    found = bland_altman(x, y)
    half = stats.t.ppf(0.975, 399) * found.sd * np.sqrt(1 / 400 + 1.96**2 / (2 * 399))
    assert found.upper_low == pytest.approx(found.upper - half, abs=0.1 * half)
    assert found.lower_high == pytest.approx(found.lower + half, abs=0.1 * half)


def test_slope_equals_the_regression_of_statsmodels_and_its_p_is_pitman_morgan():
    from statsmodels.api import OLS, add_constant

    rng = np.random.default_rng(2)
    truth = rng.lognormal(3, 1, 40)
    x, y = 1.2 * truth + rng.normal(0, 5, 40), truth + rng.normal(0, 5, 40)
    fit = OLS(x - y, add_constant((x + y) / 2)).fit()
    found = bland_altman(x, y)
    assert [found.slope, found.slope_p] == pytest.approx([fit.params[1], fit.pvalues[1]])
    assert [found.slope_low, found.slope_high] == pytest.approx(fit.conf_int()[1])
    # Pitman 1939: t of the correlation of sum and difference, written with the two variances
    s, r = np.cov(x, y), np.corrcoef(x, y)[0, 1]
    t = (s[0, 0] - s[1, 1]) * np.sqrt(38) / (2 * np.sqrt(s[0, 0] * s[1, 1] * (1 - r**2)))
    assert found.pitman_morgan_p == pytest.approx(2 * stats.t.sf(abs(t), 38))


def test_noise_alone_makes_a_slope_so_the_test_is_one_of_variances():
    rng = np.random.default_rng(3)
    truth = rng.normal(30, 10, 500)
    found = bland_altman(truth + rng.normal(0, 8, 500), truth)  # no proportional bias at all
    assert found.slope_p < 1e-6 and found.pitman_morgan_p == pytest.approx(found.slope_p)
    assert found.sd_ratio_low > 1


def test_interval_of_the_sd_ratio_touches_one_where_p_is_the_level():
    rng = np.random.default_rng(4)
    x, y = rng.multivariate_normal([0, 0], [[1.5, 0.6], [0.6, 1]], 30).T
    found = bland_altman(x, y)
    at_p = bland_altman(x, y, level=1 - found.pitman_morgan_p)
    assert found.sd_ratio == pytest.approx(np.std(x) / np.std(y))
    assert min(abs(at_p.sd_ratio_low - 1), abs(at_p.sd_ratio_high - 1)) == pytest.approx(0, abs=1e-9)


def test_slope_over_patients_is_tested_with_the_clustered_sandwich():
    """Against the sandwich written out: (X'X)⁻¹ (Σ u u') (X'X)⁻¹ with u the sum of scores of a patient."""
    rng = np.random.default_rng(5)
    patients = np.repeat(np.arange(12), 2)
    x, y = rng.normal(20, 5, (2, 24)) + np.repeat(rng.normal(0, 3, 12), 2)
    found = bland_altman(x, y, patients=patients)
    design, d = np.column_stack([np.ones(24), (x + y) / 2]), x - y
    bread = np.linalg.inv(design.T @ design)
    beta = bread @ design.T @ d
    scores = [design[patients == g].T @ (d - design @ beta)[patients == g] for g in range(12)]
    cov = bread @ sum(np.outer(u, u) for u in scores) @ bread * (12 / 11) * (23 / 22)
    assert found.slope_p == pytest.approx(2 * stats.t.sf(abs(beta[1]) / np.sqrt(cov[1, 1]), 11))


def test_a_weight_counts_as_the_scan_drawn_so_often():
    """Statistics of weights equal those of the drawn scans, one resample after the other."""
    rng = np.random.default_rng(6)
    x = rng.normal(30, 8, 25)
    y = x + rng.normal(1, 3, 25)
    for _ in range(20):
        i = rng.integers(0, 25, 25)
        weights = np.bincount(i, minlength=25).astype(float)
        drawn = bland_altman(x[i], y[i])
        expected = [drawn.bias, drawn.lower, drawn.upper, drawn.slope, drawn.sd_ratio]
        assert blandaltman._weighted_bland_altman(weights, x, y) == pytest.approx(expected)
        assert agreement._weighted_icc21(weights, x, y) == pytest.approx(icc21(x[i], y[i]))
        assert agreement._weighted_ccc(weights, x, y) == pytest.approx(lins_ccc(x[i], y[i]).value)
        a, b = x > 30, y > 30
        assert agreement._weighted_kappa(weights, a, b) == pytest.approx(cohen_kappa(a[i], b[i]).value)


def test_intervals_over_patients_count_pairs_and_patients():
    rng = np.random.default_rng(11)
    x = rng.normal(30, 8, 40)
    y, patients = x + np.repeat(rng.normal(1, 3, 20), 2), np.repeat(np.arange(20), 2)
    alone, grouped = bland_altman(x, y), bland_altman(x, y, patients=patients)
    assert (grouped.n, grouped.n_patients, alone.n_patients) == (40, 20, None)
    ratio = (grouped.bias_high - grouped.bias_low) / (alone.bias_high - alone.bias_low)
    assert ratio == pytest.approx(np.sqrt(2), rel=0.1)  # two equal differences are one
    for statistic in (icc21_interval, lins_ccc):
        found = statistic(x, y, patients=patients)
        assert found.low < found.value < found.high and (found.n, found.n_patients) == (40, 20)


def test_icc_interval_of_shrout_and_fleiss():
    """The interval psych and pingouin give for ICC(2,1) of this table: .02 to .76."""
    assert agreement._icc21_limits(np.array(SHROUT_FLEISS, float), 0.95) == pytest.approx(
        (0.0188, 0.7611), abs=1e-4
    )


def test_icc_interval_covers():
    rng = np.random.default_rng(7)
    covered = []
    for _ in range(600):
        truth, shift = rng.normal(0, 2, 30), rng.normal(0, 0.5, 2)
        x, y = truth + shift[:, None] + rng.normal(0, 1, (2, 30))
        found = icc21_interval(x, y)
        covered.append(found.low < 4 / (4 + 0.25 + 1) < found.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.03)


def test_ccc_is_one_minus_the_scaled_squared_distance_and_its_interval_covers():
    rng = np.random.default_rng(8)
    x, y = rng.normal(0, 1, (2, 25))
    expected = 1 - np.mean((x - y) ** 2) / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert lins_ccc(x, y).value == pytest.approx(expected)
    true, covered = 2 * 0.8 / (1 + 1.3 + 0.3**2), []
    for _ in range(1000):
        x, y = rng.multivariate_normal([0, 0.3], [[1, 0.8], [0.8, 1.3]], 40).T
        found = lins_ccc(x, y)
        covered.append(found.low < true < found.high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_ccc_is_no_more_than_the_correlation():
    assert lins_ccc(WRIGHT, MINI_WRIGHT).value < np.corrcoef(WRIGHT, MINI_WRIGHT)[0, 1]


def test_kappa_equals_scikit_learn_and_the_2_by_2_formula():
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(9)
    a = rng.random(80) < 0.4
    b = np.where(rng.random(80) < 0.2, ~a, a)
    found = cohen_kappa(a, b)
    assert found.value == pytest.approx(cohen_kappa_score(a, b))
    # Fleiss, Cohen & Everitt 1969, written out cell by cell
    p = np.array([[np.mean((a == i) & (b == j)) for j in (0, 1)] for i in (0, 1)])
    row, column, k = p.sum(1), p.sum(0), found.value
    first = sum(p[i, i] * (1 - (row[i] + column[i]) * (1 - k)) ** 2 for i in (0, 1))
    second = (1 - k) ** 2 * sum(p[i, j] * (column[i] + row[j]) ** 2 for i, j in ((0, 1), (1, 0)))
    chance = row @ column
    se = np.sqrt((first + second - (k - chance * (1 - k)) ** 2) / ((1 - chance) ** 2 * 80))
    assert [found.low, found.high] == pytest.approx([k - 1.96 * se, k + 1.96 * se], abs=1e-3)


def test_kappa_over_patients_is_wider_where_patients_decide_alike():
    rng = np.random.default_rng(10)
    a = np.repeat(rng.random(30) < 0.5, 4)
    b = a ^ np.repeat(rng.random(30) < 0.2, 4)
    alone, grouped = cohen_kappa(a, b), cohen_kappa(a, b, patients=np.repeat(np.arange(30), 4))
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    assert (grouped.n, grouped.n_patients) == (120, 30)


def test_degenerate_measurements_are_said_in_words():
    same = bland_altman([1, 2, 5], [1, 2, 5])
    assert (same.bias, same.lower, same.upper, same.slope) == (0, 0, 0, 0)
    assert np.isnan(same.slope_p)
    two = bland_altman([1, 2], [2, 5])
    assert two.note == "2 pairs: no test of the slope" and np.isfinite(two.upper_high)
    assert "no slope" in bland_altman([2, 2, 2], [2, 2, 2]).note
    one = bland_altman([1, 2, 5], [1, 3, 5], patients=["p"] * 3)
    assert np.isnan(one.bias_low) and "one patient" in one.note and "the slope cannot be tested" in one.note
    assert icc21_interval([1, 2, 5], [1, 2, 5]).low == 1
    assert icc21_interval([1, 2, 5], [2, 3, 6]).note == "no interval by formula for these 3 pairs"
    assert lins_ccc([1, 2], [2, 5]).note == "no interval by formula for these 2 pairs"
    assert lins_ccc([2, 2], [2, 2]).note == "all values are equal: nothing to tell apart"
    agreed = cohen_kappa([True, False, True], [True, False, True])
    assert agreed.value == 1 and np.isnan([agreed.low, agreed.high]).all()
    assert agreed.note == "no pair is discordant: no interval"
    assert np.isnan(cohen_kappa([True, True], [True, True]).value)
    few = lins_ccc([1, 2, 5, 4], [1, 3, 5, 5], patients=["a", "a", "b", "c"])
    assert "3 patients: the interval may be too narrow" in few.note


@pytest.mark.parametrize("patients", [None, ["a", "a", "b", "c"]])
@pytest.mark.parametrize(("x", "y"), [([0] * 4, [1, 2, 3, 4]), ([1, 2, 3, 4], [0] * 4)])
def test_a_constant_side_has_no_test_of_the_slope_and_no_interval(x, y, patients):
    """The difference is then ∓2 times the mean, pair by pair, whatever the other side measures."""
    found = bland_altman(x, y, patients=patients)
    assert found.slope == pytest.approx(-2 if x[0] == 0 else 2)
    assert np.isnan([found.slope_p, found.slope_low, found.slope_high, found.sd_ratio_low]).all()
    assert "one side is constant: no test of the slope" in found.note
    ccc = lins_ccc(x, y, patients=patients)
    assert ccc.value == 0 and np.isnan([ccc.low, ccc.high]).all() and "one side is constant" in ccc.note


def test_coefficients_of_a_constant_side_have_no_interval_over_patients():
    patients = np.repeat(np.arange(25), 2)
    y = np.random.default_rng(12).lognormal(3, 1, 50)
    for statistic in (icc21_interval, lins_ccc):
        found = statistic(np.zeros(50), y, patients=patients)
        assert found.value == 0 and np.isnan([found.low, found.high]).all()
        assert found.note == "one side is constant: no interval"
        same = statistic(y, y, patients=patients)
        assert [same.value, same.low, same.high] == pytest.approx([1, 1, 1])


def test_a_line_without_scatter_has_no_test_of_the_slope():
    found = bland_altman([2, 4, 6, 10], [1, 2, 3, 5])
    assert found.slope == pytest.approx(2 / 3) and np.isnan(found.slope_p)
    assert found.note == "no scatter about the line: no test of the slope"


def test_residuals_that_cancel_in_every_patient_have_no_test_of_the_slope():
    """Then the sandwich of patients is zero, and its p would be zero up to rounding."""
    mean, residual = np.repeat([1.0, 2.0, 3.0], 2), np.tile([1.0, -1.0], 3)
    d = 0.5 * mean + residual
    found = bland_altman(mean + d / 2, mean - d / 2, patients=np.repeat(["a", "b", "c"], 2))
    assert np.isnan(found.slope_p) and "residuals cancel within patients" in found.note


def test_pairs_that_mirror_each_other_have_no_icc():
    """Targets and raters have no mean square, and the residual counts n − 2 times: 0 − 1 over 0."""
    assert np.isnan(icc21([1, 2], [2, 1])) and np.isnan(icc21([300.3, 0.1], [0.1, 300.3]))
    found = icc21_interval([1, 2], [2, 1])
    assert np.isnan(found.value) and found.note == "two pairs that mirror each other: not defined"
    assert icc21([1, 2, 3], [3, 2, 1]) == pytest.approx(-3)  # residual 2: −2 / (2 − 4/3)


def test_kappa_has_an_interval_only_where_a_pair_is_discordant():
    a = np.arange(30) % 3 == 0
    for patients in (None, np.arange(30) // 2):
        found = cohen_kappa(a, a, patients=patients)
        assert found.value == 1 and np.isnan([found.low, found.high]).all()
        assert found.note == "no pair is discordant: no interval"
    one = a.copy()
    one[0] = not one[0]
    assert cohen_kappa(a, one).low < cohen_kappa(a, one).value < 1
    opposite = cohen_kappa(a, ~a, patients=None)
    assert np.isnan(cohen_kappa([0, 1], [1, 0]).low) and opposite.value < 0


def test_lins_interval_is_continuous_where_nothing_correlates():
    """Its variance as printed divides by r; at r = 0 the limits are those of r close to 0."""
    at = lins_ccc([0, 1, 2, 1], [0, 1, 0, 1])
    near = lins_ccc([0, 1, 2, 1], [0, 1, 1e-7, 1])
    assert at.value == pytest.approx(0) and at.low < 0 < at.high
    assert [at.low, at.high] == pytest.approx([near.low, near.high], abs=1e-6)


def small(rng, n):
    return rng.integers(0, 3, (2, n)) * rng.choice([1, 0.1, 300]) + rng.choice([0, 0.3])


def test_tiny_measurements_never_warn_and_are_finite_or_not_defined():
    rng = np.random.default_rng(13)
    for _ in range(600):
        x, y = small(rng, rng.integers(2, 5))
        assert not np.isinf(icc21(x, y))
        assert not np.isinf([v for v in vars(bland_altman(x, y)).values() if isinstance(v, float)]).any()
        for statistic in (icc21_interval, lins_ccc, cohen_kappa):
            found = statistic(x, y)
            assert not np.isinf([found.value, found.low, found.high]).any()
            assert found.low < found.value < found.high or np.isnan(found.low) or found.value == 1
            assert found.note or np.isfinite(found.low)


def test_tiny_measurements_of_patients_never_warn_and_are_finite_or_not_defined():
    rng = np.random.default_rng(14)
    for _ in range(60):
        x, y = small(rng, 4)
        patients = rng.integers(0, 3, 4)
        found = bland_altman(x, y, patients=patients)
        assert not np.isinf([v for v in vars(found).values() if isinstance(v, float)]).any()
        assert np.isnan(found.slope_p) or found.slope_p > 1e-9
        for statistic in (icc21_interval, lins_ccc, cohen_kappa):
            found = statistic(x, y, patients=patients)
            assert not np.isinf([found.value, found.low, found.high]).any()
            assert found.note  # so few patients always have one


def test_patients_must_fit_the_pairs():
    with pytest.raises(ValueError, match="the patient of each pair: 3 pairs"):
        bland_altman([1, 2, 3], [1, 2, 4], patients=["a", "b"])
    with pytest.raises(ValueError, match="at least 2"):
        cohen_kappa([True], [True])
