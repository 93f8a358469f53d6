"""How a score ranks the voxels inside a mask above the others: one sort for AUC, ROC and threshold curves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ranking:
    """The scores of two classes of voxels, each in rising order; a higher score means inside.

    Attributes
    ----------
    inside : (n,), scores of the reference mask's voxels
    outside : (m,), scores of the others
    """

    inside: np.ndarray
    outside: np.ndarray

    @classmethod
    def of(cls, reference, score) -> Ranking:
        """Sort a score by class.

        Parameters
        ----------
        reference : (...) bool
        score : (...), real numbers; ±inf are ranks like others

        Raises
        ------
        ValueError : score has NaN.
        """
        if np.issubdtype(score.dtype, np.floating) and np.isnan(score).any():
            raise ValueError(
                f"Scores must be numbers: {int(np.isnan(score).sum())} of {score.size} are NaN. "
                "Leave voxels outside the brain out, or give them the lowest score."
            )
        return cls(np.sort(score[reference]), np.sort(score[~reference]))

    @classmethod
    def joined(cls, parts: Iterable[Ranking]) -> Ranking:
        """Count the voxels of several rankings as one set."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        classes = ([getattr(part, name) for part in parts] for name in ("inside", "outside"))
        return cls(*(np.sort(np.concatenate(values)) for values in classes))

    @property
    def one_class(self) -> bool:
        """Whether one of the classes is empty, so that there is nothing to rank."""
        return not (self.inside.size and self.outside.size)

    def auc(self) -> float:
        """Return P(inside above outside) + P(equal) / 2, the area under the ROC curve; NaN with one class.

        That is the Mann-Whitney U statistic over the number of pairs.
        """
        if self.one_class:
            return float("nan")
        below = np.searchsorted(self.outside, self.inside, side="left").sum(dtype=np.int64)
        not_above = np.searchsorted(self.outside, self.inside, side="right").sum(dtype=np.int64)
        return float((below + not_above) / (2 * self.inside.size * self.outside.size))

    def roc(self, rates):
        """Read the ROC curve at given false positive rates.

        Parameters
        ----------
        rates : (n,), 0…1

        Returns
        -------
        (n,), the highest sensitivity at each rate, linear between the rates that cut-offs give (Fawcett 2006,
        vertical averaging); NaN with one class
        """
        rates = np.asarray(rates, float)
        if self.one_class:
            return np.full(rates.shape, np.nan)
        wanted = rates * self.outside.size
        # A cut-off lets equal scores pass together: the ends of such a group are the counts there are.
        whole = np.minimum(wanted.astype(np.int64), self.outside.size - 1)
        level = self.outside[::-1][whole]
        fewer = self.outside.size - np.searchsorted(self.outside, level, side="right")
        more = self.outside.size - np.searchsorted(self.outside, level, side="left")
        at_fewer, at_more = self._highest(fewer), self._highest(more)
        return at_fewer + (at_more - at_fewer) * (wanted - fewer) / (more - fewer)

    def _highest(self, false_positives):
        """Sensitivity of the lowest cut-off that lets so many of the outside pass: above the next of them."""
        following = self.outside[::-1][np.minimum(false_positives, self.outside.size - 1)]
        passed = self.inside.size - np.searchsorted(self.inside, following, side="right")
        return np.where(false_positives < self.outside.size, passed, self.inside.size) / self.inside.size

    def above(self, cutoffs):
        """Count the voxels of each class whose score is above each cut-off.

        Parameters
        ----------
        cutoffs : (n,), compared in the precision of the scores

        Returns
        -------
        inside, outside : (n,) int
        """
        cutoffs = np.asarray(cutoffs).astype(self.inside.dtype)
        return tuple(
            values.size - np.searchsorted(values, cutoffs, side="right")
            for values in (self.inside, self.outside)
        )

    def dice(self, cutoffs):
        """Compute the Dice coefficient of {score > cut-off} for many cut-offs at once.

        Parameters
        ----------
        cutoffs : (n,)

        Returns
        -------
        (n,); 1 where both masks are empty
        """
        hit, false = self.above(cutoffs)
        total = hit + false + self.inside.size
        return np.divide(2.0 * hit, total, out=np.ones(np.shape(total)), where=total > 0)
