"""Zip archives from elsewhere: unpacked so that nothing leaves the folder and nothing stands half-written."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

BLOCK = 1 << 20  # bytes read at a time; our choice: large enough for a disk, small for memory
LEFTOVERS = ("__MACOSX", ".DS_Store")


def unpack_zip(path: str | Path, folder: str | Path) -> list[Path]:
    """Unpack a zip; what an earlier call has unpacked is kept, so a broken one goes on.

    Parameters
    ----------
    path : the archive.
    folder : where to; made if missing. An archive with several entries at its top gets a folder of its own
        name in it, so that two archives do not mix.

    Returns
    -------
    The files, without what macOS leaves (``__MACOSX``, ``.DS_Store``, ``._*``).

    Raises
    ------
    ValueError : no sound zip, an encrypted one, a link in it, or a name that leads out of the folder; nothing
        has then been written, unless the damage shows only in the content of a file.
    FileExistsError : a file of that name and of other content is there.
    OSError : the disk has no room for it.
    """
    path, folder = Path(path), Path(folder)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if _wanted(entry)]
            names = [_inside(entry, path) for entry in entries]
            if len({name.parts[0] for name in names}) > 1:
                folder = folder / path.stem
            places = [folder.joinpath(*name.parts) for name in names]
            _check_room(folder, entries, places)
            for entry, place in zip(entries, places, strict=True):
                _unpack(archive, entry, place)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as damage:
        raise ValueError(
            f"{path}: a zip must unpack without error; it does not ({damage}). Download it again."
        ) from None
    return places


def _wanted(entry: zipfile.ZipInfo) -> bool:
    parts = entry.filename.split("/")
    return not (entry.is_dir() or parts[-1].startswith("._") or set(parts) & set(LEFTOVERS))


def _inside(entry: zipfile.ZipInfo, path: Path) -> PurePosixPath:
    """Return the name of an entry; raise unless it is a plain file below the folder, on any system."""
    name, reason = PurePosixPath(entry.filename), None
    if name.is_absolute() or ".." in name.parts or not name.parts or set(entry.filename) & set("\\:\0"):
        reason = "it names a place outside of the folder"
    elif stat.S_ISLNK(entry.external_attr >> 16):
        reason = "it is a link"
    elif entry.flag_bits & 1:
        reason = "it is encrypted"
    if reason:
        raise ValueError(
            f"{path}: only plain files are unpacked; {entry.filename!r} is refused: {reason}. Nothing of "
            "this archive was written. Get it from its publisher."
        )
    return name


def _check_room(folder: Path, entries, places) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(entry.file_size for entry, place in zip(entries, places, strict=True) if not place.exists())
    check_room(folder, missing, "the unpacked files")


def check_room(folder: Path, n_bytes: int, what: str) -> None:
    """Raise unless the disk of a folder has room.

    Parameters
    ----------
    folder : an existing folder.
    n_bytes : room that is needed.
    what : takes the room; the error names it.

    Raises
    ------
    OSError : too little room.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise OSError(
            f"{folder}: {what} need {readable_size(n_bytes)}, and the disk has {readable_size(free)} free. "
            "Make room, or give another folder by --to."
        )


def readable_size(n_bytes: int) -> str:
    """Write a number of bytes as kB, MB or GB, powers of 1000."""
    value, unit = float(n_bytes), "bytes"
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    return f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, place: Path) -> None:
    if place.exists():
        if place.is_file() and place.stat().st_size == entry.file_size and _crc(place) == entry.CRC:
            return
        raise FileExistsError(
            f"{place}: nothing is overwritten; a file of other content has that name. Move it away, or give "
            "another folder by --to."
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        with archive.open(entry) as source, draft.open("wb") as target:
            shutil.copyfileobj(source, target, BLOCK)  # the end of the source checks its CRC
        os.replace(draft, place)
    finally:
        draft.unlink(missing_ok=True)


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            value = zlib.crc32(block, value)
    return value
