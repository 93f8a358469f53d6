"""Indicator dilution forwards: bolus shapes, residue functions and tissue curves on a fine time grid.

Nothing here is shared with ``perfkit.deconvolution``: a phantom made by the inverse of the method under test
would flatter it. Times in s, contrast in HU above baseline.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy import sparse, special
from scipy.fft import irfft, next_fast_len, rfft

STEP = 0.1  # s; docs/science.md §7.7: the fine grid
RHO_OVER_KAPPA = 1.04 / (0.55 / 0.75)  # docs/science.md §4, g/ml
BOX_PLATEAU = 0.6  # our choice: share of the mean transit time that "box" stays at 1 before its tail
SECOND_WIDTH = 1.6  # docs/science.md §7.6: the second pass is so much wider
FAMILIES = ("exponential", "gamma", "box", "linear", "pure box")


def residue_integral(t, mtt, family: str, shape: float = 2.0):
    """Integrate a residue function R from 0 to t in closed form; R(0) = 1, R integrates to ``mtt``.

    Parameters
    ----------
    t : s, any shape; below 0 gives 0.
    mtt : s, broadcastable.
    family : "exponential", "gamma" (transit times of shape ``shape``), "box" (plateau with an exponential
        tail), "linear" or "pure box".
    shape : of "gamma".
    """
    t, mtt = np.maximum(t, 0.0), np.asarray(mtt, float)
    if family == "exponential":
        return -mtt * np.expm1(-t / mtt)
    if family == "gamma":
        u = shape * t / mtt
        return t * special.gammaincc(shape, u) + mtt * special.gammainc(shape + 1, u)
    if family == "box":
        tail = (1 - BOX_PLATEAU) * mtt
        late = np.maximum(t - BOX_PLATEAU * mtt, 0)
        return np.minimum(t, BOX_PLATEAU * mtt) - tail * np.expm1(-late / tail)
    if family == "linear":
        u = np.minimum(t, 2 * mtt)
        return u - u**2 / (4 * mtt)
    if family == "pure box":
        return np.minimum(t, mtt)
    raise ValueError(f"A residue family is one of {', '.join(FAMILIES)}; {family!r} came.")


def tissue_curves(aif, mtt, family: str = "exponential", shape: float = 2.0, dispersion: float = 0.0):
    """Convolve an arterial input with residue functions, per unit of flow: c = (ρ/κ)(CBF/6000) (a ⊛ R).

    Paper: Eq. 1.

    The residue is integrated exactly over each cell of the grid, so that its jumps cost nothing; the input is
    taken at the cell centres (second order in the step).

    Parameters
    ----------
    aif : (N,), HU, on a grid of ``STEP`` s.
    mtt : (M,), s.
    family, shape : residue, see ``residue_integral``.
    dispersion : s, θ of a transport function exp(−t/θ)/θ between the artery and the tissue; 0: none.

    Returns
    -------
    (M, N), HU per ml/100 g/min, on the grid of ``aif``.
    """
    n = len(aif)
    edges = np.maximum(np.arange(n + 1) - 0.5, 0) * STEP
    kernel = np.diff(residue_integral(edges, np.asarray(mtt, float)[:, None], family, shape), axis=-1)
    if dispersion > 0:
        kernel = _convolve(kernel, np.diff(-np.exp(-edges / dispersion)))
    return RHO_OVER_KAPPA / 6000 * _convolve(kernel, np.asarray(aif, float))


def _convolve(a, b):
    n = a.shape[-1]
    length = next_fast_len(2 * n, real=True)
    return irfft(rfft(a, length) * rfft(b, length), length)[..., :n]


@dataclass(frozen=True, kw_only=True)
class Bolus:
    """What is asked of a contrast bolus; realised by ``arterial_input`` and ``venous_output``.

    ``onset`` is where the AIF crosses 10 % of its peak, ``rise`` the time from there to the peak, both s;
    ``fwhm`` in s; ``vof_peak`` in HU; ``lag`` in s, time to peak of the VOF behind the AIF; ``widening``,
    its width over the AIF's; ``second`` and ``second_lag`` (s), height and lateness of the second
    pass; ``plateau``, where the AIF ends, relative to the first peak like ``second``.
    """

    vof_peak: float
    fwhm: float
    onset: float
    rise: float
    lag: float
    widening: float
    second: float
    second_lag: float
    plateau: float


def gamma_variate(t, t0: float, alpha: float, beta: float):
    """Gamma-variate of height 1 that starts at t0 (s) and peaks at t0 + αβ (s)."""
    u = np.maximum((np.asarray(t, float) - t0) / (alpha * beta), 0)
    return np.where(u > 0, np.exp(alpha * (np.log(np.maximum(u, 1e-300)) + 1 - u)), 0.0)


@functools.cache
def _shape_table():
    """Shapes α, and FWHM and 10 %-to-peak time of each in units of αβ."""
    alphas = np.geomspace(0.6, 60, 120)
    u = np.arange(0, 12, 0.001)
    curves = np.exp(alphas[:, None] * (np.log(np.maximum(u, 1e-12)) + 1 - u))
    width = (curves > 0.5).sum(axis=1) * 0.001
    start = u[np.argmax(curves > 0.1, axis=1)]
    return alphas, width, 1 - start


def arterial_input(bolus: Bolus, n: int):
    """Realise the AIF of a bolus, its first pass of unit height, on n points of the fine grid: (n,).

    A gamma-variate, its second pass and a plateau (docs/science.md §7.6). The second pass widens the whole,
    so the first is narrowed until the whole has the requested FWHM.
    """
    t = np.arange(n) * STEP
    long = np.arange(max(n, 900)) * STEP  # a bolus that is cut by the end of the scan still has its FWHM
    alphas, widths, rises = _shape_table()
    first = bolus.fwhm
    for _ in range(6):
        alpha = np.interp(bolus.rise / first, rises / widths, alphas)
        scale = first / np.interp(alpha, alphas, widths)
        start = bolus.onset - scale * (1 - np.interp(alpha, alphas, rises))
        shape = (start, alpha, scale / alpha)
        first *= np.clip(bolus.fwhm / full_width(_with_recirculation(long, bolus, *shape)), 0.7, 1.4)
    return _with_recirculation(t, bolus, *shape)


def _with_recirculation(t, bolus, t0, alpha, beta):
    first = gamma_variate(t, t0, alpha, beta)
    mean_scale = SECOND_WIDTH * beta
    second_start = t0 + alpha * beta + bolus.second_lag - alpha * mean_scale
    second = gamma_variate(t, second_start, alpha, mean_scale)
    passed = np.cumsum(first) / max(first.sum(), 1e-9)
    return first + bolus.second * second + bolus.plateau * passed**2


def venous_output(bolus: Bolus, aif):
    """Convolve an AIF (N,) with a gamma density into the VOF (N,) of the same area, later and wider."""
    t = (np.arange(len(aif)) + 0.5) * STEP
    mean = bolus.lag
    spread = bolus.fwhm * np.sqrt(max(bolus.widening**2 - 1, 0.01)) / 2.355
    for _ in range(8):
        shape, scale = (mean / spread) ** 2, spread**2 / mean
        edges = special.gammainc(shape, np.maximum(np.arange(len(t) + 1) - 0.5, 0) * STEP / scale)
        vof = _convolve(np.asarray(aif, float), np.diff(edges))
        mean += bolus.lag - STEP * (np.argmax(vof) - np.argmax(aif))
        mean = np.clip(mean, 2.0, 14.0)  # our choice: about the 4-9 s of docs/science.md §7.3
        spread *= np.clip(bolus.widening * full_width(aif) / full_width(vof), 0.8, 1.25) ** 2
        spread = np.clip(spread, 0.25 * mean, mean)
    return vof


def full_width(curve) -> float:
    """Full width at half maximum in s of a curve (N,) on the fine grid, around its peak, by interpolation."""
    peak = int(np.argmax(curve))
    half = curve[peak] / 2
    left = np.flatnonzero(curve[: peak + 1] < half)
    right = np.flatnonzero(curve[peak:] < half)
    start = left[-1] + (half - curve[left[-1]]) / (curve[left[-1] + 1] - curve[left[-1]]) if len(left) else 0
    if not len(right):
        return STEP * (len(curve) - 1 - start)
    r = peak + right[0]
    return STEP * (r - 1 + (curve[r - 1] - half) / (curve[r - 1] - curve[r]) - start)


class CurveTable:
    """Tissue curves at the frame times for a grid of transit times and delays, looked up by interpolation.

    A voxel's curve is a combination of a few rows, so that a whole scan is one sparse matrix product. The
    interpolation error is below 1e-3 of a curve's peak (held by a test).
    """

    MTT = np.geomspace(1.0, 24.0, 80)  # s; our choice: healthy tissue to the cap of 15 s, with room
    DELAY = np.arange(-1.0, 14.01, 0.2)  # s; our choice: early veins to the core's last arrival

    def __init__(self, times):
        self.times = np.asarray(times, float)
        self._blocks = []

    def add(self, curves) -> int:
        """Append curves (M, N) on the fine grid, each at all delays; return the row of the first."""
        first = sum(len(block) for block in self._blocks)
        position = np.clip((self.times[None] - self.DELAY[:, None]) / STEP, 0, curves.shape[-1] - 1)  # (D, T)
        low = np.minimum(position.astype(int), curves.shape[-1] - 2)
        share = position - low
        block = curves[:, low] * (1 - share) + curves[:, low + 1] * share
        self._blocks.append(block.reshape(-1, len(self.times)).astype(np.float32))
        return first

    def mix(self, terms):
        """Weighted sums of rows: terms are pairs from ``lookup``, the weights scaled; (V, T) float32."""
        if len(self._blocks) > 1:
            self._blocks = [np.concatenate(self._blocks)]
        rows = self._blocks[0]
        index = np.concatenate([i for i, _ in terms], axis=1).astype(np.int32)
        weight = np.concatenate([w for _, w in terms], axis=1).astype(np.float32)
        starts = np.arange(0, index.size + 1, index.shape[1], dtype=np.int32)
        return sparse.csr_array((weight.ravel(), index.ravel(), starts), shape=(len(index), len(rows))) @ rows

    def lookup(self, first, delay, mtt=None):
        """Rows and weights of curves with given delay (V,) and transit time (V,): each (V, 2 or 4)."""
        i, u = _bracket(self.DELAY[0], self.DELAY[1] - self.DELAY[0], len(self.DELAY), delay)
        first = np.asarray(first)
        if mtt is None:
            return np.stack([first + i, first + i + 1], -1), np.stack([1 - u, u], -1)
        log = np.log(self.MTT[:2])
        j, v = _bracket(log[0], log[1] - log[0], len(self.MTT), np.log(np.maximum(mtt, self.MTT[0])))
        row = first + j * len(self.DELAY) + i
        step = len(self.DELAY)
        rows = np.stack([row, row + 1, row + step, row + step + 1], -1)
        return rows, np.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u], -1)


def _bracket(start, step, n, value):
    position = np.clip((np.asarray(value) - start) / step, 0, n - 1)
    low = np.minimum(position.astype(np.int32), n - 2)
    return low, (position - low).astype(np.float32)
