"""Slices as small pictures, for pages that need neither a kernel nor a plotting library.

A picture is a WebP file; what is drawn over it, outlines and marks, is SVG in millimetres of the slice. Both
are oriented as `drawing` says, so a page scales them together and an outline stays sharp.
"""

from __future__ import annotations

import os
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np

from .drawing import MAPS, oriented, outline, shrink, window_of

QUALITY = 82  # of WebP; our choice: no visible loss at 200 pixels, a fifth of a PNG's size
CT_WINDOW = (0, 80)  # HU; the usual brain window
EFFORT = 2  # of WebP, 0 to 6; our choice: half the time of the usual 4, for a twelfth more bytes
PLAYED_SIZE, PLAYED_QUALITY = 112, 40  # our choice: an artery is still seen, 45 frames take about 30 kB


class View:
    """A slice (X, Y) cut to the brain and turned as a reader expects it.

    Parameters
    ----------
    brain : (X, Y) bool, what to show.
    affine : (4, 4), mm, or None: pixels are then squares of 1 mm.
    """

    def __init__(self, brain, affine):
        self.affine, self.shape = affine, np.shape(brain)
        self.window = window_of(oriented(np.asarray(brain, bool), affine))
        matrix = np.eye(4) if affine is None else np.asarray(affine, float)
        self.spacing = np.linalg.norm(matrix[:3, :2], axis=0)
        x0, x1, y0, y1 = self.window
        self.size_mm = [float(v) for v in np.round((x1 - x0, y1 - y0) * self.spacing, 2)]

    def cut(self, image):
        """Return the part of an image (X, Y, …) that is shown, x to the right and y upward."""
        x0, x1, y0, y1 = self.window
        return oriented(np.asarray(image), self.affine)[x0:x1, y0:y1]

    def rows(self, image):
        """Return that part as rows (Y, X, …), the top one first."""
        return np.swapaxes(self.cut(image), 0, 1)[::-1]

    def path(self, mask) -> str:
        """Trace a mask (X, Y) as an SVG path in mm; "" where it is empty."""
        steps, pen = [], "M"
        for x, y in zip(*self._mm(*outline(self.cut(mask))), strict=True):
            if np.isnan(x):
                pen = "M"
                continue
            steps.append(f"{pen}{x:.1f} {y:.1f}")
            pen = "L"
        return "".join(steps)

    def points(self, voxels) -> list[list[float]]:
        """Return where voxels (n, 2) of the slice lie in the picture, mm; those outside it are left out."""
        marks = np.zeros(self.shape, bool)
        marks[tuple(np.asarray(voxels, int).reshape(-1, 2).T)] = True
        return np.stack(self._mm(*np.argwhere(self.cut(marks)).T), axis=-1).round(1).tolist()

    def _mm(self, x, y):
        rows = self.window[3] - self.window[2]
        return (x + 0.5) * self.spacing[0], (rows - 0.5 - y) * self.spacing[1]


def grey(image, limits=CT_WINDOW):
    """Turn an image into 8-bit grey by a window of (low, high)."""
    low, high = limits
    return (np.clip((np.nan_to_num(image) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def coloured(image, name: str, where=None):
    """Turn a map into 8-bit colours, in the range and the colours that ``drawing.MAPS`` gives it.

    Parameters
    ----------
    image : (rows, columns).
    name : of the map, such as "rcbf".
    where : (rows, columns) bool; black elsewhere.
    """
    _, _, limits, scale = MAPS[name]
    pixels = _palette(scale)[grey(image, limits)]
    return pixels if where is None else pixels * np.asarray(where, bool)[..., None]


@cache
def _palette(scale):
    from plotly.colors import sample_colorscale

    sampled = sample_colorscale(scale, np.linspace(0, 1, 256).tolist(), colortype="tuple")
    return np.round(255 * np.array(sampled)).astype(np.uint8)


def sprite(view: View, slices, limits):
    """Put all frames of a slice side by side for a page that plays them.

    Parameters
    ----------
    view : of the slice.
    slices : (X, Y, T), HU.
    limits : HU window.

    Returns
    -------
    pixels : (rows, columns), 8-bit grey
    layout : dict of frames, columns: the frames stand row by row
    """
    frames = grey(np.moveaxis(shrink(view.rows(slices), PLAYED_SIZE), -1, 0), limits)
    n, height, width = frames.shape
    columns = int(np.ceil(np.sqrt(n)))
    blank = np.zeros((-n % columns, height, width), np.uint8)
    grid = np.concatenate([frames, blank]).reshape(-1, columns, height, width)
    return grid.swapaxes(1, 2).reshape(-1, columns * width), {"frames": n, "columns": columns}


def save_picture(path, pixels, quality: int = QUALITY) -> str:
    """Write 8-bit pixels (rows, columns[, 3]) as WebP, whole or not at all; return the file's name."""
    from PIL import Image

    path, buffer = Path(path), BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "WEBP", quality=quality, method=EFFORT)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    temporary.write_bytes(buffer.getvalue())
    os.replace(temporary, path)
    return path.name
