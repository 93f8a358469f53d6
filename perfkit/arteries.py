"""Straka's rule: find the voxels of an artery, or of a vein, among the curves of the brain.

Straka et al. 2010, J Magn Reson Imaging 32:1024, the selection behind RAPID. On curves filtered by a median
of three frames: peak h, arrival a (last sample before the peak at or below 20 % of it), width w (time above
half the peak). Plausible curves (3 frames <= w <= 25 s, minimum above -.3 h) among the highest 5 % are scored
by z(h) - 3.5 z(a) - z(w) for an artery and z(h) + .5 z(a) - .5 z(w) for a vein. Of the best fifth, the
26-connected cluster of at least three voxels is taken whose three best voxels score highest (ours: "best" is
not defined), and grown around its best voxel to all that reach .6 of that voxel's peak.

Ours as well: the first pass ends 12 s after the median curve of the brain peaks. A head that moves later puts
bone where brain was, and such curves would pass for arteries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from perfkit import curves as _curves

PERCENTILE = 95.0  # Straka 2010: candidates, by peak, among the voxels of the brain
ARRIVAL_LEVEL = 0.2  # Straka 2010: of the peak
MIN_WIDTH = 3  # frames; Straka 2010
MAX_WIDTH = 25.0  # s; published 15 s, but a fifth of the arterial curves of ISLES 2018 are wider
MAX_UNDERSHOOT = 0.3  # Straka 2010: of the peak
BEST_SHARE = 0.2  # Straka 2010: of the candidates, by score
MIN_CLUSTER = 3  # Straka 2010: voxels that touch
GROWTH_LEVEL = 0.6  # Straka 2010: of the seed's peak
FIRST_PASS = 12.0  # s after the brain's median curve peaks; our choice: the vein peaks within 8 s, see above
# s; our choice: of longer frames a bolus of 8 s fills a few, so there is no median or least width, a curve
# arrives between frames, and a cluster must still have three voxels when it is grown
SLOW_FRAMES = 1.5
GROWTH_DELAY = 1.0  # s; our choice: a vein beside the artery is as high, but arrives later

CACHED_ROWS = 4096  # our choice: curves filtered at once, so that they stay in the processor's cache
TYPICAL_VOXELS = 10_000  # our choice: their median is as good as that of all, in a tenth of the time

Weights = tuple[float, float, float]  # of the standardised peak, arrival and width
ARTERIAL: Weights = (1.0, -3.5, -1.0)  # Straka 2010: high, early, narrow
VENOUS: Weights = (1.0, 0.5, -0.5)  # Straka 2010: high, late

# What is given up, one after the other, where nothing satisfies the rule. Our choice: the publication stops.
RELAXATIONS = (
    ("", {}),
    ("the highest 10 % of the brain were searched instead of 5 %", {"percentile": 90.0}),
    ("the highest 20 % of the brain were searched instead of 5 %", {"percentile": 80.0}),
    (f"fewer than {MIN_CLUSTER} voxels touch", {"smallest": 1}),
    (f"no curve has the shape of a first pass, and fewer than {MIN_CLUSTER} voxels touch",
     {"smallest": 1, "any_shape": True}),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class BrainCurves:
    """Curves of the voxels of a brain, and what all methods ask of them.

    Parameters
    ----------
    curves : (V, T), HU above baseline.
    voxels : (V, 3), array indices.
    shape : (3,), of the volume.
    dt : s.
    """

    curves: np.ndarray
    voxels: np.ndarray
    shape: tuple[int, ...]
    dt: float

    @cached_property
    def smooth(self):
        """(V, T): filtered by a median of three frames."""
        return filtered(self.curves, self.dt)

    @cached_property
    def first_pass(self):
        """(V, T'): the filtered curves up to 12 s after the median curve of the brain peaks."""
        typical = np.median(self.smooth[:: max(1, len(self.smooth) // TYPICAL_VOXELS)], axis=0)
        return self.smooth[:, : int(typical.argmax()) + 1 + round(FIRST_PASS / self.dt)]

    @cached_property
    def bolus(self):
        """(V, T"): the first pass from shortly before the onset; frames earlier hold noise alone."""
        first = min(int((self.onset - _curves.BASELINE_GUARD) / self.dt), self.first_pass.shape[1] - 3)
        return self.first_pass[:, max(0, first) :]

    @cached_property
    def mean(self):
        """(T,): mean curve of the brain."""
        return self.curves.mean(axis=0)

    @cached_property
    def onset(self) -> float:
        """When the first arteries fill, s: two seconds before the mean curve rises."""
        return max(0.0, _curves.bolus_onset(self.mean, self.dt) - _curves.BASELINE_GUARD)

    @cached_property
    def height(self):
        """(V,): peak of the first pass, HU."""
        return self.first_pass.max(axis=1)

    @cached_property
    def area(self):
        """(V,): area under the first pass from shortly before the onset, HU s."""
        return self.bolus.sum(axis=1) * np.float32(self.dt)

    def above(self, values, percentile: float):
        """Rows whose values (V,) reach a percentile of the brain and that rise at all."""
        enhance = (values > 0) & (self.height > 0)
        return np.flatnonzero(enhance & (values >= np.percentile(values, percentile)))

    def early(self, rows):
        """Those of some rows whose curves arrive no later than the mean curve of the brain: no veins."""
        n = self.first_pass.shape[1]
        limit = _curves.arrival_time(filtered(self.mean, self.dt)[:n], self.dt)
        return rows[_curves.arrival_time(self.first_pass[rows], self.dt) <= limit]

    def m_values(self, some):
        """(n,): peak / (time to peak since the onset × FWHM) of curves (n, T'), HU/s² (Yin et al. 2014)."""
        height = some.max(axis=1)
        rise = np.maximum(_curves.time_to_peak(some, self.dt) - self.onset, self.dt)
        width = _curves.full_width_half_maximum(some, self.dt)
        seen = (some > height[:, None] / 2).sum(axis=1) * self.dt
        return height / (rise * np.where(np.isfinite(width), width, np.maximum(seen, self.dt)))

    def most_arterial(self, means) -> int:
        """Position of the highest of the mean curves (n, T') within 1 s, or a frame, of the earliest."""
        arrival = np.nan_to_num(_curves.arrival_time(means, self.dt), nan=np.inf)
        among = arrival <= arrival.min() + max(GROWTH_DELAY, self.dt)
        return int(np.argmax(np.where(among, means.max(axis=1), -np.inf)))


@dataclass(frozen=True, eq=False)
class Chosen:
    """Voxels a method chose: their ``rows`` (n,) in ``BrainCurves``, why in one sentence, and notes."""

    rows: np.ndarray
    why: str
    notes: tuple[str, ...] = ()


def straka(series: BrainCurves, *, percentile: float = PERCENTILE) -> Chosen:
    """Take the best cluster of high, early and narrow curves.

    Parameters
    ----------
    series : curves of the brain.
    percentile : of the peaks of the brain above which voxels are candidates.

    Notes
    -----
    Straka et al. 2010; the head of this module gives the rule. Ours: the growth stops at voxels that arrive
    over 1 s later, and ``RELAXATIONS`` say what is given up where nothing satisfies the rule.
    """
    check_percentages(percentile=percentile)
    rows, relaxed = find_cluster(series, ARTERIAL, percentile=percentile)
    why = (
        f"{counted(rows)} that touch, grown around the best score for high, early and narrow among the "
        f"highest {100 - percentile:g} % of {len(series.curves)} voxels."
    )
    return Chosen(rows, why, (f"Straka's rule had to be relaxed: {relaxed}.",) if relaxed else ())


def counted(rows, what: str = "voxel") -> str:
    """Return "1 voxel" or "7 voxels"."""
    return f"{len(rows)} {what}{'s' * (len(rows) != 1)}"


def check_percentages(**values) -> None:
    """Raise ValueError in words where one of the named values is not between 0 and 100."""
    for name, value in values.items():
        if not isinstance(value, int | float | np.number) or not 0 <= value <= 100:
            raise ValueError(f"{name} is in per cent and lies between 0 and 100: {value!r} came.")


def check_count(name: str, value, least: int) -> None:
    """Raise ValueError in words where a value is not a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}: {value!r} came.")


def find_cluster(
    series: BrainCurves, weights: Weights = ARTERIAL, *, percentile=PERCENTILE, earliest=-np.inf
):
    """Choose voxels by Straka's rule, relaxed step by step where nothing satisfies it.

    Parameters
    ----------
    series : curves of the brain.
    weights : of the standardised peak, arrival and width: ``ARTERIAL`` or ``VENOUS``.
    percentile : of the peaks of the brain above which voxels are candidates.
    earliest : s, arrival before which no voxel is taken.

    Returns
    -------
    rows : (n,), indices of the chosen voxels in ``series``; empty where nothing enhances.
    relaxed : what was given up; empty where the rule holds as published.
    """
    strict = {"percentile": percentile, "smallest": MIN_CLUSTER, "any_shape": False, "earliest": earliest}
    for what, relaxed in RELAXATIONS:
        rows = _cluster(series, weights, **(strict | relaxed))
        if len(rows):
            return rows, what
    return rows, ""


def filtered(curves, dt: float):
    """Median of each sample of (…, T) and its two neighbours; the ends, and slow series, stay as they are."""
    if dt > SLOW_FRAMES:
        return curves
    out = curves.copy()
    flat, middle = curves.reshape(-1, curves.shape[-1]), out.reshape(-1, curves.shape[-1])[:, 1:-1]
    for start in range(0, len(flat), CACHED_ROWS):
        rows = slice(start, start + CACHED_ROWS)
        a, b, c = flat[rows, :-2], flat[rows, 1:-1], flat[rows, 2:]
        np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c), out=middle[rows])
    return out


def arrival_frame(smooth, height):
    """Frame (n,) of the last sample of (n, T) before the peak at or below 20 % of it, else 0."""
    frames = np.arange(smooth.shape[1])
    low = (smooth <= ARRIVAL_LEVEL * height[:, None]) & (frames < smooth.argmax(axis=1)[:, None])
    return np.where(low, frames, 0).max(axis=1)


def arrivals(smooth, height, dt: float):
    """Arrival (n,), s, of filtered curves (n, T): Straka's frame, or between frames where they are long."""
    if dt <= SLOW_FRAMES:
        return arrival_frame(smooth, height) * dt
    return np.nan_to_num(_curves.arrival_time(smooth, dt))


def _cluster(series, weights, *, percentile, smallest, any_shape, earliest):
    rows, features = _candidates(series, percentile, any_shape, earliest)
    if len(rows) < smallest:
        return rows[:0]
    score = sum(w * _standardised(f) for w, f in zip(weights, features, strict=True))
    best = np.flatnonzero(score >= np.quantile(score, 1 - BEST_SHARE))
    least = smallest if series.dt > SLOW_FRAMES else 1
    for group in _components_by_score(series, rows[best], score[best], smallest):
        members = best[group]
        grown = _grown(series, rows, features, seed=members[score[members].argmax()])
        if len(grown) >= least:
            return rows[grown]
    return rows[:0]


def _candidates(series, percentile, any_shape, earliest):
    """Rows of the plausible candidates, and their peak (HU), arrival (s) and width (s)."""
    height = series.first_pass.max(axis=1)
    rows = np.flatnonzero((height >= np.percentile(height, percentile)) & (height > 0))
    smooth, height = series.first_pass[rows], height[rows]
    arrival = arrivals(smooth, height, series.dt)
    width = (smooth > height[:, None] / 2).sum(axis=1) * series.dt
    plausible = arrival >= earliest
    if not any_shape:
        least = MIN_WIDTH * series.dt if series.dt <= SLOW_FRAMES else 0
        plausible &= (width >= least) & (width <= MAX_WIDTH)
        plausible &= smooth.min(axis=1) > -MAX_UNDERSHOOT * height
    return rows[plausible], tuple(f[plausible] for f in (height, arrival, width))


def _components_by_score(series, rows, score, smallest: int):
    """Positions in ``rows`` of the connected clusters, the one with the best three voxels first."""
    labels = components(series, rows)
    groups = [np.flatnonzero(labels == label) for label in range(1, labels.max(initial=0) + 1)]
    groups = [group for group in groups if len(group) >= smallest]
    return sorted(groups, key=lambda group: np.sort(score[group])[-MIN_CLUSTER:].mean(), reverse=True)


def _grown(series, rows, features, seed: int):
    """Positions in ``rows`` connected to the seed through voxels as high and as early."""
    height, arrival, _ = features
    similar = (height >= GROWTH_LEVEL * height[seed]) & (arrival <= arrival[seed] + GROWTH_DELAY)
    positions = np.flatnonzero(similar)
    labels = components(series, rows[positions])
    return positions[labels == labels[np.searchsorted(positions, seed)]]


def components(series: BrainCurves, rows):
    """Label (n,), from 1, of the 26-connected component each of the voxels ``rows`` belongs to."""
    voxels = series.voxels[rows]
    if not len(voxels):
        return np.zeros(0, int)
    first = voxels.min(axis=0)
    mask = np.zeros(np.ptp(voxels, axis=0) + 1, bool)  # their box: labelling all of the volume takes longer
    where = tuple((voxels - first).T)
    mask[where] = True
    return ndimage.label(mask, structure=np.ones((3, 3, 3)))[0][where]


def _standardised(values):
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))
