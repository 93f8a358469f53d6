"""What makes a scan sound: the rules of series, frame interval, affine and masks, each with its error."""

from __future__ import annotations

import math

import numpy as np

MIN_FRAMES = 10  # our choice: baseline, upslope and downslope of a bolus do not fit into fewer
MAX_FRAME_INTERVAL = 60.0  # s; our choice: no bolus is sampled so slowly, larger values are milliseconds
SPACING_RANGE = (0.05, 50.0)  # mm; our choice: beyond any CT scanner on both sides


def check_series(ctp, name: str):
    """Check a perfusion series and give it its storage type.

    Parameters
    ----------
    ctp : (X, Y, Z, T), HU.
    name : file or case that an error names.

    Returns
    -------
    (X, Y, Z, T), int16 where the integers fit, else float32.
    """
    ctp = np.asarray(ctp)
    if ctp.dtype.kind not in "iuf":
        raise TypeError(
            f"{name}: ctp must hold real numbers (HU); its type is {ctp.dtype}. Try ctp.astype('float32')."
        )
    check_series_shape(ctp.shape, name)
    ctp = _stored(ctp)
    _check_finite(ctp, name)
    if all(np.array_equal(ctp[..., t], ctp[..., 0]) for t in range(1, ctp.shape[-1])):
        raise ValueError(
            f"{name}: a perfusion series must change over time; all {ctp.shape[-1]} frames are equal. "
            "Give the contrast-enhanced series, not a copied or empty volume."
        )
    return ctp


def check_series_shape(shape: tuple[int, ...], name: str) -> None:
    """Raise unless ``shape`` is (X, Y, Z, T) with enough frames and time last."""
    if len(shape) != 4:
        raise ValueError(
            f"{name}: a perfusion series must be 4-D, (X, Y, Z, T); it has {len(shape)} axes, shape {shape}. "
            "Give the whole time series, not one volume."
        )
    if 0 in shape:
        raise ValueError(f"{name}: a perfusion series must not be empty; its shape is {shape}.")
    if hint := _time_axis_hint(shape):
        raise ValueError(f"{name}: Time must be the last axis: ctp has shape {shape}. Try {hint}.")
    if shape[-1] < MIN_FRAMES:
        raise ValueError(
            f"{name}: a perfusion series needs at least {MIN_FRAMES} frames; ctp has shape {shape}, "
            f"so {shape[-1]}. Give the whole series, time on the last axis (np.moveaxis brings it there)."
        )


def _time_axis_hint(shape) -> str | None:
    a, b, c, d = shape
    if (
        a >= MIN_FRAMES and c == d != b and d >= 2 * a and (b != a or d >= 64)
    ):  # (T, Z, Y, X), as SimpleITK gives it
        return "ctp.T"
    if a >= MIN_FRAMES and b == c != a and (b >= 2 * a or d < MIN_FRAMES):  # (T, X, Y, Z)
        return "np.moveaxis(ctp, 0, -1)"
    return None


def _stored(ctp):
    if ctp.dtype.kind == "f":
        with np.errstate(over="ignore"):  # beyond float32 becomes Inf, which is reported as such
            return ctp.astype(np.float32, copy=False)
    limits = np.iinfo(np.int16)
    if np.can_cast(ctp.dtype, np.int16) or (limits.min <= ctp.min() and ctp.max() <= limits.max):
        return ctp.astype(np.int16, copy=False)
    return ctp.astype(np.float32)


def _check_finite(ctp, name: str) -> None:
    if ctp.dtype.kind == "i":
        return
    with np.errstate(invalid="ignore"):
        if math.isfinite(ctp.sum(dtype=np.float64)):  # one NaN or Inf would have spoilt the sum
            return
    bad = ~np.isfinite(ctp)
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    raise ValueError(
        f"{name}: a perfusion series must be finite; {int(bad.sum())} of {ctp.size} values are NaN or Inf, "
        f"the first ({ctp[first]}) at voxel {first[:3]}, frame {first[3]}. "
        "Replace them by measured values or by air (-1000 HU) outside the scanned region."
    )


def check_frame_interval(dt, name: str) -> float:
    """Return ``dt`` in s as a float; raise unless it is finite, positive and plausible."""
    try:
        dt = float(dt)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: dt must be a number of seconds; it is {dt!r}. Try dt=1.0.") from None
    if not (math.isfinite(dt) and dt > 0):
        raise ValueError(f"{name}: dt must be a positive number of seconds; it is {dt:g}. Try dt=1.0.")
    if dt > MAX_FRAME_INTERVAL:
        raise ValueError(
            f"{name}: dt must be in seconds, at most {MAX_FRAME_INTERVAL:g}; it is {dt:g}. "
            f"Should it be milliseconds, try dt={dt / 1000:g}."
        )
    return dt


def check_affine(affine, name: str):
    """Return ``affine`` as (4, 4) float64; raise unless it is finite and its voxel size plausible."""
    try:
        affine = np.array(affine, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}: affine must be numbers, (4, 4); it is {affine!r}. Try np.diag([dx, dy, dz, 1.0])."
        ) from None
    if affine.shape != (4, 4):
        raise ValueError(
            f"{name}: affine must be (4, 4), voxel indices to mm; its shape is {affine.shape}. "
            "Try np.diag([dx, dy, dz, 1.0])."
        )
    if not np.isfinite(affine).all() or not np.allclose(affine[3], (0, 0, 0, 1)):
        raise ValueError(
            f"{name}: affine must be finite with the last row 0 0 0 1; it is {affine.tolist()}. "
            "Try np.diag([dx, dy, dz, 1.0])."
        )
    check_spacing(spacing_of(affine), name)
    if abs(np.linalg.det(affine[:3, :3])) < 1e-6 * np.prod(spacing_of(affine)):
        raise ValueError(f"{name}: the axes of affine must span space; it is {affine.tolist()}.")
    return affine


def spacing_of(affine):
    """(3,), mm: lengths of the columns of ``affine`` (4, 4)."""
    return np.sqrt((np.asarray(affine)[:3, :3] ** 2).sum(axis=0))


def check_spacing(spacing, name: str) -> None:
    """Raise unless the voxel size (3,) in mm is plausible."""
    low, high = SPACING_RANGE
    if not all(low <= s <= high for s in spacing):  # NaN fails as well
        raise ValueError(
            f"{name}: the voxel size must lie between {low:g} and {high:g} mm along each axis; it is "
            f"{tuple(round(float(s), 6) for s in spacing)}. Correct pixdim[1:4] and the affine of the file."
        )


def check_mask(mask, shape: tuple[int, ...], name: str, role: str):
    """Return a mask (X, Y, Z) as bool; raise unless it has ``shape`` and holds only 0 and 1."""
    mask = np.asarray(mask)
    if mask.shape != tuple(shape):
        raise ValueError(
            f"{name}: {role} must have the shape of the series' volumes, {tuple(shape)}; "
            f"it has {mask.shape}. Resample it to the series' grid (nearest neighbour)."
        )
    if mask.dtype == bool:
        return mask
    if mask.dtype.kind not in "iuf" or not np.isin(mask, (0, 1)).all():
        values = np.unique(mask)
        listed = ", ".join(str(v) for v in values[:6]) + (" …" if len(values) > 6 else "")
        raise ValueError(
            f"{name}: {role} must hold only 0 and 1; it holds {listed}. Try mask > 0 or mask == label."
        )
    return mask.astype(bool)


def check_id(case_id, name: str) -> str:
    """Return ``case_id``; raise unless it is usable as a file name."""
    if not isinstance(case_id, str) or not case_id.strip() or set(case_id) & set('/\\:*?"<>|\0'):
        raise ValueError(
            f"{name}: id must be a string usable as a file name; it is {case_id!r}. Try 'case_1'."
        )
    return case_id
