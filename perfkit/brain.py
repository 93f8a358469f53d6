"""The brain on a pre-contrast CT volume."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

BRAIN_HU = (0.0, 100.0)  # docs/science.md §2: pre-contrast brain lies between
BRIDGE_MM = 2.5  # our choice: half the width of what may join brain and scalp (orbit, foramina)
NOISE_MM = 1.0  # our choice: blurs one pixel's noise, moves no border
DARK_HU = 15.0  # our choice: a noisy background may not push the lower limit above CSF
_IN_PLANE = np.zeros((3, 3, 3), bool)
_IN_PLANE[:, 1, 1] = _IN_PLANE[1, :, 1] = True


def brain_mask(baseline, spacing):
    """Find the brain on a pre-contrast volume, with or without skull, whatever lies outside.

    Parameters
    ----------
    baseline : (X, Y, Z), HU, mean of the frames before the bolus.
    spacing : (3,), mm.

    Returns
    -------
    (X, Y, Z), bool: per slice the deepest component between 0 and 100 HU, filled, eroded by 1 pixel.

    Raises
    ------
    ValueError : wrong shape, non-finite values, nothing that looks like a brain.

    Notes
    -----
    Deepest is the largest sum of distances to the component's border: a scalp may have the larger
    area where the slice is small, never the depth. A background of one constant value is taken for
    air, since a stripped series may hold anything there; a noisy one around 0 HU raises the lower limit.
    """
    baseline = _volume(baseline, "baseline")
    in_plane = np.asarray(spacing, float)[:2]
    air = _background(baseline)
    # Clipping puts tissue midway between air and bone, so that blurring moves neither border.
    clipped = np.where(air, -50, np.clip(baseline, -50, 150)).astype(np.float32)
    steady = ndimage.gaussian_filter(clipped, (*(NOISE_MM / in_plane), 0))
    band = (steady > max(BRAIN_HU[0], _noise_floor(steady))) & (steady < BRAIN_HU[1])
    if band[_border(band)].mean() > 0.5:  # what frames the slices is air, whatever its HU
        band &= ~_touching_border(band)
    mask = np.zeros(baseline.shape, bool)
    for z in range(baseline.shape[2]):
        mask[..., z] = _deepest(band[..., z], in_plane)
    area = mask.sum(axis=(0, 1))
    mask[..., area < 0.05 * area.max()] = False  # our choice: specks in slices beside the head
    if not mask.any():
        raise ValueError(_nothing_found(baseline))
    return mask


def _nothing_found(baseline) -> str:
    low, high = BRAIN_HU
    share = ((baseline > low) & (baseline < high)).mean()
    return (
        f"No brain found: tissue lies between {low:g} and {high:g} HU, set off by air or bone from the edge "
        f"of its slice, and goes more than {BRIDGE_MM:g} mm deep. {share:.0%} of the baseline has such "
        "values, and nothing in it such a place and depth; "
        f"it runs from {baseline.min():.4g} to {baseline.max():.4g} HU "
        f"with median {np.median(baseline):.4g}. Give HU (rescale slope and intercept applied), slices with "
        "the air around the head, or a brain mask of your own."
    )


def _background(baseline):
    """Return the border-touching region of one constant value, if more than half the border has it."""
    values, counts = np.unique(baseline[_border(baseline)], return_counts=True)
    if counts.max() < 0.5 * counts.sum():
        return np.zeros(baseline.shape, bool)
    return _touching_border(baseline == values[counts.argmax()])


def _border(volume):
    border = np.zeros(volume.shape[:2], bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    return border


def _touching_border(mask):
    labels, _ = ndimage.label(mask, _IN_PLANE)
    touching = np.unique(labels[_border(mask)])
    return np.isin(labels, touching[touching > 0])


def _noise_floor(steady):
    """Return a HU above which a noisy background around 0 HU does not reach."""
    border = steady[_border(steady)]
    level = np.median(border)
    spread = 1.4826 * np.median(abs(border - level))
    return min(level + 5 * spread, DARK_HU) if abs(level) < DARK_HU / 2 else BRAIN_HU[0]


def _deepest(band, in_plane):
    if not band.any():
        return band
    box = tuple(ndimage.find_objects(band.astype(np.uint8))[0])
    inner = np.pad(band[box], 1)
    radius = max(BRIDGE_MM, *in_plane)
    depth = ndimage.distance_transform_edt(inner, sampling=in_plane)
    seeds, n = ndimage.label(depth > radius)
    if not n:
        return np.zeros_like(band)
    seed = seeds == 1 + np.argmax(ndimage.sum_labels(depth, seeds, np.arange(1, n + 1)))
    part = inner & (ndimage.distance_transform_edt(~seed, sampling=in_plane) <= 1.1 * radius)
    filled = ndimage.binary_fill_holes(part)
    out = np.zeros_like(band)
    if part.sum() > 0.5 * filled.sum():  # our choice: a thinner ring is the scalp of a slice without brain
        out[box] = ndimage.binary_erosion(filled)[1:-1, 1:-1]
    return out


def _volume(volume, name):
    volume = np.asarray(volume)
    if volume.ndim != 3 or not volume.size or not np.isfinite(volume).all():
        raise ValueError(
            f"{name} must be a finite volume (X, Y, Z): shape {volume.shape} came"
            f"{'' if np.isfinite(volume).all() else ' with NaN or Inf'}. Take the mean of the first frames."
        )
    return volume
