"""Published tables of expert AIF voxels become picks of a rater, and picks become such tables.

A table is text; ``perfkit.picktables`` says which layouts are read. Whether it counts from 0 or from 1 is
declared by who brings it (``perfkit.readings``) and held against the scans (``perfkit.placement``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path

from perfkit import annotations, paths, picktables
from perfkit.annotations import Pick
from perfkit.datasets import Cohort
from perfkit.placement import Witness
from perfkit.readings import (
    Place,
    Published,
    Reading,
    check_headers,
    counted,
    listed,
    outside,
    places,
    read_table,
    scans_of,
)

__all__ = ["Imported", "Published", "export_table", "import_table", "read_table"]

CONFLICTS = ("refuse", "keep", "replace")
LAYOUTS = tuple(picktables.COLUMNS)


@dataclass(frozen=True)
class Imported:
    """What became of a table.

    Parameters
    ----------
    path : the rater's file.
    added : ids of the cases whose pick was written.
    unchanged : ids whose latest pick says the same.
    kept : ids whose latest pick says otherwise and stayed.
    unknown : what the table holds and the cohort does not.
    without : ids of the cohort the table has nothing for.
    unread : id -> why its scan could not be read; not imported.
    notes : what the reader should be told.
    """

    path: Path
    added: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def sentences(self) -> list[str]:
        """Say it in lines: first what was written, then what a reader would otherwise miss."""
        parts = [
            (self.unchanged, "{n} stood there already"),
            (self.kept, "{n} say otherwise and were kept as they are ({listed})"),
        ]
        said = "".join(f"; {counted(ids, words)}" for ids, words in parts if ids)
        lines = [f"{self.path}: {len(self.added)} added{said}."]
        if self.unread:
            lines += [f"{case} was not imported: {why}" for case, why in self.unread.items()]
        if self.unknown:
            lines.append(counted(self.unknown, "{n} of the table are not in this cohort: {listed}."))
        if self.without:
            lines.append(counted(self.without, "{n} of the cohort have no row: {listed}."))
        return [*lines, *self.notes]


def import_table(
    path: str | Path,
    cohort: Cohort,
    rater: str,
    *,
    index_base: int | None = None,
    axes: str = "xyz",
    check_curves: bool = True,
    on_conflict: str = "refuse",
    aif_root: str | Path | None = None,
    progress: bool = False,
) -> Imported:
    """Write the voxels of a published table into a rater's file of picks.

    Everything is checked before anything is written. Importing the same table again adds nothing.

    Parameters
    ----------
    path, index_base, axes : as for ``read_table``; the base must be declared.
    cohort : datasets.Cohort.
    rater : name of the rater, and of the file.
    check_curves : also load every scan and look whether contrast arrives at the voxels; else only whether
        they fall into the volumes.
    on_conflict : where the rater's latest word on a case is another one (a withdrawal too): ``"refuse"`` the
        whole table, ``"keep"`` what stands there, or ``"replace"`` it by a later line.
    aif_root : folder of all picks; default: ``aif`` in the data folder.
    progress : show a bar.

    Raises
    ------
    ValueError, OSError : the table, its base, or a conflict; the message says what would do.

    Notes
    -----
    The time of an imported pick is that of the import: a table tells no other, and so it stands after what
    it was compared with.
    """
    if on_conflict not in CONFLICTS:
        raise ValueError(f"on_conflict is one of {', '.join(CONFLICTS)}: {on_conflict!r} came.")
    root = paths.data_folder() / "aif" if aif_root is None else aif_root
    file = annotations.rater_file(cohort.folder, rater, root)
    published = read_table(path, index_base=index_base, axes=axes)
    picks, unread, notes = _checked(published, cohort, check_curves, progress)
    standing = annotations.standing(file) if file.exists() else {}
    sorted_ = {"added": [], "unchanged": [], "kept": []}
    for case, pick in picks.items():
        sorted_[_fate(pick, standing.get(case))].append(case)
    if sorted_["kept"] and on_conflict != "keep":
        if on_conflict == "refuse":
            raise ValueError(
                f"{file}: {rater} picked otherwise than {published.table.path.name} in "
                f"{counted(sorted_['kept'], '{n} cases ({listed})')}. Nothing was imported: give another "
                "rater, or --on-conflict keep or replace."
            )
        sorted_["added"] += sorted_.pop("kept")
    for case in sorted_["added"]:
        annotations.append(file, _after(picks[case], standing.get(case)))
    scans = scans_of(published.table, cohort)
    unknown = dict.fromkeys(str(row.scan) for row in published.table.rows if row.scan not in scans)
    without = tuple(case for case in cohort.ids if case not in picks and case not in unread)
    groups = {name: tuple(cases) for name, cases in sorted_.items()}
    return Imported(file, **groups, unknown=tuple(unknown), without=without, unread=unread, notes=notes)


def export_table(
    path: str | Path, picks: Mapping[str, Pick], cohort: Cohort, *, layout: str = "imageid", index_base: int
) -> Path:
    """Write picks as a table in a published layout.

    Parameters
    ----------
    path : of the CSV file; one that is there is replaced, at once and whole.
    picks : case id -> pick, as ``annotations.latest`` reads them.
    cohort : the scans they belong to.
    layout : ``"imageid"``, for ISLES 2018 alone, or ``"case"``.
    index_base : 0 or 1, what the indices shall count from.

    Returns
    -------
    Path. A pick of n voxels takes n rows, so that nothing is lost; of these, ``read_table`` makes one pick.

    Raises
    ------
    ValueError : no picks, no such layout, picks of other scans, or scans without a 4DPWI number.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is one of {', '.join(LAYOUTS)}: {layout!r} came.")
    if isinstance(index_base, bool) or index_base not in (0, 1):
        raise ValueError(f"Indices count from 0 or from 1: a base of {index_base!r} came.")
    foreign = [case for case in picks if case not in cohort.ids]
    if foreign or not picks:
        what = counted(foreign, "{n} are of none: {listed}") if foreign else "there are none"
        raise ValueError(
            f"Picks of scans of {cohort.folder} can be exported; {what}. Is it the right cohort?"
        )
    names = _names(cohort, layout)
    reading, rows = Reading(index_base), []
    for case in [case for case in cohort.ids if case in picks]:
        pick = picks[case]
        for aif, vof in zip_longest(pick.voxels, pick.vof_voxels):
            cells = [reading.printed(voxel) if voxel else ("", "", "") for voxel in (aif, vof)]
            rows.append((*names[case], *cells[0], *cells[1]))
    return picktables.write_rows(path, layout, rows)


def _names(cohort: Cohort, layout: str) -> dict[str, tuple]:
    if layout == "imageid":
        nameless = [scan.id for scan in cohort.scans if scan.number is None]
        if nameless:
            raise ValueError(
                f"{cohort.folder}: imageID is the number of a 4DPWI series of ISLES 2018, and "
                f"{counted(nameless, '{n} scans here have none ({listed})')}. Take the layout case."
            )
        return {scan.id: (scan.number,) for scan in cohort.scans}
    return {case: _case_and_set(case, cohort.kind) for case in cohort.ids}


def _case_and_set(case: str, kind: str) -> tuple[str, str]:
    if kind != "ISLES 2018":
        return case, ""
    return (case.removeprefix("testing_"), "test") if case.startswith("testing_") else (case, "train")


def _checked(published: Published, cohort: Cohort, check_curves: bool, progress: bool):
    """Hold a table against the scans; return picks, what could not be read, and notes."""
    table = published.table
    found = places(table, cohort)
    if not found:
        rows = [str(row.scan) for row in table.rows]
        raise ValueError(
            f"{table.path}: none of its {len(set(rows))} scans ({', '.join(rows[:3])} …) is in "
            f"{cohort.folder} ({', '.join(cohort.ids[:3])} …). Open the data set it was made for."
        )
    problems = cohort.problems
    whole = [place for place in found if place.scan not in problems]
    shapes = {scan.id: scan.shape for scan in cohort.scans if scan.id not in problems}
    if published.reading is None:
        counts = [f"{len(outside(whole, shapes, Reading(base)))} with base {base}" for base in (0, 1)]
        raise ValueError(
            f"{table.path}: indices count from 0 or from 1, and no base was declared. Of {len(whole)} voxels "
            f"{' and '.join(counts)} fall outside their scans. Give index_base (--base) as its source says."
        )
    check_headers(table.path, whole, shapes, published.reading)
    unread = {place.scan: problems[place.scan] for place in found if place.scan in problems}
    notes: tuple[str, ...] = ()
    if check_curves:
        broken, notes = _check_curves(published, cohort, whole, progress)
        unread |= broken
    picks = published.picks(cohort)
    picks = {case: pick for case, pick in picks.items() if case not in unread}
    return picks, unread, (*notes, *_about_the_rows(table, cohort, picks))


def _about_the_rows(table, cohort: Cohort, picks: Mapping[str, Pick]):
    """Say which scans have several rows: voxels of one artery, or a line too many."""
    scans = scans_of(table, cohort)
    rows = Counter(scans[row.scan] for row in table.rows if row.scan in scans)
    several = [
        f"{case}: {n} rows, {len(picks[case].voxels)} AIF and {len(picks[case].vof_voxels)} VOF voxels"
        for case, n in rows.items()
        if n > 1 and case in picks
    ]
    if several:
        many = f"{len(several)} scans have" if len(several) > 1 else "1 scan has"
        yield f"{many} several rows, which make one pick, a repeated voxel once ({listed(several)})."


def _check_curves(published: Published, cohort: Cohort, found: list[Place], progress: bool):
    from tqdm.auto import tqdm

    witness = Witness(published.table.path, published.reading)
    by_scan: dict[str, list[Place]] = {}
    for place in found:
        by_scan.setdefault(place.scan, []).append(place)
    broken = {}
    for case, own in tqdm(by_scan.items(), desc="looking", unit="scan", disable=not progress):
        try:
            witness.see(cohort[case], own)
        except (OSError, ValueError) as error:
            broken[case] = str(error)
    return broken, witness.judge()


def _fate(pick: Pick, standing: Pick | None) -> str:
    if standing is None:
        return "added"
    same = set(pick.voxels) == set(standing.voxels) and set(pick.vof_voxels) == set(standing.vof_voxels)
    return "unchanged" if same else "kept"


def _after(pick: Pick, standing: Pick | None) -> Pick:
    """The pick with the time of the import, or of what it replaces where a clock was ahead."""
    now = datetime.now(UTC)
    if standing is not None:
        now = max(now, annotations.instant(standing.time))
    return replace(pick, time=now.isoformat(timespec="milliseconds"))
