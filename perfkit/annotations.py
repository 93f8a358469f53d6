"""The store of picked AIFs: one plain CSV file per rater, readable in a spreadsheet, good in a git diff.

A pick is one line that is appended and forced to disk in one write; no line is ever rewritten. The latest
pick of a case counts, and a pick without voxels withdraws what came before; with a comment it may also say
why a case has none. A line that cannot be read is
reported with its number, left as it is, and skipped.

Writers take turns (``perfkit.durable``), so that a torn line and the next pick cannot meet. Readers take no
lock: they work where nobody may write, and never wait. A file without any byte holds no picks.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from perfkit import durable

VERSION = 1  # of the file format
COLUMNS = ("case", "voxels", "vof_voxels", "time", "comment", "version")

LONGEST_NAME = 50  # our choice: 4 bytes a letter and the lock's name beside it stay below 255 bytes

Voxel = tuple[int, int, int]


class AnnotationWarning(UserWarning):
    """A line of a picks file could not be read."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Pick:
    """The voxels one rater chose in one case; no AIF voxels and no VOF voxels: the pick is withdrawn.

    Parameters
    ----------
    case : id of the case.
    voxels : ((x, y, z), …), AIF voxels in 0-based array indices.
    vof_voxels : ((x, y, z), …), VOF voxels, may be empty.
    time : ISO 8601; default: now.
    comment : free text; line breaks become spaces.
    version : of the file format.
    """

    case: str
    voxels: tuple[Voxel, ...] = ()
    vof_voxels: tuple[Voxel, ...] = ()
    time: str = field(default_factory=_now)
    comment: str = ""
    version: int = VERSION

    def __post_init__(self):
        set_ = object.__setattr__
        set_(self, "case", " ".join(str(self.case).split()))
        set_(self, "voxels", _voxels(self.voxels))
        set_(self, "vof_voxels", _voxels(self.vof_voxels))
        set_(self, "comment", " ".join(str(self.comment).split()))  # one pick is one line
        if not self.case:
            raise ValueError("A pick must name its case: case is empty. Give the id of the case.")
        instant(self.time)


def read(path: str | Path) -> list[Pick]:
    """Read all picks of a rater, in the order of the file.

    Parameters
    ----------
    path : CSV file with the columns case, voxels, vof_voxels, time, comment, version.

    Returns
    -------
    The picks; lines that cannot be read are left out with an ``AnnotationWarning`` that gives their number.

    Raises
    ------
    OSError : the file cannot be opened.
    ValueError : it is not a picks file.
    """
    path = Path(path)
    lines = durable.read_whole(path).decode("utf-8-sig", errors="replace").splitlines()
    if not lines:
        return []
    _check_header(path, lines[0])
    picks = []
    # Line by line, never csv over the file: one torn quote would swallow every line after it.
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        try:
            picks.append(_parse(line))
        except ValueError as error:
            shown = line if len(line) <= 80 else line[:77] + "…"
            what = f"{path}, line {number} is skipped: {error} It reads {shown!r}; mend or delete it by hand."
            warnings.warn(what, AnnotationWarning, stacklevel=2)
    return picks


def append(path: str | Path, pick: Pick) -> None:
    """Add one pick to the file, made with its folders where it does not exist.

    When this returns, the line is on disk. Any number of processes may append at the same time. Where it
    raises, the picks before are as they were; what a full disk took of the line is for ``read`` to report.

    Parameters
    ----------
    path : CSV file of the rater.
    pick : the pick.

    Raises
    ------
    ValueError : the file exists and is not a picks file.
    TimeoutError : another process holds the lock and does not let go of it.
    OSError : it cannot be written.
    """
    durable.append_line(Path(path), _line(pick), ",".join(COLUMNS), _check_header)


def latest(path: str | Path) -> dict[str, Pick]:
    """Find the pick that counts for each case: the latest in time, in a tie the later line.

    Parameters
    ----------
    path : CSV file of the rater.

    Returns
    -------
    Case id -> pick, without the cases whose latest pick is withdrawn (no AIF voxels and no VOF voxels).
    """
    return {case: pick for case, pick in standing(path).items() if pick.voxels or pick.vof_voxels}


def standing(path: str | Path) -> dict[str, Pick]:
    """Find what the rater said last about each case, withdrawals among it.

    Parameters
    ----------
    path : CSV file of the rater.

    Returns
    -------
    Case id -> pick that counts, as for ``latest``; one without any voxels is a withdrawal, or a comment on
    a case that was not picked.
    """
    found: dict[str, Pick] = {}
    for pick in read(path):
        if pick.case not in found or instant(pick.time) >= instant(found[pick.case].time):
            found[pick.case] = pick
    return found


def rater_file(cohort_folder: str | Path, rater: str, aif_root: str | Path) -> Path:
    """Name the file of a rater: ``<aif_root>/<cohort>/<rater>.csv``.

    Parameters
    ----------
    cohort_folder : folder of the cohort; its name is the cohort's.
    rater : name of the rater: letters, digits, blanks, ``.``, ``-``, ``_``.
    aif_root : folder of all picks, ``data/aif`` in the repository.

    Raises
    ------
    ValueError : no file can have this name.
    TypeError : it is no text.
    """
    if not isinstance(rater, str):
        raise TypeError(f"A rater's name is text: {rater!r} came. Try initials.")
    rater = rater.strip()  # "mh " would be somebody else in a file list
    if len(rater) > LONGEST_NAME:
        raise ValueError(
            f"A rater's name becomes a file name of {LONGEST_NAME} characters at most: "
            f"{len(rater)} came. Try initials."
        )
    if not re.fullmatch(r"\w[\w .\-]*", rater):
        raise ValueError(
            f"A rater's name becomes a file name: {rater!r} has other characters than letters, digits, "
            "blanks, '.', '-' and '_'. Try initials."
        )
    return Path(aif_root) / _cohort(cohort_folder).name / f"{rater}.csv"


def raters(cohort_folder: str | Path, aif_root: str | Path) -> list[Path]:
    """List the files of picks that belong to a cohort.

    Parameters
    ----------
    cohort_folder : folder of the cohort.
    aif_root : folder of all picks, ``data/aif`` in the repository.

    Returns
    -------
    First ``<aif_root>/<cohort>/*.csv``, then ``<cohort folder>/aif/*.csv``, each by name.
    """
    folder = _cohort(cohort_folder)
    own = sorted((Path(aif_root) / folder.name).glob("*.csv"))
    return own + sorted((folder / "aif").glob("*.csv"))


def rater_files(cohort_folder: str | Path, aif_root: str | Path) -> dict[str, Path]:
    """Name the raters of a cohort with their files; one's own win over those delivered with the cohort.

    Parameters
    ----------
    cohort_folder, aif_root : as for ``raters``.

    Returns
    -------
    Rater -> file, one's own first.
    """
    files: dict[str, Path] = {}
    for file in raters(cohort_folder, aif_root):
        if file.is_file():
            files.setdefault(file.stem, file)
    return files


def _cohort(folder: str | Path) -> Path:
    folder = Path(folder).resolve()
    return folder.parent if folder.name in ("TRAINING", "TESTING") else folder


def _parse(line: str) -> Pick:
    try:
        row = next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise ValueError(f"not a line of CSV ({error}).") from None
    if len(row) < len(COLUMNS) or any(cell.strip() for cell in row[len(COLUMNS) :]):
        raise ValueError(f"{len(COLUMNS)} columns are due, {len(row)} came.")
    case, voxels, vof, time, comment, version = (cell.strip() for cell in row[: len(COLUMNS)])
    if not version.isdigit() or int(version) != VERSION:
        raise ValueError(f"version {version!r} of the format is not known, {VERSION} is.")
    return Pick(case, _split(voxels), _split(vof), time, comment, int(version))


def _split(text: str) -> list[list[str]]:
    return [triple.split() for triple in text.split(";") if triple.strip()]


def _line(pick: Pick) -> str:
    joined = ["; ".join(" ".join(map(str, v)) for v in group) for group in (pick.voxels, pick.vof_voxels)]
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(
        [pick.case, *joined, pick.time, pick.comment, str(pick.version)]
    )
    return out.getvalue()


def _voxels(triples: Iterable) -> tuple[Voxel, ...]:
    try:
        triples = [list(triple) for triple in triples]
        voxels = tuple(tuple(int(i) for i in triple) for triple in triples)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"A voxel is three whole numbers x y z: {triples!r} came.") from None
    for voxel, triple in zip(voxels, triples, strict=True):
        whole = all(isinstance(i, str) or i == int(i) for i in triple)
        if len(voxel) != 3 or min(voxel) < 0 or not whole:
            raise ValueError(f"A voxel is three whole numbers x y z, 0 or more: {triple} came.")
    return voxels


def instant(time: str) -> datetime:
    """Read the time of a pick; without a time zone it is UTC."""
    try:
        instant = datetime.fromisoformat(time)
    except (TypeError, ValueError):
        raise ValueError(f"time must be ISO 8601 like 2020-10-04T09:30:00+00:00: {time!r} came.") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _check_header(path: Path, line: str) -> None:
    names = [name.strip().strip('"') for name in line.split(",")]
    if tuple(names[: len(COLUMNS)]) != COLUMNS:
        raise ValueError(
            f"{path} is not a file of picks: its first line should read {','.join(COLUMNS)!r} but reads "
            f"{line[:120]!r}. Mend the line or take another file name."
        )
