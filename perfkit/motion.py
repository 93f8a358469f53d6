"""Head motion between the frames of a series: rigid registration by SimpleITK, and correction.

What enhances must not look like motion: ``motionscreen`` shows the registration bone and air only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from perfkit.case import Case
from perfkit.motionscreen import THICK_SLAB, HeadView, centre_of, screen_motion, small_motion

RESAMPLED_MM = 0.1  # our choice: below, what interpolation blurs is worse than what it mends
VOXELS = 10_000  # our choice: so many near the head settle six numbers; all take four times as long
__all__ = ["correct_motion", "estimate_motion", "screen_motion"]
COLUMNS = ("frame", "time", "x", "y", "z", "turn_x", "turn_y", "turn_z", "displacement")


def estimate_motion(case: Case, *, progress: bool = False):
    """Register each frame to the first ones, rigidly.

    Parameters
    ----------
    case : one scan.
    progress : show a bar.

    Returns
    -------
    DataFrame, a row per frame, columns ``COLUMNS``: time in s; x, y, z in mm, how far the head has moved
    along the axes of the array; turn_x, turn_y, turn_z in degrees about these axes through the middle of the
    brain, applied in the order y, x, z; displacement in mm, the largest in the brain. With fewer than four
    slices only motion in the plane is estimated, and z, turn_x and turn_y are 0.

    Raises
    ------
    ImportError : SimpleITK is not installed.
    ValueError : the axes are not at right angles, as in a tilted gantry: no rigid motion of the array.

    Notes
    -----
    The reference is the median of the frames before the bolus, at least five. The mean squared difference of
    bone and air is minimised by conjugate gradients from the solution of ``screen_motion``; sampling is on a
    regular grid and in one thread, so the same scan gives the same numbers.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    sitk = _simpleitk()
    _check_right_angles(case)
    view = HeadView(case)
    pad = 0 if view.thick else 2  # ITK's gradient needs four slices
    grid = (view.spacing, pad, view.origin)
    fixed = _image(sitk, view.reference(), *grid)
    mask = sitk.Cast(_image(sitk, view.rim, *grid, mode="constant"), sitk.sitkUInt8)
    rows = []
    for t, start in enumerate(
        tqdm(small_motion(view, case), desc="motion", unit="frame", disable=not progress)
    ):
        transform = _transform(sitk, case, start[:3], start[3:])
        _register(sitk, fixed, mask, _image(sitk, view.frame(t), *grid), transform, view)
        turn_x, turn_y, turn_z, *shift = transform.GetParameters()
        angles = np.degrees([turn_x, turn_y, turn_z])
        rows.append([t, t * case.dt, *shift, *angles, _largest(transform, case)])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def correct_motion(
    case: Case, *, motion=None, least_mm: float = RESAMPLED_MM, progress: bool = False
) -> Case:
    """Bring each frame that moved to the place of the first ones.

    Parameters
    ----------
    case : one scan. Not for ISLES, whose series are corrected already.
    motion : DataFrame of ``estimate_motion``; default: estimated here.
    least_mm : frames that moved less are left as they are.
    progress : show a bar.

    Returns
    -------
    Case whose notes say what was done. Each moved frame is resampled once, from the original, by cubic
    splines within the range of its own values. Voxels that some frame does not show are taken out of the
    brain.

    Raises
    ------
    ImportError, ValueError : as ``estimate_motion``; a table of other frames.
    """
    sitk = _simpleitk()
    _check_right_angles(case)
    motion = estimate_motion(case, progress=progress) if motion is None else motion
    if missing := set(COLUMNS) - set(motion.columns) or len(motion) != case.n_frames:
        raise ValueError(
            f"motion must be the table of estimate_motion, {case.n_frames} rows: {len(motion)} rows came"
            + (f" without {', '.join(sorted(missing))}." if isinstance(missing, set) else ".")
        )
    moved = motion[motion["displacement"] > least_mm]
    ctp, seen = case.ctp.copy(order="K"), case.brain.copy()
    for row in moved.to_dict("records"):
        turns = np.radians([row["turn_x"], row["turn_y"], row["turn_z"]])
        transform = _transform(sitk, case, [row["x"], row["y"], row["z"]], turns)
        t = int(row["frame"])
        ctp[..., t], shown = _resampled(sitk, case, t, transform)
        seen &= shown
    return replace(case, ctp=ctp, brain=seen, notes=(*case.notes, _note(case, motion, moved, seen)))


def _note(case, motion, moved, seen) -> str:
    largest = motion["displacement"].max()
    if moved.empty:
        return f"Head motion was looked for and not found: {largest:.2f} mm at most. No frame was changed."
    lost = int(case.brain.sum() - seen.sum())
    left_out = f" {lost} voxels that a frame does not show are out of the brain." if lost else ""
    return (
        f"Head motion was corrected: {len(moved)} of {case.n_frames} frames were resampled, the largest "
        f"displacement was {largest:.1f} mm.{left_out}"
    )


def _largest(transform, case) -> float:
    """Largest displacement in the brain, mm."""
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    places = np.argwhere(case.brain) * case.spacing - transform.GetCenter()
    moved = places @ matrix.T + transform.GetTranslation() - places
    return float(np.sqrt((moved**2).sum(axis=1)).max())


def _simpleitk():
    try:
        import SimpleITK
    except ImportError:
        raise ImportError(
            "Registering frames needs SimpleITK, which is not installed. Try pip install 'perfkit[motion]'."
        ) from None
    return SimpleITK


def _check_right_angles(case):
    axes = case.affine[:3, :3] / case.spacing
    off = np.abs(axes.T @ axes - np.eye(3)).max()
    if off > 0.01:  # our choice: half a degree, the rounding of headers is far below
        raise ValueError(
            f"{case.id}: rigid motion needs axes at right angles; the affine's are {np.degrees(off):.1f}° "
            "off, as with a tilted gantry. Resample the series to a straight grid first."
        )


def _transform(sitk, case, shift, turns):
    transform = sitk.Euler3DTransform()
    transform.SetCenter([float(c) for c in centre_of(case)])
    transform.SetParameters([*map(float, turns), *map(float, shift)])
    return transform


def _image(sitk, volume, spacing, pad, origin=(0.0, 0.0), *, mode="edge"):
    """Volume (X, Y, Z) as an image along its own axes, first and last slice repeated ``pad`` times."""
    volume = np.pad(volume, ((0, 0), (0, 0), (pad, pad)), mode=mode)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T, np.float32))
    image.SetSpacing([float(s) for s in spacing])
    image.SetOrigin([*map(float, origin[:2]), -pad * float(spacing[2])])
    return image


def _register(sitk, fixed, mask, moving, transform, view):
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMeanSquares()
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.REGULAR)
    method.SetMetricSamplingPercentage(min(1.0, VOXELS / view.rim.sum()))
    method.SetInterpolator(sitk.sitkLinear)
    # steps in voxels; line searches as loose as a hundredth of a voxel allows
    method.SetOptimizerAsConjugateGradientLineSearch(1.0, 40, 1e-5, 4, 0.0, 5.0, 0.05, 12)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetOptimizerWeights([1] * 6 if view.thick else [0, 0, 1, 1, 1, 0])
    method.SetInitialTransform(transform, True)
    warns = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.GlobalWarningDisplayOff()  # a line search looks beyond the image now and then
    try:
        method.Execute(fixed, moving)
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(warns)


def _resampled(sitk, case, t, transform):
    """Frame t at the place of the reference, and where it shows anything there."""
    frame = np.asarray(case.ctp[..., t], np.float32)
    pad = 2 * (frame.shape[2] < THICK_SLAB)  # ITK's splines are undefined on axes of less than four
    image = _image(sitk, frame, case.spacing, pad)
    resampler = sitk.ResampleImageFilter()
    resampler.SetReferenceImage(image)
    resampler.SetTransform(transform)

    def brought(source, interpolator):
        resampler.SetInterpolator(interpolator)
        values = sitk.GetArrayFromImage(resampler.Execute(source)).T
        return values[:, :, pad : values.shape[2] - pad]

    shown = brought(_image(sitk, np.ones_like(frame), case.spacing, pad), sitk.sitkNearestNeighbor) > 0
    resampler.SetUseNearestNeighborExtrapolator(True)
    values = brought(image, sitk.sitkBSpline3)
    values = np.clip(values, frame.min(), frame.max())  # splines swing over beside bone
    return (np.rint(values) if case.ctp.dtype.kind == "i" else values), shown
