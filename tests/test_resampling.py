"""The bootstrap over patients against SciPy, a loop and the coverage it promises."""

import numpy as np
import pytest
from scipy import stats

from perfkit.resampling import bootstrap_interval, bootstrap_intervals, weighted_mean


def two_slabs(rng, n_studies=None, *, patients=63, twice=31, within=0.5):
    """(studies, 94) values of 63 patients, 31 with two slabs that share most of their deviation."""
    owner = np.r_[np.repeat(np.arange(twice), 2), np.arange(twice, patients)]
    shape = (1 if n_studies is None else n_studies,)
    values = rng.normal(0, 1, (*shape, patients))[:, owner] + rng.normal(0, within, (*shape, len(owner)))
    return (values[0] if n_studies is None else values), owner


def named(owner):
    """Names that sort as the numbers do."""
    return [f"p{number:02d}" for number in owner]


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_with_one_scan_per_patient_it_is_scipys_bootstrap(method):
    x = np.random.default_rng(0).lognormal(0, 1, 40)
    options = {"n_resamples": 9999, "method": method, "rng": np.random.default_rng(0)}
    expected = stats.bootstrap((x,), np.mean, **options).confidence_interval
    found = bootstrap_interval(weighted_mean(x), named(range(40)), method=method)
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high])
    assert (found.n_patients, found.note, found.method) == (40, "", method)


def test_a_drawn_patient_brings_all_its_scans():
    """Percentile interval against drawing patients in a loop with the same random indices."""
    x, owner = two_slabs(np.random.default_rng(1), patients=15, twice=7)
    index = np.random.default_rng(0).integers(0, 15, (500, 15))
    means = [np.concatenate([x[owner == patient] for patient in row]).mean() for row in index]
    found = bootstrap_interval(weighted_mean(x), named(owner), method="percentile", n_resamples=500)
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]))


def test_bca_uses_the_jackknife_over_patients():
    """Efron 1987 written out, with patients left out one by one."""
    x, owner = two_slabs(np.random.default_rng(2), patients=20, twice=10)
    x = np.exp(x)
    index = np.random.default_rng(0).integers(0, 20, (999, 20))
    drawn = np.array([np.concatenate([x[owner == patient] for patient in row]).mean() for row in index])
    left_out = np.array([x[owner != patient].mean() for patient in range(20)])
    u = left_out.mean() - left_out
    a = np.sum(u**3) / (6 * np.sum(u**2) ** 1.5)
    z0 = stats.norm.ppf(np.mean(drawn < x.mean()))
    z = stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(drawn, stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))))
    found = bootstrap_interval(weighted_mean(x), named(owner), n_resamples=999)
    assert [found.low, found.high] == pytest.approx(expected)


def test_several_statistics_at_once_are_each_alone():
    x, owner = two_slabs(np.random.default_rng(3))
    both = bootstrap_intervals(weighted_mean([x, x**2]), owner)
    alone = bootstrap_interval(weighted_mean(x**2), owner)
    assert [both[1].low, both[1].high] == pytest.approx([alone.low, alone.high])
    assert both[0] != both[1]


def test_seeds():
    x, owner = two_slabs(np.random.default_rng(4))
    first = bootstrap_interval(weighted_mean(x), owner, seed=5)
    assert first == bootstrap_interval(weighted_mean(x), owner, seed=5)
    assert first != bootstrap_interval(weighted_mean(x), owner, seed=6)


def test_the_interval_over_patients_covers_and_the_naive_one_does_not():
    """400 cohorts of 63 patients, 31 with two slabs: 95 % is promised."""
    values, owner = two_slabs(np.random.default_rng(5), 400)
    covered = {"patient": 0, "scan": 0}
    for x in values:
        for unit, groups in (("patient", owner), ("scan", np.arange(94))):
            found = bootstrap_interval(weighted_mean(x), groups, n_resamples=999)
            covered[unit] += found.low <= 0 <= found.high
    assert covered["patient"] / 400 == pytest.approx(0.94, abs=0.03)
    assert covered["scan"] / 400 < 0.905


@pytest.mark.parametrize(
    ("x", "owner", "words"),
    [
        ([], [], "no patient"),
        ([0.4, 0.5], ["a", "a"], "one patient: no interval"),
        ([0.4, 0.4, 0.4], ["a", "b", "c"], "no spread"),
        ([0.1 + 0.2, 0.3, 0.3], ["a", "b", "c"], "no spread"),
        ([np.nan, np.nan], ["a", "b"], "not defined"),
        ([0.4, 0.6], ["a", "b"], "2 patients: the interval may be too narrow"),
    ],
)
def test_where_there_is_little_to_resample_it_says_so(x, owner, words):
    assert words in bootstrap_interval(weighted_mean(x), owner).note


def test_what_does_not_vary_though_the_values_do_has_no_interval():
    """A ratio of 2 in every patient: no resample can tell how sure it is."""
    x, owner = np.array([1.0, 2.0, 3.0]), ["a", "b", "c"]
    why = "the same in all resamples: no interval"
    found = bootstrap_interval(lambda w: (w @ (2 * x)) / (w @ x), owner, no_spread=why)
    assert np.isnan([found.low, found.high]).all() and found.note.startswith(why)
    equal = bootstrap_interval(weighted_mean([0.4, 0.4, 0.4]), owner)
    assert [equal.low, equal.high] == pytest.approx([0.4, 0.4])


def test_resamples_without_a_value_are_counted():
    """A value in one of three patients: (2/3)³ of the resamples miss it."""
    found = bootstrap_interval(weighted_mean([0.2, np.nan, 0.4]), ["a", "b", "c"])
    left = int(found.note.split(" resamples")[0].split()[-1])
    assert left / 9999 == pytest.approx(1 - 1 / 27, abs=0.01)
    assert "no BCa interval: percentile" in found.note and found.method == "percentile"


def test_the_method_has_two_names():
    with pytest.raises(ValueError, match="'basic' came"):
        bootstrap_interval(weighted_mean([1, 2]), [0, 1], method="basic")
