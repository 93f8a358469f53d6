"""Intervals for volumes from patients whose true volumes are known, and what they mean for a decision.

Split conformal prediction (Vovk 2005; Lei 2018): the errors of calibration patients, put in order, bound the
error of the next patient with a known probability, whatever the method is and however biased, as long as the
next patient is drawn as they were. It holds on average over patients, not for every size of lesion, unless
sizes are fitted apart (``groups``); ``coverage`` measures both. The unit is the patient. Two slabs of one
patient are not two draws, so their volumes are summed first.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perfkit import pages
from perfkit.eligibility import RULES, Rule, eligible

LEVEL = 0.90  # our choice: two of them, core and mismatch, then hold together in at least 80 %
SCALE_ML = 5.0  # our choice: below, errors count in ml, above in per cent
FORMAT = 1  # of the file
FURTHEST = 20.0  # half-widths of an interval; our choice: beyond, how far makes no difference
LIMITS = ("core volume", "mismatch ratio", "mismatch volume")


class Interval(NamedTuple):
    """Bounds and middle of volumes, ml: the middle is what was predicted less the usual error."""

    low: np.ndarray
    high: np.ndarray
    middle: np.ndarray


@dataclass(frozen=True)
class VolumeIntervals:
    """Conformal intervals for a volume; make them with ``fit`` or ``load``.

    Attributes
    ----------
    level : share of the patients whose true volume lies inside
    n : calibration patients
    low, high, middle : errors on the scale of ``scale_ml``, one per group: the two that bound the share, and
        the median
    edges : ml, predicted volumes that part the groups; one fewer than groups
    scale_ml : volumes v are compared as asinh(v / scale_ml)
    what : which volume, for the reader
    """

    level: float
    n: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    middle: tuple[float, ...]
    edges: tuple[float, ...] = ()
    scale_ml: float = SCALE_ML
    what: str = ""

    @classmethod
    def fit(cls, predicted_ml, true_ml, *, level=LEVEL, patient=None, groups=1, scale_ml=SCALE_ML, what=""):
        """Learn the usual errors of a method.

        Parameters
        ----------
        predicted_ml, true_ml : (n,), ml, 0 or more, of calibration patients that had no part in making the
            method
        level : share of the patients that the intervals are to hold
        patient : (n,) names, if there are several rows of a patient: their volumes are summed
        groups : number of parts, by predicted volume, that are fitted apart (Mondrian conformal prediction):
            the share then holds in each, at the price of intervals that jump at the edges
        scale_ml : ml, as in the class

        Returns
        -------
        VolumeIntervals

        Raises
        ------
        ValueError : volumes negative, not finite or of unequal number, or too few patients for the level.

        Notes
        -----
        With the n errors asinh(true/s) − asinh(predicted/s) in order, the interval reaches from the l-th to
        the (l + m)-th, m = ceil((n + 1) level) and l = (n + 1 − m) // 2: it holds a patient drawn alike with
        probability m/(n + 1), exactly if there are no ties and more often if there are. Both ends are taken
        from errors with their signs, so a biased method gets a displaced interval, not a wide one.
        """
        predicted, true = _summed(predicted_ml, true_ml, patient)
        if not 0 < level < 1:
            raise ValueError(f"The level is a share between 0 and 1: {level!r} came.")
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
            raise ValueError(f"groups is a whole number of at least 1: {groups!r} came.")
        if not scale_ml > 0:
            raise ValueError(f"scale_ml is a volume in ml above 0: {scale_ml!r} came.")
        edges = np.quantile(predicted, np.arange(1, groups) / groups)
        group = np.searchsorted(edges, predicted, side="right")
        errors = np.arcsinh(true / scale_ml) - np.arcsinh(predicted / scale_ml)
        ends = [_bounds(errors[group == number], level) for number in range(groups)]
        low, high, middle = (tuple(map(float, end)) for end in zip(*ends, strict=True))
        return cls(
            float(level), len(true), low, high, middle, tuple(map(float, edges)), float(scale_ml), what
        )

    def interval(self, predicted_ml) -> Interval:
        """Return the intervals for predicted volumes.

        Parameters
        ----------
        predicted_ml : (...,), ml, of whole patients

        Returns
        -------
        Interval of (...,), ml, never below 0; NaN where the prediction is
        """
        predicted = _volumes(predicted_ml, "Predicted volumes", nan=True)
        at = np.arcsinh(predicted / self.scale_ml)
        group = np.minimum(np.searchsorted(self.edges, predicted, side="right"), len(self.edges))
        errors = (np.asarray(end)[group] for end in (self.low, self.high, self.middle))
        return Interval(*(self.scale_ml * np.sinh(np.maximum(at + error, 0)) for error in errors))

    def save(self, path) -> Path:
        """Write the intervals as JSON; the file is whole or not there."""
        facts = {"made_by": "perfkit.conformal", "format": FORMAT, "unit": "patient", **asdict(self)}
        return pages.write(path, json.dumps(facts, indent=2) + "\n")

    @classmethod
    def load(cls, path):
        """Read what ``save`` wrote.

        Raises
        ------
        ValueError, OSError : naming the file, where it holds something else.
        """
        try:
            facts = json.loads(Path(path).read_text(encoding="utf-8"))
            if (facts.pop("made_by"), facts.pop("format")) != ("perfkit.conformal", FORMAT):
                raise ValueError("another kind or version of file")
            facts.pop("unit")
            found = cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in facts.items()})
            ends = np.array([found.low, found.middle, found.high], float)
            ordered = ends.shape == (3, len(found.edges) + 1) and (np.diff(ends, axis=0) >= 0).all()
            if not (0 < found.level < 1 and ordered and found.scale_ml > 0):
                raise ValueError("level or errors out of order")
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            raise ValueError(
                f"{path}: conformal intervals must be JSON as VolumeIntervals.save writes it; {problem}. "
                "Fit and save them again."
            ) from None
        return found


def _bounds(errors, level):
    """The errors that hold the share between them, and their median."""
    n = len(errors)
    inside = int(np.ceil(round((n + 1) * level, 9)))  # rounded: 10 × .9 is not 9.000000000000002
    below = (n + 1 - inside) // 2
    if below < 1:
        least = int(np.ceil(2 / (1 - level) - 1e-9)) - 1
        raise ValueError(
            f"An interval with two ends at level {level:g} needs about {least} calibration patients in each "
            f"group: {n} came. Take more, fewer groups, or a lower level."
        )
    errors = np.sort(errors)
    return errors[below - 1], errors[below + inside - 1], np.median(errors)


@dataclass(frozen=True)
class Decision:
    """What volumes with intervals mean for a rule; all (...,).

    Attributes
    ----------
    eligible : bool, by the middles of the intervals; False where a volume is not known
    certain : bool, the rule says the same everywhere inside both intervals
    margin : how far, in half-widths of the intervals, both volumes must go together before the rule says
        otherwise: above 1 it is certain; ``FURTHEST`` where nothing within that changes it,
        NaN where a volume is not known
    limit : which criterion turns it, one of ``LIMITS``; "" where none does
    """

    eligible: np.ndarray
    certain: np.ndarray
    margin: np.ndarray
    limit: np.ndarray


def decide(core: Interval, mismatch: Interval, rule="DEFUSE 3", *, scale_ml: float = SCALE_ML) -> Decision:
    """Decide who is eligible, and say whether the volumes' intervals leave it open.

    Parameters
    ----------
    core, mismatch : Interval of (...,), ml; the mismatch is the hypoperfusion outside the core
    rule : name in ``eligibility.RULES``, or a ``Rule``
    scale_ml : ml; distances count as asinh(v / scale_ml), on which the intervals have one width

    Returns
    -------
    Decision

    Notes
    -----
    Every criterion is harder to meet with a larger core and easier with a larger mismatch, so two corners of
    the rectangle decide for all of it. Two intervals of level 1 − α hold both volumes in 1 − 2α of the
    patients at least (Bonferroni), so at most 2α of all patients are certain and wrong; of the certain ones
    alone it may be more. Fit them at .95 where .90 is wanted.
    """
    if isinstance(rule, str) and rule not in RULES:
        raise ValueError(f"The rule is one of {', '.join(RULES)}: {rule!r} came. Or give a Rule.")
    rule = rule if isinstance(rule, Rule) else RULES[rule]
    core, mismatch = (_on_scale(volumes, scale_ml) for volumes in (core, mismatch))

    def corner(t, up):
        """Volumes of the corner that favours treatment (up) or does not, of intervals t times as wide."""
        ends = [_towards(core, t, np.logical_not(up)), _towards(mismatch, t, up)]
        return [scale_ml * np.sinh(np.maximum(end, 0)) for end in ends]

    def says(t, up):
        core_ml, mismatch_ml = corner(t, up)
        return eligible(core_ml, core_ml + mismatch_ml, rule) > 0

    now = says(0.0, True)
    low, high = np.zeros(now.shape), np.full(now.shape, FURTHEST)
    turns = says(high, ~now) != now
    for _ in range(50):
        middle = (low + high) / 2
        same = says(middle, ~now) == now
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    margin = np.where(turns, high, FURTHEST)
    # the criterion that fails on one side of the turn and holds on the other
    failing = _failed(*corner(np.where(now, high, low), ~now), rule)
    limit = np.where(turns, np.array(LIMITS)[np.argmax(failing, axis=0)], "")
    known = ~np.isnan(np.stack([*core, *mismatch])).any(axis=0)
    certain = known & (says(1.0, True) == says(1.0, False))
    return Decision(now, certain, np.where(known, margin, np.nan), limit)


def _failed(core_ml, mismatch_ml, rule):
    """(3, ...) bool: which of ``LIMITS`` are not met."""
    total = core_ml + mismatch_ml
    only = [
        Rule(rule.core_below_ml, -np.inf, -np.inf, rule.strict),
        Rule(np.inf, rule.ratio, -np.inf, rule.strict),
        Rule(np.inf, -np.inf, rule.mismatch_ml, rule.strict),
    ]
    return np.stack([~(eligible(core_ml, total, one) > 0) for one in only])


def _on_scale(interval, scale_ml):
    return [np.arcsinh(np.asarray(volumes, float) / scale_ml) for volumes in interval]


def _towards(interval, t, up):
    low, high, middle = interval
    return middle + t * np.where(up, high - middle, low - middle)


def _summed(predicted, true, patient):
    """One predicted and one true volume for each patient."""
    predicted, true = _volumes(predicted, "Predicted volumes"), _volumes(true, "True volumes")
    if predicted.ndim != 1 or predicted.shape != true.shape:
        raise ValueError(
            f"Predicted and true volumes must be two lists of one length: {predicted.shape} and "
            f"{true.shape} came."
        )
    if patient is None:
        return predicted, true
    if np.shape(patient) != true.shape:
        raise ValueError(f"Each volume needs its patient: {len(true)} volumes, {np.shape(patient)} came.")
    _, at = np.unique(np.asarray(patient), return_inverse=True)
    return np.bincount(at, predicted), np.bincount(at, true)


def _volumes(values, name, nan=False):
    values = np.asarray(values, float)
    wrong = (values < 0) | np.isinf(values) | (np.isnan(values) & (not nan))
    if wrong.any():
        raise ValueError(f"{name} are ml, 0 or more, all known: {values[wrong].flat[0]:g} came.")
    return values
