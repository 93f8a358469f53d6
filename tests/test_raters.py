"""Distances and differences of two raters against numbers worked out by hand."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from perfkit import annotations, raters, raterviews
from perfkit.aif import AIF, expert_aif
from perfkit.annotations import Pick
from perfkit.arms import rcbf_map
from perfkit.datasets import open_cohort
from perfkit.maps import core_mask
from perfkit.metrics import dice, volume_ml
from perfkit.preprocessing import prepare
from perfkit.raters import compare_raters, curves_apart, places_apart

RATER = "simulated-rater"


@pytest.fixture(scope="module")
def cohort(tiny_cohort):
    return open_cohort(tiny_cohort)[:3]


@pytest.fixture(scope="module")
def against_straka(cohort, tmp_path_factory):
    return compare_raters(cohort, RATER, "straka", aif_root=tmp_path_factory.mktemp("none"))


def test_distances_by_hand():
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    found = places_apart([(10, 10, 1)], [(13, 14, 1)], affine)
    assert found == {"identical": False, "distance_mm": 10.0, "in_plane_px": 5.0, "slices": 0.0}
    found = places_apart([(10, 10, 1), (12, 10, 1)], [(11, 10, 3)], affine)  # the centre is at 11
    assert found == {"identical": False, "distance_mm": 10.0, "in_plane_px": 0.0, "slices": 2.0}
    turned = np.array([[0, -3.0, 0, 7], [1.0, 0, 0, -9], [0, 0, 5.0, 2], [0, 0, 0, 1]])
    assert places_apart([(0, 0, 0)], [(4, 1, 0)], turned)["distance_mm"] == 5  # 4 px of 1 mm, 1 px of 3 mm
    same = places_apart([(1, 2, 3), (4, 5, 6)], [(4, 5, 6), (1, 2, 3)], affine)
    assert same["identical"] and same["distance_mm"] == 0
    none = places_apart([], [(1, 2, 3)], affine)
    assert not none["identical"] and np.isnan(none["distance_mm"])


def test_curves_by_hand():
    a, b = (AIF(np.array(curve, float), np.zeros((1, 3), int), 2.0, "x") for curve in (
        [0, 0, 2, 4, 2, 0, 0, 0], [0, 0, 0, 0, 3, 6, 3, 0]
    ))  # fmt: skip
    found = curves_apart(a, b)
    assert found["delta_ttp"] == pytest.approx(-4)  # frames 3 and 5, 2 s each
    assert found["delta_first_moment"] == pytest.approx(-4)
    assert found["delta_fwhm"] == pytest.approx(0)
    assert (found["peak_a"], found["peak_b"], found["delta_peak"]) == (4, 6, -2)
    assert found["correlation"] == pytest.approx(np.corrcoef(a.curve, b.curve)[0, 1])
    flat = AIF(np.zeros(8), np.zeros((1, 3), int), 2.0, "x")
    assert np.isnan(curves_apart(a, flat)["correlation"])


def test_a_row_holds_what_the_pipeline_makes_of_both(cohort):
    """Every number of the effect, computed once more from the parts it is made of."""
    recorded = annotations.latest(cohort.folder / "aif" / f"{RATER}.csv")
    case = cohort["case_1"]
    scan = prepare(case)
    x, y, z = recorded["case_1"].voxels[0]
    x2, y2 = next(v for v in ((x + 3, y), (x - 3, y)) if scan.brain[v[0], v[1], z])
    other = {"case_1": Pick("case_1", ((x2, y2, z),))}
    row = compare_raters(cohort, recorded, other, names=("first", "second")).table.iloc[0]
    assert row["distance_mm"] == pytest.approx(3 * scan.spacing[0], rel=1e-5)
    assert (row["in_plane_px"], row["slices"], row["identical"]) == (3, 0, False)
    assert (row["voxels_a"], row["voxels_b"]) == (1, 1)
    maps = [rcbf_map(scan, expert_aif(scan, picks, case).curve) for picks in (recorded, other)]
    cores = [core_mask(rcbf, scan.brain) for rcbf in maps]
    volumes = [volume_ml(core, scan.spacing) for core in cores]
    assert [row["core_ml_a"], row["core_ml_b"]] == pytest.approx(volumes)
    assert row["delta_core_ml"] == pytest.approx(volumes[0] - volumes[1])
    assert row["dice_cores"] == pytest.approx(dice(*cores))
    known = scan.core & scan.brain
    assert [row["dice_a"], row["dice_b"]] == pytest.approx([dice(known, core) for core in cores])
    assert row["rcbf_difference"] == pytest.approx(
        np.median(np.abs(maps[0] - maps[1])[scan.tissue]), abs=1e-6
    )


def test_a_rater_agrees_with_himself(cohort):
    found = compare_raters(cohort, RATER, RATER)
    table = found.table
    assert len(table) == 3 and table["identical"].all()
    assert (table["distance_mm"] == 0).all() and (table["vof_distance_mm"] == 0).all()
    assert np.allclose(table["correlation"], 1) and (table["dice_cores"] == 1).all()
    assert (table.filter(like="delta_").dropna(axis=1) == 0).all(axis=None)
    summary = found.summary()
    assert summary["identical"] == summary["n"] == 3
    assert summary["core_volume"]["bias"] == 0 and summary["core_volume"]["icc21"] == pytest.approx(1)


def test_swapping_the_raters_turns_the_signs(cohort, against_straka):
    turned = compare_raters(cohort, "straka", RATER).table
    table = against_straka.table
    for name in ("delta_ttp", "delta_peak", "delta_fwhm", "delta_first_moment", "delta_cbf", "delta_core_ml"):
        np.testing.assert_allclose(turned[name], -table[name], rtol=1e-5, atol=1e-6, err_msg=name)
    for name in ("distance_mm", "correlation", "dice_cores", "rcbf_difference"):
        np.testing.assert_allclose(turned[name], table[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_twice_the_aif_halves_cbf_and_leaves_the_core(cohort, monkeypatch):
    """CBF goes with the inverse of the AIF, rCBF does not see its scale."""
    picks = annotations.latest(cohort.folder / "aif" / f"{RATER}.csv")
    same = dict(picks)

    def scaled(scan, whose, case):
        found = expert_aif(scan, whose, case)
        return replace(found, curve=found.curve * (2 if whose is picks else 1))

    monkeypatch.setattr(raters, "expert_aif", scaled)
    table = compare_raters(cohort, picks, same).table
    np.testing.assert_allclose(table["cbf_a"], table["cbf_b"] / 2, rtol=1e-4)
    np.testing.assert_allclose(table["peak_a"], 2 * table["peak_b"], rtol=1e-6)
    assert (table["dice_cores"] > 0.999).all() and (table["rcbf_difference"] < 1e-4).all()


def test_scans_one_of_them_has_alone_are_listed(cohort):
    picks = annotations.latest(cohort.folder / "aif" / f"{RATER}.csv")
    a = {case: picks[case] for case in ("case_1", "case_2")}
    b = {case: picks[case] for case in ("case_2", "case_3")} | {"case_1": Pick("case_1", (), ((1, 1, 1),))}
    found = compare_raters(cohort, a, b, names=("anna", "bert"))
    assert list(found.table["case"]) == ["case_2"]
    assert (found.only_a, found.only_b) == (("case_1",), ("case_3",))
    assert "1 scans only anna has: case_1." in found.sentences()
    assert found.summary()["core_volume"] is None  # of one scan there are no limits
    assert raterviews.raters_figure(found.table, "anna", "bert").data
    with pytest.raises(ValueError, match="none in common"):
        compare_raters(cohort, {"case_1": picks["case_1"]}, {"case_2": picks["case_2"]})


def test_who_is_unknown_is_told_who_there_is(cohort):
    with pytest.raises(ValueError, match=rf"'nobody' is neither.*Raters: .*{RATER}.*methods: .*straka"):
        compare_raters(cohort, "nobody", "straka")


def test_one_s_own_picks_come_before_those_delivered(cohort, tmp_path):
    file = annotations.rater_file(cohort.folder, RATER, tmp_path)
    picks = annotations.latest(cohort.folder / "aif" / f"{RATER}.csv")
    annotations.append(file, picks["case_2"])
    assert raters.rater_files(cohort, tmp_path)[RATER] == file
    assert list(compare_raters(cohort, RATER, RATER, aif_root=tmp_path).table["case"]) == ["case_2"]


def test_a_broken_scan_is_named_and_the_others_go_on(cohort, tmp_path):
    root = tmp_path / "tiny"
    shutil.copytree(cohort.folder, root)
    broken = open_cohort(root).scan("case_2").path
    broken.write_bytes(broken.read_bytes()[:400])
    found = compare_raters(open_cohort(root).select(["case_1", "case_2"]), RATER, "straka")
    assert list(found.table["case"]) == ["case_1"] and list(found.failures) == ["case_2"]
    assert any(line.startswith("case_2 was not compared:") for line in found.sentences())
    with pytest.raises(ValueError, match=r"none of 1 scans could be compared\. case_2:"):
        compare_raters(open_cohort(root).select(["case_2"]), RATER, "straka")


def synthetic():
    return pd.DataFrame(
        {
            "case": ["case_1", "case_2", "case_3", "case_4"],
            "patient": ["1", "1", "2", "3"],
            "identical": [True, False, False, False],
            "distance_mm": [0.0, 2.0, 4.0, 30.0],
            "core_ml_a": [10.0, 12.0, 30.0, 8.0],
            "core_ml_b": [10.0, 10.0, 33.0, 3.0],
            "peak_a": [20.0, 30.0, 40.0, 50.0],
            "peak_b": [20.0, 33.0, 35.0, 52.0],
            "dice_cores": [1.0, 0.9, 0.8, 0.1],
        }
    ).assign(**{name: np.nan for name in raters.MEASURES if name not in ("distance_mm", "dice_cores")})


def test_the_summary_by_hand():
    summary = raters.RaterComparison("anna", "bert", synthetic(), ("x",), (), {"y": "broken"}).summary()
    assert (summary["n"], summary["patients"], summary["identical"]) == (4, 3, 1)
    assert summary["measures"]["distance_mm"] == {"median": 3.0, "q1": 1.5, "q3": 10.5, "n": 4}
    assert summary["measures"]["delta_ttp"] == {"median": None, "q1": None, "q3": None, "n": 0}
    difference = np.array([0, 2, -3, 5])
    assert summary["core_volume"]["bias"] == 1
    assert summary["core_volume"]["upper"] == pytest.approx(1 + 1.96 * difference.std(ddof=1))
    json.dumps(summary, allow_nan=False)
    words = "\n".join(raters.RaterComparison("anna", "bert", synthetic(), ("x",), (), {"y": "z"}).sentences())
    assert "anna (a) and bert (b) are compared in 4 scans of 3 patients. In 1 (25 %)" in words
    assert "Distance: 3.0 mm (1.5 to 10.5; 4)" in words
    assert "Time to peak" not in words  # nothing is said of what is not defined
    assert "on average +1.0 ml" in words and "y was not compared: z" in words


def test_the_figure_shows_the_table_with_units():
    figure = raterviews.raters_figure(synthetic(), "anna", "bert")
    titles = {axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes()) if axis.title.text}
    assert titles == {
        "Distance at most (mm)", "Share of scans (%)", "anna − bert (s)", "anna: peak (HU)",
        "bert: peak (HU)", "anna: core (ml)", "bert: core (ml)", "Mean of both volumes (ml)",
        "anna − bert (ml)", "Distance of the picks (mm)", "Dice of the two cores",
    }  # fmt: skip
    cumulative = figure.data[0]
    assert list(cumulative.x) == [0, 2, 4, 30] and list(cumulative.y) == [25, 50, 75, 100]
    boxes = [trace for trace in figure.data if trace.type == "box"]
    assert [box.name for box in boxes] == ["TTP", "FWHM", "First moment"]
    agreement = next(trace for trace in figure.data if list(trace.y) == [0, 2, -3, 5])
    assert list(agreement.x) == [10, 11, 31.5, 5.5]
    lines = {round(shape.y0, 3) for shape in figure.layout.shapes}
    sd = np.array([0, 2, -3, 5]).std(ddof=1)
    assert lines == {0, 1, round(1 - 1.96 * sd, 3), round(1 + 1.96 * sd, 3)}


def test_what_is_saved_opens_again(against_straka, tmp_path):
    table, summary, page = against_straka.save(tmp_path / "out")
    read = pd.read_csv(table)
    np.testing.assert_allclose(read["distance_mm"], against_straka.table["distance_mm"])
    assert json.loads(summary.read_text())["a"] == RATER
    assert "Bland-Altman" in page.read_text(encoding="utf-8")
