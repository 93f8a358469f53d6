"""Which files of a folder make up which case: names and places only, no image is opened.

A table ``scans.csv`` is asked first (``scantable``); then names decide. ISLES 2018, phantoms alike, with
``.nii`` or ``.nii.gz``::

    {TRAINING,TESTING}/case_N/SMIR.Brain.XX.O.<role>.<number>/<same name>.nii

ISLES 2024 is told by its subjects ``sub-strokeNNNN`` (``isles24``), a BIDS-like tree by ``sub-X`` with a
series ``…_ctp`` (``bids``). Anything else is a flat folder of NIfTI series: every ``*.nii`` and ``*.nii.gz``
at the top or in sub-folders is a series ``<stem>.nii.gz`` or ``<stem>_ctp.nii.gz``, unless its name marks it
as companion of one:

- ``<stem>_core``, ``_lesion`` or ``_mask``: the core;
- ``<stem>_brain``: the brain;
- ``<stem>_cbf``, ``_cbv``, ``_mtt``, ``_tmax``, ``_ttp``, ``_delay``, ``_ncct``, ``_cta``, ``_dwi``,
  ``_adc``: delivered maps and images, noted and not read.

A series alone in its sub-folder is named by the folder, and its companions may be called plainly
``core.nii.gz``, ``brain.nii.gz``.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from perfkit import bids, isles24, nifti, scantable
from perfkit.foundfiles import SERIES_WORD, Found, Layout, doubled, natural, visible, walk

PARTS = ("TRAINING", "TESTING")
_CASE = re.compile(r"case_\d+$", re.IGNORECASE)
# ".CT." and not "CT": the letters stand in every name
_SMIR = re.compile(r"\.(CT_4DPWI|CT_CBF|CT_CBV|CT_MTT|CT_Tmax|CT|OT)\.(\w+)$", re.IGNORECASE)
_COMPANION = re.compile(
    r"(?:(?P<stem>.+)[_.-])?(?P<role>(?:core|lesion|brain)(?:[_-]?mask)?|mask"
    r"|cbf|cbv|mtt|tmax|ttp|delay|ncct|cta|dwi|adc)$",
    re.IGNORECASE,
)
_DEPTH = 4  # folders below the cohort's; our choice: sub-X/ses-Y/perfusion-maps and one to spare


def check_folder(folder: str | Path) -> Path:
    """Return the absolute path of a cohort's folder; raise OSError where it is missing or a file."""
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(
            f"{folder}: the cohort's folder does not exist. Check the path, or make a phantom cohort with "
            f"`perfkit phantom`."
        )
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{folder}: a cohort is a folder; this is a file. Give the folder it lies in."
        )
    return folder.resolve()


def discover(folder: str | Path) -> Layout | None:
    """Recognise the layout of a folder and list its cases in natural order.

    Returns
    -------
    Layout, None where no recogniser finds a case.

    Raises
    ------
    OSError, ValueError
        where the folder is missing, is a file or holds more than one cohort, or its table is malformed.
    """
    folder = check_folder(folder)
    layouts = (recognise(folder) for recognise in RECOGNISERS)
    layout = next(layout for layout in layouts if layout is not None)
    return layout if layout.cases else None


def nothing_found(folder: Path) -> ValueError:
    """Error that says what a cohort's folder holds instead of scans."""
    listed = ", ".join(entry.name for entry in visible(folder)[:5]) or "nothing"
    return ValueError(
        f"{folder}: a cohort holds ISLES 2018 cases (TRAINING/case_1/SMIR…CT_4DPWI…), ISLES 2024 subjects "
        "(derivatives/sub-stroke0001/ses-01/…_ctp.nii.gz), DICOM series or NIfTI series (*.nii, *.nii.gz); "
        f"this folder holds {listed}. Unpack the data here, or make a phantom cohort."
    )


# --- ISLES 2018 ---------------------------------------------------------------------------------------------


def _isles(folder: Path) -> Layout | None:
    parts, base = _parts(folder)
    if not parts:
        return None
    cases = []
    for part, path in parts:
        # testing cases are numbered from 1 again; the name does not depend on how the cohort was opened
        prefix = "testing_" if part == "TESTING" else ""
        for case in _case_folders(path):
            cases.append(_isles_case(case, prefix + case.name, path.parent / "truth" / case.name, part))
    return Layout("ISLES 2018", base, cases)


def _parts(folder: Path) -> tuple[list[tuple[str, Path]], Path]:
    """Parts (TRAINING, TESTING) of the tree and the folder that stands for the cohort."""
    if folder.name.upper() in PARTS and _case_folders(folder):
        return [(folder.name.upper(), folder)], folder.parent
    if any(_SMIR.search(nifti.stem(entry)) for case in _case_folders(folder) for entry in visible(case)):
        return [("TRAINING", folder)], folder
    if parts := _children_parts(folder):
        return parts, folder
    below = [(child, _children_parts(child)) for child in visible(folder) if child.is_dir()]
    below = [(child, parts) for child, parts in below if parts]
    names = Counter(part for _, parts in below for part, _ in parts)
    if any(count > 1 for count in names.values()):
        listed = ", ".join(child.name for child, _ in below)
        raise ValueError(
            f"{folder}: a cohort is one data set; this folder holds several: {listed}. Open one of them."
        )
    parts = sorted((part for _, parts in below for part in parts), reverse=True)
    return parts, below[0][0] if len(below) == 1 else folder


def _children_parts(folder: Path) -> list[tuple[str, Path]]:
    children = {entry.name.upper(): entry for entry in visible(folder) if entry.is_dir()}
    return [(part, children[part]) for part in PARTS if part in children and _case_folders(children[part])]


def _case_folders(folder: Path) -> list[Path]:
    return [entry for entry in visible(folder) if _CASE.match(entry.name) and entry.is_dir()]


def _isles_case(folder: Path, case_id: str, truth: Path, part: str) -> Found:
    files, problem, number = defaultdict(list), None, None
    for entry in visible(folder):
        match = _SMIR.search(nifti.stem(entry))
        if not match:
            continue
        role = match[1].upper()
        inside = (
            [f for f in visible(entry) if nifti.is_nifti(f)]
            if entry.is_dir()
            else [entry] * nifti.is_nifti(entry)
        )
        if not inside:
            problem = problem or f"{entry}: one NIfTI file is needed; there is none. Copy it again."
        files[role] += inside
        if role == "CT_4DPWI" and match[2].isdigit():
            number = int(match[2])
    problem = problem or doubled(folder, files)
    if "CT_4DPWI" not in files:
        problem = (
            f"{folder}: a case needs a perfusion series (SMIR.Brain.XX.O.CT_4DPWI.<number>/….nii); there is "
            f"{'only ' + ', '.join(files) if files else 'nothing of the kind'}. Copy it again."
        )
    first = {role: paths[0] for role, paths in files.items() if paths}
    series, core = first.pop("CT_4DPWI", None), first.pop("OT", None)
    missing = part == "TRAINING" and core is None
    return Found(
        id=case_id,
        folder=folder,
        name=folder.name,
        series=series,
        number=number,
        core=core,
        truth=truth if truth.is_dir() else None,
        vendor={role.lower().removeprefix("ct_"): path for role, path in first.items()},
        problem=problem,
        notes=("There is no core mask (OT): the core is unknown.",) if missing else (),
    )


# --- flat folder of NIfTI series ----------------------------------------------------------------------------


def _flat(folder: Path) -> Layout:
    series, companions = defaultdict(list), defaultdict(list)
    for path in walk(folder, _DEPTH):
        match = _COMPANION.match(nifti.stem(path))
        if match:
            companions[path.parent].append((match["stem"], match["role"].lower(), path))
        else:
            series[path.parent, nifti.stem(path)].append(path)
    per_folder = Counter(place for place, _ in series)
    ids = _flat_ids(folder, series, per_folder)
    used, cases = set(), []
    for (place, stem), paths in series.items():
        near = [c for where in companions if place in (where, where.parent) for c in companions[where]]
        stems = {stem, SERIES_WORD.sub("", stem), *([None] if per_folder[place] == 1 else [])}
        own = [(role, path) for base, role, path in near if base in stems]
        used.update(path for _, path in own)
        cases.append(_flat_case(ids[place, stem], stem, paths, own))
    unused = [path for found in companions.values() for _, _, path in found if path not in used]
    return Layout("NIfTI", folder, sorted(cases, key=lambda case: natural(case.id)), tuple(unused))


def _flat_ids(folder: Path, series: Iterable, per_folder: Mapping[Path, int]) -> dict:
    ids = {}
    for place, stem in series:
        above = place.relative_to(folder).parts
        short = SERIES_WORD.sub("", stem)
        ids[place, stem] = "_".join(above if above and per_folder[place] == 1 else (*above, short))
    count = Counter(ids.values())
    full = {(place, stem): "_".join((*place.relative_to(folder).parts, stem)) for place, stem in ids}
    return {key: name if count[name] == 1 else full[key] for key, name in ids.items()}


def _flat_case(case_id: str, stem: str, series: list[Path], companions: list[tuple[str, Path]]) -> Found:
    files = defaultdict(list, {"series": series})
    for role, path in companions:
        if role.startswith("brain"):
            role = "brain"
        elif role.startswith(("core", "lesion", "mask")):
            role = "core"
        files[role].append(path)
    first = {role: paths[0] for role, paths in files.items()}
    return Found(
        id=case_id,
        folder=series[0].parent,
        name=stem,
        series=first.pop("series"),
        core=first.pop("core", None),
        brain=first.pop("brain", None),
        vendor=first,
        problem=doubled(series[0].parent, files),
    )


# tried in this order; each returns a Layout, or None where the folder is of another kind
RECOGNISERS = (scantable.find, _isles, isles24.find, bids.find, _flat)
