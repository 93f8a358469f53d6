"""Maps and masks of another grid brought to that of a series by their affines, without mixing in fills.

Grids are voxel numbers and an affine (4, 4) to mm, as in NIfTI. Where head or slices moved between two scans,
affines do not know it: that takes a registration.
"""

from __future__ import annotations

import numpy as np

SAME_GRID = 0.1  # mm; our choice: above the rounding of headers, well below a pixel
FILLS = {"tmax": (-30.0,)}  # values outside the brain; ISLES 2024 writes −30 s
FILL_SHARE = 0.01  # our choice: noise does not give 1 % of the voxels one and the same lowest value
POSITIVE = ("cbf", "cbv", "mtt", "tmax", "ttp")  # maps that a shared negative value fills
_HALF = 0.5 - 1e-6  # of the weight of the eight neighbours; our choice: a voxel reaches half-way to the next


def distance(affine, other, shape) -> float:
    """Largest distance in mm, along an axis, between the places two affines give a voxel of a grid.

    Parameters
    ----------
    affine, other : (4, 4), mm
    shape : (X, Y, Z); the corners decide, since affine maps differ most there
    """
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], (1,))).reshape(4, -1)
    return float(np.abs((np.asarray(affine) - np.asarray(other)) @ corners).max())


def without_fills(values, name: str = ""):
    """Replace by NaN what fills a map where nothing was computed.

    Parameters
    ----------
    values : (X, Y, Z)
    name : of the map, ``"tmax"``, ``"cbf"`` …; others keep their values

    Returns
    -------
    (X, Y, Z), float32. Known fills (``FILLS``) go, Inf, and the lowest value of a map of ``POSITIVE`` where
    it is negative and that of at least ``FILL_SHARE`` of the voxels.
    """
    values = np.array(values, dtype=np.float32)
    values[~np.isfinite(values)] = np.nan
    fills = list(FILLS.get(name, ()))
    if name in POSITIVE and (found := np.isfinite(values)).any():
        lowest = values[found].min()
        if lowest < 0 and np.isclose(values, lowest, atol=1e-3).mean() >= FILL_SHARE:
            fills.append(lowest)
    for fill in fills:
        values[np.isclose(values, fill, atol=1e-3)] = np.nan
    return values


def map_to_grid(values, affine, shape, to_affine):
    """Interpolate a map linearly on another grid; NaN neither spreads nor counts.

    Parameters
    ----------
    values : (X, Y, Z), NaN where nothing is known
    affine : (4, 4), of ``values``
    shape, to_affine : (3,) and (4, 4), of the grid asked for

    Returns
    -------
    ``shape``, float32. A voxel is the mean of its known neighbours by their linear weights; it is NaN where
    these weigh less than half, so an edge stays where it is within half a voxel.
    """
    from scipy import ndimage

    values = np.asarray(values, dtype=np.float32)
    known = np.isfinite(values)
    matrix = np.linalg.inv(affine) @ to_affine
    # grid-constant: outside counts as unknown, and the outer half of the last voxels is still inside
    options = {"matrix": matrix, "output_shape": tuple(shape), "order": 1, "mode": "grid-constant"}
    total = ndimage.affine_transform(np.where(known, values, np.float32(0)), **options)
    weight = ndimage.affine_transform(known.astype(np.float32), **options)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(weight >= _HALF, total / weight, np.float32(np.nan))


def mask_to_grid(mask, affine, shape, to_affine):
    """Take the nearest voxel of a mask or label image for each voxel of another grid; 0 outside.

    Parameters
    ----------
    mask : (X, Y, Z), bool or integers
    affine : (4, 4), of ``mask``
    shape, to_affine : (3,) and (4, 4), of the grid asked for

    Returns
    -------
    ``shape``, of the type of ``mask``.
    """
    from scipy import ndimage

    mask = np.asarray(mask)
    stored = mask.astype(np.uint8) if mask.dtype == bool else mask
    matrix = np.linalg.inv(affine) @ to_affine
    moved = ndimage.affine_transform(
        stored, matrix, output_shape=tuple(shape), order=0, mode="grid-constant", prefilter=False
    )
    return moved.astype(mask.dtype)


def share_outside(mask, affine, shape, to_affine) -> float:
    """Share of a mask's voxels whose middle lies outside of another grid; 0 for an empty mask."""
    voxels = np.argwhere(mask)
    if not len(voxels):
        return 0.0
    matrix = np.linalg.inv(to_affine) @ affine
    places = voxels @ matrix[:3, :3].T + matrix[:3, 3]
    inside = ((places >= -0.5) & (places <= np.asarray(shape) - 0.5)).all(axis=1)
    return float(1 - inside.mean())
