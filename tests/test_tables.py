"""Tables of curves come back as they went, and never half."""

import csv

import numpy as np
import pandas as pd
import pytest

from perfkit import tables


def test_aifs_come_back_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    aifs = {"case_10": rng.normal(size=12), "case_2": 1e5 * rng.normal(size=7), "b": np.zeros(10)}
    path = tables.save_aifs(tmp_path / "new" / "aifs.csv", aifs)
    found = tables.load_aifs(path)
    assert list(found) == list(aifs)
    for case, curve in aifs.items():
        np.testing.assert_array_equal(found[case], curve)


def test_a_name_of_digits_stays_a_name(tmp_path):
    path = tables.save_aifs(tmp_path / "aifs.csv", {"007": [1.0, 2.0], "010": [3.0]})
    assert list(tables.load_aifs(path)) == ["007", "010"]


def test_single_precision_survives(tmp_path):
    curve = np.random.default_rng(1).normal(size=20).astype(np.float32)
    found = tables.load_aifs(tables.save_aifs(tmp_path / "a.csv", {"a": curve}))["a"]
    np.testing.assert_array_equal(found.astype(np.float32), curve)


def test_the_file_is_one_row_per_case_and_frame(tmp_path):
    path = tables.save_aifs(tmp_path / "aifs.csv", {"a": [0.5, 2.0], "b": [1.0]})
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows == [["case", "frame", "value"], ["a", "0", "0.5"], ["a", "1", "2.0"], ["b", "0", "1.0"]]


def test_rows_count_by_their_frame_not_their_place(tmp_path):
    path = tmp_path / "sorted-by-hand.csv"
    path.write_text("case,frame,value,remark\nb,1,4\na,2,3\na,0,1\nb,0,9\na,1,2\n")
    found = tables.load_aifs(path)
    np.testing.assert_array_equal(found["a"], [1, 2, 3])
    np.testing.assert_array_equal(found["b"], [9, 4])


def test_a_table_of_something_else_is_refused_with_its_name(tmp_path):
    path = tmp_path / "scores.csv"
    path.write_text("case,dice\na,.5\n")
    with pytest.raises(ValueError, match=r"scores\.csv lacks frame, value"):
        tables.load_aifs(path)


def test_a_missing_table_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        tables.load_aifs(tmp_path / "nowhere.csv")


def test_a_write_that_breaks_leaves_the_old_table(tmp_path, monkeypatch):
    path = tables.save_table(tmp_path / "t.csv", pd.DataFrame({"a": [1]}))

    def full_disk(self, target, **_):
        with open(target, "w") as file:
            file.write("a\n")
        raise OSError("No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full_disk)
    with pytest.raises(OSError, match="No space"):
        tables.save_table(path, pd.DataFrame({"a": [2, 3]}))
    assert path.read_text() == "a\n1\n"
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".csv" and p != path and p.name[0] != "."]
