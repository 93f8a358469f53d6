"""The gamma variate, the shape of a first pass, by start, time of the peak, width and peak."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class GammaVariate:
    """A fitted first pass: start, time of the peak, width (s), peak (HU), R² and any objections."""

    t0: float
    ttp: float
    fwhm: float
    peak: float
    r2: float
    reasons: tuple[str, ...] = ()

    @property
    def plausible(self) -> bool:
        """True without objections."""
        return not self.reasons

    def curve(self, t):
        """Return the curve at times ``t`` (s), HU."""
        return gamma_variate(t, self.t0, self.ttp, self.fwhm, self.peak)


def gamma_variate(t, t0, ttp, fwhm, peak):
    """Return a gamma variate given by what one sees: start, time of the peak, width and peak.

    Parameters
    ----------
    t : (T,), s.
    t0 : start, s.
    ttp : time of the peak on the same clock, s, later than ``t0``.
    fwhm : full width at half maximum, s.
    peak : HU.

    Returns
    -------
    (T,), HU: peak · (x exp(1 − x))^α with x = (t − t0) / (ttp − t0), and 0 before t0.

    Notes
    -----
    With A ((t − t0)/(αβ))^α exp(α − (t − t0)/β) this is ttp − t0 = αβ, and fwhm / (ttp − t0) depends
    on α alone. α and β are strongly anticorrelated in fits (−.94); start and width are not.
    """
    x = np.maximum(np.asarray(t, float) - t0, 0) / (ttp - t0)
    return peak * (x * np.exp(1 - x)) ** _shape(fwhm / (ttp - t0))


def _shape(ratio):
    """Return α of a gamma variate whose FWHM is ``ratio`` times its rise."""
    ratios, shapes = _shape_table()
    return np.exp(np.interp(np.log(ratio), ratios, shapes))


def width_of_shape(shape):
    """Return the FWHM of a gamma variate over its rise, which is a matter of α alone.

    Parameters
    ----------
    shape : α.
    """
    ratios, shapes = _shape_table()
    return np.exp(np.interp(np.log(shape), shapes[::-1], ratios[::-1]))


@lru_cache(maxsize=1)
def _shape_table():
    from scipy.special import lambertw

    # Half maximum: x exp(-x) = exp(-1 - ln 2 / α), whose two roots are the branches of Lambert's W.
    shapes = np.linspace(np.log(1e-2), np.log(1e4), 8001)
    argument = -np.exp(-1 - np.log(2) / np.exp(shapes))
    width = lambertw(argument, 0).real - lambertw(argument, -1).real
    return np.log(width)[::-1], shapes[::-1]
