"""The study around the notebooks: what is refused before they run, what they are given, what is left."""

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from synthetic import synthetic_scores

from perfkit import paths, study
from perfkit.evaluation import Evaluation

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.fixture
def evaluation():
    pooled = {matrix: {"expert": 0.851, "cnn": 0.872} for matrix in ("circulant", "volterra")}
    return Evaluation(synthetic_scores(), pooled, {("case_7", "automatic"): "no enhancement"})


def results(folder, evaluation, **changes):
    options = {
        "tables": {"table1": pd.DataFrame({"arm": ["cnn"], "dice": [0.5]})},
        "figures": {"fig2": go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))},
        "cohort": "Cohort of nobody",
        "parameters": {"lambda_rel": 0.3, "n": np.int64(4)},
        "notes": ("A note to the reader.",),
        "failures": {"case_9": "the series is constant"}.items(),
    }
    return study.save_results(folder, evaluation=evaluation, **options | changes)


def test_results_hold_the_means_of_the_scores(tmp_path, evaluation):
    path = results(tmp_path / "run", evaluation)
    metrics = json.loads(path.read_text())
    scores = evaluation.scores
    for matrix in ("circulant", "volterra"):
        for arm in ("expert", "cnn", "automatic", "brain_mean"):
            rows = scores[(scores["matrix"] == matrix) & (scores["arm"] == arm)]
            for name in ("roc_auc", "dice", "jaccard", "hd95_mm", "volume_ml"):
                mean = sum(rows[name]) / len(rows)
                assert metrics["mean"][matrix][arm][name] == pytest.approx(mean)
    assert metrics["pooled_auc"] == evaluation.pooled_auc
    assert metrics["failures"] == [["case_9", "the series is constant"]]
    assert any(note.startswith("No automatic result for case_7: ") for note in metrics["notes"])
    assert metrics["parameters"] == {"lambda_rel": 0.3, "n": 4}
    written = pd.read_csv(path.parent / "scores.csv")
    np.testing.assert_allclose(written["dice"], scores["dice"])
    assert pd.read_csv(path.parent / "table1.csv")["dice"].tolist() == [0.5]
    assert (path.parent / "figures" / "fig2.html").exists()


def test_the_report_is_made_from_what_lies_on_disk(tmp_path, evaluation):
    results(tmp_path, evaluation)
    (tmp_path / "04_compare_methods.ipynb").write_text("{}")
    page = study.assemble_report(tmp_path)
    text = page.read_text(encoding="utf-8")
    dice = evaluation.scores.query("matrix == 'circulant' and arm == 'cnn'")["dice"]
    assert f"{dice.mean():.3f} ({dice.std():.3f})" in re.sub("\u2011", "-", text)
    for words in ("0.872", "Cohort of nobody", "A note to the reader.", "the series is constant"):
        assert words in text
    assert "No automatic result for case_7" in text and 'href="04_compare_methods.ipynb"' in text
    assert "00_deconvolution_by_hand" not in text  # it has not run
    assert 'id="plot-fig2"' in text


def test_the_report_keeps_the_reference_of_the_run(tmp_path, evaluation):
    results(tmp_path, evaluation, reference="brain_mean")
    page = study.assemble_report(tmp_path).read_text(encoding="utf-8")
    assert "Tests against the mean brain curve" in page and "Tests against the expert AIF" not in page


def test_names_of_digits_stay_names(tmp_path):
    scores = synthetic_scores().replace({"case": {"case_1": "001"}})
    results(tmp_path, Evaluation(scores, {"circulant": {}}, {}))
    assert "001" in study.assemble_report(tmp_path).read_text(encoding="utf-8")


def test_no_score_at_all_is_said_with_the_first_reason(tmp_path):
    nothing = Evaluation(pd.DataFrame(), {}, {("case_1", "expert"): "the AIF is zero everywhere"})
    with pytest.raises(ValueError, match="no scan has any: 1 failed, the first with: the AIF is zero"):
        results(tmp_path / "run", nothing, failures=())
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="none has a core mask"):
        results(tmp_path / "run", Evaluation(pd.DataFrame(), {}, {}), failures=())


@pytest.mark.parametrize("name", ["scores.csv", "metrics.json"])
def test_a_report_without_its_numbers_says_what_to_run(tmp_path, evaluation, name):
    results(tmp_path, evaluation)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"needs {name}.*perfkit study --out"):
        study.assemble_report(tmp_path)
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize("name", ["metrics.json", "figures/fig2.json"])
def test_a_damaged_file_is_named(tmp_path, evaluation, name):
    results(tmp_path, evaluation)
    (tmp_path / name).write_text('{"cohort": ')
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        study.assemble_report(tmp_path)


def test_the_demo_cohort_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PERFKIT_DATA", str(tmp_path))
    lines = []
    folder = study.demo_cohort(1, size="tiny", seed=3, say=lines.append)
    assert folder == tmp_path / "cohorts" / "tiny-1-seed3"
    assert lines == ["Phantom cohort: 1 scans, size tiny, seed 3"]
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*.nii.gz")}
    assert times and study.demo_cohort(1, size="tiny", seed=3, say=lines.append) == folder
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.nii.gz")} == times


def parameters_of(name):
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    (cell,) = (c for c in cells if "parameters" in c["metadata"].get("tags", ()))
    return {node.target.id for node in ast.parse("".join(cell["source"])).body}


def test_every_notebook_gets_parameters_it_has(tmp_path, tiny_cohort, monkeypatch):
    """A misspelt one would be injected, and the default used without a word."""
    ran = []
    monkeypatch.setattr(
        study, "run_notebook", lambda name, output, given, **_: ran.append((name, output, given))
    )
    monkeypatch.setattr(study, "assemble_report", lambda folder: folder / "index.html")
    out = tmp_path / "run"
    page = study.run_study(out, tiny_cohort, preset="tiny", folds=2, seed=5, say=lambda line: None)
    assert page == out / "index.html"
    names = [name for name, *_ in ran]
    there = {p.stem for p in NOTEBOOKS.glob("*.ipynb")}
    beside = {"05_case_report", "06_which_estimator"}  # of one scan, for `perfkit batch`; of none
    beside.add("07_does_it_beat_an_expert")  # of a second cohort
    assert set(names) == there - beside
    for name, output, given in ran:
        assert set(given) <= parameters_of(name), name
        assert output.parent == out and output.name.startswith(name) and given["seed"] == 5
        assert all(isinstance(value, str | int) for value in given.values())  # as YAML carries them
    assert {given["cohort"] for _, _, given in ran[1:]} == {str(tiny_cohort)}
    trained = {given["matrix"]: given for name, _, given in ran if name.startswith("03")}
    assert set(trained) == {"circulant", "volterra"} and len({output for _, output, _ in ran}) == len(ran)
    for matrix, given in trained.items():
        assert given["out"] == ran[-1][2][f"training_{matrix}"]
        assert given["preset"] == "tiny" and given["folds"] == 2
    assert ran[-1][2]["out"] == str(out)


def nothing_runs(*_, **__):
    raise AssertionError("a notebook ran")


def test_too_many_folds_are_refused_before_any_notebook(tmp_path, tiny_cohort, monkeypatch):
    monkeypatch.setattr(study, "run_notebook", nothing_runs)
    with pytest.raises(ValueError, match=r"folds.*99"):
        study.run_study(tmp_path / "run", tiny_cohort, folds=99, say=lambda line: None)
    assert not (tmp_path / "run").exists()


def test_a_cohort_without_core_masks_is_refused_before_any_notebook(tmp_path, tiny_cohort, monkeypatch):
    monkeypatch.setattr(study, "run_notebook", nothing_runs)
    for path in tiny_cohort.glob("TRAINING/*/*4DPWI*/*.nii.gz"):
        (tmp_path / "scans").mkdir(exist_ok=True)
        (tmp_path / "scans" / f"{path.parent.parent.name}.nii.gz").symlink_to(path)
    with pytest.raises(ValueError, match="none of the 6 scans"):
        study.run_study(tmp_path / "run", tmp_path / "scans", say=lambda line: None)


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A checkout whose only notebook fails at its second cell."""
    cells = [nbformat.v4.new_code_cell(code) for code in ("print('so far')", "{}['core']", "print('never')")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "notebooks" / "fails.ipynb"
    )
    monkeypatch.setattr(paths, "repository", lambda: tmp_path)
    return tmp_path


def test_a_failing_notebook_is_kept_with_its_traceback(failing):
    output = failing / "out.ipynb"
    with pytest.raises(RuntimeError, match=r"^fails failed: KeyError: 'core'\. See .*out\.ipynb$") as caught:
        study.run_notebook("fails", output, {})
    assert caught.value.__suppress_context__  # one line, not papermill's page
    text = output.read_text(encoding="utf-8")
    assert "so far" in text and "KeyError" in text and '"never\\n"' not in text


def test_a_missing_notebook_is_named(failing):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ipynb is missing. Run perfkit from a clone"):
        study.run_notebook("nowhere", failing / "out.ipynb", {})


def test_progress_is_passed_on_from_the_training_alone(tmp_path, tiny_cohort, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        study, "run_notebook", lambda name, *_, show_output=False: shown.update({name: show_output})
    )
    monkeypatch.setattr(study, "assemble_report", lambda folder: SimpleNamespace())
    study.run_study(tmp_path, tiny_cohort, folds=2, say=lambda line: None)
    assert [name for name, live in shown.items() if live] == ["03_train_the_aif_network"]


def test_the_flow_counts_what_was_lost_on_the_way():
    cohort = SimpleNamespace(patients={"a": "p", "b": "p", "c": "q", "d": "r"})
    scans = {"a": SimpleNamespace(core=1), "b": SimpleNamespace(core=1), "c": SimpleNamespace(core=None)}
    prepared = SimpleNamespace(scans=scans, failures={"d": "broken"})
    rows = [("a", "expert"), ("a", "cnn"), ("b", "expert")]
    scores = pd.DataFrame(rows, columns=["case", "arm"])
    flow = study.cohort_flow(cohort, prepared, SimpleNamespace(scores=scores))
    assert [(step["scans"], step["patients"]) for step in flow] == [(4, 3), (3, 2), (2, 1), (2, 1), (1, 1)]
    assert "1 could not" in flow[1]["label"] and "1 have none" in flow[2]["label"]
    nothing = study.cohort_flow(cohort, prepared, SimpleNamespace(scores=scores[:0]))
    assert len(nothing) == 3
