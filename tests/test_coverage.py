"""The bench of intervals: counts by hand, numbers of another generator; phantoms in the slow test."""

import numpy as np
import pandas as pd
import pytest

from perfkit import aif, bench, coverage
from perfkit.conformal import VolumeIntervals
from perfkit.eligibility import eligible
from perfkit.phantom import make_case


def numbers(seed, n=800):
    """Volumes of patients from a generator that is no phantom: lognormal lesions, biased estimates."""
    rng = np.random.default_rng(seed)
    found = pd.DataFrame({"true_core": rng.lognormal(3, 1, n), "true_mismatch": rng.lognormal(3.8, 0.8, n)})
    for estimator, bias in (("tikhonov", 1.6), ("calibrated", 0.9)):
        for volume in coverage.VOLUMES:
            seen = bias * found[f"true_{volume}"] * rng.lognormal(0, 0.35, n) + rng.normal(0, 3, n)
            found[f"{estimator}_{volume}"] = np.maximum(seen, 0)
    found.attrs["lost"] = 0
    return found


def test_volumes_of_slabs_are_summed_and_the_truth_is_the_phantoms():
    found = coverage.patient_volumes(5, 1)
    slabs = [make_case(5, number, size="tiny") for number in (1, 2)]
    assert {case.patient for case in slabs} == {"patient_1"}  # or nothing would be summed
    assert found.index.tolist() == [1] and found.attrs["lost"] == 0
    for volume, name in (("core", "core"), ("mismatch", "penumbra")):
        expected = sum(case.truth[name].sum() * np.prod(case.spacing) / 1000 for case in slabs)
        assert found.loc[1, f"true_{volume}"] == pytest.approx(expected)
    seen = [f"{e}_{v}" for e in coverage.THRESHOLDS for v in coverage.VOLUMES]
    assert (found[seen].to_numpy() > 0).all()


def test_a_patient_without_an_artery_is_left_out_and_counted(monkeypatch):
    select, calls = aif.select_aif, []

    def fails_first(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("no candidate")
        return select(*arguments)

    monkeypatch.setattr(aif, "select_aif", fails_first)
    monkeypatch.setattr(coverage.parallel, "each", map)
    found = coverage.patient_volumes(3, 2)
    assert found.index.tolist() == [2] and found.attrs["lost"] == 1
    assert not found.isna().any(axis=None)


def test_coverage_is_counted_in_all_and_in_thirds():
    calibration, fresh = numbers(1, 60), numbers(2, 30)
    table = coverage.coverage_table(calibration, fresh, level=0.8)
    assert len(table) == 2 * 2 * 7
    intervals = VolumeIntervals.fit(calibration["tikhonov_core"], calibration["true_core"], level=0.8)
    low, high, _ = intervals.interval(fresh["tikhonov_core"])
    held = [a <= v <= b for a, v, b in zip(low, fresh["true_core"], high, strict=True)]
    rows = table[(table["estimator"] == "tikhonov") & (table["volume"] == "core")].set_index("part")
    assert rows.loc["all", "share"] == pytest.approx(np.mean(held)) and rows.loc["all", "n"] == 30
    smallest = np.argsort(fresh["true_core"].to_numpy())[:10]
    assert rows.loc["small true", "share"] == pytest.approx(np.mean(np.array(held)[smallest]))
    for kind in ("predicted", "true"):
        thirds = rows.loc[[f"{size} {kind}" for size in ("small", "middle", "large")]]
        assert (thirds["n"] == 10).all()
        assert thirds["share"].mean() == pytest.approx(rows.loc["all", "share"])
    assert ((table["low"] <= table["share"]) & (table["share"] <= table["high"])).all()


def test_certain_decisions_are_right_more_often_than_intervals_hold():
    table = coverage.decision_table(numbers(3), numbers(4)).set_index("estimator")
    assert (table["n"] == 800).all() and (table["right_certain"] > 0.9).all()
    assert (table["right_open"] < table["right_certain"]).all()
    fresh = numbers(4)
    truth = eligible(fresh["true_core"], fresh["true_core"] + fresh["true_mismatch"])
    seen = eligible(fresh["tikhonov_core"], fresh["tikhonov_core"] + fresh["tikhonov_mismatch"])
    assert table.loc["tikhonov", "plain_right"] == pytest.approx(np.mean(truth == seen))


def test_the_bench_prints_shares_within_three_points_for_exchangeable_numbers(monkeypatch):
    monkeypatch.setattr(coverage, "patient_volumes", numbers)
    lines = []
    found = bench.run("conformal", say=lines.append)
    for estimator in coverage.THRESHOLDS:
        for volume in coverage.VOLUMES:
            assert abs(found[f"{estimator}_{volume}_all"] - 0.9) < 0.045  # 3 sd of rank and draw
    text = "\n".join(lines)
    assert "800 calibration and 800 fresh patients" in text and "0 left out" in text
    assert text.count("  all ") == 4 and "DEFUSE 3 with both intervals at 95 %" in text


def test_calibration_and_fresh_patients_are_others():
    assert len(set(coverage.SEEDS)) == 2 and coverage.PATIENTS >= 800


@pytest.mark.slow
def test_phantom_patients_are_covered():
    n = 150
    table = coverage.coverage_table(coverage.patient_volumes(31, n), coverage.patient_volumes(32, n))
    marginal = table.loc[table["part"] == "all", "share"]
    assert (np.abs(marginal - 0.9) < 4 * np.sqrt(2 * 0.09 / n)).all()
