"""Cohorts from disk: ISLES 2018 with all its quirks, plain folders, patients and folds, bad input."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import dicoms
import layouts
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit import curves, dicomscans, nifti, patients, scans
from perfkit.case import Case
from perfkit.datasets import Cohort, Scan, open_cohort
from perfkit.phantom import make_case


@pytest.fixture(scope="session")
def isles(tmp_path_factory):
    """A sound ISLES 2018 tree, read-only."""
    return layouts.isles18(tmp_path_factory.mktemp("isles") / "isles18")


@pytest.fixture
def three(tmp_path):
    """TRAINING with cases 1, 2 and 3, to be broken."""
    for case in (1, 2, 3):
        layouts.isles_case(tmp_path / "TRAINING", case)
    return tmp_path


def path_of(root, case, role="CT_4DPWI"):
    (path,) = (root / "TRAINING" / f"case_{case}").glob(f"*.{role}.*/*.nii")
    return path


# --- ISLES 2018 ---------------------------------------------------------------------------------------------


def test_the_tree_is_read_as_distributed(isles):
    cohort = open_cohort(isles)
    assert cohort.name == "isles18" and cohort.kind == "ISLES 2018" and not cohort.problems
    assert cohort.ids == [
        "case_1",
        "case_2",
        "case_3",
        "case_4",
        "case_10",
        "testing_case_1",
        "testing_case_2",
    ]
    shapes = [scan.shape for scan in cohort.scans]
    assert shapes[:3] == [(32, 32, 2, 43), (32, 32, 4, 46), (32, 32, 8, 64)]
    assert [scan.spacing[2] for scan in cohort.scans[:4]] == [6, 7, 8, 5]
    assert [scan.has_core for scan in cohort.scans] == [True] * 5 + [False] * 2
    for case in cohort:
        assert isinstance(case, Case) and case.dt == 1.0 and case.ctp.dtype == np.int16


@pytest.mark.parametrize("case_id", ["case_1", "case_2", "case_10"])  # 5-D, .nii.gz, 5-D
def test_a_loaded_case_holds_what_was_written(isles, case_id):
    case = open_cohort(isles)[case_id]
    written = layouts.head(case.ctp.shape, seed=int(case_id.split("_")[1]))
    np.testing.assert_array_equal(case.ctp, written)
    np.testing.assert_array_equal(case.core, layouts.lesion(case.ctp.shape[:3]))
    assert set(case.vendor) == {"ct", "cbf", "cbv", "mtt", "tmax"}
    assert ".CT_CBF." in case.vendor["cbf"].name and ".CT." in case.vendor["ct"].name
    assert case.source.name.startswith("SMIR.Brain.XX.O.CT_4DPWI")
    inner = written[..., 0] < 100
    assert case.brain[16, 16].all() and not case.brain[0, 0].any()
    assert not (case.brain & ~inner).any()


def test_a_test_scan_has_no_core(isles):
    assert open_cohort(isles)["testing_case_1"].core is None


@pytest.mark.parametrize("below", ["TRAINING", "TESTING"])
def test_a_part_opens_alone_under_the_same_ids_and_name(isles, below):
    part, whole = open_cohort(isles / below), open_cohort(isles)
    assert part.name == whole.name
    assert part.ids == [sid for sid in whole.ids if sid.startswith("testing") == (below == "TESTING")]
    assert part.patients == {sid: whole.patients[sid] for sid in part.ids}
    np.testing.assert_array_equal(part["case_1"].ctp, part[0].ctp)


def test_the_enclosing_folder_opens_too(tmp_path):
    layouts.isles18(tmp_path / "download" / "ISLES2018_Training", testing=())
    cohort = open_cohort(tmp_path / "download")
    assert cohort.name == "ISLES2018_Training" and len(cohort) == 5
    layouts.isles18(tmp_path / "download" / "ISLES2018_Testing", training=())
    assert len(open_cohort(tmp_path / "download")) == 7


def test_two_cohorts_in_a_folder_are_not_mixed(tmp_path):
    for name in ("a", "b"):
        layouts.isles_case(tmp_path / name / "TRAINING", 1)
    with pytest.raises(ValueError, match=r"holds several: a, b\. Open one of them"):
        open_cohort(tmp_path)


def test_cases_without_a_folder_above_are_recognised(tmp_path):
    layouts.isles_case(tmp_path / "mine", 1)
    assert open_cohort(tmp_path / "mine").ids == ["case_1"]


def test_a_missing_core_is_told(three):
    path_of(three, 2, "OT").parent.rename(three / "elsewhere")
    case = open_cohort(three)["case_2"]
    assert case.core is None and any("core is unknown" in note for note in case.notes)


def test_a_missing_frame_interval_is_told(three):
    layouts.spoil(path_of(three, 2), lambda header: header["pixdim"].__setitem__(4, 0))
    case = open_cohort(three)["case_2"]
    assert case.dt == 1.0 and any("1 s is assumed" in note for note in case.notes)


def test_milliseconds_become_seconds(tmp_path):
    layouts.isles_file(tmp_path / "TRAINING", 1, "CT_4DPWI", 9, layouts.head(), times=(800,), unit="msec")
    assert open_cohort(tmp_path)[0].dt == 0.8


# --- bad input: one clear error naming the file, and the other cases load -----------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def as_gz(path, content):
    path.with_suffix(".nii.gz").write_bytes(content)
    path.unlink()


def replace_data(path, data, **options):
    layouts.save(path, data, layouts.affine((5.0, 5.0, 7.0)), times=(1.0,), **options)


def with_nan(path):
    series = layouts.head(seed=2).astype(np.float32)
    series[3, 4, 1, 5] = np.nan
    replace_data(path, series)


def pixdim(index, value):
    return lambda path: layouts.spoil(path, lambda header: header["pixdim"].__setitem__(index, value))


def absurd_affine(path):
    layouts.save(path, layouts.head(seed=2), layouts.affine((500.0, 5.0, 7.0)), times=(1.0,))


BROKEN_SERIES = {
    "missing": (lambda p: p.unlink(), "one NIfTI file is needed; there is none"),
    "missing with its folder": (lambda p: p.parent.rename(p.parents[3] / "gone"), "needs a perfusion series"),
    "doubled folder": (
        lambda p: layouts.save(p.parent.with_name("SMIR.Brain.XX.O.CT_4DPWI.7") / "b.nii", layouts.head()),
        r"one CT_4DPWI file is needed; there are 2: .*CT_4DPWI\.7.*Keep one",
    ),
    "doubled as gz": (
        lambda p: p.with_suffix(".nii.gz").write_bytes(gzip.compress(p.read_bytes())),
        "one CT_4DPWI file is needed; there are 2",
    ),
    "folder": (lambda p: [p.unlink(), p.mkdir()], "this is a folder"),
    "truncated": (truncate, "truncated"),
    "truncated gz": (lambda p: as_gz(p, gzip.compress(p.read_bytes())[:9000]), "truncated or damaged"),
    "not gzip": (lambda p: as_gz(p, p.read_bytes()), "must be gzip-compressed"),
    "empty": (lambda p: p.write_bytes(b""), "it is empty"),
    "3-D": (lambda p: replace_data(p, layouts.head()[..., 0]), "must be 4-D.*3 axes"),
    "5-D": (lambda p: replace_data(p, np.ones((4, 4, 2, 3, 12))), "must be 4-D.*5 axes"),
    "few frames": (lambda p: replace_data(p, layouts.head()[..., :9]), "at least 10 frames.*so 9"),
    "time first": (lambda p: replace_data(p, np.ones((12, 32, 32, 2))), "Time must be the last axis"),
    "NaN": (with_nan, r"1 of 24576 .*\(nan\) at voxel \(3, 4, 1\), frame 5"),
    "constant": (lambda p: replace_data(p, np.full((32, 32, 2, 12), 35, np.int16)), "must change over time"),
    "zero pixdim": (pixdim(1, 0.0), r"between 0\.05 and 50 mm.*\(0\.0, 5\.0, 7\.0\)"),
    "absurd pixdim": (pixdim(3, 7000.0), r"between 0\.05 and 50 mm.*7000\.0\)"),
    "NaN pixdim": (pixdim(2, np.nan), r"between 0\.05 and 50 mm.*nan"),
    "absurd affine": (absurd_affine, "between 0.05 and 50 mm"),
    "pixdim and affine differ": (pixdim(1, 4.0), "pixdim and affine must give the same voxel size"),
    "no brain": (
        lambda p: replace_data(p, layouts.head(seed=2) + np.int16(1024)),
        "none was found.*Subtract 1024",
    ),
}


@pytest.mark.parametrize("what", BROKEN_SERIES)
def test_a_broken_series_is_one_error_and_the_others_load(three, what):
    spoil, words = BROKEN_SERIES[what]
    path = path_of(three, 2)
    spoil(path)
    cohort = open_cohort(three)
    with pytest.raises((ValueError, OSError), match=words) as caught:
        cohort["case_2"]
    message = str(caught.value)
    assert "case_2" in message and str(three) in message and "\n" not in message
    cases = iter(cohort)
    assert next(cases).id == "case_1"
    with pytest.raises((ValueError, OSError), match="case_2"):
        next(cases)
    assert next(cases).id == "case_3"
    assert next(cases, None) is None


HEADERS_SUFFICE = {
    "3-D",
    "few frames",
    "time first",
    "zero pixdim",
    "truncated",
    "not gzip",
    "missing",
    "empty",
}


@pytest.mark.parametrize("what", sorted(HEADERS_SUFFICE))
def test_what_headers_show_stands_in_the_table(three, what):
    BROKEN_SERIES[what][0](path_of(three, 2))
    cohort = open_cohort(three)
    assert list(cohort.problems) == ["case_2"] and "1 broken" in repr(cohort)
    assert list(cohort.table().problem.notna()) == [False, True, False]


def other_affine(path):
    layouts.save(path, layouts.lesion(), layouts.affine((5.0, 5.0, 7.0), origin=(-80, -70, 21)))


BROKEN_CORE = {
    "other shape": (
        lambda p: replace_data(p, layouts.lesion((32, 31, 2))),
        r"core must have the shape.*\(32, 31, 2\)",
    ),
    "other affine": (other_affine, "core must lie on the grid of its series.*1 mm"),
    "other spacing": (lambda p: layouts.save(p, layouts.lesion(), layouts.affine()), "must lie on the grid"),
    "three values": (
        lambda p: replace_data(p, layouts.lesion() * 2),
        "must hold only 0 and 1; it holds 0, 2",
    ),
    "truncated": (truncate, "truncated"),
    "doubled": (
        lambda p: p.with_name("x.nii").write_bytes(p.read_bytes()),
        "one OT file is needed; there are 2",
    ),
    "folder without file": (lambda p: p.unlink(), "one NIfTI file is needed; there is none"),
}


@pytest.mark.parametrize("what", BROKEN_CORE)
def test_a_broken_core_is_one_error_and_the_others_load(three, what):
    spoil, words = BROKEN_CORE[what]
    spoil(path_of(three, 2, "OT"))
    cohort = open_cohort(three)
    with pytest.raises(ValueError, match=words) as caught:
        cohort["case_2"]
    assert str(caught.value).startswith(str(three / "TRAINING" / "case_2")) and "OT" in str(caught.value)
    assert cohort[0].id == "case_1" and cohort[2].id == "case_3"


def test_rounding_in_a_header_is_no_other_affine(three):
    path = path_of(three, 2, "OT")
    layouts.save(path, layouts.lesion(), layouts.affine((5.0, 5.0, 7.0), origin=(-80.004, -70.003, 20.005)))
    assert open_cohort(three)["case_2"].core.any()


def test_a_mask_without_orientation_is_compared_by_voxel_size(three):
    def forget(header):
        header["sform_code"] = header["qform_code"] = 0

    layouts.spoil(path_of(three, 2, "OT"), forget)
    assert open_cohort(three)["case_2"].core.any()
    layouts.spoil(path_of(three, 2, "OT"), lambda header: header["pixdim"].__setitem__(3, 8.0))
    with pytest.raises(ValueError, match="must lie on the grid"):
        open_cohort(three)["case_2"]


def test_a_series_without_orientation_is_told(three):
    def forget(header):
        header["sform_code"] = header["qform_code"] = 0

    layouts.spoil(path_of(three, 2), forget)
    assert any("left and right" in note for note in open_cohort(three)["case_2"].notes)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda p: p, FileNotFoundError, "does not exist"),
        (lambda p: p.write_bytes(b"x"), NotADirectoryError, "this is a file"),
        (lambda p: p.mkdir(), ValueError, "this folder holds nothing"),
        (lambda p: (p / "notes.txt").write_text(str(p.mkdir())), ValueError, r"this folder holds notes\.txt"),
        (lambda p: (p / "TRAINING").mkdir(parents=True), ValueError, "this folder holds TRAINING"),
        (
            lambda p: layouts.save(p / "t1.nii", layouts.lesion()),
            ValueError,
            r"all 1 files are 3-D, e\.g\. t1\.nii",
        ),
        (
            lambda p: layouts.save(p / "a_core.nii", layouts.lesion()),
            ValueError,
            r"this folder holds a_core\.nii",
        ),
    ],
)
def test_a_folder_without_scans_says_so(tmp_path, make, error, words):
    folder = tmp_path / "cohort"
    make(folder)
    with pytest.raises(error, match=words) as caught:
        open_cohort(folder)
    assert str(caught.value).startswith(str(folder))


def test_an_empty_case_folder_is_a_broken_case(three):
    (three / "TRAINING" / "case_7").mkdir()
    assert "nothing of the kind" in open_cohort(three).problems["case_7"]


# --- patients and folds -------------------------------------------------------------------------------------


def test_patients_follow_the_number_of_the_series_not_of_the_case(tmp_path):
    for case, number in ((1, 345582), (2, 345575), (3, 111)):
        layouts.isles_case(tmp_path / "TRAINING", case, number=number)
    cohort = open_cohort(tmp_path)
    assert cohort.patients == {"case_1": "2", "case_2": "2", "case_3": "case_3"}
    assert any("1 of 3 scans are not known" in note for note in cohort.notes)
    assert cohort["case_1"].patient == "2"
    assert any("patient of its own" in note for note in cohort["case_3"].notes)


def test_the_index_knows_63_patients_of_94_scans():
    index = patients.isles_index()
    assert len(index) == 94 and len(set(index.values())) == 63
    assert sorted(np.unique(list(index.values()), return_counts=True)[1])[-32:] == [1] + [2] * 31


def test_without_the_index_each_scan_is_its_own_patient(tmp_path, monkeypatch):
    monkeypatch.setattr(patients, "isles_index", lambda: {})
    layouts.isles_case(tmp_path / "TRAINING", 1)
    cohort = open_cohort(tmp_path)
    assert cohort.patients == {"case_1": "case_1"}
    assert any("patients of the scans are not known" in note for note in cohort.notes)


@pytest.mark.parametrize("first", ["case_1", "1"])
def test_the_cohorts_own_list_wins(three, first):
    (three / "patients.csv").write_text(f"case,patient,slab\n{first},P7,A\ncase_2,P7,B\ncase_3,P9,A\n")
    cohort = open_cohort(three)
    assert cohort.patients == {"case_1": "P7", "case_2": "P7", "case_3": "P9"} and not cohort.notes
    assert open_cohort(three / "TRAINING").patients == cohort.patients


def test_the_list_may_lie_in_the_part_itself(three):
    (three / "TRAINING" / "patients.csv").write_text("case,patient\n1,P7\n2,P7\n3,P9\n")
    for folder in (three, three / "TRAINING"):
        assert open_cohort(folder).patients == {"case_1": "P7", "case_2": "P7", "case_3": "P9"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: .*case and patient is missing"),
        ("case,subject\n1,2\n", "line 1: .*patient is missing"),
        ("case,patient\ncase_1,1\ncase_2,\n", "line 3: .*no patient"),
        ("case,patient\ncase_1\n", "line 2: .*no patient"),
        ("case,patient\ncase_1,1,A\n", "line 2: .*more values than columns"),
        ("case,patient\ncase_1,1\n1,2\n", "line 3: .*case_1 stands here with 2, above with 1"),
    ],
)
def test_a_malformed_list_names_file_and_line(three, text, words):
    (three / "patients.csv").write_text(text)
    with pytest.raises(ValueError, match=words) as caught:
        open_cohort(three)
    assert str(caught.value).startswith(str(three / "patients.csv"))


def bare(patient_of_scan):
    scans = [
        Scan(id=f"s{i}", name=f"s{i}", patient=f"p{p}", path=None) for i, p in enumerate(patient_of_scan)
    ]
    return Cohort(scans, "cohort")


@settings(max_examples=50, deadline=None)
@given(
    owners=st.lists(st.integers(0, 20), min_size=4, max_size=60), n=st.integers(2, 5), seed=st.integers(0, 99)
)
def test_folds_split_patients_never_and_scans_once(owners, n, seed):
    cohort = bare(owners)
    if len(set(owners)) < n:
        with pytest.raises(ValueError, match="folds hold whole patients"):
            cohort.folds(n, seed)
        return
    folds = cohort.folds(n, seed)
    assert len(folds) == n and folds == cohort.folds(n, seed)
    assert sorted(sid for _, test in folds for sid in test) == sorted(cohort.ids)
    for train, test in folds:
        assert sorted(train + test) == sorted(cohort.ids)
        assert not {cohort.patients[s] for s in train} & {cohort.patients[s] for s in test}


def test_folds_of_isles_are_even_and_depend_on_the_seed():
    cohort = bare(sorted(patients.isles_index().values()))
    sizes = [[len(test) for _, test in cohort.folds(5, seed)] for seed in range(5)]
    assert all(sorted(s) == [18, 19, 19, 19, 19] for s in sizes)
    assert len({str(cohort.folds(5, seed)) for seed in range(5)}) == 5


@pytest.mark.parametrize("n", [0, 1, -1, 4])
def test_impossible_folds_are_refused(n):
    with pytest.raises(ValueError, match="n lies between 2 and 3 "):
        bare([0, 1, 2, 2]).folds(n)


@pytest.mark.parametrize("wrong", [{"n": "5"}, {"n": None}, {"n": 2.5}, {"seed": "a"}, {"seed": -1}])
def test_folds_take_whole_numbers(wrong):
    with pytest.raises((TypeError, ValueError), match=r"^cohort: .*of the folds must"):
        bare([0, 1, 2, 2]).folds(**{"n": 2, **wrong})


# --- a plain folder -----------------------------------------------------------------------------------------


def test_a_flat_folder_with_companions(tmp_path):
    series = layouts.head()
    layouts.save(tmp_path / "b_10_ctp.nii.gz", series, times=(2.0,))
    layouts.save(tmp_path / "b_10_core.nii.gz", layouts.lesion())
    layouts.save(tmp_path / "b_9.nii", series, times=(2.0,))
    brain = np.zeros((32, 32, 2), np.uint8)
    brain[8:24, 8:24] = 1
    layouts.save(tmp_path / "b_9_brain.nii.gz", brain)
    layouts.save(tmp_path / "b_9_lesion.nii.gz", layouts.lesion())
    layouts.save(tmp_path / "b_9_tmax.nii.gz", layouts.lesion().astype(np.float32))
    layouts.save(tmp_path / "other_mask.nii.gz", layouts.lesion())
    layouts.save(tmp_path / "truth" / "x" / "cbf.nii.gz", layouts.lesion())
    layouts.droppings(tmp_path)
    cohort = open_cohort(tmp_path)
    assert cohort.kind == "NIfTI" and cohort.ids == ["b_9", "b_10"] and not cohort.problems
    first, second = cohort
    np.testing.assert_array_equal(first.brain, brain)
    np.testing.assert_array_equal(first.core, layouts.lesion())
    np.testing.assert_array_equal(second.core, layouts.lesion())
    assert first.dt == 2.0 and set(first.vendor) == {"tmax"}
    assert any("1 file belongs to no series" in note and "other_mask" in note for note in cohort.notes)
    assert any("own" in note for note in first.notes)


def test_sub_folders_name_their_only_series(tmp_path):
    series = layouts.head()
    layouts.save(tmp_path / "anna" / "ctp.nii.gz", series, times=(1.0,))
    layouts.save(tmp_path / "anna" / "core.nii.gz", layouts.lesion())
    deep = tmp_path / "sub-01" / "ses-02"
    layouts.save(deep / "sub-01_ses-02_ctp.nii.gz", series, times=(1.0,))
    layouts.save(deep / "perfusion-maps" / "sub-01_ses-02_tmax.nii.gz", layouts.lesion())
    layouts.save(tmp_path / "two" / "a.nii.gz", series, times=(1.0,))
    layouts.save(tmp_path / "two" / "b.nii.gz", series, times=(1.0,))
    cohort = open_cohort(tmp_path)
    assert cohort.ids == ["anna", "sub-01_ses-02", "two_a", "two_b"]
    assert cohort["anna"].core.sum() == layouts.lesion().sum()
    assert set(cohort["sub-01_ses-02"].vendor) == {"tmax"}


def test_a_flat_folder_reports_and_goes_on(tmp_path):
    for name in ("a", "b", "c"):
        layouts.save(tmp_path / f"{name}.nii", layouts.head(), times=(1.0,))
    layouts.save(tmp_path / "b.nii.gz", layouts.head(), times=(1.0,))
    layouts.save(tmp_path / "c_core.nii", layouts.lesion())
    layouts.save(tmp_path / "c_lesion.nii", layouts.lesion())
    layouts.save(tmp_path / "d.nii", layouts.lesion())
    cohort = open_cohort(tmp_path)
    assert cohort.ids == ["a", "b", "c", "d"] and list(cohort.problems) == ["b", "c", "d"]
    assert "one series file is needed; there are 2: b.nii, b.nii.gz" in cohort.problems["b"]
    assert "c_core.nii, c_lesion.nii" in cohort.problems["c"]
    assert "d.nii: a perfusion series must be 4-D" in cohort.problems["d"]
    assert cohort[0].id == "a"


def test_the_list_of_patients_counts_in_a_flat_folder(tmp_path):
    for name in ("a", "b"):
        layouts.save(tmp_path / f"{name}.nii", layouts.head(), times=(1.0,))
    (tmp_path / "patients.csv").write_text("case,patient\na,x\nb,x\n")
    assert open_cohort(tmp_path).patients == {"a": "x", "b": "x"}


# --- DICOM is asked after NIfTI -----------------------------------------------------------------------------


@pytest.fixture
def dicom(monkeypatch):
    """A reader that takes every folder for DICOM: two series of one patient."""

    def find(folder):
        scans = [Scan(id=name, name=name, patient="p1", path=folder / name) for name in ("s1", "s2")]
        return dicomscans.DicomFolder(scans, ("A localiser is skipped.",))

    monkeypatch.setattr(dicomscans, "find", find)


def test_a_folder_without_nifti_may_hold_dicom(tmp_path, dicom):
    (tmp_path / "0001.dcm").write_bytes(b"")
    cohort = open_cohort(tmp_path)
    assert cohort.kind == "DICOM" and cohort.ids == ["s1", "s2"]
    assert cohort.notes == ("A localiser is skipped.",)
    assert cohort.patients == {"s1": "p1", "s2": "p1"}
    (tmp_path / "patients.csv").write_text("case,patient\ns2,p9\n")
    assert open_cohort(tmp_path).patients == {"s1": "p1", "s2": "p9"}


def test_a_dicom_series_is_a_scan_as_any_other(tmp_path):
    written = dicoms.series(tmp_path / "exported")
    cohort = open_cohort(tmp_path)
    assert cohort.kind == "DICOM" and len(cohort) == 1 and not cohort.table().has_core.any()
    case = next(iter(cohort))
    assert case.ctp.shape == written.shape and case.dt == 1.5 and len(cohort.fingerprint(0)) == 16
    with pytest.raises(ValueError, match="needs core masks"):
        cohort.require_core("A study")


def test_where_there_is_nifti_dicom_is_not_asked(tmp_path, dicom):
    layouts.save(tmp_path / "a.nii", layouts.head(), times=(1.0,))
    assert open_cohort(tmp_path).kind == "NIfTI"


def test_a_folder_of_neither_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"DICOM series or NIfTI series.*this folder holds nothing"):
        open_cohort(tmp_path)


# --- the cohort ---------------------------------------------------------------------------------------------


def test_scans_are_asked_for_by_position_id_or_slice(isles):
    cohort = open_cohort(isles)
    assert cohort[0].id == cohort["case_1"].id == "case_1" and cohort[np.int64(-1)].id == "testing_case_2"
    assert cohort[1:3].ids == cohort.select(["case_2", "case_3"]).ids == ["case_2", "case_3"]
    assert cohort.select(2).ids == ["case_1", "case_2"] and cohort.select("case_3").ids == ["case_3"]


@pytest.mark.parametrize(
    ("key", "error", "words"),
    [
        (7, IndexError, "positions run from 0 to 6; 7 was asked for"),
        (-8, IndexError, "-8 was asked for"),
        ("case_11", KeyError, "no scan 'case_11'.*case_1"),
        ("Case_2", KeyError, "Near names: case_2"),
        (1.5, TypeError, "position or id"),
    ],
)
def test_a_wrong_key_is_told_with_near_names(isles, key, error, words):
    with pytest.raises(error, match=words):
        open_cohort(isles)[key]


@pytest.mark.parametrize("n", [0, 8])
def test_more_scans_than_there_are_cannot_be_selected(isles, n):
    with pytest.raises(ValueError, match="holds 7 scans"):
        open_cohort(isles).select(n)


def test_the_table_comes_from_headers(isles):
    table = open_cohort(isles).table()
    assert list(table) == ["id", "patient", "shape", "dt", "spacing", "has_core", "problem"]
    assert table.loc[1, "shape"] == (32, 32, 4, 46) and table.loc[1, "spacing"] == (5.0, 5.0, 7.0)


def test_html_shows_scans_and_notes(isles):
    shown = open_cohort(isles)._repr_html_()
    assert "case_10" in shown and "are not known" in shown and "7 scans of 5 patients" in shown


def test_opening_reads_no_values(three, monkeypatch):
    monkeypatch.setattr(nifti, "read", lambda path: pytest.fail(f"{path} was read"))
    assert len(open_cohort(three)) == 3


def test_opening_a_cohort_in_a_new_process_imports_nothing_heavy(tmp_path):
    for case in range(1, 4):
        layouts.isles_file(
            tmp_path / "TRAINING", case, "CT_4DPWI", case, layouts.head((8, 8, 2, 12)), ".nii.gz"
        )
    code = (
        "import sys; from perfkit.datasets import open_cohort; print(len(open_cohort(sys.argv[1]))); "
        "assert not {'tensorflow', 'keras', 'pandas', 'sklearn', 'nilearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "3\n", done.stderr


def test_the_fingerprint_follows_the_files(three):
    cohort = open_cohort(three)
    before = [scan.fingerprint() for scan in cohort.scans]
    assert before == [open_cohort(three).fingerprint(i) for i in range(3)] and len(set(before)) == 3
    layouts.save(path_of(three, 1), layouts.head((32, 32, 2, 13)), times=(1.0,))
    path_of(three, 2, "OT").parent.rename(three / "gone")
    for changed in (cohort, open_cohort(three)):
        after = [changed.fingerprint(sid) for sid in ("case_1", "case_2", "case_3")]
        assert [a != b for a, b in zip(after, before, strict=True)] == [True, True, False]


def test_the_truth_beside_a_phantom_is_read_when_asked_for(three):
    folder = three / "truth" / "case_2"
    layouts.save(folder / "cbf.nii.gz", np.full((32, 32, 2), 53, np.float32))
    layouts.save(folder / "core.nii.gz", layouts.lesion())
    (folder / "truth.json").write_text(
        json.dumps({"aif": [0, 1, 2.5], "moved": [[1], [2, 3]], "residue": "exponential", "seed": 3})
    )
    cohort = open_cohort(three)
    assert cohort["case_1"].truth == {}
    truth = cohort["case_2"].truth
    assert list(truth) == ["aif", "cbf", "core", "moved", "residue", "seed"]
    np.testing.assert_array_equal(truth["aif"], [0, 1, 2.5])
    assert truth["moved"] == [[1], [2, 3]] and truth["residue"] == "exponential" and truth["seed"] == 3
    assert truth["core"].dtype == bool and truth["core"].sum() == layouts.lesion().sum()
    assert truth["cbf"].dtype == np.float32 and (truth["cbf"] == 53).all()
    assert "aif, cbf, core" in cohort["case_2"]._repr_html_()
    (folder / "truth.json").write_text('{"aif": [0, 1')
    with pytest.raises(ValueError, match=r"truth\.json: the truth must be JSON"):
        cohort["case_2"].truth["aif"]


def test_first_passes_over_a_broken_scan(tmp_path):
    layouts.isles18(tmp_path, training=(1, 2), testing=())
    cohort = open_cohort(tmp_path)
    series = Path(cohort.scans[0].path)
    series.write_bytes(series.read_bytes()[: series.stat().st_size // 2])
    assert open_cohort(tmp_path).first().id == cohort.scans[1].id


def test_first_says_why_there_is_none(tmp_path):
    layouts.isles18(tmp_path, training=(1,), testing=())
    series = Path(open_cohort(tmp_path).scans[0].path)
    series.write_bytes(series.read_bytes()[: series.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"None of the 1 scans.*can be read"):
        open_cohort(tmp_path).first()


@pytest.mark.parametrize("order", ["F", "C"])
def test_the_bolus_of_a_series_without_a_mask_is_that_of_its_soft_voxels(monkeypatch, order):
    """Air and bone show only noise: the mean curve that finds the baseline leaves them out."""
    case = make_case(3, size="tiny")
    first = case.ctp[..., 0]
    soft = (first > 0) & (first < 100)
    expected = [float(np.mean([v for v in case.ctp[..., t][soft]])) for t in range(case.ctp.shape[-1])]
    seen, count = [], curves.n_baseline
    monkeypatch.setattr(curves, "n_baseline", lambda mean, dt: seen.append(mean) or count(mean, dt))
    found = scans.find_brain(np.asarray(case.ctp, order=order), case.dt, case.affine, "here")
    np.testing.assert_allclose(seen[0], expected)
    assert 0 < soft.sum() < soft.size and found.shape == soft.shape
