"""Tests by patient against SciPy, statsmodels, enumeration and the error rates they promise."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import synthetic_scores

from perfkit.pairedtests import (
    COLUMNS,
    _signed_rank_quantile,
    compare_differences,
    hodges_lehmann,
    holm,
    patient_tests,
    rank_biserial,
)


def patients_of(scores):
    return scores.groupby(["patient", "arm", "matrix"], as_index=False, sort=False).mean(numeric_only=True)


def two_arms(differences, reference=0.4):
    """Patients whose Dice differs by ``differences`` between cnn and expert."""
    n = len(differences)
    return pd.DataFrame(
        {
            "patient": [f"p{i}" for i in range(n)] * 2,
            "arm": ["expert"] * n + ["cnn"] * n,
            "matrix": "circulant",
            "dice": np.r_[np.full(n, reference), reference + np.asarray(differences, float)],
        }
    )


def test_one_row_per_arm_and_metric_with_its_unit():
    table = patient_tests(patients_of(synthetic_scores()))
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 3 * 5
    assert set(table["unit"]) == {"patient"} and set(table["n"]) == {15} and set(table["dropped"]) == {0}


def test_numbers_are_those_of_scipy_and_statsmodels():
    from statsmodels.stats.weightstats import DescrStatsW

    d = np.random.default_rng(0).normal(0.01, 0.04, 30)
    found = compare_differences(d, margin=0.02)
    assert found["wilcoxon_p"] == pytest.approx(stats.wilcoxon(d).pvalue)
    assert [found["mean_difference"], found["sd_difference"]] == pytest.approx([d.mean(), d.std(ddof=1)])
    _, lower, upper = DescrStatsW(d).ttost_mean(-0.02, 0.02)
    assert [found["tost_p_lower"], found["tost_p_upper"]] == pytest.approx([lower[1], upper[1]])
    half = stats.t.ppf(0.95, 29) * d.std(ddof=1) / np.sqrt(30)
    assert [found["tost_low"], found["tost_high"]] == pytest.approx([d.mean() - half, d.mean() + half])


def test_sign_flips_of_few_patients_are_all_of_them():
    d = np.array([0.05, -0.01, 0.03, 0.08, 0.02, -0.04, 0.06])
    means = [np.mean(d * signs) for signs in itertools.product([1, -1], repeat=7)]
    found = compare_differences(d)
    assert found["permutation_exact"]
    assert found["permutation_p"] == pytest.approx(np.mean(np.abs(means) >= abs(d.mean()) - 1e-12))


def test_sign_flips_of_many_patients_agree_with_the_t_test_on_normal_differences():
    d = np.random.default_rng(1).normal(0.01, 0.04, 60)
    found = compare_differences(d)
    assert not found["permutation_exact"]
    assert found["permutation_p"] == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.015)


def test_hodges_lehmann_of_a_hand_case():
    assert hodges_lehmann(np.array([1.0, 2.0, 6.0]))[0] == 2.75  # of 1, 1.5, 2, 3.5, 4, 6


def test_the_interval_holds_what_the_signed_rank_test_does_not_reject():
    d = np.random.default_rng(2).normal(0.3, 1, 15)
    _, low, high = hodges_lehmann(d)
    for limit, outward in ((low, -1e-6), (high, 1e-6)):
        assert stats.wilcoxon(d - limit - outward, method="exact").pvalue < 0.05
        assert stats.wilcoxon(d - limit + outward, method="exact").pvalue >= 0.05


@pytest.mark.parametrize("n", [50, 51, 63, 130, 500])
def test_signed_rank_quantile_is_exact_for_many_patients_too(n):
    ways = [1]  # in whole numbers of any size
    for rank in range(1, n + 1):
        ways = [a + b for a, b in zip(ways + [0] * rank, [0] * rank + ways, strict=True)]
    below, q = ways[0], 0
    while 40 * below < 2**n:  # P(W ≤ q) < 1/40
        q += 1
        below += ways[q]
    assert _signed_rank_quantile(n, 0.025) == q


def test_fewer_patients_than_a_test_could_reject_with_have_no_interval():
    d = np.random.default_rng(0).normal(1, 0.1, 6)
    limits = ["mean_low", "mean_high", "hl_low", "hl_high"]
    for n, known in ((6, True), (5, False), (2, False)):
        found = pd.Series(compare_differences(d[:n])).reindex(limits).astype(float)
        assert np.isfinite(found).all() if known else np.isnan(found).all()


@pytest.mark.parametrize("n", [1, 4, 7])
def test_signed_rank_quantile_is_that_of_all_subsets_of_ranks(n):
    sums = [
        sum(rank for rank, chosen in enumerate(subset, 1) if chosen)
        for subset in itertools.product([0, 1], repeat=n)
    ]
    for p in (0.025, 0.05, 0.3):
        assert _signed_rank_quantile(n, p) == min(q for q in sums if np.mean(np.array(sums) <= q) >= p)


def test_exact_and_normal_ranks_meet():
    exact = _signed_rank_quantile(50, 0.025)
    normal = 50 * 51 / 4 - 1.959964 * np.sqrt(50 * 51 * 101 / 24)
    assert exact == 434 + 1  # R: qsignrank(.025, 50) is 435
    assert exact == pytest.approx(normal, abs=2)


def test_rank_biserial_by_hand():
    # ranks of 3, 1, 2 are 3, 1, 2: favourable 3 + 2, unfavourable 1; the zero does not count
    assert rank_biserial(np.array([0.3, -0.1, 0.2, 0.0])) == pytest.approx((5 - 1) / 6)


def test_holm_by_hand_leaves_undefined_out():
    assert holm([0.01, np.nan, 0.04, 0.03]) == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)
    assert np.isnan(holm([np.nan])).all()


def test_holm_counts_metrics_and_comparators():
    table = patient_tests(patients_of(synthetic_scores()))
    worst = table["wilcoxon_p"].min()
    assert table["wilcoxon_p_holm"].min() == pytest.approx(min(1, 15 * worst))


@pytest.mark.parametrize(
    ("centre", "sd", "verdict"),
    [(0.0, 0.02, "equivalent"), (0.0, 0.2, "not shown"), (0.1, 0.02, "not equivalent")],
)
def test_equivalence_has_three_verdicts(centre, sd, verdict):
    d = centre + sd * stats.norm.ppf((np.arange(40) + 0.5) / 40)
    found = compare_differences(d, margin=0.02)
    assert found["equivalence"] == verdict
    both = max(found["tost_p_lower"], found["tost_p_upper"])
    assert (both < 0.05) == (verdict == "equivalent")


@pytest.mark.parametrize(
    ("differences", "words"),
    [
        ([], "no patient: no test"),
        ([0.1], "one patient: no test"),
        ([0.0, 0.0, 0.0], "all differences are zero: no test"),
        ([0.1, 0.1, 0.1], "all differences are equal: no test of equivalence"),
        ([0.1, -0.2], "2 patients: too few for a 95 % interval"),
        ([0.0] * 9 + [0.2], "1 patients differ: no p can fall below 0.05"),
    ],
)
def test_degenerate_differences_are_said_in_words(differences, words):
    found = compare_differences(np.array(differences, float), margin=0.02)
    assert words in found["note"]
    assert found["n"] == len(differences)


def test_missing_values_and_arms_are_dropped_and_counted():
    table = two_arms([0.1, 0.2, np.nan, 0.3])
    found = patient_tests(table[:-1]).iloc[0]
    assert (found["n"], found["dropped"]) == (2, 2)
    assert "2 patients without a value in both arms for the same slabs left out" in found["note"]


def test_a_table_without_any_value_is_a_table_of_words():
    found = patient_tests(two_arms([np.nan, np.nan])).iloc[0]
    assert found["n"] == 0
    why = "2 patients without a value in both arms for the same slabs left out"
    assert found["note"] == f"no patient: no test; {why}"
    assert np.isnan(found["wilcoxon_p_holm"])


def test_the_reference_alone_gives_an_empty_table():
    table = patient_tests(two_arms([0.1, 0.2]).query("arm == 'expert'"))
    assert table.empty and list(table.columns) == list(COLUMNS)


def test_the_door():
    with pytest.raises(ValueError, match="'rapid' is not in"):
        patient_tests(two_arms([0.1]), "rapid")
    with pytest.raises(ValueError, match="more than once"):
        patient_tests(pd.concat([two_arms([0.1]), two_arms([0.1])]))
    with pytest.raises(ValueError, match=r"\['hd95_mm'\] are missing"):
        patient_tests(two_arms([0.1]), metrics=["hd95_mm"])


def test_type_one_error_by_patient_and_by_scan():
    """4000 studies of 63 patients, 31 with two slabs whose differences are alike; no arm is better."""
    rng = np.random.default_rng(7)
    owner = np.r_[np.repeat(np.arange(31), 2), np.arange(31, 63)]
    patient = rng.normal(0, 0.04, (4000, 63))  # an arm suits a patient or it does not
    scans = patient[:, owner] + rng.normal(0, 0.015, (4000, 94))
    by_scan = stats.ttest_1samp(scans, 0, axis=1).pvalue
    member = (owner[:, None] == np.arange(63)).astype(float)
    means = scans @ member / member.sum(axis=0)
    by_rank = stats.wilcoxon(means, axis=1).pvalue
    assert np.mean(by_rank < 0.05) == pytest.approx(0.05, abs=0.015)
    assert np.mean(by_scan < 0.05) > 0.08
    # sign flips of all studies at once: |mean| against the same 999 patterns of signs
    signs = rng.choice([-1.0, 1.0], (63, 999))
    flipped = np.abs(means @ signs)
    by_flip = (1 + np.sum(flipped >= np.abs(means.sum(axis=1))[:, None] - 1e-12, axis=1)) / 1000
    assert np.mean(by_flip < 0.05) == pytest.approx(0.05, abs=0.015)
    # and those p-values are the ones of the package
    for k in range(3):
        found = compare_differences(means[k])
        assert found["wilcoxon_p"] == pytest.approx(by_rank[k])
        assert found["permutation_p"] == pytest.approx(by_flip[k], abs=0.05)
