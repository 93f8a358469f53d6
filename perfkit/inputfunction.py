"""An input function: its curve, where it comes from, and what to mind about it."""

from __future__ import annotations

import html
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from perfkit import curves, quality, recirculation


@dataclass(frozen=True, eq=False, repr=False)
class AIF:
    """An input function and where it comes from.

    Parameters
    ----------
    curve : (T,), HU above baseline.
    voxels : (n, 3), array indices of the voxels averaged; (0, 3) where there are none.
    dt : s.
    method : name of the method.
    notes : what the reader should be told, in sentences; what speaks against the curve among it.
    why : how the voxels were chosen, in one sentence.
    score : how many times more arterial it is than the mean curve of the brain (``quality.assess``).
    """

    curve: np.ndarray
    voxels: np.ndarray
    dt: float
    method: str
    notes: tuple[str, ...] = ()
    why: str = ""
    score: float = float("nan")

    @property
    def flagged(self) -> bool:
        """True where there is something to tell: look at it before you trust it."""
        return bool(self.notes)

    @property
    def peak(self) -> float:
        """Highest value, HU above baseline."""
        return float(self.curve.max())

    @property
    def time_to_peak(self) -> float:
        """Time of the highest value after the first frame, s."""
        return self.dt * int(self.curve.argmax())

    @property
    def area(self) -> float:
        """Area under the curve, HU s."""
        return float(self.curve.sum() * self.dt)

    @cached_property
    def fit(self):
        """Gamma variate fitted to the first pass; its ``reasons`` say where it is not plausible."""
        return curves.fit_gamma_variate(self.curve, self.dt)

    @cached_property
    def recirculation(self):
        """First pass, second pass and plateau of the curve, fitted together."""
        return recirculation.fit_recirculation(self.curve, self.dt)

    def _facts(self) -> dict[str, str]:
        facts = {"voxels": str(len(self.voxels)), "peak": f"{self.peak:.0f} HU at {self.time_to_peak:g} s"}
        if self.score == self.score:
            facts["score"] = f"{self.score:.1f} times as arterial as the mean curve of the brain"
        if self.why:
            facts["why"] = self.why
        return facts

    def __repr__(self) -> str:
        facts = self._facts()
        lines = [f"AIF({self.method}, {facts['voxels']} voxels, peak {facts['peak']})"]
        return "\n  ".join([*lines, *([self.why] if self.why else []), *self.notes])

    def _repr_html_(self) -> str:
        facts = self._facts() | ({"to mind": " ".join(self.notes)} if self.notes else {})
        left = "style='text-align:left'"
        rows = "".join(
            f"<tr><th {left}>{name}</th><td {left}>{html.escape(words)}</td></tr>"
            for name, words in facts.items()
        )
        return f"<table><caption><b>AIF, {html.escape(self.method)}</b></caption>{rows}</table>"


def voxel_aif(concentration, voxels, dt: float, method: str = "voxels") -> AIF:
    """Average the curves at picked voxels.

    Parameters
    ----------
    concentration : (X, Y, Z, T), HU above baseline.
    voxels : (n, 3), array indices.
    dt : s.
    method : name to put on the result.

    Raises
    ------
    ValueError : no voxel, or one outside the volume.
    """
    voxels = np.asarray(voxels, dtype=int).reshape(-1, 3)
    shape = np.shape(concentration)
    if not len(voxels):
        raise ValueError("An AIF needs at least one voxel: none was given. Pick one in an artery.")
    outside = ((voxels < 0) | (voxels >= shape[:3])).any(axis=1)
    if outside.any():
        raise ValueError(
            f"A voxel must lie inside the volume of {tuple(shape[:3])} voxels, counted from 0: "
            f"{voxels[outside][0].tolist()} does not. Is the table 1-based, or of another scan?"
        )
    return AIF(concentration[tuple(voxels.T)].mean(axis=0), voxels, dt, method)


def judged(aif: AIF, tissue, vof=None) -> AIF:
    """Give an input function its score, and add what speaks against it to its notes.

    Parameters
    ----------
    aif : from wherever.
    tissue : (T,), HU above baseline, mean curve of the brain.
    vof : (T,), HU above baseline, optional.
    """
    found = quality.assess(aif.curve, aif.dt, tissue=tissue, vof=vof)
    return replace(aif, score=found.score, notes=aif.notes + found.warnings)


def partial_volume_factor(aif: AIF, vof: AIF) -> float:
    """Area of the venous over the arterial curve; NaN where the venous curve ends above 30 % of its peak.

    Parameters
    ----------
    aif, vof : of the same scan.

    Notes
    -----
    Straka 2010; ``quality.area_factor``.
    """
    return quality.area_factor(aif.curve, vof.curve)


def corrected(aif: AIF, vof: AIF) -> AIF:
    """Undo the partial volume of an artery: scale it to the area of the venous curve.

    Parameters
    ----------
    aif, vof : of the same scan.

    Returns
    -------
    The AIF times ``partial_volume_factor``; unchanged, with a note, where the factor may not be trusted: the
    venous curve is cut off, or has less area than the artery, whose blood it should hold.
    """
    factor = partial_volume_factor(aif, vof)
    if factor > 1:
        words = f"It is scaled by {factor:.2f} to the area of the venous curve, to undo partial volume."
        return replace(
            aif, curve=aif.curve * np.asarray(factor, aif.curve.dtype), why=f"{aif.why} {words}".strip()
        )
    if quality.tail(vof.curve) > quality.MAX_TAIL:
        because = f"the venous curve ends at {quality.tail(vof.curve):.0%} of its peak, its area is cut off"
    else:
        because = "the venous curve has less area than it"
    return replace(aif, notes=(*aif.notes, f"Its partial volume is not corrected: {because}."))
