"""A look at folders of scans: each defect is made by hand and must be seen, and sound scans must pass."""

from dataclasses import replace
from types import SimpleNamespace

import dicoms
import layouts
import layouts24
import nibabel
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from perfkit import datacheck, phantom, recipe
from perfkit.datacheck import COLUMNS, check_cohort, report_lines
from perfkit.datasets import Cohort, open_cohort


@pytest.fixture(scope="module")
def sound():
    """A phantom without motion, long enough for its bolus."""
    return phantom.render(
        replace(recipe.draw_recipe(7, 1, size="tiny", n_slices=4, n_frames=46), moved=(), vof_peak=150.0)
    )


def write(folder, case, name="anna", *, ctp=None, dt=None, brain=None, core=None, oriented=True, patch=None):
    """One series with its masks, as a hospital would lay it down."""
    image = nibabel.Nifti1Image(np.asarray(case.ctp if ctp is None else ctp), case.affine)
    image.header.set_zooms((*image.header.get_zooms()[:3], case.dt if dt is None else dt))
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(case.affine, code=1 if oriented else 0)
    image.set_qform(case.affine, code=1 if oriented else 0)
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}_ctp.nii"
    nibabel.save(image, path)
    if patch:
        layouts.spoil(path, patch)
    for role, mask in (("brain", brain), ("core", core)):
        if mask is not None:
            nibabel.save(
                nibabel.Nifti1Image(mask.astype(np.uint8), case.affine), folder / f"{name}_{role}.nii"
            )
    return folder


def look(folder, **options):
    report = check_cohort(folder, workers=1, **options)
    assert "check failed" not in set(report.findings["what"]), report.findings.to_string()
    return report


def oddities(folder, **options):
    """What is odd about the one scan of a folder."""
    report = look(folder, **options)
    assert len(report.scans) == 1
    return set(report.findings.query("odd")["what"])


def test_a_sound_scan_is_ok_and_described(tmp_path, sound):
    report = look(write(tmp_path / "c", sound, core=sound.core, brain=sound.brain))
    (row,) = report.scans.to_dict("records")
    assert tuple(report.scans.columns) == COLUMNS
    assert row["shape"] == "48 × 48 × 4 × 46" and row["dt"] == 1 and row["duration_s"] == 46
    assert row["core"] == "core" and row["brain"]
    voxel_ml = abs(np.linalg.det(sound.affine[:3, :3])) / 1000
    assert row["core_ml"] == pytest.approx(sound.core.sum() * voxel_ml, rel=1e-4)
    assert row["brain_ml"] == pytest.approx(sound.brain.sum() * voxel_ml, rel=1e-4)
    assert row["lowest_hu"] == sound.ctp.min() and row["highest_hu"] == sound.ctp.max()
    assert row["tissue_peak_hu"] > 3 and row["vessel_peak_hu"] > 15
    assert row["status"] == "ok" and not report.findings["odd"].any()


def with_frame(case, t, values):
    ctp = np.array(case.ctp)
    ctp[..., t] = values
    return ctp


def flat_curve(case):
    rng = np.random.default_rng(0)
    still = case.ctp[..., :3].mean(axis=-1)
    return np.rint(still[..., None] + rng.normal(0, 3, case.ctp.shape)).astype(np.int16)


def shifted(case, t, mm):
    """Frame t with the head shifted along x."""
    pixels = (mm / case.spacing[0], 0, 0)
    return with_frame(case, t, np.rint(ndimage.shift(case.ctp[..., t].astype(float), pixels, mode="nearest")))


def test_frames_without_a_picture_are_seen(tmp_path, sound):
    assert "empty frames" in oddities(write(tmp_path / "a", sound, ctp=with_frame(sound, 30, -1000)))
    dropped = np.array(sound.ctp)
    dropped[:, :, 2, 30:33] = 0
    report = look(write(tmp_path / "b", sound, ctp=dropped))
    (detail,) = report.findings.query("what == 'empty slices'")["detail"]
    assert "3 frames (30, 31, 32)" in detail
    assert "motion" not in set(report.findings["what"])


def test_repeated_frames_are_seen(tmp_path, sound):
    report = look(write(tmp_path / "c", sound, ctp=with_frame(sound, 31, sound.ctp[..., 30])))
    (detail,) = report.findings.query("what == 'repeated frames'")["detail"]
    assert "Frame 31" in detail


@pytest.mark.parametrize(("value", "word"), [(-3024, "-3024"), (9000, "9000")])
def test_values_out_of_range_are_seen(tmp_path, sound, value, word):
    ctp = np.array(sound.ctp)
    ctp[0, 0, 0, :] = value
    report = look(write(tmp_path / "c", sound, ctp=ctp))
    (detail,) = report.findings.query("what == 'values'")["detail"]
    assert word in detail


def test_an_offset_of_1024_is_seen_with_a_brain_mask_and_skipped_without(tmp_path, sound):
    off = np.array(sound.ctp) + 1024
    report = look(write(tmp_path / "a", sound, ctp=off, brain=sound.brain))
    assert any("Is 1024 to be subtracted?" in detail for detail in report.findings["detail"])
    skipped = look(write(tmp_path / "b", sound, ctp=off)).skipped
    assert "Subtract 1024" in skipped["why"].iloc[0]


@pytest.mark.parametrize("dt", [0.2, 5.0])
def test_an_unusual_frame_interval_is_seen(tmp_path, sound, dt):
    assert "frame interval" in oddities(write(tmp_path / "c", sound, dt=dt))


def test_a_cut_scan_is_short_and_its_bolus_truncated(tmp_path, sound):
    top = int(np.argmax(sound.truth["vof"]))
    found = oddities(write(tmp_path / "c", sound, ctp=sound.ctp[..., : top + 4]))
    assert {"short scan", "truncated bolus"} <= found


def test_a_scan_that_starts_inside_the_bolus_is_seen(tmp_path, sound):
    mean = sound.ctp[sound.brain].mean(axis=0)
    half = int(np.argmax(mean > (mean[:3].mean() + mean.max()) / 2))
    assert "late start" in oddities(write(tmp_path / "c", sound, ctp=sound.ctp[..., half:]))


def test_a_scan_without_contrast_is_seen(tmp_path, sound):
    assert "no bolus" in oddities(write(tmp_path / "c", sound, ctp=flat_curve(sound)))


def test_a_weak_bolus_is_seen(tmp_path, sound):
    first = sound.ctp[..., :3].mean(axis=-1)[..., None]
    weak = np.rint(first + (sound.ctp - first) * 0.5).astype(np.int16)
    assert "weak bolus" in oddities(write(tmp_path / "c", sound, ctp=weak))


def test_a_tiny_brain_and_a_core_outside_are_seen(tmp_path, sound):
    small = np.zeros(sound.brain.shape, bool)
    x, y, z = np.argwhere(sound.brain).mean(axis=0).astype(int)
    small[x - 3 : x + 3, y - 3 : y + 3, z] = True
    core = np.zeros_like(small)
    core[:4, :4] = True
    assert {"small brain", "core outside"} <= oddities(write(tmp_path / "c", sound, brain=small, core=core))
    assert "empty core" in oddities(write(tmp_path / "d", sound, core=np.zeros_like(core)))


def test_a_header_without_orientation_is_seen(tmp_path, sound):
    assert "left and right" in oddities(write(tmp_path / "c", sound, oriented=False))


def test_two_affines_that_differ_are_seen(tmp_path, sound):
    def move(header):
        header["qoffset_x"] = float(header["qoffset_x"]) + 3

    def mirror(header):
        header["srow_x"] = -header["srow_x"]

    assert "two affines" in oddities(write(tmp_path / "a", sound, patch=move))
    assert {"two affines", "left and right"} <= oddities(write(tmp_path / "b", sound, patch=mirror))


def test_motion_is_seen_and_the_remedy_named(tmp_path, sound):
    report = look(write(tmp_path / "c", sound, ctp=shifted(sound, 25, 2.0)))
    (detail,) = report.findings.query("what == 'motion'")["detail"]
    assert "frame 25" in detail and "perfkit.motion corrects it" in detail
    assert report.scans["motion_mm"].iloc[0] > 1


def test_copies_of_a_scan_under_two_names_are_seen(tmp_path, sound):
    write(tmp_path / "c", sound, "anna")
    report = look(write(tmp_path / "c", sound, "bert"))
    (row,) = report.findings.query("what == 'copy'").to_dict("records")
    assert row["case"] == "bert" and "anna" in row["detail"]


def test_broken_scans_are_skipped_with_their_reason_and_the_others_looked_at(tmp_path, sound, command_line):
    folder = write(tmp_path / "c", sound, "sound", core=sound.core)
    write(
        folder,
        sound,
        "nan",
        ctp=with_frame(sound.__class__(**{**vars(sound), "ctp": sound.ctp * 1.0}), 3, np.nan),
    )
    cut = write(folder, sound, "cut") / "cut_ctp.nii"
    cut.write_bytes(cut.read_bytes()[:20_000])
    write(folder, sound, "empty", ctp=sound.ctp * 0)
    far = replace(sound, affine=sound.affine + np.array([[0, 0, 0, 9.0]] + [[0] * 4] * 3))
    write(folder, sound, "elsewhere")
    nibabel.save(nibabel.Nifti1Image(sound.core.astype(np.uint8), far.affine), folder / "elsewhere_core.nii")
    report = look(folder)
    why = report.skipped.set_index("case")["why"]
    assert set(why.index) == {"nan", "cut", "empty", "elsewhere"}
    assert "NaN" in why["nan"] and "truncated" in why["cut"] and "must change" in why["empty"]
    assert "affines differ" in why["elsewhere"]
    status, out, _ = command_line("data", "check", folder, "--out", tmp_path / "t.csv")
    assert status == 1 and "Skipped: 4 of 5 scans." in out
    table = pd.read_csv(tmp_path / "t.csv")
    assert set(table.columns) == set(COLUMNS) and len(table) == 5
    assert table.set_index("case")["status"]["sound"] != "skipped"


def scan_like(**changes):
    """A scan of another reader, with no more than its contract."""
    facts = {"id": "a", "patient": "a", "name": "a", "number": None, "shape": (8, 8, 1, 50), "dt": 1.0}
    facts |= {"spacing": (1, 1, 5), "problem": None, "notes": (), "vendor": {}, "has_core": False}
    return SimpleNamespace(**(facts | changes))


def test_nothing_a_scan_does_stops_the_check(tmp_path, sound):
    def explode():
        raise ZeroDivisionError("by nought")

    scans = [
        scan_like(id="bad", path=tmp_path, load=explode),
        scan_like(id="odd", path=tmp_path, load=lambda: object()),
        scan_like(id="good", path=tmp_path, load=lambda: sound),
    ]
    report = check_cohort(Cohort(scans, tmp_path, kind="DICOM"), workers=2)
    status = report.scans.set_index("case")["status"]
    assert status["bad"] == "skipped" and status["good"] == "ok"
    assert "ZeroDivisionError: by nought" in report.skipped["why"].iloc[0]
    assert status["odd"] == "odd"
    assert "check failed" in set(report.findings.query("case == 'odd'")["what"])


def test_quick_reads_headers_only(tmp_path, sound):
    def never():
        raise AssertionError("loaded")

    cohort = Cohort([scan_like(path=tmp_path, load=never, notes=("A note.",))], tmp_path)
    report = check_cohort(cohort, quick=True)
    assert report.scans["status"].tolist() == ["ok"]
    assert "Headers alone were read" in list(report_lines(report))[-1]


def test_threads_give_the_same_as_one(cohort):
    one, two = (check_cohort(cohort, workers=n) for n in (1, 2))
    pd.testing.assert_frame_equal(one.scans, two.scans)
    pd.testing.assert_frame_equal(one.findings, two.findings)


def test_isles_look_alikes_are_compared_with_the_index(tmp_path):
    report = look(layouts.isles18(tmp_path / "isles"))
    unlike = report.findings.query("what == 'unlike the index'")
    assert {"case_1", "case_10"} <= set(unlike["case"])
    assert not unlike["case"].str.startswith("testing").any()
    assert any("of the 94 training scans of ISLES 2018 are not here" in note for note in report.notes)


def test_phantoms_are_not_taken_for_isles(cohort):
    report = look(cohort)
    assert "unlike the index" not in set(report.findings["what"])
    assert report.skipped.empty


def test_deep_reads_maps_and_judges_an_aif(tmp_path, sound):
    folder = write(tmp_path / "c", sound)
    (folder / "anna_tmax.nii").write_bytes(b"no image")
    assert "broken map" not in oddities(folder)
    assert "broken map" in oddities(folder, deep=True)


def test_the_report_reads_well(command_line, tmp_path, sound):
    folder = write(tmp_path / "c", sound, core=sound.core)
    write(folder, sound, "bert", ctp=shifted(sound, 25, 2.0), dt=5.0)
    status, out, _ = command_line("data", "check", folder)
    assert status == 0
    for words in (
        "NIfTI, 2 scans of 2 patients",
        "48 × 48 × 4 × 46 (2)",
        "1 (1), 5 (1) s",
        "46 to 230 s",
        "core 1",
        "Odd: ",
        "motion, bert: The head moves by about",
        "Skipped: none.",
    ):
        assert words in out, out


def test_the_command_refuses_what_makes_no_sense(command_line, tmp_path):
    status, _, err = command_line("data", "check", tmp_path, "--quick", "--deep")
    assert status == 1 and "give one of them" in err
    status, _, err = command_line("data", "check", tmp_path / "none")
    assert status == 1 and "does not exist" in err
    status, _, err = command_line("data", "check", tmp_path, "--out", tmp_path)
    assert status == 1 and "is a folder" in err


def test_a_cohort_may_be_given_instead_of_a_folder(tiny_cohort):
    assert len(check_cohort(open_cohort(tiny_cohort)[:1]).scans) == 1


def test_an_isles_2024_look_alike_is_described(tmp_path):
    report = look(layouts24.isles24(tmp_path / "isles24"), deep=True)
    assert set(report.scans["kind"]) == {"ISLES 2024"}
    infarct = report.scans.query("core == 'final infarct'")
    assert len(infarct) and (infarct["final_infarct_ml"] > 0).all()
    assert report.scans["core_ml"].isna().all()
    assert infarct["maps"].str.contains("tmax").any()
    assert not set(report.findings["what"]) & {"broken map", "motion"}


def test_dicom_look_alikes_are_described(tmp_path):
    dicoms.unitobrain(tmp_path / "unito")
    report = look(tmp_path / "unito")
    assert set(report.scans["kind"]) == {"DICOM"}
    assert report.scans["shape"].str.count("×").eq(3).all()
    assert len(list(report_lines(report))) > 5


def test_a_table_without_a_place_is_refused_before_the_work(command_line, tmp_path, monkeypatch):
    monkeypatch.setattr(datacheck, "check_cohort", lambda *_, **__: pytest.fail("the work was begun"))
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "check.csv"
    status, _, err = command_line("data", "check", tmp_path, "--out", place)
    assert status == 1 and f"--out: {place} cannot be written" in err and len(err.splitlines()) == 1
