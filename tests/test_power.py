"""Power against simulation, statsmodels and the numbers of pairs in print."""

import numpy as np
import pytest
from scipy import stats
from synthetic import synthetic_scores
from test_pairedtests import patients_of, two_arms

from perfkit.power import COLUMNS, DIFFERENCES, paired_power, pairs_needed, power_table


@pytest.mark.parametrize(("sd", "rounded"), [(0.03, 198), (0.05, 547), (0.08, 1397)])
def test_pairs_for_the_gain_the_paper_reports(sd, rounded):
    """Solved without rounding, a Dice of .006 takes 198.2, 547 and 1397.2 pairs; whole ones must reach .8."""
    from statsmodels.stats.power import TTestPower

    solved = TTestPower().solve_power(0.006 / sd, None, 0.05, 0.8)
    assert round(solved) == rounded
    needed = pairs_needed(0.006, sd)
    assert needed == np.ceil(solved)
    assert paired_power(0.006, sd, needed) >= 0.8 > paired_power(0.006, sd, needed - 1)


def test_power_is_the_share_of_studies_that_find_the_difference():
    samples = np.random.default_rng(0).normal(0.5, 1, (20000, 20))
    found = np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05)
    assert paired_power(0.5, 1, 20) == pytest.approx(found, abs=0.01)


@pytest.mark.parametrize(("difference", "sd", "n"), [(5, 0.4, 6), (5, 1, 7), (30, 1, 2), (0.1, 1, 100_000)])
def test_large_noncentralities_have_a_power(difference, sd, n):
    """statsmodels has NaN here, since SciPy has no lower tail of the noncentral t beyond some 8."""
    critical = stats.t.ppf(0.975, n - 1)
    upper = stats.nct.sf(critical, n - 1, difference / sd * np.sqrt(n))
    assert paired_power(difference, sd, n) == pytest.approx(upper, abs=1e-12)
    assert 0.999 < paired_power(difference, sd, n) <= 1


def test_power_of_two_pairs_is_the_share_of_simulated_studies():
    samples = np.random.default_rng(1).normal(8, 1, (20000, 2))
    found = np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05)
    assert paired_power(8, 1, 2) == pytest.approx(found, abs=0.012)


@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_power_rises_from_alpha_to_one_with_difference_and_pairs(alpha):
    differences = [0.0, *np.geomspace(1e-3, 1e6, 40)]
    pairs = [2, 3, 4, 5, 6, 7, 10, 20, 50, 100, 1000, 100_000]
    power = np.array([[paired_power(d, 1, n, alpha=alpha) for d in differences] for n in pairs])
    assert power.min() == pytest.approx(alpha) and power.max() == 1
    assert np.diff(power, axis=0).min() > -1e-12 and np.diff(power, axis=1).min() > -1e-12


@pytest.mark.parametrize("power", [0.8, 0.9, 0.999])
@pytest.mark.parametrize("difference", [0.02, 0.3, 1, 4, 12, 60])
def test_pairs_needed_are_the_first_that_reach_the_power(difference, power):
    needed = pairs_needed(difference, 1, power)
    assert paired_power(difference, 1, needed) >= power
    assert needed == 2 or paired_power(difference, 1, needed - 1) < power


def test_no_difference_is_found_as_often_as_the_test_errs():
    assert paired_power(0, 1, 30) == pytest.approx(0.05)
    assert pairs_needed(0, 1) == np.inf
    assert pairs_needed(1e-9, 1) == np.inf


def test_large_differences_need_two_pairs_and_no_spread_has_no_power():
    assert pairs_needed(1e3, 1) == 2
    assert np.isnan(paired_power(0.1, 0, 30)) and np.isnan(pairs_needed(0.1, 0))
    assert np.isnan(paired_power(0.1, 1, 1))


def test_the_table_takes_the_sd_of_paired_patient_differences():
    from statsmodels.stats.power import TTestPower

    patients = patients_of(synthetic_scores())
    table = power_table(patients)
    assert list(table.columns) == list(COLUMNS) and set(table["n"]) == {15}
    wide = patients.query("matrix == 'circulant'").pivot(index="patient", columns="arm", values="dice")
    row = table.query("arm == 'cnn' and metric == 'dice'").iloc[0]
    assert row["sd"] == pytest.approx((wide["cnn"] - wide["expert"]).std())
    assert row["difference"] == DIFFERENCES["dice"] == 0.006
    assert row["power"] == pytest.approx(paired_power(0.006, row["sd"], 15))
    assert paired_power(row["detectable_80"], row["sd"], 15) == pytest.approx(0.8)
    solved = TTestPower().solve_power(None, 15, 0.05, 0.8)
    assert row["detectable_80"] == pytest.approx(solved * row["sd"])
    assert row["n_90"] > row["n_80"] > 15
    # χ²: the variance would be at the edge of its 95 % range if the true SD were the limit
    assert stats.chi2.cdf(14 * row["sd"] ** 2 / row["sd_high"] ** 2, 14) == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("differences", "note"),
    [
        ([0.1], "n = 1: no SD"),
        ([np.nan, np.nan], "n = 0: no SD"),
        ([0.1, 0.1, 0.1], "all differences are equal: no SD"),
        ([0.1, 0.2], "2 patients: the SD is hardly known"),
    ],
)
def test_degenerate_cohorts_are_said_in_words(differences, note):
    assert power_table(two_arms(differences)).iloc[0]["note"] == note
