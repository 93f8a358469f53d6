"""What a regularised deconvolution does to flow, transit time and delay, computed for one AIF, and undone.

Tikhonov's k is the true impulse response smoothed by a kernel that the AIF and λ fix, and the scan ends when
it ends. So the peak of k, its lag and the area of the curve that tissue of known transit time and delay would
show can be computed inside the real window, and what a voxel shows can be translated back.

Where noise leaves the transit time open, the plain inverse of that table throws ranking away: the area of a
weak curve is mostly noise. So the table holds posterior means instead. Each transit time is weighted by how
well it explains the apparent one, given the noise that the linear operator passes on, and by a broad prior.
Without noise that is the inverse; in pure noise it is the plain map, scaled. One table per AIF, one look-up
per voxel.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from perfkit.arrays import cast, like, matmul, namespace

FAMILIES = ("exponential", "gamma-2", "linear")
MTT_GRID = np.geomspace(1.2, 48, 84)  # s; 4.5 % a step, from below healthy grey matter to beyond a core
DELAYS = np.linspace(-5.0, 20.0, 11)  # s behind the AIF; our choice: collaterals come up to 15 s later
LAGS = np.linspace(-5.0, 27.5, 14)  # s of k's peak, which regularisation puts 2-7 s after the delay
PRIOR = (7.0, 0.4)  # s and its spread in log; our choice: grey matter at 4 s and a core at 12 s, ±1.4 sd
RESOLUTION = 0.02  # our choice: half a grid step, below which apparent transit times are not told apart
APPARENT = np.linspace(-3.0, 5.4, 112)  # asinh of the apparent MTT over 2 s: -20 to 220 s; noise goes below 0
NOISE = np.geomspace(0.002, 4.0, 14)  # σ over peak times the gain of the area, in units of the prior's MTT


def residue_moment(x, mtt, family: str = "gamma-2"):
    """Integrate a residue function twice: ∫₀ˣ ∫₀ᵘ R(s) ds du, 0 for x ≤ 0.

    Parameters
    ----------
    x : s
    mtt : s, mean transit time; the integral of R
    family : "exponential": R = e^(−t/MTT); "gamma-2": transit times of shape 2, R = (1 + 2t/MTT)
        e^(−2t/MTT); "linear": R = 1 − t/(2 MTT) until it is 0
    """
    x, mtt = np.broadcast_arrays(np.maximum(x, 0.0), np.asarray(mtt, float))
    if family == "exponential":
        return mtt * x + mtt**2 * np.expm1(-x / mtt)
    if family == "gamma-2":
        b = mtt / 2
        return 2 * b * x - 3 * b**2 + (3 * b**2 + b * x) * np.exp(-x / b)
    if family == "linear":
        inside = np.minimum(x, 2 * mtt)
        return inside**2 / 2 - inside**3 / (12 * mtt) + mtt * (x - inside)
    raise ValueError(f"The residue family is one of {', '.join(FAMILIES)}: {family!r} came.")


@lru_cache(maxsize=8)
def forward_kernels(n_frames: int, dt: float, family: str = "gamma-2"):
    """Return the discrete kernels that turn an AIF into curves of tissue with flow 1/s.

    Parameters
    ----------
    n_frames : T
    dt : s
    family : as for ``residue_moment``

    Returns
    -------
    (84, 11, 2T − 1), for ``MTT_GRID``, ``DELAYS`` and the lags −(T − 1) … T − 1 in frames. The AIF is linear
    between frames and the integral over it is exact: the second difference of the residue's second integral.
    """
    x = dt * np.arange(1 - n_frames, n_frames) - DELAYS[:, None]
    mtt = MTT_GRID[:, None, None]
    before, here, after = (residue_moment(x + step, mtt, family) for step in (-dt, 0.0, dt))
    found = (before - 2 * here + after) / dt
    found.flags.writeable = False
    return found


def forward_curves(aif, dt: float, family: str = "gamma-2"):
    """Compute the curves that tissue shows inside the scan, for every transit time and delay of the grid.

    Parameters
    ----------
    aif : (T,), array or tensor

    Returns
    -------
    (84 · 11, T), for flow 1/s
    """
    xp, n = namespace(aif), int(aif.shape[-1])
    kernels = forward_kernels(n, float(dt), family).reshape(-1, 2 * n - 1)
    kernels = like(xp, kernels, aif)
    frame = np.subtract.outer(np.arange(n), np.arange(1 - n, n)).T  # which value of the AIF meets which lag
    inside = (frame >= 0) & (frame < n)
    values = aif[np.clip(frame, 0, n - 1)] if xp is np else xp.take(aif, np.clip(frame, 0, n - 1), axis=0)
    return matmul(xp, kernels, values * (inside if xp is np else like(xp, inside, aif)))


class Calibration:
    """Translate peak, lag and area of a voxel into flow, transit time and delay, for one AIF.

    Parameters
    ----------
    aif : (T,), HU above baseline; array or tensor
    dt : s
    read : function from curves (n, T) to peak of k (n,) in 1/s, its lag (n,) in s, and area ratio (n,): how
        voxels are read, so that the table is read the same way
    gains : (n,) noise of the peak, (n,) noise of the area ratio and (n,) their covariance for white noise of
        1 HU, as a function of the lag (n,) in s
    family : of the residue function assumed
    """

    def __init__(self, aif, dt: float, read, gains, family: str = "gamma-2"):
        xp = self._xp = namespace(aif)
        shape = (len(MTT_GRID), len(DELAYS))
        peak, lag, area = read(forward_curves(aif, dt, family))
        of_peak, of_area, shared = (xp.reshape(gain, shape) for gain in gains(lag))
        peak, lag, area = (xp.reshape(found, shape) for found in (peak, lag, area))
        self._unit = xp.mean(of_area) / PRIOR[0]
        shift = lag - self._const(DELAYS[None], peak)
        tiny = self._const(1e-12, peak)
        log_peak = xp.log(xp.maximum(peak, tiny))
        apparent = area / xp.maximum(peak, tiny)
        variance = of_area**2, of_peak**2, shared
        columns = [
            self._posterior(apparent[:, j], [v[:, j] for v in variance], log_peak[:, j], shift[:, j])
            for j in range(len(DELAYS))
        ]
        of_delays = xp.reshape(xp.stack(columns, axis=0), (-1, 3))  # (delay · noise · apparent, value)
        of_lags = self._of_lags(of_delays, peak)
        columns = (of_lags[:, i] for i in range(3))  # each by itself: reading three at once is slower
        self._columns = [np.ascontiguousarray(c) if xp is np else c for c in columns]

    def _const(self, values, reference):
        return np.asarray(values, reference.dtype) if self._xp is np else like(self._xp, values, reference)

    def _posterior(self, apparent, variance, log_peak, shift):
        """Average over transit times: (noise, apparent, 3), log MTT, log peak and shift of the lag in s."""
        xp = self._xp
        of_area, of_peak, shared = variance
        nodes = self._const(2 * np.sinh(APPARENT)[:, None], apparent)
        noise = self._const(NOISE[:, None], apparent) / self._unit
        spread = noise**2 * (of_area + apparent**2 * of_peak - 2 * apparent * shared)
        spread = spread + (RESOLUTION * apparent) ** 2  # (noise, MTT)
        prior = self._const(-0.5 * (np.log(MTT_GRID / PRIOR[0]) / PRIOR[1]) ** 2, apparent)
        start, steepness = prior - 0.5 * xp.log(spread), -0.5 / spread
        log_weight = steepness[:, None] * (nodes - apparent) ** 2 + start[:, None]  # (noise, apparent, MTT)
        weight = xp.exp(log_weight - xp.max(log_weight, axis=-1, keepdims=True))
        log_mtt = self._const(np.log(MTT_GRID), apparent)
        values = xp.stack([xp.ones_like(shift), log_mtt, log_peak, shift], axis=-1)
        sums = xp.reshape(matmul(xp, xp.reshape(weight, (-1, len(MTT_GRID))), values), (len(NOISE), -1, 4))
        return sums[..., 1:] / sums[..., :1]

    def _of_lags(self, of_delays, reference):
        """Turn the table by delay, which a voxel does not show, into one by the lag of its peak.

        The delay is the lag less the shift, and the shift depends on the delay: three rounds settle that,
        once for the nodes of the table and not for every voxel.
        """
        xp, (n, width) = self._xp, (len(NOISE), len(APPARENT))
        lag, i, k = (x.ravel() for x in np.meshgrid(LAGS, np.arange(n), np.arange(width), indexing="ij"))
        at = i * width + k

        def rows(j):
            return xp.take(of_delays, j * (n * width) + at, axis=0)

        lag, step = self._const(lag, reference), float(DELAYS[1] - DELAYS[0])
        at = at.astype(np.intp) if xp is np else xp.convert_to_tensor(at.astype(np.int32))
        found = rows(int(np.argmin(np.abs(DELAYS))))
        for _ in range(3):
            j, w = _place(xp, (lag - found[:, 2] - float(DELAYS[0])) / step, len(DELAYS))
            j = _index(xp, j)
            found = (1 - w)[:, None] * rows(j) + w[:, None] * rows(j + 1)
        return found

    def __call__(self, peak, lag, area, noise) -> dict:
        """Calibrate voxels.

        Parameters
        ----------
        peak : (n,), 1/s;  lag : (n,), s;  area : (n,), ∫c/∫a
        noise : HU, standard deviation of the curves

        Returns
        -------
        dict of flow (n,), 1/s; mtt and delay (n,), s. Where k has no positive peak there is no flow: all 0.
        """
        xp = self._xp
        seen = peak > 0
        safe = xp.where(seen, peak, xp.ones_like(peak))
        u = (_arcsinh(xp, area / safe / 2) - float(APPARENT[0])) / float(APPARENT[1] - APPARENT[0])
        floor = self._const(float(NOISE[0]), peak)
        v = xp.log(xp.maximum(noise * self._unit / safe, floor) / floor) / float(np.log(NOISE[1] / NOISE[0]))
        j = (lag - float(LAGS[0])) / float(LAGS[1] - LAGS[0])
        log_mtt, log_peak, shift = self._read(j, v, u)
        inside = cast(xp, seen, peak)  # products: three selections would take as long as the logarithms
        flow, mtt, delay = peak * xp.exp(-log_peak), xp.exp(log_mtt), lag - shift
        return {"flow": inside * flow, "mtt": inside * mtt, "delay": inside * delay}

    def _read(self, lag, noise, apparent):
        """Read the three values at places in the table, linearly within a simplex.

        Of a cell's eight corners the four are taken that are met on the way from the lowest to the highest
        one, first along the axis with the largest share: as continuous as the product of three linear
        interpolations, and half the work.
        """
        xp, wide, deep = self._xp, len(APPARENT), len(NOISE) * len(APPARENT)
        j, w = _place(xp, lag, len(LAGS))
        i, s = _place(xp, noise, len(NOISE))
        k, t = _place(xp, apparent, wide)
        larger, smaller = xp.maximum(w, s), xp.minimum(w, s)
        most, least = xp.maximum(larger, t), xp.minimum(smaller, t)
        middle = xp.maximum(smaller, xp.minimum(larger, t))

        def along(share):  # the step of the axis that has this share
            first = cast(xp, w == share, w)
            return 1 + (deep - 1) * first + (wide - 1) * (1 - first) * cast(xp, s == share, w)

        lowest = j * deep + i * wide + k
        highest = lowest + (deep + wide + 1)
        nodes = [_index(xp, x) for x in (lowest, lowest + along(most), highest - along(least), highest)]
        shares = 1 - most, most - middle, middle - least, least

        def read(column):
            first, *others = (x * xp.take(column, at, axis=0) for x, at in zip(shares, nodes, strict=True))
            return sum(others, start=first)

        return [read(column) for column in self._columns]


def white_noise(curves) -> float:
    """Estimate the standard deviation of white noise from the second differences of curves.

    Parameters
    ----------
    curves : (..., T), array or tensor, HU

    Returns
    -------
    HU, the median over curves and frames; smoothing in time hides noise from it, so it is then too low

    Notes
    -----
    The second difference of white noise has √6 times its standard deviation; the median of the absolute
    values of a normal variable is .6745 of it.
    """
    xp = namespace(curves)
    steps = xp.abs(curves[..., 2:] - 2 * curves[..., 1:-1] + curves[..., :-2])
    return xp.median(steps) / float(0.6745 * np.sqrt(6))


def _arcsinh(xp, x):
    """NumPy's own takes five times as long, the time of the whole look-up."""
    size = xp.abs(x)
    return xp.sign(x) * xp.log(size + xp.sqrt(size**2 + 1)) if xp is np else xp.arcsinh(x)


def _place(xp, x, n):
    """Split a place in a table of n nodes into the node below, a whole number, and the share of the next."""
    x = xp.clip(x, 0.0, n - 1.0)  # ends stay
    below = xp.minimum(xp.floor(x), n - 2.0)
    return below, x - below


def _index(xp, x):
    return x.astype(np.intp) if xp is np else xp.cast(x, "int32")
