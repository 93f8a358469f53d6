"""A quick look for head motion, and the view of a series in which motion shows and contrast does not.

Only bone and air are seen, whose HU no contrast reaches, and only near the head.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from perfkit import curves
from perfkit.case import Case

FLAT_HU = (0, 300)  # our choice: no difference is seen in between, where brain, blood and contrast lie
SEEN_HU = (-300, 1000)  # our choice: what lies beyond is one air, one bone; no streak weighs more
STRIPPED_HU = (0.0, 20.0)  # our choice: without a skull the brain's edge is seen; tissue does not enhance so
STRIPPED_SHARE = 0.01  # our choice: with its skull a head has a third of the rim in bone, without it none
RIM_MM = 12.0  # our choice: takes in the skull, leaves out most of the head rest, which does not move
BOX_MM = RIM_MM + 8.0  # our choice: what a head that moves so far brings near the rim; no more is looked at
PIXEL_MM = 1.5  # our choice: finer pixels are averaged; a tenth of it is the accuracy that is asked for
SIGMA_MM = 1.5  # our choice: what is blurred so reaches its neighbour, which the linear step needs
REFERENCE_FRAMES = 5  # our choice: their median stands even where two of them moved
HEAD_MM = 70.0  # our choice: half a head, at which a turn and a shift move the skull alike
UNSEEN = 0.05  # our choice: motion that changes the image so much less than other motion; in heads ≥ 0.1
THICK_SLAB = 4  # slices; our choice: with fewer, only motion in the plane can be told
MOVED_MM = 0.5  # our choice: half a pixel of a head scan; phantoms that lie still show at most 0.13 mm


def screen_motion(case: Case):
    """Look quickly how far the head moves in each frame.

    Parameters
    ----------
    case : one scan.

    Returns
    -------
    (T,), mm: largest displacement in the brain against the first frames. Right below about 3 mm; larger
    displacements come out too small, and so do those of a scan without its skull, by half. With fewer than
    four slices only motion in the plane is seen.

    Notes
    -----
    Measured on phantoms, 64 still and 64 moved in the plane: 0.13 mm at most where nothing moves;
    1 mm reads 0.6 to 1.5 mm, and is always above ``MOVED_MM``; half a millimetre is in 89 of 100.
    """
    view = HeadView(case)
    motion = small_motion(view, case)
    places = view.places(case)[view.brain]
    return np.array([np.linalg.norm(m[:3] + np.cross(m[3:], places), axis=1).max() for m in motion])


def small_motion(view: HeadView, case: Case):
    """Solve for small rigid motion by linear least squares.

    Returns
    -------
    (T, 6): shift along x, y, z in mm, turn about x, y, z in radians, against the first frames.

    Notes
    -----
    A point p moves by u = s + w × p; to first order the image changes by −∇f · u = −∇f · s − (p × ∇f) · w.
    """
    reference = view.reference()
    axes = (0, 1, 2) if view.thick else (0, 1)
    slope = np.zeros((*reference.shape, 3))
    slope[..., : len(axes)] = np.moveaxis(
        np.gradient(reference, *view.spacing[: len(axes)], axis=axes), 0, -1
    )
    slope, places = slope[view.near], view.places(case)[view.near]
    free = [0, 1, 2, 3, 4, 5] if view.thick else [0, 1, 5]
    columns = -np.hstack([slope, np.cross(places, slope) / HEAD_MM])[:, free]
    inverse = np.linalg.pinv(columns, rcond=UNSEEN)
    motion = np.zeros((view.n_frames, 6))
    for t in range(view.n_frames):
        motion[t, free] = inverse @ (view.frame(t) - reference)[view.near]
    return motion / [1, 1, 1, HEAD_MM, HEAD_MM, HEAD_MM]


def centre_of(case: Case):
    """Middle of the brain in mm from the first voxel, (3,)."""
    return np.argwhere(case.brain).mean(axis=0) * case.spacing


class HeadView:
    """The series as motion is seen in it: bone and air, pixels averaged, smoothed in the plane."""

    def __init__(self, case: Case):
        spacing = [float(s) for s in case.spacing]
        self.box = _box_around(case.brain, spacing)
        self.ctp, self.n_frames = case.ctp[self.box], case.n_frames
        self.factors = [max(1, round(PIXEL_MM / s)) for s in spacing[:2]]
        self.spacing = [spacing[0] * self.factors[0], spacing[1] * self.factors[1], spacing[2]]
        starts = [part.start + (f - 1) / 2 for part, f in zip(self.box, self.factors, strict=True)]
        self.origin = [start * s for start, s in zip(starts, spacing, strict=False)] + [0.0]
        brain = self.averaged(case.brain[self.box].astype(np.float32))
        self.brain = brain >= min(0.5, brain.max())
        self.near, self.rim = self._surroundings()
        self.thick = self.brain.shape[2] >= THICK_SLAB
        first = self.averaged(self.ctp[..., 0].astype(np.float32))[self.near]
        self.stripped = ((first > FLAT_HU[1]) | (first < FLAT_HU[0] - 100)).mean() < STRIPPED_SHARE
        voxels = np.flatnonzero(case.brain)
        voxels = voxels[:: max(1, len(voxels) // 5000)]  # enough for a mean whose onset is sought
        mean = case.ctp[np.unravel_index(voxels, case.brain.shape)].mean(axis=0, dtype=float)
        self.n_reference = max(REFERENCE_FRAMES, curves.n_baseline(mean, case.dt))

    def _surroundings(self):
        """Voxels near the head, and those without the inner part, in which nothing is seen."""
        near, deep = np.zeros_like(self.brain), np.zeros_like(self.brain)
        for z in np.flatnonzero(self.brain.any(axis=(0, 1))):
            inside = np.pad(self.brain[..., z], 1)  # a brain that fills the slice has an edge as well
            outer, inner = (
                ndimage.distance_transform_edt(part, sampling=self.spacing[:2])[1:-1, 1:-1]
                for part in (~inside, inside)
            )
            near[..., z], deep[..., z] = outer <= RIM_MM, inner > RIM_MM
        return near, near & ~deep

    def places(self, case):
        """(X, Y, Z, 3), mm from the middle of the brain."""
        centre = np.subtract(self.origin, centre_of(case))
        return np.moveaxis(np.indices(self.brain.shape), 0, -1) * self.spacing + centre

    def frame(self, t: int):
        """Frame t, (X, Y, Z) float32."""
        hu = self.ctp[..., t]
        seen = np.clip(hu, *STRIPPED_HU) if self.stripped else np.clip(hu, *SEEN_HU) - np.clip(hu, *FLAT_HU)
        sigma = [SIGMA_MM / s for s in self.spacing[:2]]
        return ndimage.gaussian_filter(self.averaged(seen.astype(np.float32)), (*sigma, 0), mode="nearest")

    def reference(self):
        """Median of the first frames, (X, Y, Z) float32."""
        n = min(self.n_reference, self.n_frames)
        return np.median([self.frame(t) for t in range(n)], axis=0)

    def averaged(self, volume):
        """Mean over blocks of pixels, float32."""
        for axis, factor in enumerate(self.factors):
            n = volume.shape[axis] // factor
            parts = [np.moveaxis(volume, axis, 0)[k : n * factor : factor] for k in range(factor)]
            volume = np.moveaxis(sum(parts[1:], parts[0]) / np.float32(factor), 0, axis)
        return volume


def _box_around(brain, spacing):
    """Slices along x and y that hold the brain and its surroundings."""
    box = []
    for axis in (0, 1):
        hits = np.flatnonzero(brain.any(axis=(1 - axis, 2)))
        margin = int(np.ceil(BOX_MM / spacing[axis]))
        box.append(slice(max(0, int(hits[0]) - margin), int(hits[-1]) + 1 + margin))
    return tuple(box)
