"""Tiny look-alikes of ISLES 2024 on disk, written from its description and not from our reader.

Two trees, raw_data and derivatives; ids with gaps; the series at 1 s; maps and follow-up mask on a finer
grid, tilted against that of the series; −30 s in Tmax outside the brain; tables of the clinic beside.
"""

from pathlib import Path

import layouts
import numpy as np

SHAPE = (32, 32, 4, 12)
SERIES = layouts.affine((5.0, 5.0, 5.0), origin=(-80.0, -75.0, 10.0))
TILT = np.deg2rad(14.0)
NCCT_SHAPE = (60, 64, 24)
SUBJECTS = (1, 14, 142, 189)
CENTRE = SERIES @ (15.5, 15.5, 1.5, 1)  # of the series, mm
BALL = (np.add(CENTRE[:3], (12.0, -6.0, 1.0)), 11.0)  # middle and radius of the infarct, mm


def ncct_affine(tilt=TILT, spacing=(3.0, 3.0, 2.0)):
    """(4, 4): turned about the x axis by ``tilt``, with the same centre as the series."""
    c, s = np.cos(tilt), np.sin(tilt)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.diag(spacing)
    matrix[:3, 3] = CENTRE[:3] - matrix[:3, :3] @ ((np.array(NCCT_SHAPE) - 1) / 2)
    return matrix


def world(shape, matrix):
    """(X, Y, Z, 3), mm: where the middle of every voxel lies."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return voxels @ matrix[:3, :3].T + matrix[:3, 3]


def ramp(places):
    """A value that changes evenly in space: what linear interpolation must give back exactly."""
    return 8 + 0.03 * places[..., 0] - 0.02 * places[..., 1] + 0.05 * places[..., 2]


def in_ball(places):
    """Whether places lie in the infarct."""
    return np.linalg.norm(places - BALL[0], axis=-1) <= BALL[1]


def in_head(places):
    """Whether places lie in the brain: a cylinder that is narrower than the field of view."""
    return np.linalg.norm((places - CENTRE[:3])[..., :2] / (52.0, 60.0), axis=-1) <= 1


def tmax(shape, matrix):
    """(X, Y, Z) float32, s: the ramp in the brain and −30 outside."""
    places = world(shape, matrix)
    return np.where(in_head(places), ramp(places), -30).astype(np.float32)


def subject(
    root,
    number,
    *,
    name="sub-stroke{:04d}",
    session="ses-{:02d}",
    parts=("raw_data", "derivatives"),
    **options,
):
    """The files of one subject; ``space`` is the part of the names of what lies on the plain CT's grid."""
    root, sub = Path(root), name.format(number)
    first, second = session.format(1), session.format(2)
    space, masks = options.get("space", "_space-ncct"), options.get("masks", ".nii.gz")
    grid = ncct_affine()
    for part in parts:
        stem = root / part / sub / first / f"{sub}_{first}"
        series = layouts.head(SHAPE, seed=number + (part == "raw_data") * 1000)
        layouts.save(
            f"{stem}_ctp.nii.gz", series, SERIES, **options.get("time", {"times": (1.0,), "unit": "sec"})
        )
        layouts.save(f"{stem}_ncct.nii.gz", np.full(NCCT_SHAPE, 35, np.int16), grid)
    if "derivatives" in parts:
        base = root / "derivatives" / sub
        values = tmax(NCCT_SHAPE, grid)
        for role in ("tmax", "mtt", "cbf", "cbv"):
            data = values if role == "tmax" else np.where(values > 0, values, 0).astype(np.float32)
            layouts.save(base / first / "perfusion-maps" / f"{sub}_{first}{space}_{role}.nii.gz", data, grid)
        mask = in_ball(world(NCCT_SHAPE, grid)).astype(np.uint8)
        layouts.save(base / second / f"{sub}_{second}{space}_lesion-msk{masks}", mask, grid)
        layouts.save(base / first / f"{sub}_{first}{space}_lvo-msk.nii.gz", mask, grid)
    if "raw_data" in parts:
        for role in ("dwi", "adc"):
            path = root / "raw_data" / sub / second / f"{sub}_{second}_{role}.nii.gz"
            layouts.save(path, np.ones((8, 8, 4), np.int16))


def isles24(root, subjects=SUBJECTS):
    """An ISLES 2024 tree with its quirks; returns ``root``."""
    root = Path(root)
    for number in subjects:
        # of one subject the mask is not compressed
        subject(root, number, masks=".nii" if number == 142 else ".nii.gz")
        table = root / "phenotype" / f"sub-stroke{number:04d}" / "ses-01" / "demographic_baseline.csv"
        table.parent.mkdir(parents=True)
        table.write_text("age,nihss\n71,12\n")
    layouts.droppings(root)
    return root
