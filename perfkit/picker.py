"""Pick an AIF by hand: the state first, its drawing in the browser second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perfkit import annotations, curves
from perfkit.aif import AIF, voxel_aif

KINDS = ("aif", "vof")


class AIFPicker:
    """The voxels one rater picks in one case, with undo; works without a browser.

    Parameters
    ----------
    case : prepared scan, or Case (then the curves are taken as measured, not smoothed).
    rater : name of the rater; needed to save where ``path`` is not given.
    path : CSV file of the rater's picks (``annotations.rater_file`` names it); needed to save.

    Examples
    --------
    >>> picker = AIFPicker(case, rater="mh", path="data/aif/isles/mh.csv")  # doctest: +SKIP
    >>> picker.pick(101, 88, 3)  # doctest: +SKIP
    >>> picker.save()  # doctest: +SKIP
    """

    def __init__(self, case, rater: str = "", path: str | Path | None = None):
        self.id, self.dt, self.affine, self.brain = case.id, case.dt, case.affine, case.brain
        self.concentration, self.baseline = _series(case)
        self.path = None if path is None else Path(path)
        self.rater = rater or (self.path.stem if self.path else "")
        self.comment = ""
        self.saved = True
        self._states = [{"aif": (), "vof": ()}]
        self._now = 0
        self._view = None

    @property
    def voxels(self) -> tuple[annotations.Voxel, ...]:
        """AIF voxels (x, y, z) in the order they were picked."""
        return self._states[self._now]["aif"]

    @property
    def vof_voxels(self) -> tuple[annotations.Voxel, ...]:
        """VOF voxels (x, y, z) in the order they were picked."""
        return self._states[self._now]["vof"]

    @property
    def aif(self) -> AIF | None:
        """Mean curve of the AIF voxels; None before the first pick."""
        return self._mean("aif")

    @property
    def vof(self) -> AIF | None:
        """Mean curve of the VOF voxels; None before the first pick."""
        return self._mean("vof")

    def pick(self, x: int, y: int, z: int, kind: str = "aif") -> AIFPicker:
        """Add a voxel, or take it away where it was picked before.

        Parameters
        ----------
        x, y, z : array indices of the voxel.
        kind : ``"aif"`` or ``"vof"``.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be 'aif' or 'vof': {kind!r} came.")
        (voxel,) = annotations.Pick(self.id, ((x, y, z),)).voxels
        shape = self.brain.shape
        if any(i >= n for i, n in zip(voxel, shape, strict=True)):
            raise ValueError(f"A voxel must lie inside the volume of {shape} voxels: {voxel} does not.")
        held = self._states[self._now][kind]
        voxels = tuple(v for v in held if v != voxel) if voxel in held else (*held, voxel)
        return self._change({kind: voxels})

    def clear(self) -> AIFPicker:
        """Take all voxels away; undo brings them back."""
        return self._change({"aif": (), "vof": ()})

    def undo(self) -> AIFPicker:
        """Go one step back, if there is one."""
        return self._go(self._now - 1)

    def redo(self) -> AIFPicker:
        """Go one step forward again, if there is one."""
        return self._go(self._now + 1)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to go back."""
        return self._now > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is an undone step."""
        return self._now < len(self._states) - 1

    def save(self, comment: str | None = None) -> Path:
        """Append the pick to the rater's file; it is on disk when this returns.

        Parameters
        ----------
        comment : free text; default: ``self.comment``.

        Returns
        -------
        Path of the file.
        """
        if self.path is None:
            raise ValueError("A pick needs a file to be saved in: give path= when making the AIFPicker.")
        self.comment = self.comment if comment is None else comment
        pick = annotations.Pick(self.id, self.voxels, self.vof_voxels, comment=self.comment)
        annotations.append(self.path, pick)
        self.saved = True
        self._redraw()
        return self.path

    def load(self) -> bool:
        """Take over the rater's latest pick of this case; returns whether there is one."""
        if self.path is None or not self.path.exists():
            return False
        pick = annotations.latest(self.path).get(self.id)
        if pick is None:
            return False
        voxel_aif(self.concentration, [*pick.voxels, *pick.vof_voxels], self.dt)  # refuses foreign voxels
        self._change({"aif": pick.voxels, "vof": pick.vof_voxels})
        self.comment, self.saved = pick.comment, True
        self._redraw()
        return True

    @property
    def summary(self) -> str:
        """Say in a line what was picked and how good it looks."""
        if self.aif is None:
            return "No AIF voxel yet: click into an artery, early, high and narrow."
        n = len(self.voxels)
        if not self.aif.curve.any():
            return f"AIF of {n} voxel{'s' * (n != 1)} outside the brain mask: there is no curve here."
        arrival = float(curves.arrival_time(self.aif.curve, self.dt))
        width = curves.full_width_half_maximum(self.aif.curve, self.dt)
        shape = f"arrives {arrival:.1f} s, peaks {self.aif.time_to_peak:g} s, {width:.1f} s wide"
        vof = f"; VOF of {len(self.vof_voxels)}" if self.vof_voxels else ""
        return f"AIF of {n} voxel{'s' * (n != 1)}: {self.aif.peak:.0f} HU, {shape}{vof}"

    def widget(self):
        """Draw the picker for JupyterLab: the slice beside the curves, click to pick."""
        from perfkit.pickerview import PickerView

        self._view = PickerView(self)
        return self._view

    def _mean(self, kind: str) -> AIF | None:
        voxels = self._states[self._now][kind]
        name = self.rater or "picked"
        return voxel_aif(self.concentration, voxels, self.dt, method=name) if voxels else None

    def _change(self, changed: dict) -> AIFPicker:
        self._states = [*self._states[: self._now + 1], self._states[self._now] | changed]
        return self._go(self._now + 1)

    def _go(self, step: int) -> AIFPicker:
        if 0 <= step < len(self._states):
            self._now, self.saved = step, False
            self._redraw()
        return self

    def _redraw(self) -> None:
        if self._view is not None:
            self._view.refresh()


def _series(case):
    """Concentration (X, Y, Z, T) and baseline (X, Y, Z) of a prepared scan or of a Case, in HU."""
    if hasattr(case, "concentration"):
        return case.concentration, case.baseline
    mean = case.ctp[case.brain].mean(axis=0, dtype=np.float64)
    return curves.enhancement(case.ctp, curves.n_baseline(mean, case.dt))
