"""The command line as a newcomer meets it: help that teaches, errors of one line, files that are there."""

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import typer
from synthetic import synthetic_scores
from typer.testing import CliRunner

from perfkit import __version__, cli, paper, pickapp
from perfkit.datasets import open_cohort

COMMANDS = {
    "study": ("--cohort", "--out", "--n", "--size", "--preset", "--folds", "--seed"),
    "phantom": ("folder", "--n", "--size", "--seed"),
    "maps": ("source", "--out", "--case", "--voxel", "--matrix", "--lambda-rel", "--estimator"),
    "pick": ("cohort", "--rater", "--case", "--port", "--browser"),
    "train": (
        *("--cohort", "--out", "--preset", "--folds", "--epochs", "--matrix", "--seed"),
        *("--arm", "--loss", "--learn", "--tmax", "--fold", "--board", "--batch-size", "--precision"),
    ),
    "predict": ("--cohort", "--out"),
    "batch": (
        "notebook",
        "--out",
        "--cohort",
        "--sets",
        "--case",
        "--workers",
        "--time-limit",
        "--memory-limit",
        "--retries",
        "--resume",
        "--scheduler",
        "--cluster",
        "--jobs",
        "--gpu",
    ),
    "paper": (),
    "report": ("folder", "--pictures"),
    "bench": ("what", "--repeats"),
    "doctor": (),
    "test": (),
    "lab": (),
    "aif": (),
    "data": (),
}
ROOT = Path(__file__).parent.parent


def helped(*arguments):
    found = CliRunner().invoke(cli.app, [*arguments, "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert found.exit_code == 0
    return found.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_argument(command):
    text = helped(command)
    for argument in COMMANDS[command]:
        assert re.search(rf"(?<![\w-]){argument}(?![\w-])", text), argument
    options = set(re.findall(r"│[* ]+(--[\w-]+)", text)) - {"--help"}
    assert options == {name for name in COMMANDS[command] if name.startswith("--")}


def test_the_overview_lists_every_command_and_the_warning():
    text = helped()
    assert set(re.findall(r"^│ (\w+)  ", text, flags=re.M)) == set(COMMANDS)
    assert "Not for clinical use" in " ".join(text.split())
    assert "perfkit study" in text  # where to start


@pytest.mark.parametrize("command", ["study", "phantom", "maps", "pick", "train", "batch", "bench"])
def test_the_example_in_the_help_is_understood(command):
    """The words after 'Try:' parse; what they would do is not done."""
    (example,) = re.findall(r"Try: (perfkit .+?)\s*$", helped(command), flags=re.M)
    words = shlex.split(example)
    assert words[:2] == ["perfkit", command]
    group = typer.main.get_command(cli.app)
    context = group.commands[command].make_context(command, words[2:])
    assert set(context.params) >= {name.lstrip("-").replace("-", "_") for name in COMMANDS[command]}


def test_the_version_is_the_package_s(command_line):
    assert command_line("--version") == (0, f"perfkit {__version__}\n", "")


WRONG = {
    "maps nowhere": "nowhere does not exist",
    "maps {empty}": "this folder holds nothing",
    "maps {file}": "notes.txt is not",
    "maps {tiny} --case case_99": "there is no scan 'case_99'",
    "maps {tiny} --voxel 1,2": "'x y z; x y z'",
    "maps {tiny} --estimator bayes": "tikhonov, calibrated: 'bayes' came",
    "maps {tiny} --lambda-rel 0": "lambda_rel must be positive",
    "maps {tiny} --matrix toeplitz": "circulant, volterra, truncated: 'toeplitz' came",
    "maps {tiny} --out {file}": "--out names a folder",
    "phantom x --size huge": "tiny, small, full; 'huge' came",
    "phantom {file}": "notes.txt is a file",
    "phantom {full}": "holds other files",
    "report {empty}": "needs scores.csv",
    "report nowhere": "needs scores.csv",
    "train --preset slow": "tiny, quick, full: 'slow' came",
    "train --matrix toeplitz": "'toeplitz' came",
    "train --cohort {tiny} --folds 99": "99",
    "train --arm rnn": "cnn, pool: 'rnn' came",
    "train --loss l2": "'l2' came",
    "train --precision half": "float32, mixed_bfloat16, mixed_float16: 'half' came",
    "train --learn dt": "threshold, slope, lambda_rel: 'dt' came",
    "train --folds 3 --fold 3": "from 0 to 2: 3 came",
    "predict {empty} --cohort {tiny}": "settings.json and fold-*/state.npz",
    "predict {empty} --cohort {empty}": "this folder holds nothing",
    "predict {empty} --cohort {tiny} --out {empty}": "is a folder",
    "train --cohort {empty}": "this folder holds nothing",
    "study --cohort nowhere": "nowhere: the cohort's folder does not exist",
    "study --cohort {tiny} --folds 99 --out run": "99",
    "study --preset slow": "'slow' came",
    "study --size huge": "'huge' came",
    "bench nothing": "maps, pipeline, train",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(line, command_line, tmp_path, tiny_cohort, monkeypatch):
    places = {"empty": tmp_path / "empty", "file": tmp_path / "notes.txt", "full": tmp_path / "full"}
    places["empty"].mkdir()
    places["full"].mkdir()
    (places["full"] / "mine.txt").touch()
    places["file"].write_text("not a scan")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PERFKIT_DATA", str(tmp_path / "data"))
    before = sorted(tmp_path.rglob("*"))
    status, out, err = command_line(*(word.format(tiny=tiny_cohort, **places) for word in line.split()))
    assert status == 1
    assert err.startswith("perfkit: ") and err.count("\n") == 1 and WRONG[line] in err
    assert "Traceback" not in out + err and "failed" not in out
    assert sorted(tmp_path.rglob("*")) == before
    assert "tensorflow" not in err


@pytest.mark.parametrize(
    "line", ["phantom x --n 0", "maps", "nothing", "study --folds 1", "maps x --lambda-rel much", "train --x"]
)
def test_what_cannot_be_parsed_points_to_the_help(line, command_line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = command_line(*line.split())
    assert status == 2
    assert "-h" in err and "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_that_nothing_is_lost(command_line, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("perfkit.phantom.write_cohort", stopped)
    status, _, err = command_line("phantom", tmp_path / "x")
    assert status == 130 and "goes on from there" in err and "Traceback" not in err


def test_maps_goes_on_after_a_broken_scan(tmp_path, tiny_cohort):
    """A real process: status 1, the broken file on stderr, the others on disk."""
    scans = {scan.id: scan.path for scan in open_cohort(tiny_cohort).scans}
    folder, out = tmp_path / "scans", tmp_path / "maps"
    folder.mkdir()
    whole = scans["case_1"].read_bytes()
    shutil.copy(scans["case_2"], folder / "whole.nii.gz")
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    command = [sys.executable, "-c", "from perfkit.cli import main; main()", "maps", folder, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout.startswith("whole: core ")
    first, last = done.stderr.splitlines()
    assert first.startswith("cut: failed:") and "cut.nii.gz" in first and last == "1 of 2 scans failed."
    assert [p.name for p in out.iterdir()] == ["whole"]
    image, source = nib.load(out / "whole" / "whole_cbf.nii.gz"), nib.load(scans["case_2"])
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-6)
    assert np.isfinite(image.get_fdata()).all() and image.get_fdata().max() > 10
    sidecar = json.loads((out / "whole" / "whole_cbf.json").read_text())
    assert sidecar["Units"] == "ml/100 g/min" and sidecar["Method"]["lambda_rel"] == 0.3


def test_the_installed_command_knows_its_errors():
    script = Path(sys.executable).with_name("perfkit")
    if not script.exists():
        pytest.skip("perfkit is not installed as a command beside this Python")
    done = subprocess.run([script, "maps", "nowhere"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1


def test_a_phantom_cohort_is_made_and_kept(command_line, tmp_path):
    status, out, _ = command_line("phantom", tmp_path / "c", "--n", 1, "--size", "tiny")
    assert status == 0 and out.strip() == str(tmp_path / "c")
    assert len(open_cohort(tmp_path / "c")) == 1
    status, _, err = command_line("phantom", tmp_path / "c", "--n", 1, "--size", "tiny", "--seed", 1)
    assert status == 1 and "seed 0 there, 1 asked" in err and err.count("\n") == 1
    assert len(open_cohort(tmp_path / "c")) == 1


def test_every_item_of_the_paper_points_at_its_function(command_line):
    status, out, _ = command_line("paper")
    assert status == 0
    listed = {}
    lines = out.splitlines()
    assert len(lines) == 2 * len(paper.ITEMS)
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        item, where, function = re.fullmatch(r"(.+?)\s{2,}(\S+:\d+)\s+(\S+)", first).groups()
        path, number = where.rsplit(":", 1)
        text = (ROOT / path).read_text(encoding="utf-8")
        name = function.split(".")[-1]
        assert re.match(rf"\s*(def|class) {name}\b", text.splitlines()[int(number) - 1]), first
        assert second.strip() == paper.ITEMS[item]
        listed[item] = where
    assert list(listed) == list(paper.ITEMS)


def test_report_gives_an_address_that_opens(command_line, tmp_path):
    synthetic_scores().to_csv(tmp_path / "scores.csv", index=False)
    content = {"cohort": "", "parameters": {}, "pooled_auc": {"circulant": {}}, "notes": [], "failures": []}
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    status, out, _ = command_line("report", tmp_path)
    assert status == 0
    assert Path(out.strip().removeprefix("file://")).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_train_hands_on_what_was_asked(command_line, tmp_path, tiny_cohort, monkeypatch):
    asked = []

    def train_cohort(cohort, out, **options):
        asked.append((cohort, out, options))
        history = pd.DataFrame(
            {"fold": [0, 0, 1, 1], "epoch": [1, 2, 1, 2], "val_dice": [0.1, 0.3, 0.2, 0.5]}
        )
        return SimpleNamespace(aifs=dict.fromkeys("abc"), history=history)

    monkeypatch.setitem(sys.modules, "perfkit.training", SimpleNamespace(train_cohort=train_cohort))
    arguments = ["--folds", "2", "--epochs", "2", "--seed", "4", "--matrix", "volterra", "--preset", "tiny"]
    arguments += ["--arm", "pool", "--loss", "ranking", "--tmax", "--batch-size", "3"]
    arguments += ["--precision", "mixed_bfloat16", "--learn", "slope", "--fold", "1"]
    arguments += ["--board", tmp_path / "b"]
    status, out, _ = command_line("train", "--cohort", tiny_cohort, "--out", tmp_path / "t", *arguments)
    assert status == 0
    assert out.strip() == f"3 AIFs in {tmp_path / 't' / 'aifs.csv'}; validation Dice 0.400"
    options = {"preset": "tiny", "folds": 2, "epochs": 2, "matrix": "volterra", "seed": 4}
    options |= {"head": "pool", "loss": "ranking", "learn": ("slope",), "tmax_factor": True, "only": 1}
    options |= {"batch_size": 3, "precision": "mixed_bfloat16", "board": tmp_path / "b"}
    assert asked == [(tiny_cohort, tmp_path / "t", options)]


def test_study_hands_on_what_was_asked(command_line, tmp_path, monkeypatch):
    asked = []

    def run_study(out, cohort, **options):
        asked.append((out, cohort, options))
        return tmp_path / "index.html"

    monkeypatch.setattr("perfkit.study.run_study", run_study)
    status, out, _ = command_line("study", "--n", "6", "--size", "tiny", "--preset", "tiny", "--folds", "3")
    assert status == 0 and out.splitlines()[-1] == f"file://{tmp_path / 'index.html'}"
    (found,) = asked
    assert found[2].pop("say")
    options = {"n": 6, "size": "tiny", "preset": "tiny", "folds": 3, "seed": 0}
    assert found == ("", "", options)


@pytest.mark.parametrize("status", [0, 3])
def test_test_and_lab_pass_everything_on(command_line, monkeypatch, status):
    seen = []
    monkeypatch.setattr("perfkit.bootstrap.run_tests", lambda words: seen.append(words) or status)
    assert command_line("test", "-k", "maps", "--durations=3")[0] == status
    monkeypatch.setattr("subprocess.call", lambda words: seen.append(words[-2:]) or status)
    assert command_line("lab", "--port", "9999")[0] == status
    assert seen == [["-k", "maps", "--durations=3"], ["--port", "9999"]]


def test_a_port_that_is_taken_is_said_before_any_server_starts(command_line, monkeypatch):
    monkeypatch.setattr(pickapp, "serve", lambda *arguments, **options: 0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, _, err = command_line("pick", "--port", port, "--no-browser")
        assert status == 1 and f"a free port, and {port} cannot be taken" in err
        assert err.count("\n") == 1
    assert command_line("pick", "--port", port, "--no-browser")[0] == 0
