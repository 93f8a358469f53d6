"""The bench runs and says sane things at a small size. Seconds are never judged here: machines differ."""

import json

import numpy as np
import pytest

from perfkit import bench, phantom, studybench
from perfkit.aif import METHODS

SHAPE = (32, 32, 2, 24)


@pytest.fixture
def small(monkeypatch):
    """The bench at a size that takes a moment, its phantoms tiny."""
    make, write = phantom.make_case, phantom.write_cohort
    monkeypatch.setattr(bench, "SHAPE", SHAPE)
    monkeypatch.setattr(phantom, "make_case", lambda seed, **o: make(seed, **{**o, "size": "tiny"}))
    monkeypatch.setattr(phantom, "write_cohort", lambda *a, **o: write(*a, **{**o, "size": "tiny"}))


def ran(what):
    lines = []
    found = bench.run(what, 1, say=lines.append)
    assert all(isinstance(value, float) and np.isfinite(value) and value > 0 for value in found.values())
    return found, lines


def test_maps(small):
    found, lines = ran("maps")
    assert set(found) == {"maps_ratio", "all_maps_ratio", "calibrated_ratio", "memory_ratio"}
    assert found["memory_ratio"] > 1  # the series itself is counted
    assert lines[0].startswith("Series of 32×32×2×24") and "median of 1" in lines[0]
    assert any("(2048, 24) @ (24, 48)" in line for line in lines)  # the bare product is V×T times T×2T
    assert any(f"{found['maps_ratio']:.2f}× the product" in line for line in lines)


def test_pipeline(small, monkeypatch):
    monkeypatch.setattr(bench, "SHAPE", (48, 48, 2, 43))
    found, lines = ran("pipeline")
    assert set(found) == {"phantom_s", "load_s", "prepare_s", "core_s"}
    assert any("1.15 s on a K80" in line for line in lines)


def test_train(small):
    found, lines = ran("train")
    assert set(found) == {
        f"{head}_{what}" for head in ("cnn", "pool") for what in ("data_s", "step_s", "idle")
    }
    assert all(0 <= found[f"{head}_idle"] <= 1 for head in ("cnn", "pool")) and len(lines) == 3


def test_aif(small, monkeypatch):
    monkeypatch.setattr(bench, "SHAPE", (48, 48, 2, 43))
    found, lines = ran("aif")
    assert {f"aif_{m}_{unit}" for m in METHODS for unit in ("s", "ratio")} < set(found)
    assert found["aif_straka_ratio"] == pytest.approx(found["aif_straka_s"] / found["aif_prepare_s"])
    assert sum("AIF by" in line for line in lines) == len(METHODS)


def test_start(small, tiny_cohort, monkeypatch):
    def linked(folder, n, **_):
        (scan,) = tiny_cohort.glob("TRAINING/case_1")
        (folder := phantom.Path(folder) / "TRAINING").mkdir()
        for i in range(1, n + 1):
            (folder / f"case_{i}").symlink_to(scan)

    monkeypatch.setattr(phantom, "write_cohort", linked)
    found, _ = ran("start")
    assert set(found) == {"import_s", "open_s"}


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match=r"bench knows all, maps, pipeline, train, start.*'nothing' came"):
        bench.run("nothing")


def test_the_size_is_that_of_the_papers_figures():
    assert bench.SHAPE == (256, 256, 8, 60)


def test_the_median_of_interleaved_turns(monkeypatch):
    """By a clock of our own: a takes 1, 5, 2 s; b always 3 s; the warm-up is not counted."""
    clock, log = [0.0], []
    durations = {"a": iter([100, 1, 5, 2]), "b": iter([100, 3, 3, 3])}

    def action(name):
        log.append(name)
        clock[0] += next(durations[name])

    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    found = bench._interleaved(3, a=lambda: action("a"), b=lambda: action("b"))
    assert found == {"a": 2.0, "b": 3.0}
    assert log == ["a", "b"] * 4


def test_study(monkeypatch):
    monkeypatch.setattr(studybench, "N", 3)
    monkeypatch.setattr(studybench, "SIZE", "tiny")
    lines = []
    found = bench.run("study", say=lines.append)
    assert set(found) == {"read_s", "study_s", "pages_s", "ratio"}
    assert 0 < found["read_s"] < found["study_s"] and found["pages_s"] >= 0
    assert found["ratio"] == pytest.approx(found["study_s"] / found["read_s"])
    assert "nibabel reads 3 series of size tiny" in lines[0] and "and 3 case pages" in lines[2]


@pytest.mark.parametrize(("bar", "seconds"), [("00:06<00:00, 14.2case/s", 6), ("02:03<00:00", 123)])
def test_seconds_of_the_case_pages_are_those_of_their_bar(tmp_path, bar, seconds):
    text = ["Case pages:   0%|   | 0/94 [00:00<?, ?case/s]\r", f"Case pages: 100%|███| 94/94 [{bar}]\n"]
    cells = [{"outputs": [{"output_type": "stream", "name": "stderr", "text": text}]}, {"source": ""}]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells}))
    assert studybench._case_pages(tmp_path / "a.ipynb") == seconds
