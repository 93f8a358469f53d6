"""Published tables of AIF and VOF voxels, as text: two layouts, read tolerantly and written whole.

- ``imageid``: ``imageID,AIFx,AIFy,AIFz,VOFx,VOFy,VOFz``; imageID is the number of the 4DPWI series.
- ``case``: ``case,set,aif_x,aif_y,aif_z,vof_x,vof_y,vof_z``; set says train or test.

The numbers stand here as they are printed: what they count from is said by who uses them.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

COLUMNS = {
    "imageid": ("imageID", "AIFx", "AIFy", "AIFz", "VOFx", "VOFy", "VOFz"),
    "case": ("case", "set", "aif_x", "aif_y", "aif_z", "vof_x", "vof_y", "vof_z"),
}
SEPARATORS = ",;\t"
PREFIX = {"train": "", "training": "", "test": "testing_", "testing": "testing_"}
_PICKLES = (".pkl", ".pickle", ".p", ".joblib", ".npy", ".npz", ".mat", ".sav")
_WHOLE = re.compile(r"[+-]?\d{1,9}(\.0*)?$")
_EMPTY = {"", "nan", "na", "none", "-"}

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Row:
    """One line of a table: ``scan`` is a number of a 4DPWI series or a case id, triples are as printed."""

    line: int
    scan: int | str
    aif: Triple | None
    vof: Triple | None


@dataclass(frozen=True)
class Table:
    """A table as it was read.

    Parameters
    ----------
    path : where it lies.
    layout : ``"imageid"`` or ``"case"``.
    rows : in the order of the file; several rows of one scan are several voxels.
    sha256 : of the file's bytes.
    """

    path: Path
    layout: str
    rows: tuple[Row, ...]
    sha256: str


def read_rows(path: str | Path) -> Table:
    """Read a table as it is printed.

    Columns are found by name, whatever their order and letter case; commas, semicolons or tabs separate,
    cells may be quoted, further columns are passed over. The venous columns may be missing or empty.

    Parameters
    ----------
    path : text file, UTF-8.

    Raises
    ------
    OSError : it cannot be opened.
    ValueError : it is no such table, naming the line.
    """
    path = Path(path)
    content = _text_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a table must be UTF-8 text; {error}. Save it as CSV UTF-8.") from None
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.strip(" \t,;\"'")), len(lines))
    separator, layout, columns = _header(path, first + 1, lines[first] if lines[first:] else "")
    rows = []
    for line, text in enumerate(lines[first + 1 :], start=first + 2):
        if text.strip(f" {SEPARATORS}"):
            rows.append(_row(path, line, layout, columns, _cells(path, line, text, separator), separator))
    if not rows:
        raise ValueError(f"{path}: a table has a line for each scan; this one has none below its header.")
    return Table(path, layout, tuple(rows), hashlib.sha256(content).hexdigest())


def write_rows(path: str | Path, layout: str, rows: Iterable[tuple]) -> Path:
    """Write a table; it appears under its name only when it is whole, and is then on disk.

    Parameters
    ----------
    path : of the CSV file; one that is there is replaced.
    layout : a key of ``COLUMNS``.
    rows : cells in the order of its columns.

    Raises
    ------
    OSError : the path is a folder, lies below a file, or cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; a table is a file. Try {path / 'aif.csv'}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"A table is written into a folder, and {path.parent} is, or is below, a file. Give another."
        ) from None
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS[layout])
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(draft, 0o644)  # mkstemp makes it private
        os.replace(draft, path)
    finally:
        Path(draft).unlink(missing_ok=True)
    return path


def _text_bytes(path: Path) -> bytes:
    """Read the file, unless it is a program in disguise or a workbook."""
    if path.is_dir():
        raise IsADirectoryError(f"A table is a CSV file, and {path} is a folder. Name the file in it.")
    if not path.exists():
        raise FileNotFoundError(f"A table is a CSV file, and there is none at {path}. Look at the path.")
    pickled = path.suffix.lower() in _PICKLES
    content = path.read_bytes() if not pickled else b""
    if pickled or re.match(rb"\x80[\x02-\x05]", content):
        raise ValueError(
            f"{path}: a table is text (CSV), and this is a pickle or another file of binary objects. It is "
            "not opened: unpickling runs whatever its author wrote. Ask for the table as CSV, or its numbers."
        )
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise ValueError(
            f"{path}: a table is text (CSV), and this is a workbook. Save its sheet as CSV UTF-8."
        )
    return content


def _header(path: Path, line: int, text: str) -> tuple[str, str, dict[str, int]]:
    """Find separator, layout and the place of each column (as ``aifx``, ``vofz``, ``case``, ``set``)."""
    for separator in SEPARATORS:
        cells = next(csv.reader([text], delimiter=separator, skipinitialspace=True), [])
        names = [re.sub(r"[\W_]", "", cell.lower()) for cell in cells]
        layout = "imageid" if "imageid" in names else "case" if "case" in names else None
        if layout is None or not {"aifx", "aify", "aifz"} <= set(names):
            continue
        wanted = [re.sub("_", "", name.lower()) for name in COLUMNS[layout]]
        twice = [name for name in wanted if names.count(name) > 1]
        if twice:
            raise ValueError(f"{path}, line {line}: each column stands once; {twice[0]} stands twice.")
        missing = sorted({"vofx", "vofy", "vofz"} - set(names))
        if len(missing) in (1, 2):
            raise ValueError(f"{path}, line {line}: VOFx, VOFy, VOFz belong together; {missing} are missing.")
        return separator, layout, {name: names.index(name) for name in wanted if name in names}
    raise ValueError(
        f"{path}, line {line}: a table of picks starts with {','.join(COLUMNS['imageid'])} or "
        f"{','.join(COLUMNS['case'])}; this one starts with {text[:80]!r}. Name the columns in line {line}."
    )


def _cells(path, line, text, separator) -> list[str]:
    # Line by line, never csv over the file: one torn quote would swallow every line after it.
    try:
        return next(csv.reader([text], delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: not a line of CSV ({error}). Mend the line.") from None


def _row(path, line, layout, columns, cells, separator) -> Row:
    needed = 1 + max(place for name, place in columns.items() if not name.startswith("vof"))
    if len(cells) < needed:
        raise ValueError(f"{path}, line {line}: {needed} columns are due, {len(cells)} came. Mend the line.")
    cells = [cell.strip() for cell in cells] + [""] * (1 + max(columns.values()) - len(cells))
    cell = {name: cells[place] for name, place in columns.items()}
    if separator != ",":
        cell = {name: value.replace(",", ".") for name, value in cell.items()}  # 12,0 is 12.0
    try:
        scan = _number(cell["imageid"]) if layout == "imageid" else _case(cell["case"], cell.get("set", ""))
        aif, vof = (_triple(cell, role) for role in ("aif", "vof"))
        if aif is None and vof is None:
            raise ValueError("a line names an AIF or a VOF voxel; neither came.")
    except ValueError as error:
        raise ValueError(f"{path}, line {line}: {error}") from None
    return Row(line, scan, aif, vof)


def _number(text: str) -> int:
    found = re.fullmatch(r"(?:.*CT_4DPWI\.)?(\d{1,18})(?:\.0*)?", text, flags=re.IGNORECASE)
    if not found:
        raise ValueError(f"imageID is the number of a 4DPWI series, like 345561; {text!r} came.")
    return int(found[1])


def _case(text: str, set_: str) -> str:
    """Name the case; a number or case_N needs the set, other ids stand for themselves."""
    if not text:
        raise ValueError("a line names its case; case is empty.")
    if set_ and set_.lower() not in PREFIX:
        raise ValueError(f"set says train or test; {set_!r} came.")
    found = re.fullmatch(r"(testing_)?(?:case_)?(\d{1,18})(?:\.0*)?", text, flags=re.IGNORECASE)
    if not found:
        return text
    if not set_ and not text.lower().startswith(("case_", "testing_")):
        return text  # a number alone: an id, or unknown
    prefix = PREFIX[set_.lower()] if set_ else (found[1] or "").lower()
    if found[1] and prefix != "testing_":
        raise ValueError(f"the case {text} is of the test set, but set says {set_}.")
    return f"{prefix}case_{int(found[2])}"


def _triple(cell: dict[str, str], role: str) -> Triple | None:
    values = [cell.get(role + axis, "") for axis in "xyz"]
    given = [value for value in values if value.lower() not in _EMPTY]
    if not given:
        return None
    if len(given) < 3 or not all(map(_WHOLE.match, given)) or min(map(float, given)) < 0:
        article = "an" if role == "aif" else "a"
        raise ValueError(
            f"{article} {role.upper()} voxel is three whole numbers x y z, 0 or more; {values} came."
        )
    return tuple(int(float(value)) for value in given)
