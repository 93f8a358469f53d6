"""Places worth a click: arteries in distinct vessels, found by the automatic methods, and one vein.

A method's voxels often lie in several vessels, and several methods in one. Their voxels are taken together;
the best is suggested, everything within 15 mm of it, across slices too, belongs to the same vessel, and the
next best lies outside. A number once given keeps its place while further methods come in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from perfkit import aif, arteries, quality

METHODS = ("straka", "mouridsen", "shi", "rausch", "peruzzo", "murase")  # the fastest first
APART_MM = 15.0  # our choice: between the two middle cerebral arteries lie 40-60 mm, from M1 to M2 20
COUNT = 5
WORTH = 0.5  # of the first suggestion's score; our choice: on phantoms most below are no arteries


@dataclass(frozen=True, eq=False)
class Suggestion:
    """A place to click.

    Parameters
    ----------
    number : from 1; the vein has the last.
    voxel : (x, y, z), the most arterial voxel of the place, or the highest of the vein.
    voxels : (n, 3), the voxels around it that are as high; their mean curve is the suggestion.
    methods : the methods that chose voxels there; ``("vof",)`` for the vein.
    kind : "aif" or "vof".
    score : how many times more arterial than the mean curve of the brain; NaN for the vein.
    why : in a sentence.
    """

    number: int
    voxel: tuple[int, int, int]
    voxels: np.ndarray
    methods: tuple[str, ...]
    kind: str
    score: float
    why: str


class Suggestions(tuple):
    """Suggestions in the order of their numbers; ``reasons`` says of each method left out why."""

    reasons: dict[str, str]

    def __new__(cls, items=(), reasons=None):
        """Make the tuple and note the reasons."""
        made = super().__new__(cls, items)
        made.reasons = dict(reasons or {})
        return made


def suggest(case, *, n: int = COUNT, methods=METHODS, apart_mm: float = APART_MM) -> Suggestions:
    """Suggest places for the AIF in distinct vessels, and one for the VOF.

    Parameters
    ----------
    case : prepared scan, or Case.
    n : arteries at most.
    methods : names of ``aif.METHODS``, in this order.
    apart_mm : mm between two suggestions, at least.

    Returns
    -------
    Suggestions, the vein last; ``reasons`` names the methods that found nothing.

    Raises
    ------
    ValueError : a brain without enhancement, or no method finds an artery; the reasons are told.
    """
    for found in iter_suggestions(case, n=n, methods=methods, apart_mm=apart_mm):
        last = found
    return last


def iter_suggestions(
    case, *, n: int = COUNT, methods=METHODS, apart_mm: float = APART_MM
) -> Iterator[Suggestions]:
    """Yield the suggestions found so far after each method, and with the vein at the end.

    Parameters
    ----------
    case, n, methods, apart_mm : as for ``suggest``.

    Yields
    ------
    Suggestions; each holds the former at the same numbers, with more methods and more places.
    """
    methods = _checked(n, methods, apart_mm)
    series = aif.brain_curves(case)
    places = _Places(series, np.asarray(case.spacing, float), n, apart_mm)
    reasons: dict[str, str] = {}
    for method in methods:
        try:
            chosen = aif.METHODS[method](series)
            places.add(method, chosen.rows)
        except ValueError as error:
            reasons[method] = str(error)
        if places.found:
            yield Suggestions(places.found, reasons)
    if not places.found:
        told = " ".join(f"{method}: {reason}" for method, reason in reasons.items())
        raise ValueError(f"No method finds an artery that arrives before the tissue. {told}".strip())
    try:
        yield Suggestions([*places.found, places.vein()], reasons)
    except ValueError as error:
        yield Suggestions(places.found, reasons | {"vof": str(error)})


class _Places:
    """Suggestions found so far, at distinct places."""

    def __init__(self, series, spacing, n, apart_mm):
        self.series, self.spacing, self.n, self.apart_mm = series, spacing, n, apart_mm
        self.found: list[Suggestion] = []

    def add(self, method, rows):
        """Name the method where its voxels are suggested already, and suggest what lies elsewhere."""
        rows = self.series.early(np.asarray(rows))
        for i, place in enumerate(self.found):
            if (self._mm(rows, place.voxel) <= self.apart_mm / 2).any():
                self.found[i] = replace(place, methods=(*place.methods, method))
            rows = rows[self._mm(rows, place.voxel) > self.apart_mm]
        scores = self.series.m_values(self.series.first_pass[rows])
        while len(rows) and len(self.found) < self.n:
            best = tuple(int(i) for i in self.series.voxels[rows[scores.argmax()]])
            place = self._place(best, rows[scores.argmax()], rows, method)
            apart = self._mm(rows, best) > self.apart_mm
            rows, scores = rows[apart], scores[apart]
            least = WORTH * self.found[0].score if self.found else quality.MIN_SCORE
            if place.score >= max(least, quality.MIN_SCORE):
                self.found.append(place)

    def vein(self) -> Suggestion:
        """The vein of the best artery; ValueError where none is found."""
        first = self.found[0]
        artery = self.series.curves[self._rows(first.voxels)].mean(axis=0)
        vof = aif.find_vof(self.series, aif.AIF(artery, first.voxels, self.series.dt, first.methods[0]))
        against = set(vof.notes) - set(quality.truncation(vof.curve))  # a vein cut short is still one
        if against:
            raise ValueError(" ".join(note for note in vof.notes if note in against))
        rows = self._rows(vof.voxels)
        best = rows[self.series.height[rows].argmax()]
        voxel = tuple(int(i) for i in self.series.voxels[best])
        place = self._place(voxel, best, rows, "vof")
        return replace(place, kind="vof", score=float("nan"), why=" ".join([vof.why, *vof.notes]))

    def _place(self, voxel, best, rows, method):
        """Suggestion at a voxel, with the method's voxels near it that are nearly as high and touch."""
        height = self.series.height
        near = rows[(self._mm(rows, voxel) <= self.apart_mm / 2)]
        near = near[height[near] >= arteries.GROWTH_LEVEL * height[best]]
        labels = arteries.components(self.series, near)
        near = near[labels == labels[np.flatnonzero(near == best)[0]]]
        voxels = self.series.voxels[near]
        curve = self.series.curves[near].mean(axis=0)
        score = quality.arterial_score(curve, self.series.mean, self.series.dt)
        why = f"{curve.max():.0f} HU, {score:.1f} times as arterial as the mean curve of the brain."
        if curve.max() < quality.WEAK_PEAK:
            why += f" Weak: an artery reaches {quality.WEAK_PEAK:g} HU."
        return Suggestion(len(self.found) + 1, voxel, voxels, (method,), "aif", score, why)

    def _mm(self, rows, voxel):
        return np.linalg.norm((self.series.voxels[rows] - voxel) * self.spacing, axis=1)

    def _rows(self, voxels):
        grid = np.full(self.series.shape, -1)
        grid[tuple(self.series.voxels.T)] = np.arange(len(self.series.voxels))
        return grid[tuple(np.asarray(voxels).T)]


def _checked(n, methods, apart_mm):
    arteries.check_count("n", n, 1)
    methods = (methods,) if isinstance(methods, str) else tuple(methods)
    unknown = [method for method in methods if method not in aif.METHODS] or ["none"] * (not methods)
    if unknown:
        raise ValueError(f"The methods must be some of {', '.join(aif.METHODS)}: {unknown[0]!r} came.")
    if not apart_mm > 0:
        raise ValueError(f"apart_mm must be above 0 mm: {apart_mm!r} came.")
    return methods
