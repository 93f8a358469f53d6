"""The store keeps every pick that was reported saved, and says where a line is broken."""

import subprocess
import sys

import pytest

from perfkit import annotations, paths
from perfkit.annotations import AnnotationWarning, Pick


@pytest.fixture
def path(tmp_path):
    return tmp_path / "aif" / "cohort" / "rater.csv"


def test_a_pick_comes_back_as_it_went(path):
    pick = Pick("case_7", ((1, 2, 3), (4, 5, 6)), ((7, 8, 0),), comment='M1, "left"\nunsure; µ')
    annotations.append(path, pick)
    assert annotations.read(path) == [pick]
    assert pick.comment == 'M1, "left" unsure; µ'


def test_the_file_is_plain_text(path):
    annotations.append(path, Pick("case_1", ((1, 2, 3), (4, 5, 6)), (), "2020-10-04T09:30:00+00:00", "ok"))
    assert path.read_text() == (
        "case,voxels,vof_voxels,time,comment,version\ncase_1,1 2 3; 4 5 6,,2020-10-04T09:30:00+00:00,ok,1\n"
    )
    assert [p.name for p in path.parent.iterdir()] == ["rater.csv"]


def test_the_latest_pick_counts_and_an_empty_one_withdraws(path):
    for hour, case, voxels in [
        (10, "a", [(0, 0, 1)]), (9, "a", [(0, 0, 2)]), (10, "b", [(0, 0, 3)]), (11, "b", [(0, 0, 4)]),
        (11, "c", [(0, 0, 5)]), (12, "c", []), (9, "d", [(0, 0, 6)]), (9, "d", [(0, 0, 7)]),
    ]:  # fmt: skip
        annotations.append(path, Pick(case, tuple(voxels), time=f"2020-10-04T{hour:02}:00:00+00:00"))
    found = annotations.latest(path)
    assert {case: pick.voxels[0][2] for case, pick in found.items()} == {"a": 1, "b": 4, "d": 7}


@pytest.mark.parametrize(
    "broken", ["case_2,1 2", 'case_2,"1 2 3,,', "case_2,1 2 x,,2020-10-04,,1", "case_2,1 2 3,,soon,,1"]
)
def test_a_corrupt_line_is_reported_with_its_number_and_kept(path, broken):
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    with path.open("a") as file:
        file.write(broken)  # a killed writer: no end of line
    annotations.append(path, Pick("case_3", ((4, 5, 6),)))
    with pytest.warns(AnnotationWarning, match="line 3"):
        assert [pick.case for pick in annotations.read(path)] == ["case_1", "case_3"]
    assert broken in path.read_text().splitlines()


def test_a_spreadsheet_may_have_saved_it(path):
    annotations.append(path, Pick("case_1", ((1, 2, 3),)))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    annotations.append(path, Pick("case_2", ((1, 2, 3),)))
    assert [pick.case for pick in annotations.read(path)] == ["case_1", "case_2"]


def test_a_file_of_another_kind_is_left_alone(path):
    path.parent.mkdir(parents=True)
    path.write_text("imageID,AIFx\n1,2\n")
    for action in (annotations.read, lambda p: annotations.append(p, Pick("a", ((1, 2, 3),)))):
        with pytest.raises(ValueError, match=r"rater\.csv is not a file of picks"):
            action(path)
    assert path.read_text() == "imageID,AIFx\n1,2\n"


@pytest.mark.parametrize("voxels", [((1, 2),), ((1, 2, -3),), (1, 2, 3), ((1, 2, 3.5),)])
def test_a_voxel_is_three_whole_numbers(voxels):
    with pytest.raises(ValueError, match="three whole numbers"):
        Pick("case_1", voxels)


def test_two_processes_at_once_keep_both(path):
    program = (
        "import sys; from perfkit.annotations import Pick, append\n"
        "for i in range(40): append(sys.argv[1], Pick(f'{sys.argv[2]}{i}', ((i, 0, 0),)))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path), name]) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert set(annotations.latest(path)) == {f"{name}{i}" for name in "ab" for i in range(40)}


def test_own_picks_come_before_those_delivered_with_the_cohort(tmp_path):
    cohort, root = tmp_path / "isles", tmp_path / "picks"
    mine = annotations.rater_file(cohort, "mh", root)
    for file in (mine, cohort / "aif" / "simulated-rater.csv"):
        annotations.append(file, Pick("a", ((1, 2, 3),)))
    assert annotations.raters(cohort / "TRAINING", root) == [mine, cohort / "aif" / "simulated-rater.csv"]
    with pytest.raises(ValueError, match="rater's name"):
        annotations.rater_file(cohort, "../mh", root)


def test_data_paths_of_notebooks_hold_wherever_the_kernel_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("PERFKIT_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    assert paths.resolve("../data/runs/x") == tmp_path / "data" / "runs" / "x"
    assert paths.resolve("runs/x") == tmp_path / "runs" / "x"
    assert paths.resolve("/runs/x").parts[-2:] == ("runs", "x")
