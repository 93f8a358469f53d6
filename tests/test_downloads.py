"""Downloads from a real server on loopback that breaks off, lies, forgets ranges or says no."""

import hashlib
import io
import json
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from perfkit import archives, downloads, resuming
from perfkit.downloads import SOURCES, RemoteFile

CONTENT = bytes(i % 251 for i in range(1 << 20))  # 1 MiB; a period that divides no block
NAME = "Training.zip"


class Server(ThreadingHTTPServer):
    """A server whose files and faults are attributes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.record, self.ranges = {}, None, []
        self.break_after = []  # bytes of the body after which each answer breaks off, in turn
        self.knows_ranges, self.status, self.shift = True, [], 0

    @property
    def api(self):
        return f"http://127.0.0.1:{self.server_address[1]}/api"

    def offer(self, files, *, md5=None, licence="cc-by-nc-sa-4.0"):
        """Publish files as a record."""
        self.files = files
        self.record = {
            "metadata": {"title": "A set", "license": {"id": licence}},
            "files": [
                {
                    "key": name,
                    "size": len(content),
                    "checksum": f"md5:{md5 or hashlib.md5(content).hexdigest()}",
                    "links": {"self": f"{self.api}/files/{name}/content"},
                }
                for name, content in files.items()
            ],
        }

    def remote(self, content=CONTENT, md5=None):
        self.offer({NAME: content}, md5=md5)
        return downloads.read_record(17736412, api=self.api).files[0]


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        if self.path.startswith("/api/records/"):
            return self.answer(200 if server.record else 404, json.dumps(server.record).encode())
        server.ranges.append(self.headers.get("Range"))
        if server.status:
            return self.answer(server.status.pop(0), b"no")
        content = server.files[self.path.split("/")[-2]]
        start = self.start()
        if start >= len(content):
            return self.answer(416, b"")
        headers = {}
        if start:
            headers["Content-Range"] = f"bytes {start + server.shift}-{len(content) - 1}/{len(content)}"
        body, cut = content[start:], server.break_after.pop(0) if server.break_after else None
        return self.answer(206 if start else 200, body, headers, cut)

    def start(self):
        asked = self.headers.get("Range")
        return (
            int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.server.knows_ranges else 0
        )

    def answer(self, status, body, headers=(), cut=None):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def whole_blocks(n):
    """What of n bytes is on disk when the connection breaks after them."""
    return n // resuming.BLOCK * resuming.BLOCK


def fetch(server, folder, **options):
    file = server.remote(**{k: options.pop(k) for k in ("content", "md5") if k in options})
    return downloads.fetch_file(file, folder, progress=False, wait=0.001, **options)


def zipped(entries, **attributes):
    """A zip in memory; an entry is (name, content) with attributes for all."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries:
            info = zipfile.ZipInfo(name)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return buffer.getvalue()


def saved(tmp_path, content, name="a.zip"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_a_file_comes_whole_and_nothing_is_left_beside_it(server, tmp_path):
    path = fetch(server, tmp_path)
    assert path.read_bytes() == CONTENT
    assert {p.name for p in tmp_path.iterdir()} <= {NAME, f".{NAME}.lock"}


def test_a_whole_file_is_not_fetched_again_and_a_spoilt_one_is(server, tmp_path):
    path = fetch(server, tmp_path)
    fetch(server, tmp_path)
    assert len(server.ranges) == 1
    path.write_bytes(CONTENT[:-1] + b"x")
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_a_broken_connection_goes_on_where_it_stopped(server, tmp_path):
    server.break_after = [400_000, 0, 300_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    first = whole_blocks(400_000)
    second = first + whole_blocks(300_000)
    assert server.ranges == [None, *[f"bytes={n}-" for n in (first, first, second)]]


def test_a_new_call_goes_on_where_the_last_one_gave_up(server, tmp_path):
    server.break_after = [500_000] + [0] * 3
    with pytest.raises(ConnectionError, match=r"3 times in a row.*492 kB of 1\.05 MB are kept"):
        fetch(server, tmp_path, tries=3)
    (part,) = tmp_path.glob("*.part")
    assert part.read_bytes() == CONTENT[: whole_blocks(500_000)]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] == f"bytes={whole_blocks(500_000)}-"
    assert not part.exists()


def test_the_part_of_another_version_is_not_continued(server, tmp_path):
    server.break_after = [500_000, 0]
    with pytest.raises(ConnectionError):
        fetch(server, tmp_path, tries=1)
    other = CONTENT[::-1]
    assert fetch(server, tmp_path, content=other).read_bytes() == other
    assert server.ranges[-1] is None


def test_a_server_without_ranges_is_read_from_the_start(server, tmp_path):
    server.knows_ranges, server.break_after = False, [400_000]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={whole_blocks(400_000)}-"]


def test_a_server_without_ranges_that_always_breaks_is_given_up(server, tmp_path):
    server.knows_ranges, server.break_after = False, [900_000, 500_000, 600_000, 700_000, 800_000]
    with pytest.raises(ConnectionError, match="3 times in a row"):
        fetch(server, tmp_path, tries=3)
    assert len(server.ranges) == 4


def test_a_wrong_range_is_not_written(server, tmp_path):
    server.break_after, server.shift = [400_000], 5
    with pytest.raises(ValueError, match=f"bytes from {whole_blocks(400_000)} were asked for"):
        fetch(server, tmp_path)
    assert not list(tmp_path.glob("*.part"))


def test_a_wrong_checksum_is_said_and_the_file_deleted(server, tmp_path):
    with pytest.raises(ValueError, match=r"md5 must be 0{32}; what came has another and was deleted"):
        fetch(server, tmp_path, md5="0" * 32)
    assert not [p for p in tmp_path.iterdir() if not p.name.endswith(".lock")]


def test_more_bytes_than_promised_are_refused(server, tmp_path):
    file = server.remote()
    short = RemoteFile(file.name, 1000, file.md5, file.url)
    with pytest.raises(ValueError, match="more came than the 1000 bytes"):
        downloads.fetch_file(short, tmp_path, progress=False)
    assert not list(tmp_path.glob("*.part"))


def test_fewer_bytes_than_promised_are_never_taken_for_the_file(server, tmp_path):
    file = server.remote()
    long = RemoteFile(file.name, len(CONTENT) + 1, file.md5, file.url)
    with pytest.raises(ValueError, match="no byte 1048576, though the record lists 1048577"):
        downloads.fetch_file(long, tmp_path, progress=False, tries=3, wait=0.001)
    assert not (tmp_path / NAME).exists()


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server, tmp_path):
    server.status = [503, 429]
    assert fetch(server, tmp_path / "a").read_bytes() == CONTENT
    server.status, server.ranges = [404, 404], []
    with pytest.raises(OSError, match=r"says 404 Not Found\. Look at the record"):
        fetch(server, tmp_path / "b")
    assert len(server.ranges) == 1


def test_no_server_is_said_in_words(server, tmp_path):
    file = server.remote()
    gone = RemoteFile(file.name, file.size, file.md5, "http://127.0.0.1:1/x")
    with pytest.raises(ConnectionError, match=r"2 times in a row \(Connection refused\)"):
        downloads.fetch_file(gone, tmp_path, progress=False, tries=2, wait=0.001)
    with pytest.raises(ConnectionError, match="Connection refused"):
        downloads.read_record(1, api="http://127.0.0.1:1")


@pytest.mark.skipif(sys.platform == "win32", reason="no file-size limit to stand in for a full disk")
def test_a_full_disk_keeps_what_has_come(server, tmp_path):
    file = server.remote()
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
from perfkit.downloads import RemoteFile, fetch_file
try:
    fetch_file({file!r}, {str(tmp_path)!r}, progress=False)
except OSError as error:
    print(error.errno, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "the disk is full" in done.stdout and "are kept" in done.stdout
    (part,) = tmp_path.glob("*.part")
    assert part.read_bytes() == CONTENT[: part.stat().st_size]
    assert fetch(server, tmp_path).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=300000-"


def test_too_small_a_disk_is_said_before_anything_is_fetched(server, tmp_path, monkeypatch):
    server.offer({NAME: CONTENT})
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(OSError, match=r"need 1\.05 MB, and the disk has 1 kB free"):
        get(server, tmp_path)
    assert not server.ranges


def get(server, folder, name="isles18", answer=True):
    lines = []
    options = {"agree": lambda question: answer, "api": server.api, "progress": False, "say": lines.append}
    return downloads.get_dataset(name, folder, wait=0.001, **options), lines


def test_a_set_is_downloaded_unpacked_and_its_terms_stand_beside_it(server, tmp_path):
    series = "TRAINING/case_1/SMIR.Brain.XX.O.CT_4DPWI.1/SMIR.Brain.XX.O.CT_4DPWI.1.nii"
    litter = [("__MACOSX/TRAINING/._a", b"x"), ("TRAINING/.DS_Store", b"x"), ("TRAINING/case_1/._b", b"x")]
    training = zipped([("TRAINING/", b""), (series, CONTENT), *litter])
    server.offer({NAME: training, "Notes.txt": b"hello"})
    folder, lines = get(server, tmp_path / "isles18")
    assert (folder / series).read_bytes() == CONTENT
    assert {p.name for p in folder.rglob("*") if p.is_file()} - {f".{NAME}.lock", ".Notes.txt.lock"} == {
        NAME,
        "Notes.txt",
        "TERMS.txt",
        "SMIR.Brain.XX.O.CT_4DPWI.1.nii",
    }
    terms = (folder / "TERMS.txt").read_text(encoding="utf-8")
    assert hashlib.md5(training).hexdigest() in terms
    assert "cc-by-nc-sa-4.0" in terms and "17736412" in terms
    assert any("1 files unpacked" in line for line in lines)


def test_a_second_call_fetches_and_unpacks_only_what_is_missing(server, tmp_path):
    server.offer({NAME: zipped([("a/1", b"one"), ("a/2", b"two")])})
    folder, _ = get(server, tmp_path)
    (folder / "a" / "2").unlink()
    before = (folder / "a" / "1").stat().st_mtime_ns
    get(server, tmp_path)
    assert len(server.ranges) == 1
    assert (folder / "a" / "2").read_bytes() == b"two"
    assert (folder / "a" / "1").stat().st_mtime_ns == before


def test_nothing_is_fetched_without_consent(server, tmp_path):
    server.offer({NAME: CONTENT})
    with pytest.raises(ValueError, match="terms were not accepted"):
        get(server, tmp_path / "isles18", answer=False)
    assert not server.ranges
    assert not (tmp_path / "isles18").exists()


def test_the_offer_names_terms_sizes_and_the_place(server, tmp_path):
    server.offer({NAME: zipped([("a/1", b"one")]), "train.7z": CONTENT})
    _, lines = get(server, tmp_path, "isles24")
    said = "\n".join(lines)
    for part in ("CC BY-NC-SA 4.0", "99 GB", "train.7z, 1.05 MB", str(tmp_path)):
        assert part in said
    assert "unpack it yourself" in said


def test_the_original_zips_are_recognised_by_their_md5(server, tmp_path):
    server.offer({NAME: b"x"}, md5="b6d16c456e173743e30a3fbdb3bd29a5")
    lines = []
    with pytest.raises(ValueError, match="md5 must be b6d1"):
        downloads.get_dataset(
            "isles18", tmp_path, agree=bool, api=server.api, progress=False, say=lines.append, wait=0
        )
    assert any("the original Training zip" in line for line in lines)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record.pop("files"),
        lambda record: record["files"].clear(),
        lambda record: record["files"][0].update(key="../evil"),
        lambda record: record["files"][0].update(key=".hidden"),
        lambda record: record["files"][0].update(checksum="sha256:00"),
        lambda record: record["files"][0].pop("links"),
        lambda record: record.update(files=None),
    ],
)
def test_a_record_that_is_not_open_or_not_sound_is_refused(server, spoil):
    server.offer({NAME: CONTENT})
    spoil(server.record)
    with pytest.raises(ValueError, match="lists its files with size and md5"):
        downloads.read_record(1, api=server.api)


def test_an_unknown_record_is_said_in_words(server):
    with pytest.raises(ConnectionError, match="says 404"):
        downloads.read_record(1, api=server.api)


def test_the_addresses_are_those_of_the_records():
    assert {name: source.record for name, source in SOURCES.items()} == {
        "isles18": 17736412,
        "isles24": 17652035,
        "unitobrain": None,
    }
    assert downloads.ZENODO == "https://zenodo.org/api"
    assert SOURCES["unitobrain"].page.endswith("10.21227/x8ea-vh16")


def test_what_no_program_can_fetch_says_how_a_person_can():
    with pytest.raises(ValueError, match="asks for an account"):
        downloads.get_dataset("unitobrain", agree=bool)
    with pytest.raises(ValueError, match="isles18, isles24, unitobrain: 'isles17' came"):
        downloads.get_dataset("isles17", agree=bool)


@pytest.mark.parametrize(
    "name", ["../evil", "/evil", "a/../../evil", "a\\..\\..\\evil", "C:evil", "a/../evil"], ids=ascii
)
def test_a_zip_that_leads_out_of_the_folder_writes_nothing(tmp_path, name):
    path = saved(tmp_path, zipped([("good", b"1"), (name, b"2")]))
    with pytest.raises(ValueError, match="names a place outside of the folder"):
        archives.unpack_zip(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.zip"]


def test_links_and_encrypted_entries_are_refused(tmp_path):
    link = saved(tmp_path, zipped([("a", b"/etc/passwd")], external_attr=0o120777 << 16))
    with pytest.raises(ValueError, match="it is a link"):
        archives.unpack_zip(link, tmp_path / "out")
    content = bytearray(zipped([("a", b"secret")]))
    content[content.index(b"PK\1\2") + 8] |= 1  # the flag in the central directory
    with pytest.raises(ValueError, match="it is encrypted"):
        archives.unpack_zip(saved(tmp_path, bytes(content)), tmp_path / "out")


def test_a_damaged_zip_leaves_no_half_file(tmp_path):
    content = bytearray(zipped([("a/1", b"one"), ("a/2", CONTENT)]))
    content[-200_000] ^= 255
    with pytest.raises(ValueError, match="must unpack without error"):
        archives.unpack_zip(saved(tmp_path, bytes(content)), tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["1"]
    with pytest.raises(ValueError, match="must unpack without error"):
        archives.unpack_zip(saved(tmp_path, b"no zip"), tmp_path / "out")


def test_no_file_is_overwritten(tmp_path):
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (out / "a" / "1").write_bytes(b"ONE")
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        archives.unpack_zip(saved(tmp_path, zipped([("a/1", b"one")])), out)
    assert (out / "a" / "1").read_bytes() == b"ONE"


def test_an_archive_of_several_tops_gets_a_folder_of_its_own(tmp_path):
    path = saved(tmp_path, zipped([("case_1/a", b"1"), ("case_2/a", b"2"), ("__MACOSX/x", b"3")]), "T.zip")
    places = archives.unpack_zip(path, tmp_path / "out")
    assert [p.relative_to(tmp_path / "out").as_posix() for p in places] == ["T/case_1/a", "T/case_2/a"]


@pytest.mark.parametrize(
    ("n", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (999_600, "1 MB"), (99_000_000_000, "99 GB")],
)
def test_sizes_are_read_easily(n, words):
    assert archives.readable_size(n) == words


def test_two_downloads_of_one_file_do_not_write_into_each_other(server, tmp_path, monkeypatch):
    from perfkit import durable

    monkeypatch.setattr(durable, "LOCK_SECONDS", 0.05)
    with (
        durable.locked(tmp_path / NAME),
        pytest.raises(TimeoutError, match="another has held the file"),
    ):
        fetch(server, tmp_path)
    assert not server.ranges


def test_a_host_that_nobody_knows_is_said_in_few_words(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(ConnectionError, match=r"did not come \(its address was not found\)"):
        downloads.read_record(1, api="https://nobody.invalid/api")


def test_words_of_an_error_without_a_known_shape_are_kept():
    assert resuming.in_short(OSError("odd")) == "OSError: odd"


def test_without_a_name_the_command_lists_the_sets(command_line):
    status, out, _ = command_line("data", "get")
    assert status == 0
    for part in ("zenodo.org/records/17736412", "zenodo.org/records/17652035", "10.21227/x8ea-vh16", "99 GB"):
        assert part in out


def test_the_command_downloads_with_consent_and_not_without(command_line, server, tmp_path, monkeypatch):
    server.offer({NAME: zipped([("a/1", b"one")])})
    arguments = ("data", "get", "isles18", "--to", tmp_path / "set", "--api", server.api)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    status, _, err = command_line(*arguments)
    assert status == 1 and "Nobody answered" in err
    assert not (tmp_path / "set").exists()
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    status, _, err = command_line(*arguments)
    assert status == 1 and "not accepted" in err
    status, out, _ = command_line(*arguments, "--yes")
    assert status == 0 and "perfkit data check" in out
    assert (tmp_path / "set" / "a" / "1").read_bytes() == b"one"


def test_the_command_says_why_it_cannot_download(command_line):
    status, _, err = command_line("data", "get", "unitobrain")
    assert status == 1 and "asks for an account" in err
