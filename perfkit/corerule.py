"""Core and penumbra as probabilities that a network can learn from, and how severe the hypoperfusion is.

A hard rule marks a voxel or not; its gradient is 0. Here each threshold is a sigmoid. A core has low flow
and, with the second factor, is late as well; the penumbra is late without low flow; together they are all
that is late.
"""

from __future__ import annotations

import numpy as np

from perfkit import paper
from perfkit.arrays import checked_positive, is_tensor, namespace, real_array

TMAX_THRESHOLD = 6.0  # s; hypoperfusion (Albers 2018, DEFUSE 3)
SEVERE_TMAX = 10.0  # s; severe hypoperfusion (Olivot 2014, DEFUSE 2)
RCBF_SLOPE = 0.05  # our choice: the paper does not state it; a twelfth of the way from 0.38 to healthy flow
TMAX_SLOPE = 1.0  # s; our choice: a frame of the usual scan, below which Tmax is noise


def core_probability(
    rcbf,
    tmax=None,
    *,
    threshold=paper.RCBF_THRESHOLD,
    slope=RCBF_SLOPE,
    tmax_threshold=TMAX_THRESHOLD,
    tmax_slope=TMAX_SLOPE,
):
    """Turn rCBF, and Tmax where it is given, into the probability of core.

    Parameters
    ----------
    rcbf : (...,), 1 in the mean reference tissue
    tmax : (...,), s, or None: then flow alone decides, as in the paper
    threshold, slope : of rCBF; numbers, or scalar tensors that are trained
    tmax_threshold, tmax_slope : s, likewise

    Returns
    -------
    (...,), in [0, 1]

    Raises
    ------
    ValueError, TypeError : rCBF and Tmax of different shapes, a slope that is not one positive number.

    Notes
    -----
    p = σ((θ − rCBF) / s) · σ((Tmax − θ_t) / s_t); the paper has the first factor only, Cereda 2016 asks for a
    late Tmax too. With slopes towards 0 it is the hard rule of both thresholds.
    """
    low = _beyond(-1, rcbf, threshold, slope, "slope, the width of the sigmoid in rCBF,", "Try 0.05.")
    if tmax is None:
        return low
    _check_shapes(rcbf, tmax)
    return low * late_probability(tmax, threshold=tmax_threshold, slope=tmax_slope)


def penumbra_probability(
    rcbf,
    tmax,
    *,
    threshold=paper.RCBF_THRESHOLD,
    slope=RCBF_SLOPE,
    tmax_threshold=TMAX_THRESHOLD,
    tmax_slope=TMAX_SLOPE,
):
    """Turn rCBF and Tmax into the probability of penumbra: late, and not core.

    Parameters
    ----------
    rcbf, tmax, threshold, slope, tmax_threshold, tmax_slope : as for ``core_probability``

    Returns
    -------
    (...,), in [0, 1]

    Raises
    ------
    ValueError, TypeError : as ``core_probability``.

    Notes
    -----
    p = σ((Tmax − θ_t) / s_t) · (1 − σ((θ − rCBF) / s)), whether the core asks for a late Tmax or not.
    """
    _check_shapes(rcbf, tmax)
    low = core_probability(rcbf, threshold=threshold, slope=slope)
    return late_probability(tmax, threshold=tmax_threshold, slope=tmax_slope) * (1 - low)


def late_probability(tmax, *, threshold=TMAX_THRESHOLD, slope=TMAX_SLOPE):
    """Turn Tmax into the probability of hypoperfusion, σ((Tmax − θ_t) / s_t).

    Parameters
    ----------
    tmax : (...,), s
    threshold, slope : s; numbers, or scalar tensors that are trained

    Returns
    -------
    (...,), in [0, 1]

    Raises
    ------
    ValueError, TypeError : the slope is not one positive number.
    """
    what = "tmax_slope, the width of the sigmoid in s of Tmax,"
    return _beyond(1, tmax, threshold, slope, what, "Try 1.")


def hypoperfusion_intensity_ratio(
    tmax, mask, *, severe: float = SEVERE_TMAX, threshold: float = TMAX_THRESHOLD
) -> float:
    """Compute how much of the hypoperfused volume is severely so: V(Tmax > 10 s) / V(Tmax > 6 s).

    Parameters
    ----------
    tmax : (...,), s
    mask : (...,) bool, tissue; elsewhere Tmax is not one
    severe, threshold : s

    Returns
    -------
    HIR, 0 to 1; NaN where nothing is hypoperfused. High where collaterals are poor.

    Raises
    ------
    ValueError : the mask has another shape, or severe is below threshold.

    Notes
    -----
    Olivot 2014. Like the thresholds of the trials it is defined on the Tmax of the clinical programs, whose
    regularisation makes it some seconds longer than the delay of the tissue.
    """
    if not severe >= threshold:
        raise ValueError(
            f"Severe hypoperfusion is part of hypoperfusion: severe={severe:g} s came with "
            f"threshold={threshold:g} s. Olivot 2014 has 10 and 6 s."
        )
    tmax, mask = np.asarray(tmax), np.asarray(mask)
    if tmax.shape != mask.shape:
        raise ValueError(f"The mask must have the shape of Tmax, {tmax.shape}: {mask.shape} came.")
    inside = tmax[mask.astype(bool)]
    late = np.count_nonzero(inside > threshold)
    return float(np.count_nonzero(inside > severe) / late) if late else float("nan")


def _beyond(side, values, threshold, slope, name, advice):
    """σ(±(x − θ) / s) on arrays and tensors; side is 1 for above, −1 for below."""
    slope = checked_positive(slope, name, advice)
    xp = namespace(values, threshold, slope)
    if xp is not np:
        return xp.sigmoid(side * (values - threshold) / slope)
    from scipy.special import expit

    return expit(side * (real_array(values, "A map") - threshold) / slope)


def _check_shapes(rcbf, tmax):
    """Raise where two maps would broadcast in silence; a graph may not know its sizes."""
    shapes = [tuple(x.shape) if is_tensor(x) else np.shape(x) for x in (rcbf, tmax)]
    known = None not in shapes[0] + shapes[1]
    if len(shapes[0]) != len(shapes[1]) or (known and shapes[0] != shapes[1]):
        raise ValueError(f"rCBF and Tmax must be maps of one grid: shapes {shapes[0]} and {shapes[1]} came.")
