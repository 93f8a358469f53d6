"""The matrices of a deconvolution and their regularised inverses, Eq. 4-7, for arrays and tensors alike.

``perfkit.deconvolution`` is the door: it checks what comes and names the methods. Leading axes are a batch.
Gradients are exact wherever nothing differentiates through a singular vector: "cholesky" and "fft". With the
circulant matrix every singular value comes twice, and the textbook gradient of the SVD, which carries
1/(σ_i² − σ_j²), is silently wrong there. The SVD stays for reading and testing.
"""

from __future__ import annotations

import numpy as np

from perfkit import paper
from perfkit.arrays import cast, gather, irfft, like, matmul, namespace, nonzero, rfft

EARLIEST_LAG = -10.0  # s; our choice: no tissue leads a usable AIF by more; later lags are padding
SMOOTHNESS = {"d1": 1, "d2": 2}  # prior -> which derivative of k it keeps small


# ---------------------------------------------------------------- the matrices


def volterra(aif, dt):
    """Lower triangular, (..., T) -> (..., T, T): see ``deconvolution.volterra_matrix``."""
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


def circulant(aif, dt):
    """Block-circulant, (..., T) -> (..., L, L): see ``deconvolution.circulant_matrix``."""
    xp = namespace(aif)
    v = circulant_column(xp, aif, dt)
    return gather(xp, v, _lag_index(v.shape[-1], v.shape[-1]))


def truncated(aif, dt):
    """Only the frames there are, (..., T) -> (..., T, T + D): see ``deconvolution.truncated_matrix``."""
    xp, n = namespace(aif), aif.shape[-1]
    v = circulant_column(xp, aif, dt)
    lags = np.concatenate([np.arange(n), np.arange(earliest_lag(n, dt), 0)])
    return gather(xp, v, np.subtract.outer(np.arange(n), lags) % v.shape[-1])


def circulant_column(xp, aif, dt):
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


def earliest_lag(n_frames: int, dt: float) -> int:
    """Return the first lag, in frames, that is worth a look: −10 s, as far as the scan reaches."""
    return max(int(np.floor(EARLIEST_LAG / dt)), 1 - n_frames)


def _lag_index(length, n_columns):
    return np.subtract.outer(np.arange(length), np.arange(n_columns)) % length


# ---------------------------------------------------------------- their inverses


def singular_value_decomposition(a):
    """Factor A = U diag(σ) Vᵀ.

    Paper: Eq. 5.

    Parameters
    ----------
    a : (..., N, M)

    Returns
    -------
    U : (..., N, K);  σ : (..., K), falling, K the smaller of N and M;  Vᵀ : (..., K, M)
    """
    xp = namespace(a)
    return np.linalg.svd(a, full_matrices=False) if xp is np else xp.svd(a, full_matrices=False)


def filtered_inverse(u, s, vt, filter_factors):
    """Invert through the singular values: V diag(f/σ) Uᵀ, with 0 where σ is 0.

    Paper: Eq. 6.

    Parameters
    ----------
    u, s, vt : as from ``singular_value_decomposition``
    filter_factors : (..., K), f(σ) in [0, 1]

    Returns
    -------
    (..., M, N)
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


def svd_operator(xp, a, regularization, lambda_rel):
    """Invert a matrix (..., N, M) through its singular values, "tikhonov" or "tsvd": (..., M, N)."""
    u, s, vt = singular_value_decomposition(a)
    if regularization == "tikhonov":
        return filtered_inverse(u, s, vt, tikhonov_filter(s, lambda_rel))
    kept = s >= lambda_rel * xp.max(s, axis=-1, keepdims=True)
    return filtered_inverse(u, s, vt, cast(xp, kept, s))


def cholesky_operator(xp, a, regularization, lambda_rel):
    """Solve the normal equations of a matrix (..., N, M), on its shorter side: (..., M, N), "tikhonov" only.

    (AᵀA + λ²I)⁻¹Aᵀ = Aᵀ(AAᵀ + λ²I)⁻¹. The condition is at most 1 + 1/λ_rel²: 12 at 0.3, safe in float32.
    σ_max² = |A v₁|² with v₁ held fixed: v₁ is a stationary point of that quotient, so the gradient
    is exact although no derivative of v₁ is ever taken.
    """
    at = xp.swapaxes(a, -1, -2)
    _, _, vt = singular_value_decomposition(a if xp is np else xp.stop_gradient(a))
    largest = xp.sum(matmul(xp, a, vt[..., 0, :, None]) ** 2, axis=(-1, -2))[..., None, None]
    strength = nonzero(xp, lambda_rel**2 * largest)
    if a.shape[-2] < a.shape[-1]:
        dual = _solve(xp, matmul(xp, a, at) + strength * like(xp, np.eye(a.shape[-2]), a), a)
        return xp.swapaxes(dual, -1, -2)
    return _solve(xp, matmul(xp, at, a) + strength * like(xp, np.eye(a.shape[-1]), a), at)


def _solve(xp, positive, right):
    if xp is np:
        return np.linalg.solve(positive, right)
    factor = xp.cholesky(positive)
    half = xp.solve_triangular(factor, right, lower=True)
    return xp.solve_triangular(xp.swapaxes(factor, -1, -2), half, lower=False)


def fft_operator(xp, aif, dt, regularization, lambda_rel):
    """Invert the circulant matrix of an AIF (..., T) by its Fourier coefficients: (..., L, T).

    They play the singular values, σ_i = |v̂_i|. The largest is searched, never replaced by the area under the
    AIF: they are equal for a ≥ 0 only, and a network's output is signed.
    """
    v = circulant_column(xp, aif, dt)
    real, imag = rfft(xp, v)
    power = real**2 + imag**2
    strength = lambda_rel**2 * xp.max(power, axis=-1, keepdims=True)
    if regularization == "tsvd":
        inverse = xp.where(power >= strength, 1 / nonzero(xp, power), xp.zeros_like(power))
    else:
        if regularization in SMOOTHNESS:
            strength = strength * like(xp, roughness(v.shape[-1], dt) ** SMOOTHNESS[regularization], v)
        inverse = 1 / nonzero(xp, power + strength)
    column = irfft(xp, real * inverse, -imag * inverse, v.shape[-1])
    return gather(xp, column, _lag_index(v.shape[-1], aif.shape[-1]))


def roughness(length: int, dt: float) -> np.ndarray:
    """Say what a difference between frames makes of each frequency: |2 sin(ω/2) / Δt|², (L/2 + 1,), 1/s²."""
    return (2 * np.sin(np.pi * np.fft.rfftfreq(length)) / dt) ** 2
