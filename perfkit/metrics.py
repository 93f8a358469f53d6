"""Agreement of a predicted core with a reference core: overlap, distances, ROC AUC, volume.

Empty masks: both empty is perfect agreement (Dice = Jaccard = 1, HD95 = ASSD = 0 mm); one empty is none
(Dice = Jaccard = 0) and has no distance (HD95 = ASSD = NaN: average over the finite ones and report how
many they are). Sensitivity is NaN without a reference core, specificity without anything beside it, and
ROC AUC where the reference has one class only.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.ndimage import binary_erosion

from perfkit.ranking import Ranking


def roc_auc(core, score) -> float:
    """Return the area under the ROC curve of a voxel score; a higher score means core.

    Parameters
    ----------
    core : (...), bool or 0/1; the reference.
    score : (...), any monotone measure, for example ``-rcbf``; ±inf are ranks like others.

    Returns
    -------
    P(score of a core voxel > score of another) + P(equal) / 2, which is the Mann-Whitney U
    statistic over the number of pairs; NaN where core or its complement is empty.

    Raises
    ------
    ValueError : shapes differ, core is not binary, score has NaN.
    """
    core, score = _binary(core, "core"), np.asarray(score)
    _same_shape(core, score, "core", "score")
    if score.dtype.kind not in "fiub":
        raise TypeError(f"Scores must be real numbers: values of type {score.dtype} came. Try -rcbf.")
    return Ranking.of(core, score).auc()


def dice(a, b) -> float:
    """Return the Dice coefficient 2|a ∩ b| / (|a| + |b|) of two masks.

    Parameters
    ----------
    a, b : (...) of one shape, bool or 0/1.
    """
    a, b = _pair(a, b)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0


def jaccard(a, b) -> float:
    """Return the Jaccard index |a ∩ b| / |a ∪ b| of two masks.

    Parameters
    ----------
    a, b : (...) of one shape, bool or 0/1.
    """
    a, b = _pair(a, b)
    union = np.count_nonzero(a | b)
    return np.count_nonzero(a & b) / union if union else 1.0


def sensitivity(core, predicted) -> float:
    """Return the share of the reference core that is predicted; NaN where the reference is empty.

    Parameters
    ----------
    core, predicted : (...) of one shape, bool or 0/1; the reference first.
    """
    core, predicted = _pair(core, predicted, ("core", "predicted"))
    positives = np.count_nonzero(core)
    return np.count_nonzero(core & predicted) / positives if positives else float("nan")


def specificity(core, predicted) -> float:
    """Return the share of voxels outside the reference core that are predicted so; NaN where there are none.

    Parameters
    ----------
    core, predicted : (...) of one shape, bool or 0/1; the reference first. Hand over voxels of the brain
        only: with the air around it any map is specific.
    """
    core, predicted = _pair(core, predicted, ("core", "predicted"))
    negatives = core.size - np.count_nonzero(core)
    return np.count_nonzero(~core & ~predicted) / negatives if negatives else float("nan")


def hausdorff95_mm(a, b, spacing, *, definition: str = "max") -> float:
    """Return the 95 % Hausdorff distance between the surfaces of two masks.

    Parameters
    ----------
    a, b : (X,), (X, Y) or (X, Y, Z), bool or 0/1, of one shape.
    spacing : as many numbers as axes, mm.
    definition : ``"max"``, the larger of the two directed 95th percentiles (the default and the one
        in our tables), or ``"pooled"``, the 95th percentile of both directions' distances together
        (MedPy's ``hd95``), which is hardly ever above the former.

    Returns
    -------
    Distance, mm.

    Notes
    -----
    A surface is the mask minus its erosion by the face neighbours (2, 4 or 6); the border of the
    array counts as outside. Percentiles interpolate linearly. Every surface voxel has the same
    weight, whatever the area of its faces.
    """
    if definition not in ("max", "pooled"):
        raise ValueError(f'definition must be "max" or "pooled": {definition!r} came.')
    return _hausdorff95(*surface_distances_mm(a, b, spacing), definition)


def assd_mm(a, b, spacing) -> float:
    """Return the average symmetric surface distance: the mean over the surface voxels of both masks.

    Parameters
    ----------
    a, b : (X,), (X, Y) or (X, Y, Z), bool or 0/1, of one shape.
    spacing : as many numbers as axes, mm.

    Returns
    -------
    Distance, mm.

    Notes
    -----
    Surfaces as for ``hausdorff95_mm``. Both directions go into one mean, so the larger surface weighs more.
    """
    return _assd(*surface_distances_mm(a, b, spacing))


def surface_metrics_mm(a, b, spacing) -> dict[str, float]:
    """Return ``hd95_mm`` and ``assd_mm`` of two masks from one measurement of their surfaces.

    Parameters
    ----------
    a, b, spacing : as for ``hausdorff95_mm`` and ``assd_mm``.
    """
    a, b = _pair(a, b)
    return Surface(a, spacing).metrics_mm(Surface(b, spacing))


def surface_distances_mm(a, b, spacing):
    """Measure the distance of each surface voxel of one mask to the surface of the other.

    Parameters
    ----------
    a, b : (X,), (X, Y) or (X, Y, Z), bool or 0/1, of one shape.
    spacing : as many numbers as axes, mm.

    Returns
    -------
    from_a : (surface voxels of a,), mm, inf where b is empty
    from_b : (surface voxels of b,), mm, inf where a is empty
    """
    a, b = _pair(a, b)
    return Surface(a, spacing).distances_mm(Surface(b, spacing))


class Surface:
    """The surface voxels of a mask; a reference that many masks are measured against is searched once.

    Parameters
    ----------
    mask : (X,), (X, Y) or (X, Y, Z), bool or 0/1.
    spacing : as many numbers as axes, mm.

    Attributes
    ----------
    points : (n, axes), mm, of the surface voxels from the array's first one.
    """

    def __init__(self, mask, spacing):
        mask = _binary(mask, "mask")
        if not 1 <= mask.ndim <= 3:
            raise ValueError(
                f"Masks must have one to three axes: shape {mask.shape} came. Drop the extra axes."
            )
        spacing = _spacing(spacing, mask.ndim)
        box = _bounding_box(mask)
        inside = mask[box]
        surface = inside & ~binary_erosion(inside, border_value=0)
        self.points = (np.argwhere(surface) + [side.start for side in box]) * spacing

    @cached_property
    def tree(self):
        """KDTree of the points."""
        from scipy.spatial import KDTree  # a tenth of a second

        return KDTree(self.points, balanced_tree=False, compact_nodes=False)

    def distances_mm(self, other: Surface):
        """Measure the distance of each surface voxel of one mask to the other's surface, both ways.

        Parameters
        ----------
        other : on the same grid.

        Returns
        -------
        from_self : (n,), mm, inf where the other is empty
        from_other : (m,), mm, inf where this one is empty
        """
        return _nearest(self, other), _nearest(other, self)

    def metrics_mm(self, other: Surface) -> dict[str, float]:
        """Return ``hd95_mm`` and ``assd_mm``.

        Parameters
        ----------
        other : on the same grid.
        """
        distances = self.distances_mm(other)
        return {"hd95_mm": _hausdorff95(*distances), "assd_mm": _assd(*distances)}


def _nearest(from_surface, to_surface):
    if not len(to_surface.points):
        return np.full(len(from_surface.points), np.inf)
    return to_surface.tree.query(from_surface.points)[0]


def volume_ml(mask, spacing) -> float:
    """Return the volume of a mask.

    Parameters
    ----------
    mask : (X, Y, Z) or any selection of its voxels, bool or 0/1.
    spacing : (3,), mm.

    Returns
    -------
    Volume, ml.
    """
    return float(np.count_nonzero(_binary(mask, "mask")) * np.prod(_spacing(spacing, 3)) / 1000)


def _hausdorff95(from_a, from_b, definition="max"):
    if not (from_a.size and from_b.size):
        return 0.0 if from_a.size == from_b.size else float("nan")
    if definition == "pooled":
        return float(np.percentile(np.concatenate([from_a, from_b]), 95))
    return float(max(np.percentile(from_a, 95), np.percentile(from_b, 95)))


def _assd(from_a, from_b):
    if not (from_a.size and from_b.size):
        return 0.0 if from_a.size == from_b.size else float("nan")
    return float(np.concatenate([from_a, from_b]).mean())


def _bounding_box(mask):
    found = np.unravel_index(np.flatnonzero(mask), mask.shape)
    return tuple(slice(int(at.min()), int(at.max()) + 1) if at.size else slice(0, 0) for at in found)


def _pair(a, b, names=("a", "b")):
    a, b = _binary(a, names[0]), _binary(b, names[1])
    _same_shape(a, b, *names)
    return a, b


def _same_shape(a, b, name_a, name_b):
    if a.shape != b.shape:
        raise ValueError(
            f"Both arrays must have one shape: {name_a} has {a.shape}, {name_b} has {b.shape}. "
            "Resample one onto the grid of the other."
        )


def _binary(mask, name):
    mask = np.asarray(mask)
    if mask.dtype == bool:
        return mask
    # NaN equals neither 0 nor 1, so it is refused here as well.
    if not ((mask == 0) | (mask == 1)).all():
        raise ValueError(f"{name} must hold only 0 and 1 (or bool): other values came. Threshold it first.")
    return mask.astype(bool)


def _spacing(spacing, n_axes):
    try:
        spacing = np.asarray(spacing, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"spacing must be numbers in mm: {spacing!r} came. Take case.spacing.") from None
    if spacing.shape != (n_axes,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise ValueError(
            f"spacing must be {n_axes} positive number(s) in mm, one per axis: {spacing.tolist()} came. "
            "Take case.spacing."
        )
    return spacing
