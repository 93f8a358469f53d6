"""A head to put a stroke in: template tissue, individual warps, vessel tree and arterial territories.

The tissue is nilearn's packaged ICBM 152 template (2009a, nonlinear, symmetric), T1, GM and WM at 1 mm.
Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute,
McGill University. Its notice permits use and redistribution with this line.

Two frames, both in mm with x to the right, y to the front, z up: *patient* coordinates p, in which the
scanner's grid lies, and *template* coordinates q = A (p + w(p)) + b, with a smooth warp w. Skull, scalp,
vessels and territories are ours; centre lines of the vessels are written in template coordinates.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

SKULL_MM = (2.0, 8.5)  # our choice: inner and outer table, distance from the brain's envelope
SCALP_MM = 14.0  # our choice: outer surface of the skin
SHARPNESS = 2.0  # our choice: the template is a mean of 152 heads; a power of its fractions sharpens it
GYRI = (6.0, 0.5)  # our choice: correlation length in mm and strength of individual gyri
WARP = (45.0, 2.5)  # our choice: correlation length and size (sd) of the smooth warp in mm
MAX_TILT_DEG = 8.0  # docs/science.md §7.1
MAX_STRETCH = 0.08  # docs/science.md §7.1
TUBE_STEP_MM = 0.4  # our choice: below half a pixel
SUBPLANE_MM = 3.0  # our choice: a thick slice is the mean of planes at most this far apart

# name: (radius mm at start and end, delay s at start and end, centre line in template mm, right side).
# Radii .6-2.5 pixels of .9 mm and delays 0-1.5 s: docs/science.md §7.3; centre lines: our choice, by eye.
ARTERIES = {
    "ICA": (
        (2.1, 1.8),
        (0.0, 0.0),
        [(26, -20, -50), (24, -14, -38), (14, -4, -28), (14, 8, -22), (15, 1, -15)],
    ),
    "M1": ((1.6, 1.3), (0.0, 0.2), [(15, 1, -15), (24, 2, -17), (33, 3, -15), (39, 3, -12)]),
    "M2 superior": (
        (1.3, 0.6),
        (0.2, 1.3),
        [(39, 3, -12), (41, 9, -4), (41, 14, 6), (44, 12, 16), (52, 6, 24), (57, -3, 34), (55, -10, 44)],
    ),
    "M2 middle": (
        (1.2, 0.6),
        (0.2, 1.3),
        [(39, 3, -12), (41, -3, -3), (40, -8, 8), (42, -14, 18), (53, -20, 26), (58, -24, 38)],
    ),
    "M2 inferior": (
        (1.3, 0.6),
        (0.2, 1.4),
        [(39, 3, -12), (43, -7, -6), (44, -18, 2), (46, -32, 10), (54, -44, 18), (54, -56, 26)],
    ),
    "M2 temporal": ((1.0, 0.6), (0.2, 1.0), [(33, 3, -15), (40, 10, -22), (50, 2, -24), (58, -12, -20)]),
    "A1": ((1.3, 1.2), (0.0, 0.1), [(15, 1, -15), (9, 7, -15), (3, 11, -13)]),
    "A2": (
        (1.2, 0.7),
        (0.1, 1.2),
        [
            (3, 11, -13),
            (2, 26, -10),
            (2, 39, 2),
            (2, 37, 16),
            (2, 26, 30),
            (2, 8, 38),
            (2, -14, 42),
            (2, -34, 48),
        ],
    ),
    "A3": ((0.9, 0.6), (0.5, 1.3), [(2, 37, 16), (3, 34, 34), (3, 16, 52), (3, -8, 62), (3, -28, 66)]),
    "M4": ((0.7, 0.6), (1.0, 1.5), [(58, -24, 38), (54, -28, 50), (42, -28, 62), (32, -28, 68)]),
    "PCA": (
        (1.3, 0.7),
        (0.3, 1.5),
        [
            (0, -14, -20),
            (8, -13, -18),
            (17, -22, -14),
            (21, -33, -8),
            (18, -46, -2),
            (13, -60, 3),
            (9, -76, 6),
        ],
    ),
    "basilar": ((1.7, 1.7), (0.0, 0.3), [(0, -32, -56), (0, -25, -42), (0, -19, -30), (0, -14, -20)]),
}
STRAIGHT_SINUS = [(0, -36, 6), (0, -46, 2), (0, -60, -4), (0, -78, -12)]
DEEP_VEINS = [(6, -2, 10), (3, -14, 12), (1, -28, 10), (0, -36, 6)]
CORTICAL_VEINS = [
    [(56, -26, 30), (48, -30, 50), (34, -30, 62), (14, -32, 72)],
    [(46, 24, 26), (36, 30, 42), (20, 30, 54), (6, 28, 60)],
    [(30, -74, 28), (20, -78, 40), (8, -80, 44)],
]


@dataclass(frozen=True)
class Template:
    """Tissue of the mean head on its 1 mm grid, and the distance to its envelope on a 2 mm grid."""

    gm: np.ndarray  # (X, Y, Z) uint8, 255 = pure
    wm: np.ndarray
    brain: np.ndarray  # (X, Y, Z) uint8, 0 or 255
    distance: np.ndarray  # (X/2, Y/2, Z/2) float32 mm, positive outside the closed envelope
    origin: np.ndarray  # (3,) mm, template coordinates of voxel 0
    margin: int  # voxels of 2 mm that `distance` is larger on every side


@functools.cache
def template() -> Template:
    """Load nilearn's packaged ICBM 152 template; once per process, about 3 s, offline."""
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    t1, gm, wm = (
        load(resolution=1)
        for load in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    )
    brain = ndimage.binary_fill_holes(np.asarray(t1.dataobj) > 0)
    margin = 12
    coarse = np.pad(brain[::2, ::2, ::2], margin)
    ball = (
        ndimage.distance_transform_edt(~coarse) <= 5
    )  # closing by 10 mm, without a large structuring element
    closed = ndimage.distance_transform_edt(ball) > 5
    distance = 2 * (ndimage.distance_transform_edt(~closed) - ndimage.distance_transform_edt(closed))
    return Template(
        gm=_bytes(np.asarray(gm.dataobj, dtype=np.float32)),
        wm=_bytes(np.asarray(wm.dataobj, dtype=np.float32)),
        brain=_bytes(brain),
        distance=ndimage.gaussian_filter(distance, 1.5).astype(np.float32),
        origin=t1.affine[:3, 3].copy(),
        margin=margin,
    )


def _bytes(fraction):
    return np.round(255 * np.clip(fraction, 0, 1)).astype(np.uint8)


class SmoothField:
    """A random field of mean 0 and variance 1 over the head, a cubic B-spline on a coarse random grid.

    Parameters
    ----------
    rng : source of the knots.
    length_mm : distance of the knots in mm; the field's correlation falls to a half within about as much.
    """

    HALF_WIDTH_MM = 190.0  # our choice: covers every field of view used here

    def __init__(self, rng: np.random.Generator, length_mm: float):
        n = int(np.ceil(2 * self.HALF_WIDTH_MM / length_mm)) + 4
        self.length = length_mm
        self.knots = rng.standard_normal((n, n, n), dtype=np.float32) / np.float32((151 / 315) ** 1.5)

    def grid(self, x, y, z):
        """Values on the grid spanned by coordinates x (X,), y (Y,), z (Z,) in mm: (X, Y, Z) float32."""
        values = self.knots
        for axis_values in (x, y, z):  # contracts the first axis and appends the new one
            values = np.tensordot(values, self._basis(axis_values), axes=(0, 1))
        return values

    def at(self, points):
        """Values at points (N, 3) in mm: (N,)."""
        index = (np.asarray(points).T + self.HALF_WIDTH_MM) / self.length + 1
        return ndimage.map_coordinates(self.knots, index, order=3, prefilter=False, mode="nearest")

    def _basis(self, x):
        n = len(self.knots)
        u = np.abs((np.asarray(x, float)[:, None] + self.HALF_WIDTH_MM) / self.length + 1 - np.arange(n))
        inner = 2 / 3 - u**2 + u**3 / 2
        return np.where(u < 1, inner, np.where(u < 2, (2 - u) ** 3 / 6, 0)).astype(np.float32)


class Head:
    """One person's anatomy: the template under a random affine and a smooth warp, seeded.

    Parameters
    ----------
    rng : source of everything individual. Two slabs of one patient take the same seed.
    """

    def __init__(self, rng: np.random.Generator):
        tilt = np.radians(rng.uniform(-MAX_TILT_DEG, MAX_TILT_DEG, 3))
        stretch = 1 + rng.uniform(-MAX_STRETCH, MAX_STRETCH, 3)
        self.matrix = _rotation(tilt) / stretch  # q = matrix (p − centre + w) + centre
        self.centre = np.array([0.0, -18.0, 10.0])  # our choice: middle of the brain
        self.warp = [SmoothField(rng, WARP[0]) for _ in range(3)]
        self.gyri = [SmoothField(rng, GYRI[0]) for _ in range(3)]
        self.radius_scale = rng.lognormal(
            0, 0.12
        )  # our choice: calibre of the vessels differs between people

    def to_template(self, x, y, z):
        """Template coordinates of the patient grid x (X,), y (Y,), z (Z,): three (X, Y, Z) arrays in mm."""
        axes = np.meshgrid(x, y, z, indexing="ij", sparse=True)
        moved = [
            (axis - c).astype(np.float32) + np.float32(WARP[1]) * field.grid(x, y, z)
            for axis, c, field in zip(axes, self.centre, self.warp, strict=True)
        ]
        m, c = self.matrix.astype(np.float32), self.centre.astype(np.float32)
        return [m[i, 0] * moved[0] + m[i, 1] * moved[1] + m[i, 2] * moved[2] + c[i] for i in range(3)]

    def to_patient(self, points):
        """Patient coordinates (N, 3) of template points (N, 3) in mm; the inverse of ``to_template``."""
        straight = (np.asarray(points) - self.centre) @ np.linalg.inv(self.matrix).T + self.centre
        patient = straight
        for _ in range(4):  # |∇w| is about .1, so each round gains a digit
            patient = straight - WARP[1] * np.stack([field.at(patient) for field in self.warp], axis=1)
        return patient


def _rotation(angles):
    (ca, cb, cc), (sa, sb, sc) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, ca, -sa], [0, sa, ca]])
    about_y = np.array([[cb, 0, sb], [0, 1, 0], [-sb, 0, cb]])
    about_z = np.array([[cc, -sc, 0], [sc, cc, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@dataclass(frozen=True)
class Tissue:
    """Volume fractions of one scan's voxels, all (X, Y, Z) float32; air is what is missing to 1."""

    gm: np.ndarray
    wm: np.ndarray
    csf: np.ndarray
    bone: np.ndarray
    soft: np.ndarray
    envelope: np.ndarray  # inside of the skull


def tissue_fractions(head: Head, x, y, z, thickness: float) -> Tissue:
    """Sample a head on a scanner grid; thick slices are means over planes.

    Parameters
    ----------
    head : the person.
    x, y, z : (X,), (Y,), (Z,), mm, patient coordinates of the voxel centres.
    thickness : mm, of a slice.
    """
    n = max(1, int(np.ceil(thickness / SUBPLANE_MM)))
    planes = (np.asarray(z)[:, None] + thickness * ((np.arange(n) + 0.5) / n - 0.5)).ravel()
    q = head.to_template(x, y, planes)
    outside = _head_distance(q)
    inside = outside < 2
    gm, wm, csf = _individual_tissue(head, q, inside, x, y, planes)
    edge = np.float32(0.5 * (x[1] - x[0]) + 0.5)  # soft surfaces: half a pixel

    def beyond(mm):
        return np.clip((outside - np.float32(mm)) / (2 * edge) + np.float32(0.5), 0, 1)

    brain = gm + wm + csf
    skull_in, skull_out, skin = beyond(SKULL_MM[0]), beyond(SKULL_MM[1]), beyond(SCALP_MM)
    csf += (1 - skull_in) * np.clip(1 - brain, 0, 1)  # between the brain and the skull
    parts = (gm, wm, csf, skull_in - skull_out, skull_out - skin, 1 - skull_in)
    shape = (len(x), len(y), len(z), n)
    return Tissue(*(part.reshape(shape).mean(axis=-1) for part in parts))


def _head_distance(q):
    t = template()
    index = [(c - np.float32(o)) / 2 + t.margin for c, o in zip(q, t.origin, strict=True)]
    return ndimage.map_coordinates(t.distance, index, order=1, mode="nearest", output=np.float32)


def _individual_tissue(head, q, inside, x, y, planes):
    t = template()
    index = np.stack([c[inside] - np.float32(o) for c, o in zip(q, t.origin, strict=True)])
    brain, gm, wm = (
        ndimage.map_coordinates(volume, index, order=1, output=np.float32) / np.float32(255)
        for volume in (t.brain, t.gm, t.wm)
    )
    csf = np.clip(brain - gm - wm, 0, 1)
    weights = [
        np.maximum(part, 0) ** SHARPNESS * np.exp(np.float32(GYRI[1]) * field.grid(x, y, planes)[inside])
        for part, field in zip((gm, wm, csf), head.gyri, strict=True)
    ]
    scale = brain / np.maximum(sum(weights), np.float32(1e-6))
    parts = []
    for weight in weights:
        part = np.zeros(inside.shape, np.float32)
        part[inside] = weight * scale
        parts.append(part)
    return parts


@dataclass(frozen=True)
class Tubes:
    """The vessel tree as a cloud of points, each standing for a small piece of blood."""

    axis: np.ndarray  # (S, 3) mm, template, centre lines
    offset: np.ndarray  # (S, D, 3) from the centre line, in radii
    radius: np.ndarray  # (S,) mm
    delay: np.ndarray  # (S,) s
    vein: np.ndarray  # (S,) bool


@functools.cache
def vessel_tree() -> Tubes:
    """Fill the arteries of the circle of Willis and the large sinuses with points."""
    tubes = []
    for name, (radii, delays, line) in ARTERIES.items():
        for side in (1,) if name == "basilar" else (1, -1):
            tubes.append(_tube(np.array(line) * (side, 1, 1), radii, delays, vein=False))
    sagittal, transverse = _sinuses()
    tubes.append(_tube(sagittal, (1.3, 2.5), (-0.3, 0.2), vein=True))
    tubes.append(_tube(np.array([*STRAIGHT_SINUS, sagittal[-1]]), (1.6, 1.8), (-0.2, 0.2), vein=True))
    for side in (1, -1):
        mirror = (side, 1, 1)
        tubes.append(_tube(transverse * mirror, (2.2, 2.0), (0.2, 0.5), vein=True))
        tubes.append(_tube(np.array(DEEP_VEINS) * mirror, (0.6, 1.4), (-0.6, -0.2), vein=True))
        tubes += [
            _tube(np.array(line) * mirror, (0.6, 1.1), (-0.8, -0.3), vein=True) for line in CORTICAL_VEINS
        ]
    return Tubes(*(np.concatenate(parts) for parts in zip(*tubes, strict=True)))


def _tube(line, radii, delays, *, vein: bool):
    from scipy.interpolate import PchipInterpolator

    knots = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    s = np.arange(0, knots[-1], TUBE_STEP_MM)
    axis = PchipInterpolator(knots, line)(s)
    tangent = np.gradient(axis, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    helper = np.where(np.abs(tangent[:, 2:]) < 0.8, [[0, 0, 1.0]], [[1.0, 0, 0]])
    u = np.cross(tangent, helper)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(tangent, u)
    disc = _disc()
    offset = u[:, None] * disc[:, :1] + v[:, None] * disc[:, 1:]
    return axis, offset, np.linspace(*radii, len(s)), np.linspace(*delays, len(s)), np.full(len(s), vein)


def _disc():
    rings = [(0.0, 1), (0.33, 6), (0.66, 12), (0.92, 18)]
    return np.array(
        [(r * np.cos(a), r * np.sin(a)) for r, n in rings for a in 2 * np.pi * (np.arange(n) + r) / n]
    )


def _sinuses():
    """Centre lines on the inner table: along the vault in the midline, and from there to the side."""
    angles = np.radians(np.arange(25, 206, 9))  # from the forehead over the top to the occiput
    vault = np.stack([0 * angles, np.cos(angles), np.sin(angles)], axis=1)
    sagittal = _on_envelope(np.array([0.0, -18.0, 8.0]), vault)
    angles = np.radians(np.arange(0, 76, 15))  # from the occiput to the side
    around = np.stack([np.sin(angles), -np.cos(angles), -0.05 - 0.1 * np.sin(angles)], axis=1)
    transverse = _on_envelope(np.array([0.0, -35.0, sagittal[-1, 2]]), around)
    return sagittal, np.concatenate([sagittal[-1:], transverse[1:]])


def _on_envelope(start, directions):
    r = np.arange(20.0, 130.0, 0.5)
    points = start + r[:, None, None] * directions  # (R, D, 3)
    outside = _head_distance([points[..., i].astype(np.float32) for i in range(3)])
    first = np.argmax(outside > -0.5, axis=0)  # on the brain's surface, just inside the skull
    return points[first, np.arange(len(directions))]


def vessel_fractions(head: Head, x, y, z, thickness: float, *, veins: bool):
    """Pour the vessel tree of a head into its voxels.

    Parameters
    ----------
    head, x, y, z, thickness : as in ``tissue_fractions``.
    veins : the sinuses and veins; False: the arteries.

    Returns
    -------
    Volume fraction (X, Y, Z) in [0, 1] and delay (X, Y, Z) in s against the AIF (or the VOF), float32.
    """
    tree = vessel_tree()
    mine = tree.vein == veins
    radius = tree.radius[mine] * head.radius_scale
    centre = head.to_patient(tree.axis[mine])
    points = centre[:, None] + tree.offset[mine] * radius[:, None, None]
    step = np.array([x[1] - x[0], y[1] - y[0], thickness])
    index = np.floor((points - (x[0], y[0], z[0])) / step + 0.5).astype(np.intp)
    shape = (len(x), len(y), len(z))
    seen = ((index >= 0) & (index < shape)).all(axis=-1)
    blood = np.pi * radius**2 * TUBE_STEP_MM / tree.offset.shape[1] / step.prod()
    voxel = np.ravel_multi_index(tuple(index[seen].T), shape)
    amount, late = (
        np.bincount(voxel, np.broadcast_to(weight[:, None], seen.shape)[seen], minlength=np.prod(shape))
        for weight in (blood, blood * tree.delay[mine])
    )
    delay = late / np.maximum(amount, 1e-9)
    return (np.minimum(amount, 1).reshape(shape).astype(np.float32), delay.reshape(shape).astype(np.float32))


def territory(x, y, z):
    """Soft weights of the arterial territories, each in [0, 1], their sum 1; our choice, by eye.

    Parameters
    ----------
    x, y, z : mm, template coordinates, same shape.

    Returns
    -------
    Weights of "MCA", "ACA" and "PCA", each with the shape of x.
    """
    lateral = np.abs(x)
    high = np.clip((z - 10) / 50, 0, 1)
    aca = _soft((14 + 10 * np.clip((y - 10) / 40, 0, 1) + 6 * high - lateral) / 4) * _soft((y + 45) / 8)
    behind = -y - 48 - 0.45 * lateral - 0.35 * np.clip(z - 15, 0, 60)
    below = (-22 - y) - 0.6 * (z + 12) - 0.3 * lateral  # occipital and medial temporal lobe, brain stem
    pca = np.maximum(_soft(behind / 5), _soft(below / 5) * _soft((30 - lateral) / 4) * _soft((6 - z) / 4))
    aca = aca * (1 - pca)
    return {"MCA": 1 - aca - pca, "ACA": aca, "PCA": pca}


def _soft(value):
    return (1 / (1 + np.exp(-np.clip(value, -30, 30)))).astype(np.float32)
