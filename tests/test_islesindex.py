"""The ISLES 2018 index against its published agreement; downloads against look-alikes that are spoilt."""

import shutil

import numpy as np
import pandas as pd
import pytest
from layouts import NUMBERS, affine, isles18, isles_case, lesion, save

from perfkit import islesindex
from perfkit.islesindex import agreement_of_systems, check_download, patient_index, training_index

VOXEL_ML = {case: 5 * 5 * (5 + case % 4) / 1000 for case in NUMBERS}


@pytest.fixture(scope="module")
def agreement():
    return agreement_of_systems()


def value(table, quantity, statistic, unit):
    return table.query("quantity == @quantity and statistic == @statistic and unit == @unit").iloc[0]


def test_the_index_holds_94_scans_of_63_patients():
    index = training_index()
    assert (len(index), index["patient"].nunique(), index["smir_id_4dpwi"].nunique()) == (94, 63, 94)
    assert index["patient"].value_counts().value_counts().to_dict() == {2: 31, 1: 32}


def test_published_agreement_of_the_core_volumes_over_scans(agreement):
    published = {
        "bias (ml)": -0.66098,
        "SD of differences (ml)": 3.35147,
        "lower limit (ml)": -7.22987,
        "upper limit (ml)": 5.90791,
        "ICC(2,1)": 0.982178,
    }
    for statistic, expected in published.items():
        assert value(agreement, "core", statistic, "scan")["value"] == pytest.approx(expected, abs=1e-3)


def test_published_bias_and_dice_of_rapid(agreement):
    """Core − lesion −18.9 ± 25.7 ml; Dice .29 ± .20."""
    assert value(agreement, "core − lesion, rapid", "bias (ml)", "scan")["value"] == pytest.approx(
        -18.9, abs=0.05
    )
    spread = value(agreement, "core − lesion, rapid", "SD of differences (ml)", "scan")["value"]
    assert spread == pytest.approx(25.7, abs=0.05)
    mean = value(agreement, "Dice with the lesion", "mean, rapid", "scan")
    assert mean["value"] == pytest.approx(0.29, abs=0.005) and mean["note"] == "SD 0.199"


def test_every_row_counts_its_unit(agreement):
    assert list(agreement.columns) == list(islesindex.COLUMNS)
    assert set(agreement.query("unit == 'scan'")["n"]) == {94}
    assert set(agreement.query("unit == 'patient'")["n"]) == {63}
    assert set(agreement["n_patients"]) == {63}


def test_numbers_of_patients_are_those_of_summed_volumes(agreement):
    sums = training_index().groupby("patient")[["hypo_ml_openperfusion", "hypo_ml_rapid"]].sum()
    difference = sums["hypo_ml_openperfusion"] - sums["hypo_ml_rapid"]
    assert value(agreement, "hypoperfusion", "bias (ml)", "patient")["value"] == pytest.approx(
        difference.mean()
    )


def test_kappa_of_the_rules_by_hand(agreement):
    from sklearn.metrics import cohen_kappa_score

    sums = training_index().groupby("patient").sum(numeric_only=True)
    decisions = []
    for system in ("openperfusion", "rapid"):
        core, hypo = sums[f"core_ml_{system}"], sums[f"hypo_ml_{system}"]
        decisions.append((core < 70) & (hypo >= 1.8 * core) & (hypo - core >= 15))
    row = value(agreement, "eligible by DEFUSE 3", "Cohen's κ", "patient")
    assert row["value"] == pytest.approx(cohen_kappa_score(*decisions))
    assert row["note"] == "eligible 48 and 50; 2 discordant: the interval of κ is crude"


def test_dice_of_a_patient_is_that_of_its_joined_slabs():
    """Slabs with lesion, core and overlap of 10, 10, 5 and 10, 30, 10 ml: 2·15 / 60."""
    index = pd.DataFrame({"patient": ["a", "a", "b"], "lesion_ml": [10.0, 10.0, 0.0]})
    for system in islesindex.SYSTEMS:
        index[f"core_ml_{system}"] = [10.0, 30.0, 0.0]
        index[f"hypo_ml_{system}"] = [20.0, 40.0, 0.0]
        index[f"dice_core_lesion_{system}"] = [0.5, 0.5, 0.0]
    table = patient_index(index).set_index("patient")
    assert table["dice_core_lesion_rapid"].to_dict() == {"a": 0.5, "b": 0.0}
    assert table["n_scans"].to_dict() == {"a": 2, "b": 1}
    assert table.loc["a", "hypo_ml_rapid"] == 60


@pytest.fixture
def download(tmp_path):
    """Four scans as the index below says; returns the folder and that index."""
    for case in (1, 2, 3, 4):
        isles_case(tmp_path / "TRAINING", case, times=(1.0,))
    index = training_index().set_index("case").loc[[1, 2, 3, 4]].reset_index()
    index[["nx", "ny", "nz", "nt"]] = (32, 32, 2, 12)
    index["lesion_ml"] = [48 * VOXEL_ML[case] for case in (1, 2, 3, 4)]  # 4 × 6 × 2 voxels
    return tmp_path, index


def test_a_whole_download_has_no_differences(download):
    folder, index = download
    table = check_download(folder, index)
    assert table.empty and list(table.columns) == list(islesindex.DIFFERENCE_COLUMNS)


def test_every_difference_is_named(download):
    folder, index = download
    case = folder / "TRAINING"
    isles_case(case, 1, shape=(32, 32, 2, 13), times=(1.0,))
    small = lesion()
    small[10, 12, 0] = 0
    mask = next((case / "case_2").glob("*OT*/*.nii"))
    save(mask, small, affine((5.0, 5.0, 7.0)), times=(1.0,))
    shutil.rmtree(next((case / "case_3").glob("*OT*")))
    isles_case(case, 7)
    index = pd.concat([index, training_index().query("case == 94")])
    found = check_download(folder, index).set_index("what")
    assert set(found.index) == {"shape", "lesion_ml", "core", "not in the index", "missing"}
    assert found.loc["shape", ["smir_id_4dpwi", "expected", "found"]].tolist() == [
        345561,
        "32 × 32 × 2 × 12",
        "32 × 32 × 2 × 13",
    ]
    before, after = (float(found.loc["lesion_ml", side]) for side in ("expected", "found"))
    assert before - after == pytest.approx(VOXEL_ML[2])
    assert found.loc["core", "smir_id_4dpwi"] == 345575
    assert found.loc["not in the index", "smir_id_4dpwi"] == 900_049
    assert found.loc["missing", "case"] == "case_94"


def test_a_broken_series_is_named(download):
    folder, index = download
    series = next((folder / "TRAINING" / "case_4").glob("*4DPWI*/*.nii"))
    series.write_bytes(series.read_bytes()[:200])
    found = check_download(folder, index).iloc[0]
    assert (found["what"], found["smir_id_4dpwi"]) == ("broken", 345582)


def test_a_renumbered_folder_is_matched_by_the_series(download):
    folder, index = download
    (folder / "TRAINING" / "case_1").rename(folder / "TRAINING" / "case_77")
    assert check_download(folder, index).empty


def test_without_the_file_the_index_says_where_it_comes_from(tmp_path):
    with pytest.raises(FileNotFoundError, match="comes with a clone of perfkit"):
        training_index(tmp_path / "none.csv")


def test_the_command_prints_the_agreement(command_line, tmp_path):
    status, out, err = command_line("data", "index", "--out", tmp_path / "agreement.csv")
    assert (status, err) == (0, "")
    assert "core (94 scans of 63 patients)" in out and "core (63 patients)" in out
    assert "bias (ml)                       −0.661 (−1.408 to −0.028)" in out
    table = pd.read_csv(tmp_path / "agreement.csv")
    assert len(table) == len(agreement_of_systems())


def test_the_command_checks_a_download(command_line, tmp_path, download, monkeypatch):
    folder, index = download
    status, out, _ = command_line("data", "index", isles18(tmp_path / "look-alike"))
    assert status == 1
    assert "differences from the index" in out
    number = training_index().set_index("case").loc[94, "smir_id_4dpwi"]
    assert f"  case_94 ({number}): missing: expected one scan" in out.splitlines()
    monkeypatch.setattr(islesindex, "training_index", lambda: index)
    status, out, _ = command_line("data", "index", folder)
    assert status == 0 and "all scans of the index are there" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["no-such-folder"], "no-such-folder"), (["--out", "."], "--out names a CSV file")],
)
def test_what_a_user_can_mend_is_one_line(command_line, arguments, words):
    status, _, err = command_line("data", "index", *arguments)
    assert status == 1 and words in err and len(err.strip().splitlines()) == 1


def test_shapes_and_volumes_of_the_index_are_numbers():
    numbers = training_index().drop(columns=["patient", "slab"]).to_numpy(float)
    assert np.isfinite(numbers).all()
