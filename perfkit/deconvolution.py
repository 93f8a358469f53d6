"""Deconvolution of tissue curves with the arterial input function (AIF): Eq. 2-8 of the paper.

One implementation serves NumPy arrays and tensors of the running Keras backend: the array module
follows the input. Every linear method is first turned into one operator ``M`` with ``k = M c``;
all voxels then take one matrix product, and back-propagation meets the small ``M`` only once.

The matrices and their inverses are in ``perfkit.operators``; this is the door to them, and what is read
off k.
"""

from __future__ import annotations

import numpy as np

from perfkit import operators, paper
from perfkit.arrays import (
    cast,
    checked_aif,
    checked_dt,
    checked_lambda,
    is_tensor,
    matmul,
    namespace,
    nonzero,
    together,
)
from perfkit.operators import earliest_lag
from perfkit.operators import tikhonov_filter as tikhonov_filter  # Eq. 7 belongs to what this module offers

OSCILLATION_INDEX = 0.095  # OpenPerfusion's value for CT; Wu 2003 gives 0.035 for MR
TRUNCATIONS = np.arange(1, 20) * 0.05  # oSVD tries 5 … 95 % of σ_max by 5 (Wu 2003)
FLOW_UNITS = 6000 * paper.HEMATOCRIT_FACTOR / paper.DENSITY  # 1/s -> ml/100 g/min

MATRICES = ("volterra", "circulant")  # those of the study's arms and of the network
SYSTEMS = (*MATRICES, "truncated")
REGULARIZATIONS = ("tikhonov", "tsvd", "osvd", *operators.SMOOTHNESS)
SOLVERS = {  # what can solve what; "auto" takes the first: the one with exact gradients, where there is one
    ("volterra", "tikhonov"): ("cholesky", "svd"),
    ("volterra", "tsvd"): ("svd",),
    ("volterra", "osvd"): ("svd",),
    ("circulant", "tikhonov"): ("fft", "cholesky", "svd"),
    ("circulant", "tsvd"): ("fft", "svd"),
    ("circulant", "osvd"): ("fft", "svd"),
    ("circulant", "d1"): ("fft",),
    ("circulant", "d2"): ("fft",),
    ("truncated", "tikhonov"): ("cholesky", "svd"),
    ("truncated", "tsvd"): ("svd",),
    ("truncated", "osvd"): ("svd",),
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
    return operators.volterra(aif, dt)


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
    return operators.circulant(aif, dt)


def truncated_matrix(aif, dt=1.0):
    """Build the rows of the circulant matrix that were measured: nothing is said of the time after the scan.

    Parameters
    ----------
    aif : (T,), HU above baseline
    dt : float, frame interval in s

    Returns
    -------
    A : (T, T + D), HU s. ``A @ k`` is the tissue curve; the first T columns are the lags 0 … T−1, the last D
        those from −D to −1 frames, 10 s or as far as the scan reaches: a negative lag stands where Python
        counts it from the end.

    Raises
    ------
    ValueError, TypeError : as ``volterra_matrix``.

    Notes
    -----
    A_ij = v_{i−j} with the weights v of ``circulant_matrix``, whose other rows claim that the tissue curve is
    zero once the scan has ended. More unknowns than frames: the regularised k is the least one that explains
    the curve, Aᵀ(AAᵀ + λ²I)⁻¹c. What the AIF does after the scan is taken as 0 here too, which matters to
    negative lags alone.
    """
    aif, dt = checked_aif(aif), checked_dt(dt)
    return operators.truncated(aif, dt)


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
    matrix : "volterra" (the paper's; sensitive to delay), "circulant" (not) or "truncated" (not either, and
        blind to what comes after the scan)
    regularization : "tikhonov", "tsvd" (singular values below ``lambda_rel`` σ_max are dropped),
        "osvd" (per voxel the least truncation whose k oscillates no more than ``oscillation_index``), or
        "d1" and "d2" (circulant only: the first or second derivative of k is kept small, not k itself)
    lambda_rel : strength relative to the largest singular value, > 0; not used by "osvd". For "d1" in s, for
        "d2" in s²: the penalty of a derivative has its unit
    solver : "auto", "svd", "cholesky" or "fft"; all agree
    oscillation_index : largest oscillation that "osvd" accepts

    Returns
    -------
    k : 1/s, from lag 0 on: (..., T) for "volterra"; (..., L) for "circulant", in FFT order: the second half
        are negative lags, and L is the power of two from 2T on; (..., T + D) for "truncated": the last D are
        the lags −D … −1, D being 10 s. ``lag_window`` lists the lags to look at, for each

    Notes
    -----
    k̂ = conj(v̂) ĉ / (|v̂|² + λ² |2 sin(ω/2) / Δt|^{2d}) for "d1" and "d2", d = 1, 2: flat or straight parts of
    k cost nothing, so less of its height is lost for the same noise.

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
    valid : (..., T), 0 at frames that are padding: with the Volterra and the truncated matrix they then say
        nothing about k (with the circulant one zeros after the scan's end are what it assumes in any case)

    Returns
    -------
    M : (..., T, T) for "volterra", (..., L, T) for "circulant", (..., T + D, T) for "truncated", 1/(HU s)
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
        return operators.fft_operator(xp, aif, dt, regularization, lambda_rel)
    a = getattr(operators, matrix)(aif, dt)
    if valid is not None and matrix != "circulant":
        a = a * valid[..., None]
    build = operators.cholesky_operator if solver == "cholesky" else operators.svd_operator
    return build(xp, a, regularization, lambda_rel)[..., : aif.shape[-1]]


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
    matrix : "circulant", "truncated": from −10 s to T−1 (as far as the scan reaches); "volterra": 0 to T−1

    Returns
    -------
    (W,) int, rising; a negative lag m stands at index m of k, as Python counts from the end.
    """
    return np.arange(0 if matrix == "volterra" else earliest_lag(n_frames, dt), n_frames)


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


def _check_method(matrix, regularization, solver):
    for name, value, known in (
        ("matrix", matrix, SYSTEMS),
        ("regularization", regularization, REGULARIZATIONS),
        ("solver", solver, ("auto", "svd", "cholesky", "fft")),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}: {value!r} came.")
    if (matrix, regularization) not in SOLVERS:
        raise ValueError(
            f"The smoothness priors d1 and d2 need the circulant matrix: {matrix!r} came with "
            f"{regularization!r}. Try matrix='circulant'."
        )
    able = SOLVERS[matrix, regularization]
    if solver != "auto" and solver not in able:
        raise ValueError(
            f"{solver!r} cannot solve {regularization} with the {matrix} matrix. "
            f"Try {' or '.join(map(repr, able))}, or 'auto'."
        )
