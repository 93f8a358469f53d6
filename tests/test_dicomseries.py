"""DICOM series from look-alikes: what is where and when, which files make up a scan, and what is refused."""

import shutil

import dicoms
import numpy as np
import pydicom
import pytest
from dicoms import PIXEL, SHAPE, START, clock
from layouts import head
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, JPEGLosslessSV1, RLELossless

from perfkit import dicomscans
from perfkit.datasets import open_cohort

ONE_SLICE = head((32, 28, 1, 10), seed=7)
TILTED = dicoms.tilted(about_x=20, about_z=7)


def only(folder):
    """The scan of a folder that holds one."""
    (scan,) = dicomscans.discover(folder)
    return scan


def images(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def rewrite(path, change):
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)


# --- places -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [dicoms.AXIAL, TILTED, dicoms.tilted(about_x=180)])
def test_every_voxel_lies_where_the_standard_says(tmp_path, orientation):
    hu = dicoms.series(tmp_path / "scan", orientation=orientation)
    case = only(tmp_path).load()
    np.testing.assert_array_equal(case.ctp, hu)
    positions = dicoms.places(SHAPE[2], orientation=orientation)
    for column, row, z in [(0, 0, 0), (31, 0, 0), (0, 27, 0), (3, 5, 1), (31, 27, 1)]:
        found = (case.affine @ (column, row, z, 1))[:3]
        np.testing.assert_allclose(
            found, dicoms.voxel_place(positions[z], orientation, column, row), atol=1e-5
        )
    assert np.linalg.det(case.affine) > 0  # right-handed
    np.testing.assert_allclose(case.spacing, (PIXEL[1], PIXEL[0], dicoms.SLICE), rtol=1e-6)
    assert only(tmp_path).spacing == (PIXEL[1], PIXEL[0], dicoms.SLICE)


def test_slices_are_sorted_along_the_normal_and_not_along_z(tmp_path):
    sagittal = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)  # all slices have the same z
    hu = dicoms.series(tmp_path / "scan", orientation=sagittal)
    case = only(tmp_path).load()
    np.testing.assert_array_equal(case.ctp, hu)
    step = (dicoms.places(2, orientation=sagittal)[1] - dicoms.ORIGIN) * (-1, -1, 1)
    np.testing.assert_allclose(case.affine[:3, 2], step, atol=1e-9)


@pytest.mark.parametrize("orientation", [dicoms.AXIAL, TILTED])
def test_the_geometry_is_that_of_simpleitk(tmp_path, orientation):
    sitk = pytest.importorskip("SimpleITK")
    dicoms.series(tmp_path / "scan", orientation=orientation)
    one = tmp_path / "one"
    one.mkdir()
    for path in images(tmp_path / "scan"):
        if (pydicom.dcmread(path).InstanceNumber - 1) // SHAPE[2] == 4:
            shutil.copy(path, one)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(one)))
    image = reader.Execute()
    case = only(tmp_path / "scan").load()
    assert image.GetSize() == SHAPE[:3]
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, case.ctp[..., 4])
    for index in [(0, 0, 0), (31, 27, 1), (5, 9, 1)]:
        lps = image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose(case.affine @ (*index, 1), (-lps[0], -lps[1], lps[2], 1), atol=1e-4)


def test_a_tilted_gantry_shifts_the_slices(tmp_path):
    positions = dicoms.places(2, shift=(0, 2.5, 0))
    dicoms.series(tmp_path / "scan", positions=positions)
    case = only(tmp_path).load()
    np.testing.assert_allclose(
        (case.affine @ (4, 6, 1, 1))[:3], dicoms.voxel_place(positions[1], dicoms.AXIAL, 4, 6)
    )
    assert case.voxel_ml == pytest.approx(PIXEL[0] * PIXEL[1] * dicoms.SLICE / 1000)
    assert any("gantry was tilted" in note and "2.5 mm" in note for note in case.notes)


def test_a_single_slice_is_as_thick_as_it_says(tmp_path):
    dicoms.series(tmp_path / "scan", ONE_SLICE)
    scan = only(tmp_path)
    assert scan.shape == (32, 28, 1, 10) and scan.spacing == (5, 6, 8)
    assert scan.load().affine[2, 2] == pytest.approx(8)


def test_positions_that_are_rounded_make_one_slice(tmp_path):
    def rounded(data, z, t):
        data.ImagePositionPatient = [
            *data.ImagePositionPatient[:2],
            data.ImagePositionPatient[2] + 0.01 * (t % 3),
        ]

    dicoms.series(tmp_path / "scan", change=rounded)
    assert only(tmp_path).shape == SHAPE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data, z, t: z != 2, r"16 mm between 20\.5 and 36\.5 mm along the normal: 1 missing"),
        (
            lambda data, z, t: (z, t) != (1, 5),
            r"slice 1 \(from 0\) has 11, none at 7\.5 \(AcquisitionTime, s",
        ),
        (lambda data, z, t: t != 5, r"4 images numbered 21 … 24 lack, and 3 s pass between frames 4 and 5"),
    ],
)
def test_what_is_missing_is_named(tmp_path, change, words):
    dicoms.series(tmp_path / "scan", head((32, 28, 4, 12)), change=change)
    scan = only(tmp_path)
    assert str(tmp_path / "scan") in scan.problem
    with pytest.raises(ValueError, match=words):
        scan.load()


def test_of_images_copied_twice_the_first_is_read(tmp_path):
    hu = dicoms.series(tmp_path / "scan")
    for path in images(tmp_path)[:5]:
        shutil.copy(path, path.with_name(path.name + "_copy"))
    case = only(tmp_path).load()
    np.testing.assert_array_equal(case.ctp, hu)
    assert any("5 images lie there twice" in note for note in case.notes)


def test_two_different_images_of_one_place_and_time_are_refused(tmp_path):
    dicoms.series(tmp_path / "scan")
    path = images(tmp_path)[3]
    shutil.copy(path, tmp_path / "scan" / "zz")
    rewrite(tmp_path / "scan" / "zz", lambda data: setattr(data, "SOPInstanceUID", dicoms.uid("another")))
    with pytest.raises(
        ValueError, match=rf"(zz|{path.name}): a slice has one image at a time; (zz|{path.name}) lies"
    ):
        only(tmp_path).load()


# --- values -------------------------------------------------------------------------------------------------


def test_slope_and_intercept_are_those_of_each_image(tmp_path):
    def other(data, z, t):
        data.RescaleIntercept = -2000 - 24 * z - t
        data.RescaleSlope = (0.5, 0.25)[t % 2]

    hu = dicoms.series(tmp_path / "scan", change=other)
    case = only(tmp_path).load()
    np.testing.assert_array_equal(case.ctp, hu)
    assert case.ctp.dtype == np.float32


def test_signed_values_without_rescaling_are_hu(tmp_path):
    def plain(data, z, t):
        del data.RescaleSlope, data.RescaleIntercept
        data.PixelRepresentation = 1

    hu = dicoms.series(tmp_path / "scan", change=plain)
    case = only(tmp_path).load()
    np.testing.assert_array_equal(case.ctp, hu)
    assert case.ctp.dtype == np.int16


def test_values_beyond_16_bits_are_kept(tmp_path):
    hu = head(SHAPE, seed=7).astype(np.int32)
    hu[0, 0, 1, 3] = 60_000
    dicoms.series(tmp_path / "scan", hu)
    case = only(tmp_path).load()
    np.testing.assert_array_equal(case.ctp, hu)
    assert case.ctp.dtype == np.float32


def test_big_endian_and_run_lengths_give_the_same_values(tmp_path):
    hu = dicoms.series(tmp_path / "big", syntax=ExplicitVRBigEndian)
    np.testing.assert_array_equal(only(tmp_path / "big").load().ctp, hu)
    dicoms.series(tmp_path / "rle")
    for path in images(tmp_path / "rle"):
        rewrite(path, lambda data: data.compress(RLELossless, generate_instance_uid=False))
    np.testing.assert_array_equal(only(tmp_path / "rle").load().ctp, hu)


def test_compression_without_a_decoder_is_told_before_loading(tmp_path):
    dicoms.series(tmp_path / "scan")

    def compressed(data):
        data.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        data.PixelData = encapsulate([b"no image at all"])
        data["PixelData"].VR = "OB"

    for path in images(tmp_path):
        rewrite(path, compressed)
    scan = only(tmp_path)
    assert (
        "JPEG Lossless" in scan.problem and "python-gdcm" in scan.problem and "gdcmconv --raw" in scan.problem
    )


def test_cut_off_pixels_name_their_file(tmp_path):
    dicoms.series(tmp_path / "scan")
    path = images(tmp_path)[10]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{path.name}: the pixels of a DICOM file must be readable"):
        only(tmp_path).load()


def test_each_file_is_opened_once_for_headers_and_once_for_pixels(tmp_path, monkeypatch):
    dicoms.series(tmp_path / "scan")
    dicoms.enhanced(tmp_path / "enhanced.dcm", series="2")
    headers, pixels = [], []
    read, array, frames = pydicom.dcmread, pydicom.pixels.pixel_array, pydicom.pixels.iter_pixels
    monkeypatch.setattr(pydicom, "dcmread", lambda path, **k: (headers.append(path), read(path, **k))[1])
    monkeypatch.setattr(
        pydicom.pixels, "pixel_array", lambda path, **k: (pixels.append(path), array(path, **k))[1]
    )
    monkeypatch.setattr(
        pydicom.pixels, "iter_pixels", lambda path, **k: (pixels.append(path), frames(path, **k))[1]
    )
    for scan in dicomscans.discover(tmp_path):
        scan.load()
    assert sorted(headers) == sorted(pixels) == images(tmp_path)


# --- times --------------------------------------------------------------------------------------------------


def set_only(keyword, value):
    """Leave one time or number in the header: ``value(z, t)``; None leaves none."""

    def change(data, z, t):
        for other in ("AcquisitionTime", "InstanceNumber"):
            delattr(data, other)
        if keyword:
            setattr(data, keyword, value(z, t))

    return change


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("AcquisitionTime", lambda z, t: clock(START + 1.5 * t)),
        ("AcquisitionTime", lambda z, t: clock(START + 1.5 * t, digits=2)),
        ("AcquisitionDateTime", lambda z, t: "20240229" + clock(START + 1.5 * t) + "+0100"),
        ("ContentTime", lambda z, t: clock(START + 1.5 * t)),
        ("TriggerTime", lambda z, t: 1500 * t),
    ],
)
def test_any_clock_will_do_and_is_told(tmp_path, keyword, value):
    hu = dicoms.series(tmp_path / "scan", change=set_only(keyword, value))
    case = only(tmp_path).load()
    assert case.dt == pytest.approx(1.5)
    np.testing.assert_array_equal(case.ctp, hu)
    assert any(f"those of {keyword}" in note for note in case.notes)
    assert any("later reconstruction" in note for note in case.notes) == (keyword == "ContentTime")


def test_the_time_of_the_scan_counts_before_that_of_the_reconstruction(tmp_path):
    def reconstructed(data, z, t):
        data.ContentTime = clock(START + 300 + 0.2 * (100 - t) + 0.01 * z)  # last frame first

    hu = dicoms.series(tmp_path / "scan", change=reconstructed)
    case = only(tmp_path).load()
    assert case.dt == 1.5
    np.testing.assert_array_equal(case.ctp, hu)


def test_midnight_passes(tmp_path):
    hu = dicoms.series(tmp_path / "scan", times=86400 - START - 6 + 1.5 * np.arange(10))
    case = only(tmp_path).load()
    assert case.dt == 1.5
    np.testing.assert_array_equal(case.ctp, hu)


@pytest.mark.parametrize("keyword", ["TemporalPositionIdentifier", "AcquisitionNumber", "InstanceNumber"])
def test_numbers_give_the_order_and_temporal_resolution_the_interval(tmp_path, keyword):
    def numbered(data, z, t):
        set_only(keyword, lambda z, t: 1 + t if keyword != "InstanceNumber" else 1 + z * 10 + t)(data, z, t)
        data.TemporalResolution = 1500

    hu = dicoms.series(tmp_path / "scan", change=numbered)
    case = only(tmp_path).load()
    assert case.dt == 1.5
    np.testing.assert_array_equal(case.ctp, hu)
    assert any(f"order of {keyword}" in note and "TemporalResolution" in note for note in case.notes)


@pytest.mark.parametrize(
    ("keyword", "words"),
    [("InstanceNumber", r"their order only \(InstanceNumber\)"), (None, "the headers give none")],
)
def test_without_times_a_series_is_refused(tmp_path, keyword, words):
    dicoms.series(tmp_path / "scan", change=set_only(keyword, lambda z, t: 1 + t * 3 + z))
    with pytest.raises(ValueError, match=words):
        only(tmp_path).load()


@pytest.mark.parametrize("dt", [0.5, 0.95, 2.8])
def test_a_clock_of_whole_seconds_gives_the_interval_of_its_frames(tmp_path, dt):
    def whole(data, z, t):
        data.AcquisitionTime = clock(np.floor(START + dt * t), digits=0)
        data.ContentTime = clock(START + 500 + 0.1 * t)  # of the reconstruction: not to be taken

    hu = dicoms.series(tmp_path / "scan", head((32, 28, 2, 30)), dt=dt, change=whole)
    case = only(tmp_path).load()
    assert case.dt == pytest.approx(dt, rel=0.02)
    np.testing.assert_array_equal(case.ctp, hu)
    assert any("whole seconds only" in note for note in case.notes)


def to_and_fro(n_slices=4, n_frames=18, period=2.81):
    """(Z, T), s: as the table passes the slices there and back."""
    along = (np.arange(n_slices)[:, None] + 0.5) / n_slices
    frames = np.arange(n_frames)
    return period * np.where(frames % 2 == 0, frames + along, frames + 1 - along)


def test_a_shuttle_is_brought_to_one_interval_and_its_times_are_kept(tmp_path):
    times = to_and_fro()
    anatomy = head((32, 28, 4, 18), seed=3)[..., :1].astype(float)

    def seen(times):
        return anatomy + np.where(anatomy > 0, 20 * np.sin(times / 9), 0)

    dicoms.unitobrain(tmp_path, hu=np.rint(seen(times)).astype(np.int16), times=times)
    scan = only(tmp_path)
    case = scan.load()
    assert case.dt == scan.dt == pytest.approx(2.81, rel=1e-4) and scan.shape == case.ctp.shape
    np.testing.assert_allclose(scan.times, times - times.min(), atol=1e-3)
    grid = times[:, 0].max() + case.dt * np.arange(case.n_frames)
    assert np.abs(case.ctp - seen(grid)).max() < 2  # rounding to whole HU is .5 of it
    notes = " ".join(case.notes)
    assert "0.702 to 4.918 s apart" in notes and "natural cubic spline" in notes and "for 18" in notes


def test_a_frame_missing_from_a_shuttle_is_named(tmp_path):
    dicoms.series(
        tmp_path / "scan",
        head((32, 28, 4, 18)),
        times=to_and_fro(),
        change=lambda data, z, t: (z, t) != (3, 8),
    )
    with pytest.raises(
        ValueError, match=r"slice 3 \(from 0\) has 17, the widest gap follows 19\.67 .*1 of 4 slices"
    ):
        only(tmp_path).load()


# --- enhanced multi-frame -----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", [dicoms.AXIAL, TILTED])
def test_enhanced_and_classic_give_the_same_case(tmp_path, orientation):
    dicoms.series(tmp_path / "classic", orientation=orientation)
    dicoms.enhanced(tmp_path / "enhanced" / "one.dcm", orientation=orientation)
    classic, enhanced = only(tmp_path / "classic").load(), only(tmp_path / "enhanced").load()
    np.testing.assert_array_equal(enhanced.ctp, classic.ctp)
    np.testing.assert_allclose(enhanced.affine, classic.affine, atol=1e-6)
    assert enhanced.dt == classic.dt == 1.5


def test_enhanced_frames_have_slopes_of_their_own(tmp_path):
    hu = dicoms.enhanced(tmp_path / "one.dcm", slopes=(1.0, 0.5, 0.25))
    np.testing.assert_array_equal(only(tmp_path).load().ctp, hu)


def test_an_enhanced_series_may_be_a_file_for_each_time(tmp_path):
    for t in range(SHAPE[3]):
        hu = dicoms.enhanced(tmp_path / f"{t}.dcm", frames=[(z, t) for z in range(SHAPE[2])])
    np.testing.assert_array_equal(only(tmp_path).load().ctp, hu)


def test_enhanced_frames_without_times_are_in_order_of_their_positions(tmp_path):
    def offset(group, z, t):
        group.TemporalPositionSequence = dicoms.item(TemporalPositionTimeOffset=0.8 * t)

    hu = dicoms.enhanced(tmp_path / "a" / "one.dcm", seconds=False, change=offset)
    case = only(tmp_path / "a").load()
    np.testing.assert_array_equal(case.ctp, hu)
    assert case.dt == pytest.approx(0.8)
    dicoms.enhanced(tmp_path / "b" / "one.dcm", seconds=False)
    assert r"their order only (TemporalPositionIndex)" in only(tmp_path / "b").problem


def test_a_frame_that_is_missing_from_an_enhanced_file_is_named(tmp_path):
    frames = [(z, t) for z in range(2) for t in range(11) if (z, t) != (1, 10)]
    dicoms.enhanced(tmp_path / "one.dcm", head((32, 28, 2, 11)), frames=frames)
    assert "slice 1 (from 0) has 10, none at 15" in only(tmp_path).problem


# --- what a folder holds ------------------------------------------------------------------------------------


def test_series_are_told_by_their_uid_in_one_folder_or_many(tmp_path):
    first = dicoms.series(tmp_path / "mixed", head(SHAPE, seed=1), series="a", number=4)
    second = dicoms.series(tmp_path / "mixed", head(SHAPE, seed=2), series="b", number=5, name="X{:04d}")
    third = dicoms.series(tmp_path / "spread", head(SHAPE, seed=3), series="c", number=6)
    for n, path in enumerate(images(tmp_path / "spread")):
        (tmp_path / "spread" / f"{n % 3}").mkdir(exist_ok=True)
        path.rename(tmp_path / "spread" / f"{n % 3}" / path.name)
    scans = dicomscans.discover(tmp_path)
    assert [scan.id for scan in scans] == ["mixed_s4", "mixed_s5", "spread"]
    for scan, hu in zip(scans, (first, second, third), strict=True):
        np.testing.assert_array_equal(scan.load().ctp, hu)
    assert len({scan.patient for scan in scans}) == 1


def change_kind(**values):
    def change(data, z, t):
        for keyword, value in values.items():
            setattr(data, keyword, value)

    return change


def to_colour(data, z, t):
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.PixelData = bytes(3 * 2 * 32 * 28)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_kind(Modality="MR"), "of modality MR, not CT"),
        (change_kind(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "a localiser"),
        (change_kind(ImageType=["DERIVED", "SECONDARY", "CBF"]), "derived from other images"),
        (change_kind(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"), "a secondary capture"),
        (change_kind(PhotometricInterpretation="MONOCHROME1"), "MONOCHROME1; values of CT are MONOCHROME2"),
        (change_kind(RescaleType="ED"), "in units of ED, not HU"),
        (to_colour, "RGB"),
        (change_kind(NumberOfFrames=2), "many frames without their functional groups"),
        (lambda data, z, t: delattr(data, "ImagePositionPatient"), "without position"),
        (lambda data, z, t: t == 0, "at most 1 in one place"),
    ],
)
def test_what_is_no_perfusion_series_is_skipped_with_the_reason(tmp_path, change, words):
    dicoms.series(tmp_path / "other", ONE_SLICE, series="other", change=change)
    with pytest.raises(ValueError, match="needs CT perfusion series; of .* none belongs to one.*" + words):
        dicomscans.find(tmp_path)
    hu = dicoms.series(tmp_path / "scan", ONE_SLICE)
    found = dicomscans.find(tmp_path)
    assert any(note.startswith("other: ") and words in note for note in found.notes)
    (scan,) = found.scans
    np.testing.assert_array_equal(scan.load().ctp, hu)


def test_a_localiser_within_the_series_does_not_spoil_it(tmp_path):
    def localiser(data, z, t):
        if (z, t) != (0, 0):
            return False
        data.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
        data.SOPInstanceUID = dicoms.uid("localiser")

    hu = dicoms.series(tmp_path / "scan")
    dicoms.series(tmp_path / "scan", name="L{:04d}", change=localiser)
    found = dicomscans.find(tmp_path)
    np.testing.assert_array_equal(found.scans[0].load().ctp, hu)
    assert len(found.scans) == 1 and any("1 image skipped" in note for note in found.notes)


def test_a_folder_without_dicom_is_of_another_kind(tmp_path):
    (tmp_path / "series.nii.gz").write_bytes(b"x" * 400)
    (tmp_path / "notes").write_text("no DICOM")
    assert dicomscans.discover(tmp_path) is None


@pytest.mark.parametrize(("cut", "words"), [(153, "1 file cannot be read"), (400, "damaged or incomplete")])
def test_a_broken_header_is_told_and_its_place_is_missing(tmp_path, cut, words):
    dicoms.series(tmp_path / "scan")
    path = images(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:cut])
    found = dicomscans.find(tmp_path)
    assert "has 9" in found.scans[0].problem
    assert any(words in note for note in found.notes)


def test_a_dicomdir_is_no_image(tmp_path):
    hu = dicoms.series(tmp_path / "scan")
    data = dicoms.common("1.2.840.10008.1.3.10")
    data.SOPInstanceUID = dicoms.uid("directory")
    dicoms.save(data, tmp_path / "DICOMDIR")
    found = dicomscans.find(tmp_path)
    assert not found.notes
    np.testing.assert_array_equal(found.scans[0].load().ctp, hu)


# --- patients -----------------------------------------------------------------------------------------------


def test_patients_are_told_apart_and_their_ids_not_shown(tmp_path):
    for n, patient in enumerate(["Doe^Jane", "Doe^Jane", "Roe^Richard"]):
        dicoms.series(tmp_path / f"scan{n}", ONE_SLICE, patient=patient, series=n, study=n)
    cohort = open_cohort(tmp_path)
    assert cohort.kind == "DICOM"
    a, b, c = cohort.patients.values()
    assert a == b != c
    shown = f"{cohort!r} {cohort._repr_html_()} {cohort[0]._repr_html_()} {cohort.scans}"
    assert not any(name in shown for name in ("Doe", "Roe", "Jane"))
    assert "short hash of the PatientID" in cohort[0]._repr_html_()


@pytest.mark.parametrize("patient", ["", "ANON"])
def test_an_id_that_names_nobody_is_a_patient_of_its_own(tmp_path, patient):
    for n in range(2):
        dicoms.series(tmp_path / f"scan{n}", ONE_SLICE, patient=patient, series=n, study=n)
    dicoms.series(tmp_path / "scan2", ONE_SLICE, patient=patient, series="again", study=1)
    scans = dicomscans.discover(tmp_path)
    assert [scan.patient for scan in scans] == ["scan0", "scan1", "scan1"]  # the last two are of one study
    assert all(any("names nobody" in note for note in scan.notes) for scan in scans)


def test_a_series_of_two_patients_is_refused(tmp_path):
    dicoms.series(tmp_path / "scan", change=lambda data, z, t: setattr(data, "PatientID", f"P-{t % 2 + 1}"))
    assert "name 2 (PatientID)" in only(tmp_path).problem


# --- UniToBrain ---------------------------------------------------------------------------------------------


def test_unitobrain_is_read_in_its_last_stage(tmp_path):
    stages = ("", "_Registered", "_Registered_Filtered_3mm_20HU")
    for n, stage in enumerate(stages):
        hu = dicoms.unitobrain(tmp_path, "MOL-007", stages=(stage,), maps=(), hu=head(SHAPE, seed=n))
    dicoms.unitobrain(tmp_path, "MOL-012", stages=("_Registered",), maps=("TTP",))
    cohort = open_cohort(tmp_path)
    assert cohort.ids == ["MOL-007", "MOL-012"] and list(cohort.patients.values()) == cohort.ids
    case = cohort["MOL-007"]
    np.testing.assert_array_equal(case.ctp, hu)
    assert any("MOL-007 and MOL-007_Registered is left aside" in note for note in case.notes)
    assert case.source.name == "MOL-007_Registered_Filtered_3mm_20HU"


def test_maps_of_unitobrain_are_noted_and_not_read(tmp_path):
    dicoms.unitobrain(tmp_path, maps=("TTP", "CBF", "CBV"))
    scan = only(tmp_path)
    assert {name: path.name for name, path in scan.vendor.items()} == {
        "ttp": "NLR_TTP",
        "cbf": "NLR_CBF",
        "cbv": "NLR_CBV",
    }
    assert all("_Maps" not in str(path) for path in scan.files) and len(scan.files) == 20
    assert any("not read" in note and "_Maps" in note for note in scan.notes)


def test_filtered_images_of_unitobrain_may_say_that_they_are_derived(tmp_path):
    hu = dicoms.unitobrain(tmp_path, change=change_kind(ImageType=["DERIVED", "SECONDARY"]))
    case = only(tmp_path).load()
    np.testing.assert_array_equal(case.ctp, hu)
    assert any("derived" in note for note in case.notes)


def test_unitobrain_without_times_has_its_native_interval(tmp_path):
    timeless = set_only("InstanceNumber", lambda z, t: 1 + t * 2 + z)
    dicoms.unitobrain(tmp_path / "native", hu=head((16, 16, 2, 89)), change=timeless)
    scan = only(tmp_path / "native")
    assert scan.dt == 0.5 and any("0.5 s apart by the data set's description" in note for note in scan.notes)
    dicoms.unitobrain(tmp_path / "other", hu=head((16, 16, 2, 18)), change=timeless)
    assert "need times" in only(tmp_path / "other").problem


# --- scans --------------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_any_file(tmp_path):
    dicoms.series(tmp_path / "scan")
    before = only(tmp_path).fingerprint()
    assert only(tmp_path).fingerprint() == before
    rewrite(images(tmp_path)[-1], lambda data: setattr(data, "StationName", "CT99"))
    assert only(tmp_path).fingerprint() != before


def test_a_cohort_of_dicom_lists_what_the_headers_say(tmp_path):
    dicoms.series(tmp_path / "good", series="a")
    dicoms.series(tmp_path / "bad", series="b", change=lambda data, z, t: (z, t) != (1, 1))
    cohort = open_cohort(tmp_path)
    assert cohort.ids == ["bad", "good"] and list(cohort.problems) == ["bad"]
    table = cohort.table().set_index("id")
    assert table.loc["good", "shape"] == SHAPE and table.loc["good", "dt"] == 1.5
    assert not table["has_core"].any()
    assert cohort["good"].core is None and cohort["good"].brain.any()
    with pytest.raises(ValueError, match="needs core masks"):
        cohort.require_core("A study")
