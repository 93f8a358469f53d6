"""Two passes and a plateau, made here, are told apart as they were made."""

import numpy as np
import pytest

from perfkit.recirculation import fit_recirculation

T = np.arange(60.0)


def bolus(t, onset, rise, peak, alpha=3.0):
    """Gamma variate with its peak ``rise`` s after ``onset``, written out to owe nothing to the package."""
    x = np.clip(np.asarray(t, float) - onset, 0, None) / rise
    return peak * (x * np.exp(1 - x)) ** alpha


def width(rise, alpha=3.0):
    fine = np.arange(0, 100, 0.001)
    return np.ptp(fine[bolus(fine, 0, rise, 1, alpha) >= 0.5])


def two_passes(t, share=0.25, lag=15.0, wider=1.6, plateau=0.08, peak=100.0, onset=6.0, rise=7.0):
    """First pass, second pass and plateau; the plateau by a running sum on a fine grid."""
    fine = np.arange(0, 120, 0.01)
    passed = np.cumsum(bolus(fine, onset, rise, 1))
    second = bolus(t, onset + rise + lag - wider * rise, wider * rise, share * peak)
    return bolus(t, onset, rise, peak) + second + plateau * peak * np.interp(t, fine, passed / passed[-1])


@pytest.mark.parametrize(
    "made",
    [
        {},
        {"share": 0.15, "lag": 12.0, "plateau": 0.05},
        {"share": 0.3, "lag": 18.0, "wider": 1.3, "plateau": 0.1},
        {"peak": 12.0, "onset": 9.0, "rise": 9.0},
    ],
)
@pytest.mark.parametrize("dt", [1.0, 2.0])
def test_the_parts_come_back_as_they_were_made(made, dt):
    t = np.arange(0, 60, dt)
    wanted = {
        "share": 0.25,
        "lag": 15.0,
        "wider": 1.6,
        "plateau": 0.08,
        "peak": 100.0,
        "onset": 6.0,
        "rise": 7.0,
    }
    wanted |= made
    fit = fit_recirculation(two_passes(t, **made), dt)
    assert fit.plausible and fit.r2 > 0.999
    assert fit.first.peak == pytest.approx(wanted["peak"], rel=0.03)
    assert fit.first.ttp == pytest.approx(wanted["onset"] + wanted["rise"], abs=0.2)
    assert fit.first.fwhm == pytest.approx(width(wanted["rise"]), rel=0.05)
    assert fit.second.peak / fit.first.peak == pytest.approx(wanted["share"], abs=0.05)
    assert fit.second.ttp - fit.first.ttp == pytest.approx(wanted["lag"], abs=1.5)
    assert fit.second.fwhm > fit.first.fwhm
    assert fit.plateau / wanted["peak"] == pytest.approx(wanted["plateau"], abs=0.04)
    np.testing.assert_allclose(fit.curve(t), two_passes(t, **made), atol=0.02 * wanted["peak"])


def test_the_first_pass_is_cleared_of_the_second():
    """The area beyond 25 s is recirculation: none of it is left in the first pass."""
    fit = fit_recirculation(two_passes(T), 1.0)
    late = T > 30
    assert two_passes(T)[late].sum() > 300
    assert fit.first.curve(T)[late].sum() == pytest.approx(bolus(T, 6, 7, 100)[late].sum(), abs=15)


def test_the_fit_stands_noise():
    random = np.random.default_rng(0)
    lags = [fit_recirculation(two_passes(T) + random.normal(0, 2, 60), 1.0) for _ in range(8)]
    assert np.median([fit.second.ttp - fit.first.ttp for fit in lags]) == pytest.approx(15, abs=2)
    assert all(fit.r2 > 0.97 for fit in lags)


@pytest.mark.parametrize("gain", [1e-3, 30.0])
def test_the_fit_does_not_depend_on_the_gain(gain):
    a, b = fit_recirculation(two_passes(T), 1.0), fit_recirculation(gain * two_passes(T), 1.0)
    assert b.first.fwhm == pytest.approx(a.first.fwhm, rel=1e-4)
    assert b.plateau == pytest.approx(gain * a.plateau, rel=1e-2)


def test_a_scan_that_ends_early_has_a_first_pass_only():
    fit = fit_recirculation(two_passes(T)[:20], 1.0)
    assert fit.second is None and fit.plateau == 0
    assert "ends before a second pass" in fit.reasons[0]
    assert fit.first.peak == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        (np.zeros(60), "no peak"),
        (-two_passes(T), "no peak"),
        (two_passes(T + 10), "under way in the first frame"),
        (two_passes(T, onset=4.0, rise=28.0), "FWHM"),
        (np.where(T % 5 == 4, 50.0, 0.0), "R²"),
    ],
)
def test_what_is_no_bolus_is_said_to_be_none(curve, reason):
    fit = fit_recirculation(curve, 1.0)
    assert not fit.plausible and reason in " ".join(fit.reasons)
    assert np.isfinite(fit.curve(T)).all()
