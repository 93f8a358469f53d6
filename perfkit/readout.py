"""When k is largest: Tmax by the parabola, by the exact maximum of the interpolant, and softly for training.

A map reads k at its samples and refines the place; a network needs that place to have a gradient. Each of the
three readings has one, on arrays as on tensors:

    parabola   through the largest sample and its neighbours: one formula, what maps use
    exact      the maximum of the trigonometric interpolant, with ∂t*/∂θ = −k'_θ(t*) / k''(t*)
    soft       the mean lag under weights that grow with k: biased late, but smooth where k has two peaks
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from perfkit.arrays import checked_positive, gather, like, matmul, namespace, nonzero

SOFT_WINDOW = (-5.0, 25.0)  # s; our choice: lags that tissue has; noise beyond would pull the mean
SOFT_BETA = (20.0, 80.0)  # our choice: bias of 0.1 s at the start of training, 0.03 s at its end
TERMS = 20  # our choice: leaves less than 1e-7 of a white spectrum within one sample, π^21/20! of its slope
STEPS = 6  # our choice: from a sample Newton needs four; two more where k is rough


def peak_parabola(curves):
    """Find the largest sample, and refine its place by the parabola through it and its neighbours.

    Parameters
    ----------
    curves : (..., W)

    Returns
    -------
    height : (...,), of the largest sample itself
    place : (...,), in samples; of the first or last sample itself where that is the largest
    """
    xp, n = namespace(curves), curves.shape[-1]
    if xp is np:
        flat = np.ascontiguousarray(curves).reshape(-1, n)
        values = flat.reshape(-1)
        at = flat.argmax(-1)
        inside = np.clip(at, 1, n - 2)
        start = np.arange(len(flat)) * n + inside
        before, here, after = (values.take(start + step) for step in (-1, 0, 1))
        peak = values.take(start - inside + at)
        shape = curves.shape[:-1]
        before, here, after, peak, at, inside = (
            x.reshape(shape)
            for x in (before, here, after, peak, at.astype(curves.dtype), inside.astype(curves.dtype))
        )
    else:
        index = xp.argmax(curves, axis=-1)[..., None]
        middle = xp.clip(index, 1, n - 2)
        before, here, after, peak = (
            xp.take_along_axis(curves, i, axis=-1)[..., 0] for i in (middle - 1, middle, middle + 1, index)
        )
        at, inside = xp.cast(index[..., 0], curves.dtype), xp.cast(middle[..., 0], curves.dtype)
    bend = before - 2 * here + after
    curved = xp.logical_and(bend < 0, at == inside)
    offset = xp.where(curved, 0.5 * (before - after) / nonzero(xp, bend), xp.zeros_like(bend))
    return peak, at + offset


def peak_time_parabola(irf, lags, dt=1.0):
    """Read Tmax off the parabola through the largest sample of k and its neighbours.

    Parameters
    ----------
    irf : (..., W), 1/s, at the lags searched
    lags : (W,) int, frames, rising by one (``deconvolution.lag_window``)
    dt : s

    Returns
    -------
    tmax : (...,), s; on tensors with its exact gradient

    Notes
    -----
    Without noise within 0.03 s of the interpolant's maximum for an AIF 12 s wide, 0.05 s at 9, 0.09 s at 6.
    """
    return (peak_parabola(irf)[1] + int(lags[0])) * dt


def peak_time_exact(irf, lags, dt=1.0):
    """Read Tmax off the trigonometric interpolant of k: its maximum beside the largest sample.

    Parameters
    ----------
    irf : (..., L), 1/s, all lags of the circulant matrix in FFT order, as ``impulse_response`` gives them
    lags : (W,) int, frames, rising by one: where the largest sample is searched
    dt : s

    Returns
    -------
    tmax : (...,), s; that of the sample where it is the first or last one searched, or k is flat there

    Raises
    ------
    ValueError : fewer samples than lags.

    Notes
    -----
    k' is expanded about the largest sample, linearly in k, and its zero found by Newton's method on detached
    values. One more step, t − k'(t)/k''(t) with t and k'' held fixed, changes nothing in value and carries
    the gradient of the implicit function, ∂t*/∂θ = −k'_θ(t*)/k''(t*). Only the first derivative is right.
    """
    xp, length = namespace(irf), irf.shape[-1]
    if length < len(lags):
        raise ValueError(
            f"The interpolant needs k at all lags of the circulant matrix: {length} came, of which "
            f"{len(lags)} are to be searched. Give impulse_response(…, matrix='circulant') as it is."
        )
    at = xp.argmax(gather(xp, irf, lags % length), axis=-1)
    inside = xp.logical_and(at > 0, at < len(lags) - 1)
    order = np.add.outer(np.arange(length) + int(lags[0]), np.arange(length)) % length
    centred = xp.take_along_axis(irf, xp.take(order, at, axis=0), axis=-1)
    slope = matmul(xp, centred, like(xp, _slope_series(length), irf))
    fixed = _terms(xp, slope if xp is np else xp.stop_gradient(slope))
    offset = xp.zeros_like(fixed[0])
    for _ in range(STEPS):
        rise, bend = _at(fixed, offset)
        step = xp.where(bend < 0, -rise / nonzero(xp, bend), 0.5 * xp.sign(rise))
        offset = xp.clip(offset + xp.clip(step, -0.5, 0.5), -1.0, 1.0)
    bend = _at(fixed, offset)[1]
    last = _at(_terms(xp, slope), offset)[0] / nonzero(xp, bend)
    place = xp.where(xp.logical_and(inside, bend < 0), offset - last, xp.zeros_like(offset))
    return (like(xp, at, irf) + int(lags[0]) + place) * dt


@lru_cache(maxsize=8)
def _slope_series(length):
    """Matrix (L, TERMS) from samples to the Taylor series, about sample 0, of their interpolant's slope."""
    omega = 2 * np.pi * np.fft.rfftfreq(length)
    share = np.where((omega == 0) | (omega == np.pi), 1.0, 2.0) / length
    columns, factorial = [], 1.0
    for j in range(TERMS):
        factorial *= max(j, 1)
        phase = -omega * np.arange(length)[:, None] + (j + 1) * np.pi / 2
        columns.append(np.cos(phase) @ (share * omega ** (j + 1)) / factorial)
    series = np.stack(columns, axis=1)
    series.flags.writeable = False
    return series


def _terms(xp, series):
    return list(np.ascontiguousarray(np.moveaxis(series, -1, 0))) if xp is np else xp.unstack(series, axis=-1)


def _at(series, offset):
    """Slope and bend (...,) at an offset (...,) in samples, from the TERMS of the slope's Taylor series."""
    rise, bend = series[-1], 0 * offset
    for term in series[-2::-1]:  # Horner
        bend = bend * offset + rise
        rise = rise * offset + term
    return rise, bend


def soft_peak_time(irf, lags, dt=1.0, *, beta=SOFT_BETA[1]):
    """Average the lags between −5 and 25 s with weights e^(β k/k_max): a Tmax without a jump.

    Parameters
    ----------
    irf : (..., W), 1/s, at the lags searched
    lags : (W,) int, frames, rising by one
    dt : s
    beta : number or scalar tensor, > 0; large: the largest sample alone, small: the whole window

    Returns
    -------
    tmax : (...,), s

    Raises
    ------
    ValueError, TypeError : beta is not one positive number.

    Notes
    -----
    k falls more slowly than it rises, so the mean is late: for smooth k by about 0.1 s at β = 20 and 0.03 s
    at 80. Where noise gives k two peaks it lies between them, seconds from either. Train with it
    (``soft_peak_beta``), measure with another.
    """
    beta = checked_positive(beta, "beta, the sharpness of the weights,", "Try 20 to 80.")
    xp = namespace(irf)
    times = np.asarray(lags) * dt
    near = np.flatnonzero((times >= SOFT_WINDOW[0]) & (times <= SOFT_WINDOW[1]))
    k, times = gather(xp, irf, near), like(xp, times[near], irf)
    top = xp.max(k, axis=-1, keepdims=True)
    level = beta * (k - top) / xp.where(top > 0, top, xp.ones_like(top))
    weights = xp.exp(level)
    return xp.sum(weights * times, axis=-1) / xp.sum(weights, axis=-1)


def soft_peak_beta(progress: float) -> float:
    """Anneal the sharpness of ``soft_peak_time`` over a training, from 20 to 80 in equal ratios.

    Parameters
    ----------
    progress : share of the training that is done, 0 to 1

    Raises
    ------
    ValueError : it is outside.
    """
    if not 0 <= progress <= 1:
        raise ValueError(
            f"progress is the share of the training that is done, 0 to 1: {progress!r} came. "
            "Divide the epoch by their number."
        )
    first, last = SOFT_BETA
    return float(first * (last / first) ** progress)
