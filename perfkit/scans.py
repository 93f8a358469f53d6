"""One scan on disk: what its header says at once, and the Case it becomes when it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from perfkit import checks, nifti, sidecars, timing, volumes
from perfkit.case import Case
from perfkit.foundfiles import Found

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
    shape : (X, Y, Z, T) on disk; None where the header cannot be read.
    dt : s, from a table, a sidecar or the header.
    spacing : (3,), mm.
    core_path, brain_path, final_infarct_path, truth_path, vendor : the files beside the series.
    times : (T,), s, where a sidecar gives times that no interval fits; ``load`` resamples to ``dt``.
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
    final_infarct_path: Path | None = None
    truth_path: Path | None = None
    vendor: Mapping[str, Path] = field(default_factory=dict)
    times: tuple[float, ...] | None = None
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
        notes = ()
        if self.times:
            ctp, _, notes = timing.to_uniform(ctp, self.times, self.dt)
        paths = {"brain": self.brain_path, "core": self.core_path}
        masks = {role: volumes.read_mask(path, role, header) for role, path in paths.items() if path}
        infarct = None
        if self.final_infarct_path:
            infarct, told = volumes.read_final_infarct(self.final_infarct_path, header)
            notes += told
        return Case(
            id=self.id,
            patient=self.patient,
            ctp=ctp,
            dt=self.dt,
            affine=header.affine,
            brain=masks["brain"] if "brain" in masks else find_brain(ctp, self.dt, header.affine, self.path),
            core=masks.get("core"),
            final_infarct=infarct,
            vendor=self.vendor,
            vendor_maps=volumes.VendorMaps(self.vendor, header),
            truth=volumes.Truth(self.truth_path) if self.truth_path else {},
            source=self.path,
            notes=self.notes + notes,
        )

    def fingerprint(self) -> str:
        """Hash of the names, sizes and times of the files a Case is read from: changes when they do."""
        digest = hashlib.sha256(f"{self.id}|{self.patient}".encode())
        for path in filter(None, self._read_from()):
            stat = path.stat() if path.exists() else None
            digest.update(f"|{path.name}|{stat and (stat.st_size, stat.st_mtime_ns)}".encode())
        digest.update(f"|{self.dt}".encode())  # a table may give another without any of the files changing
        return digest.hexdigest()[:16]

    def _read_from(self) -> tuple[Path | None, ...]:
        beside = (self.core_path, self.brain_path, self.final_infarct_path, sidecars.beside(self.path))
        return (self.path, *beside)


def describe(found: Found) -> Scan:
    """Read the header of a case's series, and its sidecar.

    Returns
    -------
    Scan; what is wrong with the files stands in its ``problem``.
    """
    scan = Scan(
        id=found.id,
        patient=found.patient or found.id,
        path=found.series or found.folder,
        name=found.name,
        number=found.number,
        core_path=found.core,
        brain_path=found.brain,
        final_infarct_path=found.final_infarct,
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
    notes = scan.notes
    if not header.oriented:
        notes += ("The header gives no orientation: left and right are not certain.",)
    spacing = tuple(round(zoom, 5) for zoom in header.zooms)  # float32 on disk: 0.9 would read 0.89999998
    scan = replace(scan, shape=header.series_shape, spacing=spacing, notes=notes)
    try:
        scan = _timed(scan, header, found.dt)
        volumes.check_header(header)
    except (OSError, ValueError) as problem:
        return replace(scan, problem=str(problem))
    return scan


def _timed(scan: Scan, header: nifti.Header, given: float | None) -> Scan:
    """Give a scan its frame interval: that of a table, else of its sidecar, else of the header."""
    dt, notes = header.frame_interval()
    scan = replace(scan, dt=dt)
    if given is not None:
        return replace(scan, dt=checks.check_frame_interval(given, str(scan.path)))
    sidecar = sidecars.beside(scan.path)
    said = sidecars.read(sidecar, scan.shape[-1]) if sidecar else sidecars.Timing()
    if said.dt is None:
        return replace(scan, notes=scan.notes + notes)
    if notes or abs(said.dt - dt) <= timing.UNIFORM * dt:
        notes = ()  # the header's are about a guess that nobody needs now
    else:
        notes = (
            f"The header gives a frame interval of {dt:g} s, {sidecar.name} {said.dt:g} s, which counts.",
        )
    return replace(scan, dt=said.dt, times=said.times, notes=scan.notes + said.notes + notes)


def find_brain(ctp, dt: float, affine, where):
    """Find the brain in a series that comes without a mask.

    Parameters
    ----------
    ctp : (X, Y, Z, T), HU.
    dt : s.
    affine : (4, 4), mm.
    where : file or folder, for the words of an error.

    Returns
    -------
    (X, Y, Z) bool

    Raises
    ------
    ValueError : nothing in the values is brain.
    """
    from perfkit import curves, masks

    first = ctp[..., 0]
    soft = (first > 0) & (first < 100)  # HU; tissue shows the bolus, air and bone only noise
    soft = soft if soft.any() else np.ones_like(soft)
    order = "F" if ctp.flags.f_contiguous else "C"  # as it lies in memory: a view, and frames in one go
    frames = ctp.reshape(-1, ctp.shape[-1], order=order).T
    inside = soft.ravel(order)
    mean = np.array([frame[inside].mean(dtype=float) for frame in frames])
    baseline = ctp[..., : curves.n_baseline(mean, dt)].mean(axis=-1, dtype=np.float32)
    shifted = ((first > 1024) & (first < 1124)).mean() > OFFSET_SHARE
    try:
        brain = None if shifted else masks.brain_mask(baseline, checks.spacing_of(affine))
    except ValueError as problem:
        raise ValueError(f"{where}: {problem}") from None
    if brain is None or not brain.any():
        hint = "Subtract 1024" if shifted else "Convert to HU, or give a brain mask beside the series"
        raise ValueError(
            f"{where}: a scan shows brain, 0-100 HU before the contrast; none was found in values from "
            f"{ctp.min()} to {ctp.max()}. {hint}."
        )
    return brain
