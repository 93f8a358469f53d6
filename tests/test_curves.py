"""Curves against closed forms, slow loops and scipy's filters."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from perfkit import curves
from perfkit.curves import gamma_variate


def classic(t, t0, alpha, beta, peak):
    """The textbook formula of docs/science.md §5, written out."""
    x = np.maximum(t - t0, 0)
    return peak * (x / (alpha * beta)) ** alpha * np.exp(alpha - x / beta)


# --- onset, baseline, enhancement ---


@pytest.mark.parametrize("dt", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("onset", [3.0, 6.5, 15.0])
@pytest.mark.parametrize("seed", range(4))
def test_onset_is_found_in_noise_on_a_drifting_baseline(onset, dt, seed):
    rng = np.random.default_rng(seed)
    t = np.arange(0, 50, dt)
    fine = np.arange(0, 60, 0.001)
    bolus = gamma_variate(fine, 0, 10, 13, 5)
    t0 = onset - fine[np.argmax(bolus >= 0.5)]  # so that 10 % of the peak lies at the onset
    mean = 33 + 0.5 * t / t[-1] + gamma_variate(t, t0, t0 + 10, 13, 5) + rng.normal(0, 0.05, t.size)
    assert curves.bolus_onset(mean, dt) == pytest.approx(onset, abs=0.5 * dt + 0.5)
    n = curves.n_baseline(mean, dt)
    assert n >= 1
    assert t[n - 1] <= max(0, onset - 1)
    assert t[n] >= onset - 3.5


def test_onset_is_exact_on_a_ramp():
    ramp = np.interp(np.arange(30), [10, 20, 22, 27], [0, 10, 10, 0])
    assert curves.bolus_onset(ramp, 2.0) == pytest.approx(2 * 11)


def test_a_frame_lost_to_motion_is_no_onset():
    t = np.arange(40.0)
    mean = gamma_variate(t, 10, 20, 12, 5)
    clean = curves.bolus_onset(mean, 1)
    mean[3] += 20
    mean[6] -= 20
    assert curves.bolus_onset(mean, 1) == pytest.approx(clean, abs=1)


@pytest.mark.parametrize("curve", [np.zeros(12), np.full(12, 40.0), np.linspace(9, 0, 12)])
def test_without_a_bolus_one_frame_is_baseline(curve):
    assert curves.bolus_onset(curve, 1) == 0
    assert curves.n_baseline(curve, 1) == 1


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32])
def test_enhancement_is_the_series_less_its_first_frames(order, dtype):
    rng = np.random.default_rng(0)
    ctp = np.asarray(rng.integers(0, 90, (5, 4, 3, 12)), dtype=dtype, order=order)
    kept = ctp.copy()
    concentration, baseline = curves.enhancement(ctp, 4)
    expected = ctp.astype(float) - ctp[..., :4].astype(float).mean(-1, keepdims=True)
    assert concentration.dtype == baseline.dtype == np.float32
    np.testing.assert_allclose(concentration, expected, atol=1e-4)
    assert (concentration < 0).any()  # noise below zero is information
    np.testing.assert_array_equal(ctp, kept)


@pytest.mark.parametrize("n", [0, 12, -1])
def test_enhancement_refuses_an_impossible_baseline(n):
    with pytest.raises(ValueError, match="n_baseline must be 1 to 11"):
        curves.enhancement(np.zeros((2, 2, 2, 12)), n)


# --- smoothing ---


@pytest.fixture
def series():
    rng = np.random.default_rng(0)
    mask = rng.random((19, 23, 3)) < 0.9
    mask[:3] = mask[:, -4:] = mask[..., 1] = False
    return rng.normal(0, 5, (19, 23, 3, 17)).astype(np.float32), mask


def scipy_smooth(c, mask, sigma_x, sigma_y, sigma_t):
    blur = dict(mode="constant", truncate=4.0)
    sigma = (sigma_x, sigma_y, 0)
    weight = ndimage.gaussian_filter(mask.astype(float), sigma, **blur)
    out = ndimage.gaussian_filter(c.astype(float) * mask[..., None], (*sigma, 0), **blur)
    out = np.where(mask[..., None], out / np.maximum(weight, 1e-12)[..., None], 0)
    ends = ndimage.gaussian_filter1d(np.ones(c.shape[-1]), sigma_t, **blur)
    return ndimage.gaussian_filter1d(out, sigma_t, **blur) / ends


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("masked", [True, False])
def test_smoothing_equals_scipys_normalised_convolution(series, masked, order):
    c, mask = series
    mask = mask if masked else np.ones_like(mask)
    got = curves.smooth(
        np.asarray(c, order=order),
        (0.8, 1.1, 5.0),
        0.5,
        mask=mask if masked else None,
        sigma_mm=1.9,
        sigma_s=0.7,
    )
    expected = scipy_smooth(c, mask, 1.9 / 0.8, 1.9 / 1.1, 1.4)
    # scipy cuts at whole samples, int(4σ + ½), ours at 4σ: the tails differ by e^-8.
    np.testing.assert_allclose(got, expected, atol=5e-3)
    assert got.dtype == np.float32 and got.flags.c_contiguous


@pytest.mark.parametrize("order", ["C", "F"])
def test_smoothing_a_raw_series_equals_smoothing_its_enhancement(order):
    rng = np.random.default_rng(1)
    ctp = np.asarray(rng.integers(0, 1200, (12, 9, 2, 15)), dtype=np.int16, order=order)
    mask = rng.random((12, 9, 2)) < 0.8
    concentration, baseline = curves.enhancement(ctp, 5)
    direct = curves.smooth(ctp, (1, 1, 5), 1, mask=mask, baseline=baseline)
    np.testing.assert_allclose(direct, curves.smooth(concentration, (1, 1, 5), 1, mask=mask), atol=1e-3)


def test_smoothing_keeps_constants_up_to_the_rim_and_lets_nothing_bleed_in(series):
    _, mask = series
    c = np.where(mask[..., None], 7.0, 1e4) * np.ones(17)
    out = curves.smooth(c, (1, 1, 5), 1, mask=mask)
    np.testing.assert_allclose(out[mask], 7, rtol=1e-5)
    assert (out[~mask] == 0).all()


def test_smoothing_never_crosses_slices():
    c = np.zeros((9, 9, 3, 11), np.float32)
    c[:, :, 1] = 5
    out = curves.smooth(c, (1, 1, 1), 1)
    assert (out[:, :, [0, 2]] == 0).all()


def test_smoothing_by_nothing_changes_nothing(series):
    c, mask = series
    out = curves.smooth(c, (1, 1, 5), 1, mask=mask, sigma_mm=0, sigma_s=0)
    np.testing.assert_array_equal(out, c * mask[..., None])


def test_smoothing_an_empty_mask_gives_zeros(series):
    c, mask = series
    assert (curves.smooth(c, (1, 1, 5), 1, mask=np.zeros_like(mask)) == 0).all()


def test_smoothing_refuses_other_shapes(series):
    c, mask = series
    with pytest.raises(ValueError, match=r"\(X, Y, Z, T\)"):
        curves.smooth(c[..., 0], (1, 1, 5), 1)
    with pytest.raises(ValueError, match="series' grid"):
        curves.smooth(c, (1, 1, 5), 1, mask=mask[1:])


# --- timing ---


def loop_arrival(curve, dt):
    top = int(np.argmax(curve))
    if curve[top] <= 0:
        return np.nan
    for i in range(top - 1, -1, -1):
        if curve[i] <= 0.2 * curve[top]:
            return dt * (i + (0.2 * curve[top] - curve[i]) / (curve[i + 1] - curve[i]))
    return 0.0


def loop_width(curve, dt):
    top = int(np.argmax(curve))
    half = curve[top] / 2
    i = j = top
    while i >= 0 and curve[i] > half:
        i -= 1
    while j < len(curve) and curve[j] > half:
        j += 1
    if curve[top] <= 0 or i < 0 or j == len(curve):
        return np.nan
    left = i + (half - curve[i]) / (curve[i + 1] - curve[i])
    right = j - (half - curve[j]) / (curve[j - 1] - curve[j])
    return dt * (right - left)


@pytest.fixture
def many_curves():
    rng = np.random.default_rng(5)
    t = np.arange(40) * 0.7
    rows = [gamma_variate(t, *p) for p in rng.uniform((2, 9, 3, 1), (8, 20, 15, 30), (60, 4))]
    rows = np.array(rows) + rng.normal(0, 0.3, (60, 40))
    rows[0], rows[1], rows[2], rows[3] = 0, -1, t, t[::-1]
    return rows.reshape(6, 10, 40)


@pytest.mark.parametrize(
    "function, loop", [(curves.arrival_time, loop_arrival), (curves.full_width_half_maximum, loop_width)]
)
def test_timing_equals_a_loop_over_voxels(many_curves, function, loop):
    got = function(many_curves, 0.7)
    expected = np.array([[loop(c, 0.7) for c in row] for row in many_curves])
    assert got.shape == (6, 10)
    np.testing.assert_allclose(got, expected, atol=1e-9)
    assert function(many_curves[2, 3], 0.7) == pytest.approx(expected[2, 3])


def test_time_to_peak_is_exact_on_parabolas():
    t = np.arange(30) * 2.0
    vertex = np.array([[7.3], [20.9], [41.0]])
    np.testing.assert_allclose(curves.time_to_peak(9 - (t - vertex) ** 2, 2.0), vertex[:, 0], atol=1e-6)


def test_time_to_peak_at_either_end_stays_on_the_frame():
    t = np.arange(10.0)
    np.testing.assert_array_equal(curves.time_to_peak(np.array([t, -t, 0 * t]), 3.0), [27, 0, 0])


def test_first_moment_of_two_spikes_is_their_centre_of_gravity():
    c = np.zeros((2, 20), np.float32)
    c[0, 4], c[0, 10] = 1, 3
    got = curves.first_moment(c, 0.5)
    assert got[0] == pytest.approx((4 + 30) / 4 * 0.5)
    assert math.isnan(got[1])


def test_timing_moves_with_the_curve():
    t = np.arange(80.0)
    early, late = (gamma_variate(t, t0, t0 + 9, 11, 100) for t0 in (6, 13))
    for function in (curves.arrival_time, curves.time_to_peak, curves.first_moment):
        assert function(late, 1) - function(early, 1) == pytest.approx(7, abs=1e-2)


# --- gamma variate ---


@settings(deadline=None, max_examples=60)
@given(t0=st.floats(-5, 20), rise=st.floats(2, 15), ratio=st.floats(0.2, 3.5), peak=st.floats(0.5, 500))
def test_gamma_variate_has_the_width_peak_and_time_it_was_asked_for(t0, rise, ratio, peak):
    t = t0 + np.linspace(0, rise * 12, 200_001)
    c = gamma_variate(t, t0, t0 + rise, ratio * rise, peak)
    above = t[c >= peak / 2]
    assert c.max() == pytest.approx(peak, rel=1e-6)
    assert t[c.argmax()] == pytest.approx(t0 + rise, abs=2e-4 * rise)
    assert above[-1] - above[0] == pytest.approx(ratio * rise, rel=1e-3)


@pytest.mark.parametrize("alpha, beta", [(3.0, 1.5), (0.8, 6.0), (20.0, 0.5)])
def test_gamma_variate_is_the_textbook_one(alpha, beta):
    t = np.linspace(0, 60, 60_001)
    c = classic(t, 12.0, alpha, beta, 465.0)
    width = np.ptp(t[c >= c.max() / 2])
    got = gamma_variate(t, 12.0, 12.0 + alpha * beta, width, 465.0)
    np.testing.assert_allclose(got, c, atol=465 * 1e-3)


def test_gamma_variate_is_zero_before_its_start():
    assert (gamma_variate(np.arange(6), 5, 9, 6, 10) == 0).all()


@pytest.mark.parametrize("truth", [(8.0, 17.0, 11.0, 100.0), (3.0, 9.0, 9.0, 30.0), (12, 16.5, 6, 465)])
def test_fit_finds_the_parameters_again(truth):
    t = np.arange(55.0)
    fit = curves.fit_gamma_variate(gamma_variate(t, *truth), 1.0)
    np.testing.assert_allclose((fit.t0, fit.ttp, fit.fwhm, fit.peak), truth, rtol=1e-3)
    assert fit.r2 > 0.9999 and fit.plausible
    np.testing.assert_allclose(fit.curve(t), gamma_variate(t, *truth), atol=truth[3] * 1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_fit_ignores_recirculation_and_survives_noise(seed):
    t = np.arange(60.0)
    second = gamma_variate(t, 21, 37, 20, 15) + 6 / (1 + np.exp(-(t - 25)))
    noise = np.random.default_rng(seed).normal(0, 3, t.size)
    fit = curves.fit_gamma_variate(gamma_variate(t, 7, 15, 10, 100) + second + noise, 1.0)
    assert fit.plausible
    assert fit.ttp == pytest.approx(15, abs=1)
    assert fit.fwhm == pytest.approx(10, abs=2)
    assert fit.peak == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize(
    "curve, reason",
    [
        (np.zeros(30), "no peak"),
        (np.linspace(3, -1, 30), "no peak"),
        (gamma_variate(np.arange(90.0), 5, 30, 33, 50), "FWHM"),
        (gamma_variate(np.arange(60.0), -6, 6, 12, 50), "before the first frame"),
        (np.random.default_rng(0).normal(0, 1, 60), "R²"),
    ],
)
def test_an_implausible_fit_says_why(curve, reason):
    fit = curves.fit_gamma_variate(curve, 1.0)
    assert not fit.plausible
    assert any(reason in words for words in fit.reasons)


@pytest.mark.parametrize("curve", [np.zeros((3, 20)), np.array([1, np.nan, 3] * 4)])
def test_one_finite_curve_is_demanded(curve):
    for function in (curves.bolus_onset, curves.fit_gamma_variate):
        with pytest.raises(ValueError, match="One finite curve"):
            function(curve, 1.0)


@pytest.mark.parametrize("sigma_s", [0.0, 1.0, 2.0])
def test_noise_is_that_of_the_frames_before_they_were_smoothed(sigma_s):
    noise = np.random.default_rng(0).normal(0, 3.0, (12, 12, 12, 40))
    smoothed = curves.smooth(noise, (1.0, 1.0, 5.0), 1.0, sigma_mm=0, sigma_s=sigma_s)
    smoothed -= smoothed[..., :8].mean(axis=-1, keepdims=True)
    everywhere = np.ones((12, 12, 12), bool)
    found = curves.noise_before_smoothing(smoothed, everywhere, 8, 1.0, sigma_s=sigma_s)
    assert found == pytest.approx(3.0, rel=0.04)
    with pytest.raises(ValueError, match="two frames before the bolus: 1 came"):
        curves.noise_before_smoothing(smoothed, everywhere, 1, 1.0)
