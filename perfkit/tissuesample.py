"""Tissue of known flow, transit time and delay, made on a fine grid: what estimators are tried on.

The curves come from ``perfkit.forward``, which shares nothing with the deconvolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perfkit import forward

# CBF ml/100 g/min, MTT s: grey and white matter, healthy, reduced, severely reduced (docs/science.md §7,
# the classes of Manhart and Aichert)
CLASSES = ((53.0, 3.7), (25.0, 4.6), (16.0, 11.3), (7.5, 13.6), (5.3, 8.0), (2.5, 10.1))
HEALTHY = 2  # the first of them
LATE = np.arange(0.0, 6.1, 1.0)  # s; our choice: healthy tissue up to 2 s late, ill tissue up to 6 s
SHARES = (0.45, 0.3, 0.15, 0.1)  # our choice: grey, white, late and dying tissue of ``drawn``
DRAWN = ((60, 4, 0.5), (25, 5, 0.8), (18, 9, 4), (7, 12, 5))  # our choice: their CBF, MTT s and delay s


@dataclass(frozen=True, eq=False)
class Sample:
    """Tissue and its artery: aif (T,) and curves (n, T), HU above baseline every ``dt`` s; the true cbf
    (n,), mtt and delay (n,) s, and which of the n voxels are healthy."""

    aif: np.ndarray
    curves: np.ndarray
    dt: float
    cbf: np.ndarray
    mtt: np.ndarray
    delay: np.ndarray
    healthy: np.ndarray

    @property
    def cbv(self):
        """(n,), ml/100 g."""
        return self.cbf * self.mtt / 60


def arterial(
    fwhm: float = 9.0, *, onset: float = 10.0, peak: float = 180.0, widen: float = 0.0, seconds: float = 90.0
):
    """Make an AIF on the grid of ``forward.STEP``, with its second pass and plateau.

    Parameters
    ----------
    fwhm : s
    onset : s, where it crosses a tenth of its peak
    peak : HU; the default is of the order of the unmixed arteries of ISLES 2018
    widen : s, mean of an exponential that the whole bolus is smeared with: a slower injection or heart
    seconds : its length

    Returns
    -------
    (N,), HU
    """
    n = round(seconds / forward.STEP) + 1
    bolus = forward.Bolus(
        vof_peak=peak, fwhm=fwhm, onset=onset, rise=0.7 * fwhm, lag=6.5, widening=1.2,
        second=0.2, second_lag=15.0, plateau=0.07,
    )  # fmt: skip
    curve = forward.arterial_input(bolus, n)
    curve = curve * peak / curve.max()
    if widen:
        edges = np.maximum(np.arange(n + 1) - 0.5, 0) * forward.STEP
        curve = np.convolve(curve, np.diff(-np.exp(-edges / widen)))[:n]
    return curve


def classes(aif, *, residue: str = "gamma", dt: float = 1.0, n_frames: int = 70) -> Sample:
    """Give every class of tissue at every delay, without noise.

    Parameters
    ----------
    aif : (N,), HU, on the grid of ``forward.STEP``, as ``arterial`` makes it
    residue : a family of ``forward.residue_integral``
    dt, n_frames : s and number of frames
    """
    rows = [
        (*values, late, i < HEALTHY)
        for i, values in enumerate(CLASSES)
        for late in LATE
        if i >= HEALTHY or late <= 2
    ]
    cbf, mtt, delay, healthy = (np.array(column) for column in zip(*rows, strict=True))
    return sampled(aif, cbf, mtt, delay, healthy, residue=residue, dt=dt, n_frames=n_frames)


def drawn(
    aif,
    n: int = 1500,
    *,
    residue: str = "gamma",
    dt: float = 1.0,
    n_frames: int = 60,
    noise: float = 0.7,
    seed: int = 0,
) -> Sample:
    """Draw healthy, late and dying voxels at random, with white noise on their curves.

    Parameters
    ----------
    aif : as for ``classes``
    n : voxels
    residue, dt, n_frames : as for ``classes``
    noise : HU
    seed : of both
    """
    rng = np.random.default_rng(seed)
    kind = rng.choice(len(SHARES), n, p=SHARES)
    flow, transit, late = (np.choose(kind, values) for values in zip(*DRAWN, strict=True))
    cbf = flow * rng.lognormal(0, 0.25, n)
    mtt = np.clip(transit * rng.lognormal(0, 0.2, n), 2, 24)
    delay = np.clip(late + rng.normal(0, 1, n), 0, 9)
    sample = sampled(aif, cbf, mtt, delay, kind < 2, residue=residue, dt=dt, n_frames=n_frames)
    sample.curves[:] += noise * rng.normal(size=sample.curves.shape)
    return sample


def sampled(
    aif, cbf, mtt, delay, healthy=False, *, residue: str = "gamma", dt: float = 1.0, n_frames: int = 60
) -> Sample:
    """Give tissue of these flows, transit times and delays, without noise.

    Parameters
    ----------
    aif : as for ``classes``
    cbf, mtt, delay : (n,), ml/100 g/min and s
    healthy : (n,) bool, or one for all
    residue, dt, n_frames : as for ``classes``
    """
    times = dt * np.arange(n_frames)
    fine = forward.STEP * np.arange(len(aif))
    unit = forward.tissue_curves(aif, mtt, residue)
    curves = [f * np.interp(times - d, fine, c) for f, d, c in zip(cbf, delay, unit, strict=True)]
    healthy = np.broadcast_to(healthy, np.shape(cbf))
    return Sample(np.interp(times, fine, aif), np.array(curves), dt, cbf, mtt, delay, healthy)
