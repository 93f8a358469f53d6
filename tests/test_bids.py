"""BIDS-like trees: subjects, sessions and runs, companions by name, frame times of the sidecar."""

import json

import layouts
import numpy as np
import pytest

from perfkit import derivatives
from perfkit.datasets import open_cohort, open_series


def series(root, name, *, shape=(32, 32, 2, 12), sidecar=None, dt=1.0):
    """Write ``<name>_ctp.nii.gz`` at its place, and a sidecar where one is given; returns the path."""
    parts = [part for part in name.split("_") if part.startswith(("sub-", "ses-"))]
    path = root.joinpath(*parts, f"{name}_ctp.nii.gz")
    layouts.save(path, layouts.head(shape, seed=len(name)), times=(dt,))
    if sidecar is not None:
        path.with_name(f"{name}_ctp.json").write_text(
            sidecar if isinstance(sidecar, str) else json.dumps(sidecar), encoding="utf-8"
        )
    return path


def beside(path, suffix, data=None, folder="."):
    """Write a companion ``<name>_<suffix>`` of a series; returns its path."""
    name = path.name.replace("_ctp.nii.gz", f"_{suffix}.nii.gz")
    return layouts.save(path.parent / folder / name, layouts.lesion() if data is None else data)


def test_sessions_are_scans_and_subjects_patients(tmp_path):
    for name in ("sub-10_ses-01", "sub-2_ses-02", "sub-2_ses-01"):
        series(tmp_path, name)
    cohort = open_cohort(tmp_path)
    assert cohort.kind == "BIDS-like" and not cohort.problems
    assert cohort.ids == ["sub-2_ses-01", "sub-2_ses-02", "sub-10_ses-01"]
    assert list(cohort.patients.values()) == ["sub-2", "sub-2", "sub-10"] and not cohort.notes
    assert cohort["sub-10_ses-01"].ctp.shape == (32, 32, 2, 12)


def test_companions_in_their_folders(tmp_path):
    path = series(tmp_path, "sub-1_ses-1")
    beside(path, "tmax", folder="perfusion-maps")
    beside(path, "space-ncct_cbf", folder="perfusion-maps")
    beside(path, "cbf", folder="perfusion-maps")
    beside(path, "label-lesion_mask")
    brain = np.zeros((32, 32, 2), np.uint8)
    brain[8:24, 8:24] = 1
    beside(path, "desc-brain_mask", brain)
    case = open_cohort(tmp_path)[0]
    assert set(case.vendor) == {"tmax", "cbf"} and case.vendor["cbf"].name == "sub-1_ses-1_cbf.nii.gz"
    np.testing.assert_array_equal(case.core, layouts.lesion())
    np.testing.assert_array_equal(case.brain, brain)
    assert case.final_infarct is None


@pytest.mark.parametrize(
    "suffix", ["core", "lesion", "lesion-msk", "core_mask", "label-core_mask", "lesion_dseg"]
)
def test_names_of_the_core(tmp_path, suffix):
    beside(series(tmp_path, "sub-1"), suffix)
    assert open_cohort(tmp_path)[0].core.sum() == layouts.lesion().sum()


def test_a_mask_of_another_session_is_the_infarct_at_follow_up(tmp_path):
    series(tmp_path, "sub-1_ses-01")
    name = "sub-1_ses-02_label-lesion_mask.nii.gz"
    layouts.save(tmp_path / "sub-1" / "ses-02" / "anat" / name, layouts.lesion())
    cohort = open_cohort(tmp_path)
    assert not cohort.scans[0].has_core and cohort.ids == ["sub-1_ses-01"]
    case = cohort[0]
    assert case.core is None and case.final_infarct.sum() == layouts.lesion().sum()


def test_runs_keep_their_own_companions(tmp_path):
    for run in (1, 2):
        path = series(tmp_path, f"sub-1_run-{run}", shape=(32, 32, 2, 10 + run))
        beside(path, "core", layouts.lesion() * (run == 2))
    layouts.save(tmp_path / "sub-1" / "sub-1_brain.nii.gz", layouts.lesion())  # of which run?
    cohort = open_cohort(tmp_path)
    assert cohort.ids == ["sub-1_run-1", "sub-1_run-2"] and len(set(cohort.patients.values())) == 1
    assert [scan.load().core.sum() for scan in cohort.scans] == [0, layouts.lesion().sum()]
    assert any("sub-1_brain.nii.gz" in note and "no series" in note for note in cohort.notes)


def test_a_plain_name_is_told_by_its_folders(tmp_path):
    for subject in ("sub-1", "sub-2"):
        layouts.save(tmp_path / subject / "ses-1" / "ctp.nii.gz", layouts.head(), times=(1.0,))
        layouts.save(tmp_path / subject / "ses-1" / "core.nii.gz", layouts.lesion())
    cohort = open_cohort(tmp_path)
    assert cohort.kind == "BIDS-like" and cohort.ids == ["sub-1_ses-1", "sub-2_ses-1"]
    assert all(scan.has_core for scan in cohort.scans)


def test_broken_subjects_are_told_and_the_others_load(tmp_path):
    series(tmp_path, "sub-1")
    path = series(tmp_path, "sub-2")
    path.with_name("sub-2_ctp.nii").write_bytes(b"")
    path = series(tmp_path, "sub-3")
    beside(path, "core")
    beside(path, "lesion")
    layouts.save(tmp_path / "sub-4" / "sub-4_ncct.nii.gz", layouts.lesion())
    cohort = open_cohort(tmp_path)
    assert list(cohort.problems) == ["sub-2", "sub-3", "sub-4"]
    assert "one series file is needed; there are 2" in cohort.problems["sub-2"]
    assert "one core file is needed; there are 2" in cohort.problems["sub-3"]
    assert "there is sub-4_ncct.nii.gz" in cohort.problems["sub-4"]
    assert cohort["sub-1"].id == "sub-1"


def test_results_in_derivatives_are_never_the_truth(tmp_path):
    series(tmp_path, "sub-1")
    name = derivatives.entities("sub-1", "sub-1")
    for suffix in ("desc-straka_label-core_mask", "desc-straka_cbf", "core"):
        layouts.save(
            tmp_path / "derivatives" / "perfkit" / "sub-1" / "perf" / f"{name}_{suffix}.nii.gz",
            layouts.lesion(),
        )
    cohort = open_cohort(tmp_path)
    assert cohort.kind == "BIDS-like" and cohort.ids == ["sub-1"] and not cohort.scans[0].has_core
    assert any("derivatives are results" in note for note in cohort.notes)


def test_the_list_of_participants_is_compared(tmp_path):
    series(tmp_path, "sub-1")
    series(tmp_path, "sub-3")
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-1\t70\n2\t61\n")
    notes = " ".join(open_cohort(tmp_path).notes)
    assert (
        "1 of the subjects has no folder: sub-2" in notes and "1 of the subjects is not in it: sub-3" in notes
    )
    (tmp_path / "participants.tsv").write_text("name\nsub-1\n")
    assert any("no column participant_id" in note for note in open_cohort(tmp_path).notes)


def test_images_outside_of_the_subjects_make_it_a_plain_folder(tmp_path):
    series(tmp_path, "sub-1")
    layouts.save(tmp_path / "extra.nii.gz", layouts.head(), times=(1.0,))
    cohort = open_cohort(tmp_path)
    assert cohort.kind == "NIfTI" and cohort.ids == ["extra", "sub-1"]


def test_raw_data_below_are_found(tmp_path):
    series(tmp_path / "rawdata", "sub-1")
    assert open_cohort(tmp_path).ids == ["sub-1"]


# --- frame times of the sidecar -----------------------------------------------------------------------------

CLOCK = [f"23:59:{50 + t:02d}.00" if t < 10 else f"00:00:{t - 10:02d}.00" for t in range(12)]


@pytest.mark.parametrize(
    ("sidecar", "dt"),
    [
        ({"RepetitionTime": 1.5}, 1.5),
        ({"RepetitionTime": 1500}, 1.5),
        ({"FrameTimes": [2.0 * t for t in range(12)]}, 2.0),
        ({"FrameTimesStart": [3 + 2.0 * t for t in range(12)], "RepetitionTime": 1}, 2.0),
        ({"VolumeTiming": [0.7 * t + 0.01 * (t % 2) for t in range(12)]}, 0.7),
        ({"FrameTimes": [1500 * t for t in range(12)], "x": 1}, 1.5),
        ({"AcquisitionTime": [f"10:11:{2 * t:02d}.000" for t in range(12)]}, 2.0),
        ({"AcquisitionTime": [f"1011{2 * t:02d}.5" for t in range(12)]}, 2.0),
        ({"AcquisitionTime": CLOCK}, 1.0),
        ({"AcquisitionTime": "10:11:12.5"}, 3.0),  # of the whole series: the header's interval stays
        ({"Manufacturer": "-"}, 3.0),
    ],
)
def test_the_sidecar_gives_the_interval(tmp_path, sidecar, dt):
    series(tmp_path, "sub-1", sidecar=sidecar, dt=3.0)
    case = open_cohort(tmp_path)[0]
    assert case.dt == pytest.approx(dt, rel=0.01)
    told = any("The header gives a frame interval of 3 s" in note for note in case.notes)
    assert told == (dt != 3.0)


def test_a_header_without_interval_is_no_longer_told_where_the_sidecar_has_one(tmp_path):
    series(tmp_path, "sub-1", sidecar={"RepetitionTime": 1.5}, dt=0.0)
    case = open_cohort(tmp_path)[0]
    assert case.dt == 1.5 and not any("assumed" in note or "header" in note for note in case.notes)


def test_unequal_times_are_kept_and_the_series_resampled(tmp_path):
    """The bolus is a Gaussian of time: sampled at unequal times it must come out on the even grid."""
    times = np.cumsum([100, *[1] * 20, *[2] * 9])
    bolus = 60 * np.exp(-0.5 * ((times - 110) / 3.0) ** 2)
    ctp = layouts.head((32, 32, 2, len(times))).astype(np.float32)
    ctp[16, 16, 1] = 35 + bolus
    path = series(tmp_path, "sub-1", sidecar={"FrameTimes": times.tolist()})
    layouts.save(path, ctp, times=(1.0,))
    scan = open_cohort(tmp_path).scans[0]
    assert scan.times == tuple(times - 100) and scan.dt == 1 and scan.shape[-1] == 30 and not scan.problem
    case = scan.load()
    assert case.n_frames == 39 and case.dt == 1
    expected = 35 + 60 * np.exp(-0.5 * ((case.times - 10) / 3.0) ** 2)
    np.testing.assert_allclose(case.ctp[16, 16, 1], expected, atol=0.5)
    notes = " ".join(case.notes)
    assert "sub-1_ctp.json (FrameTimes): Frames are 1 to 2 s apart" in notes and "resampled" in notes


def test_a_clock_of_whole_seconds_tells_no_tenths(tmp_path):
    clock = [f"10:11:{int(1.5 * t):02d}" for t in range(12)]
    series(tmp_path, "sub-1", sidecar={"AcquisitionTime": clock})
    scan = open_cohort(tmp_path).scans[0]
    assert scan.times is None and scan.dt == pytest.approx(1.5, rel=0.03)


@pytest.mark.parametrize(
    ("sidecar", "words"),
    [
        ('{"RepetitionTime": 1.5', "must be JSON"),
        ([1, 2], "must be a JSON object, .* it is list"),
        ({"RepetitionTime": 0}, "positive number of seconds; it is 0"),
        ({"RepetitionTime": "1.5 s"}, "it is '1.5 s'"),
        ({"FrameTimes": [0, 1, 2]}, "each of the 12 frames; it has 3"),
        ({"FrameTimes": [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 11]}, "frame 5 .* comes 4 s after the first"),
        ({"FrameTimes": [0, 1, 2, None, 4, 5, 6, 7, 8, 9, 10, 11]}, "seconds or clock times"),
        ({"AcquisitionTime": ["noon"] * 12}, "seconds or clock times .* it holds 'noon'"),
    ],
)
def test_a_broken_sidecar_is_one_error_that_names_it(tmp_path, sidecar, words):
    path = series(tmp_path, "sub-1", sidecar=sidecar if isinstance(sidecar, str) else json.dumps(sidecar))
    series(tmp_path, "sub-2")
    cohort = open_cohort(tmp_path)
    with pytest.raises(ValueError, match=words) as caught:
        cohort[0]
    assert str(caught.value).startswith(str(path.with_name("sub-1_ctp.json")))
    assert cohort[1].id == "sub-2"


def test_a_sidecar_counts_in_plain_folders_and_for_single_series(tmp_path):
    path = layouts.save(tmp_path / "a.nii.gz", layouts.head(), times=(1.0,))
    before = open_cohort(tmp_path).fingerprint("a")
    (tmp_path / "a.json").write_text('{"RepetitionTime": 2}')
    assert open_cohort(tmp_path)["a"].dt == open_series(path)[0].dt == 2
    assert open_cohort(tmp_path).fingerprint("a") != before
