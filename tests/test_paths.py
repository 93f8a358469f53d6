"""Where things lie, whatever the current folder."""

from pathlib import Path

import pytest

from perfkit import paths

HERE = Path(__file__).resolve().parent.parent


def test_the_repository_is_the_checkout():
    assert paths.repository() == HERE


def test_without_a_checkout_the_current_folder_stands_in(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "perfkit" / "paths.py"))
    monkeypatch.chdir(tmp_path)
    assert paths.repository() == tmp_path
    monkeypatch.delenv("PERFKIT_DATA", raising=False)
    assert paths.data_folder() == tmp_path / "data"


def test_the_data_folder_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.delenv("PERFKIT_DATA", raising=False)
    assert paths.data_folder() == HERE / "data"
    monkeypatch.setenv("PERFKIT_DATA", str(tmp_path))
    assert paths.data_folder() == tmp_path
    assert paths.resolve("../data/runs/study") == tmp_path / "runs" / "study"
    monkeypatch.setenv("PERFKIT_DATA", "")
    assert paths.data_folder() == HERE / "data"


@pytest.mark.parametrize("start", ["notebooks", ".", "tests"])
def test_notebook_paths_mean_the_same_from_everywhere(start, monkeypatch):
    monkeypatch.delenv("PERFKIT_DATA", raising=False)
    monkeypatch.chdir(HERE / start)
    assert paths.resolve("../data") == HERE / "data"
    assert paths.resolve("../data/runs/a/../b") == HERE / "data" / "runs" / "b"
    assert paths.resolve("here.csv") == HERE / start / "here.csv"


def test_absolute_and_home_paths_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.resolve(tmp_path / "x") == tmp_path / "x"
    assert paths.resolve("~/x") == tmp_path / "x"
    assert paths.resolve("../database/x") != paths.data_folder() / "x"
