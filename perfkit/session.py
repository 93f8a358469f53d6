"""A rater at work on a cohort: case after case, each with its picker, the next one loaded ahead."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path

from perfkit import annotations, paths
from perfkit.aif import AIF
from perfkit.datasets import Cohort
from perfkit.picker import AIFPicker
from perfkit.preprocessing import prepare

KEPT = 3  # cases in memory: the one before, this one and the next; our choice: one can go back at once


class PickingSession:
    """The cases of a cohort, a rater, and the picker of the case at hand; works without a browser.

    Parameters
    ----------
    cohort : datasets.Cohort.
    rater : name of the rater, who may give it later; without one nothing is saved.
    case : id of the first case; default: the first that can be read and this rater has not picked.
    root : folder of all picks; default: ``aif`` in the data folder.

    Raises
    ------
    ValueError : no such case, a name no file can have, or no case that can be read.

    Examples
    --------
    >>> session = PickingSession(open_cohort("data/isles18"), rater="mh")  # doctest: +SKIP
    >>> session.widget()  # doctest: +SKIP
    >>> session.table  # doctest: +SKIP
    """

    def __init__(self, cohort: Cohort, rater: str = "", *, case: str = "", root: str | Path | None = None):
        self.cohort = cohort
        self.root = paths.data_folder() / "aif" if root is None else Path(root)
        self.rater, self.path = "", None
        self.problems: dict[str, str] = dict(cohort.problems)
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}  # from opening a case to its latest pick, in this session
        self.pickers: OrderedDict[str, AIFPicker] = OrderedDict()
        self._loading: dict[str, Future] = {}
        self._picked: set[str] = set()
        self._view = None
        rater = rater.strip() if isinstance(rater, str) else rater
        if rater:
            self._use(rater, *self._read_file(rater))
        self.picker = self._first(case)

    @property
    def index(self) -> int:
        """Place of the case at hand in the cohort, from 0."""
        return self.cohort.ids.index(self.picker.id)

    @property
    def picked(self) -> set[str]:
        """Ids of the cases this rater has picked, as they are on disk."""
        at_hand = {name for name, picker in self.pickers.items() if picker.voxels and not picker.unsaved}
        return {*(self._picked - set(self.pickers)), *at_hand} & set(self.cohort.ids)

    @property
    def unsaved(self) -> tuple[str, ...]:
        """Ids of the cases with something that is not on disk."""
        return tuple(name for name, picker in self.pickers.items() if picker.unsaved)

    @property
    def progress(self) -> str:
        """Say how many cases are picked: "12 of 94 picked", and how many of them are not on disk."""
        n = len(self.unsaved)
        return f"{len(self.picked)} of {len(self.cohort)} picked" + f", {n} not saved" * bool(n)

    @property
    def table(self):
        """DataFrame, a row per case: case, picked, voxels, seconds, problem."""
        import pandas as pd

        latest = annotations.latest(self.path) if self.path and self.path.exists() else {}
        held = {name: picker.voxels for name, picker in self.pickers.items()}
        rows = []
        for name in self.cohort.ids:
            voxels = held.get(name, latest[name].voxels if name in latest else ())
            seconds = self._seconds().get(name, float("nan"))
            row = {"case": name, "picked": bool(voxels), "voxels": len(voxels), "seconds": seconds}
            rows.append(row | {"problem": self.problems.get(name, "")})
        return pd.DataFrame(rows)

    def sign(self, rater: str) -> PickingSession:
        """Give the rater's name: from now on every change is on disk.

        What was picked before the name was given is saved at once. Another name opens another file; picks
        made under the old name stay there. What could not be saved under the old name goes with the new one.
        ``notes`` tells of earlier picks that are replaced.

        Parameters
        ----------
        rater : letters, digits, blanks, ``.``, ``-``, ``_``.

        Raises
        ------
        ValueError : a name no file can have, or a file that is none of picks. The old name stays.
        OSError : the file cannot be read: the old name stays; or not everything could be saved: it is held,
            and the same name given again saves it.
        """
        if isinstance(rater, str):
            rater = rater.strip()
        if rater != self.rater:
            opened = self._read_file(rater)
            self._save_all()  # under the old name, as far as it can be had
            carried = [name for name in self.unsaved if self.pickers[name].holds]
            self._tell_of_lost_withdrawals(carried)
            self._use(rater, *opened)
            for name, picker in self.pickers.items():
                if name in carried:
                    self.notes += filter(None, [picker.sign(rater, self.path)])
                else:
                    self.pickers[name] = self._picker(picker.case, picker.measured)
            self.picker = self.pickers[self.picker.id]
        failed = self._save_all()
        self._show()
        if failed:
            raise OSError(
                f"{' '.join(dict.fromkeys(failed))} Nothing is lost: give the name again to save it."
            )
        return self

    def go(self, case: str) -> AIFPicker:
        """Open a case by its id.

        Raises
        ------
        ValueError : there is no such case, or it cannot be read; the one at hand stays.
        """
        self.seconds = self._seconds()
        self.picker = self._open(case)
        self._forget()
        self._show()
        return self.picker

    def next(self) -> AIFPicker:
        """Open the next case that can be read; at the end, stay."""
        return self._step(+1)

    def previous(self) -> AIFPicker:
        """Open the case before that can be read; at the start, stay."""
        return self._step(-1)

    def prefetch(self) -> None:
        """Start to load the next case in the background, so that it opens at once."""
        following = self.cohort.ids[self.index + 1 : self.index + 2]
        for name in following:
            if name not in self.pickers and name not in self._loading and name not in self.problems:
                self._loading[name] = future = Future()
                threading.Thread(target=self._load_into, args=(future, name), daemon=True).start()

    @property
    def aif(self) -> AIF | None:
        """AIF of the case at hand; None before the first pick."""
        return self.picker.aif

    def widget(self):
        """Draw the session for JupyterLab or voila: the picker, the way from case to case, the rater."""
        from perfkit.pickerview import PickerView

        return PickerView(self.picker, session=self)

    def _read_file(self, rater: str) -> tuple[Path, set[str], list[str]]:
        """Path of a rater's file, the cases picked in it, what is to be told of it; changes nothing."""
        path = annotations.rater_file(self.cohort.folder, rater, self.root)
        if not path.exists():
            return path, set(), []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", annotations.AnnotationWarning)
            latest = annotations.latest(path)
        picked = {name for name, pick in latest.items() if pick.voxels}
        return path, picked, [str(warning.message) for warning in caught]

    def _use(self, rater: str, path: Path, picked: set[str], notes: list[str]) -> None:
        self.rater, self.path, self._picked = rater, path, picked
        self.notes += notes

    def _save_all(self) -> list[str]:
        """Save what is not on disk; returns why something is still not."""
        failed = []
        for name in self.unsaved if self.path else ():
            try:
                self.pickers[name].save()
            except RuntimeError as error:  # picked elsewhere: that stands on disk
                self.notes.append(str(error))
            except (OSError, ValueError) as error:
                failed.append(str(error))
        return failed

    def _tell_of_lost_withdrawals(self, carried: list[str]) -> None:
        for name in set(self.unsaved) - set(carried):
            if self.path is not None:
                self.notes.append(f"{name}: its withdrawal could not be saved for {self.rater}.")

    def _first(self, case: str) -> AIFPicker:
        if case:
            return self._open(case)
        ids = self.cohort.ids
        for name in [n for n in ids if n not in self._picked] + [n for n in ids if n in self._picked]:
            try:
                return self._open(name)
            except ValueError:
                continue
        listed = "; ".join(self.problems.values())
        raise ValueError(f"{self.cohort.folder}: no case can be read. {listed}")

    def _step(self, by: int) -> AIFPicker:
        ids = self.cohort.ids
        at = self.index + by
        while 0 <= at < len(ids):
            try:
                return self.go(ids[at])
            except ValueError as error:
                self.notes.append(f"{ids[at]} was passed over. {error}")
                at += by
        self._show()
        return self.picker

    def _open(self, name: str) -> AIFPicker:
        name = self._id(name)
        if name not in self.pickers:
            loading = self._loading.pop(name, None)
            try:
                prepared, measured = loading.result() if loading else self._load(name)
            except (OSError, ValueError) as error:
                self.problems.setdefault(name, str(error))
                raise ValueError(str(error)) from error
            self.pickers[name] = self._picker(prepared, measured)
        self.pickers.move_to_end(name)
        return self.pickers[name]

    def _id(self, name: str) -> str:
        try:
            return self.cohort.scan(name).id
        except KeyError as error:
            raise ValueError(str(error.args[0])) from None

    def _load(self, name: str):
        measured = self.cohort[name]
        return prepare(measured), measured

    def _load_into(self, future: Future, name: str) -> None:
        try:
            future.set_result(self._load(name))
        except BaseException as error:
            future.set_exception(error)

    def _picker(self, prepared, measured) -> AIFPicker:
        picker = AIFPicker(prepared, measured=measured)
        if self.path is not None:
            self.notes += filter(None, [picker.sign(self.rater, self.path)])
        return picker

    def _forget(self) -> None:
        """Let go of the cases seen longest ago, never of the one at hand; what they hold is on disk."""
        at_hand = self.picker.id
        for name in [n for n, picker in self.pickers.items() if n != at_hand and not picker.unsaved]:
            if len(self.pickers) <= KEPT:
                break
            picked = self.pickers.pop(name).voxels
            (self._picked.add if picked else self._picked.discard)(name)

    def _seconds(self) -> dict[str, float]:
        at_hand = {name: p.seconds for name, p in self.pickers.items() if p.seconds and p.voxels}
        return self.seconds | at_hand

    def _show(self) -> None:
        if self._view is not None:
            self._view.show(self.picker)
