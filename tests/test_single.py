"""From a folder or a file to maps on disk: read back, compared with the function called apart."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from perfkit import scanresult, single
from perfkit.aif import select_aif
from perfkit.datasets import open_cohort
from perfkit.maps import perfusion_maps
from perfkit.preprocessing import prepare

NAMES = ("cbf", "cbv", "mtt", "tmax", "ttp", "rcbf", "core", "penumbra")


@pytest.fixture(scope="module")
def series(tiny_cohort):
    return {scan.id: scan for scan in open_cohort(tiny_cohort).scans}


@pytest.fixture(scope="module")
def mapped(tiny_cohort, tmp_path_factory):
    """Folder of the maps of case_2 with a picked AIF, and the lines that were said."""
    out, lines = tmp_path_factory.mktemp("maps"), []
    rater = json.loads((tiny_cohort / "truth" / "case_2" / "truth.json").read_text())["rater_voxels"]
    voxel = "; ".join(" ".join(map(str, row)) for row in rater)
    status = single.map_scans(tiny_cohort, out, case="case_2", voxel=voxel, lambda_rel=0.2, say=lines.append)
    assert status == 0
    return out / "case_2", lines, rater


def test_every_image_lies_on_the_grid_of_its_series(mapped, series):
    folder, _, _ = mapped
    assert {p.name for p in folder.iterdir()} == {
        f"case_2_{name}{suffix}" for name in NAMES for suffix in (".nii.gz", ".json")
    } | {"case_2_aif.json"}
    source = nib.load(series["case_2"].path)
    for name in NAMES:
        image = nib.load(folder / f"case_2_{name}.nii.gz")
        assert image.shape == source.shape[:3]
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-6)
        np.testing.assert_allclose(image.header.get_zooms(), source.header.get_zooms()[:3], rtol=1e-6)


def test_values_are_those_of_the_curve_beside_them(mapped, series):
    """The AIF's file is enough to make every map again."""
    folder, _, rater = mapped
    record = json.loads((folder / "case_2_aif.json").read_text())
    assert record["voxels"] == rater and record["dt"] == 1.0
    scan = prepare(series["case_2"].load())
    measured = np.mean([scan.concentration[tuple(voxel)] for voxel in rater], axis=0)
    np.testing.assert_allclose(record["curve"], measured, rtol=1e-5)
    maps = perfusion_maps(scan.concentration, record["curve"], lambda_rel=0.2, mask=scan.brain)

    def read(name):
        return nib.load(folder / f"case_2_{name}.nii.gz").get_fdata()

    for name, values in maps.items():
        np.testing.assert_allclose(read(name), values, rtol=1e-4, atol=1e-4)
    rcbf = maps.cbf / maps.cbf[scan.reference_tissue].mean()
    np.testing.assert_allclose(read("rcbf"), rcbf, rtol=1e-3, atol=1e-4)
    core = (rcbf < 0.38) & scan.tissue
    assert (read("core") == core).mean() > 0.999
    assert not (read("penumbra") * read("core")).any()
    assert ((read("penumbra") == 1) == ((read("tmax") > 6) & scan.tissue & (read("core") == 0))).all()


def test_sidecars_say_how_a_map_was_made(mapped):
    folder, _, rater = mapped
    sidecar = json.loads((folder / "case_2_tmax.json").read_text())
    assert sidecar["Map"] == "tmax" and sidecar["Units"] == "s"
    method = sidecar["Method"]
    assert method["matrix"] == "circulant" and method["lambda_rel"] == 0.2
    assert method["aif"] == "voxels" and method["aif_voxels"] == rater


def test_the_line_says_what_came_out(mapped, series):
    folder, lines, _ = mapped
    core = nib.load(folder / "case_2_core.nii.gz").get_fdata()
    volume = core.sum() * np.prod(series["case_2"].spacing) / 1000
    assert lines[0].startswith(f"case_2: core {volume:.1f} ml, penumbra ")
    assert f"maps in {folder}\n" in lines[0]
    assert "partial volume" in lines[0]  # how far CBF and CBV are to be trusted


def test_a_weak_aif_and_a_guessed_interval_are_told(tmp_path, series):
    """What the reader should know stands under the line and beside the curve."""
    image = nib.load(series["case_1"].path)
    image.header["pixdim"][4] = 0
    nib.save(image, tmp_path / "still.nii.gz")
    lines = []
    assert single.map_scans(tmp_path / "still.nii.gz", tmp_path / "out", say=lines.append) == 0
    notes = json.loads((tmp_path / "out" / "still" / "still_aif.json").read_text())["notes"]
    assert any("1 s" in note for note in notes)
    assert lines[0].splitlines()[1:] == [f"  {note}" for note in notes]


def test_a_broken_scan_is_reported_and_the_others_are_mapped(tmp_path, series):
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("case_1", "case_3"):
        shutil.copy(series[name].path, folder / f"{name}.nii.gz")
    whole = (folder / "case_1.nii.gz").read_bytes()
    (folder / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    said, warned = [], []
    status = single.map_scans(folder, tmp_path / "out", say=said.append, warn=warned.append)
    assert status == 1
    assert [line.split(":")[0] for line in said] == ["case_1", "case_3"]
    assert len(warned) == 2 and warned[0].startswith("cut: failed:") and "cut.nii.gz" in warned[0]
    assert warned[1] == "1 of 3 scans failed."
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["case_1", "case_3"]


def test_a_file_among_others_is_mapped_alone(tmp_path, tiny_cohort, series):
    lines = []
    assert single.map_scans(series["case_4"].path, tmp_path, say=lines.append) == 0
    assert len(lines) == 1 and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "options, words",
    [
        ({"case": "case_99"}, "no scan 'case_99'"),
        ({"voxel": "1 2"}, "x y z; x y z"),
        ({"lambda_rel": 0}, "lambda_rel must be positive"),
        ({"lambda_rel": float("nan")}, "lambda_rel must be positive"),
        ({"matrix": "toeplitz"}, "toeplitz"),
    ],
)
def test_an_option_no_scan_could_take_is_refused_before_any_scan(tiny_cohort, tmp_path, options, words):
    lines = []
    with pytest.raises(ValueError, match=words):
        single.map_scans(tiny_cohort, tmp_path / "out", say=lines.append, **options)
    assert not lines and not (tmp_path / "out").exists()


@pytest.mark.parametrize("voxel", ["999 0 0", "-1 0 0", "0 0 0"])
def test_a_voxel_that_cannot_serve_leaves_nothing_behind(tiny_cohort, tmp_path, voxel):
    lines = []
    assert single.map_scans(tiny_cohort, tmp_path / "out", case="case_1", voxel=voxel, say=lines.append) == 1
    assert len(lines) == 1 and lines[0].startswith("case_1: failed:")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_series_is_named(tmp_path, series):
    text = tmp_path / "notes.txt"
    text.write_text("no scan")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        single.map_scans(text, tmp_path / "out")
    shutil.copy(series["case_1"].path, tmp_path / "a.nii.gz")
    shutil.copy(series["case_1"].core_path, tmp_path / "a_core.nii.gz")
    with pytest.raises(ValueError, match=r"a_core\.nii\.gz.*must be 4-D"):
        single.map_scans(tmp_path / "a_core.nii.gz", tmp_path / "out")


def test_a_file_is_mapped_whatever_lies_beside_it(tmp_path, series):
    shutil.copy(series["case_2"].path, tmp_path / "scan.nii.gz")
    (tmp_path / "broken.nii.gz").write_bytes(b"not a gzip file")
    lines = []
    assert single.map_scans(tmp_path / "scan.nii.gz", tmp_path / "out", say=lines.append) == 0
    assert len(lines) == 1 and lines[0].startswith("scan: core ")


def test_the_vein_undoes_the_partial_volume_of_the_artery(series, monkeypatch):
    """The same curve, four times as high, as vein: CBF falls to a quarter and the factor is told."""
    prepared = prepare(series["case_2"].load())
    artery = select_aif(prepared)
    curve = np.where(prepared.times < 25, artery.curve, 0)  # all of it in the scan
    artery = replace(artery, curve=curve)
    monkeypatch.setattr(scanresult, "select_vof", lambda *_: replace(artery, curve=4 * curve))
    vof, words = scanresult.scaling_vof(prepared, artery)
    assert "4.00" in words
    np.testing.assert_allclose(vof.curve, 4 * curve)
    monkeypatch.setattr(scanresult, "select_vof", lambda *_: replace(artery, curve=curve / 2))
    assert scanresult.scaling_vof(prepared, artery)[0] is None


@pytest.mark.parametrize("text, voxels", [("1 2 3", [[1, 2, 3]]), (" 1 2 3 ;4  5 6", [[1, 2, 3], [4, 5, 6]])])
def test_voxels_are_read(text, voxels):
    assert single.parse_voxels(text).tolist() == voxels


@pytest.mark.parametrize("text", ["1 2", "1 2 3; 4 5", "1,2,3", "a b c", "1.5 2 3", "1 2 3;", ";"])
def test_half_a_voxel_is_refused(text):
    with pytest.raises(ValueError, match="x y z; x y z"):
        single.parse_voxels(text)
