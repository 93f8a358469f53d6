"""Pick an AIF by hand: the state first, its drawing in the browser second."""

from __future__ import annotations

import time
import warnings
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np

from perfkit import annotations, curves, maps, metrics, quality
from perfkit.aif import AIF, expert_aif, voxel_aif
from perfkit.preprocessing import mean_curve

KINDS = ("aif", "vof")
WAYS = ("toggle", "add", "remove", "only")
MAX_VOXELS = 500  # our choice: an artery has some ten voxels, a sinus a hundred; more is a slip of the hand


class AIFPicker:
    """The voxels one rater picks in one case, with undo; works without a browser.

    Parameters
    ----------
    case : prepared scan, or Case (then the curves are taken as measured, not smoothed, and there is no rCBF).
    rater : name of the rater; default: the name of the file.
    path : CSV file of the rater's picks (``annotations.rater_file`` names it); needed to save. What stands
        there for this case is taken over.
    measured : Case of the same scan. A prepared scan is empty outside the brain mask, where large arteries
        may lie: with it, curves outside are taken as measured.
    autosave : write every change to the file at once. Without ``path`` nothing can be saved.

    Raises
    ------
    TypeError : ``case`` is no scan.
    ValueError : the file is none of picks, or holds a pick of another scan under this id; or ``measured`` is
        another scan.
    OSError : ``path`` is a folder.

    Examples
    --------
    >>> picker = AIFPicker(case, path="data/aif/isles/mh.csv")  # doctest: +SKIP
    >>> picker.pick(101, 88, 3).pick(102, 88, 3).aif  # doctest: +SKIP
    """

    def __init__(
        self, case, rater: str = "", path: str | Path | None = None, *, measured=None, autosave=True
    ):
        if any(not hasattr(case, name) for name in ("id", "dt", "affine", "brain")):
            raise TypeError(
                f"A picker takes one scan, prepared or a Case as read: {type(case).__name__} came. "
                "Try prepare(cohort['case_1'])."
            )
        if measured is not None and np.shape(measured.ctp)[:3] != np.shape(case.brain):
            raise ValueError(
                f"measured must be the Case of the same scan: {case.id} has the grid {np.shape(case.brain)}, "
                f"{measured.id} {np.shape(measured.ctp)[:3]}."
            )
        self.case, self.measured = case, measured
        self.id, self.dt, self.affine, self.brain = case.id, case.dt, case.affine, case.brain
        self.concentration, self.baseline = _series(case)
        self.path = None if path is None else _file(path)
        self.rater = rater or (self.path.stem if self.path else "")
        self.autosave = autosave
        self.comment = ""
        self.saved = True
        self.seconds = 0.0  # from opening the case to the latest change
        self._opened = time.monotonic()
        self._states = [dict.fromkeys(KINDS, ())]
        self._now = 0
        self._comments: dict[int, str] = {}  # step -> comment, where two picks met
        self._base: annotations.Pick | None = None  # what stood in the file when it was last read or written
        self._rcbf = (None, None)  # voxels -> map, of the latest AIF
        self.suggestions = ()  # suggestions.Suggestion, as ``suggest`` or the widget found them
        self._view = None
        self.load()

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
        return self._mean(self.voxels)

    @property
    def vof(self) -> AIF | None:
        """Mean curve of the VOF voxels; None before the first pick."""
        return self._mean(self.vof_voxels)

    @property
    def aif_quality(self) -> quality.Quality | None:
        """How good the AIF looks beside the brain's mean curve and the VOF; None before the first pick."""
        vof = self.vof
        return self._assess(self.aif, vof=None if vof is None else vof.curve)

    @property
    def vof_quality(self) -> quality.Quality | None:
        """Figures of the VOF; None before the first pick. Of what is wrong with it, ``vof_warnings`` tell."""
        return self._assess(self.vof)

    @property
    def vof_warnings(self) -> tuple[str, ...]:
        """What speaks against the VOF: weak, cut off, or too low to be the vein of this artery."""
        aif, vof = self.aif, self.vof
        if vof is None:
            return ()
        return quality.about_vein(vof.curve, self.dt, None if aif is None else aif.curve)

    @cached_property
    def tissue(self):
        """(T,), HU: the mean curve of the brain, which an artery precedes."""
        return mean_curve(self.concentration, self.brain)

    @property
    def has_maps(self) -> bool:
        """Whether rCBF can be had: only of a prepared scan, which knows its reference tissue."""
        return hasattr(self.case, "reference_tissue")

    @property
    def rcbf(self):
        """(X, Y, Z), rCBF with the present AIF (circulant, λ_rel .3); None without a usable AIF."""
        if not self.voxels or not self.has_maps:
            return None
        if self._rcbf[0] != self.voxels:
            self._rcbf = (self.voxels, self._relative_flow())
        return self._rcbf[1]

    @property
    def core(self):
        """(X, Y, Z) bool, tissue with rCBF below 0.38; None without rCBF."""
        rcbf = self.rcbf
        return None if rcbf is None else maps.core_mask(rcbf, self.case.tissue)

    @property
    def core_ml(self) -> float:
        """Volume of the core, ml; NaN without rCBF."""
        core = self.core
        return float("nan") if core is None else metrics.volume_ml(core, self.case.spacing)

    def pick(self, x: int, y: int, z: int, kind: str = "aif") -> AIFPicker:
        """Add a voxel, or take it away where it was picked before.

        Parameters
        ----------
        x, y, z : array indices of the voxel.
        kind : ``"aif"`` or ``"vof"``.
        """
        return self.pick_roi(((x, y, z),), kind, way="toggle")

    def pick_roi(self, voxels, kind: str = "aif", *, way: str = "add") -> AIFPicker:
        """Change several voxels in one step, which one undo takes back.

        Parameters
        ----------
        voxels : (n, 3), array indices.
        kind : ``"aif"`` or ``"vof"``.
        way : ``"add"``, ``"remove"``, ``"toggle"``, or ``"only"``: take these instead of what was picked.

        Raises
        ------
        ValueError : a voxel outside the volume, too many of them, an unknown kind or way. Nothing changes.
        OSError : the change is made but could not be saved.
        RuntimeError : the case was picked elsewhere meanwhile, see ``save``.
        """
        if kind not in KINDS or way not in WAYS:
            raise ValueError(
                f"kind must be 'aif' or 'vof' and way one of {', '.join(WAYS)}: {kind!r}, {way!r} came."
            )
        asked = dict.fromkeys(annotations.Pick(self.id, voxels).voxels)
        self._check_inside(asked)
        held = dict.fromkeys(self._states[self._now][kind])
        kept = [v for v in held if v not in asked]
        added = [v for v in asked if v not in held]
        voxels = {
            "add": [*held, *added],
            "remove": kept,
            "toggle": [*kept, *added],
            "only": [*asked],
        }[way]
        if len(voxels) > MAX_VOXELS:
            raise ValueError(
                f"An input function is the mean of {MAX_VOXELS} voxels at most: {len(voxels)} were chosen. "
                "Draw a smaller region inside one vessel."
            )
        return self if voxels == [*held] else self._change({kind: tuple(voxels)})

    def suggest(self) -> tuple:
        """Find numbered places to start from, by the automatic methods (some seconds)."""
        from perfkit.suggestions import suggest

        self.suggestions = suggest(self.case)
        return self.suggestions

    def accept(self, number: int) -> AIFPicker:
        """Take the voxels of a suggestion instead of what was picked.

        Parameters
        ----------
        number : of the suggestion, as it is shown.
        """
        found = [s for s in self.suggestions if s.number == number]
        if not found:
            numbers = ", ".join(str(s.number) for s in self.suggestions) or "none; call suggest() first"
            raise ValueError(f"There is no suggestion {number!r}. There are, by whole number: {numbers}.")
        return self.pick_roi(found[0].voxels, found[0].kind, way="only")

    def note(self, comment: str) -> AIFPicker:
        """Comment on the case, picked or not; saved like a pick.

        Raises
        ------
        TypeError : it is no text.
        """
        comment = _text(comment)
        if comment != self.comment:
            self.comment = comment
            self._comments.clear()
            self._go(self._now)
        return self

    def clear(self) -> AIFPicker:
        """Take all voxels away; undo brings them back."""
        return self._change(dict.fromkeys(KINDS, ())) if self.voxels or self.vof_voxels else self

    def undo(self) -> AIFPicker:
        """Go one step back, if there is one."""
        return self._go(self._now - 1)

    def redo(self) -> AIFPicker:
        """Go one step forward again, if there is one."""
        return self._go(self._now + 1)

    @property
    def unsaved(self) -> bool:
        """Whether something is held that is not on disk: a voxel, a comment, or a withdrawal."""
        return not self.saved and bool(self.path or self.holds)

    @property
    def holds(self) -> bool:
        """Whether there is a voxel or a comment."""
        return bool(self.voxels or self.vof_voxels or self.comment)

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

        Raises
        ------
        ValueError : there is no file to save in, or it is none of picks.
        OSError : it could not be written; the picks are still held.
        RuntimeError : the case was picked elsewhere since it was read here. Nothing was saved: the other
            pick is taken over, and undo brings back the one made here and saves it.
        """
        if self.path is None:
            raise ValueError("A pick needs a file to be saved in: give path= when making the AIFPicker.")
        self.comment = self.comment if comment is None else _text(comment)
        found = self._standing()
        if found not in (None, self._base) and not self._same(found):
            self._yield_to(found)
        pick = annotations.Pick(
            self.id, self.voxels, self.vof_voxels, time=_not_before(found), comment=self.comment
        )
        annotations.append(self.path, pick)
        self._base, self.saved = pick, True
        self._redraw()
        return self.path

    def load(self) -> bool:
        """Take over the rater's latest pick of this case; returns whether there is one.

        What was picked before stays one undo away; where nothing was, there is nothing to undo.
        """
        if self.path is None or not self.path.exists():
            return False
        found = annotations.standing(self.path).get(self.id)
        if found is None:
            return False
        if not (found.voxels or found.vof_voxels):
            self._base = found
            if not self.holds:
                self.comment = found.comment
            return False
        self._take(found)
        self._redraw()
        return True

    def sign(self, rater: str, path: str | Path) -> str:
        """Give the picks another rater and file, without saving yet.

        Where nothing is held, the rater's recorded pick is taken over; else it is one undo away.

        Returns
        -------
        What is to be told of an earlier pick; ``""`` where there is nothing.
        """
        self.rater, self.path = rater, Path(path)
        self._base = found = self._standing()
        if found is None or not (found.voxels or found.vof_voxels):
            self.saved = not self.holds
            self.comment = self.comment or (found.comment if found and not self.holds else "")
            return ""
        mine, comment = self._states[self._now], self.comment
        try:
            self._take(found)
        except ValueError as error:
            self.saved = not self.holds
            return f"The recorded pick of {self.id} was not taken over. {error}"
        if not any(mine.values()) or self._states[self._now] == mine:
            self.comment = comment or self.comment
            self.saved = self.comment == found.comment
            return ""
        recorded = self._states.pop()
        self._states.insert(-1, recorded)
        self._comments = {self._now - 1: found.comment, self._now: comment}
        self.comment, self.saved = comment, False
        return f"{_told(found)} by {rater} before: the pick made here replaces it, undo brings it back."

    @property
    def summary(self) -> str:
        """Say in a line what was picked."""
        aif, n, m = self.aif, len(self.voxels), len(self.vof_voxels)
        if aif is None:
            return "No AIF voxel yet: click into an artery, early, high and narrow."
        vof = f"; VOF of {m} voxel{'s' * (m != 1)}" if m else ""
        fwhm = curves.full_width_half_maximum(aif.curve, self.dt)
        wide = f"{fwhm:.1f} s wide" if np.isfinite(fwhm) else "its width is not seen"
        return f"AIF of {n} voxel{'s' * (n != 1)}: {aif.peak:.0f} HU at {aif.time_to_peak:g} s, {wide}{vof}"

    def mean_curve(self, voxels):
        """Average the curves at voxels (n, 3), (T,) HU above baseline."""
        voxels = annotations.Pick(self.id, voxels).voxels
        if not voxels:
            raise ValueError("A mean needs one voxel x y z or more: none came.")
        self._check_inside(voxels)
        return self._mean(voxels).curve

    def slice_curves(self, z: int):
        """Read the curves of a slice, (X, Y, T) HU above baseline; outside the brain as measured."""
        if not 0 <= z < self.brain.shape[2]:
            raise ValueError(f"There are {self.brain.shape[2]} slices, counted from 0: {z!r} came.")
        curves_ = self.concentration[:, :, z]
        if self.measured is None:
            return curves_
        inside = self.brain[:, :, z, None]
        return np.where(inside, curves_, self.measured.ctp[:, :, z] - self.baseline[:, :, z, None])

    def widget(self):
        """Draw the picker for JupyterLab: the slice beside the curves, click to pick."""
        from perfkit.pickerview import PickerView

        return PickerView(self)

    def _mean(self, voxels) -> AIF | None:
        if not voxels:
            return None
        if self.has_maps and self.measured is not None:  # as every later step will read it
            return expert_aif(self.case, {self.id: annotations.Pick(self.id, voxels)}, self.measured)
        return voxel_aif(self.concentration, voxels, self.dt, method=self.rater or "picked")

    def _assess(self, found: AIF | None, vof=None):
        if found is None:
            return None
        return quality.assess(found.curve, self.dt, tissue=self.tissue, vof=vof)

    def _relative_flow(self):
        try:
            cbf = maps.perfusion_maps(
                self.concentration, self.aif.curve, self.dt, mask=self.brain, only=("cbf",)
            ).cbf
            return maps.relative_cbf(cbf, self.case.reference_tissue)
        except ValueError:
            return None  # an AIF of noise; its quality says so

    def _check_inside(self, voxels) -> None:
        shape = self.brain.shape
        for voxel in voxels:
            if any(i >= n for i, n in zip(voxel, shape, strict=True)):
                raise ValueError(
                    f"A voxel must lie inside the volume of {shape} voxels, counted from 0: {voxel} does "
                    "not. Is it of another scan?"
                )

    def _change(self, changed: dict) -> AIFPicker:
        self._states = [*self._states[: self._now + 1], self._states[self._now] | changed]
        self._comments.pop(self._now + 1, None)
        return self._go(self._now + 1)

    def _go(self, step: int) -> AIFPicker:
        if 0 <= step < len(self._states):
            self._now, self.saved = step, False
            self.comment = self._comments.get(step, self.comment)
            self.seconds = time.monotonic() - self._opened
            if self.autosave and self.path is not None:
                self._autosave()
            else:
                self._redraw()
        return self

    def _autosave(self) -> None:
        try:
            self.save()
        except (OSError, ValueError) as error:
            self._redraw()
            raise OSError(f"{error} The pick is kept here but is not on disk: save again.") from error

    def _standing(self) -> annotations.Pick | None:
        """What the rater's file says of this case; lines that cannot be read were told when it was opened."""
        if self.path is None or not self.path.exists():
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", annotations.AnnotationWarning)
            return annotations.standing(self.path).get(self.id)

    def _same(self, pick: annotations.Pick) -> bool:
        return (pick.voxels, pick.vof_voxels) == (self.voxels, self.vof_voxels)

    def _take(self, pick: annotations.Pick) -> None:
        """Put a recorded pick in place; what was here stays one undo away."""
        self._base = pick
        self._check_inside([*pick.voxels, *pick.vof_voxels])
        if not self._same(pick):
            before = self._states[: self._now + 1] if self.voxels or self.vof_voxels else []
            self._states = [*before, {"aif": pick.voxels, "vof": pick.vof_voxels}]
            self._now = len(before)
            self._comments = {self._now - 1: self.comment, self._now: pick.comment} if before else {}
        self.comment, self.saved = pick.comment, True

    def _yield_to(self, found: annotations.Pick) -> None:
        self._take(found)
        self._redraw()
        raise RuntimeError(
            f"{_told(found)} elsewhere: that is shown now, and the pick made here was not saved. "
            "Undo brings it back and saves it."
        )

    def _redraw(self) -> None:
        if self._view is not None:
            self._view.refresh()


def _file(path) -> Path:
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"Picks are saved in a file, and {path} is a folder. Give path='data/aif/isles/mh.csv'."
        )
    return path


def _text(comment) -> str:
    if not isinstance(comment, str):
        raise TypeError(f"A comment is text: {comment!r} came.")
    return " ".join(comment.split())


def _series(case):
    """Concentration (X, Y, Z, T) and baseline (X, Y, Z) of a prepared scan or of a Case, in HU."""
    if hasattr(case, "concentration"):
        return case.concentration, case.baseline
    mean = case.ctp[case.brain].mean(axis=0, dtype=np.float64)
    return curves.enhancement(case.ctp, curves.n_baseline(mean, case.dt))


def _told(pick: annotations.Pick) -> str:
    """Name a pick: "case_1 was picked at 2020-10-04 09:30:00 UTC (3 voxels)"."""
    n = len(pick.voxels) + len(pick.vof_voxels)
    when = annotations.instant(pick.time).astimezone(UTC)
    what = f"was picked at {when:%Y-%m-%d %H:%M:%S} UTC ({n} voxel{'s' * (n != 1)})"
    return f"{pick.case} {what if n else f'was emptied at {when:%Y-%m-%d %H:%M:%S} UTC'}"


def _not_before(found: annotations.Pick | None) -> str:
    """Now, or the time of what it replaces and a bit later where another clock was ahead."""
    now = datetime.now(UTC)
    if found is not None:
        now = max(now, annotations.instant(found.time) + timedelta(milliseconds=1))
    return now.isoformat(timespec="milliseconds")
