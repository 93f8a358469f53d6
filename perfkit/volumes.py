"""Series, masks and truth as they lie on disk: read by ``nifti``, checked by ``checks``, on one grid."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from perfkit import checks, nifti

AFFINE_TOLERANCE = 0.1  # mm; our choice: above the rounding of headers, well below a pixel
ZOOM_TOLERANCE = 0.01  # relative; our choice, for pixdim against the affine


def read_series(path: str | Path):
    """Read a perfusion series.

    Returns
    -------
    ctp : (X, Y, Z, T), HU, int16 or float32; (X, Y, Z, 1, T) on disk will do.
    header : nifti.Header.

    Raises
    ------
    ValueError, OSError
        naming the file, where it is missing, damaged or no sound series.
    """
    data, header = nifti.read(path)
    check_header(header)
    return checks.check_series(data.reshape(header.series_shape, order="F"), str(path)), header


def check_header(header: nifti.Header) -> None:
    """Raise unless a header describes a perfusion series of plausible shape and voxel size."""
    checks.check_series_shape(header.series_shape, str(header.path))
    check_geometry(header)


def check_geometry(header: nifti.Header) -> None:
    """Raise unless pixdim and affine are plausible and agree."""
    name = str(header.path)
    checks.check_spacing(header.zooms, name)
    spacing = checks.spacing_of(checks.check_affine(header.affine, name))
    if not np.allclose(spacing, header.zooms, rtol=ZOOM_TOLERANCE, atol=0):
        raise ValueError(
            f"{name}: pixdim and affine must give the same voxel size; pixdim says "
            f"{np.round(header.zooms, 4)} mm, the affine {np.round(spacing, 4)} mm. Correct the header."
        )


def read_mask(path: str | Path, role: str, series: nifti.Header):
    """Read a mask that lies on the grid of a series.

    Parameters
    ----------
    path : file of 0 and 1.
    role : what errors call it, ``"core"`` or ``"brain"``.
    series : header of the series.

    Returns
    -------
    (X, Y, Z), bool.

    Raises
    ------
    ValueError, OSError
        naming the file, where it is damaged, holds other values, or has another shape or affine.
    """
    mask, header = nifti.read(path)
    while mask.ndim > 3 and mask.shape[-1] == 1:
        mask = mask[..., 0]
    mask = checks.check_mask(mask, series.series_shape[:3], str(path), role)
    if header.oriented and series.oriented:
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in mask.shape], (1,))).reshape(4, -1)
        off = np.abs((header.affine - series.affine) @ corners).max()
    else:  # without orientation only the voxel sizes can be compared
        off = np.max(np.abs(np.subtract(header.zooms, series.zooms)) * mask.shape)
    if not off <= AFFINE_TOLERANCE:
        raise ValueError(
            f"{path}: {role} must lie on the grid of its series; the affines differ by up to {off:.3g} mm "
            f"from {series.path.name}. Resample it to the series' grid (nearest neighbour)."
        )
    return mask


class Truth(Mapping):
    """What is known of a phantom, read when asked for: images and the entries of ``truth.json`` by name."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self._images = {nifti.stem(p): p for p in sorted(self.folder.iterdir()) if nifti.is_nifti(p)}
        self._facts = None

    def _json(self) -> dict:
        path = self.folder / "truth.json"
        if self._facts is None and path.is_file():
            try:
                self._facts = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as problem:
                raise ValueError(
                    f"{path}: the truth must be JSON; {problem}. Make the phantom again."
                ) from None
        return self._facts or {}

    def __getitem__(self, name: str):
        """Return an image (X, Y, Z), 8-bit ones as bool; lists of numbers as arrays; else the entry."""
        if name in self._images:
            image, _ = nifti.read(self._images[name])
            return image.astype(bool) if image.dtype == np.uint8 else image
        value = self._json()[name]
        try:
            array = np.asarray(value)
        except ValueError:  # lists of unequal lengths
            return value
        return array if array.ndim and array.size and array.dtype.kind in "iuf" else value

    def __iter__(self):
        return iter(sorted({*self._images, *self._json()}))

    def __len__(self) -> int:
        return len({*self._images, *self._json()})
