"""The comparison of the methods says what was measured, names what failed, and needs no truth."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from perfkit import aif, annotations, arms, evaluation, methods
from perfkit.aifcli import app
from perfkit.datasets import open_cohort
from perfkit.methods import CONTROL, RATER, TRUE, as_markdown, compare_methods, method_table
from perfkit.preprocessing import prepare

FAST = ("straka", "mouridsen")


@pytest.fixture(scope="module")
def scores(tiny_cohort):
    return compare_methods(open_cohort(tiny_cohort).select(3), FAST, progress=False)


def test_a_row_for_each_scan_and_method(scores):
    order = [TRUE, RATER, *FAST, CONTROL]
    assert scores["method"].to_list() == order * 3
    assert scores["case"].nunique() == 3 and scores["patient"].notna().all()


def test_the_truth_agrees_with_itself(scores):
    rows = scores[scores["method"] == TRUE]
    np.testing.assert_allclose(rows["correlation"], 1)
    np.testing.assert_allclose(rows["area_ratio"], 1)
    np.testing.assert_allclose(rows[["dttp", "dfwhm"]], 0, atol=1e-9)


def test_the_figures_are_those_of_the_curves(scores, tiny_cohort):
    """Computed once more from the cohort, with formulas written out here."""
    case = open_cohort(tiny_cohort)[0]
    prepared, truth = prepare(case), np.asarray(case.truth["aif"], float)
    row = scores[(scores["case"] == case.id) & (scores["method"] == "straka")].iloc[0]
    found = aif.select_aif(prepared)
    a, b = found.curve - found.curve.mean(), truth - truth.mean()
    assert row["correlation"] == pytest.approx((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))
    assert row["dttp"] == pytest.approx(found.curve.argmax() - truth.argmax(), abs=1)
    assert row["area_ratio"] == pytest.approx(found.curve.sum() / truth.sum())
    expected = evaluation.score(prepared, arms.rcbf_map(prepared, found.curve))
    assert row["dice"] == pytest.approx(expected["dice"]) and row["roc_auc"] == pytest.approx(
        expected["roc_auc"]
    )
    assert row["voxels"] == len(found.voxels) and row["flagged"] == found.flagged and row["seconds"] > 0


def test_only_methods_have_seconds(scores):
    assert scores.loc[scores["method"].isin(FAST), "seconds"].gt(0).all()
    assert scores.loc[~scores["method"].isin(FAST), "seconds"].isna().all()


def test_methods_beat_the_mean_curve_of_the_brain(scores):
    table = method_table(scores)
    for method in (*FAST, RATER):
        assert table.loc[method, "correlation"] > table.loc[CONTROL, "correlation"] + 0.1
        assert abs(table.loc[method, "dttp"]) < abs(table.loc[CONTROL, "dttp"])
    assert table.loc[CONTROL, "flagged"] == 1


def test_the_table_by_hand():
    rows = [
        ("m", 0.9, False, True),
        ("m", 0.7, False, False),
        ("m", 0.8, False, False),
        ("m", np.nan, True, False),
    ]
    scores = pd.DataFrame(rows, columns=["method", "correlation", "refused", "flagged"])
    for name in ("dttp", "dfwhm", "area_ratio", "seconds", "roc_auc", "dice"):
        scores[name] = [1.0, 2.0, 3.0, np.nan]
    table = method_table(scores)
    row = table.loc["m"]
    assert row["scans"] == 4 and row["refused"] == 0.25 and row["flagged"] == pytest.approx(1 / 3)
    assert (row["correlation"], row["correlation_q1"], row["correlation_q3"]) == pytest.approx(
        (0.8, 0.75, 0.85)
    )
    assert row["dice"] == 2
    line = as_markdown(table).splitlines()[2]
    assert line == (
        "| m | 4 | 0.800 (0.750, 0.850) | +2.00 (+1.50, +2.50) | +2.00 (+1.50, +2.50) | 2.00 (1.50, 2.50) "
        "| 2.00 | 25% | 33% | 2.000 | 2.000 |"
    )


def test_a_refusal_is_a_row_with_its_reason(tiny_cohort, monkeypatch):
    def refuses(series):
        raise ValueError("no artery in the slab.")

    monkeypatch.setitem(aif.METHODS, "straka", refuses)
    scores = compare_methods(open_cohort(tiny_cohort).select(1), FAST, progress=False)
    row = scores[scores["method"] == "straka"].iloc[0]
    assert row["refused"] and row["reason"] == "no artery in the slab." and np.isnan(row["dice"])
    assert method_table(scores).loc["straka", "refused"] == 1


def test_a_broken_scan_is_told_and_left_out(tiny_cohort, tmp_path):
    folder = shutil.copytree(tiny_cohort, tmp_path / "broken")
    next((folder / "TRAINING" / "case_1").rglob("*4DPWI*.nii*")).write_bytes(b"no image")
    said = []
    cohort = open_cohort(folder)
    scores = compare_methods(cohort.select(2), FAST, progress=False, say=said.append)
    assert set(scores["case"]) == {"case_2"}
    assert len(said) == 1 and said[0].startswith("case_1 is left out: ")


def test_scans_without_truth_core_or_rater_have_empty_columns(tiny_cohort, tmp_path):
    case = open_cohort(tiny_cohort)[0]
    bare = SimpleNamespace(
        **{f: getattr(case, f) for f in ("id", "patient", "ctp", "dt", "affine", "brain", "notes")}
    )
    bare.spacing, bare.core, bare.final_infarct, bare.truth = case.spacing, None, None, {}
    cohort = SimpleNamespace(scans=[SimpleNamespace(id=case.id, load=lambda: bare)], folder=tmp_path)
    scores = compare_methods(cohort, FAST, progress=False)
    assert scores["method"].to_list() == [*FAST, CONTROL]
    assert scores[["correlation", "dttp", "roc_auc", "dice"]].isna().all(axis=None)
    assert "| - |" in as_markdown(method_table(scores))


def test_an_unknown_method_is_refused(tiny_cohort):
    with pytest.raises(ValueError, match=r"The methods are straka.*'stroka' came"):
        compare_methods(open_cohort(tiny_cohort), ("stroka",), progress=False)


def test_an_unknown_rater_is_refused_naming_those_that_are_there(tiny_cohort):
    with pytest.raises(ValueError, match=r"'nobody' has none\. Raters: .*simulated-rater"):
        compare_methods(open_cohort(tiny_cohort), FAST, rater="nobody", progress=False)


def test_ones_own_picks_win_over_delivered_ones_of_the_same_name(tiny_cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("PERFKIT_DATA", str(tmp_path))
    cohort = open_cohort(tiny_cohort).select(1)
    own = annotations.rater_file(cohort.folder, RATER, tmp_path / "aif")
    annotations.append(own, annotations.Pick(cohort.ids[0], ((24, 24, 0), (25, 24, 0), (24, 25, 0))))
    delivered = annotations.latest(cohort.folder / "aif" / f"{RATER}.csv")[cohort.ids[0]]
    scores = compare_methods(cohort, (), progress=False).set_index("method")
    assert scores.loc[RATER, "voxels"] == 3 != len(delivered.voxels)


def test_the_command_prints_the_table_and_writes_both(tiny_cohort, tmp_path, monkeypatch):
    monkeypatch.setattr(methods.compare_methods, "__defaults__", (FAST,))
    options = ["methods", "--cohort", str(tiny_cohort), "--out", str(tmp_path / "o"), "--n", "2"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("| AIF | scans | correlation")
    scans, table = (pd.read_csv(tmp_path / "o" / f"{name}.csv") for name in ("scans", "methods"))
    assert len(scans) == 2 * 5 and table["method"].to_list() == [TRUE, RATER, *FAST, CONTROL]
