"""First pass, second pass and plateau of an arterial curve, told apart by one fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfkit import curves
from perfkit.gamma import GammaVariate, gamma_variate

SHARE = (0.0, 0.6)  # height of the second pass over the first's; docs/science.md §7: .15-.3
LAG = (8.0, 30.0)  # s from peak to peak; docs/science.md §7: 12-18 s
WIDENING = (1.0, 3.0)  # FWHM over the first's; docs/science.md §7: 1.6
PLATEAU = (0.0, 0.3)  # of the first peak; docs/science.md §7: .05-.1
STARTS = (12.0, 18.0)  # s, lags the fit starts from; our choice: the ends of what is usual
SCALE = (1.0, 0.1, 0.1, 0.1, 0.1, 3.0, 0.3, 0.05)  # about the size of a sensible step of each parameter
MOST_STEPS = 100  # our choice: arteries need 10-90
SEEN_AFTER = 8.0  # s after the first peak the scan must last; our choice: else only the first pass shows


@dataclass(frozen=True)
class Recirculation:
    """A fitted curve of two passes: all times in s, heights in HU above baseline.

    Parameters
    ----------
    first : the first pass.
    second : the second pass; None where the scan ends before it or none is there.
    plateau : height of mixed blood, reached as the first pass has gone by.
    r2 : of the whole fit.
    reasons : what speaks against it, in words.
    """

    first: GammaVariate
    second: GammaVariate | None
    plateau: float
    r2: float
    reasons: tuple[str, ...] = ()

    @property
    def plausible(self) -> bool:
        """True without objections."""
        return not self.reasons

    def curve(self, t):
        """Return the whole curve at times ``t`` (s), HU."""
        if not np.isfinite(self.first.peak):
            return np.zeros(np.shape(t))
        first = self.first.curve(t)
        second = self.second.curve(t) if self.second else 0.0
        return first + second + self.plateau * _passed(t, self.first)


def fit_recirculation(curve, dt: float) -> Recirculation:
    """Fit first pass, second pass and plateau to an arterial curve by least squares.

    Parameters
    ----------
    curve : (T,), HU above baseline.
    dt : s.

    Returns
    -------
    The fit; never an exception for a finite curve. It is implausible, with the reasons, where the first pass
    is, R² < .8, or the scan ends before a second pass could show (then only the first is fitted).

    Notes
    -----
    The second pass is a gamma variate that peaks 8-30 s later, up to .6 as high and one to three times as
    wide; the plateau grows with the share of the first pass that has gone by. The form is that of the
    phantom's recipe in docs/science.md §7; Peruzzo 2011 fits the recirculation as the first pass, delayed
    and smeared by an exponential, which is later, lower and wider as well.
    """
    first = curves.fit_gamma_variate(curve, dt)
    curve = np.asarray(curve, float)
    t = np.arange(len(curve)) * float(dt)
    if not first.peak > 0:
        return Recirculation(first, None, 0.0, 0.0, first.reasons)
    if t[-1] < first.ttp + SEEN_AFTER:
        reasons = (*first.reasons, "the scan ends before a second pass could show")
        return Recirculation(first, None, 0.0, first.r2, reasons)
    with np.errstate(all="ignore"):
        best = min((_fitted(curve, t, first, lag) for lag in STARTS), key=lambda fit: fit.cost)
    return _unpacked(best.x, best.cost, curve, t)


def _fitted(curve, t, first, lag):
    from scipy.optimize import least_squares

    height = curve.max()
    start = [first.t0, np.log(first.ttp - first.t0), np.log(first.fwhm), first.peak / height]
    start += [0.2, lag, 1.5, 0.05]
    lower = [t[0] - 30, -5, -5, 0, SHARE[0], LAG[0], WIDENING[0], PLATEAU[0]]
    upper = [t[-1], 8, 8, 3, SHARE[1], LAG[1], WIDENING[1], PLATEAU[1]]
    start = np.clip(start, np.array(lower) + 1e-6, np.array(upper) - 1e-6)
    options = {"bounds": (lower, upper), "x_scale": SCALE, "max_nfev": MOST_STEPS}
    return least_squares(lambda p: sum(_parts(p, t)) - curve / height, start, **options)


def _passes(p):
    """First and second pass of parameters scaled to a curve of peak 1."""
    t0, rise, fwhm, peak, share, lag, widening, _ = p
    rise, fwhm = np.exp(rise), np.exp(fwhm)
    first = GammaVariate(t0, t0 + rise, fwhm, peak, np.nan)
    later = t0 + lag - (widening - 1) * rise  # the foot, so that the peaks are ``lag`` apart
    return first, GammaVariate(later, t0 + rise + lag, fwhm * widening, share * peak, np.nan)


def _parts(p, t):
    first, second = _passes(p)
    return first.curve(t), second.curve(t), p[7] * p[3] * _passed(t, first)


def _passed(t, first):
    """Share of a first pass that has gone by at times t: its running integral over the whole."""
    t = np.asarray(t, float)
    fine = np.linspace(first.t0, first.t0 + 6 * (first.ttp - first.t0) + 3 * first.fwhm, 400)
    area = np.cumsum(gamma_variate(fine, first.t0, first.ttp, first.fwhm, 1.0))
    return np.interp(t, fine, area / area[-1], left=0.0)


def _unpacked(p, cost, curve, t):
    height = curve.max()
    spread = np.sum((curve / height - np.mean(curve / height)) ** 2)
    r2 = float(1 - 2 * cost / spread) if spread > 0 else 0.0
    first, second = (_scaled(part, height, r2) for part in _passes(p))
    return Recirculation(first, second, float(p[7] * p[3] * height), r2, _reasons(first, r2))


def _scaled(part, height, r2):
    return GammaVariate(float(part.t0), float(part.ttp), float(part.fwhm), float(part.peak * height), r2)


def _reasons(first, r2):
    checks = (
        (r2 < curves.PLAUSIBLE_R2, f"R² is {r2:.2f}, below {curves.PLAUSIBLE_R2}"),
        (
            first.fwhm > curves.PLAUSIBLE_FWHM,
            f"FWHM is {first.fwhm:.1f} s, above {curves.PLAUSIBLE_FWHM:g} s",
        ),
        # Not t0 < 0: two passes leave the foot of the first undetermined.
        (
            first.curve(0.0) > curves.ONSET_FRACTION * first.peak,
            "the first pass is under way in the first frame",
        ),
    )
    return tuple(words for failed, words in checks if failed)
