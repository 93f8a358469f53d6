"""Tiny look-alikes of data sets on disk, written from their descriptions and not from our readers.

ISLES 2018 as its zips unpack: TRAINING and TESTING; one folder a case, in it one folder a file; 4DPWI 4-D or
5-D; CT int32, CBF and CBV uint16, MTT and Tmax float64, OT uint8; another spacing in every scan; and the
droppings of macOS everywhere.
"""

from pathlib import Path

import nibabel
import numpy as np

# patients 1 and 2 have two slabs each, patient 28 one (data/reference/isles18_training_index.csv)
NUMBERS = {1: 345561, 2: 345568, 3: 345575, 4: 345582, 34: 345805}


def head(shape=(32, 32, 2, 12), seed=0):
    """(X, Y, Z, T) int16 HU: brain of 35 HU in a skull in air, and a bolus of 10 HU in the brain."""
    rng = np.random.default_rng(seed)
    x, y, _, t = shape
    i, j = np.meshgrid(np.linspace(-1, 1, x), np.linspace(-1, 1, y), indexing="ij")
    radius = np.hypot(i / 0.75, j / 0.9)
    anatomy = np.select([radius < 0.85, radius < 1], [35.0, 900.0], -1000.0)
    bolus = 10 * np.exp(-0.5 * ((np.arange(t) - 0.5 * t) / 2.0) ** 2)
    series = np.broadcast_to(anatomy[..., None, None], shape) + (radius < 0.85)[..., None, None] * bolus
    return np.rint(series + rng.normal(0, 2, shape)).astype(np.int16)


def lesion(shape=(32, 32, 2)):
    """(X, Y, Z) uint8: a block of 1 in the brain."""
    mask = np.zeros(shape, np.uint8)
    mask[10:14, 12:18] = 1
    return mask


def affine(spacing=(5.0, 5.0, 8.0), origin=(-80.0, -70.0, 20.0)):
    """(4, 4) without rotation."""
    matrix = np.diag([*spacing, 1.0])
    matrix[:3, 3] = origin
    return matrix


def save(path, data, matrix=None, *, times=(), unit=None, patch=None):
    """Write NIfTI; ``times`` goes to pixdim[4:], ``patch(header)`` may spoil the header afterwards."""
    image = nibabel.Nifti1Image(data, affine() if matrix is None else matrix)
    image.header["pixdim"][4:] = 0
    for n, value in enumerate(times):
        image.header["pixdim"][4 + n] = value
    image.header.set_xyzt_units("mm", unit)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    if patch:
        spoil(path, patch)
    return Path(path)


def spoil(path, patch):
    """Change the header of an uncompressed file in place."""
    content = Path(path).read_bytes()
    header = nibabel.Nifti1Header(content[:348], check=False)
    patch(header)
    Path(path).write_bytes(header.binaryblock + content[348:])


def isles_file(part, case, role, number, data, suffix=".nii", **options):
    """``part/case_N/SMIR.Brain.XX.O.<role>.<number>/<the same>.nii``."""
    name = f"SMIR.Brain.XX.O.{role}.{number}"
    return save(Path(part) / f"case_{case}" / name / (name + suffix), data, **options)


def isles_case(
    part, case, *, number=None, shape=(32, 32, 2, 12), five_d=False, suffix=".nii", times=None, core=True
):
    """One case with all its files; returns the path of its series."""
    number = number or NUMBERS.get(case, 900_000 + 7 * case)
    matrix = affine((5.0, 5.0, 5.0 + case % 4))
    series = head(shape, seed=case)
    volume = shape[:3]
    if five_d:
        series = series.reshape(*volume, 1, shape[3])
        times = (0.0, 1.0) if times is None else times
    path = isles_file(part, case, "CT_4DPWI", number, series, suffix, matrix=matrix, times=times or (1.0,))
    maps = {"CT": np.int32, "CT_CBF": np.uint16, "CT_CBV": np.uint16, "CT_MTT": float, "CT_Tmax": float}
    for n, (role, dtype) in enumerate(maps.items(), start=1):
        isles_file(part, case, role, number + n, np.full(volume, 30, dtype), suffix, matrix=matrix)
    if core:
        isles_file(part, case, "OT", number + 6, lesion(volume), suffix, matrix=matrix)
    return path


def droppings(root):
    """What macOS leaves: ``__MACOSX`` with a tree of its own, ``.DS_Store``, ``._`` twins of every file."""
    root = Path(root)
    for path in [p for p in root.rglob("*") if "__MACOSX" not in p.parts]:
        twin = root / "__MACOSX" / path.relative_to(root)
        if path.is_dir():
            twin.mkdir(parents=True, exist_ok=True)
            (path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        else:
            twin.parent.mkdir(parents=True, exist_ok=True)
            twin.with_name("._" + path.name).write_bytes(b"\0\5\26\7")
            path.with_name("._" + path.name).write_bytes(b"\0\5\26\7")
    (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")


def isles18(root, *, training=(1, 2, 3, 4, 10), testing=(1, 2)):
    """An ISLES 2018 tree with its quirks; returns ``root``."""
    root = Path(root)
    for n, case in enumerate(training):
        suffix = ".nii.gz" if n == 1 else ".nii"
        shape = (32, 32, (2, 4, 8)[n % 3], (43, 46, 64)[n % 3])
        isles_case(root / "TRAINING", case, shape=shape, five_d=n % 2 == 0, suffix=suffix)
    for case in testing:
        isles_case(root / "TESTING", case, number=800_000 + case, core=False)
    droppings(root)
    return root
