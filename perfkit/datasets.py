"""Scans on disk: ISLES 2018 (phantoms alike) and plain folders of NIfTI series, opened lazily.

``discovery`` says which names are recognised, ``nifti`` what a sound file is, ``checks`` what a sound scan.
"""

from __future__ import annotations

import difflib
import hashlib
import html
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from perfkit import checks, discovery, nifti, patients, volumes
from perfkit.case import Case

OFFSET_SHARE = 0.1  # our choice: bone of 1024-1124 HU is rarer, brain of values stored as HU + 1024 is not


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """One scan of a cohort as its header describes it; ``load`` reads it.

    Parameters
    ----------
    id, patient : as in Case.
    path : the series; where it is missing, the case's folder.
    name : name on disk (``"case_3"``).
    number : of the 4DPWI series in ISLES 2018.
    shape : (X, Y, Z, T); None where the header cannot be read.
    dt : s.
    spacing : (3,), mm.
    core_path, brain_path, truth_path, vendor : the files beside the series.
    problem : why the scan cannot be loaded, as far as the headers tell; None where nothing is wrong.
    notes : what the reader should be told.
    """

    id: str
    patient: str
    path: Path
    name: str
    number: int | None = None
    shape: tuple[int, ...] | None = None
    dt: float | None = None
    spacing: tuple[float, ...] | None = None
    core_path: Path | None = None
    brain_path: Path | None = None
    truth_path: Path | None = None
    vendor: Mapping[str, Path] = field(default_factory=dict)
    problem: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def has_core(self) -> bool:
        """Whether a core mask lies beside the series."""
        return self.core_path is not None

    def load(self) -> Case:
        """Read and check the scan.

        Raises
        ------
        ValueError, OSError
            naming the file that is missing or broken.
        """
        if self.problem:
            raise ValueError(self.problem)
        ctp, header = volumes.read_series(self.path)
        paths = {"brain": self.brain_path, "core": self.core_path}
        masks = {role: volumes.read_mask(path, role, header) for role, path in paths.items() if path}
        dt, _ = header.frame_interval()
        return Case(
            id=self.id,
            patient=self.patient,
            ctp=ctp,
            dt=dt,
            affine=header.affine,
            brain=masks["brain"] if "brain" in masks else _brain(ctp, dt, header),
            core=masks.get("core"),
            vendor=self.vendor,
            truth=volumes.Truth(self.truth_path) if self.truth_path else {},
            source=self.path,
            notes=self.notes,
        )

    def fingerprint(self) -> str:
        """Hash of the names, sizes and times of the files a Case is read from: changes when they do."""
        digest = hashlib.sha256(f"{self.id}|{self.patient}".encode())
        for path in filter(None, (self.path, self.core_path, self.brain_path)):
            stat = path.stat() if path.exists() else None
            digest.update(f"|{path.name}|{stat and (stat.st_size, stat.st_mtime_ns)}".encode())
        return digest.hexdigest()[:16]


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

    def __len__(self) -> int:
        return len(self.scans)

    def __getitem__(self, key) -> Case | Cohort:
        if isinstance(key, slice):
            return self._with(self.scans[key])
        return self.scan(key).load()

    def __iter__(self) -> Iterator[Case]:
        # map, not a generator: a generator is finished by the first exception
        return map(Scan.load, self.scans)

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
        above will do) or a plain folder of NIfTI series, named as ``perfkit.discovery`` says.

    Returns
    -------
    Cohort. Broken scans are in it, with their ``problem``; loading them raises.

    Raises
    ------
    OSError, ValueError
        where there is no folder or no scan in it, or its patients.csv is malformed.
    """
    layout = discovery.discover(folder)
    scans = [_scan(found) for found in layout.cases]
    if all(scan.shape is not None and len(scan.shape) == 3 for scan in scans):
        raise ValueError(
            f"{layout.folder}: a cohort holds 4-D perfusion series (X, Y, Z, T); all {len(scans)} files are "
            f"3-D, e.g. {scans[0].path.name}. Give the whole time series, not single volumes."
        )
    scans, notes = _with_patients(scans, layout)
    if layout.unused:
        listed = ", ".join(path.name for path in layout.unused[:3]) + (" …" if layout.unused[3:] else "")
        n = len(layout.unused)
        belong = "file belongs" if n == 1 else "files belong"
        notes += (f"{n} {belong} to no series by name and stays unused: {listed}.",)
    if layout.kind == "NIfTI":
        notes += ("A file <series>_core, _lesion or _mask is taken as the core.",) * any(
            s.has_core for s in scans
        )
    return Cohort(scans, layout.folder, kind=layout.kind, notes=notes)


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
    scan = _scan(discovery.Found(id=name, folder=path.parent, name=name, series=path))
    if scan.problem:
        raise ValueError(scan.problem)
    return Cohort([scan], path.parent)


def _scan(found: discovery.Found) -> Scan:
    scan = Scan(
        id=found.id,
        patient=found.id,
        path=found.series or found.folder,
        name=found.name,
        number=found.number,
        core_path=found.core,
        brain_path=found.brain,
        truth_path=found.truth,
        vendor=found.vendor,
        problem=found.problem,
        notes=found.notes,
    )
    if found.problem:
        return scan
    try:
        header = nifti.read_header(found.series)
    except (OSError, ValueError) as problem:
        return replace(scan, problem=str(problem))
    dt, notes = header.frame_interval()
    if not header.oriented:
        notes += ("The header gives no orientation: left and right are not certain.",)
    spacing = tuple(round(zoom, 5) for zoom in header.zooms)  # float32 on disk: 0.9 would read 0.89999998
    scan = replace(scan, shape=header.series_shape, dt=dt, spacing=spacing, notes=scan.notes + notes)
    try:
        volumes.check_header(header)
    except ValueError as problem:
        return replace(scan, problem=str(problem))
    return scan


def _with_patients(scans: list[Scan], layout: discovery.Layout) -> tuple[list[Scan], tuple[str, ...]]:
    # the list may also lie in TRAINING, or beside it where the cohort is the folder above
    parts = dict.fromkeys(found.folder.parent for found in layout.cases)
    places = [layout.folder, *parts, *(part.parent for part in parts)]
    own = patients.own_list(places if layout.kind == "ISLES 2018" else places[:1])
    known, notes = patients.assign([(s.id, s.name, s.number) for s in scans], own, layout.folder)
    alone = ("Its patient is not known: it counts as a patient of its own.",)
    return [
        replace(scan, patient=known[scan.id]) if scan.id in known else replace(scan, notes=scan.notes + alone)
        for scan in scans
    ], notes


def _brain(ctp, dt: float, header: nifti.Header):
    from perfkit import curves, masks

    first = ctp[..., 0]
    soft = (first > 0) & (first < 100)  # HU; tissue shows the bolus, air and bone only noise
    soft = soft if soft.any() else np.ones_like(soft)
    mean = np.array([ctp[..., t][soft].mean(dtype=float) for t in range(ctp.shape[-1])])
    baseline = ctp[..., : curves.n_baseline(mean, dt)].mean(axis=-1, dtype=np.float32)
    shifted = ((first > 1024) & (first < 1124)).mean() > OFFSET_SHARE
    try:
        brain = None if shifted else masks.brain_mask(baseline, checks.spacing_of(header.affine))
    except ValueError as problem:
        raise ValueError(f"{header.path}: {problem}") from None
    if brain is None or not brain.any():
        hint = "Subtract 1024" if shifted else "Convert to HU, or give a brain mask beside the series"
        raise ValueError(
            f"{header.path}: a scan shows brain, 0-100 HU before the contrast; none was found in values from "
            f"{ctp.min()} to {ctp.max()}. {hint}."
        )
    return brain
