"""Scans on disk: ISLES 2018 (phantoms alike), ISLES 2024, BIDS-like and plain folders, opened lazily.

``discovery`` says which names are recognised, ``nifti`` what a sound file is, ``checks`` what a sound scan.
"""

from __future__ import annotations

import difflib
import html
import operator
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from perfkit import discovery, patients
from perfkit.case import Case
from perfkit.foundfiles import Found, Layout
from perfkit.scans import Scan, describe


class Cohort:
    """Scans of one data set; a scan is read when it is asked for.

    ``cohort[3]`` and ``cohort["case_4"]`` load a Case, ``cohort[:5]`` is a smaller cohort. Iterating loads
    one Case after the other and raises at a broken one; ``next`` on the same iterator goes on after it.
    """

    def __init__(self, scans: list[Scan], folder: Path, *, kind: str = "NIfTI", notes: tuple[str, ...] = ()):
        self.scans = list(scans)
        self.folder = Path(folder)
        self.name = self.folder.name
        self.kind = kind
        self.notes = tuple(notes)

    @property
    def ids(self) -> list[str]:
        """Ids of all scans."""
        return [scan.id for scan in self.scans]

    @property
    def patients(self) -> dict[str, str]:
        """Patient of each scan by id."""
        return {scan.id: scan.patient for scan in self.scans}

    @property
    def problems(self) -> dict[str, str]:
        """What the headers show to be wrong, by id."""
        return {scan.id: scan.problem for scan in self.scans if scan.problem}

    def require_core(self, what: str) -> None:
        """Raise ValueError where no scan has a core mask; ``what`` needs one, e.g. ``"A study"``."""
        if any(scan.has_core for scan in self.scans):
            return
        n = sum(getattr(scan, "final_infarct_path", None) is not None for scan in self.scans)
        hint = (
            f" The infarct at follow-up, known of {n}, is not the core: between the two lies the treatment."
            * (n > 0)
        )
        raise ValueError(
            f"{what} needs core masks; none of the {len(self)} scans in {self.folder} has one.{hint} "
            "For maps alone there is `perfkit maps`."
        )

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, key) -> Case | Cohort:
        if isinstance(key, slice):
            return self._with(self.scans[key])
        return self.scan(key).load()

    def __iter__(self) -> Iterator[Case]:
        # map, not a generator: a generator is finished by the first exception
        return map(operator.methodcaller("load"), self.scans)

    def scan(self, key: int | str) -> Scan:
        """Find a scan by position, id or, where that is unique, by its name on disk."""
        if not isinstance(key, str):
            return self._at(key)
        found = [scan for scan in self.scans if scan.id == key]
        found = found or [scan for scan in self.scans if scan.name == key]
        if len(found) != 1:
            near = difflib.get_close_matches(key, self.ids, n=3, cutoff=0.4) or self.ids[:3]
            raise KeyError(f"{self.folder}: there is no scan {key!r}. Near names: {', '.join(near)}.")
        return found[0]

    def _at(self, key) -> Scan:
        try:
            position = operator.index(key)
        except TypeError:
            raise TypeError(
                f"{self.folder}: a scan is asked for by position or id; {key!r} is neither."
            ) from None
        if not -len(self) <= position < len(self):
            raise IndexError(
                f"{self.folder}: positions run from 0 to {len(self) - 1}; {position} was asked for."
            )
        return self.scans[position]

    def first(self) -> Case:
        """Load the first scan that can be read; a broken one before it is passed over.

        Raises
        ------
        ValueError : no scan can be read; the first reason is named.
        """
        reasons = []
        for scan in self.scans:
            try:
                return scan.load()
            except (OSError, ValueError) as error:
                reasons.append(str(error))
        raise ValueError(f"None of the {len(self)} scans of {self.folder} can be read: {reasons[0]}")

    def select(self, which) -> Cohort:
        """Return a cohort of the first ``which`` scans (int) or of those with the ids ``which``."""
        if isinstance(which, str):
            return self._with([self.scan(which)])
        if hasattr(which, "__iter__"):
            return self._with([self.scan(key) for key in which])
        if not 1 <= (n := operator.index(which)) <= len(self):
            raise ValueError(
                f"{self.folder}: it holds {len(self)} scans; {n} were asked for. Try 1 to {len(self)}."
            )
        return self._with(self.scans[:n])

    def _with(self, scans: list[Scan]) -> Cohort:
        return Cohort(scans, self.folder, kind=self.kind, notes=self.notes)

    def fingerprint(self, key: int | str | Scan) -> str:
        """Hash that changes when the files of a scan do."""
        return (key if isinstance(key, Scan) else self.scan(key)).fingerprint()

    def folds(self, n: int = 5, seed: int = 0) -> list[tuple[list[str], list[str]]]:
        """Split the scans into training and test ids, all scans of a patient on the same side.

        Paper: Experiments, cross-validation.

        Parameters
        ----------
        n : number of folds. Default 5, ``paper.N_FOLDS``.
        seed : shuffles the patients.

        Returns
        -------
        ``n`` pairs (training ids, test ids); every scan is in exactly one test list, and the test lists
        hold as equal numbers of scans as the patients allow.
        """
        return patients.folds(self.patients, n, seed, str(self.folder))

    def table(self):
        """DataFrame of what the headers say: id, patient, shape, dt (s), spacing (mm), has_core, problem."""
        import pandas as pd

        columns = ("id", "patient", "shape", "dt", "spacing", "has_core", "problem")
        rows = [[getattr(scan, column) for column in columns] for scan in self.scans]
        return pd.DataFrame(rows, columns=list(columns))

    def __repr__(self) -> str:
        broken = f", {len(self.problems)} broken" if self.problems else ""
        n_patients = len(set(self.patients.values()))
        return f"Cohort({self.name}: {len(self)} scans of {n_patients} patients, {self.kind}{broken})"

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self.notes)
        return f"<p><b>{html.escape(repr(self))}</b></p><ul>{notes}</ul>{self.table().to_html(max_rows=12)}"


def open_cohort(folder: str | Path) -> Cohort:
    """Open a folder of scans, reading headers only.

    Paper: Experiments, data.

    Parameters
    ----------
    folder : an ISLES 2018 tree (phantom cohorts alike; its TRAINING or TESTING folder or the folder one
        above will do), an ISLES 2024 tree, a BIDS-like one, a folder with a table ``scans.csv``, a plain
        folder of NIfTI series, named as ``perfkit.discovery`` says, or one of DICOM series.

    Returns
    -------
    Cohort. Broken scans are in it, with their ``problem``; loading them raises.

    Raises
    ------
    OSError, ValueError
        where there is no folder or no scan in it, or its scans.csv or patients.csv is malformed.
    """
    folder = discovery.check_folder(folder)
    opened = (opener(folder) for opener in _OPENERS)
    cohort = next((cohort for cohort in opened if cohort is not None), None)
    if cohort is None:
        raise discovery.nothing_found(folder)
    return cohort


def _open_nifti(folder: Path) -> Cohort | None:
    layout = discovery.discover(folder)
    if layout is None:
        return None
    scans = [describe(found) for found in layout.cases]
    if all(scan.shape is not None and len(scan.shape) == 3 for scan in scans):
        raise ValueError(
            f"{layout.folder}: a cohort holds 4-D perfusion series (X, Y, Z, T); all {len(scans)} files are "
            f"3-D, e.g. {scans[0].path.name}. Give the whole time series, not single volumes."
        )
    scans, notes = _with_patients(scans, layout)
    return Cohort(scans, layout.folder, kind=layout.kind, notes=notes + layout.notes + _notes(scans, layout))


def _open_dicom(folder: Path) -> Cohort | None:
    from perfkit import dicomscans  # only where there is no NIfTI

    found = dicomscans.find(folder)
    if found is None:
        return None
    own = patients.own_list([folder])
    given = {scan.id: scan.patient for scan in found.scans}
    known, notes = patients.assign([(scan.id, scan.name, None) for scan in found.scans], own, folder, given)
    scans = [replace(scan, patient=known[scan.id]) for scan in found.scans]
    return Cohort(scans, folder, kind="DICOM", notes=notes + found.notes)


# in the order they are tried; each returns None where a folder holds none of its kind
_OPENERS = (_open_nifti, _open_dicom)


def _notes(scans: list[Scan], layout: Layout) -> tuple[str, ...]:
    notes = ()
    if layout.unused:
        listed = ", ".join(path.name for path in layout.unused[:3]) + (" …" if layout.unused[3:] else "")
        n = len(layout.unused)
        belong = "file belongs" if n == 1 else "files belong"
        notes += (f"{n} {belong} to no series by name and stays unused: {listed}.",)
    if layout.kind in ("NIfTI", "BIDS-like") and any(scan.has_core for scan in scans):
        notes += ("A file <series>_core, _lesion or _mask is taken as the core.",)
    if n := sum(scan.final_infarct_path is not None for scan in scans):
        notes += (f"Of {n} scans the infarct at follow-up is known (final_infarct). It is not the core.",)
    return notes


def open_series(path: str | Path) -> Cohort:
    """Open one NIfTI series as a cohort of one scan, whatever lies beside it.

    Parameters
    ----------
    path : .nii or .nii.gz, 4-D

    Raises
    ------
    FileNotFoundError, ValueError : no such file; not a series that can be read.
    """
    path = Path(path)
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    scan = describe(Found(id=name, folder=path.parent, name=name, series=path))
    if scan.problem:
        raise ValueError(scan.problem)
    return Cohort([scan], path.parent)


def _with_patients(scans: list[Scan], layout: Layout) -> tuple[list[Scan], tuple[str, ...]]:
    # the list may also lie in TRAINING, or beside it where the cohort is the folder above
    parts = dict.fromkeys(found.folder.parent for found in layout.cases)
    places = [layout.folder, *parts, *(part.parent for part in parts)]
    own = patients.own_list(places if layout.kind == "ISLES 2018" else places[:1])
    given = {found.id: found.patient for found in layout.cases if found.patient}
    known, notes = patients.assign([(s.id, s.name, s.number) for s in scans], own, layout.folder, given)
    alone = ("Its patient is not known: it counts as a patient of its own.",)
    return [
        replace(scan, patient=known[scan.id]) if scan.id in known else replace(scan, notes=scan.notes + alone)
        for scan in scans
    ], notes
