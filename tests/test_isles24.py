"""ISLES 2024 from look-alikes: names in all variants, the follow-up mask apart, maps on another grid."""

import shutil
import subprocess
import sys

import layouts
import layouts24
import numpy as np
import pytest

from perfkit import nifti, study
from perfkit.datasets import open_cohort

SERIES_PLACES = layouts24.world(layouts24.SHAPE[:3], layouts24.SERIES)


@pytest.fixture(scope="session")
def isles24(tmp_path_factory):
    """A sound ISLES 2024 tree, read-only."""
    return layouts24.isles24(tmp_path_factory.mktemp("isles24") / "train")


@pytest.fixture
def one(tmp_path):
    """A tree of one subject, to be broken."""
    layouts24.subject(tmp_path, 14)
    return tmp_path


def only(folder, pattern):
    (path,) = folder.rglob(pattern)
    return path


def test_the_tree_is_read_as_distributed(isles24):
    cohort = open_cohort(isles24)
    assert cohort.kind == "ISLES 2024" and cohort.name == "train" and not cohort.problems
    assert cohort.ids == ["sub-stroke0001", "sub-stroke0014", "sub-stroke0142", "sub-stroke0189"]
    assert cohort.patients == {name: name for name in cohort.ids}
    assert {scan.shape for scan in cohort.scans} == {layouts24.SHAPE}
    assert {scan.dt for scan in cohort.scans} == {1.0} and {s.spacing for s in cohort.scans} == {(5, 5, 5)}
    notes = " ".join(cohort.notes)
    assert (
        "phenotype (4 csv files)" in notes and "not known" not in notes and "no series by name" not in notes
    )


def test_the_mask_of_the_follow_up_is_not_the_core(isles24):
    cohort = open_cohort(isles24)
    assert not any(scan.has_core for scan in cohort.scans)
    assert any("4 scans" in note and "not the core" in note for note in cohort.notes)
    case = cohort["sub-stroke0014"]
    assert case.core is None
    assert case.final_infarct.dtype == bool and case.final_infarct.shape == layouts24.SHAPE[:3]
    assert any("nearest" in note for note in case.notes)
    assert "final infarct" in case._repr_html_()


def test_the_mask_lies_where_the_infarct_is(isles24):
    case = open_cohort(isles24)["sub-stroke0001"]
    radius = np.linalg.norm(SERIES_PLACES - layouts24.BALL[0], axis=-1)
    half_diagonal = np.linalg.norm((3.0, 3.0, 2.0)) / 2  # nearest neighbour errs by no more
    assert case.final_infarct[radius <= layouts24.BALL[1] - half_diagonal].all()
    assert not case.final_infarct[radius > layouts24.BALL[1] + half_diagonal].any()
    ball_ml = 4 / 3 * np.pi * layouts24.BALL[1] ** 3 / 1000
    assert case.final_infarct.sum() * case.voxel_ml == pytest.approx(ball_ml, rel=0.15)


def test_maps_come_on_the_grid_of_the_series_and_fills_do_not_smear(isles24):
    case = open_cohort(isles24)["sub-stroke0142"]
    maps = {"tmax", "mtt", "cbf", "cbv", "ncct", "lvo"}
    assert set(case.vendor_maps) == maps and set(case.vendor) == {*maps, "dwi", "adc"}  # MR: another scanner
    assert case.vendor["tmax"].name == "sub-stroke0142_ses-01_space-ncct_tmax.nii.gz"
    tmax = case.vendor_maps["tmax"]
    assert tmax.shape == layouts24.SHAPE[:3] and tmax.dtype == np.float32
    truth, known = layouts24.ramp(SERIES_PLACES), np.isfinite(tmax)
    inner = layouts24.in_head((SERIES_PLACES - layouts24.CENTRE[:3]) * 1.12 + layouts24.CENTRE[:3])
    outer = layouts24.in_head((SERIES_PLACES - layouts24.CENTRE[:3]) * 0.92 + layouts24.CENTRE[:3])
    assert known[inner].all() and not known[~outer].any()
    np.testing.assert_allclose(tmax[inner], truth[inner], atol=1e-4)  # a ramp survives linear interpolation
    # at the edge neighbours are missing: off by less than a voxel of the map's ramp, and never towards −30
    assert np.abs(tmax[known] - truth[known]).max() < 0.2


def test_masks_among_the_maps_keep_their_values(isles24):
    case = open_cohort(isles24)["sub-stroke0001"]
    assert case.vendor_maps["lvo"].dtype == np.uint8
    np.testing.assert_array_equal(case.vendor_maps["lvo"], case.final_infarct)


def test_the_series_of_the_derivatives_is_taken(isles24):
    case = open_cohort(isles24)["sub-stroke0014"]
    assert "derivatives" in case.source.parts
    np.testing.assert_array_equal(case.ctp, layouts24.layouts.head(layouts24.SHAPE, seed=14))


def test_without_derivatives_the_raw_series_is_taken_and_told(tmp_path):
    layouts24.subject(tmp_path, 14, parts=("raw_data",))
    cohort = open_cohort(tmp_path)
    assert any("no derivatives" in note for note in cohort.notes)
    case = cohort["sub-stroke0014"]
    np.testing.assert_array_equal(case.ctp, layouts.head(layouts24.SHAPE, seed=1014))
    assert case.final_infarct is None and set(case.vendor) == {"ncct", "dwi", "adc"}
    assert any("raw one" in note for note in case.notes)


def test_of_a_subject_without_a_series_in_derivatives_the_raw_one_is_taken(one):
    only(one / "derivatives", "*_ctp.nii.gz").unlink()
    case = open_cohort(one)[0]
    assert "raw_data" in case.source.parts and any("raw one" in note for note in case.notes)
    assert case.final_infarct.any()


@pytest.mark.parametrize(
    "names",
    [
        {"name": "sub-strokecase{:04d}", "session": "ses-{:04d}"},
        {"name": "sub-strokecase{:04d}", "session": "ses-{:02d}"},
        {"name": "sub-stroke{:04d}", "session": "ses-{:04d}"},
        {"space": ""},
    ],
)
def test_all_ways_of_naming_give_the_same_case(one, tmp_path, names):
    layouts24.subject(tmp_path / "other", 14, **names)
    for tree in (one / "raw_data", one / "derivatives"):
        tree.rename(tmp_path / f"plain_{tree.name}")
    plain, other = tmp_path / "plain", tmp_path / "other"
    plain.mkdir()
    for part in ("raw_data", "derivatives"):
        (tmp_path / f"plain_{part}").rename(plain / part)
    a, b = open_cohort(plain)[0], open_cohort(other)[0]
    assert a.id == b.id == "sub-stroke0014" and a.patient == b.patient
    np.testing.assert_array_equal(a.ctp, b.ctp)
    np.testing.assert_array_equal(a.final_infarct, b.final_infarct)
    assert set(a.vendor) == set(b.vendor)


def test_the_two_trees_may_name_a_subject_differently(tmp_path):
    layouts24.subject(tmp_path, 14, parts=("raw_data",))
    layouts24.subject(tmp_path, 14, parts=("derivatives",), name="sub-strokecase{:04d}", session="ses-{:04d}")
    cohort = open_cohort(tmp_path)
    assert cohort.ids == ["sub-stroke0014"] and {"dwi", "tmax"} <= set(cohort.scans[0].vendor)


def test_part_and_enclosing_folder_open_too(isles24, tmp_path):
    derivatives = open_cohort(isles24 / "derivatives")
    assert derivatives.kind == "ISLES 2024" and derivatives.ids == open_cohort(isles24).ids
    assert derivatives.name == "train"
    assert open_cohort(isles24.parent).ids == derivatives.ids
    shutil.copytree(isles24, tmp_path / "a", ignore=shutil.ignore_patterns("*.nii*"))
    shutil.copytree(isles24, tmp_path / "b", ignore=shutil.ignore_patterns("*.nii*"))
    with pytest.raises(ValueError, match=r"holds several: a, b\. Open one of them"):
        open_cohort(tmp_path)


def test_a_stray_uncompressed_twin_is_told_and_left(one):
    packed = only(one, "*_lesion-msk.nii.gz")
    layouts.save(packed.with_name(packed.name[:-3]), np.zeros(layouts24.NCCT_SHAPE, np.uint8))
    case = open_cohort(one)[0]
    assert case.final_infarct.any()
    assert any("lesion-msk.nii beside it stays unused" in note for note in case.notes)


def test_subjects_without_a_series_are_broken_and_the_others_load(tmp_path):
    for number in (3, 14):
        layouts24.subject(tmp_path, number)
    for path in tmp_path.rglob("sub-stroke0003*_ctp.nii.gz"):
        path.unlink()
    (tmp_path / "derivatives" / "sub-stroke0007").mkdir()
    cohort = open_cohort(tmp_path)
    assert list(cohort.problems) == ["sub-stroke0003", "sub-stroke0007"]
    assert "there is only adc, cbf, cbv, dwi" in cohort.problems["sub-stroke0003"]
    assert "nothing of the kind" in cohort.problems["sub-stroke0007"]
    assert cohort["sub-stroke0014"].id == "sub-stroke0014"


def test_a_file_of_another_subject_is_not_mixed_in(one):
    lesion = only(one, "*_lesion-msk.nii.gz")
    lesion.rename(lesion.with_name(lesion.name.replace("0014", "0015")))
    cohort = open_cohort(one)
    assert cohort[0].final_infarct is None and any("no mask of the infarct" in n for n in cohort[0].notes)
    assert any("1 file belongs to no series" in note and "stroke0015" in note for note in cohort.notes)


@pytest.mark.parametrize(
    "time",
    [
        {"times": (1000.0,), "unit": "msec"},
        {"times": (1000.0,), "unit": "sec"},
        {"times": (1000.0,)},
        {"times": (1.0,), "unit": "msec"},
        {"times": (1.0,)},
    ],
)
def test_the_frame_interval_may_be_in_milliseconds(tmp_path, time):
    layouts24.subject(tmp_path, 14, time=time)
    assert open_cohort(tmp_path)[0].dt == 1.0


# --- affines of one grid ------------------------------------------------------------------------------------


def on_series_grid(root, shift, space=""):
    """Give the tree a Tmax map and a mask on the grid of the series, moved by ``shift`` mm along x."""
    matrix = layouts24.SERIES.copy()
    matrix[0, 3] += shift
    for role in ("tmax", "lesion-msk"):
        old = only(root, f"*_{role}.nii.gz")
        new = old.with_name(old.name.replace("_space-ncct", space))
        old.unlink()
        data = layouts24.in_ball(SERIES_PLACES) if role == "lesion-msk" else layouts24.ramp(SERIES_PLACES)
        layouts.save(new, data.astype(np.uint8 if role == "lesion-msk" else np.float32), matrix)
    if space:
        series = only(root / "derivatives", "*_ctp.nii.gz")
        series.rename(series.with_name(series.name.replace("_ctp", f"{space}_ctp")))


@pytest.mark.parametrize("space", ["", "_space-ncct"])
def test_rounding_of_an_affine_moves_nothing(one, space):
    on_series_grid(one, 0.04, space)
    case = open_cohort(one)[0]
    np.testing.assert_array_equal(case.final_infarct, layouts24.in_ball(SERIES_PLACES))
    np.testing.assert_array_equal(case.vendor_maps["tmax"], layouts24.ramp(SERIES_PLACES).astype(np.float32))
    assert not any("nearest" in note for note in case.notes)


def test_images_that_claim_one_space_must_agree(one):
    on_series_grid(one, 3.0, "_space-ncct")
    with pytest.raises(ValueError, match=r"lesion-msk.*must lie on one grid.*by up to 3 mm.*over 0\.1 mm"):
        open_cohort(one)[0]
    only(one, "*_lesion-msk.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"tmax.*must lie on one grid"):
        open_cohort(one)[0].vendor_maps["tmax"]


def test_without_such_a_claim_the_affine_is_believed(one):
    on_series_grid(one, 5.0)  # one voxel along x
    case = open_cohort(one)[0]
    expected = layouts24.in_ball(SERIES_PLACES)
    np.testing.assert_array_equal(case.final_infarct[1:], expected[:-1])
    np.testing.assert_allclose(case.vendor_maps["tmax"][1:], layouts24.ramp(SERIES_PLACES)[:-1], atol=1e-4)


def test_what_lies_elsewhere_is_refused(one):
    path = only(one, "*_tmax.nii.gz")
    matrix = layouts24.ncct_affine()
    matrix[2, 3] += 500
    layouts.save(path, layouts24.tmax(layouts24.NCCT_SHAPE, layouts24.ncct_affine()), matrix)
    with pytest.raises(ValueError, match=r"tmax\.nii\.gz: a map must overlap its series"):
        open_cohort(one)[0].vendor_maps["tmax"]


def test_an_infarct_outside_of_the_slices_is_told(one):
    matrix = layouts24.ncct_affine()
    places = layouts24.world(layouts24.NCCT_SHAPE, matrix)
    mask = (
        np.abs(places - layouts24.CENTRE[:3]).max(axis=-1) < 20
    )  # z: ± 20 mm, of which the slices show ± 10
    layouts.save(only(one, "*_lesion-msk.nii.gz"), mask.astype(np.uint8), matrix)
    (told,) = [note for note in open_cohort(one)[0].notes if "outside of the series' slices" in note]
    assert 40 <= int(told.split("%")[0].split()[-1]) <= 60


def test_a_map_without_orientation_cannot_be_placed(one):
    path = only(one, "*_lesion-msk.nii.gz")
    plain = path.with_name(path.name[:-3])

    def forget(header):
        header["sform_code"] = header["qform_code"] = 0

    layouts.save(plain, np.zeros(layouts24.NCCT_SHAPE, np.uint8), layouts24.ncct_affine(), patch=forget)
    path.unlink()
    with pytest.raises(ValueError, match=r"lesion-msk\.nii: .*both headers must place"):
        open_cohort(one)[0]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:300]), "truncated or damaged"),
        (
            lambda p: layouts.save(p, np.full(layouts24.NCCT_SHAPE, 2, np.uint8), layouts24.ncct_affine()),
            "final_infarct must hold only 0 and 1; it holds 2",
        ),
    ],
)
def test_a_broken_mask_is_one_error_that_names_the_file(one, spoil, words):
    path = only(one, "*_lesion-msk.nii.gz")
    spoil(path)
    with pytest.raises(ValueError, match=words) as caught:
        open_cohort(one)[0]
    assert str(caught.value).startswith(str(path))


# --- what a study says, and what opening costs --------------------------------------------------------------


def test_a_study_says_that_the_infarct_at_follow_up_is_not_the_core(isles24, tmp_path):
    with pytest.raises(ValueError, match=r"needs core masks.*known of 4, is not the core.*perfkit maps"):
        study.run_study(tmp_path / "out", isles24, say=lambda line: None)


def test_training_says_so_before_tensorflow_starts(isles24, command_line):
    status, _, said = command_line("train", "--cohort", isles24)
    assert status and "Training needs core masks" in said and "is not the core" in " ".join(said.split())


def test_maps_are_made_all_the_same(one, command_line):
    status, said, _ = command_line("maps", one, "--out", one / "maps")
    assert status == 0 and "sub-stroke0014: core" in said
    assert (one / "maps" / "sub-stroke0014").is_dir()


def test_maps_are_read_when_asked_for_and_opening_reads_none(isles24, monkeypatch):
    read, opened = nifti.read, []
    monkeypatch.setattr(nifti, "read", lambda path: opened.append(path.name) or read(path))
    cohort = open_cohort(isles24)
    assert not opened
    case = cohort["sub-stroke0001"]
    assert not [name for name in opened if "tmax" in name]
    case.vendor_maps["tmax"]
    assert opened[-1].endswith("_tmax.nii.gz")


def test_opening_imports_nothing_heavy(isles24):
    code = (
        "import sys; from perfkit.datasets import open_cohort; print(len(open_cohort(sys.argv[1]))); "
        "assert not {'keras', 'pandas', 'sklearn', 'nilearn', 'scipy.ndimage'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(isles24)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "4\n", done.stderr


def test_the_fingerprint_follows_the_mask(one):
    before = open_cohort(one).fingerprint(0)
    only(one, "*_lesion-msk.nii.gz").unlink()
    assert open_cohort(one).fingerprint(0) != before


def test_a_bids_tree_of_strokes_is_not_taken_for_it(tmp_path):
    stem = tmp_path / "sub-stroke01" / "ses-01" / "sub-stroke01_ses-01"
    layouts.save(f"{stem}_ctp.nii.gz", layouts.head(), times=(1.0,))
    assert open_cohort(tmp_path).kind == "BIDS-like"
