"""Files for other programs: read back by SimpleITK and nibabel, names and sidecars by hand."""

import csv
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from perfkit import derivatives, scanresult
from perfkit.aif import select_aif
from perfkit.mapfiles import save_image

MAPS = {"cbf": "ml/100 g/min", "cbv": "ml/100 g", "mtt": "s", "tmax": "s", "ttp": "s", "rcbf": "1"}
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's axes run to the left and to the back, NIfTI's the other way


@pytest.fixture(scope="module")
def result(prepared):
    scan = next(iter(prepared.values()))
    return scanresult.read_scan(scan, select_aif(scan))


@pytest.fixture(scope="module")
def folder(result, tmp_path_factory):
    home = tmp_path_factory.mktemp("derivatives")
    derivatives.write_derivatives(home, result)
    return home


def table(path):
    return list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))


def itk_affine(path):
    """(4, 4), mm, of an image as ITK sees it, in NIfTI's axes; and its values as (X, Y, Z)."""
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    direction = np.reshape(image.GetDirection(), (3, 3))
    affine[:3, :3] = direction * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return LPS @ affine, sitk.GetArrayFromImage(image).transpose(2, 1, 0)


def test_every_image_is_the_same_for_simpleitk_and_for_nibabel(folder, result):
    images = sorted(folder.rglob("*.nii.gz"))
    assert len(images) == len(MAPS) + 2 + 1
    for path in images:
        affine, values = itk_affine(path)
        image = nib.load(path)
        np.testing.assert_allclose(affine, result.prepared.affine, atol=1e-4)
        np.testing.assert_allclose(image.affine, result.prepared.affine, atol=1e-4)
        np.testing.assert_array_equal(values, np.asarray(image.dataobj))
        assert image.header["sform_code"] > 0 and image.header["qform_code"] > 0


def test_values_and_units_stand_in_the_files(folder, result):
    for name, unit in MAPS.items():
        (path,) = folder.rglob(f"*_{name}.nii.gz")
        np.testing.assert_allclose(nib.load(path).get_fdata(), result.images()[name], rtol=1e-6)
        sidecar = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["Units"] == unit and sidecar["Case"] == result.prepared.id
        assert sidecar["Method"]["aif_voxels"] == result.aif.voxels.tolist()


def test_the_segmentation_holds_core_and_penumbra_and_says_which_is_which(folder, result):
    (path,) = folder.rglob("*_dseg.nii.gz")
    segments = np.asarray(nib.load(path).dataobj)
    rows = table(path.with_name(path.name.replace(".nii.gz", ".tsv")))
    values = {row["name"]: int(row["index"]) for row in rows}
    assert set(values) == {"core", "penumbra"} and len({row["color"] for row in rows}) == 2
    np.testing.assert_array_equal(segments == values["core"], result.core)
    np.testing.assert_array_equal(segments == values["penumbra"], result.penumbra)
    for label in values:
        (mask,) = folder.rglob(f"*_label-{label}_mask.nii.gz")
        np.testing.assert_array_equal(np.asarray(nib.load(mask).dataobj) == 1, getattr(result, label))


def test_the_curves_are_a_table_over_time(folder, result):
    (path,) = folder.rglob("*_timeseries.tsv")
    rows = table(path)
    np.testing.assert_allclose([float(r["time"]) for r in rows], result.prepared.times)
    np.testing.assert_allclose([float(r["aif"]) for r in rows], result.aif.curve, rtol=1e-5)
    columns = json.loads(path.with_suffix(".json").read_text())
    assert columns["time"]["Units"] == "s" and columns["aif"]["Units"] == "HU above baseline"


def test_the_folder_is_a_bids_derivative(folder, result):
    about = json.loads((folder / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative" and about["GeneratedBy"][0]["Name"] == "perfkit"
    names = {path.name for path in folder.rglob("*") if path.is_file()} - {"dataset_description.json"}
    stems = {name.split("_desc-")[0] for name in names}
    assert stems == {derivatives.entities(result.prepared.id, result.prepared.patient)}
    assert not [name for name in names if name.startswith(".")]


@pytest.mark.parametrize(
    ("case", "patient", "name"),
    [
        ("case_3", "case_3", "sub-case3"),
        ("case_3", "", "sub-case3"),
        ("case_3", "patient_2", "sub-patient2_acq-case3"),
        ("sub-stroke0014", "sub-stroke0014", "sub-stroke0014"),
    ],
)
def test_names_are_those_of_bids(case, patient, name):
    assert derivatives.entities(case, patient) == name


def test_labels_that_lose_signs_stay_apart():
    names = {derivatives.entities(case) for case in ("a-b c", "ab-c", "abc", "äbc", "a/b/c")}
    assert len(names) == 5
    assert all(name.replace("sub-", "").isalnum() and name.isascii() for name in names)


def test_two_slabs_of_a_patient_share_a_folder_and_nothing_else(tmp_path, result):
    for case in ("case_1", "case_2"):
        slab = replace(result, prepared=replace(result.prepared, id=case, patient="p7"))
        derivatives.write_derivatives(tmp_path, slab)
    (home,) = tmp_path.glob("sub-*")
    assert home.name == "sub-p7"
    assert len(list(home.rglob("*acq-case1*.nii.gz"))) == len(list(home.rglob("*acq-case2*.nii.gz"))) == 9


def test_a_tilted_grid_keeps_its_place(tmp_path):
    """A gantry tilt of 15° about x: a rotation, which qform and sform both hold."""
    angle = np.deg2rad(15)
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.45, 0.45, 5.0])
    affine[:3, 3] = 110, -90, 12
    path = save_image(tmp_path / "a.nii.gz", np.arange(24.0).reshape(2, 3, 4), affine, {})
    seen, values = itk_affine(path)
    np.testing.assert_allclose(seen, affine, atol=1e-4)
    np.testing.assert_array_equal(values, np.arange(24).reshape(2, 3, 4))


def test_a_sheared_grid_has_no_qform_that_would_move_it(tmp_path):
    affine = np.diag([1.0, 1.0, 5.0, 1.0])
    affine[1, 2] = 1.3  # slices slide as a tilted gantry leaves them
    path = save_image(tmp_path / "a.nii.gz", np.zeros((2, 2, 2)), affine, {})
    image = nib.load(path)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert image.header["sform_code"] > 0 and image.header["qform_code"] == 0
