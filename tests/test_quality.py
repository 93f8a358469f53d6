"""What is said about a curve is true of it, and nothing finite makes it fail."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perfkit import quality
from perfkit.quality import arterial_score, assess, flat_top


def bolus(t, onset, rise, peak, alpha=3.0):
    """Gamma variate with its peak ``rise`` s after ``onset``, written out to owe nothing to the package."""
    x = np.clip(np.asarray(t, float) - onset, 0, None) / rise
    return peak * (x * np.exp(1 - x)) ** alpha


T = np.arange(60.0)
TISSUE = bolus(T, 9, 12, 6)
ARTERY = bolus(T, 7, 7, 80)
VEIN = bolus(T, 12, 9, 150)


def words(*args, **kwargs):
    return " ".join(assess(*args, **kwargs).warnings)


def test_a_good_artery_is_plausible_and_its_figures_are_those_of_the_formula():
    found = assess(ARTERY, 1.0, tissue=TISSUE, vof=VEIN)
    assert found.warnings == () and found.plausible
    assert found.peak == pytest.approx(80, rel=1e-3)
    assert found.time_to_peak == pytest.approx(14, abs=0.05)
    fine = np.arange(0, 60, 0.001)
    high = fine[bolus(fine, 7, 7, 1) >= 0.5]
    assert found.fwhm == pytest.approx(np.ptp(high), abs=0.1)
    early = fine[(bolus(fine, 7, 7, 1) <= 0.2) & (fine < 14)]
    assert found.arrival == pytest.approx(early[-1], abs=0.1)
    assert found.area == pytest.approx(ARTERY.sum()) and found.tail < 0.01
    assert found.vof_area_ratio == pytest.approx(ARTERY.sum() / VEIN.sum())
    assert found.partial_volume_factor == pytest.approx(VEIN.sum() / ARTERY.sum())
    assert found.fit.fwhm == pytest.approx(np.ptp(high), rel=0.01)


def test_the_score_is_the_ratio_of_peak_over_rise_and_width():
    def m(peak, rise, alpha=3.0):
        fine = np.arange(0, 200, 0.001)
        high = fine[bolus(fine, 0, rise, 1, alpha) >= 0.5]
        start = fine[(bolus(fine, 0, rise, 1, alpha) >= 0.1)][0]
        return peak / np.ptp(high), rise, start

    (a, rise_a, start_a), (t, rise_t, _) = m(80, 7), m(6, 12)
    onset = 7 + start_a
    expected = (a / (7 + rise_a - onset)) / (t / (9 + rise_t - onset))
    assert arterial_score(ARTERY, TISSUE, 1.0) == pytest.approx(expected, rel=0.03)
    assert arterial_score(TISSUE, TISSUE, 1.0) == pytest.approx(1)
    assert np.isnan(assess(ARTERY, 1.0).score)


@pytest.mark.parametrize("gain", [1e-3, 0.5, 40.0])
def test_the_score_does_not_see_the_gain_and_the_figures_do(gain):
    a, b = assess(ARTERY, 1.0, tissue=TISSUE), assess(gain * ARTERY, 1.0, tissue=gain * TISSUE)
    assert b.score == pytest.approx(a.score, rel=1e-6)
    assert b.peak == pytest.approx(gain * a.peak)
    for name in ("arrival", "time_to_peak", "fwhm", "tail"):
        assert getattr(b, name) == pytest.approx(getattr(a, name), abs=1e-6)
    assert b.fit.fwhm == pytest.approx(a.fit.fwhm, rel=1e-3)


def test_a_narrower_higher_earlier_curve_scores_higher():
    best = assess(ARTERY, 1.0, tissue=TISSUE).score
    for worse in (bolus(T, 7, 7, 60), bolus(T, 9, 7, 80), bolus(T, 7, 9, 80)):
        assert 1 < assess(worse, 1.0, tissue=TISSUE).score < best


@pytest.mark.parametrize(
    ("curve", "what"),
    [
        (bolus(T, 7, 7, 14), "weak: it peaks at 14 HU"),
        (bolus(T, 4, 26, 80, alpha=4), "too wide"),
        (np.minimum(ARTERY, 50), "flat at the top"),
        (bolus(T, 40, 15, 80), "truncated: it ends"),
        (bolus(T, 45, 40, 80), "still rises in the last frames"),
        (bolus(T, -6, 7, 80), "no baseline"),
        (bolus(T, 14, 7, 80), "arrives after the tissue"),
        (bolus(T, 20, 7, 80), "arrives after the vein"),
        (TISSUE, "no more arterial"),
        (np.where(T == 20, 60.0, 0.0), "too narrow"),
        (bolus(T, 7, 16, 80) * (1 + 0.4 * (-1) ** T), "no gamma variate: R²"),
        (np.zeros(60), "never rises"),
        (-ARTERY, "never rises"),
    ],
)
def test_each_fault_is_said(curve, what):
    assert what in words(curve, 1.0, tissue=TISSUE, vof=VEIN)


@pytest.mark.parametrize("dt", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("alpha", [2.0, 3.0, 6.0])
@pytest.mark.parametrize("width", [6.0, 12.0, 25.0])
def test_a_gamma_variate_is_not_taken_for_a_clipped_one(dt, alpha, width):
    x = np.arange(1e-4, 6, 1e-4)
    high = x[(x * np.exp(1 - x)) ** alpha >= 0.5]
    t = np.arange(0, 90, dt)
    for shift in (0, 0.3 * dt, 0.6 * dt):
        curve = bolus(t, 6 + shift, width / np.ptp(high), 100, alpha)
        assert flat_top(curve, dt) < quality.FLAT_SHARE * width
        assert "flat" not in words(curve, dt)


@pytest.mark.parametrize("dt", [0.5, 1.0])
@pytest.mark.parametrize("level", [0.4, 0.6, 0.75])
def test_a_clipped_curve_is_caught_though_smoothed_in_time(dt, level):
    from scipy.ndimage import gaussian_filter1d

    t = np.arange(0, 60, dt)
    clipped = np.minimum(bolus(t, 7, 9, 100), 100 * level)
    assert "flat at the top" in words(clipped, dt)
    assert "flat at the top" in words(gaussian_filter1d(clipped, 1 / dt), dt)


@pytest.mark.parametrize("peak", [14.98, 14.8, 7.25])
def test_a_weak_peak_never_reads_as_its_limit(peak):
    said = words(bolus(T, 7, 7, peak), 1.0)
    assert float(re.search(r"peaks at ([\d.]+) HU", said)[1]) == pytest.approx(peak, abs=0.1)
    assert "peaks at 15 HU" not in said


@pytest.mark.parametrize(
    ("first", "what"), [(0, ""), (6, ""), (9, "One frame alone before"), (12, "No frame before the bolus")]
)
def test_a_scan_that_starts_inside_the_bolus_is_told_by_its_tissue(first, what):
    """The tissue rises through a tenth of its peak at 12 s, and two seconds are due for the artery."""
    artery = np.clip(ARTERY[first:] - ARTERY[first:].min(), 0, None)
    said = words(artery, 1.0, tissue=TISSUE[first:] - TISSUE[first])
    assert (what in said) if what else ("before the bolus" not in said)


def test_noise_does_not_delay_an_artery():
    """Arteries that come 1 s before the tissue, in noise of a tenth of their peak."""
    random = np.random.default_rng(0)
    said = [
        "after the tissue" in words(bolus(T, 8, 8, 30) + random.normal(0, 3, 60), 1.0, tissue=TISSUE)
        for _ in range(100)
    ]
    assert np.mean(said) <= 0.05


def test_the_tail_of_the_vein_decides_whether_its_area_is_trusted():
    cut = np.where(T < 25, VEIN, VEIN[24])
    assert np.isnan(assess(ARTERY, 1.0, vof=cut).partial_volume_factor)
    assert np.isfinite(assess(ARTERY, 1.0, vof=cut).vof_area_ratio)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    dt=st.sampled_from([0.5, 1.0, 4.0]),
    n=st.integers(2, 70),
)
def test_no_finite_curve_makes_it_fail(data, dt, n):
    finite = arrays(float, n, elements=st.floats(-1e6, 1e6, allow_subnormal=False))
    curve, tissue, vof = (data.draw(finite) for _ in range(3))
    found = assess(curve, dt, tissue=tissue, vof=vof)
    assert isinstance(found.plausible, bool) and all(isinstance(w, str) for w in found.warnings)
    assert assess(curve.astype(np.float32), dt).peak == pytest.approx(found.peak, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("curve", [np.ones((3, 20)), np.full(20, np.nan), np.ones(1)])
def test_what_is_no_curve_is_refused(curve):
    with pytest.raises(ValueError, match="one finite curve"):
        assess(curve, 1.0)


def test_curves_of_other_length_are_refused():
    with pytest.raises(ValueError, match="tissue must have the 60 frames of the curve: 50 came"):
        assess(ARTERY, 1.0, tissue=TISSUE[:50])
