"""From curves to the numbers of the maps, for one AIF: what depends on it is prepared once for all voxels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from perfkit import paper
from perfkit.arrays import gather, matmul, namespace, nonzero
from perfkit.calibration import Calibration
from perfkit.deconvolution import FLOW_UNITS, deconvolution_operator, impulse_response, lag_window
from perfkit.readout import peak_parabola, peak_time_exact

VOLUME_UNITS = 100 * paper.HEMATOCRIT_FACTOR / paper.DENSITY  # area ratio -> ml/100 g


@dataclass(frozen=True)
class Wanted:
    """What is to be read: names of maps, where TTP starts, which peak, and of calibrated maps their model."""

    only: tuple[str, ...]
    t0: float = 0.0  # s
    peak_time: str = "parabola"  # or "exact"
    residue: str | None = None  # family; None: plain maps
    noise: float | None = None  # HU

    @property
    def noise_is_missing(self) -> bool:
        return self.residue is not None and self.noise is None


class Reader:
    """Read maps (V,) off curves (V, T), arrays or tensors.

    Parameters
    ----------
    aif : (T,), HU above baseline
    dt : s
    options : matrix, regularization and lambda_rel of the deconvolution
    wanted : Wanted
    dtype : of the curves
    """

    def __init__(self, aif, dt, options: dict, wanted: Wanted, dtype):
        xp = self.xp = namespace(aif)
        self.aif, self.dt, self.options, self.wanted, self.dtype = aif, dt, options, wanted, dtype
        self.lags = lag_window(aif.shape[-1], dt, options["matrix"])
        weights = np.full(aif.shape[-1], dt)
        weights[[0, -1]] = dt / 2  # trapezia
        if xp is np:
            area = np.sum(aif * weights)
            self.weights, self.area = weights.astype(dtype), dtype.type(area if area > 0 else np.nan)
        else:
            self.weights = xp.convert_to_tensor(weights, dtype)
            area = xp.sum(aif * self.weights)
            self.area = xp.where(area > 0, area, np.nan)

    @cached_property
    def every_lag(self):
        """Operator (T, L) from curves to k at all lags that the matrix has."""
        xp = self.xp
        full = deconvolution_operator(
            self.aif if xp is not np else self.aif.astype(float), self.dt, **self.options
        )
        return full.T.astype(self.dtype) if xp is np else xp.transpose(full)

    @cached_property
    def operator(self):
        """Operator (T, W) from curves to k at the lags searched."""
        found = gather(self.xp, self.every_lag, self.lags % self.every_lag.shape[-1])
        return np.ascontiguousarray(found) if self.xp is np else found

    @cached_property
    def table(self):
        aif = self.aif.astype(self.dtype) if self.xp is np else self.aif
        return Calibration(aif, self.dt, self.summary, self.gains, self.wanted.residue)

    def __call__(self, curves) -> dict:
        """Return name → map (V,) of what is wanted."""
        found = self.plain(curves) if self.wanted.residue is None else self.calibrated(curves)
        if "ttp" in self.wanted.only:
            found["ttp"] = peak_parabola(curves)[1] * self.dt - self.wanted.t0
        return {name: found[name] for name in self.wanted.only}

    def plain(self, curves) -> dict:
        """Read flow, volume, transit time and Tmax as the regularised k gives them."""
        xp, only, found = self.xp, set(self.wanted.only), {}
        if {"cbf", "mtt", "tmax"} & only:
            peak, found["tmax"] = self.peak(curves)
            found["cbf"] = FLOW_UNITS * peak
        if {"cbv", "mtt"} & only:
            found["cbv"] = VOLUME_UNITS * self.area_ratio(curves)
        if "mtt" in only:
            cbf, cbv = found["cbf"], found["cbv"]
            found["mtt"] = xp.where(cbf > 0, 60 * cbv / nonzero(xp, cbf), xp.zeros_like(cbf))
        return found

    def calibrated(self, curves) -> dict:
        """Read them with the bias undone that the table knows, and the delay."""
        peak, lag, ratio = self.summary(curves)
        found = self.table(peak, lag, ratio, self.wanted.noise)
        cbf, cbv = FLOW_UNITS * found["flow"], VOLUME_UNITS * found["flow"] * found["mtt"]
        return found | {"cbf": cbf, "cbv": cbv, "tmax": lag}

    def summary(self, curves):
        """Height of k's peak in 1/s, its lag in s, and ∫c/∫a: all (V,)."""
        return *self.peak(curves), self.area_ratio(curves)

    def area_ratio(self, curves):
        return matmul(self.xp, curves, self.weights) / self.area

    def peak(self, curves):
        """Largest sample of k in 1/s, and its lag in s, refined as ``peak_time`` says: both (V,)."""
        if self.wanted.peak_time == "exact":
            k = self.irf(curves, every=True)
            near = gather(self.xp, k, self.lags % k.shape[-1])
            return self.xp.max(near, axis=-1), peak_time_exact(k, self.lags, self.dt)
        peak, place = peak_parabola(self.irf(curves))
        return peak, (place + int(self.lags[0])) * self.dt

    def irf(self, curves, every: bool = False):
        """Compute k (V, W) at the lags searched, or (V, L) at every lag, in 1/s."""
        if self.options["regularization"] != "osvd":
            return matmul(self.xp, curves, self.every_lag if every else self.operator)
        k = impulse_response(curves, self.aif, self.dt, **self.options)
        return k if every else gather(self.xp, k, self.lags % k.shape[-1])

    def gains(self, lag):
        """Noise of peak and area, and what they share, for white noise of 1 HU, at lags (n,) in s."""
        xp = self.xp
        at = lag / self.dt - int(self.lags[0])
        at = np.rint(at).astype(int) if xp is np else xp.cast(xp.round(at), "int32")
        of_area = xp.sqrt(xp.sum(self.weights**2)) / xp.abs(self.area) + xp.zeros_like(lag)
        of_peak = xp.sqrt(xp.sum(self.operator**2, axis=0))
        shared = matmul(xp, self.weights[None], self.operator)[0] / xp.abs(self.area)
        return xp.take(of_peak, at, axis=0), of_area, xp.take(shared, at, axis=0)
