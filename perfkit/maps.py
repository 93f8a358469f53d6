"""Perfusion maps in the units of the field: CBF, CBV, MTT, Tmax, TTP, rCBF, core and penumbra."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from perfkit import paper
from perfkit.arrays import (
    checked_aif,
    checked_dt,
    concrete,
    is_tensor,
    namespace,
    nonzero,
    real_array,
    real_tensor,
    tensor_dtype,
)
from perfkit.calibration import FAMILIES, white_noise
from perfkit.corerule import TMAX_THRESHOLD
from perfkit.deconvolution import impulse_response
from perfkit.mapreader import Reader, Wanted

NOISE_VOXELS = 4096  # our choice: their median has 1 % of error
BLOCK = 16384  # voxels at once; our choice: their k (16384 × 2T float32) stays in the processor's cache
ESTIMATORS = ("tikhonov", "calibrated")
NAMES = ("cbf", "cbv", "mtt", "tmax", "ttp")  # of every estimator; calibrated maps have a delay too
CALIBRATED = (*NAMES, "delay")
PEAK_TIMES = ("parabola", "exact")


@dataclass
class Maps:
    """The maps of one series.

    Attributes
    ----------
    cbf : (...,), ml/100 g/min;  cbv : (...,), ml/100 g;  mtt, tmax, ttp : (...,), s
    delay : (...,), s, of the tissue behind the AIF; of calibrated maps only
    method : how they were made, as it goes into the sidecar of a file
    """

    cbf: np.ndarray | None = None
    cbv: np.ndarray | None = None
    mtt: np.ndarray | None = None
    tmax: np.ndarray | None = None
    ttp: np.ndarray | None = None
    delay: np.ndarray | None = None
    method: dict = field(default_factory=dict)

    def items(self):
        """Yield name and map, in the order of the field's reports."""
        return ((name, getattr(self, name)) for name in CALIBRATED if getattr(self, name) is not None)


def perfusion_maps(
    concentration,
    aif,
    dt: float = 1.0,
    *,
    estimator: str = "tikhonov",
    matrix: str = "circulant",
    regularization: str = "tikhonov",
    lambda_rel: float = paper.LAMBDA_REL,
    mask=None,
    vof=None,
    t0: float = 0.0,
    only=None,
    residue: str = "gamma-2",
    noise=None,
    peak_time: str = "parabola",
) -> Maps:
    """Deconvolve every voxel and read the perfusion maps off.

    Parameters
    ----------
    concentration : (..., T), HU above baseline
    aif : (T,), HU above baseline
    dt : float, frame interval in s
    estimator : "tikhonov": the maps as the regularised k gives them; "calibrated": flow, volume, transit
        time and delay with what the regularisation and the end of the scan did to them undone
    matrix, regularization, lambda_rel : as ``deconvolution.impulse_response``
    mask : (...,) bool, voxels to compute; 0 elsewhere
    vof : (T,), HU above baseline; the AIF is scaled to its area, which undoes partial volume
    t0 : float, s; TTP is counted from here (0: the first frame)
    only : names of the maps that are needed, the others are None; default: all
    residue : family of the residue function that "calibrated" assumes, ``calibration.FAMILIES``
    noise : HU, standard deviation of the curves, for "calibrated"; default ``calibration.white_noise`` of
        the voxels, which is too low where curves were smoothed in time
    peak_time : how Tmax is refined between samples: "parabola" through three of them, or "exact", the maximum
        of the trigonometric interpolant (``readout``; circulant matrix only)

    Returns
    -------
    Maps with .cbf .cbv .mtt .tmax .ttp (...,), of the dtype of the curves

    Raises
    ------
    ValueError, TypeError : time is not the last axis, mask or VOF of another shape, an AIF with
        nothing positive in it, dt or lambda_rel not positive, a choice that does not exist.

    Notes
    -----
    CBF = 6000 (κ/ρ) max k, CBV = 100 (κ/ρ) ∫c/∫a, MTT = 60 CBV/CBF, Tmax = argmax k, TTP = argmax c − t0.
    CBF is that of the largest sample, TTP is refined by the parabola. With the circulant matrix the peak is
    searched from −10 s on, so Tmax is negative where tissue leads the AIF. Tikhonov lowers CBF and raises
    Tmax by amounts that depend on the AIF's width: see rCBF for what survives that.
    CBV and MTT are NaN where the AIF's area is not positive.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}: {estimator!r} came.")
    if not is_tensor(concentration):
        concentration = real_array(concentration, "The concentration")
    if len(concentration.shape) < 1:
        raise ValueError("The concentration needs a time axis, the last one: a single number came.")
    names = NAMES if estimator == "tikhonov" else CALIBRATED
    only = names if only is None else only
    if isinstance(only, str) or not hasattr(only, "__iter__") or not set(only) <= set(names):
        raise ValueError(f"only takes a list of names among {', '.join(names)}: {only!r} came.")
    dt, aif = checked_dt(dt), _scaled_to(aif, vof)
    options = {"matrix": matrix, "regularization": regularization, "lambda_rel": lambda_rel}
    method = {"estimator": estimator, **options, "dt": dt, "vof_scaled": vof is not None, "t0": t0}
    method["peak_time"] = _checked_peak_time(peak_time, matrix)
    if estimator == "calibrated":
        _check_calibrated(regularization, residue, noise)
        method["residue"] = residue
    wanted = Wanted(tuple(only), t0, peak_time, residue if estimator == "calibrated" else None, noise)
    if is_tensor(concentration) or is_tensor(aif):
        maps = _of_tensors(concentration, aif, dt, options, wanted, mask)
    else:
        maps = _of_arrays(concentration, aif, dt, options, wanted, mask)
    return Maps(**maps, method=method)


def _of_arrays(concentration, aif, dt, options, wanted, mask):
    """Go through the voxels block by block: memory stays that of the maps."""
    shape, n_frames = concentration.shape[:-1], concentration.shape[-1]
    mask = np.ones(shape, bool) if mask is None else _checked_mask(mask, shape)
    impulse_response(np.zeros((1, n_frames)), aif, dt, **options)  # every check at the door, once
    dtype = np.result_type(concentration.dtype, np.float32)
    order = "F" if concentration.flags.f_contiguous else "C"  # as a NIfTI file lies in memory: no copy
    flat = concentration.reshape(-1, n_frames, order=order)
    chosen = np.flatnonzero(mask.ravel(order))
    whole = len(chosen) == len(flat)
    maps = {name: np.zeros(len(flat), dtype) for name in wanted.only}
    if wanted.noise_is_missing:
        sample = chosen[:: max(1, len(chosen) // NOISE_VOXELS)]
        noise = white_noise(flat[sample].astype(dtype)) if len(sample) else 0.0
        wanted = replace(wanted, noise=noise)
    read = Reader(aif, dt, options, wanted, dtype)
    for start in range(0, len(chosen), BLOCK):
        rows = slice(start, start + BLOCK) if whole else chosen[start : start + BLOCK]
        for name, values in read(flat[rows].astype(dtype, copy=False)).items():
            maps[name][rows] = values
    return {name: values.reshape(shape, order=order) for name, values in maps.items()}


def _of_tensors(concentration, aif, dt, options, wanted, mask):
    xp = namespace(concentration, aif)
    dtype = tensor_dtype(concentration if is_tensor(concentration) else aif)
    concentration = real_tensor(concentration, "The concentration", dtype)
    aif = real_tensor(aif, "The AIF", dtype)
    impulse_response(
        concentration[..., :1, :] if len(concentration.shape) > 1 else concentration, aif, dt, **options
    )
    inside = None if mask is None else _tensor_mask(xp, mask, tuple(concentration.shape[:-1]))
    if inside is not None:  # before and after: a NaN out there would spoil the gradients inside
        concentration = xp.where(inside[..., None], concentration, xp.zeros_like(concentration))
    if wanted.noise_is_missing:
        wanted = replace(wanted, noise=white_noise(concentration))
    maps = Reader(aif, dt, options, wanted, concentration.dtype)(concentration)
    if inside is None:
        return maps
    return {name: xp.where(inside, values, xp.zeros_like(values)) for name, values in maps.items()}


def _checked_peak_time(peak_time, matrix):
    if peak_time not in PEAK_TIMES or (peak_time == "exact" and matrix != "circulant"):
        raise ValueError(
            "peak_time is 'parabola' or, with the circulant matrix, whose k is periodic, 'exact': "
            f"{peak_time!r} came with {matrix!r}."
        )
    return peak_time


def _check_calibrated(regularization, residue, noise):
    if residue not in FAMILIES:
        raise ValueError(f"residue is one of {', '.join(FAMILIES)}: {residue!r} came.")
    if noise is not None and not noise >= 0:
        raise ValueError(f"noise is a standard deviation in HU, 0 or more: {noise!r} came.")
    if regularization == "osvd":
        raise ValueError(
            "Calibrated maps need a regularisation that is the same for every voxel, 'tikhonov' or 'tsvd': "
            "'osvd' came, which adapts to each."
        )


def _scaled_to(aif, vof):
    """Check the AIF and give it the area of the VOF, where there is one."""
    aif = checked_aif(aif)
    if vof is None:
        return aif
    xp = namespace(aif, vof)
    if xp is np:
        vof = real_array(vof, "The VOF").astype(float)
    else:
        dtype = tensor_dtype(aif if is_tensor(aif) else vof)
        aif, vof = real_tensor(aif, "The AIF", dtype), real_tensor(vof, "The VOF", dtype)
    if tuple(aif.shape) != tuple(vof.shape):
        raise ValueError(
            "AIF and VOF must be curves on the same frames: "
            f"shapes {tuple(aif.shape)} and {tuple(vof.shape)} came."
        )
    arterial, venous = xp.sum(aif), xp.sum(vof)
    for name, area in (("AIF", arterial), ("VOF", venous)):
        known = concrete(np.asarray(area) if xp is np else area)
        if known is not None and not (np.isfinite(known) and known > 0):
            raise ValueError(
                f"Scaling the AIF to the VOF needs curves with an area: that of the {name} is {known:g} "
                "HU frames. Give HU above baseline, or leave vof out."
            )
    return aif * (venous / arterial)


def relative_cbf(cbf, reference_tissue):
    """Divide CBF by its mean over the reference tissue.

    Paper: Method, normalisation.

    Parameters
    ----------
    cbf : (...,), ml/100 g/min or any unit
    reference_tissue : (...,) bool, "healthy" voxels

    Returns
    -------
    rcbf : (...,), 1 in the mean reference tissue

    Raises
    ------
    ValueError : another shape, no voxel in the reference tissue, or no flow in it.

    Notes
    -----
    On tensors the mean stays attached to the graph: detached, the gradient is a third off.
    """
    xp = namespace(cbf, reference_tissue)
    if xp is not np:
        cbf = real_tensor(cbf, "CBF", tensor_dtype(cbf) if is_tensor(cbf) else None)
        inside = _tensor_mask(xp, reference_tissue, tuple(cbf.shape), "reference tissue")
        weights = xp.cast(inside, cbf.dtype)
        # not cbf * weights: a NaN outside would reach the sum
        total, count = xp.sum(xp.where(inside, cbf, xp.zeros_like(cbf))), xp.sum(weights)
        _check_reference(concrete(total), concrete(count))
        return cbf * count / nonzero(xp, total)
    cbf = real_array(cbf, "CBF")
    reference_tissue = _checked_mask(reference_tissue, tuple(cbf.shape), "reference tissue")
    count = np.count_nonzero(reference_tissue)
    total = cbf[reference_tissue].sum(dtype=np.float64)
    _check_reference(total, count)
    mean = total / count
    return cbf / cbf.dtype.type(mean) if cbf.dtype.kind == "f" else cbf / mean


def _check_reference(total, count):
    """Raise where the sum of CBF over the reference tissue cannot normalise; None is not known yet."""
    if count == 0:
        raise ValueError(
            "The reference tissue must hold at least one voxel: it is empty. See masks.reference_tissue."
        )
    if total is not None and count is not None and not total > 0:
        raise ValueError(
            f"The reference tissue must have flow: its mean CBF is {float(total) / float(count):g}. "
            "Is the AIF an artery's?"
        )


def core_mask(rcbf, mask, threshold: float = paper.RCBF_THRESHOLD):
    """Mark the infarct core: rCBF below the threshold.

    Paper: Experiments, threshold.

    Parameters
    ----------
    rcbf : (...,)
    mask : (...,) bool, where a core may be
    threshold : float, of the reference tissue's flow

    Returns
    -------
    core : (...,) bool
    """
    rcbf = np.asarray(rcbf)
    return (rcbf < threshold) & _checked_mask(mask, rcbf.shape)


def penumbra_mask(tmax, core, mask, threshold: float = TMAX_THRESHOLD):
    """Mark the penumbra: Tmax above the threshold, outside the core.

    Parameters
    ----------
    tmax : (...,), s
    core, mask : (...,) bool
    threshold : float, s

    Returns
    -------
    penumbra : (...,) bool
    """
    tmax = np.asarray(tmax)
    return (tmax > threshold) & _checked_mask(mask, tmax.shape) & ~_checked_mask(core, tmax.shape, "core")


def _checked_mask(mask, shape, name="mask"):
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise ValueError(f"The {name} must have the shape of the voxels, {shape}: {mask.shape} came.")
    return mask.astype(bool, copy=False)


def _tensor_mask(xp, mask, shape, name="mask"):
    """The mask as a boolean tensor; its own shape counts, since tensors would broadcast in silence."""
    mask = xp.convert_to_tensor(mask if is_tensor(mask) else _checked_mask(mask, shape, name))
    if None not in shape and tuple(mask.shape) != shape:
        raise ValueError(f"The {name} must have the shape of the voxels, {shape}: {tuple(mask.shape)} came.")
    return xp.cast(mask, "bool")
