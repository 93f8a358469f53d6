"""How the numbers of a published table are read: what they count from, the order of axes, whose they are.

A table that counts from 1 and is read as if from 0 puts every artery one voxel aside and one slice off, and
nothing fails. So the base is declared by who brings the table, never guessed, and held against the headers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perfkit import picktables
from perfkit.annotations import Pick
from perfkit.picktables import Table

if TYPE_CHECKING:
    from perfkit.datasets import Cohort


@dataclass(frozen=True)
class Reading:
    """How three printed numbers are read: the first index of the array, and the axis of each number."""

    base: int
    axes: str = "xyz"

    def index(self, triple) -> tuple[int, int, int]:
        """Turn three printed numbers into array indices x, y, z, from 0."""
        printed = dict(zip(self.axes, triple, strict=True))
        return tuple(printed[axis] - self.base for axis in "xyz")

    def printed(self, voxel) -> tuple[int, int, int]:
        """Turn array indices into the numbers a table prints."""
        at = dict(zip("xyz", voxel, strict=True))
        return tuple(at[axis] + self.base for axis in self.axes)

    @property
    def others(self) -> tuple[Reading, ...]:
        """The readings it is easily taken for."""
        swapped = self.axes[1] + self.axes[0] + self.axes[2]
        return (
            Reading(1 - self.base, self.axes),
            Reading(self.base, swapped),
            Reading(1 - self.base, swapped),
        )

    def __str__(self) -> str:
        return f"base {self.base}" + (f", axes {self.axes}" if self.axes != "xyz" else "")

    def option(self, declared: Reading) -> str:
        """Say what to declare instead of another reading."""
        words = [f"--base {self.base}"] * (self.base != declared.base)
        return " ".join(words + [f"--axes {self.axes}"] * (self.axes != declared.axes))


@dataclass(frozen=True)
class Place:
    """A printed voxel of a scan: where it stands, whose it is, ``role`` AIF or VOF."""

    line: int
    scan: str
    role: str
    triple: tuple[int, int, int]

    def __str__(self) -> str:
        return f"line {self.line}, {self.scan}: {self.role} {' '.join(map(str, self.triple))}"


def outside(places: Iterable[Place], shapes: Mapping[str, tuple], reading: Reading) -> list[Place]:
    """List the places that fall outside their scans.

    Parameters
    ----------
    places : of scans whose shape is known.
    shapes : scan -> (X, Y, Z, …).
    reading : how the numbers are read.
    """
    return [place for place in places if not inside(reading.index(place.triple), shapes[place.scan])]


def check_headers(name, places: list[Place], shapes: Mapping[str, tuple], declared: Reading) -> None:
    """Hold a table against the sizes of its scans.

    Parameters
    ----------
    name : of the table, for the error.
    places, shapes, declared : as for ``outside``.

    Raises
    ------
    ValueError : a voxel falls outside; it names the lines, and the reading under which fewer do.
    """
    wrong = outside(places, shapes, declared)
    if not wrong:
        return
    shown = listed([f"{place} in {'×'.join(map(str, shapes[place.scan][:3]))}" for place in wrong])
    counts = {other: len(outside(places, shapes, other)) for other in declared.others}
    best = min(counts, key=counts.get)
    advice = "No other base or order of axes fits better. Is it the table of other scans?"
    if counts[best] < len(wrong):
        rest = f"{counts[best]} fall outside" if counts[best] else "none does"
        advice = f"With {best} {rest}: try {best.option(declared)}."
    raise ValueError(
        f"{name}: a voxel must lie inside its scan. Read with {declared}, {len(wrong)} of {len(places)} fall "
        f"outside ({shown}). {advice}"
    )


@dataclass(frozen=True)
class Published:
    """A table and how its numbers are read.

    Parameters
    ----------
    table : as printed.
    reading : the declared base and order of axes; None where the base was not declared.
    """

    table: Table
    reading: Reading | None

    def picks(self, cohort: Cohort) -> dict[str, Pick]:
        """Turn the rows of this cohort's scans into picks, in array indices, unchecked.

        Parameters
        ----------
        cohort : datasets.Cohort.

        Returns
        -------
        Case id -> pick; several rows of a scan are several voxels, a repeated voxel counts once.
        """
        reading = self._declared()
        groups: dict[str, dict[str, list]] = {}
        for place in places(self.table, cohort):
            roles = groups.setdefault(place.scan, {"AIF": [], "VOF": []})
            roles[place.role].append(reading.index(place.triple))
        picks = {
            scan: [tuple(dict.fromkeys(found)) for found in roles.values()] for scan, roles in groups.items()
        }
        return {scan: Pick(scan, aif, vof, comment=self.origin) for scan, (aif, vof) in picks.items()}

    @property
    def origin(self) -> str:
        """Say where a pick comes from: file, hash of its bytes, how it was read."""
        return f"imported from {self.table.path.name}, sha256 {self.table.sha256[:12]}, {self._declared()}"

    def _declared(self) -> Reading:
        if self.reading is None:
            raise ValueError(
                f"{self.table.path}: indices count from 0 or from 1, and no base was declared. "
                "Give index_base (--base) as the table's source says; it is checked."
            )
        return self.reading


def read_table(path: str | Path, *, index_base: int | None = None, axes: str = "xyz") -> Published:
    """Read a published table of AIF and VOF voxels.

    Parameters
    ----------
    path : text file in one of the two layouts of ``perfkit.picktables``.
    index_base : 0 or 1, what its indices count from. Without it the table can be looked at, not imported.
    axes : order in which it names the axes of the array (nibabel's x, y, z); ``"yxz"``: row, column, slice.

    Raises
    ------
    OSError : it cannot be opened.
    ValueError : it is no such table, or a pickle, which is never opened; base or axes are none.
    """
    if index_base is not None and (isinstance(index_base, bool) or index_base not in (0, 1)):
        raise ValueError(f"Indices count from 0 or from 1: a base of {index_base!r} came.")
    if sorted(axes) != ["x", "y", "z"]:
        raise ValueError(f"axes orders the letters x, y and z: {axes!r} came. Try xyz or yxz.")
    reading = None if index_base is None else Reading(index_base, axes)
    return Published(picktables.read_rows(path), reading)


def places(table: Table, cohort: Cohort) -> list[Place]:
    """List the printed voxels that belong to scans of a cohort, in the order of the table."""
    scans = scans_of(table, cohort)
    return [
        Place(row.line, scans[row.scan], role, triple)
        for row in table.rows
        if row.scan in scans
        for role, triple in (("AIF", row.aif), ("VOF", row.vof))
        if triple is not None
    ]


def scans_of(table: Table, cohort: Cohort) -> dict[int | str, str]:
    """What a table calls a scan -> its id, for the scans of the cohort."""
    if table.layout == "case":
        return {scan.id: scan.id for scan in cohort.scans}
    numbers: dict[int | str, str] = {}
    for scan in cohort.scans:
        if scan.number is not None and numbers.setdefault(scan.number, scan.id) != scan.id:
            raise ValueError(
                f"{cohort.folder}: the number of a 4DPWI series names one scan; {scan.number} is that of "
                f"{numbers[scan.number]} and {scan.id}. Copy them again."
            )
    return numbers


def inside(voxel, shape) -> bool:
    return all(0 <= i < n for i, n in zip(voxel, shape[:3], strict=True))


def listed(words: list[str], n: int = 3) -> str:
    return "; ".join(words[:n]) + (f"; and {len(words) - n} more" if len(words) > n else "")


def counted(ids: Iterable[str], words: str, n: int = 5) -> str:
    ids = list(ids)
    listed = ", ".join(ids[:n]) + (f" and {len(ids) - n} more" if len(ids) > n else "")
    return words.format(n=len(ids), listed=listed)
