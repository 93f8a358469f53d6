"""UniToBrain on disk: which folder of a case is read, and which hold the maps of the vendor. ::

    MOL-NNN_Registered_Filtered_3mm_20HU/Filtered00001.dcm …     MOL-NNN_Registered/…     MOL-NNN/…
    MOL-NNN…_Maps/NLR_{TTP,CBF,CBV,…}/…

A case may be there in three stages, of which the last is read: registered and filtered, registered, raw.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perfkit.foundfiles import folders, natural

FRAMES, DT = 89, 0.5  # s; its description: instants of each slice and their interval, but for shuttle scans
_STAGE = re.compile(r"(?P<case>MOL-\d+)(?P<registered>_Registered)?(?P<filtered>_Filtered.*)?", re.I)
_MAPS = re.compile(r"(?P<case>MOL-\d+).*_Maps", re.I)
_MAP = re.compile(r"(?:NLR_)?(?P<name>\w+)", re.I)


@dataclass(frozen=True)
class Unit:
    """The folder of a case that is read, its maps' folders by name, and sentences for the reader."""

    case: str
    folder: Path
    maps: Mapping[str, Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def holds_maps(folder: Path) -> bool:
    """Whether a folder is named as those of the maps are."""
    return bool(_MAPS.fullmatch(folder.name))


def choose(files: Iterable[Path], maps: Iterable[Path]) -> tuple[dict[Path, Unit], list[Path]]:
    """Choose the files to read.

    Parameters
    ----------
    files : DICOM files, those of maps excepted.
    maps : folders for which ``holds_maps`` is true.

    Returns
    -------
    units : for each file of UniToBrain that is read, its unit; other stages of a case are left out.
    others : files that lie in no folder of a case.
    """
    stages: dict[str, dict[Path, list[Path]]] = defaultdict(lambda: defaultdict(list))
    others = []
    for path in files:
        place = next((parent for parent in path.parents if _STAGE.fullmatch(parent.name)), None)
        if place is None:
            others.append(path)
        else:
            stages[_STAGE.fullmatch(place.name)["case"].upper()][place].append(path)
    found = defaultdict(list)
    for folder in maps:
        found[_MAPS.fullmatch(folder.name)["case"].upper()].append(folder)
    units = {}
    for case, places in stages.items():
        chosen = min(places, key=_rank)
        unit = _unit(case, chosen, [place for place in places if place != chosen], found[case])
        units |= dict.fromkeys(places[chosen], unit)
    return units, others


def _rank(place: Path):
    match = _STAGE.fullmatch(place.name)
    return not match["filtered"], not match["registered"], natural(place.name)


def _unit(case: str, chosen: Path, left: list[Path], maps: list[Path]) -> Unit:
    notes = ()
    if left:
        listed = " and ".join(sorted((place.name for place in left), key=natural))
        notes += (f"{chosen.name} is read; of the same case, {listed} is left aside.",)
    by_name = {}
    for folder in sorted(maps, key=lambda folder: (not folder.name.startswith(chosen.name), str(folder))):
        for entry in folders(folder):
            match = _MAP.fullmatch(entry.name)
            by_name.setdefault(match["name"].lower() if match else entry.name, entry)
    if by_name:
        where = ", ".join(str(place) for place in dict.fromkeys(entry.parent for entry in by_name.values()))
        notes += (f"Maps of the vendor lie in {where}: they are not read, and may have another shape.",)
    return Unit(case, chosen, by_name, notes)
