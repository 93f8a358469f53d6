"""ISLES 2024 on disk: names and places only, no image is opened. ::

    {raw_data,derivatives}/sub-strokeNNNN/ses-01/sub-strokeNNNN_ses-01[_space-ncct]_{ctp,ncct,cta,…}.nii.gz
    {raw_data,derivatives}/sub-strokeNNNN/ses-01/perfusion-maps/…[_space-ncct]_{tmax,mtt,cbf,cbv}.nii.gz
    derivatives/sub-strokeNNNN/ses-02/…[_space-ncct]_lesion-msk.nii.gz
    phenotype/…/*.csv

The subjects are also written ``sub-strokecase0001`` and the sessions ``ses-0001``; their numbers have gaps.
The series comes from ``derivatives``, where it is corrected for motion and has frames of 1 s; from
``raw_data`` only where there is no other. The mask is the infarct at follow-up, ``final_infarct``: the core
stays unknown.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from perfkit import nifti
from perfkit.foundfiles import Found, Layout, folders, natural, visible, walk

KIND = "ISLES 2024"
_PARTS = ("derivatives", "raw_data")  # in the order of preference
_OTHER_NAMES = {"rawdata": "raw_data", "raw": "raw_data"}
_SUBJECT = re.compile(r"sub-stroke(?:case)?(\d{4})$", re.IGNORECASE)
_FILE = re.compile(
    r"(?:sub-stroke(?:case)?(?P<subject>\d+)_)?(?:ses-(?P<session>\d+)_)?(?:space-(?P<space>[a-z0-9]+)_)?"
    r"(?P<role>ctp|ncct|cta|tmax|mtt|cbf|cbv|dwi|adc|[a-z]+-msk)$",
    re.IGNORECASE,
)
_DEPTH = 2  # folders below a subject's: its session and perfusion-maps
_MAPS = ("tmax", "mtt", "cbf", "cbv")


def find(folder: Path) -> Layout | None:
    """Recognise ISLES 2024 in a folder, in the one above it or in the only such folder in it.

    Parameters
    ----------
    folder : the set, its ``derivatives`` or ``raw_data``, or the folder it was unpacked in

    Returns
    -------
    Layout of kind "ISLES 2024", a case per subject; None where no folder is named as its subjects are.

    Raises
    ------
    ValueError : the folder holds the set several times.
    """
    parts, base = _parts(folder)
    if not parts:
        return None
    subjects = defaultdict(dict)
    for part in sorted(parts, key=_PARTS.index):
        for entry in _subjects(parts[part]):
            subjects[int(_SUBJECT.match(entry.name)[1])][part] = entry
    unused: list[Path] = []
    cases = [_case(number, subjects[number], unused) for number in sorted(subjects)]
    return Layout(KIND, base, cases, tuple(unused), _notes(parts, base, cases))


def _subjects(folder: Path) -> list[Path]:
    return [entry for entry in folders(folder) if _SUBJECT.match(entry.name)]


def _name(folder: Path) -> str:
    return _OTHER_NAMES.get(folder.name.lower(), folder.name.lower())


def _children(folder: Path) -> dict[str, Path]:
    return {_name(entry): entry for entry in folders(folder) if _name(entry) in _PARTS and _subjects(entry)}


def _parts(folder: Path) -> tuple[dict[str, Path], Path]:
    """Folders of subjects by part, and the folder that stands for the cohort."""
    if _subjects(folder):
        known = _name(folder) in _PARTS
        return {_name(folder) if known else "derivatives": folder}, folder.parent if known else folder
    if parts := _children(folder):
        return parts, folder
    below = {entry: parts for entry in folders(folder) if (parts := _children(entry))}
    if len(below) > 1:
        listed = ", ".join(entry.name for entry in below)
        raise ValueError(
            f"{folder}: a cohort is one data set; this folder holds several: {listed}. Open one of them."
        )
    return next(((parts, entry) for entry, parts in below.items()), ({}, folder))


def _case(number: int, places: Mapping[str, Path], unused: list[Path]) -> Found:
    files, notes = defaultdict(list), []
    for part in _PARTS:
        for path in walk(places[part], _DEPTH) if part in places else ():
            match = _FILE.match(nifti.stem(path))
            if match and int(match["subject"] or number) == number:
                files[match["role"].lower()].append((part, (match["space"] or "").lower(), path))
            else:
                unused.append(path)
    chosen = {role: _best(role, found, notes) for role, found in files.items()}
    part, space, series = chosen.pop("ctp", ("", "", None))
    infarct = chosen.pop("lesion-msk", (None, None, None))[2]
    folder = next(iter(places.values()))
    if part == "raw_data":
        notes.append("The series is the raw one: nobody has corrected it for motion.")
    if space != "ncct" and any(chosen[role][1] == "ncct" for role in _MAPS if role in chosen):
        notes.append(
            "Its maps lie in the space of the plain CT and are brought to the series by their affines alone: "
            "a head that moved between the two scans leaves an offset."
        )
    if infarct is None:
        notes.append("There is no mask of the infarct at follow-up.")
    return Found(
        id=f"sub-stroke{number:04d}",
        folder=folder,
        name=folder.name,
        patient=f"sub-stroke{number:04d}",
        series=series,
        final_infarct=infarct,
        vendor={role.removesuffix("-msk"): path for role, (_, _, path) in chosen.items()},
        problem=None if series else _no_series(folder, chosen),
        notes=tuple(notes),
    )


def _best(role: str, found: list[tuple[str, str, Path]], notes: list[str]) -> tuple[str, str, Path]:
    """Choose one file of a role: derivatives before raw data, no ``space-`` before one, ``.nii.gz`` first."""
    ranked = sorted(found, key=lambda f: (_PARTS.index(f[0]), bool(f[1]), not f[2].name.endswith(".gz")))
    best = ranked[0]
    twins = [path for part, space, path in ranked[1:] if (part, space) == best[:2]]
    if twins:
        listed = ", ".join(path.name for path in twins)
        notes.append(f"Of its {role} files {best[2].name} is taken; {listed} beside it stays unused.")
    return best


def _no_series(folder: Path, others: Mapping) -> str:
    listed = f"only {', '.join(sorted(others, key=natural))}" if others else "nothing of the kind"
    return (
        f"{folder}: a case needs a perfusion series (ses-01/{folder.name}_ses-01_ctp.nii.gz); there is "
        f"{listed}. Unpack the set again, or leave the subject out."
    )


def _notes(parts: Mapping[str, Path], base: Path, cases: list[Found]) -> tuple[str, ...]:
    notes = []
    if "derivatives" not in parts:
        notes.append("There are no derivatives: raw series are read, and no mask of the infarct is known.")
    phenotype = next((entry for entry in visible(base) if entry.name.lower() == "phenotype"), None)
    if phenotype is not None and phenotype.is_dir():
        n = sum(not path.name.startswith(".") for path in phenotype.rglob("*.csv"))
        notes.append(f"Clinical tables lie in phenotype ({n} csv file{'s' * (n != 1)}); they are not read.")
    return tuple(notes)
