"""How sure the maps are: noise of the curves carried through to CBF, CBV, MTT and Tmax.

A linear deconvolution is one matrix M, so the covariance of k is known without any sampling:
Cov k = σ² M S Sᵀ Mᵀ, with σ the white noise of the frames and S what the curves went through: smoothing in
time, and the subtraction of a baseline, whose own noise moves a whole curve and doubles that of CBV. What is
read from k is carried on by first order (the delta method). That holds where the peak stands out of the
noise. Where it does not, the largest of many noisy samples is too high and less scattered than one of them:
in simulation standard deviations are within 10 % from an ``snr`` of 9 on, CBF's a third too large at 4, where
noise adds a sixth to CBF itself. Bias is not in here: neither that of the regularisation nor the shrinkage
of calibrated maps. ``volumenoise`` goes on from here to rCBF and volumes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from perfkit import paper
from perfkit.arrays import checked_aif, checked_dt, real_array
from perfkit.calibration import Calibration
from perfkit.curves import smooth
from perfkit.deconvolution import FLOW_UNITS, deconvolution_operator, lag_window
from perfkit.mapreader import VOLUME_UNITS
from perfkit.maps import BLOCK, ESTIMATORS, NOISE_VOXELS, _checked_mask

PARABOLA = 0.3  # frames; our choice: with a standard deviation below, Tmax stays between its three samples
PAIRWISE = np.sqrt(3 / 8)  # ∫ z² Φ(−z) dz / ∫ Φ(−z) dz = 2/3 on z = d/(2 sd): the factor that gives sd back
STEP = 0.5  # standard deviations; our choice: the slope of the look-up over what noise moves, not of one cell
NORMAL_MEDIAN = 0.6745  # of the absolute values of a standard normal variable


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Standard deviations of maps from the noise of the curves alone.

    Attributes
    ----------
    cbf : (...,), ml/100 g/min;  cbv : (...,), ml/100 g;  mtt, tmax : (...,), s
    delay : (...,), s, of calibrated maps only
    snr : (...,), peak of k over its standard deviation; below 9 see above
    noise : HU, standard deviation of the curves that was used
    """

    cbf: np.ndarray
    cbv: np.ndarray
    mtt: np.ndarray
    tmax: np.ndarray
    snr: np.ndarray
    noise: float
    delay: np.ndarray | None = None


def map_uncertainty(
    concentration,
    aif,
    dt: float = 1.0,
    *,
    estimator: str = "tikhonov",
    matrix: str = "circulant",
    regularization: str = "tikhonov",
    lambda_rel: float = paper.LAMBDA_REL,
    residue: str = "gamma-2",
    noise=None,
    sigma_s: float = 0.0,
    n_baseline: int = 0,
    mask=None,
) -> Uncertainty:
    """Compute the standard deviations of the maps that ``maps.perfusion_maps`` makes of the same arguments.

    Parameters
    ----------
    concentration : (..., T), HU above baseline
    aif : (T,), HU above baseline; its own noise is not counted
    dt : s
    estimator, matrix, regularization, lambda_rel, residue : as ``perfusion_maps``; not "osvd"
    noise : HU, standard deviation of the frames, smoothed in the plane but not in time
        (``curves.noise_before_smoothing``); default: from the bends of the curves, as
        ``calibration.white_noise`` where they are not smoothed
    sigma_s : s, Gaussian the curves were smoothed with in time (``curves.SIGMA_S`` for prepared scans)
    n_baseline : frames at the start whose mean was subtracted (``Prepared.n_baseline``); 0: none, or a
        baseline without noise
    mask : (...,) bool, voxels to compute; 0 elsewhere

    Returns
    -------
    Uncertainty; NaN where nothing can be said: no positive peak.

    Raises
    ------
    ValueError, TypeError : shapes that do not match, an unknown estimator, noise below 0, "osvd".

    Notes
    -----
    CBF is one sample of k, CBV is linear in the curve. Tmax is the vertex of the parabola through three
    samples, moved by −δk'/k''. Where noise moves it by more than .3 frames, k'' is mostly noise as well: then
    the lags around are weighed by Φ((k_j − k_max)/sd(k_j − k_max)), the chance that they are the higher ones,
    which equals first order for a parabola and finds distant rivals too. Calibrated maps: J Σ Jᵀ with Σ the
    covariance of peak, lag and area and J the slopes of the look-up over ± half a standard deviation.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}: {estimator!r} came.")
    concentration = real_array(concentration, "The concentration")
    n_frames, shape = concentration.shape[-1], concentration.shape[:-1]
    dt, aif = checked_dt(dt), checked_aif(aif, n_frames=n_frames).astype(float)
    flat = concentration.reshape(-1, n_frames)
    chosen = np.arange(len(flat)) if mask is None else np.flatnonzero(_checked_mask(mask, shape))
    made = _preparation(n_frames, dt, sigma_s, n_baseline)
    sample = flat[chosen[:: max(1, len(chosen) // NOISE_VOXELS)]]
    noise = _checked_noise(noise, sample, made, order=4 if sigma_s > 0 else 2)
    options = {"matrix": matrix, "regularization": regularization, "lambda_rel": lambda_rel}
    reader = _Reader(aif, dt, options, noise, made)
    spread = _plain if estimator == "tikhonov" else _Calibrated(reader, residue)
    names = ("cbf", "cbv", "mtt", "tmax", "snr") + ("delay",) * (estimator == "calibrated")
    maps = {name: np.zeros(len(flat)) for name in names}
    for start in range(0, len(chosen), BLOCK):
        rows = chosen[start : start + BLOCK]
        for name, values in spread(*reader(flat[rows].astype(float))).items():
            maps[name][rows] = values
    return Uncertainty(**{name: values.reshape(shape) for name, values in maps.items()}, noise=noise)


def irf_covariance(
    aif, dt: float = 1.0, *, noise: float = 1.0, sigma_s: float = 0.0, n_baseline: int = 0, **options
):
    """Compute the covariance that noise of the curve gives to k, on the lags that are searched.

    Parameters
    ----------
    aif : (T,), HU above baseline
    dt : s
    noise : HU, white noise of the frames
    sigma_s, n_baseline : s and frames, as ``map_uncertainty``
    options : matrix, regularization, lambda_rel as ``deconvolution.deconvolution_operator``

    Returns
    -------
    (W, W), 1/s², for ``deconvolution.lag_window``; its diagonal is σ² Σ_t M_jt²
    """
    aif, dt = checked_aif(aif).astype(float), checked_dt(dt)
    options = {"matrix": "circulant", **options}
    return _Reader(aif, dt, options, noise, _preparation(len(aif), dt, sigma_s, n_baseline)).gram


class _Reader:
    """Read peak, lag and area of curves as ``maps`` does, each set with its joint covariance."""

    def __init__(self, aif, dt, options, noise, made):
        full = deconvolution_operator(aif, dt, **options)
        self.lags = lag_window(len(aif), dt, options["matrix"])
        self.aif, self.dt, self.noise = aif, dt, noise
        self.operator = full[self.lags % full.shape[-2]]
        weights = np.full(len(aif), dt)
        weights[[0, -1]] = dt / 2  # trapezia, as maps
        area = aif @ weights
        self.weights = weights / (area if area > 0 else np.nan)
        moved, mean = noise * self.operator @ made, noise * self.weights @ made
        self.gram, self.shared, self.area_variance = moved @ moved.T, moved @ mean, mean @ mean

    def summary(self, curves):
        """Peak (n,) in 1/s, lag (n,) in s, area ratio (n,) in s, as ``Calibration`` wants them."""
        return self(curves)[0].T

    def gains(self, lag):
        """Noise of peak and area and what they share for white noise of 1 HU, as ``maps`` gives it."""
        at = np.rint(lag / self.dt).astype(int) - int(self.lags[0])
        of_area = np.sqrt(self.weights @ self.weights) + np.zeros_like(lag)
        return np.sqrt((self.operator**2).sum(axis=1))[at], of_area, (self.operator @ self.weights)[at]

    def __call__(self, curves):
        """Values (n, 3) of peak, lag and area, and their covariance (n, 3, 3)."""
        k = curves @ self.operator.T
        at = k.argmax(axis=1)
        inner = np.clip(at, 1, k.shape[1] - 2)
        samples = inner[:, None] + np.array([-1, 0, 1])
        before, here, after = np.take_along_axis(k, samples, axis=1).T
        bend, slope = before - 2 * here + after, before - after
        curved = (bend < 0) & (at == inner)
        safe = np.where(curved, bend, 1.0)
        lag = self.dt * (at + int(self.lags[0]) + np.where(curved, 0.5 * slope / safe, 0.0))
        turn = 0.5 * slope / safe**2
        vertex = self.dt * np.stack([0.5 / safe - turn, 2 * turn, -0.5 / safe - turn], axis=1)
        covariance = self._covariance(at, samples, vertex)
        first_order = np.where(curved, np.sqrt(covariance[:, 1, 1]), np.inf)
        sure = first_order < PARABOLA * self.dt
        wide = np.where(sure, 0.0, self._spread_of_lags(k, at, lag))
        stretch = np.where(sure, 1.0, np.maximum(wide / first_order, 1.0))
        stretch = np.where(curved, stretch, wide / np.sqrt(covariance[:, 1, 1]))
        covariance[:, 1, :] *= stretch[:, None]
        covariance[:, :, 1] *= stretch[:, None]
        peak = np.take_along_axis(k, at[:, None], axis=1)[:, 0]
        return np.stack([peak, lag, curves @ self.weights], axis=1), covariance

    def _spread_of_lags(self, k, at, lag):
        """Standard deviation (n,) in s of the lag where every lag counts by its chance to be the highest."""
        variance = np.diag(self.gram)
        between = np.sqrt(np.maximum(variance + variance[at][:, None] - 2 * self.gram[at], 1e-300))
        short = (k - np.take_along_axis(k, at[:, None], axis=1)) / between
        weight = special.ndtr(short)
        away = self.dt * self.lags - lag[:, None]
        return PAIRWISE * np.sqrt((weight * away**2).sum(axis=1) / weight.sum(axis=1))

    def _covariance(self, at, samples, vertex):
        n = len(at)
        found = np.empty((n, 3, 3))
        found[:, 0, 0], found[:, 2, 2] = self.gram[at, at], self.area_variance
        found[:, 1, 1] = np.einsum(
            "ni,nij,nj->n", vertex, self.gram[samples[:, :, None], samples[:, None]], vertex
        )
        found[:, 0, 1] = found[:, 1, 0] = (vertex * self.gram[at[:, None], samples]).sum(axis=1)
        found[:, 0, 2] = found[:, 2, 0] = self.shared[at]
        found[:, 1, 2] = found[:, 2, 1] = (vertex * self.shared[samples]).sum(axis=1)
        return found


def _plain(values, covariance):
    """Standard deviations of the maps that k gives as it is; MTT is area over peak."""
    peak, _, area = values.T
    safe = np.where(peak > 0, peak, np.nan)
    of_mtt = np.stack([-area / safe**2, np.zeros_like(peak), 1 / safe], axis=1)
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return {
        "cbf": FLOW_UNITS * np.where(peak > 0, sd[:, 0], np.nan),
        "tmax": sd[:, 1],
        "cbv": VOLUME_UNITS * sd[:, 2],
        "mtt": _carried(of_mtt, covariance),
        "snr": np.divide(peak, sd[:, 0], out=np.full_like(peak, np.inf), where=sd[:, 0] > 0),
    }


class _Calibrated:
    """Carry the covariance of peak, lag and area through the look-up of ``Calibration``."""

    def __init__(self, reader, residue):
        self.noise = reader.noise
        self.table = Calibration(reader.aif, reader.dt, reader.summary, reader.gains, residue)

    def __call__(self, values, covariance):
        found = _plain(values, covariance)
        step = STEP * np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        step[:, 0] = np.minimum(step[:, 0], 0.5 * np.abs(values[:, 0]))  # a peak below 0 is no flow at all
        step = np.maximum(step, 1e-9 + 1e-6 * np.abs(values))  # without noise: a plain derivative
        slopes = [self._slopes(values, step * unit) for unit in np.eye(3)]
        width = 2 * np.where(step > 0, step, 1.0)
        for name, unit in (("cbf", FLOW_UNITS), ("cbv", VOLUME_UNITS), ("mtt", 1.0), ("delay", 1.0)):
            jacobian = unit * np.stack([slope[name] for slope in slopes], axis=1) / width
            found[name] = np.where(values[:, 0] > 0, _carried(jacobian, covariance), np.nan)
        return found

    def _slopes(self, values, step):
        high, low = (self._read(values + sign * step) for sign in (1, -1))
        return {name: high[name] - low[name] for name in high}

    def _read(self, values):
        found = self.table(*values.T, self.noise)
        return {
            "cbf": found["flow"],
            "cbv": found["flow"] * found["mtt"],
            "mtt": found["mtt"],
            "delay": found["delay"],
        }


def _carried(jacobian, covariance):
    return np.sqrt(np.maximum(np.einsum("ni,nij,nj->n", jacobian, covariance, jacobian), 0))


def _preparation(n_frames, dt, sigma_s, n_baseline):
    """The matrix (T, T) from frames to curves: baseline subtracted, then ``curves.smooth`` in time."""
    if not sigma_s >= 0:
        raise ValueError(f"sigma_s is the width of a Gaussian in s, 0 for none: {sigma_s!r} came.")
    if not 0 <= n_baseline < n_frames:
        raise ValueError(f"n_baseline counts frames of the {n_frames} before the bolus: {n_baseline!r} came.")
    made = np.eye(n_frames)
    if sigma_s > 0:
        single = made.reshape(n_frames, 1, 1, n_frames)
        made = smooth(single, (1, 1, 1), dt, sigma_mm=0, sigma_s=sigma_s)[:, 0, 0].T.astype(float)
    made[:, :n_baseline] -= 1 / max(n_baseline, 1)  # smoothing leaves the constant, so it goes last as well
    return made


def _checked_noise(noise, sample, made, order) -> float:
    """The noise that came, or that of the curves' bends, of which what they went through left a known share.

    Smoothed noise is nearer to the signal: more differences (order) are needed to tell them apart.
    """
    if noise is None:
        if not len(sample):
            return 0.0
        kept = np.median(np.linalg.norm(np.diff(made, order, axis=0), axis=1))
        return float(np.median(np.abs(np.diff(sample.astype(float), order))) / (NORMAL_MEDIAN * kept))
    if not (np.isscalar(noise) and np.isfinite(noise) and noise >= 0):
        raise ValueError(f"noise is one standard deviation in HU, 0 or more: {noise!r} came.")
    return float(noise)
