"""The line between the hemispheres in the plane of the slices."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import ndimage

MAX_TILT = 12.0  # degrees; our choice: heads lie straighter in the holder
LOW_PASS = 3.0  # mm; our choice: ventricles stay, noise goes


class Midline(NamedTuple):
    """A line in the plane of the slices: unit normal (towards larger x) and its offset, in mm."""

    normal: tuple[float, float]
    offset: float

    def distance(self, shape, spacing):
        """Return the signed distance (X, Y) of every pixel, mm."""
        x, y = (np.arange(n) * float(d) for n, d in zip(shape[:2], spacing, strict=False))
        return self.normal[0] * x[:, None] + self.normal[1] * y - self.offset

    def sides(self, brain, spacing):
        """Return −1 and +1 for the voxels (X, Y, Z) of the brain on either side, 0 outside; int8."""
        side = np.where(self.distance(brain.shape, spacing) < 0, -1, 1).astype(np.int8)
        return side[..., None] * brain

    def mirrored(self, point):
        """Return the mirror image of a point (x, y), mm."""
        normal = np.array(self.normal)
        return np.asarray(point) - 2 * (normal @ point - self.offset) * normal

    @property
    def tilt(self) -> float:
        """Angle against the second axis, degrees."""
        return float(np.degrees(np.arctan2(self.normal[1], self.normal[0])))


def find_midline(baseline, brain, spacing) -> Midline:
    """Find the line about which brain and baseline are most alike when mirrored.

    Parameters
    ----------
    baseline : (X, Y, Z), HU; the first axis runs from one side of the head to the other.
    brain : (X, Y, Z), bool.
    spacing : (3,), mm.

    Notes
    -----
    The low-passed projection over z is turned by −12°…12° on a grid of 96 points; for one angle the
    mirror correlation at every offset is the autoconvolution across the line, one FFT. Parabolas
    refine both. A roll of the head out of the slice plane is averaged over the slab.
    """
    image = _mirror_image(np.asarray(baseline, np.float32), np.asarray(brain, bool), spacing)
    size = np.array(image.shape) * np.asarray(spacing, float)[:2]
    hits = np.argwhere(image > 0) * np.asarray(spacing, float)[:2]
    centre, radius = (
        hits.mean(axis=0),
        np.linalg.norm(hits - hits.mean(axis=0), axis=1).max() + size.min() / 48,
    )
    steps = np.linspace(-radius, radius, 96)

    def score(angle):
        n, d = _axes(angle)
        at = centre[:, None, None] + n[:, None, None] * steps[:, None] + d[:, None, None] * steps
        turned = ndimage.map_coordinates(image, at / np.asarray(spacing, float)[:2, None, None], order=1)
        spectrum = np.fft.rfft(turned, 2 * len(steps), axis=0)
        return np.fft.irfft((spectrum**2).sum(axis=1), 2 * len(steps))

    angles = np.arange(-MAX_TILT, MAX_TILT + 1e-9, 2)
    rough = angles[np.argmax([score(a).max() for a in angles])]
    angles = rough + np.arange(-2, 2.1, 0.5)
    scores = np.array([score(a) for a in angles])
    best = int(scores.max(axis=1).argmax())
    angle = angles[best] + 0.5 * _vertex(scores.max(axis=1), best)
    shift = int(scores[best].argmax())
    # Index m of the autoconvolution pairs samples i + j = m: the mirror lies at m / 2.
    place = (shift + _vertex(scores[best], shift)) / 2 * (steps[1] - steps[0]) - radius
    n, _ = _axes(angle)
    return Midline((float(n[0]), float(n[1])), float(centre @ n + place))


def _mirror_image(baseline, brain, spacing):
    """Return brain thickness modulated by up to half with the low-passed baseline, (X, Y)."""
    weight = brain.sum(axis=2).astype(np.float32)
    mean = (baseline * brain).sum(axis=2)
    sigma = LOW_PASS / np.asarray(spacing, float)[:2]
    weight, mean = ndimage.gaussian_filter(weight, sigma), ndimage.gaussian_filter(mean, sigma)
    inside = weight > 0.1 * weight.max()
    mean = np.divide(mean, weight, where=inside, out=np.zeros_like(mean))
    middle = np.median(mean[inside])
    spread = max(np.percentile(abs(mean[inside] - middle), 90), 1.0)
    return np.where(inside, weight * (1 + 0.5 * np.clip((mean - middle) / spread, -1, 1)), 0)


def _axes(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([c, s]), np.array([-s, c])


def _vertex(values, i):
    """Return the vertex of the parabola through the samples around ``i``, relative to it."""
    if not 0 < i < len(values) - 1:
        return 0.0
    left, top, right = values[i - 1 : i + 2]
    bend = left - 2 * top + right
    return float((left - right) / (2 * bend)) if bend < 0 else 0.0
