"""Each good case is done once and right, whatever happens to its processes; what failed is told with why."""

import csv
import hashlib
import json
import os
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from perfkit import batch, batchtask

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
    monkeypatch.setattr(batch, "BACKOFF", 0.01)

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
    assert {path.name for path in (tmp_path / "out" / "case_1").iterdir()} == {batchtask.FAILED}
