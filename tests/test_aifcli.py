"""`perfkit aif` as one meets it: help that teaches, one line for an error, files that are there."""

import functools
import json
import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from perfkit import annotations, cli
from perfkit.annotations import Pick

COMMANDS = {
    "import": ("table", "--cohort", "--rater", "--base", "--axes", "--check-curves", "--on-conflict"),
    "export": ("--cohort", "--rater", "--out", "--base", "--layout"),
    "compare": ("a", "b", "--cohort", "--out"),
    "list": ("--cohort",),
}
RATER = "simulated-rater"


def helped(*arguments):
    found = CliRunner().invoke(cli.app, ["aif", *arguments, "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert found.exit_code == 0
    return found.output


@pytest.fixture
def run(command_line, monkeypatch, tmp_path):
    """Call ``perfkit aif`` with a data folder of its own."""
    monkeypatch.setenv("PERFKIT_DATA", str(tmp_path / "data"))
    return functools.partial(command_line, "aif")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_argument(command):
    text = helped(command)
    for argument in COMMANDS[command]:
        assert re.search(rf"(?<![\w-]){argument}(?![\w-])", text), argument
    options = set(re.findall(r"│[* ]+(--[\w-]+)", text)) - {"--help"}
    assert options == {name for name in COMMANDS[command] if name.startswith("--")}


def test_the_overview_lists_them_and_says_where_picks_lie():
    text = helped()
    assert set(COMMANDS) <= set(re.findall(r"^│ (\w+)  ", text, flags=re.M))
    assert "data/aif/<cohort>/<rater>.csv" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_example_in_the_help_is_understood(command):
    (example,) = re.findall(r"Try: (perfkit .+?)\s*$", helped(command), flags=re.M)
    words = shlex.split(example)
    assert words[:3] == ["perfkit", "aif", command]
    group = typer.main.get_command(cli.app).commands["aif"]
    context = group.commands[command].make_context(command, words[3:])
    assert set(context.params) == {name.lstrip("-").replace("-", "_") for name in COMMANDS[command]}


def test_picks_go_out_come_in_and_are_listed(run, tiny_cohort, tmp_path):
    table = tmp_path / "out" / "t.csv"
    where = ("--cohort", tiny_cohort)
    status, out, err = run("export", *where, "--rater", RATER, "--out", table, "--base", 1)
    assert (status, out, err) == (0, f"6 picks of {RATER} in {table}\n", "")
    assert table.read_text().startswith("imageID,AIFx,AIFy,AIFz,VOFx,VOFy,VOFz\n")
    status, out, err = run("import", table, *where, "--rater", "mh", "--base", 1)
    file = tmp_path / "data" / "aif" / "tiny" / "mh.csv"
    assert (status, out, err) == (0, f"{file}: 6 added.\n", "")
    given = annotations.latest(tiny_cohort / "aif" / f"{RATER}.csv")
    back = annotations.latest(file)
    assert {case: pick.voxels for case, pick in back.items()} == {c: p.voxels for c, p in given.items()}
    status, out, _ = run("import", table, *where, "--rater", "mh", "--base", 1, "--no-check-curves")
    assert status == 0 and out == f"{file}: 0 added; 6 stood there already.\n"
    status, out, err = run("list", *where)
    assert status == 0 and err == ""
    mine, delivered = out.splitlines()
    assert re.fullmatch(rf"mh: 6 of 6 cases, last 20\S+, in {re.escape(str(file))}", mine)
    assert delivered.startswith(f"{RATER}: 6 of 6 cases")


def test_a_list_tells_broken_lines_strangers_and_foreign_files(run, tiny_cohort, tmp_path):
    folder = tmp_path / "data" / "aif" / "tiny"
    annotations.append(folder / "mh.csv", Pick("case_1", ((1, 2, 1),), time="2021-05-06T07:08:09+00:00"))
    annotations.append(folder / "mh.csv", Pick("elsewhere", ((1, 2, 1),), time="2020-05-06T07:08:09+00:00"))
    with (folder / "mh.csv").open("a") as file:
        file.write("case_2,1 2\n")
    (folder / "notes.csv").write_text("not,picks\n")
    (folder / "new.csv").write_text("")
    status, out, err = run("list", "--cohort", tiny_cohort)
    assert status == 0
    assert (
        f"mh: 1 of 6 cases, last 2021-05-06T07:08:09+00:00, in {folder / 'mh.csv'}; 1 picks of other" in out
    )
    assert "new: 0 of 6 cases, last never" in out
    assert "line 4 is skipped" in err and err.count("line 4") == 1
    assert "notes.csv is not a file of picks" in err


def test_a_folder_named_like_a_file_of_picks_stops_nothing(run, tiny_cohort, tmp_path):
    folder = tmp_path / "data" / "aif" / "tiny" / "folder.csv"
    folder.mkdir(parents=True)
    status, out, err = run("list", "--cohort", tiny_cohort)
    assert (status, err) == (0, f"{folder} is no file of picks but a folder: rename it.\n")
    assert out.startswith(f"{RATER}: 6 of 6 cases")
    status, _, err = run("compare", "folder", "straka", "--cohort", tiny_cohort, "--out", tmp_path / "cmp")
    assert status == 1 and "'folder' is neither" in err


def test_an_import_beside_a_torn_line_tells_it_once_and_plainly(run, tiny_cohort, tmp_path):
    table, file = tmp_path / "t.csv", tmp_path / "data" / "aif" / "tiny" / "mh.csv"
    where = ("--cohort", tiny_cohort, "--rater", RATER)
    assert run("export", *where, "--out", table, "--base", 0)[0] == 0
    annotations.append(file, Pick("elsewhere", ((1, 2, 1),)))
    with file.open("a") as torn:
        torn.write("case_2,1 2\n")
    status, out, err = run("import", table, "--cohort", tiny_cohort, "--rater", "mh", "--base", 0)
    assert status == 0 and out == f"{file}: 6 added.\n"
    assert err.startswith(f"{file}, line 3 is skipped") and err.count("\n") == 1


def test_nobody_has_picked_yet(run, tmp_path, tiny_cohort):
    import layouts

    layouts.save(tmp_path / "mine" / "anna_ctp.nii", layouts.head(), times=(1.0,))
    status, out, _ = run("list", "--cohort", tmp_path / "mine")
    assert status == 0 and out.startswith("Nobody has picked in")


def test_two_raters_are_compared(run, tiny_cohort, tmp_path):
    out = tmp_path / "cmp"
    status, said, err = run("compare", RATER, "straka", "--cohort", tiny_cohort, "--out", out)
    assert status == 0 and err == ""
    assert f"{RATER} (a) and straka (b) are compared in 6 scans" in said
    assert said.splitlines()[-1] == f"file://{out / 'raters.html'}"
    assert len(pd.read_csv(out / "raters.csv")) == 6
    assert json.loads((out / "raters.json").read_text())["b"] == "straka"


WRONG = {
    "import {table} --cohort {tiny} --rater mh --base 0": "try --base 1",
    "import nowhere.csv --cohort {tiny} --rater mh --base 0": "a CSV file, and there is none at nowhere.csv",
    "import {folder} --cohort {tiny} --rater mh --base 0": "is a folder. Name the file in it",
    "import {table} --cohort {tiny} --rater " + "a" * 300 + " --base 1": "Try initials",
    "import {table} --cohort nowhere --rater mh --base 1": "folder does not exist",
    "import {table} --cohort {tiny} --rater ../mh --base 1": "rater's name",
    "import {table} --cohort {tiny} --rater mh --base 1 --axes xy": "Try xyz or yxz",
    "import {table} --cohort {tiny} --rater mh --base 1 --on-conflict ask": "refuse, keep, replace",
    "import {pickle} --cohort {tiny} --rater mh --base 1": "unpickling runs",
    "import {text} --cohort {tiny} --rater mh --base 1": "starts with imageID",
    "export --cohort {tiny} --rater nobody --out t.csv --base 0": "'nobody' has no picks",
    "export --cohort {tiny} --rater simulated-rater --out t.csv --base 0 --layout x": "imageid, case: 'x'",
    "export --cohort {tiny} --rater simulated-rater --out {folder} --base 0": "a table is a file",
    "export --cohort {tiny} --rater simulated-rater --out {text}/x.csv --base 0": "or is below, a file",
    "export --cohort {tiny} --rater simulated-rater --out {text}/y/x.csv --base 0": "or is below, a file",
    "methods --cohort {tiny} --rater nobody": "'nobody' has none. Raters: simulated-rater",
    "compare nobody straka --cohort {tiny} --out cmp": "'nobody' is neither",
    "compare straka straka --cohort {tiny} --out {text}": "--out names a folder",
    "list --cohort nowhere": "folder does not exist",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(line, run, tmp_path, tiny_cohort, monkeypatch):
    places = {"table": tmp_path / "t1.csv", "pickle": tmp_path / "p.pkl", "text": tmp_path / "notes.txt"}
    places |= {"folder": tmp_path / "folder", "tiny": tiny_cohort}
    places["table"].write_text("imageID,AIFx,AIFy,AIFz\n900010,24,24,999\n")
    places["pickle"].write_bytes(b"\x80\x04.")
    places["text"].write_text("not a table\n")
    places["folder"].mkdir()
    if "base 0" in line and "table" in line:
        from perfkit.datasets import open_cohort

        scan = open_cohort(tiny_cohort).scans[0]
        places["table"].write_text(f"imageID,AIFx,AIFy,AIFz\n{scan.number},24,24,{scan.shape[2]}\n")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(*(word.format(**places) for word in line.split()))
    assert (status, out) == (1, "")
    assert err.startswith("perfkit: ") and err.count("\n") == 1 and WRONG[line] in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "line", ["import t.csv --cohort x --rater mh", "import t.csv --cohort x --rater mh --base 2", "export"]
)
def test_a_base_must_be_declared(line, run):
    status, _, err = run(*line.split())
    assert status == 2 and "Traceback" not in err


def test_picks_need_no_tensorflow():
    code = "import sys, perfkit.aifcli, perfkit.published, perfkit.raters; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
