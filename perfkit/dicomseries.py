"""From images of a DICOM series to slices × frames: which image is where and when, and the values in HU.

The grid is nibabel's: voxel (x, y, z) is column x and row y of slice z, slices run along the normal of the
image plane, and the affine gives mm in RAS (DICOM itself counts in LPS). DICOM PS3.3, C.7.6.2.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from perfkit import dicomtimes
from perfkit.dicomheaders import Image

POSITION_MM = 0.1  # our choice: vendors round to .01 mm, and no two slices of a perfusion scan are so close
DIRECTION = 1e-3  # our choice: of a unit vector; .06°, a shift of .25 mm at the edge of a field of 500 mm


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """A perfusion series whose images are in order.

    Parameters
    ----------
    images : Z tuples of T images.
    affine : (4, 4), mm, RAS.
    times : (Z, T), s from the first image on.
    dt : s; None where the frames keep to no interval (``timing.to_uniform``).
    notes : sentences for the reader.
    """

    images: tuple[tuple[Image, ...], ...]
    affine: np.ndarray
    times: np.ndarray
    dt: float | None
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(X, Y, Z, T)."""
        return (*self.images[0][0].shape, len(self.images), len(self.images[0]))


def split(images: Iterable[Image]) -> list[list[Image]]:
    """Split images of one series by matrix, orientation and pixel size: a grid needs them equal."""
    groups: list[list[Image]] = []
    for image in images:
        group = next((group for group in groups if _same_plane(group[0], image)), None)
        if group is None:
            groups.append([image])
        else:
            group.append(image)
    return groups


def _same_plane(a: Image, b: Image) -> bool:
    return (
        a.shape == b.shape
        and np.allclose(a.orientation, b.orientation, rtol=0, atol=DIRECTION)
        and np.allclose(a.spacing, b.spacing, rtol=DIRECTION, atol=0)
    )


def n_frames(images: list[Image]) -> int:
    """Most images that lie in one place."""
    return max(len(group) for group in _by_place(images))


def arrange(images: list[Image], name: str, *, dt: float | None = None) -> Series:
    """Put the images of one grid in order of place and time.

    Parameters
    ----------
    images : as one group of ``split``.
    name : folder or file that errors name.
    dt : s, taken where the headers give the order of the frames and no times.

    Returns
    -------
    Series.

    Raises
    ------
    ValueError
        where slices or frames are missing, two images claim one place and time, or no time is given.
    """
    images, notes = _without_copies(images)
    slices = _by_place(images)
    affine, more = _affine(slices, name)
    frames, times, interval, told = dicomtimes.in_order(slices, name, dt)
    dicomtimes.check_numbers(frames, times, name)
    return Series(
        images=tuple(map(tuple, frames)), affine=affine, times=times, dt=interval, notes=notes + more + told
    )


def _without_copies(images: list[Image]) -> tuple[list[Image], tuple[str, ...]]:
    first: dict = {}
    for image in images:
        first.setdefault((image.uid, image.frame) if image.uid else image.path, image)
    n = len(images) - len(first)
    if not n:
        return images, ()
    note = f"{n} images lie there twice (the same SOP Instance UID); the first of each is read."
    return list(first.values()), (note,)


# --- places -------------------------------------------------------------------------------------------------


def _normal(image: Image):
    return np.cross(image.orientation[:3], image.orientation[3:])


def _by_place(images: list[Image]) -> list[list[Image]]:
    """Images of one place each, along the normal."""
    height = np.array([image.position for image in images]) @ _normal(images[0])
    order = np.argsort(height, kind="stable")
    slices = [[images[order[0]]]]
    for a, b in pairwise(order):
        if height[b] - height[a] > POSITION_MM:
            slices.append([])
        slices[-1].append(images[b])
    return slices


def _affine(slices: list[list[Image]], name: str):
    """(4, 4), mm, RAS; checks that the slices stack without gaps."""
    for images in slices:
        for image in images[1:]:
            if not np.allclose(image.position, images[0].position, rtol=0, atol=2 * POSITION_MM):
                raise ValueError(
                    f"{image.path}: images of a slice must lie in one place; this one is at {image.position} "
                    f"mm, {images[0].path.name} at {images[0].position}. Reconstruct them with one centre."
                )
    first, places = slices[0][0], np.array([images[0].position for images in slices])
    normal, notes = _normal(first), ()
    heights = places @ normal
    if len(slices) == 1:
        if first.thickness is None:
            raise ValueError(f"{name}: a single slice needs its SliceThickness; the header gives none.")
        step = normal * first.thickness
    else:
        _check_gaps(heights, name)
        step = (places[-1] - places[0]) / (len(slices) - 1)
        line = places[0] + np.arange(len(slices))[:, None] * step
        if np.abs(places - line).max() > 2 * POSITION_MM:
            raise ValueError(
                f"{name}: slices must lie on a straight line; they are off by up to "
                f"{np.abs(places - line).max():.3g} mm. Reconstruct them with one centre."
            )
        shift = float(np.linalg.norm(step - normal * (step @ normal)))
        if shift > POSITION_MM:
            notes = (f"The gantry was tilted: each slice is shifted by {shift:.3g} mm against the next.",)
    lps = np.eye(4)
    lps[:3, 0] = np.multiply(first.orientation[:3], first.spacing[0])
    lps[:3, 1] = np.multiply(first.orientation[3:], first.spacing[1])
    lps[:3, 2], lps[:3, 3] = step, places[0]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, notes


def _check_gaps(heights, name: str) -> None:
    steps = np.diff(heights)
    step = np.sort(steps)[(len(steps) - 1) // 2]  # of two, the lower: the other spans a gap
    wrong = np.flatnonzero(np.abs(steps - step) > POSITION_MM)
    if wrong.size:
        z = wrong[np.argmax(steps[wrong])]
        n = round(steps[z] / step) - 1
        missing = abs(steps[z] - (n + 1) * step) <= 2 * POSITION_MM and n > 0
        what = f"{n} missing" if missing else "no slice fits between them"
        raise ValueError(
            f"{name}: slices must be equally far apart; they are {step:.4g} mm apart, but {steps[z]:.4g} mm "
            f"between {heights[z]:.4g} and {heights[z + 1]:.4g} mm along the normal: {what}. "
            "Copy the series again, complete."
        )


# --- values -------------------------------------------------------------------------------------------------


def read_values(series: Series):
    """Read all images of a series, each file once.

    Returns
    -------
    (X, Y, Z, T), HU: int16 where all values are whole and fit, else float32.

    Raises
    ------
    ValueError, OSError : naming the file that is damaged or compressed in a way that cannot be read here.
    """
    linear = {(image.slope, image.intercept) for row in series.images for image in row}
    whole = all(float(number).is_integer() for pair in linear for number in pair)
    ctp = np.empty(series.shape, np.int16 if whole else np.float32)
    limits = np.iinfo(np.int16)
    for z, t, image, pixels in _pixels(series):
        values = pixels.T.astype(np.int32 if whole else np.float64)
        values = values * (int(image.slope) if whole else image.slope)
        values += int(image.intercept) if whole else image.intercept
        if ctp.dtype == np.int16 and not (limits.min <= values.min() and values.max() <= limits.max):
            ctp = ctp.astype(np.float32)
        ctp[:, :, z, t] = values
    return ctp


def _pixels(series: Series):
    from pydicom.pixels import iter_pixels, pixel_array

    files = defaultdict(list)
    for z, row in enumerate(series.images):
        for t, image in enumerate(row):
            files[image.path].append((image.frame, z, t, image))
    for path, wanted in files.items():
        wanted = sorted(wanted, key=lambda entry: entry[0] or 0)
        try:
            if wanted[0][0] is None:
                arrays = [pixel_array(path)]
            else:
                arrays = iter_pixels(path, indices=[frame for frame, *_ in wanted])
            for (_, z, t, image), pixels in zip(wanted, arrays, strict=True):
                if pixels.shape != image.shape[::-1]:
                    raise ValueError(f"its pixels have shape {pixels.shape}, not {image.shape[::-1]}")
                yield z, t, image, pixels
        except OSError:
            raise
        except Exception as problem:  # the decoders raise many kinds
            raise ValueError(
                f"{path}: the pixels of a DICOM file must be readable; {problem}. Copy it again."
            ) from None
