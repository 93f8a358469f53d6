"""BIDS-like trees, PyPeT's too: names and places only, no image is opened. ::

    participants.tsv                                         optional
    sub-X[/ses-Y]/[…/]sub-X[_ses-Y][_run-1]_{ctp,pwi,4dpwi,perfusion}.nii.gz, .json
    sub-X[/ses-Y]/[…/]sub-X[_ses-Y][…]_{core,lesion,brain}[-mask].nii.gz
    sub-X[/ses-Y]/[…/]sub-X[_ses-Y][…]_{label-lesion,desc-brain}_mask.nii.gz
    sub-X[/ses-Y]/perfusion-maps/…_{cbf,cbv,mtt,tmax,ttp}.nii.gz

All scans of ``sub-X`` are one patient's. A mask of the lesion in another session than the series shows the
infarct at follow-up, ``final_infarct``, not the core. What lies in ``derivatives`` are results of programs,
ours too, and never taken for the truth.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from perfkit import nifti
from perfkit.foundfiles import Found, Layout, doubled, folders, natural, visible, walk

KIND = "BIDS-like"
_SUBJECT = re.compile(r"sub-[a-z0-9]+$", re.IGNORECASE)
_SESSION = re.compile(r"ses-[a-z0-9]+$", re.IGNORECASE)
_SERIES = re.compile(r"(?:^|_)(ctp|4dpwi|pwi|perfusion)$", re.IGNORECASE)
_MASK = re.compile(
    r"(?:^|_)(?:label-|desc-)?(?P<role>core|lesion|brain)(?:[_-]?ma?sk|_dseg)?$", re.IGNORECASE
)
_IMAGE = re.compile(r"(?:^|_)(cbf|cbv|mtt|tmax|ttp|delay|ncct|cta|ct|dwi|adc)$", re.IGNORECASE)
_ENTITY = re.compile(r"(?:^|_)([a-z]+)-([a-z0-9]+)(?=_|$)", re.IGNORECASE)
_FREE = ("sub", "ses", "space", "desc", "label", "res", "den")  # entities that tell no acquisitions apart
_ASIDE = ("derivatives", "sourcedata", "code", "phenotype", "stimuli", "rawdata", "raw_data", "logs")
_DEPTH = 3  # folders below a subject's: session, datatype and perfusion-maps


def find(folder: Path) -> Layout | None:
    """Recognise a BIDS-like tree.

    Parameters
    ----------
    folder : the tree; its subjects lie in it, or in its ``rawdata``

    Returns
    -------
    Layout of kind "BIDS-like"; None where there are no subjects with a series of the name, or images outside
    of the subjects' folders.
    """
    root = next(
        (place for place in (folder, folder / "rawdata", folder / "raw_data") if _subjects(place)), None
    )
    if root is None or any(_strays(folder, root)):
        return None
    files = {subject: list(walk(subject, _DEPTH)) for subject in _subjects(root)}
    if not any(_SERIES.search(nifti.stem(path)) for paths in files.values() for path in paths):
        return None
    unused: list[Path] = []
    cases = [case for subject, paths in files.items() for case in _subject(subject, paths, unused)]
    return Layout(KIND, folder, cases, tuple(unused), _notes(folder, root, files))


def _subjects(folder: Path) -> list[Path]:
    return [entry for entry in folders(folder) if _SUBJECT.match(entry.name)] if folder.is_dir() else []


def _strays(folder: Path, root: Path):
    """NIfTI files outside of the subjects' folders: names must decide there."""
    for place in {folder, root}:
        for entry in visible(place):
            if nifti.is_nifti(entry) and entry.is_file():
                yield entry
            elif entry.is_dir() and not _SUBJECT.match(entry.name) and entry.name.lower() not in _ASIDE:
                yield from walk(entry, _DEPTH)


def _entities(path: Path) -> dict[str, str]:
    return {key.lower(): value for key, value in _ENTITY.findall(nifti.stem(path))}


def _session(path: Path, subject: Path) -> str:
    inside = path.relative_to(subject).parts[:-1]
    folder = next((name[4:] for name in inside if _SESSION.match(name)), "")
    return _entities(path).get("ses", folder)


def _subject(subject: Path, paths: list[Path], unused: list[Path]) -> list[Found]:
    groups, others = defaultdict(list), []
    for path in paths:
        if _SERIES.search(nifti.stem(path)):
            groups[_id(path, subject)].append(path)
        else:
            others.append(path)
    if not groups:
        listed = ", ".join(path.name for path in others[:3]) or "nothing"
        return [_without_series(subject, listed)]
    sessions = [_session(series[0], subject) for series in groups.values()]
    used, cases = set(), []
    for (case_id, series), session in zip(groups.items(), sessions, strict=True):
        own = _companions(series[0], session, subject, others, alone=sessions.count(session) == 1)
        used.update(path for found in own.values() for path in found)
        cases.append(_case(case_id, subject, series, own))
    unused += [path for path in others if path not in used]
    return sorted(cases, key=lambda case: natural(case.id))


def _id(series: Path, subject: Path) -> str:
    if _entities(series).get("sub"):
        return _SERIES.sub("", nifti.stem(series))
    stem = _SERIES.sub("", nifti.stem(series))
    places = [name for name in series.relative_to(subject).parts[:-1] if _SESSION.match(name)]
    return "_".join(filter(None, (subject.name, *places, stem)))


def _companions(series: Path, session: str, subject: Path, others: list[Path], *, alone: bool):
    """Files of a series by role: of its session and acquisition; masks of other sessions are follow-up."""
    mine = {key: value for key, value in _entities(series).items() if key not in _FREE}
    own = defaultdict(list)
    for path in others:
        here = _session(path, subject) == session
        theirs = {key: value for key, value in _entities(path).items() if key not in _FREE}
        same = all(theirs.get(key, mine[key] if alone else None) == mine[key] for key in mine)
        mask, image = _MASK.search(nifti.stem(path)), _IMAGE.search(nifti.stem(path))
        role = ("brain" if mask["role"].lower() == "brain" else "core") if mask else None
        if role == "core" and not here:
            own["final infarct"].append(path)
        elif here and same and role:
            own[role].append(path)
        elif here and same and image:
            own[image[1].lower()].append(path)
    return own


def _case(case_id: str, subject: Path, series: list[Path], own: Mapping[str, list[Path]]) -> Found:
    alone = {role: own[role] for role in ("core", "brain", "final infarct") if role in own}
    # of maps in several spaces the one without space- comes first: it is the least interpolated
    first = {role: min(paths, key=lambda path: "space" in _entities(path)) for role, paths in own.items()}
    return Found(
        id=case_id,
        folder=series[0].parent,
        name=case_id,
        patient=subject.name,
        series=series[0],
        core=first.pop("core", None),
        brain=first.pop("brain", None),
        final_infarct=first.pop("final infarct", None),
        vendor=first,
        problem=doubled(subject, {"series": series, **alone}),
    )


def _without_series(subject: Path, listed: str) -> Found:
    return Found(
        id=subject.name,
        folder=subject,
        name=subject.name,
        patient=subject.name,
        series=None,
        problem=(
            f"{subject}: a subject needs a perfusion series ({subject.name}_ctp.nii.gz); there is {listed}. "
            "Add it, or leave the subject out."
        ),
    )


def _notes(folder: Path, root: Path, files: Mapping[Path, list[Path]]) -> tuple[str, ...]:
    notes = []
    if (folder / "derivatives").is_dir():
        notes.append(
            "Files in derivatives are results and not read: name masks that are the truth in scans.csv."
        )
    path = next((p / "participants.tsv" for p in (folder, root) if (p / "participants.tsv").is_file()), None)
    return (*notes, *(_participants(path, {subject.name for subject in files}) if path else ()))


def _participants(path: Path, subjects: set[str]):
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, delimiter="\t")
            if "participant_id" not in (rows.fieldnames or ()):
                yield f"{path.name} has no column participant_id: it is not read."
                return
            listed = {row["participant_id"] for row in rows if row["participant_id"]}
    except (UnicodeDecodeError, csv.Error) as problem:
        yield f"{path.name} is not read: {problem}."
        return
    listed = {name if name.startswith("sub-") else f"sub-{name}" for name in listed}
    for words, names in (("has no folder", listed - subjects), ("is not in it", subjects - listed)):
        if names:
            some = ", ".join(sorted(names, key=natural)[:3]) + (" …" if len(names) > 3 else "")
            yield f"{path.name}: {len(names)} of the subjects {words}: {some}."
