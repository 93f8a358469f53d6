"""Series, masks, maps and truth on disk: read by ``nifti``, checked by ``checks``, on the series' grid."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from perfkit import checks, nifti, resample

AFFINE_TOLERANCE = resample.SAME_GRID  # mm
ZOOM_TOLERANCE = 0.01  # relative; our choice, for pixdim against the affine
OUTSIDE_SHARE = 0.01  # our choice: less is the rounding of two grids at the border
_SPACE = re.compile(r"_space-([a-z0-9]+)", re.IGNORECASE)
_MR = ("dwi", "adc")
_MASK = re.compile(r"[_-]ma?sk$", re.IGNORECASE)


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
    mask, header = _volume(path)
    mask = checks.check_mask(mask, series.series_shape[:3], str(path), role)
    off = _distance(header, series)
    if not off <= AFFINE_TOLERANCE:
        raise ValueError(
            f"{path}: {role} must lie on the grid of its series; the affines differ by up to {off:.3g} mm "
            f"from {series.path.name}. Resample it to the series' grid (nearest neighbour)."
        )
    return mask


def read_final_infarct(path: str | Path, series: nifti.Header):
    """Read the mask of an infarct at follow-up and bring it to the grid of a series, nearest neighbour.

    Returns
    -------
    mask : (X, Y, Z), bool.
    notes : what the reader should be told: where it was resampled, and how much lies outside of the series.

    Raises
    ------
    ValueError, OSError
        naming the file, where it is damaged, holds other values, or cannot be placed.
    """
    mask, header = _volume(path)
    mask = checks.check_mask(mask, mask.shape, str(path), "final_infarct")
    if on_same_grid(header, series):
        return mask, ()
    shape = series.series_shape[:3]
    outside = resample.share_outside(mask, header.affine, shape, series.affine)
    notes = ("The infarct at follow-up was brought to the grid of the series (nearest neighbour).",)
    if outside > OUTSIDE_SHARE:
        notes += (f"Of the infarct at follow-up {outside:.0%} lie outside of the series' slices.",)
    return resample.mask_to_grid(mask, header.affine, shape, series.affine), notes


def on_same_grid(header: nifti.Header, series: nifti.Header) -> bool:
    """Whether a volume lies on the grid of a series, within ``AFFINE_TOLERANCE``; affines are then not used.

    Raises
    ------
    ValueError
        where that cannot be: both name the same space (``space-…``) and have equal shapes, but their affines
        differ; or the volume has another grid, and one of the two headers places no voxels.
    """
    shape = header.shape[:3]
    equal = shape == series.series_shape[:3]
    off = _distance(header, series) if equal else np.inf
    if off <= AFFINE_TOLERANCE:
        return True
    if equal and _space(header.path) and _space(header.path) == _space(series.path):
        raise ValueError(
            f"{header.path}: images of the same space and shape must lie on one grid; the affines differ by "
            f"up to {off:.3g} mm from {series.path.name}, over {AFFINE_TOLERANCE:g} mm. Correct the header."
        )
    if not (header.oriented and series.oriented):
        where = header.path.name if not header.oriented else series.path.name
        raise ValueError(
            f"{header.path}: to bring it to the grid of {series.path.name}, both headers must place their "
            f"voxels; that of {where} does not (no qform or sform). Resample it to the grid of the series."
        )
    return False


def _volume(path: str | Path):
    volume, header = nifti.read(path)
    while volume.ndim > 3 and volume.shape[-1] == 1:
        volume = volume[..., 0]
    return volume, header


def _space(path: Path) -> str:
    match = _SPACE.search(path.name)
    return match[1].lower() if match else ""


def _distance(header: nifti.Header, series: nifti.Header) -> float:
    if header.oriented and series.oriented:
        return resample.distance(header.affine, series.affine, header.shape[:3])
    # without orientation only the voxel sizes can be compared
    return float(np.max(np.abs(np.subtract(header.zooms, series.zooms)) * header.shape[:3]))


class VendorMaps(Mapping):
    """Maps and images delivered with a scan, read when asked for and brought to the grid of its series.

    ``maps["tmax"]`` is (X, Y, Z), float32, interpolated linearly; NaN where the file holds a fill or nothing.
    Masks (names ending in ``-msk`` or ``_mask``) are taken by nearest neighbour and keep their type.
    Images of MR are left out: the coordinates of another scanner need a registration.
    """

    def __init__(self, paths: Mapping[str, Path], series: nifti.Header):
        self.paths = {name: path for name, path in paths.items() if name not in _MR}
        self._series = series

    def __getitem__(self, name: str):
        """Read a map.

        Raises
        ------
        KeyError : no such map. ValueError, OSError : naming the file, where it is damaged or lies elsewhere.
        """
        values, header = _volume(self.paths[name])
        if values.ndim != 3:
            raise ValueError(
                f"{header.path}: a map must be 3-D; its shape is {header.shape}. Give one volume."
            )
        mask = bool(_MASK.search(nifti.stem(header.path)))
        values = values if mask else resample.without_fills(values, name.lower())
        if on_same_grid(header, self._series):
            return values
        shape, affine = self._series.series_shape[:3], self._series.affine
        if mask:
            return resample.mask_to_grid(values, header.affine, shape, affine)
        moved = resample.map_to_grid(values, header.affine, shape, affine)
        if not np.isfinite(moved).any():
            raise ValueError(
                f"{header.path}: a map must overlap its series; by their affines no voxel of "
                f"{self._series.path.name} lies in it. Check that they are of one scan, and the headers."
            )
        return moved

    def __iter__(self):
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)


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
