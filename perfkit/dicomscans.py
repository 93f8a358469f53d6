"""DICOM series as scans: which files of a folder make up which, and the Case each becomes.

Any folder with DICOM files in it or below will do: series are told by their SeriesInstanceUID, not by names.
UniToBrain is told by its folders (``unitobrain``). A patient is named by a short hash of the PatientID, which
may be a name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from pathlib import Path

from perfkit import checks, dicomheaders, dicomseries, unitobrain
from perfkit.dicomcase import DicomScan, common_folder, describe
from perfkit.dicomheaders import Image
from perfkit.foundfiles import natural, visible
from perfkit.unitobrain import Unit

_OTHER = (".nii", ".gz", ".json", ".csv", ".tsv", ".txt", ".md", ".pdf", ".png", ".jpg", ".zip", ".html")
_DEPTH = 8  # folders; our choice: exports of archives nest patient, study, series and a few of their own


@dataclass(frozen=True)
class DicomFolder:
    """What a look at a folder yields: its scans, and sentences on what is skipped."""

    scans: list[DicomScan]
    notes: tuple[str, ...] = ()


def discover(folder: str | Path) -> list[DicomScan] | None:
    """List the perfusion series of a folder: the scans of ``find``."""
    found = find(folder)
    return None if found is None else found.scans


def find(folder: str | Path) -> DicomFolder | None:
    """Find DICOM perfusion series in a folder and below it; each header is read once, no pixels are.

    Parameters
    ----------
    folder : UniToBrain, an export of an archive, or the folder of one series

    Returns
    -------
    DicomFolder; series that cannot be read are among its scans with their ``problem``, images that are no
    part of a CT perfusion series in its ``notes``. None where no file is DICOM.

    Raises
    ------
    ValueError : there is DICOM and no perfusion series, with the reasons.
    """
    folder = Path(folder).resolve()
    maps: list[Path] = []
    files = [path for path in _walk(folder, _DEPTH, maps) if dicomheaders.is_dicom(path)]
    if not files:
        return None
    units, others = unitobrain.choose(files, maps)
    images, broken = _read([*units, *others])
    groups, notes = _groups(images, units, folder)
    if broken:
        notes += (f"{_count(broken, 'file')} cannot be read, e.g. {next(iter(broken.values()))}",)
    if not groups:
        raise ValueError(
            f"{folder}: a cohort needs CT perfusion series; of {_count(files, 'DICOM file')} none belongs to "
            f"one. {' '.join(notes)} Export the dynamic series of the scan."
        )
    scans = [describe(group, units.get(group[0].path)) for group in groups]
    return DicomFolder(_named(scans, folder), notes)


def _walk(folder: Path, depth: int, maps: list[Path]) -> Iterator[Path]:
    for entry in visible(folder):
        if entry.is_dir():
            if unitobrain.holds_maps(entry):
                maps.append(entry)
            elif depth:
                yield from _walk(entry, depth - 1, maps)
        elif entry.is_file() and not entry.name.lower().endswith(_OTHER):
            yield entry


def _read(files: list[Path]) -> tuple[list[Image], dict[Path, str]]:
    images, broken = [], {}
    for path in files:
        try:
            images += dicomheaders.read(path)
        except (OSError, ValueError) as problem:
            broken[path] = str(problem)
    return images, broken


def _count(things: Sized, name: str) -> str:
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


# --- which images belong together ---------------------------------------------------------------------------


def _groups(images: list[Image], units: Mapping[Path, Unit], folder: Path):
    """Images of each perfusion series, and what is said of the others."""
    series, skipped = defaultdict(list), Counter()
    for image in images:
        unit = units.get(image.path)
        reason = image.reason
        if image.derived and not unit and not reason:  # UniToBrain's own are registered and filtered
            reason = "derived from other images; the original ones are needed"
        if reason:
            skipped[_place(image.path.parent, folder), reason] += 1
        else:
            series[unit.folder if unit else image.series or image.path.parent].append(image)
    notes = [f"{place}: {n} image{'s' * (n != 1)} skipped, {why}." for (place, why), n in skipped.items()]
    groups = []
    for together in series.values():
        for group in dicomseries.split(together):
            if (n := dicomseries.n_frames(group)) >= checks.MIN_FRAMES:
                groups.append(group)
                continue
            place = _place(common_folder(group), folder)
            notes.append(
                f"{place}: {_count(group, 'image')} skipped, at most {n} in one place; a perfusion series "
                f"has {checks.MIN_FRAMES} frames or more."
            )
    return groups, tuple(notes)


def _place(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path != folder else path.name


# --- scans --------------------------------------------------------------------------------------------------


def _named(scans: list[DicomScan], folder: Path) -> list[DicomScan]:
    """Give scans their ids and patients, in natural order of the ids."""
    places = [scan.id or "_".join(scan.path.relative_to(folder).parts) or folder.name for scan in scans]
    several = Counter(places)
    numbers = [_series_number(scan) for scan in scans]
    ids = [
        f"{place}_s{number}" if several[place] > 1 and number is not None else place
        for place, number in zip(places, numbers, strict=True)
    ]
    seen, count = Counter(), Counter(ids)
    for n, name in enumerate(ids):
        seen[name] += 1
        ids[n] = f"{name}_{seen[name]}" if count[name] > 1 else name
    first: dict[str, str] = {}
    named = [_with_patient(scan, name, first) for scan, name in zip(scans, ids, strict=True)]
    return sorted(named, key=lambda scan: natural(scan.id))


def _series_number(scan: DicomScan) -> int | None:
    return scan.series.images[0][0].series_number if scan.series else None


def _with_patient(scan: DicomScan, name: str, first: dict[str, str]) -> DicomScan:
    if scan.id:
        return replace(scan, id=name)
    if scan.patient:
        note = "Its patient is named by a short hash of the PatientID, which may be a name."
        return replace(scan, id=name, notes=(*scan.notes, note))
    study = scan.series.images[0][0].study if scan.series else ""
    patient = first.setdefault(study, name) if study else name
    note = "Its PatientID names nobody: it counts as a patient of its own."
    if patient != name:
        note = f"Its PatientID names nobody: by the study it is the patient of {patient}."
    return replace(scan, id=name, patient=patient, notes=(*scan.notes, note))
