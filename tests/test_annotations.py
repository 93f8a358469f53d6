"""The store keeps every pick that was reported saved, and says where a line is broken."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings

import filelock
import pytest

from perfkit import annotations, durable, paths
from perfkit.annotations import AnnotationWarning, Pick

HEADER = "case,voxels,vof_voxels,time,comment,version\n"
# Each pick's number is printed after append has returned: whatever was printed, was reported saved.
WRITER = """
import sys
from perfkit.annotations import Pick, append
for i in range(int(sys.argv[3])):
    append(sys.argv[1], Pick(f"{sys.argv[2]}-{i}", ((i, 0, 0),), comment="M1, " * (i % 7)))
    print(f"{sys.argv[2]}-{i}", flush=True)
"""


def writer(path, name, n=50):
    command = [sys.executable, "-c", WRITER, str(path), name, str(n)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill_after_first_pick(process, seconds):
    """Let a writer report one pick and SIGKILL it that much later; return what it had reported."""
    first = process.stdout.readline()
    time.sleep(seconds)
    process.kill()
    rest, _ = process.communicate(timeout=60)
    return [line for line in (first + rest).splitlines() if line]


def read_with_warnings(path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return annotations.read(path), [str(warning.message) for warning in caught]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "aif" / "cohort" / "rater.csv"


def test_a_pick_comes_back_as_it_went(path):
    pick = Pick("case_7", ((1, 2, 3), (4, 5, 6)), ((7, 8, 0),), comment='M1, "left"\nunsure; µ')
    annotations.append(path, pick)
    assert annotations.read(path) == [pick]
    assert pick.comment == 'M1, "left" unsure; µ'


def test_the_file_is_plain_text(path):
    annotations.append(path, Pick("case_1", ((1, 2, 3), (4, 5, 6)), (), "2020-10-04T09:30:00+00:00", "ok"))
    assert path.read_text() == (
        "case,voxels,vof_voxels,time,comment,version\ncase_1,1 2 3; 4 5 6,,2020-10-04T09:30:00+00:00,ok,1\n"
    )
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(".")] == ["rater.csv"]


def test_the_latest_pick_counts_and_an_empty_one_withdraws(path):
    for hour, case, voxels in [
        (10, "a", [(0, 0, 1)]), (9, "a", [(0, 0, 2)]), (10, "b", [(0, 0, 3)]), (11, "b", [(0, 0, 4)]),
        (11, "c", [(0, 0, 5)]), (12, "c", []), (9, "d", [(0, 0, 6)]), (9, "d", [(0, 0, 7)]),
    ]:  # fmt: skip
        annotations.append(path, Pick(case, tuple(voxels), time=f"2020-10-04T{hour:02}:00:00+00:00"))
    found = annotations.latest(path)
    assert {case: pick.voxels[0][2] for case, pick in found.items()} == {"a": 1, "b": 4, "d": 7}


@pytest.mark.parametrize(
    "broken", ["case_2,1 2", 'case_2,"1 2 3,,', "case_2,1 2 x,,2020-10-04,,1", "case_2,1 2 3,,soon,,1"]
)
def test_a_corrupt_line_is_reported_with_its_number_and_kept(path, broken):
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    with path.open("a") as file:
        file.write(broken)  # a killed writer: no end of line
    annotations.append(path, Pick("case_3", ((4, 5, 6),)))
    with pytest.warns(AnnotationWarning, match="line 3"):
        assert [pick.case for pick in annotations.read(path)] == ["case_1", "case_3"]
    assert broken in path.read_text().splitlines()


def test_a_spreadsheet_may_have_saved_it(path):
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    annotations.append(path, Pick("case_2", ((1, 2, 3),)))
    assert [pick.case for pick in annotations.read(path)] == ["case_1", "case_2"]


def test_a_file_of_another_kind_is_left_alone(path):
    path.parent.mkdir(parents=True)
    path.write_text("imageID,AIFx\n1,2\n")
    for action in (annotations.read, lambda p: annotations.append(p, Pick("a", ((1, 2, 3),)))):
        with pytest.raises(ValueError, match=r"rater\.csv is not a file of picks"):
            action(path)
    assert path.read_text() == "imageID,AIFx\n1,2\n"


@pytest.mark.parametrize("voxels", [((1, 2),), ((1, 2, -3),), (1, 2, 3), ((1, 2, 3.5),)])
def test_a_voxel_is_three_whole_numbers(voxels):
    with pytest.raises(ValueError, match="three whole numbers"):
        Pick("case_1", voxels)


def kill_again_and_again(path, seed, rounds):
    """Kill writers at random moments; every pick they reported is there, and writing goes on."""
    rng = random.Random(seed)
    print(f"seed {seed}")
    reported, killed = [], 0
    for i in range(rounds):
        process = writer(path, f"w{i}")
        reported += kill_after_first_pick(process, rng.uniform(0, 0.06))
        killed += process.returncode != 0
        annotations.append(path, Pick(f"after-{i}", ((i, 1, 1),)))  # at once: the dead hold no lock
        reported.append(f"after-{i}")
    picks, told = read_with_warnings(path)
    cases = [pick.case for pick in picks]
    assert set(reported) <= set(cases)
    assert len(cases) == len(set(cases))
    assert len(told) <= killed
    return killed, reported


def test_no_pick_that_was_reported_saved_is_lost_to_a_kill(path):
    killed, reported = kill_again_and_again(path, seed=random.randrange(10**6), rounds=30)
    assert killed >= 15  # else the kills came too late to prove anything
    assert len(reported) > 60


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_nor_to_two_hundred_kills(path, seed):
    kill_again_and_again(path, seed, rounds=40)


def test_each_of_four_processes_at_once_keeps_its_own_though_two_are_killed(path):
    processes = {name: writer(path, name, 40) for name in "abcd"}
    reported = [*kill_after_first_pick(processes["a"], 0.02), *kill_after_first_pick(processes["b"], 0.01)]
    for name in "cd":
        out, _ = processes[name].communicate(timeout=60)
        assert processes[name].returncode == 0
        reported += out.split()
    picks, told = read_with_warnings(path)
    assert set(reported) <= {pick.case for pick in picks}
    assert {f"{name}-{i}" for name in "cd" for i in range(40)} <= set(reported)
    assert len(told) <= 2


def test_two_tabs_of_one_process_take_turns(path):
    def write(name):
        for i in range(40):
            annotations.append(path, Pick(f"{name}{i}", ((i, 0, 0),)))

    tabs = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert set(annotations.latest(path)) == {f"{name}{i}" for name in "ab" for i in range(40)}


def test_a_lock_that_cannot_be_had_is_said_and_nothing_is_written(path, monkeypatch):
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    before = path.read_bytes()
    monkeypatch.setattr(durable, "LOCK_SECONDS", 0.2)
    with (
        filelock.FileLock(path.parent / ".rater.csv.lock"),
        pytest.raises(TimeoutError, match=r"rater\.csv: one program writes at a time.*Nothing was saved"),
    ):
        annotations.append(path, Pick("case_2", ((1, 2, 3),)))
    assert path.read_bytes() == before
    assert list(annotations.latest(path)) == ["case_1"]  # a reader waits for nobody
    annotations.append(path, Pick("case_2", ((1, 2, 3),)))


def test_a_killed_holder_leaves_no_lock_behind(path):
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    code = (
        "import sys, time, filelock\n"
        "filelock.FileLock(sys.argv[1]).acquire(); print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(path.parent / ".rater.csv.lock")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.communicate()
    annotations.append(path, Pick("case_2", ((1, 2, 3),)))
    assert list(annotations.latest(path)) == ["case_1", "case_2"]


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on the size of files")
@pytest.mark.parametrize("room", [0, 1, 20, 40])
def test_a_full_disk_costs_the_pick_in_progress_only(path, room):
    """A real limit, in a real process: the line stops after `room` bytes."""
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    code = """
import resource, sys
from perfkit.annotations import Pick, append
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    append(sys.argv[1], Pick("case_2", ((1, 2, 3),)))
except OSError as error:
    print("refused:", error)
"""
    command = [sys.executable, "-c", code, str(path), str(path.stat().st_size + room)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.startswith("refused:")
    assert [pick.case for pick in read_with_warnings(path)[0]] == ["case_1"]
    annotations.append(path, Pick("case_3", ((4, 5, 6),)))
    picks, told = read_with_warnings(path)
    assert [pick.case for pick in picks] == ["case_1", "case_3"]
    assert len(told) == (1 if room else 0)
    assert all("line 3 is skipped" in words for words in told)
    assert path.read_text().count("\n") == (4 if room else 3)


def test_a_line_that_went_out_in_part_is_not_reported_saved(path, monkeypatch):
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "write", lambda handle, data: write(handle, data[:12]))
        with pytest.raises(OSError, match="only in part and is not saved"):
            annotations.append(path, Pick("case_2", ((1, 2, 3),)))
    annotations.append(path, Pick("case_3", ((4, 5, 6),)))
    with pytest.warns(AnnotationWarning, match="line 3"):
        assert list(annotations.latest(path)) == ["case_1", "case_3"]


def test_what_may_not_be_written_is_said_in_words(path, monkeypatch):
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    open_ = os.open

    def refuse(name, flags, *rest, **more):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, "Permission denied", str(name))
        return open_(name, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)  # root may write anywhere: a read-only folder would prove nothing
    with pytest.raises(PermissionError, match=r"rater\.csv: saving needs the right to write.*take another"):
        annotations.append(path, Pick("case_2", ((1, 2, 3),)))
    assert list(annotations.latest(path)) == ["case_1"]


def test_a_reader_waits_for_the_rest_of_a_line_that_is_being_written(path):
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])

    def finish():
        time.sleep(durable.SETTLE / 5)
        path.write_bytes(whole)

    thread = threading.Thread(target=finish)
    thread.start()
    assert [pick.case for pick in annotations.read(path)] == ["case_1"]
    thread.join()


def test_a_file_replaced_while_a_pick_goes_out_gets_the_pick_all_the_same(path, monkeypatch):
    """As when a spreadsheet saves, or git checks out, between our opening the file and our writing."""
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    write, replaced = durable._write, []

    def replace_first(name, handle, data):
        if not replaced:
            replaced.append(path.with_suffix(".new"))
            replaced[0].write_text(HEADER + "case_9,9 9 9,,2020-10-04,,1\n")
            replaced[0].replace(path)
        write(name, handle, data)

    monkeypatch.setattr(durable, "_write", replace_first)
    annotations.append(path, Pick("case_2", ((1, 2, 3),)))
    assert list(annotations.latest(path)) == ["case_9", "case_2"]


def test_a_new_file_and_its_folders_are_forced_to_disk(path, monkeypatch):
    synced = set()
    monkeypatch.setattr(durable, "_sync_folder", synced.add)
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    assert {path.parent, path.parent.parent, path.parent.parent.parent} <= synced


def test_missing_is_an_error_empty_and_headed_files_hold_no_picks(path):
    for read in (annotations.read, annotations.latest, annotations.standing):
        with pytest.raises(FileNotFoundError):
            read(path)
    path.parent.mkdir(parents=True)
    for content in ("", HEADER, HEADER.rstrip()):
        path.write_text(content)
        assert annotations.read(path) == [] and annotations.latest(path) == {}
        annotations.append(path, Pick("case_1", ((1, 2, 3),)))
        assert list(annotations.latest(path)) == ["case_1"]
        assert path.read_text().startswith(HEADER)


def test_a_withdrawal_stands_until_the_next_pick(path):
    annotations.append(path, Pick("a", ((1, 2, 3),)))
    annotations.append(path, Pick("a"))
    assert annotations.latest(path) == {}
    assert annotations.standing(path)["a"].voxels == ()


def test_two_processes_at_once_keep_both(path):
    processes = [writer(path, name, 40) for name in "ab"]
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0, 0]
    assert set(annotations.latest(path)) == {f"{name}-{i}" for name in "ab" for i in range(40)}
    assert len(path.read_text().splitlines()) == 81


def test_own_picks_come_before_those_delivered_with_the_cohort(tmp_path):
    cohort, root = tmp_path / "isles", tmp_path / "picks"
    mine = annotations.rater_file(cohort, "mh", root)
    for file in (mine, cohort / "aif" / "simulated-rater.csv"):
        annotations.append(file, Pick("a", ((1, 2, 3),)))
    assert annotations.raters(cohort / "TRAINING", root) == [mine, cohort / "aif" / "simulated-rater.csv"]
    with pytest.raises(ValueError, match="rater's name"):
        annotations.rater_file(cohort, "../mh", root)


def test_data_paths_of_notebooks_hold_wherever_the_kernel_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("PERFKIT_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert paths.resolve("../data/runs/x") == tmp_path / "data" / "runs" / "x"
    assert paths.resolve("runs/x") == tmp_path / "runs" / "x"
    assert paths.resolve("/runs/x").parts[-2:] == ("runs", "x")


def test_a_raters_name_has_room_for_its_lock(tmp_path):
    path = annotations.rater_file("cohort", "é" * 50, tmp_path)
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    assert path.exists()
    with pytest.raises(ValueError, match="50 characters at most: 51 came"):
        annotations.rater_file("cohort", "x" * 51, tmp_path)
