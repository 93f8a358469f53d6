"""The table of estimators: its measures against their definition, and what it must say of calibration."""

import numpy as np
import pytest

from perfkit import accuracy


@pytest.fixture(scope="module")
def table():
    return accuracy.accuracy_table()


def test_errors_follow_their_definition():
    truth, found = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 5.0])
    row = accuracy._errors(found, truth)
    assert row["n"] == 3 and row["bias"] == pytest.approx(0.5)
    assert row["rms"] == pytest.approx(np.sqrt(1.25 / 3))
    assert row["relative_bias"] == pytest.approx(0.5 / (7 / 3))
    assert row["r"] == pytest.approx(np.corrcoef(found, truth)[0, 1])


def test_blocks_are_means_of_voxels():
    values = np.random.default_rng(0).normal(size=(256, 256, 2))
    found = accuracy._blocks(values)
    assert found.shape == (56, 56, 2)
    assert found[3, 5, 1] == pytest.approx(values[12:16, 20:24, 1].mean())


def test_every_estimator_stands_in_the_table_once(table):
    keys = table[["residue", "matrix", "estimator", "map"]]
    assert len(keys.drop_duplicates()) == len(table) == 3 * 2 * 5 * 4
    assert np.isfinite(table[["bias", "rms", "relative_bias", "r"]].to_numpy()).all()


@pytest.mark.parametrize("residue", ["exponential", "linear"])
def test_calibration_brings_every_map_nearer_to_the_truth(table, residue):
    rows = table[(table["residue"] == residue) & (table["matrix"] == "circulant")]
    by = rows.set_index(["estimator", "map"])
    for name, least in (("cbf", 0.95), ("mtt", 0.95), ("delay", 0.8)):
        calibrated, plain = (by.loc[(label, name)] for label in ("calibrated", "Tikhonov .3"))
        assert calibrated["r"] > max(least, plain["r"] - 0.02), name
        assert abs(calibrated["bias"]) < abs(plain["bias"]), name


def test_it_prints_a_line_for_each_estimator():
    lines = []
    found = accuracy.measure(lines.append)
    assert sum(line.strip().startswith("calibrated") for line in lines) == 6
    assert len(found) == 120 and all(-1 <= r <= 1 for r in found.values())
