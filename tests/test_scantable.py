"""``scans.csv``: a table that says which files make up which scan; errors name its line and column."""

import layouts
import numpy as np
import pytest

from perfkit.datasets import open_cohort


@pytest.fixture
def folder(tmp_path):
    """Files whose names say nothing."""
    layouts.save(tmp_path / "x" / "0001.nii.gz", layouts.head(seed=1), times=(1.0,))
    layouts.save(tmp_path / "x" / "0002.nii.gz", layouts.lesion())
    layouts.save(tmp_path / "y" / "0001_ctp.nii.gz", layouts.head(seed=2), times=(1.0,))
    layouts.save(tmp_path / "y" / "t.nii.gz", np.full((32, 32, 2), 5, np.float32))
    return tmp_path


def table(folder, text, **options):
    (folder / "scans.csv").write_text(text, **{"encoding": "utf-8", **options})
    return folder


def test_the_table_says_what_is_what(folder):
    text = (
        "id,series,core,patient,dt,tmax\n"
        "anna,x/0001.nii.gz,x/0002.nii.gz,P7,1.5,\n"
        ",y/0001_ctp.nii.gz,,P7,,y/t.nii.gz\n"
    )
    cohort = open_cohort(table(folder, text))
    assert cohort.kind == "NIfTI table" and cohort.ids == ["anna", "0001"] and not cohort.notes
    assert cohort.patients == {"anna": "P7", "0001": "P7"}
    anna, other = cohort
    assert (anna.dt, other.dt) == (1.5, 1.0)
    np.testing.assert_array_equal(anna.ctp, layouts.head(seed=1))
    np.testing.assert_array_equal(anna.core, layouts.lesion())
    assert other.core is None and (other.vendor_maps["tmax"] == 5).all()


def test_the_infarct_at_follow_up_has_a_column(folder):
    cohort = open_cohort(table(folder, "series,final_infarct\nx/0001.nii.gz,x/0002.nii.gz\n"))
    case = cohort[0]
    assert case.core is None and case.final_infarct.sum() == layouts.lesion().sum()
    assert any("not the core" in note for note in cohort.notes)


def test_series_are_enough_and_patients_then_unknown(folder):
    cohort = open_cohort(table(folder, "\ufeffSeries\nx/0001.nii.gz\n"))
    assert cohort.ids == ["0001"] and cohort.patients == {"0001": "0001"}
    assert any("patient of its own" in note for note in cohort[0].notes)


def test_an_interval_of_the_table_changes_the_fingerprint(folder):
    first = open_cohort(table(folder, "series,dt\nx/0001.nii.gz,1\n")).fingerprint(0)
    assert open_cohort(table(folder, "series,dt\nx/0001.nii.gz,2\n")).fingerprint(0) != first


def test_a_missing_file_is_the_problem_of_its_scan(folder):
    cohort = open_cohort(table(folder, "id,series,core\na,x/0001.nii.gz,z.nii.gz\nb,y/0001_ctp.nii.gz,\n"))
    assert list(cohort.problems) == ["a"]
    assert (
        f"{folder / 'scans.csv'}, line 2, column core: {folder / 'z.nii.gz'} does not exist"
        == cohort.problems["a"]
    )
    assert cohort["b"].id == "b"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: the column series is needed; the columns are none"),
        ("id,core\n1,2\n", "line 1: the column series is needed; the columns are id, core"),
        ("series,patients\nx/0001.nii.gz,1\n", "line 1, column patients: .*Did you mean patient"),
        ("series,age\nx/0001.nii.gz,1\n", "line 1, column age: .*Known are id, series"),
        ("series,\nx/0001.nii.gz,1\n", r"line 1, column \(no name\)"),
        ("id,series\na,x/0001.nii.gz\nb,\n", "line 3, column series: .*has none"),
        ("id,series\na\n", "line 2, column series: .*has none"),
        ("series,dt\nx/0001.nii.gz,1 s\n", "line 2, column dt: .*it is '1 s'"),
        ("series,dt\nx/0001.nii.gz,-1\n", "line 2, column dt: .*positive"),
        ("series,dt\nx/0001.nii.gz,nan\n", "line 2, column dt: .*positive"),
        ('series,dt\nx/0001.nii.gz,"1,5"\n', "line 2, column dt: .*with a point"),
        ("series,dt\nx/0001.nii.gz,1,5\n", "line 2: there are more values than columns"),
        ("id,series\na,x/0001.nii.gz\na,y/0001_ctp.nii.gz\n", "line 3, column id: .*'a' stands above"),
        ("id,series\na/b,x/0001.nii.gz\n", "line 2, column id: .*'a/b'"),
        ("series\n", "a line per scan; it has none"),
    ],
)
def test_a_malformed_table_names_line_and_column(folder, text, words):
    with pytest.raises(ValueError, match=words) as caught:
        open_cohort(table(folder, text))
    assert str(caught.value).startswith(str(folder / "scans.csv"))


def test_a_table_in_another_encoding_is_told(folder):
    with pytest.raises(ValueError, match="must be UTF-8"):
        open_cohort(table(folder, "series,patient\nx/0001.nii.gz,Jörg\n", encoding="latin-1"))
