"""``scans.csv``: a small table that says which files make up which scan, where names cannot tell. ::

    id,series,core,brain,final_infarct,patient,dt,tmax,mtt,cbf,cbv,ttp
    anna_1,anna/first.nii.gz,anna/rater_mh.nii.gz,,,anna,1.5

``series`` is needed, every other column may be missing and every other cell empty. Paths are relative to the
table; ``dt`` is in s and wins over the header; ``id`` is the name of the series where it is not given.
"""

from __future__ import annotations

import csv
import difflib
import math
from pathlib import Path

from perfkit import nifti
from perfkit.foundfiles import SERIES_WORD, Found, Layout

FILE = "scans.csv"
KIND = "NIfTI table"
MAPS = ("tmax", "mtt", "cbf", "cbv", "ttp")
COLUMNS = ("id", "series", "core", "brain", "final_infarct", "patient", "dt", *MAPS)
_PATHS = ("series", "core", "brain", "final_infarct", *MAPS)
_FORBIDDEN = set('/\\:*?"<>|\0')  # in ids, which become names of files


def find(folder: Path) -> Layout | None:
    """Read the table of a folder.

    Returns
    -------
    Layout, a case per line; None where the folder holds no ``scans.csv``. A file that does not exist is the
    problem of its case alone.

    Raises
    ------
    ValueError
        naming the table, line and column where a column is missing or unknown, a scan stands twice, or a
        value cannot be one.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = _columns(path, rows.fieldnames or [])
            cases: dict[str, Found] = {}
            for row in rows:
                case = _case(folder, f"{path}, line {rows.line_num}", row, columns)
                if case.id in cases:
                    raise ValueError(
                        f"{path}, line {rows.line_num}, column id: each scan has an id of its own; "
                        f"{case.id!r} stands above already. Give one of them another id."
                    )
                cases[case.id] = case
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path}: the file must be UTF-8 text; {problem}. Save it as CSV UTF-8.") from None
    if not cases:
        raise ValueError(
            f"{path}: a table of scans has a line per scan; it has none. Add them, or delete it."
        )
    return Layout(KIND, folder, list(cases.values()))


def _columns(path: Path, header: list[str]) -> dict[str, str]:
    """Column of the file by its name here."""
    names = {(name or "").strip().lower(): name for name in header}
    if "series" not in names:
        raise ValueError(
            f"{path}, line 1: the column series is needed; the columns are {', '.join(header) or 'none'}. "
            "Let line 1 be id,series,core,patient,dt."
        )
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"Known are {', '.join(COLUMNS)}."
            raise ValueError(f"{path}, line 1, column {name or '(no name)'}: no such column is known. {hint}")
    return names


def _case(folder: Path, where: str, row: dict, columns: dict[str, str]) -> Found:
    if None in row:
        raise ValueError(f"{where}: there are more values than columns. Quote a value that holds a comma.")
    cells = {name: (row[column] or "").strip() for name, column in columns.items()}
    if not cells["series"]:
        raise ValueError(
            f"{where}, column series: each line names a series; this one has none. Add its path."
        )
    paths = {name: folder / cells[name] for name in _PATHS if cells.get(name)}
    case_id = cells.get("id") or SERIES_WORD.sub("", nifti.stem(paths["series"]))
    if set(case_id) & _FORBIDDEN:
        raise ValueError(
            f"{where}, column id: an id must be usable as a file name; it is {case_id!r}. "
            "Try letters and digits."
        )
    missing = [(name, path) for name, path in paths.items() if not path.is_file()]
    return Found(
        id=case_id,
        folder=folder,
        name=case_id,
        patient=cells.get("patient") or None,
        dt=_seconds(cells["dt"], where) if cells.get("dt") else None,
        vendor={name: paths[name] for name in MAPS if name in paths},
        problem="; ".join(f"{where}, column {name}: {path} does not exist" for name, path in missing) or None,
        **{name: paths.get(name) for name in ("series", "core", "brain", "final_infarct")},
    )


def _seconds(text: str, where: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(
            f"{where}, column dt: the frame interval is a positive number of seconds with a point; it is "
            f"{text!r}. Try 1.0, or leave it empty for the header's."
        )
    return seconds
