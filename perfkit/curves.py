"""Concentration-time curves: baseline, enhancement, smoothing, timing, gamma variate. Time is last."""

from __future__ import annotations

import numpy as np

from perfkit.gamma import GammaVariate, gamma_variate

ONSET_FRACTION = 0.1  # of the peak; docs/science.md: bolus onset of the real AIFs is stated at 10 %
ARRIVAL_FRACTION = 0.2  # of the peak; Straka 2010
BASELINE_GUARD = 2.0  # s; our choice: arteries fill 1-2 s before the mean curve of the brain does
SIGMA_MM = 2.0  # our choice: upper end of the usual 1.5-2 mm; on phantoms AUC still rises with it
SIGMA_S = 1.0  # our choice: white noise halves (.53) while an AIF of FWHM 9 s widens by 3 %
FIT_DOWN_TO = 0.35  # of the peak; our choice: below lies recirculation, no gamma variate
PLAUSIBLE_R2 = 0.8  # our choice: half-fitted curves are mixtures of artery and tissue
PLAUSIBLE_FWHM = 25.0  # s; our choice: the 95th percentile of 93 real AIFs is 19.5 s


def bolus_onset(curve, dt) -> float:
    """Return when a mean curve rises through 10 % of its peak.

    Parameters
    ----------
    curve : (T,), HU with or without the baseline, for example the mean of the brain.
    dt : s.

    Returns
    -------
    Onset, s from the first frame; 0 where nothing lies before the bolus or there is none.

    Notes
    -----
    The search walks back from the peak, so frames that wander before the bolus do not count. A
    running median of three frames removes single frames lost to motion. The baseline is the lowest
    frame before the peak first, then the median of the frames before the onset found with it.
    """
    curve = _one_curve(curve)
    padded = np.pad(curve, 1, mode="edge")
    steady = np.median([padded[:-2], padded[1:-1], padded[2:]], axis=0)
    peak = int(steady.argmax())
    base, onset = steady[: peak + 1].min(), 0.0
    for _ in range(3):
        level = base + ONSET_FRACTION * (steady[peak] - base)
        below = np.flatnonzero(steady[:peak] <= level)
        if not below.size:
            return 0.0
        i = int(below[-1])
        onset = i + (level - steady[i]) / (steady[i + 1] - steady[i])
        base = np.median(curve[: i + 1])
    return float(onset * dt)


def n_baseline(ctp_mean_curve, dt) -> int:
    """Return how many frames lie before the bolus, at least 1.

    Parameters
    ----------
    ctp_mean_curve : (T,), HU, the mean of the brain.
    dt : s.

    Notes
    -----
    Frames earlier than the onset less two seconds: arteries fill before the tissue.
    """
    before = (bolus_onset(ctp_mean_curve, dt) - BASELINE_GUARD) / dt
    return max(1, int(np.ceil(before - 1e-6)))


def enhancement(ctp, n_baseline):
    """Return the series above its pre-contrast mean; noise below zero is kept, never clipped.

    Parameters
    ----------
    ctp : (..., T), HU.
    n_baseline : frames before the bolus, 1 to T − 1.

    Returns
    -------
    concentration : (..., T), float32, HU above baseline.
    baseline : (...), float32, HU.
    """
    ctp = np.asarray(ctp)
    if not 1 <= n_baseline < ctp.shape[-1]:
        raise ValueError(
            f"n_baseline must be 1 to {ctp.shape[-1] - 1}: {n_baseline} came for {ctp.shape[-1]} frames. "
            "Take curves.n_baseline of the brain's mean curve."
        )
    baseline = ctp[..., :n_baseline].mean(axis=-1, dtype=np.float32)
    concentration = np.empty(ctp.shape, np.float32)
    np.subtract(ctp, baseline[..., None], out=concentration, casting="unsafe", dtype=np.float32)
    return concentration, baseline


def smooth(
    concentration,
    spacing,
    dt,
    *,
    mask=None,
    baseline=None,
    sigma_mm: float = SIGMA_MM,
    sigma_s: float = SIGMA_S,
):
    """Smooth a series in plane and in time by separable Gaussians, inside a mask only.

    Parameters
    ----------
    concentration : (X, Y, Z, T), HU, any real type and memory order.
    spacing : (3,), mm. Only the first two count: neighbouring slices are 5-12 mm apart.
    dt : s.
    mask : (X, Y, Z) bool; voxels outside give nothing and become 0. Default: everywhere.
    baseline : (X, Y, Z), HU, subtracted first; with it a raw series may be given, and no other copy
        of it is made.
    sigma_mm, sigma_s : standard deviations; 0 leaves that direction alone.

    Returns
    -------
    (X, Y, Z, T), float32.

    Notes
    -----
    Normalised convolution, G(mc) / G(m): skull and air do not bleed in, and a constant stays that
    constant up to the rim. Likewise in time at the first and the last frames. A Gaussian along one
    axis is a banded matrix, and its products by BLAS, slice by slice within the mask's bounding
    box, are several times faster than ``scipy.ndimage.gaussian_filter``.
    """
    concentration = np.asarray(concentration)
    if concentration.ndim != 4:
        raise ValueError(f"A series must be (X, Y, Z, T): shape {concentration.shape} came.")
    shape = concentration.shape
    mask = np.ones(shape[:3], bool) if mask is None else np.asarray(mask, bool)
    if mask.shape != shape[:3]:
        raise ValueError(f"The mask must have the series' grid {shape[:3]}: shape {mask.shape} came.")
    out = np.zeros(shape, np.float32)
    if not mask.any():
        return out
    box = _in_plane_box(mask)
    along_x, along_y = (
        _gaussian(s.stop - s.start, sigma_mm / float(d)) for s, d in zip(box, spacing, strict=False)
    )
    along_t = _gaussian(shape[3], sigma_s / float(dt))
    along_t /= along_t.sum(axis=1, keepdims=True)
    for z in np.flatnonzero(mask.any(axis=(0, 1))):
        inside = mask[*box, z]
        curves = concentration[*box, z].astype(np.float32)  # keeps the memory order, int16 or float
        if baseline is not None:
            curves -= baseline[*box, z, None]
        # Both in the memory order of the series: across it the product takes six times as long.
        curves *= np.array(inside, order="F" if curves.strides[0] < curves.strides[1] else "C")[..., None]
        # NIfTI series come with time slowest: as (YX, T) this is a view that BLAS takes transposed.
        n_x, n_y, n_t = curves.shape
        curves = curves.transpose(1, 0, 2).reshape(-1, n_t) @ along_t.T
        curves = _banded_product(along_y, curves.reshape(n_y, -1))
        curves = curves.reshape(n_y, n_x, n_t).transpose(1, 0, 2).reshape(n_x, -1)
        curves = _banded_product(along_x, curves).reshape(n_x, n_y, n_t)
        weight = along_x @ inside.astype(np.float32) @ along_y.T
        scale = np.divide(inside, weight, where=inside, out=np.zeros_like(weight))
        np.multiply(curves, scale[..., None], out=out[*box, z])
    return out


def noise_before_smoothing(concentration, mask, n_baseline: int, dt, *, sigma_s: float = SIGMA_S) -> float:
    """Estimate the white noise of a smoothed series from its frames before the bolus.

    Parameters
    ----------
    concentration : (X, Y, Z, T), HU above baseline, as ``smooth`` leaves it.
    mask : (X, Y, Z) bool, voxels to look at.
    n_baseline : frames before the bolus, at least 2.
    dt, sigma_s : s, as given to ``smooth``.

    Returns
    -------
    HU: standard deviation of the frames had they not been smoothed in time. Smoothing in the plane, which
    makes neighbours alike and not frames, is left in.

    Notes
    -----
    The Gaussian G turns white noise into one of covariance C = G Gᵀ, whose expected sample variance over n
    frames is σ² (tr C − Σ C / n) / (n − 1); solved for σ.
    """
    if n_baseline < 2:
        raise ValueError(f"Noise needs two frames before the bolus: {n_baseline} came. Give it a number.")
    along_t = _gaussian(concentration.shape[-1], sigma_s / float(dt))
    along_t = (along_t / along_t.sum(axis=1, keepdims=True))[:n_baseline]
    covariance = along_t @ along_t.T
    share = (np.trace(covariance) - covariance.sum() / n_baseline) / (n_baseline - 1)
    variance = concentration[mask][:, :n_baseline].var(axis=1, ddof=1, dtype=np.float64).mean()
    return float(np.sqrt(variance / share))


def arrival_time(curves, dt):
    """Return when each curve last rises through 20 % of its peak before the peak.

    Parameters
    ----------
    curves : (..., T), HU above baseline.
    dt : s.

    Returns
    -------
    (...), s, linear between frames; 0 where the first frame is above already, NaN without a peak
    above 0.
    """
    curves = np.asarray(curves)
    peak = curves.argmax(axis=-1)[..., None]
    height = np.take_along_axis(curves, peak, -1)
    level = ARRIVAL_FRACTION * height
    before = np.arange(curves.shape[-1]) < peak
    return _squeeze(_last_crossing(curves, level, before) * dt, height > 0)


def time_to_peak(curves, dt):
    """Return the time of the maximum, refined by the parabola through its three frames.

    Parameters
    ----------
    curves : (..., T).
    dt : s.

    Returns
    -------
    (...), s from the first frame; a maximum at either end stays on its frame.
    """
    curves = np.asarray(curves)
    n = curves.shape[-1]
    peak = curves.argmax(axis=-1)[..., None]
    left, top, right = (
        np.take_along_axis(curves, np.clip(peak + i, 0, n - 1), -1).astype(float) for i in (-1, 0, 1)
    )
    bend = left - 2 * top + right
    inner = (peak > 0) & (peak < n - 1) & (bend < 0)
    shift = np.divide(left - right, 2 * bend, where=inner, out=np.zeros_like(top))
    return _squeeze((peak + shift) * dt, True)


def full_width_half_maximum(curve, dt):
    """Return the width of the peak between its two crossings of half the maximum.

    Parameters
    ----------
    curve : (..., T), HU above baseline.
    dt : s.

    Returns
    -------
    (...), s, linear between frames; NaN where a side does not come down to one half in the scan.
    """
    curve = np.asarray(curve)
    n = curve.shape[-1]
    peak = curve.argmax(axis=-1)[..., None]
    height = np.take_along_axis(curve, peak, -1)
    frame = np.arange(n)
    rise = _last_crossing(curve, height / 2, frame < peak)
    fall = n - 1 - _last_crossing(curve[..., ::-1], height / 2, frame < n - 1 - peak)
    both = ((curve <= height / 2) & (frame < peak)).any(-1) & ((curve <= height / 2) & (frame > peak)).any(-1)
    return _squeeze((fall - rise) * dt, (height > 0) & both[..., None])


def first_moment(curves, dt):
    """Return the centre of gravity in time, Σ t c / Σ c.

    Parameters
    ----------
    curves : (..., T), HU above baseline.
    dt : s.

    Returns
    -------
    (...), s from the first frame; NaN where the area is not positive.
    """
    curves = np.asarray(curves)
    area = curves.sum(axis=-1, dtype=float)
    moment = curves @ (np.arange(curves.shape[-1]) * float(dt)).astype(np.result_type(curves, np.float32))
    result = np.divide(moment, area, where=area > 0, out=np.full(np.shape(area), np.nan))
    return result[()]


def fit_gamma_variate(curve, dt) -> GammaVariate:
    """Fit a gamma variate to the first pass of a curve by least squares.

    Parameters
    ----------
    curve : (T,), HU above baseline.
    dt : s.

    Returns
    -------
    The fit. It is implausible, with the reasons, where R² < .8, FWHM > 25 s, t0 < 0, or nothing
    could be fitted.

    Notes
    -----
    Frames up to the fall below 35 % of the peak take part, R² counts the same frames.
    """
    from scipy.optimize import least_squares  # a quarter of a second

    curve = _one_curve(curve)
    top = int(curve.argmax())
    if top == 0 or not curve[top] > 0:
        return GammaVariate(
            np.nan, np.nan, np.nan, np.nan, 0.0, ("the curve has no peak above zero after its start",)
        )
    fallen = np.flatnonzero(curve[top:] <= FIT_DOWN_TO * curve[top])
    last = top + int(fallen[0]) if fallen.size else len(curve) - 1
    t, c = np.arange(last + 1) * float(dt), curve[: last + 1] / curve[top]

    def unpack(p):
        rise, fwhm = np.exp(np.clip(p[1:3], -5, 8))
        return p[0], p[0] + rise, fwhm, p[3]

    arrival, peak_time = float(arrival_time(curve, dt)), top * float(dt)
    start = min(arrival, peak_time - dt) - 0.3 * (peak_time - arrival)
    width = full_width_half_maximum(curve, dt)
    width = float(width) if np.isfinite(width) else peak_time - start
    guess = [start, np.log(peak_time - start), np.log(width), 1.0]
    method = "lm" if len(c) >= len(guess) else "trf"  # MINPACK is twice as fast, but refuses too few points
    fit = least_squares(lambda p: gamma_variate(t, *unpack(p)) - c, guess, method=method)
    spread = ((c - c.mean()) ** 2).sum()
    r2 = 1 - 2 * fit.cost / spread if spread else 0.0
    t0, ttp, fwhm, height = map(float, unpack(fit.x))
    return _judged(t0, ttp, fwhm, height * float(curve[top]), float(r2))


def _judged(t0, ttp, fwhm, peak, r2):
    checks = (
        (r2 < PLAUSIBLE_R2, f"R² is {r2:.2f}, below {PLAUSIBLE_R2}"),
        (fwhm > PLAUSIBLE_FWHM, f"FWHM is {fwhm:.1f} s, above {PLAUSIBLE_FWHM:g} s"),
        (t0 < 0, f"the start is {t0:.1f} s, before the first frame"),
    )
    return GammaVariate(t0, ttp, fwhm, peak, r2, tuple(words for failed, words in checks if failed))


def _last_crossing(curves, level, allowed):
    """Return the fractional frame of the last upward crossing of ``level`` among allowed frames."""
    n = curves.shape[-1]
    below = (curves <= level) & allowed
    i = n - 1 - below[..., ::-1].argmax(axis=-1)[..., None]
    found = below.any(axis=-1)[..., None]
    i = np.where(found, i, 0)
    low = np.take_along_axis(curves, i, -1).astype(float)
    high = np.take_along_axis(curves, np.minimum(i + 1, n - 1), -1)
    step = np.divide(level - low, high - low, where=found & (high > low), out=np.zeros_like(low))
    return i + step


def _squeeze(values, valid):
    return np.where(valid, values, np.nan)[..., 0][()]


def _gaussian(n, sigma):
    """Return the (n, n) float32 matrix of a Gaussian of ``sigma`` samples, cut at 4 sigma."""
    if sigma <= 0:
        return np.eye(n, dtype=np.float32)
    distance = np.subtract.outer(np.arange(n), np.arange(n)) / sigma
    kernel = np.where(abs(distance) <= 4, np.exp(-0.5 * distance**2), 0)
    return (kernel / (np.sqrt(2 * np.pi) * sigma)).astype(np.float32)


def _banded_product(matrix, columns, block=48):
    """Return ``matrix @ columns`` by blocks of rows, each with the columns of its band only."""
    reach = int(np.count_nonzero(matrix, axis=1).max()) // 2
    out = np.empty((len(matrix), columns.shape[1]), np.float32)
    for start in range(0, len(matrix), block):
        rows, band = slice(start, start + block), slice(max(0, start - reach), start + block + reach)
        np.matmul(matrix[rows, band], columns[band], out=out[rows])
    return out


def _in_plane_box(mask):
    hits = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2)))
    return tuple(slice(int(h[0]), int(h[-1]) + 1) for h in hits)


def _one_curve(curve):
    curve = np.asarray(curve, dtype=float)
    if curve.ndim != 1 or not np.isfinite(curve).all():
        raise ValueError(
            f"One finite curve (T,) is due: shape {curve.shape} with {int((~np.isfinite(curve)).sum())} "
            "non-finite values came. Take one voxel's curve or the mean over a mask."
        )
    return curve
