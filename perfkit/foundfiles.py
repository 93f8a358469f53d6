"""What a look at a folder yields: cases by their files, and the small tools that tell names apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perfkit import nifti

SERIES_WORD = re.compile(r"[_.-](ctp|4dpwi|pwi|perfusion)$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The files of one case. ``problem`` says why it cannot be read, in words; ``series`` is then a guess.

    ``patient`` and ``dt`` (s) are given only where names or a table tell them.
    """

    id: str
    folder: Path
    name: str
    series: Path | None
    number: int | None = None
    patient: str | None = None
    dt: float | None = None
    core: Path | None = None
    brain: Path | None = None
    final_infarct: Path | None = None
    truth: Path | None = None
    vendor: Mapping[str, Path] = field(default_factory=dict)
    problem: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """What a folder holds: its kind, the cohort's own folder, its cases, files that fit nowhere, notes."""

    kind: str
    folder: Path
    cases: list[Found]
    unused: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()


def natural(name: str) -> list:
    """Sort key that puts case_2 before case_10."""
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part
    ]


def visible(folder: Path) -> list[Path]:
    """Entries in natural order without ``.DS_Store``, ``._*`` and ``__MACOSX``."""
    entries = (entry for entry in folder.iterdir() if not entry.name.startswith((".", "__")))
    return sorted(entries, key=lambda entry: natural(entry.name))


def folders(folder: Path) -> list[Path]:
    """Visible folders in a folder, in natural order."""
    return [entry for entry in visible(folder) if entry.is_dir()]


def walk(folder: Path, depth: int) -> Iterable[Path]:
    """NIfTI files of a folder and of ``depth`` levels below it, without ``truth`` and ``aif``."""
    for entry in visible(folder):
        if entry.is_dir() and not nifti.is_nifti(entry):
            if depth and entry.name not in ("truth", "aif"):
                yield from walk(entry, depth - 1)
        elif nifti.is_nifti(entry):
            yield entry


def doubled(folder: Path, files: Mapping[str, list[Path]]) -> str | None:
    """Say that a case has two files for one purpose, where it has."""
    for role, paths in files.items():
        if len(paths) > 1:
            listed = ", ".join(str(path.relative_to(folder)) for path in paths)
            return f"{folder}: one {role} file is needed; there are {len(paths)}: {listed}. Keep one of them."
    return None
