"""Whether the voxels of a table lie where its scans have vessels, as the declared reading says.

Does contrast arrive at the voxel? And would another reading of the same numbers meet more of it?
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from perfkit import curves
from perfkit.case import Case
from perfkit.preprocessing import mean_curve
from perfkit.readings import Place, Reading, inside, listed

AIR = -200.0  # HU; our choice: below every tissue, fat included
NEAR_BRAIN_MM = 25.0  # our choice: the carotids and the torcular lie outside the brain mask, but near it
ENHANCES = 2.5  # noises; our choice: 1 in 200 curves of pure noise gets there, the weakest arteries do
SMOOTHING = 1.5  # s, as paper preprocessing smooths curves by default; our choice
ERROR_LEVEL = (
    0.01  # of the sign test between readings; our choice: beside a vessel curves are lower, so it rarely errs
)


@dataclass(frozen=True)
class Spot:
    """What a scan shows at a voxel.

    Parameters
    ----------
    baseline : before the contrast, HU.
    peak : of the smoothed curve, HU above baseline.
    contrast_to_noise : the peak over the noise of a frame.
    to_brain_mm : distance from the brain mask, 0 inside.
    """

    baseline: float
    peak: float
    contrast_to_noise: float
    to_brain_mm: float

    @property
    def astray(self) -> str:
        """Say why no vessel can be there; empty where one can."""
        if self.baseline < AIR:
            return f"in air of {self.baseline:.0f} HU"
        return f"{self.to_brain_mm:.0f} mm from the brain" if self.to_brain_mm > NEAR_BRAIN_MM else ""


def look(case: Case, voxels: Iterable[tuple[int, int, int]]) -> list[Spot]:
    """Say what a scan shows at voxels.

    Parameters
    ----------
    case : one scan, as measured.
    voxels : array indices inside it.

    Notes
    -----
    The curve at the voxel itself, smoothed in time only: neighbours would blur the step of one voxel that
    this is about.
    """
    from scipy.ndimage import gaussian_filter1d

    n = curves.n_baseline(mean_curve(case.ctp, case.brain), case.dt)
    brain = np.argwhere(case.brain) * case.spacing
    spots = []
    for voxel in voxels:
        curve = case.ctp[voxel].astype(float)
        baseline = float(curve[:n].mean())
        noise = np.median(np.abs(np.diff(curve, n=2))) / (0.6745 * np.sqrt(6))
        peak = float(gaussian_filter1d(curve - baseline, SMOOTHING / case.dt).max())
        to_brain = float(np.sqrt(((brain - voxel * case.spacing) ** 2).sum(axis=1).min()))
        spots.append(
            Spot(baseline, peak, peak / max(noise, 0.3), to_brain)
        )  # 0.3 HU: whole numbers' rounding
    return spots


class Witness:
    """Collects what the scans show at a table's voxels, under the declared reading and those beside it."""

    def __init__(self, name, declared: Reading):
        self.name = name
        self.declared = declared
        self.spots: dict[Reading, dict[Place, Spot]] = defaultdict(dict)

    def see(self, case: Case, places: list[Place]) -> None:
        """Look at one scan's voxels.

        Parameters
        ----------
        case : one scan, as measured.
        places : all of this scan, inside it as declared.
        """
        for reading in (self.declared, *self.declared.others):
            voxels = {place: reading.index(place.triple) for place in places}
            within = {place: voxel for place, voxel in voxels.items() if inside(voxel, case.ctp.shape)}
            self.spots[reading].update(zip(within, look(case, within.values()), strict=True))

    def judge(self) -> tuple[str, ...]:
        """Raise where the declared reading cannot be right; return what the reader should be told.

        Raises
        ------
        ValueError : voxels in air or far from the brain; no contrast at too many; another reading meets
            more contrast in so many scans that chance would seldom do it.
        """
        declared = self.spots[self.declared]
        astray = [f"{place} lies {spot.astray}" for place, spot in declared.items() if spot.astray]
        better = self._better()
        advice = f" {better}" if better else " Mend or delete these lines, or import without this check."
        if astray:
            raise ValueError(
                f"{self.name}: a vessel lies in or near the brain. Read with {self.declared}, {len(astray)} "
                f"of {len(declared)} voxels do not ({listed(astray)}).{advice}"
            )
        if better:
            raise ValueError(f"{self.name}: contrast must arrive at a picked voxel. {better}")
        return (*self._flat(declared), *self._doubts())

    def _flat(self, declared) -> tuple[str, ...]:
        flat = [str(place) for place, spot in declared.items() if spot.contrast_to_noise < ENHANCES]
        if not flat:
            return ()
        if len(flat) > len(declared) / 2:
            raise ValueError(
                f"{self.name}: contrast must arrive at a picked voxel. Read with {self.declared}, it does so "
                f"at {len(declared) - len(flat)} of {len(declared)}; not at {listed(flat)}. "
                + " ".join(self._doubts() or ("Is it the table of other scans?",))
            )
        return (f"No contrast is seen at {len(flat)} of {len(declared)} voxels: {listed(flat)}.",)

    def _better(self) -> str:
        """Say which other reading meets more contrast; empty where none clearly does."""
        from scipy.stats import binomtest

        for other, higher, unequal in self._duels():
            p = binomtest(higher, unequal, alternative="greater").pvalue if unequal else 1.0
            if p < ERROR_LEVEL:
                return (
                    f"The curves at the voxels peak higher with {other} than with {self.declared} in "
                    f"{higher} of {unequal} scans (sign test, p = {p:.2g}): "
                    f"try {other.option(self.declared)}."
                )
        return ""

    def _doubts(self) -> tuple[str, ...]:
        """Say where too few scans speak with one voice against the declared reading."""
        return tuple(
            f"In all {unequal} scans the curves at the voxels peak higher with {other} than with "
            f"{self.declared}. So few prove nothing: look at the picks."
            for other, higher, unequal in self._duels()
            if higher == unequal >= 2
        )

    def _duels(self):
        """Yield each other reading, in how many scans it peaks higher, and in how many it peaks elsewhere."""
        for other in self.declared.others:
            ours, theirs = self._peaks(other)
            yield other, int((theirs > ours).sum()), int((theirs != ours).sum())

    def _peaks(self, other: Reading):
        """Mean peak per scan under the declared and another reading, over the voxels inside under both."""
        sums = defaultdict(list)
        for place, spot in self.spots[self.declared].items():
            if place in self.spots[other]:
                sums[place.scan].append((spot.peak, self.spots[other][place].peak))
        means = [np.mean(pairs, axis=0) for pairs in sums.values()]
        return np.reshape(means, (-1, 2)).T
