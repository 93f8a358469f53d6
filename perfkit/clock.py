"""The network's clock: time counted from the arrival of the bolus, so that its injection cannot matter.

Scans start at any moment. On this clock the mean curve of the brain reaches half its peak at one fixed
frame, and a network that looks at, and speaks in, frames of this clock follows the bolus by construction:
nothing has to be learned for it, and no training scan is spent on it.
"""

from __future__ import annotations

import numpy as np

from perfkit import paper
from perfkit.arrays import like, namespace, nonzero

N_FRAMES = 64  # frames of the clock, 1 s apart; the longest ISLES 2018 scan has 64
SHAPE = 3.0  # of a bolus's gamma variate; our choice, as for the Kudo grid
TAIL = (0.22, 15.0, 1.6, 0.075)  # second pass: height, s later, wider; plateau (docs/science.md §7)
ARRIVAL_FRAME = 20  # our choice: where half the peak stands; onsets of ISLES 2018 lie up to 15 s before it


def on_seconds(curves, dt):
    """Resample the last axis from frames dt apart to frames 1 s apart: (..., T) -> (..., T')."""
    if dt == paper.FRAME_INTERVAL:
        return curves
    times = np.arange(curves.shape[-1]) * dt
    clock = np.arange(int(times[-1] / paper.FRAME_INTERVAL) + 1) * paper.FRAME_INTERVAL
    weights = np.stack([np.interp(clock, times, unit) for unit in np.eye(len(times))])
    return curves @ weights.astype(np.float32)


def bolus(times, onset: float, fwhm: float):
    """Draw a bolus as injections make them: a gamma variate, its second pass and a plateau, about 1 high.

    Parameters
    ----------
    times : (T,), s
    onset, fwhm : s
    """

    def first_pass(onset, fwhm):
        rise = fwhm / 1.34  # a gamma variate of shape 3 is 1.34 times as wide as its rise is long
        x = np.clip(times - onset, 0, None) / rise
        return (x * np.exp(1 - x)) ** SHAPE

    height, later, wider, plateau = TAIL
    after = plateau * (1 - np.exp(-np.clip(times - onset - fwhm / 2, 0, None) / fwhm))
    return first_pass(onset, fwhm) + height * first_pass(onset + later, wider * fwhm) + after


def half_rise(curve):
    """Find when a curve first reaches half its largest value.

    Parameters
    ----------
    curve : (..., T), HU or any unit; array or tensor

    Returns
    -------
    (...,), in frames, between two samples by linear interpolation; 0 where it starts above, or is never
        positive
    """
    xp, n = namespace(curve), curve.shape[-1]
    half = xp.max(curve, axis=-1, keepdims=True) / 2
    above = curve >= half
    at = xp.argmax(above.astype(int) if xp is np else xp.cast(above, "int32"), axis=-1)
    at = xp.maximum(at, 1)
    one_hot = np.eye(n)[at] if xp is np else xp.one_hot(at, n, dtype=curve.dtype)
    before = xp.concatenate([curve[..., :1], curve[..., :-1]], axis=-1)
    high, low = xp.sum(one_hot * curve, axis=-1), xp.sum(one_hot * before, axis=-1)
    share = xp.clip((high - half[..., 0]) / nonzero(xp, high - low), 0.0, 1.0)
    frames = at.astype(float) if xp is np else xp.cast(at, curve.dtype)
    rises = xp.logical_and(half[..., 0] > 0, curve[..., 0] < half[..., 0])
    return xp.where(rises, frames - share, xp.zeros_like(share))


def clock_matrices(arrival, n_frames: int, n_clock: int = N_FRAMES):
    """Build the matrices that take curves to the clock, and home again.

    Parameters
    ----------
    arrival : (...,), frames; what ``half_rise`` finds
    n_frames : T of the scan
    n_clock : frames of the clock

    Returns
    -------
    toward : (..., n_clock, T);  home : (..., T, n_clock). Linear between frames; what lies before the first
        or after the last frame repeats it.
    """
    xp = namespace(arrival)

    def moved(n_to, n_from, shift):
        grid = np.arange(n_to, dtype=np.float32)
        source = (grid if xp is np else like(xp, grid, arrival)) + shift
        source = xp.clip(source, 0.0, n_from - 1.0)[..., None]
        columns = np.arange(n_from, dtype=np.float32)
        columns = columns if xp is np else like(xp, columns, arrival)
        return xp.maximum(1.0 - xp.abs(source - columns), 0.0)

    shift = (np.asarray(arrival, float) if xp is np else arrival)[..., None] - float(ARRIVAL_FRAME)
    return moved(n_clock, n_frames, shift), moved(n_frames, n_clock, -shift)
