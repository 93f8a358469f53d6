"""Broken downloads that go on where they stopped, by HTTP ranges: a downloader for pooch."""

from __future__ import annotations

import errno
import os
import re
import time
from pathlib import Path

from perfkit.archives import readable_size

TRIES = 6  # our choice: with the waits below a server may be away for half a minute
WAIT = 1.0  # s before the second try, doubled each time; our choice
TIMEOUT = 60.0  # s without a byte; our choice: far above the pauses of a loaded server
BLOCK = 1 << 15  # bytes; our choice: what a broken connection loses at most, and no slower than 1 MB
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP: later it may work
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class _Interrupted(Exception):
    """The connection or the server failed in a way that another try may mend."""


class Resuming:
    """A downloader for pooch that goes on where an earlier attempt stopped.

    Parameters
    ----------
    size : bytes of the whole file.
    part : where the unfinished file lies; its name ends in ``.<md5>.part``.
    progress : show a bar.
    tries : attempts in a row without a new byte before it gives up.
    wait : s before the second of them, doubled each time.

    Raises
    ------
    ValueError : the server sends other bytes than were asked for; what had come is deleted.
    OSError : network or disk; what has come is kept.
    """

    def __init__(self, size: int, part: Path, progress: bool, tries: int, wait: float):
        self.size, self.part, self.progress, self.tries, self.wait = size, part, progress, tries, wait

    def __call__(self, url, output_file, pooch=None):
        from tqdm.auto import tqdm

        name = self.part.name.rsplit(".", 2)[0]
        options = {"unit": "B", "unit_scale": True, "initial": self._have(), "disable": not self.progress}
        with tqdm(total=self.size, desc=name, **options) as bar:
            self._until_whole(url, bar)
        os.replace(self.part, output_file)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _until_whole(self, url, bar):
        fruitless, most = 0, self._have()
        while (have := self._have()) < self.size:
            try:
                self._attempt(url, have, bar)
            except _Interrupted as error:
                fruitless = 0 if self._have() > most else fruitless + 1
                most = max(most, self._have())
                if fruitless >= self.tries:
                    raise ConnectionError(
                        f"{url}: the connection failed {self.tries} times in a row ({error}); "
                        f"{readable_size(self._have())} of {readable_size(self.size)} are kept. The same "
                        "command goes on from there."
                    ) from None
                time.sleep(self.wait * 2 ** max(0, fruitless - 1))
        if self._have() > self.size:
            self._start_over(f"{url}: more came than the {self.size} bytes the record lists")

    def _start_over(self, reason):
        self.part.unlink(missing_ok=True)
        raise ValueError(f"{reason}. It was deleted: try again.")

    def _attempt(self, url, have, bar):
        import requests

        headers = {"Accept-Encoding": "identity"}  # a packed body has other offsets
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                offset = self._offset(url, answer, have)
                bar.n = offset
                self._write(answer, offset, bar)
        except requests.RequestException as error:
            raise _Interrupted(in_short(error)) from None
        if self._have() < self.size:
            raise _Interrupted("the connection ended early")

    def _offset(self, url, answer, have) -> int:
        """Where the body of an answer belongs: 0 where the server knows no ranges."""
        if answer.status_code in PASSING:
            raise _Interrupted(f"the server says {answer.status_code}")
        if answer.status_code == 416:  # our part does not fit what lies there
            self._start_over(f"{url}: the server has no byte {have}, though the record lists {self.size}")
        if answer.status_code not in (200, 206):
            raise OSError(
                f"{url}: the file is needed, and the server says {answer.status_code} {answer.reason}. "
                "Look at the record's page: it may have moved, or be closed."
            )
        if answer.status_code == 200:
            return 0
        said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if not said or int(said[1]) != have or said[2] not in ("*", str(self.size)):
            self._start_over(f"{url}: bytes from {have} were asked for, and other ones came")
        return have

    def _write(self, answer, offset, bar):
        try:
            with self.part.open("r+b" if self.part.exists() else "wb") as file:
                file.seek(offset)
                file.truncate()
                for block in answer.iter_content(BLOCK):
                    file.write(block)
                    bar.update(len(block))
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise OSError(
                error.errno,
                f"{self.part}: the disk is full; {readable_size(self._have())} of {readable_size(self.size)} "
                "are kept. Make room, and the same command goes on from there.",
            ) from None


def in_short(error) -> str:
    """Say a network error in a few words: requests nests them."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server says {response.status_code} {response.reason}"
    words = str(error)
    if "NameResolutionError" in words:
        return "its address was not found"
    ends = "refused|reset by peer|resolution|timed out"
    reason = re.search(rf"(?:\[Errno -?\d+\] |: )([A-Z][a-z ]+(?:{ends}))", words)
    return reason[1] if reason else f"{type(error).__name__}: {words}"[:160]
