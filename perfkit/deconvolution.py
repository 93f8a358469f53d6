"""Deconvolution of tissue curves with the arterial input function (AIF): Eq. 2-8 of the paper.

One implementation serves NumPy arrays and tensors of the running Keras backend: the array module
follows the input. Every linear method is first turned into one operator ``M`` with ``k = M c``;
all voxels then take one matrix product, and back-propagation meets the small ``M`` only once.

Gradients are exact for both matrices: nothing differentiates through a singular vector. With the
circulant matrix every singular value comes twice, and the textbook gradient of the SVD, which
carries 1/(σ_i² − σ_j²), is silently wrong there. The SVD solver stays for reading and testing.
"""

from __future__ import annotations

import numpy as np

from perfkit import paper
from perfkit.arrays import (
    cast,
    checked_aif,
    checked_dt,
    checked_lambda,
    gather,
    irfft,
    is_tensor,
    like,
    matmul,
    namespace,
    nonzero,
    rfft,
    together,
)

OSCILLATION_INDEX = 0.095  # OpenPerfusion's value for CT; Wu 2003 gives 0.035 for MR
TRUNCATIONS = np.arange(1, 20) * 0.05  # oSVD tries 5 … 95 % of σ_max by 5 (Wu 2003)
EARLIEST_LAG = -10.0  # s; our choice: no tissue leads a usable AIF by more; later lags are padding
FLOW_UNITS = 6000 * paper.HEMATOCRIT_FACTOR / paper.DENSITY  # 1/s -> ml/100 g/min

MATRICES = ("volterra", "circulant")
REGULARIZATIONS = ("tikhonov", "tsvd", "osvd")
SOLVERS = {  # what can solve what; "auto" takes the first: the one with exact gradients, where there is one
    ("volterra", "tikhonov"): ("cholesky", "svd"),
    ("volterra", "tsvd"): ("svd",),
    ("volterra", "osvd"): ("svd",),
    ("circulant", "tikhonov"): ("fft", "cholesky", "svd"),
    ("circulant", "tsvd"): ("fft", "svd"),
    ("circulant", "osvd"): ("fft", "svd"),
}


# ---------------------------------------------------------------- the matrices


def volterra_matrix(aif, dt=1.0):
    """Build the lower-triangular Volterra matrix: exact where AIF and k are piecewise linear.

    Paper: Eq. 4.

    Parameters
    ----------
    aif : (T,), HU above baseline
    dt : float, frame interval in s

    Returns
    -------
    A : (T, T), HU s. ``A @ k`` is the tissue curve; row 0 is zero.

    Raises
    ------
    ValueError, TypeError : the AIF is not one finite curve with something positive in it; dt <= 0.

    Notes
    -----
    A_i0 = Δt (2 a_i + a_{i-1}) / 6, A_ii = Δt (2 a_0 + a_1) / 6 and, between them,
    A_ij = Δt (a_{i-j-1} + 4 a_{i-j} + a_{i-j+1}) / 6. The paper prints the formula without these
    lags (Sourbron 2007 has them); ``perfkit bench departures`` measures what that would change.
    """
    aif, dt = checked_aif(aif), checked_dt(dt)
    return _volterra(aif, dt)


def circulant_matrix(aif, dt=1.0):
    """Build the block-circulant matrix with Volterra's weights: blind to a delay of the AIF.

    Parameters
    ----------
    aif : (T,), HU above baseline
    dt : float, frame interval in s

    Returns
    -------
    C : (L, L), HU s, L the power of two from 2T on. ``(C @ k)[:T]`` is the tissue curve; the upper
        half of k holds the negative lags (index i > L/2 means lag i − L).

    Raises
    ------
    ValueError, TypeError : as ``volterra_matrix``.

    Notes
    -----
    C_ij = v_{(i−j) mod L} (Wu 2003) with v_m = Δt (a_{m-1} + 4 a_m + a_{m+1}) / 6.
    """
    aif, dt = checked_aif(aif), checked_dt(dt)
    xp = namespace(aif)
    v = _circulant_column(xp, aif, dt)
    length = v.shape[-1]
    return gather(xp, v, _lag_index(length, length))


def _volterra(aif, dt):
    xp = namespace(aif)
    n = aif.shape[-1]
    zero = xp.zeros_like(aif[..., :1])
    before = xp.concatenate([zero, aif[..., :-1]], axis=-1)
    after = xp.concatenate([aif[..., 1:], zero], axis=-1)
    band = before + 4 * aif + after  # at lag m: a_{m-1} + 4 a_m + a_{m+1}; lag 0 is replaced below
    first = 2 * aif + before
    lag = np.subtract.outer(np.arange(n), np.arange(n))
    inside = like(xp, (lag > 0) & (np.arange(n) > 0), aif)
    below_first_row = np.arange(n)[:, None] > 0
    left = like(xp, below_first_row & (np.arange(n) == 0), aif)
    diagonal = like(xp, below_first_row & (lag == 0), aif)
    matrix = (
        inside * gather(xp, band, np.maximum(lag, 0))
        + left * first[..., :, None]
        + diagonal * (2 * aif[..., :1] + aif[..., 1:2])[..., None]
    )
    return matrix * (dt / 6)


def _circulant_column(xp, aif, dt):
    """First column v (..., L) of the circulant matrix; index L−1 is the lag −1.

    With L a power of two, a scan padded with zeros to 64 frames has the operator of the scan itself.
    """
    length = 1 << (2 * aif.shape[-1] - 1).bit_length()
    zeros = xp.zeros_like(aif)
    padding = -(-length // aif.shape[-1]) - 1
    a = xp.concatenate([aif] + [zeros] * padding, axis=-1)[..., :length]
    before = xp.concatenate([zeros[..., :1], a[..., :-1]], axis=-1)
    after = xp.concatenate([a[..., 1:], a[..., :1]], axis=-1)  # wraps: lag −1 holds a_0
    return (before + 4 * a + after) * (dt / 6)


# ---------------------------------------------------------------- the forward direction


def convolve(irf, aif, dt=1.0):
    """Give the tissue curve that an impulse response makes of the AIF, on the frame times.

    Paper: Eq. 2.

    Parameters
    ----------
    irf : (..., T), 1/s, lags 0 … (T−1) dt
    aif : (T,), HU above baseline
    dt : float, s

    Returns
    -------
    curves : (..., T), HU above baseline

    Notes
    -----
    c_i = Σ_j A_ij k_j with the Volterra weights: exact where both are piecewise linear.
    """
    irf, aif, xp = together(irf, aif)
    return matmul(xp, irf, xp.swapaxes(volterra_matrix(aif, dt), -1, -2))


# ---------------------------------------------------------------- the inverse direction


def impulse_response(
    curves,
    aif,
    dt=1.0,
    *,
    matrix: str = "volterra",
    regularization: str = "tikhonov",
    lambda_rel=paper.LAMBDA_REL,
    solver: str = "auto",
    oscillation_index: float = OSCILLATION_INDEX,
):
    """Solve c = A k for the impulse response k of every voxel.

    Paper: Eq. 3.

    Parameters
    ----------
    curves : (..., T), HU above baseline
    aif : (T,), HU above baseline
    dt : float, frame interval in s
    matrix : "volterra" (the paper's; sensitive to delay) or "circulant" (not)
    regularization : "tikhonov", "tsvd" (singular values below ``lambda_rel`` σ_max are dropped) or
        "osvd" (per voxel the least truncation whose k oscillates no more than ``oscillation_index``)
    lambda_rel : strength relative to the largest singular value, > 0; not used by "osvd"
    solver : "auto", "svd", "cholesky" or "fft"; all agree
    oscillation_index : largest oscillation that "osvd" accepts

    Returns
    -------
    k : (..., T) for "volterra", (..., L) for "circulant", 1/s, in FFT order: the second half are
        negative lags; L is the power of two from 2T on

    Raises
    ------
    ValueError, TypeError : shapes that do not match, an AIF with nothing positive in it, dt or
        lambda_rel not positive, a solver that cannot do it.
    """
    curves, aif, xp = together(curves, aif)
    _check_method(matrix, regularization, solver)
    dt = checked_dt(dt)
    aif = checked_aif(aif, n_frames=curves.shape[-1])
    if regularization == "osvd":
        return _osvd(
            xp, curves, aif, dt, matrix, solver, checked_lambda(oscillation_index, "oscillation_index")
        )
    operator = deconvolution_operator(
        aif, dt, matrix=matrix, regularization=regularization, lambda_rel=lambda_rel, solver=solver
    )
    return matmul(xp, curves, xp.swapaxes(cast(xp, operator, curves), -1, -2))


def deconvolution_operator(
    aif,
    dt=1.0,
    *,
    matrix="volterra",
    regularization="tikhonov",
    lambda_rel=paper.LAMBDA_REL,
    solver="auto",
    valid=None,
):
    """Build the operator M with k = M c; all methods but oSVD are linear in the tissue curve.

    Parameters
    ----------
    aif : (..., T), HU above baseline; leading axes are a batch
    dt, matrix, regularization, lambda_rel, solver : as ``impulse_response``, without "osvd"
    valid : (..., T), 0 at frames that are padding: with the Volterra matrix they then say nothing about k
        (with the circulant one zeros after the scan's end are what it assumes in any case)

    Returns
    -------
    M : (..., T, T) for "volterra", (..., L, T) for "circulant", 1/(HU s)
    """
    _check_method(matrix, regularization, solver)
    if regularization == "osvd":
        raise ValueError(
            "An operator needs a method that is linear in the curve, and osvd is not. Try 'tsvd'."
        )
    lambda_rel, dt = checked_lambda(lambda_rel), checked_dt(dt)
    solver = SOLVERS[matrix, regularization][0] if solver == "auto" else solver
    xp = namespace(aif)
    if xp is not np and is_tensor(lambda_rel):
        lambda_rel = xp.cast(xp.convert_to_tensor(lambda_rel), aif.dtype)
    if solver == "fft":
        return _fft_operator(xp, aif, dt, regularization, lambda_rel)
    if matrix == "volterra":
        a = _volterra(aif, dt) if valid is None else _volterra(aif, dt) * valid[..., None]
    else:
        v = _circulant_column(xp, aif, dt)
        a = gather(xp, v, _lag_index(v.shape[-1], v.shape[-1]))
    build = _cholesky_operator if solver == "cholesky" else _svd_operator
    return build(xp, a, regularization, lambda_rel)[..., : aif.shape[-1]]


def singular_value_decomposition(a):
    """Factor A = U diag(σ) Vᵀ.

    Paper: Eq. 5.

    Parameters
    ----------
    a : (..., N, N)

    Returns
    -------
    U : (..., N, N);  σ : (..., N), falling;  Vᵀ : (..., N, N)
    """
    xp = namespace(a)
    return np.linalg.svd(a) if xp is np else xp.svd(a)


def filtered_inverse(u, s, vt, filter_factors):
    """Invert through the singular values: V diag(f/σ) Uᵀ, with 0 where σ is 0.

    Paper: Eq. 6.

    Parameters
    ----------
    u, s, vt : as from ``singular_value_decomposition``
    filter_factors : (..., N), f(σ) in [0, 1]

    Returns
    -------
    (..., N, N)
    """
    xp = namespace(s)
    safe = xp.where(s > 0, s, xp.ones_like(s))  # before the division: a masked NaN still spoils gradients
    inverse = xp.where(s > 0, filter_factors / safe, xp.zeros_like(s))
    return matmul(xp, xp.swapaxes(vt, -1, -2) * inverse[..., None, :], xp.swapaxes(u, -1, -2))


def tikhonov_filter(s, lambda_rel=paper.LAMBDA_REL):
    """Damp small singular values: f = σ² / (σ² + λ²) with λ = λ_rel σ_max.

    Paper: Eq. 7.

    Parameters
    ----------
    s : (..., N), singular values
    lambda_rel : float

    Returns
    -------
    f : (..., N)

    Notes
    -----
    λ is one number for all singular values. Read per index (λ_i = λ_rel σ_i) f would be the constant
    1/(1 + λ_rel²), which regularises nothing.
    """
    xp = namespace(s)
    return s**2 / nonzero(xp, s**2 + (lambda_rel * xp.max(s, axis=-1, keepdims=True)) ** 2)


def _svd_operator(xp, a, regularization, lambda_rel):
    u, s, vt = singular_value_decomposition(a)
    if regularization == "tikhonov":
        return filtered_inverse(u, s, vt, tikhonov_filter(s, lambda_rel))
    kept = s >= lambda_rel * xp.max(s, axis=-1, keepdims=True)
    return filtered_inverse(u, s, vt, cast(xp, kept, s))


def _cholesky_operator(xp, a, regularization, lambda_rel):
    """(AᵀA + λ²I)⁻¹ Aᵀ. Its condition is at most 1 + 1/λ_rel²: 12 at 0.3, safe in float32.

    σ_max² = |A v₁|² with v₁ held fixed: v₁ is a stationary point of that quotient, so the gradient
    is exact although no derivative of v₁ is ever taken.
    """
    at = xp.swapaxes(a, -1, -2)
    _, _, vt = singular_value_decomposition(a if xp is np else xp.stop_gradient(a))
    largest = xp.sum(matmul(xp, a, vt[..., 0, :, None]) ** 2, axis=(-1, -2))[..., None, None]
    identity = like(xp, np.eye(a.shape[-1]), a)
    normal = matmul(xp, at, a) + nonzero(xp, lambda_rel**2 * largest) * identity
    if xp is np:
        return np.linalg.solve(normal, at)
    factor = xp.cholesky(normal)
    half = xp.solve_triangular(factor, at, lower=True)
    return xp.solve_triangular(xp.swapaxes(factor, -1, -2), half, lower=False)


def _fft_operator(xp, aif, dt, regularization, lambda_rel):
    """Circulant: the Fourier coefficients of v play the singular values, σ_i = |v̂_i|.

    The largest is searched, never replaced by the area under the AIF: they are equal for a ≥ 0
    only, and a network's output is signed.
    """
    v = _circulant_column(xp, aif, dt)
    real, imag = rfft(xp, v)
    power = real**2 + imag**2
    largest = xp.max(power, axis=-1, keepdims=True)
    if regularization == "tikhonov":
        inverse = 1 / nonzero(xp, power + lambda_rel**2 * largest)
    else:
        kept = power >= (lambda_rel**2 * largest)
        inverse = xp.where(kept, 1 / nonzero(xp, power), xp.zeros_like(power))
    column = irfft(xp, real * inverse, -imag * inverse, v.shape[-1])
    return gather(xp, column, _lag_index(v.shape[-1], aif.shape[-1]))


def _osvd(xp, curves, aif, dt, matrix, solver, threshold):
    """Per voxel the least truncation whose oscillation index is at most the threshold (Wu 2003)."""
    chosen = settled = None
    for truncation in TRUNCATIONS:
        k = impulse_response(
            curves, aif, dt, matrix=matrix, regularization="tsvd", lambda_rel=float(truncation), solver=solver
        )
        calm = oscillation(k) <= threshold
        if chosen is None:
            chosen, settled = k, calm
        else:
            chosen = xp.where(settled[..., None], chosen, k)  # nobody calm so far: the strongest stays
            settled = xp.logical_or(settled, calm)
    return chosen


def oscillation(irf):
    """Measure how much k oscillates: OI = Σ |k_j − 2k_{j−1} + k_{j−2}| / (L max k) (Wu 2003).

    Parameters
    ----------
    irf : (..., L), 1/s

    Returns
    -------
    (...,), dimensionless; 0 where k is 0
    """
    xp = namespace(irf)
    bends = xp.sum(xp.abs(irf[..., 2:] - 2 * irf[..., 1:-1] + irf[..., :-2]), axis=-1)
    return bends / nonzero(xp, irf.shape[-1] * xp.maximum(xp.max(irf, axis=-1), 0))


# ---------------------------------------------------------------- reading k


def lag_window(n_frames: int, dt: float, matrix: str = "circulant") -> np.ndarray:
    """List the lags, in frames, in which the peak of k is searched.

    Parameters
    ----------
    n_frames : T
    dt : float, s
    matrix : "circulant": from −10 s to T−1 (as far as the padding reaches); "volterra": 0 to T−1

    Returns
    -------
    (W,) int, rising; a negative lag m stands at index m of k, as Python counts from the end.
    """
    earliest = 0 if matrix == "volterra" else max(int(np.floor(EARLIEST_LAG / dt)), 1 - n_frames)
    return np.arange(earliest, n_frames)


def flow(irf):
    """Read the flow off the impulse response: CBF = (6000 κ/ρ) max k.

    Paper: Eq. 8.

    Parameters
    ----------
    irf : (..., L), 1/s, only the lags to be searched (``lag_window``)

    Returns
    -------
    cbf : (...,), ml/100 g/min

    Notes
    -----
    The paper divides by ρ only; κ, the ratio of large- and small-vessel plasma fractions, is needed
    for absolute units (Fieselmann 2011) and cancels in rCBF. The gradient of the maximum passes
    through the sample that attains it, which is exact wherever it is unique.
    """
    return FLOW_UNITS * namespace(irf).max(irf, axis=-1)


def _lag_index(length, n_columns):
    return np.subtract.outer(np.arange(length), np.arange(n_columns)) % length


def _check_method(matrix, regularization, solver):
    for name, value, known in (
        ("matrix", matrix, MATRICES),
        ("regularization", regularization, REGULARIZATIONS),
        ("solver", solver, ("auto", "svd", "cholesky", "fft")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}: {value!r} came.")
    able = SOLVERS[matrix, regularization]
    if solver != "auto" and solver not in able:
        raise ValueError(
            f"{solver!r} cannot solve {regularization} with the {matrix} matrix. "
            f"Try {' or '.join(map(repr, able))}, or 'auto'."
        )
