"""Public data sets: where each is to be had and on what terms; open ones are downloaded, resumed and checked.

pooch decides whether a file is needed and checks it; what it lacks is added here: a broken download goes on
where it stopped, by an HTTP range.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from perfkit import archives, durable, pages, paths
from perfkit.archives import readable_size
from perfkit.resuming import TIMEOUT, TRIES, WAIT, Resuming, in_short

ZENODO = "https://zenodo.org/api"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A public data set: what it is, where it lies, its terms and its size in words; ``record`` of Zenodo."""

    name: str
    title: str
    what: str
    page: str
    terms: str
    size: str
    record: int | None = None
    how: str = ""


SOURCES = {
    source.name: source
    for source in (
        Source(
            name="isles18",
            title="ISLES 2018",
            what="94 training scans with a core mask, 62 test scans without",
            page="https://zenodo.org/records/17736412",
            terms="those stated on the record's page",
            size="as the record says",
            record=17736412,
        ),
        Source(
            name="isles24",
            title="ISLES 2024",
            what="149 subjects: NCCT, CTA, CT perfusion, follow-up MRI with the final infarct",
            page="https://zenodo.org/records/17652035",
            terms="CC BY-NC-SA 4.0: name the authors, no commercial use, share alike",
            size="99 GB",
            record=17652035,
        ),
        Source(
            name="unitobrain",
            title="UniToBrain",
            what="CT perfusion of stroke patients as DICOM, with maps",
            page="https://doi.org/10.21227/x8ea-vh16",
            terms="those stated on its page at IEEE DataPort",
            size="about 80 GB, one archive",
            how="IEEE DataPort asks for an account, so no program can fetch it: open the page, sign in, "
            "download the archive and unpack it.",
        ),
    )
}
# of the zips that the SMIR server gave; data/README.md
ISLES18_ORIGINALS = {
    "b6d16c456e173743e30a3fbdb3bd29a5": "the original Training zip",
    "932a493c105024942700fe589cd441a9": "the original Testing zip",
}


@dataclass(frozen=True)
class RemoteFile:
    """A file of a record: its name, size in bytes, md5 and address."""

    name: str
    size: int
    md5: str
    url: str


@dataclass(frozen=True)
class Record:
    """What a Zenodo record says of itself: title, licence, files."""

    number: int
    title: str
    licence: str
    files: tuple[RemoteFile, ...]


def describe(source: Source) -> Iterator[str]:
    """Say in lines what a set is, where it lies, its terms and size, and how to get it."""
    yield f"{source.title} (perfkit data get {source.name}): {source.what}"
    yield f"  where  {source.page}"
    yield f"  terms  {source.terms}"
    yield f"  size   {source.size}"
    if source.how:
        yield f"  how    {source.how}"


def read_record(number: int, *, api: str = ZENODO) -> Record:
    """Ask Zenodo for the files of a record.

    Parameters
    ----------
    number : of the record.
    api : base address of the interface.

    Raises
    ------
    OSError : it cannot be reached, or there is no such record.
    ValueError : the record is not open, or the answer is none.
    """
    import requests

    url = f"{api}/records/{number}"
    try:
        answer = requests.get(url, timeout=TIMEOUT, headers={"Accept": "application/json"})
        answer.raise_for_status()
        content = answer.json()
    except requests.exceptions.JSONDecodeError:
        raise ValueError(f"{url}: a record is described in JSON; something else came. Try later.") from None
    except requests.RequestException as error:
        raise ConnectionError(
            f"{url}: the record's list of files is needed, and it did not come ({in_short(error)}). Check "
            "the network (a proxy is set by HTTPS_PROXY), or download by hand from the record's page."
        ) from None
    try:
        return _record(number, content)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{url}: an open record lists its files with size and md5; this answer does not ({error!r}). "
            "Download by hand from the record's page."
        ) from None


def _record(number, content) -> Record:
    files = []
    for entry in content["files"]:
        name, checksum = entry["key"], entry["checksum"]
        if not re.fullmatch(r"[^/\\:\0]+", name) or name.startswith("."):
            raise ValueError(f"a file is named {name!r}")
        if not (found := re.fullmatch(r"md5:([0-9a-f]{32})", checksum)):
            raise ValueError(f"the checksum of {name} is {checksum!r}")
        files.append(RemoteFile(name, int(entry["size"]), found[1], entry["links"]["self"]))
    if not files:
        raise ValueError("no files")
    about = content["metadata"]
    licence = (about.get("license") or {}).get("id", "not stated in the record")
    return Record(number, about.get("title", ""), licence, tuple(files))


def get_dataset(
    name: str,
    to: str | Path = "",
    *,
    agree: Callable[[str], bool],
    api: str = ZENODO,
    progress: bool = True,
    say: Callable[[str], None] = print,
    wait: float = WAIT,
) -> Path:
    """Download an open data set, check it, unpack its zips, and leave its terms beside it.

    Parameters
    ----------
    name : key of ``SOURCES``.
    to : folder; default: ``<data folder>/<name>``. A second call goes on where the first one stopped.
    agree : is asked one question, whether the terms are accepted and the download is wanted.
    api : base address of Zenodo's interface.
    progress : show a bar.
    say : called with lines for the reader.
    wait : s before the second try after a broken connection; doubled each time.

    Returns
    -------
    The folder: the data, ``archives/`` as downloaded, and ``TERMS.txt``.

    Raises
    ------
    ValueError : an unknown name; a set that no program can fetch; the terms are not accepted; a wrong file.
    OSError : network or disk.
    """
    source = _known(name)
    if source.record is None:
        raise ValueError(f"{source.title} cannot be downloaded by a program. {source.how} {source.page}")
    folder = paths.resolve(to) if to else paths.data_folder() / name
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--to names a folder, and {folder} is a file. Give another path.")
    record = read_record(source.record, api=api)
    for line in _offer(source, record, folder):
        say(line)
    if not agree("Do you accept the terms, and download?"):
        raise ValueError("Nothing was downloaded: the terms were not accepted.")
    kept = folder / "archives"
    kept.mkdir(parents=True, exist_ok=True)
    archives.check_room(folder, sum(f.size - _present(f, kept) for f in record.files), "the files")
    pages.write(folder / "TERMS.txt", _terms(source, record))
    for file in record.files:
        say(_unpacked(fetch_file(file, kept, progress=progress, wait=wait), file, folder))
    return folder


def _known(name: str) -> Source:
    if name not in SOURCES:
        raise ValueError(f"The sets are {', '.join(SOURCES)}: {name!r} came.")
    return SOURCES[name]


def _offer(source, record, folder):
    yield from describe(source)
    total = readable_size(sum(file.size for file in record.files))
    yield f"The record is titled {record.title!r}, its licence is {record.licence}. {total} in all:"
    for file in record.files:
        original = f", {ISLES18_ORIGINALS[file.md5]}" if file.md5 in ISLES18_ORIGINALS else ""
        yield f"  {file.name}, {readable_size(file.size)}{original}"
    yield f"They go to {folder}."


def _terms(source, record) -> str:
    files = "\n".join(f"{file.md5}  {file.name}  {file.size} bytes" for file in record.files)
    return (
        f"{source.title}: {record.title}\n{source.page}\n\nTerms: {source.terms}.\n"
        f"Licence named by the record: {record.licence}.\n"
        f"They were accepted before the download, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, and hold for every "
        f"copy.\n\nmd5 of what was downloaded:\n{files}\n"
    )


def _unpacked(path: Path, file: RemoteFile, folder: Path) -> str:
    if path.suffix.lower() == ".zip":
        n = len(archives.unpack_zip(path, folder))
        return f"{path.name}: {n} files unpacked. The archive itself is no longer needed."
    if path.suffix.lower() in (".7z", ".rar", ".tar", ".gz", ".tgz", ".xz"):
        return f"{path}: is whole. perfkit unpacks zips only: unpack it yourself, into {folder}."
    return f"{path}: is whole."


def fetch_file(
    file: RemoteFile, folder: str | Path, *, progress: bool = True, tries: int = TRIES, wait: float = WAIT
) -> Path:
    """Download one file unless it is there already; its md5 is checked in either case.

    Parameters
    ----------
    file : what to fetch.
    folder : where to. What has come of a file lies there as ``<name>.<md5>.part`` until it is whole.
    progress : show a bar.
    tries : attempts in a row without a new byte before it gives up.
    wait : s before the second of them, doubled each time.

    Raises
    ------
    ValueError : what came is not what the record lists; it was deleted.
    OSError : the network or the disk fails; what has come is kept, and the next call goes on from there.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    folder = Path(folder)
    part = _part(file, folder)
    downloader = Resuming(file.size, part, progress, tries, wait)
    with durable.locked(folder / file.name):
        try:
            where = pooch.retrieve(file.url, f"md5:{file.md5}", file.name, folder, downloader=downloader)
        except ValueError as error:
            if "hash" not in str(error):
                raise
            raise ValueError(
                f"{file.url}: the md5 must be {file.md5}; what came has another and was deleted. Try again; "
                "should it stay so, the file differs from the record's list."
            ) from None
    return Path(where)


def _part(file: RemoteFile, folder: Path) -> Path:
    """Name of the unfinished file: with its md5, so that no other version is ever continued."""
    return folder / f"{file.name}.{file.md5[:8]}.part"


def _present(file: RemoteFile, folder: Path) -> int:
    for path in (folder / file.name, _part(file, folder)):
        if path.is_file():
            return min(path.stat().st_size, file.size)
    return 0
