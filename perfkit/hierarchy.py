"""Arteries by cutting the hierarchy of the curves in the middle of a slice (Peruzzo et al. 2011)."""

from __future__ import annotations

import numpy as np

from perfkit.arteries import SLOW_FRAMES, BrainCurves, Chosen, counted
from perfkit.clusters import roughness_of

# Peruzzo et al. 2011, Comput Methods Programs Biomed 104:e148, and the authors' dsc-mri-toolbox
ELLIPSE = (0.15, 0.35)  # semi-axes, of the brain's extent from side to side and from front to back
SMALLEST, LATEST, ROUGHEST = 40.0, 40.0, 5.0  # per cent of the candidates that go, one after the other
SAME_PEAK = 0.04  # of the higher peak; at a smaller difference the earlier cluster is kept
FEWEST, MOST = 4, 6  # voxels of the AIF
MOST_CURVES = 2500  # our choice: the hierarchy costs their square; a slice of 256² has 1800


def peruzzo(series: BrainCurves, *, ellipse: tuple[float, float] = ELLIPSE) -> Chosen:
    """Cut Ward's hierarchy of the curves around the middle of a slice down to 4-6 high voxels.

    Parameters
    ----------
    series : curves of the brain.
    ellipse : semi-axes from side to side and from front to back, as shares of the brain's extent.

    Notes
    -----
    Peruzzo et al. 2011: of an ellipse in the middle of the slice the 40 % smallest areas, the 40 % latest
    peaks and the 5 % roughest curves go; of the two branches of the tree (SciPy's ``linkage``) the higher is
    kept, the earlier where they differ by less than 4 %, until six voxels or fewer are left. Ours: what
    ``perfkit.clusters`` says of all methods; there an operator chose the slice, here the one is taken whose
    voxels are most arterial.
    """
    if len(ellipse) != 2 or not all(share > 0 for share in ellipse):
        raise ValueError(f"ellipse is two shares of the brain's extent above 0: {ellipse!r} came.")
    x, y, z = series.voxels.T
    found, n = [], 0
    for k in np.unique(z):
        slice_ = np.flatnonzero(z == k)
        middle = slice_[_in_ellipse(x[slice_], y[slice_], ellipse)]
        rows = _remaining(series, series.early(middle[series.height[middle] > 0]))
        n += len(rows)
        if len(rows) >= FEWEST:
            found.append(rows[_branch(series.bolus[rows])])
    if not found:
        raise ValueError(
            f"Peruzzo's rule needs {FEWEST} candidates in the middle of a slice: none of {len(np.unique(z))} "
            "slices has them. Look at the series, or try method='straka'."
        )
    best = series.most_arterial(np.array([series.first_pass[rows].mean(axis=0) for rows in found]))
    rows = found[best]
    why = (
        f"{counted(rows)} at the end of Ward's hierarchy in slice {z[rows[0]]}, the best of {len(found)} "
        f"slices, of {n} early candidates around the middle."
    )
    return Chosen(rows, why)


def _in_ellipse(x, y, ellipse):
    inside = 0
    for along, share in zip((x, y), ellipse, strict=True):
        middle, extent = (along.min() + along.max()) / 2, max(1, np.ptp(along))
        inside = inside + ((along - middle) / (share * extent)) ** 2
    return inside <= 1


def _remaining(series, rows):
    """Rows left after the smallest areas, the latest peaks and the roughest curves are gone."""
    for value, dropped in (
        (lambda some: -series.area[some], SMALLEST),
        (lambda some: series.first_pass[some].argmax(axis=1), LATEST),
        (lambda some: roughness_of(series.bolus[some]), ROUGHEST if series.dt <= SLOW_FRAMES else 0),
    ):
        kept = int(np.ceil(len(rows) * (1 - dropped / 100)))
        rows = rows[np.argsort(value(rows), kind="stable")[:kept]]
    if len(rows) > MOST_CURVES:
        rows = rows[np.argsort(-series.area[rows], kind="stable")[:MOST_CURVES]]
    return np.sort(rows)


def _branch(curves):
    """Positions of the 4-6 curves (n, T) at the end of the highest branch of Ward's tree."""
    from scipy.cluster.hierarchy import linkage, to_tree

    if len(curves) <= MOST:
        return np.arange(len(curves))
    # Ward's tree of a branch is the branch of Ward's tree: one tree serves all the cuts.
    node = to_tree(linkage(curves.astype(float), "ward"))
    while node.count > MOST:
        sides = (node.left, node.right)
        means = [curves[side.pre_order()].mean(axis=0) for side in sides]
        peaks, times = [mean.max() for mean in means], [mean.argmax() for mean in means]
        alike = abs(peaks[0] - peaks[1]) < SAME_PEAK * max(peaks) and times[0] != times[1]
        best = int(times[1] < times[0]) if alike else int(peaks[1] > peaks[0])
        if sides[best].count < FEWEST <= sides[1 - best].count:
            best = 1 - best
        node = sides[best]
    return np.sort(node.pre_order())
