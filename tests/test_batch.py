"""Each good case is done once and right, whatever happens to its processes; what failed is told with why."""

import csv
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import filelock
import nbformat
import numpy as np
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from perfkit import annotations, batch, batchdriver, batchplan, batchtask, datasets

BATCH = (sys.executable, "-c", "from perfkit.cli import main; main()", "batch")

PARAMETERS = 'cohort: str = ""\ncase: str = ""\nout: str = ""\nlambda_rel: float = 0.3\n'
MAPS = """
from pathlib import Path
from perfkit import single, datasets, preprocessing
prepared = preprocessing.prepare(datasets.open_cohort(cohort)[case])
print(single.map_scan(prepared, Path(out), lambda_rel=lambda_rel))
"""
TOUCH = "from pathlib import Path\nPath(out, 'said.txt').write_text(f'{case} {lambda_rel}')\n"


def notebook(path, *cells, parameters=PARAMETERS):
    """Write a notebook of code cells, the first with parameters."""
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[first, *map(new_code_cell, cells)]), path)
    return path


def hashes(folder, pattern="*.nii.gz"):
    """Hash of every map below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob(pattern))
    }


def failures(out):
    with (out / "failures.csv").open(encoding="utf-8", newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def record(out):
    return json.loads((out / "run.json").read_text(encoding="utf-8"))


@pytest.fixture
def run(tmp_path, tiny_cohort, monkeypatch):
    """Run a batch of small cases below ``tmp_path``; returns its summary and what it said."""
    monkeypatch.setattr(batchdriver, "BACKOFF", 0.01)

    def call(source, out="out", **options):
        said = []
        options = {"progress": False, "say": said.append, "cases": ["case_1", "case_2"]} | options
        summary = batch.run_batch(source, options.pop("cohort", tiny_cohort), tmp_path / out, **options)
        return summary, said

    return call


def test_each_case_gets_its_own_folder_and_parameters(tmp_path, tiny_cohort, run):
    source = notebook(tmp_path / "touch {x}.ipynb", TOUCH)  # braces mean something to papermill
    summary, said = run(source, "out {y}", parameters={"lambda_rel": "0.2"})
    out = tmp_path / "out {y}"
    assert sorted(summary.done) == ["case_1", "case_2"] and not summary.failures
    for case in summary.done:
        assert (out / case / "said.txt").read_text() == f"{case} 0.2"
        assert (out / case / source.name).is_file()
        done = json.loads((out / case / "done.json").read_text())
        assert done["parameters"] == {"lambda_rel": 0.2, "case": case, "cohort": str(tiny_cohort)}
    assert {path.name for path in out.iterdir()} - {".batch.lock"} == {
        *summary.done,
        "failures.csv",
        "run.json",
    }
    written = record(out)
    assert written["state"] == "done" and set(written["cases"]) == set(summary.done)
    assert all(one["seconds"] > 0 for one in written["cases"].values())
    assert said[-1].startswith("2 done, 0 were there, 0 failed of 2")


def test_a_finished_run_runs_nothing_again(tmp_path, run):
    source = notebook(tmp_path / "touch.ipynb", TOUCH)
    run(source)
    before = {path: os.stat(path).st_mtime_ns for path in (tmp_path / "out").rglob("*/*")}
    summary, _ = run(source)
    assert summary.skipped == ["case_1", "case_2"] and not summary.done
    assert {path: os.stat(path).st_mtime_ns for path in before} == before
    summary, _ = run(source, cases=["case_2"], resume=False)
    assert summary.done == ["case_2"]
    changed = {path.parent.name for path, then in before.items() if os.stat(path).st_mtime_ns != then}
    assert changed == {"case_2"}


def test_an_executed_notebook_names_the_folder_it_lies_in(tmp_path, run):
    source = notebook(tmp_path / "touch.ipynb", "import json\nprint(out, json.dumps(out))")
    run(source, "öut ß", cases=["case_1"])
    final = tmp_path / "öut ß" / "case_1"
    made = nbformat.read(final / "touch.ipynb", as_version=4)
    assert made.cells[-1].outputs[0].text == f"{final} {json.dumps(str(final))}\n"
    assert made.metadata.papermill.parameters.out == str(final)
    values = {}
    exec(made.cells[1].source, values)  # the cell of injected parameters
    assert values["out"] == str(final)
    assert batchtask.WORK not in (final / "touch.ipynb").read_text(encoding="utf-8")


def test_a_wrong_input_is_not_tried_again_and_leaves_its_notebook(tmp_path, run, monkeypatch):
    wrong = "open(case + '.tries', 'a').write('x')\nraise ValueError('brain, but\\nnot in HU')"
    source = notebook(tmp_path / "wrong.ipynb", TOUCH, wrong)
    monkeypatch.chdir(tmp_path)
    summary, _ = run(source, retries=3)
    assert summary.failures == {
        c: ("error", "ValueError: brain, but\nnot in HU") for c in ("case_1", "case_2")
    }
    row = failures(tmp_path / "out")["case_2"]
    assert (row["kind"], row["reason"], row["attempts"]) == ("error", "ValueError: brain, but not in HU", "1")
    assert Path("case_1.tries").read_text() == "x"
    kept = nbformat.read(tmp_path / "out" / "case_1" / batchtask.FAILED, as_version=4)
    errors = [o for c in kept.cells if c.cell_type == "code" for o in c.outputs if o.output_type == "error"]
    assert [error.ename for error in errors] == ["ValueError"]
    # nothing of a half result: what its processes said, if they said anything, is not one
    assert {path.name for path in (tmp_path / "out" / "case_1").iterdir()} - {batchtask.LOG} == {
        batchtask.FAILED
    }


CHAOS = """
import os, time
from pathlib import Path
Path(tries, f"{case}.{os.getpid()}").touch()
first = len(list(Path(tries).glob(f"{case}.*"))) == 1
Path(out, "half.txt").write_text("half")
if case == "case_2":
    time.sleep(600)
if case == "case_3":
    held = []
    for _ in range(40):
        held.append(b"x" * 100_000_000)
        time.sleep(0.05)
if case == "case_4":
    raise ValueError("a wrong input")
if case == "case_5" and first:
    raise OSError(28, "No space left on device")
if case == "case_6" and first:
    os.kill(os.getpid(), 9)
"""


def processes_named(folder):
    """Pids that a notebook left as ``<case>.<pid>`` in a folder and that still live."""
    return [path.name for path in folder.iterdir() if psutil.pid_exists(int(path.suffix[1:]))]


def test_each_fault_ends_alone_and_only_what_may_pass_is_tried_again(tmp_path, run):
    tries = tmp_path / "tries"
    tries.mkdir()
    source = notebook(tmp_path / "chaos.ipynb", CHAOS, TOUCH, parameters=PARAMETERS + 'tries: str = ""\n')
    limits = {"time_limit": 15, "memory_limit": 0.5, "retries": 1}
    summary, said = run(source, cases=None, parameters={"tries": str(tries)}, **limits)
    out = tmp_path / "out"
    assert sorted(summary.done) == ["case_1", "case_5", "case_6"]
    kinds = {case: row["kind"] for case, row in failures(out).items()}
    assert kinds == {"case_2": "timeout", "case_3": "memory", "case_4": "error"}
    assert summary.failures["case_2"][1] == "It was not done after 15 s, in cell 3."
    assert "0.50 GiB were allowed, in cell 3." in summary.failures["case_3"][1]
    count = Counter(path.stem for path in tries.iterdir())
    assert count == {f"case_{n}": 2 if n > 4 else 1 for n in range(1, 7)}
    assert {case: one["attempts"] for case, one in record(out)["cases"].items() if case > "case_4"} == {
        "case_5": 2,
        "case_6": 2,
    }
    for case in kinds:
        assert (out / case / batchtask.FAILED).is_file()
        assert not (out / case / "half.txt").exists()
    assert not processes_named(tries)
    assert not (out / batchtask.WORK).exists()
    assert said[-1].startswith("3 done, 0 were there, 3 failed of 6")


@pytest.fixture
def broken_cohort(tmp_path, tiny_cohort):
    """A cohort whose case_1 is cut off, whose case_2 is no NIfTI, and whose case_3 is sound."""
    folder = tmp_path / "broken"
    shutil.copytree(tiny_cohort, folder)
    scans = datasets.open_cohort(folder)
    cut = scans.scan("case_1").path
    cut.write_bytes(cut.read_bytes()[:-5000])
    scans.scan("case_2").path.write_bytes(b"nothing")
    return folder


def test_broken_scans_are_reported_by_file_and_the_others_go_on(tmp_path, broken_cohort, run):
    source = notebook(tmp_path / "maps.ipynb", MAPS)
    which = ["case_1", "case_2", "case_3"]
    summary, _ = run(source, cohort=broken_cohort, cases=which)
    assert summary.done == ["case_3"]
    rows = failures(tmp_path / "out")
    for case in ("case_1", "case_2"):
        assert datasets.open_cohort(broken_cohort).scan(case).path.name in rows[case]["reason"]
    assert rows["case_2"]["kind"] == "input" and rows["case_2"]["attempts"] == "0"
    assert "truncated" in rows["case_1"]["reason"]


def test_a_line_leaves_failures_when_its_case_is_done(tmp_path, run):
    wrong = notebook(tmp_path / "touch.ipynb", "raise ValueError(case)")
    run(wrong)
    assert set(failures(tmp_path / "out")) == {"case_1", "case_2"}
    right = notebook(tmp_path / "touch.ipynb", TOUCH)
    summary, _ = run(right, cases=["case_1"])
    assert summary.done == ["case_1"]
    assert set(failures(tmp_path / "out")) == {"case_2"}  # it was not asked for, and is still true
    assert {path.name for path in (tmp_path / "out" / "case_1").iterdir()} == {
        "done.json",
        "said.txt",
        "touch.ipynb",
    }


# What makes a result stale


@pytest.fixture
def plan(tmp_path, tiny_cohort):
    """Keys of a plan, by case."""
    source = notebook(tmp_path / "touch.ipynb", TOUCH)

    def keys(cohort=tiny_cohort, **parameters):
        made = batchplan.make_plan(source, cohort, parameters=parameters, cases=["case_1", "case_2"])
        return {run.case: run.record["key"] for run in made.runs}

    return keys


def test_keys_stay_while_nothing_changes(plan, tmp_path, tiny_cohort):
    before = plan()
    assert len(set(before.values())) == 2
    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny_cohort, moved)  # with the files' times
    assert plan() == before == plan(moved)


def test_keys_change_with_notebook_parameters_and_version(plan, tmp_path, monkeypatch):
    before = plan()
    table = tmp_path / "picks.csv"
    table.write_text("1")
    seen = [before, plan(lambda_rel=0.2), plan(lambda_rel="0.1")]
    notebook(tmp_path / "touch.ipynb", TOUCH + "# more\n")
    seen.append(plan())
    monkeypatch.setattr(batchplan, "__version__", "0.1.1")
    seen.append(plan())
    notebook(tmp_path / "touch.ipynb", TOUCH, parameters=PARAMETERS + 'picks: str = ""\n')
    seen.append(plan(picks=str(table)))
    table.write_text("22")
    seen.append(plan(picks=str(table)))
    assert len({keys["case_1"] for keys in seen}) == len(seen)


def test_the_key_of_a_case_changes_with_its_own_files_alone(plan, tmp_path, tiny_cohort):
    copied = tmp_path / "copied"
    shutil.copytree(tiny_cohort, copied)
    before = plan(copied)
    os.utime(datasets.open_cohort(copied).scan("case_1").path, ns=(1, 1))
    after = plan(copied)
    assert after["case_1"] != before["case_1"] and after["case_2"] == before["case_2"]


def test_the_key_of_a_case_changes_with_its_own_pick_alone(tmp_path, tiny_cohort, monkeypatch):
    monkeypatch.setenv("PERFKIT_DATA", str(tmp_path))
    source = notebook(tmp_path / "touch.ipynb", TOUCH, parameters=PARAMETERS + 'rater: str = ""\n')

    def keys(rater="anna"):
        made = batchplan.make_plan(source, tiny_cohort, parameters={"rater": rater})
        return {run.case: run.record["key"] for run in made.runs}

    file = annotations.rater_file(tiny_cohort, "anna", tmp_path / "aif")
    before, without = keys(), keys("")
    annotations.append(file, annotations.Pick("case_1", ((1, 2, 0),)))
    picked = keys()
    assert {case for case in before if before[case] != picked[case]} == {"case_1"}
    assert keys("") == without
    annotations.append(file, annotations.Pick("case_1", ((1, 2, 0),), comment="looked at again"))
    assert keys() == picked
    annotations.append(file, annotations.Pick("case_1"))  # withdrawn
    assert keys() == before


def test_keys_change_with_the_curves_in_a_folder_and_nothing_else_there(plan, tmp_path):
    notebook(tmp_path / "touch.ipynb", TOUCH, parameters=PARAMETERS + 'learned: str = ""\n')
    folder = tmp_path / "training"
    seen = [plan(learned=str(folder))]
    folder.mkdir()
    for text in ("case,frame,value\n", "case,frame,value\ncase_1,0,1\n"):
        (folder / "aifs.csv").write_text(text)
        seen.append(plan(learned=str(folder)))
    assert len({keys["case_1"] for keys in seen}) == 3
    (folder / "written_by_the_notebook").touch()
    assert plan(learned=str(folder)) == seen[-1]


def test_a_changed_parameter_replaces_the_result_as_a_whole(tmp_path, run):
    source = notebook(tmp_path / "touch.ipynb", TOUCH)
    run(source, cases=["case_1"])
    stale = tmp_path / "out" / "case_1" / "stale.txt"
    stale.touch()
    summary, _ = run(source, cases=["case_1"], parameters={"lambda_rel": 0.1})
    assert summary.done == ["case_1"] and not stale.exists()
    assert (tmp_path / "out" / "case_1" / "said.txt").read_text() == "case_1 0.1"


# What is refused before anything starts


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parameters": {"lamda_rel": 0.1}}, "Did you mean lambda_rel"),
        ({"parameters": {"lambda_rel": "high"}}, "must be a finite number"),
        ({"parameters": {"case": "case_1"}}, "The batch itself sets cohort, case, out"),
        ({"cases": ["case_77"]}, "no case 'case_77'"),
        ({"cohort": ""}, "give a cohort, or a table"),
        ({"cluster": "lsf"}, "slurm, pbs, sge: 'lsf' came"),
        ({"cluster": "slurm", "scheduler": "tcp://127.0.0.1:1"}, "Leave one out"),
        ({"time_limit": 0}, "--time-limit must be above 0"),
        ({"workers": 0}, "--workers must be above 0"),
        ({"retries": -1}, "--retries must not be negative"),
    ],
)
def test_what_cannot_work_is_refused_before_a_folder_is_made(tmp_path, run, options, words):
    source = notebook(tmp_path / "touch.ipynb", TOUCH)
    with pytest.raises(ValueError, match=words):
        run(source, **options)
    assert not (tmp_path / "out").exists()


def test_a_notebook_without_a_case_is_refused(tmp_path, run):
    source = notebook(tmp_path / "whole.ipynb", parameters='cohort: str = ""\nout: str = ""\n')
    with pytest.raises(ValueError, match=r"declares no parameter `case` \(it has cohort, out\)"):
        run(source)
    with pytest.raises(FileNotFoundError, match="no notebook 05_nothing"):
        run("05_nothing")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, run, monkeypatch):
    source = notebook(tmp_path / "touch.ipynb", TOUCH)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere: a read-only folder proves nothing
    with pytest.raises(OSError, match=r"out: results need a folder .* \(Read-only file system\)"):
        run(source)


def test_a_disk_without_room_is_named(tmp_path, tiny_cohort):
    source = notebook(tmp_path / "touch.ipynb", TOUCH)
    resource = pytest.importorskip("resource")  # not on Windows
    done = subprocess.run(
        [*BATCH, source, "--cohort", tiny_cohort, "--out", tmp_path / "out"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "results need a folder that can be written to" in done.stderr and "Traceback" not in done.stderr


def test_scans_are_never_replaced_by_results(tmp_path, tiny_cohort, run):
    source = notebook(tmp_path / "touch.ipynb", TOUCH)
    scans = tmp_path / "scans"
    shutil.copytree(tiny_cohort, scans)
    before = hashes(scans, "*.nii*")
    with pytest.raises(FileExistsError, match="case_1 holds what no batch made"):
        run(source, "scans/TRAINING", cohort=scans)
    with pytest.raises(ValueError, match="Results among scans"):
        run(source, "scans", cohort=scans)
    flat = tmp_path / "flat"
    flat.mkdir()
    shutil.copy(datasets.open_cohort(scans).scan("case_1").path, flat / "anna_ctp.nii.gz")
    with pytest.raises(ValueError, match="Results among scans"):
        run(source, "flat/results", cohort=flat, cases=None)
    assert hashes(scans, "*.nii*") == before and not (flat / "results").exists()


def test_a_folder_in_use_is_refused(tmp_path, run):
    source = notebook(tmp_path / "touch.ipynb", TOUCH)
    (tmp_path / "out").mkdir()
    with (
        filelock.FileLock(tmp_path / "out" / batch.LOCK),
        pytest.raises(RuntimeError, match="another batch writes there"),
    ):
        run(source)


def test_folder_names_are_safe_and_never_the_same():
    cases = ["a", "A", "b/c", "b_c", "run.json", "x" * 300, "plain"]
    names = batchplan.folder_names(cases)
    assert names["plain"] == "plain"
    assert len({name.lower() for name in names.values()}) == len(cases)
    assert all(len(name) <= batchplan.LONGEST and "/" not in name for name in names.values())
    assert "run.json" not in names.values()


# Parameter sets


def test_a_table_gives_each_row_a_run(tmp_path, run):
    source = notebook(
        tmp_path / "rows.ipynb",
        "from pathlib import Path\nPath(out, 'said').write_text(f'{n} {name}')",
        parameters='n: int = 1\nname: str = "none"\nout: str = ""\n',
    )
    (tmp_path / "sets.csv").write_text("id,n,name\nfirst,5,\n,6,b\n", encoding="utf-8")
    summary, _ = run(source, cohort="", sets=tmp_path / "sets.csv", cases=None)
    assert sorted(summary.done) == ["first", "row_2"]
    assert (tmp_path / "out" / "first" / "said").read_text() == "5 none"
    assert (tmp_path / "out" / "row_2" / "said").read_text() == "6 b"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "id,lambda_rel\na,0.1\nb,high\n",
            r"sets\.csv, line 3: the parameter lambda_rel must be a finite number",
        ),
        ("id,lamda_rel\na,0.1\n", r"line 2: .* Did you mean lambda_rel"),
        ("id,lambda_rel\na,0.1\na,0.2\n", r"line 3: an id names one run"),
        ("id,lambda_rel\na,0.1,2\n", r"line 2: it has more cells"),
        ("id,case\na,case_9\n", r"line 2: .*there is no scan 'case_9'"),
        ("id,out\na,b\n", r"The batch itself sets .*sets\.csv, line 2: out came"),
        ("id,lambda_rel,lambda_rel\na,0.1,0.2\n", r"'lambda_rel' came twice"),
        ("id,lambda_rel\n", "needs a header and a row"),
    ],
)
def test_a_wrong_table_is_refused_by_line(tmp_path, run, text, words):
    source = notebook(tmp_path / "touch.ipynb", TOUCH)
    (tmp_path / "sets.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        run(source, sets=tmp_path / "sets.csv", cases=None)


def test_a_table_that_is_no_text_is_named(tmp_path, run):
    source = notebook(tmp_path / "touch.ipynb", TOUCH)
    (tmp_path / "sets.csv").write_bytes("id,lambda_rel\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"sets\.csv: a table is CSV in UTF-8"):
        run(source, sets=tmp_path / "sets.csv", cases=None)


def test_a_row_may_name_a_scan_of_the_cohort(tmp_path, tiny_cohort):
    source = notebook(tmp_path / "touch.ipynb", TOUCH)
    (tmp_path / "sets.csv").write_text("case,lambda_rel\ncase_2,0.1\ncase_2,0.2\n", encoding="utf-8")
    runs = batchplan.make_plan(source, tiny_cohort, sets=tmp_path / "sets.csv").runs
    assert [run.parameters for run in runs] == [
        {"case": "case_2", "lambda_rel": value, "cohort": str(tiny_cohort)} for value in (0.1, 0.2)
    ]
    print = datasets.open_cohort(tiny_cohort).scan("case_2").fingerprint()
    assert [run.record["inputs"] for run in runs] == [print, print]


# What a case finds


def test_kernels_are_private_and_their_threads_few(tmp_path, run, monkeypatch):
    ask = """
import json, os
from pathlib import Path
from ipykernel.connect import get_connection_info
told = get_connection_info(unpack=True)
names = ["OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "CUDA_VISIBLE_DEVICES"]
folder = Path(told["ip"]).parent
told = {"transport": told["transport"], "mode": folder.parent.stat().st_mode & 0o777, "folder": str(folder)}
Path(out, "told.json").write_text(json.dumps(told | {n: os.environ.get(n) for n in names}))
"""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    monkeypatch.setattr("perfkit.parallel.usable_cores", lambda: 6)
    run(notebook(tmp_path / "ask.ipynb", ask))
    told = [json.loads((tmp_path / f"out/case_{n}/told.json").read_text()) for n in (1, 2)]
    assert {one["CUDA_VISIBLE_DEVICES"] for one in told} == {"GPU-a", "GPU-b"}  # one each
    assert all(one["OMP_NUM_THREADS"] == one["TF_NUM_INTRAOP_THREADS"] == "3" for one in told)
    if os.name != "nt":
        assert all(one["transport"] == "ipc" and one["mode"] == 0o700 for one in told)
    assert not any(Path(one["folder"]).exists() for one in told)


# The driver is stopped or killed


SLOW = """
import os, time
from pathlib import Path
Path(tries, f"{case}.{os.getpid()}").touch()
time.sleep(float(os.environ.get("PERFKIT_TEST_SLEEP", 0)))
"""


@pytest.fixture
def driver(tmp_path, tiny_cohort):
    """Start ``perfkit batch`` as a process that Ctrl-C reaches; each case sleeps as long as is asked for."""
    (tmp_path / "tries").mkdir()
    source = notebook(tmp_path / "slow.ipynb", SLOW, TOUCH, parameters=PARAMETERS + 'tries: str = ""\n')
    started = []

    def start(sleep, *more, **environment):
        arguments = [
            source,
            "--cohort",
            tiny_cohort,
            "--out",
            tmp_path / "out",
            "-p",
            "tries",
            tmp_path / "tries",
        ]
        process = subprocess.Popen(
            [*BATCH, *arguments, *more],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PERFKIT_TEST_SLEEP": str(sleep)} | environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(condition, seconds=60):
    """Wait for a condition; how long does not matter, for ever does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.05)


def test_ctrl_c_leaves_no_process_and_says_what_is_done(tmp_path, driver):
    process = driver(600, "--case", "case_1", "--case", "case_2")
    until(lambda: any((tmp_path / "tries").iterdir()))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Stopped: 0 done, 0 were there, 0 failed, 2 not run of 2 cases" in said
    assert "Traceback" not in said
    assert not processes_named(tmp_path / "tries")
    assert record(tmp_path / "out")["state"] == "stopped"
    assert not (tmp_path / "out" / batchtask.WORK).exists()


def test_after_a_killed_driver_each_case_is_there_once(tmp_path, driver):
    out = tmp_path / "out"
    process = driver(1.0, "--workers", "2")
    until(lambda: list(out.glob("*/done.json")) and len(list((tmp_path / "tries").iterdir())) > 2)
    process.kill()
    process.wait()
    until(lambda: not processes_named(tmp_path / "tries"))  # they notice by themselves
    before = {path.parent.name: path.stat().st_mtime_ns for path in out.glob("*/done.json")}
    assert 0 < len(before) < 6
    process = driver(0)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert f"{6 - len(before)} done, {len(before)} were there, 0 failed of 6" in said
    assert {case: (out / case / "done.json").stat().st_mtime_ns for case in before} == before
    for n in range(1, 7):
        assert (out / f"case_{n}" / "said.txt").read_text() == f"case_{n} 0.3"
    assert {path.name for path in out.iterdir() if path.is_dir()} == {f"case_{n}" for n in range(1, 7)}


# Clusters


@pytest.fixture(scope="module")
def dask_cluster(tmp_path_factory):
    """A scheduler and two workers on the loopback, each a process; gives address and worker processes."""
    folder = tmp_path_factory.mktemp("dask")
    where = ["--host", "127.0.0.1", "--no-dashboard"]
    dask = [sys.executable, "-m", "dask"]
    log = (folder / "log").open("w")
    pipes = {"stdout": log, "stderr": log, "cwd": folder}
    told = folder / "scheduler.json"
    processes = [
        subprocess.Popen([*dask, "scheduler", *where, "--port", "0", "--scheduler-file", told], **pipes)
    ]
    try:
        until(told.exists)
        address = json.loads(told.read_text())["address"]
        options = ["--nthreads", "1", "--no-nanny", "--memory-limit", "4GiB"]
        processes += [
            subprocess.Popen([*dask, "worker", address, *where, *options], **pipes) for _ in range(2)
        ]
        yield address, processes[1:]
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()
        log.close()


def test_a_dask_cluster_gives_what_local_processes_give(tmp_path, run, dask_cluster):
    source = notebook(tmp_path / "maps.ipynb", MAPS)
    address, _ = dask_cluster
    here, _ = run(source, "here")
    there, said = run(source, "there", scheduler=address)
    assert sorted(here.done) == sorted(there.done) == ["case_1", "case_2"], there.failures
    found = hashes(tmp_path / "here")
    assert len(found) >= 2 * 4 and hashes(tmp_path / "there") == found
    assert said[1].startswith("2 of 2 cases to run, 2 workers of tcp://127.0.0.1:")
    again, _ = run(source, "there")  # the same, whoever made it
    assert again.skipped == ["case_1", "case_2"]


def test_a_killed_worker_loses_nothing(tmp_path, tiny_cohort, dask_cluster, driver):
    address, workers = dask_cluster
    tries, out = tmp_path / "tries", tmp_path / "out"
    process = driver(
        1.5, "--scheduler", address, *("--case", "case_1", "--case", "case_2", "--case", "case_3")
    )
    until(lambda: len(list(tries.iterdir())) >= 2)  # both workers have one
    workers[0].kill()
    workers[0].wait()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "3 done, 0 were there, 0 failed of 3" in said
    for n in range(1, 4):
        assert (out / f"case_{n}" / "said.txt").read_text() == f"case_{n} 0.3"
    assert not processes_named(tries)
    assert not (out / batchtask.WORK).exists()


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, run, monkeypatch):
    from perfkit import executors

    monkeypatch.setattr(executors, "PATIENCE", 0.2)
    source = notebook(tmp_path / "touch.ipynb", TOUCH)
    with pytest.raises(ConnectionError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        run(source, scheduler="tcp://127.0.0.1:9")


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1:9"])
def test_a_scheduler_that_does_not_answer_leaves_no_client(address, monkeypatch):
    """One that could not connect would be closed at the end of the process, and wait there for an answer."""
    from distributed import Client

    from perfkit import executors

    made = []
    monkeypatch.setattr(executors, "PATIENCE", 0.2)
    monkeypatch.setattr(Client, "__init__", lambda *_, **__: made.append(1))
    with pytest.raises(ConnectionError, match="such as tcp://host:8786"), executors.on_scheduler(address):
        pass
    assert not made


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands that stand in for SLURM's; ``slurm(body)`` says what ``sbatch`` does."""
    if os.name == "nt":
        pytest.skip("a batch system of POSIX")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "bin").mkdir()

    def make(body):
        for name, words in {"sbatch": body, "scancel": "exit 0"}.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{words}\n")
            (tmp_path / "bin" / name).chmod(0o755)

    return make


def test_a_batch_system_that_is_not_there_or_refuses_is_named(slurm):
    import dask

    from perfkit import executors

    scheduler = {"host": "127.0.0.1", "dashboard_address": ":0"}  # a port that nobody holds
    with (
        pytest.raises(RuntimeError, match="there is no such command here"),
        executors.on_cluster("pbs", 1, expected=10**9),
    ):
        pass
    slurm("echo invalid account >&2; exit 1")
    with (
        dask.config.set({"jobqueue.slurm.scheduler-options": scheduler}),
        pytest.raises(RuntimeError, match=r"slurm takes none of the jobs .* invalid account"),
        executors.on_cluster("slurm", 2, expected=10**9),
    ):
        pass


def test_ctrl_c_stays_ours_beside_the_cluster_library():
    """In a process of its own: dask-jobqueue takes the signals when it is imported first."""
    code = (
        "import signal; from perfkit import executors; mine = lambda *_: None\n"
        "signal.signal(signal.SIGINT, mine); executors._jobqueue()\n"
        "assert signal.getsignal(signal.SIGINT) is mine"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a batch system of POSIX")
def test_a_batch_system_starts_the_workers(tmp_path, driver):
    """``sbatch`` that starts the job at once stands in for SLURM; the worker it starts is a real one."""
    tools = tmp_path / "bin"
    tools.mkdir()
    words = {
        "sbatch": f'cp "$1" {tmp_path}/job\nsh {tmp_path}/job >{tmp_path}/log 2>&1 &\n'
        f"echo $! >{tmp_path}/pid\n"
        "echo Submitted batch job 7",
        "scancel": f"echo $1 >{tmp_path}/ended; kill $(cat {tmp_path}/pid)",
    }
    for name, body in words.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    process = driver(
        0,
        *("--cluster", "slurm", "--jobs", "1", "--case", "case_1"),
        PATH=f"{tools}{os.pathsep}{os.environ['PATH']}",
        DASK_JOBQUEUE__SLURM__SCHEDULER_OPTIONS="{'host': '127.0.0.1'}",
    )
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert (tmp_path / "out" / "case_1" / "said.txt").read_text() == "case_1 0.3"
    assert "1 workers of 1 jobs of slurm" in said
    assert "--nthreads 1" in (tmp_path / "job").read_text()
    assert (tmp_path / "ended").read_text().strip() == "7"


# Long ones


@pytest.mark.slow
def test_ninety_four_scans_come_out_the_same_here_and_on_a_cluster(tmp_path, run, dask_cluster):
    from perfkit.phantom import write_cohort

    scans = write_cohort(tmp_path / "small", int(os.environ.get("PERFKIT_TEST_SCANS", 94)), size="small")
    source = notebook(tmp_path / "maps.ipynb", MAPS)
    here, _ = run(source, "here", cohort=scans, cases=None)
    there, _ = run(source, "there", cohort=scans, cases=None, scheduler=dask_cluster[0])
    assert not here.left and not here.failures and not there.failures
    assert sorted(here.done) == sorted(there.done)
    assert hashes(tmp_path / "here") == hashes(tmp_path / "there") != {}


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_complete(tmp_path, driver):
    rng = np.random.default_rng(0)
    out = tmp_path / "out"
    for _ in range(int(os.environ.get("PERFKIT_TEST_KILLS", 12))):
        process = driver(0.2)
        time.sleep(rng.uniform(0.5, 6))
        for path in (tmp_path / "tries").iterdir():  # a kernel or two die first
            if psutil.pid_exists(int(path.suffix[1:])) and rng.random() < 0.5:
                os.kill(int(path.suffix[1:]), signal.SIGKILL)
        process.kill()
        process.wait()
        for case in out.glob("*/done.json"):  # what stands there is whole
            assert (case.parent / "said.txt").read_text() == f"{case.parent.name} 0.3"
    _, said = driver(0).communicate(timeout=300)
    assert "0 failed of 6" in said
    assert sorted(path.parent.name for path in out.glob("*/said.txt")) == [f"case_{n}" for n in range(1, 7)]
    assert not processes_named(tmp_path / "tries")
    assert not (out / batchtask.WORK).exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a file system")
def test_a_disk_that_fills_up_loses_nothing(tmp_path, run):
    out = tmp_path / "disk"
    out.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", out], check=True)
    try:
        big = "from pathlib import Path\nPath(out, 'big').write_bytes(bytes(1_200_000))"
        summary, _ = run(notebook(tmp_path / "big.ipynb", big), "disk", cases=None, retries=0)
        assert len(summary.done) == 2 and not summary.left
        assert {kind for kind, _ in summary.failures.values()} == {"io"}
        for case in summary.done:
            assert (out / case / "big").stat().st_size == 1_200_000
        assert not [path for case in summary.failures for path in (out / case).glob("big")]
        subprocess.run(["mount", "-o", "remount,size=20m", out], check=True)
        again, _ = run(tmp_path / "big.ipynb", "disk", cases=None)
        assert len(again.done) == 4 and len(again.skipped) == 2 and not failures(out)
    finally:
        subprocess.run(["umount", out], check=True)


@pytest.mark.slow
def test_a_thousand_cases_leave_the_driver_small(tmp_path, tiny_cohort, run, monkeypatch):
    """Each result is put into place as ever, only without a kernel: this is about the driver."""
    series = datasets.open_cohort(tiny_cohort).scan("case_1").path
    (tmp_path / "many").mkdir()
    for n in range(1000):
        os.link(series, tmp_path / "many" / f"s{n:04}.nii.gz")

    def finished(task):
        work = Path(task.folder, batchtask.WORK, task.name)
        (work / "case").mkdir(parents=True)
        batchtask._finish(task, work, Path(task.folder, task.name), 0.0)
        return batchtask.Outcome(kind="done")

    monkeypatch.setattr("perfkit.executors.run_case", finished)
    source = notebook(tmp_path / "touch.ipynb", TOUCH)
    before = psutil.Process().memory_info().rss
    summary, _ = run(source, cohort=tmp_path / "many", cases=None)
    grown = psutil.Process().memory_info().rss - before
    assert len(summary.done) == 1000
    assert grown < 50e6
    summary, _ = run(source, cohort=tmp_path / "many", cases=None)
    assert len(summary.skipped) == 1000 and not summary.done


@pytest.mark.parametrize(
    ("words", "came"),
    [
        (["-p", "x=0.2", "-p", "y", "3"], "'x=0.2 -p' came"),
        (["-p", "rater", "--no-resume"], "'rater --no-resume' came"),
        (["-p", "rater"], "'rater' came"),
        (["-p"], "'' came"),
    ],
)
def test_a_pair_that_is_none_is_refused_with_what_came(command_line, words, came):
    status, _, err = command_line("batch", "05_case_report", "--out", "o", "--cohort", "c", *words)
    assert status == 1 and len(err.splitlines()) == 1
    assert "-p takes a name and a value, as in -p lambda_rel 0.2" in err and came in err
