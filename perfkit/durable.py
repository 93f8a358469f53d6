"""Lines that are on disk when the call returns: locked, appended in one write, forced out.

Writers take turns: each holds a lock on ``.<name>.lock`` beside the file. The operating system gives the lock
back when its holder dies, however it dies; where a share knows no locks, ``filelock`` makes do with a marker
that names its process. The lock is not on the file itself: a spreadsheet or git replaces files, and a lock
would stay with the one that was replaced.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

LOCK_SECONDS = 5.0  # our choice: a write takes milliseconds, and somebody at the screen waits for it
LOCK_POLL = 0.005  # s between two tries; our choice: about the time a write takes
SETTLE = 0.05  # s; our choice: far above the time a writer needs for the rest of its line
START = 4096  # bytes; our choice: a first line is shorter


def append_line(path: Path, line: str, header: str, check: Callable[[Path, str], None]) -> None:
    """Add a line to a text file, made with its folders and its header where it does not exist.

    Parameters
    ----------
    path : the file, UTF-8.
    line : without its end.
    header : first line of the file, without its end.
    check : called with the path and the first line before anything is written; raises where it is wrong.

    Raises
    ------
    TimeoutError : another process holds the lock and does not let go of it.
    OSError : it cannot be written. What a full disk took of the line stays, as a line of its own.
    """
    data = f"{line}\n".encode()
    try:
        with locked(path):
            if not path.exists():
                _create(path, header)
            while not _append(path, data, header, check):
                pass  # replaced under our hands: the line went into a file nobody sees any more
    except PermissionError as error:
        raise PermissionError(
            f"{path}: saving needs the right to write this file and beside it; "
            f"{error.filename or path} may not be written. Ask for it, or take another folder or name."
        ) from None
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise type(error)(
            f"{path}: a file to save in needs a folder around it, and a folder is no file: "
            f"{error.filename or path} is in the way. Give the path of a file, like data/aif/isles/mh.csv."
        ) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the right to write to a file; a process that dies loses it at once.

    Raises
    ------
    TimeoutError : another process holds it for ``LOCK_SECONDS``.
    """
    import filelock  # 0.1 s: only who writes needs it

    _make_folder(path.parent)
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(LOCK_SECONDS, LOCK_POLL)
    except filelock.Timeout:
        raise TimeoutError(
            f"{path}: one program writes at a time, and another has held the file for {LOCK_SECONDS:g} s. "
            "Nothing was saved: save again, or close what else writes there."
        ) from None
    try:
        yield
    finally:
        lock.release()


def read_whole(path: Path) -> bytes:
    """Read a file that others append to, without a lock; a half last line gets a moment to be finished."""
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        sleep(SETTLE)
        content = path.read_bytes()
    return content


def _append(path: Path, data: bytes, header: str, check: Callable[[Path, str], None]) -> bool:
    """Write a line at the end; False where the file was replaced by another one meanwhile."""
    handle = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_BINARY", 0))
    with os.fdopen(handle, "rb", buffering=0) as file:
        start = file.read(START)
        if not start:  # somebody emptied it
            data = f"{header}\n".encode() + data
        else:
            check(path, start.partition(b"\n")[0].decode("utf-8-sig", errors="replace").rstrip("\r"))
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a killed writer's half line must not swallow this one
                data = b"\n" + data
        _write(path, handle, data)
        try:
            return os.path.samestat(os.stat(path), os.fstat(handle))
        except FileNotFoundError:
            _create(path, header)
            return False


def _create(path: Path, header: str) -> None:
    """Put a file with the header in place at once, unless somebody else was faster."""
    handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        try:
            _write(path, handle, f"{header}\n".encode())
        finally:
            os.close(handle)
        os.chmod(draft, 0o644)  # mkstemp makes it private; colleagues share a folder
        try:
            os.link(draft, path)  # unlike os.replace, never over an existing file
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            if not path.exists():
                os.replace(draft, path)
    finally:
        Path(draft).unlink(missing_ok=True)
    _sync_folder(path.parent)


def _make_folder(folder: Path) -> None:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for place in missing:
        _sync_folder(place.parent)


def _sync_folder(folder: Path) -> None:
    """Force a folder's entries to disk, where the system can: Windows and some shares cannot."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _write(path: Path, handle: int, data: bytes) -> None:
    written = os.write(handle, data)  # one call: what a kill or a full disk leaves is the start of one line
    os.fsync(handle)
    if written != len(data):
        raise OSError(f"{path}: the line was written only in part and is not saved. Is the disk full?")
