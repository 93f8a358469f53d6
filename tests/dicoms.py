"""Tiny DICOM perfusion series, written from the standard (PS3.3) and DATASETS.md and not from our reader.

The place of voxel (column i, row j) of an image is, in LPS and mm (C.7.6.2.1.1),
``ImagePositionPatient + i · PixelSpacing[1] · row direction + j · PixelSpacing[0] · column direction``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from layouts import head
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

CT, ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.2.1"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SHAPE = (32, 28, 2, 10)
PIXEL = (6.0, 5.0)  # mm: distance of rows, distance of columns, as PixelSpacing has them
ORIGIN = (-77.5, -81.0, 12.5)  # mm, LPS
SLICE = 8.0  # mm
START = 10 * 3600 + 11 * 60 + 12.25  # s after midnight


def uid(*names) -> str:
    """A UID that is the same for the same names."""
    return generate_uid(entropy_srcs=[str(name) for name in names])


def clock(seconds: float, digits: int = 6) -> str:
    """HHMMSS.ffffff of seconds after some midnight."""
    seconds = round(seconds % 86400, digits)
    whole = int(seconds)
    text = f"{whole // 3600:02d}{whole // 60 % 60:02d}{whole % 60:02d}"
    return text + (f"{seconds - whole:.{digits}f}"[1:] if digits else "")


def tilted(about_x=0.0, about_z=0.0):
    """Directions of rows and columns turned about the x and the z axis, degrees."""
    a, c = np.radians([about_x, about_z])
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turned = rz @ rx
    return tuple(np.round(np.concatenate([turned[:, 0], turned[:, 1]]), 10))


def places(n, *, orientation=AXIAL, origin=ORIGIN, slice_mm=SLICE, shift=(0.0, 0.0, 0.0)):
    """(n, 3), mm, LPS: a stack along the normal; ``shift`` is added from slice to slice."""
    normal = np.cross(orientation[:3], orientation[3:])
    return np.asarray(origin) + np.arange(n)[:, None] * (normal * slice_mm + np.asarray(shift))


def voxel_place(position, orientation, column, row, pixel=PIXEL):
    """(3,), mm, RAS, of one voxel by the formula of the standard."""
    lps = (
        np.asarray(position)
        + column * pixel[1] * np.asarray(orientation[:3])
        + row * pixel[0] * np.asarray(orientation[3:])
    )
    return lps * (-1, -1, 1)


def common(sop_class, *, patient="P-0815", series="1", study="1", number=4) -> Dataset:
    """What every file of a series says."""
    data = Dataset()
    data.SOPClassUID = sop_class
    data.StudyInstanceUID, data.SeriesInstanceUID = uid("study", study), uid("series", series)
    data.PatientID, data.PatientName, data.Modality = patient, "Doe^Jane", "CT"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.SeriesNumber = number
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    return data


def save(data: Dataset, path: Path, syntax=ExplicitVRLittleEndian) -> Path:
    """Write a Part 10 file; pixel data are bytes in the order of the syntax already."""
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def series(
    folder,
    hu=None,
    *,
    times=None,
    dt=1.5,
    orientation=AXIAL,
    positions=None,
    slope=1,
    intercept=-1024,
    syntax=ExplicitVRLittleEndian,
    change=None,
    name="IM{:04d}",
    **of_series,
):
    """Classic CT, one file an image, in no order of names; returns the HU (X, Y, Z, T) it holds.

    ``change(data, z, t)`` may spoil an image before it is written; returning False leaves it out.
    """
    hu = head(SHAPE, seed=7) if hu is None else hu
    n_x, n_y, n_z, n_t = hu.shape
    times = START + (dt * np.arange(n_t) if times is None else np.asarray(times))
    times = np.broadcast_to(times, (n_z, n_t))
    positions = places(n_z, orientation=orientation) if positions is None else positions
    order = np.random.default_rng(n_z * n_t).permutation(n_z * n_t)
    for number, place in enumerate(order):
        z, t = divmod(int(place), n_t)
        data = common(CT, **of_series)
        data.SOPInstanceUID = uid(data.SeriesInstanceUID, z, t)
        data.Rows, data.Columns = n_y, n_x
        data.ImagePositionPatient = [f"{value:.10g}" for value in positions[z]]
        data.ImageOrientationPatient = [f"{value:.10g}" for value in orientation]
        data.PixelSpacing, data.SliceThickness = list(PIXEL), SLICE
        data.RescaleSlope, data.RescaleIntercept = slope, intercept
        data.AcquisitionDate = "20240229"
        data.AcquisitionTime = clock(times[z, t])
        data.InstanceNumber = 1 + t * n_z + z
        stored = np.rint((hu[:, :, z, t].T - intercept) / slope)
        if change and change(data, z, t) is False:
            continue
        slope_, intercept_ = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
        if (slope_, intercept_) != (slope, intercept):
            stored = np.rint((hu[:, :, z, t].T - intercept_) / slope_)
        kind = ("i2", "u2")[data.PixelRepresentation == 0]
        order_of_bytes = ">" if syntax == ExplicitVRBigEndian else "<"
        if "PixelData" not in data:
            data.PixelData = stored.astype(order_of_bytes + kind).tobytes()
        save(data, Path(folder) / name.format(number + 1), syntax)
    return hu


def item(**values) -> Sequence:
    """A sequence of one item."""
    data = Dataset()
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return Sequence([data])


def enhanced(
    path,
    hu=None,
    *,
    frames=None,
    dt=1.5,
    orientation=AXIAL,
    change=None,
    seconds=True,
    slopes=(1.0,),
    **of_series,
):
    """Enhanced CT: all frames, or those listed as (z, t), in one file; returns the HU it holds.

    ``change(group, z, t)`` may spoil the functional groups of a frame. ``slopes`` are dealt out.
    """
    hu = head(SHAPE, seed=7) if hu is None else hu
    n_x, n_y, n_z, n_t = hu.shape
    frames = [(z, t) for z in range(n_z) for t in range(n_t)] if frames is None else list(frames)
    np.random.default_rng(1).shuffle(frames)
    data = common(ENHANCED_CT, **of_series)
    data.SOPInstanceUID = uid(path)
    data.Rows, data.Columns, data.NumberOfFrames = n_y, n_x, len(frames)
    data.InstanceNumber, data.AcquisitionDateTime = 1, "20240229" + clock(START)
    shared = Dataset()
    shared.PixelMeasuresSequence = item(PixelSpacing=list(PIXEL), SliceThickness=SLICE)
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=list(orientation))
    data.SharedFunctionalGroupsSequence = Sequence([shared])
    groups, pixels, positions = [], [], places(n_z, orientation=orientation)
    for n, (z, t) in enumerate(frames):
        slope = slopes[n % len(slopes)]
        group = Dataset()
        group.PlanePositionSequence = item(ImagePositionPatient=[round(float(v), 8) for v in positions[z]])
        content = {"FrameAcquisitionDateTime": "20240229" + clock(START + dt * t)} if seconds else {}
        group.FrameContentSequence = item(
            TemporalPositionIndex=t + 1, StackID="1", InStackPositionNumber=z + 1
        )
        for keyword, value in content.items():
            setattr(group.FrameContentSequence[0], keyword, value)
        group.PixelValueTransformationSequence = item(
            RescaleSlope=slope, RescaleIntercept=-1024, RescaleType="HU"
        )
        group.CTImageFrameTypeSequence = item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
        if change:
            change(group, z, t)
        groups.append(group)
        pixels.append(np.rint((hu[:, :, z, t].T + 1024) / slope).astype("<u2"))
    data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    data.PixelData = np.stack(pixels).tobytes()
    save(data, Path(path))
    return hu


def unitobrain(
    root, case="MOL-001", *, stages=("_Registered_Filtered_3mm_20HU",), maps=("TTP", "CBF"), **options
):
    """A case of UniToBrain in its folders, and its maps of another shape; returns the HU it holds."""
    for stage in stages:
        name = "Filtered{:05d}.dcm" if "Filtered" in stage else "IM{:05d}.dcm"
        hu = series(Path(root) / f"{case}{stage}", name=name, patient="anonymous", series=case, **options)
    for n, role in enumerate(maps):
        folder = Path(root) / f"{case}{stages[0]}_Maps" / f"NLR_{role}"
        series(
            folder, np.zeros((6, 6, 2, 1), np.int16), name=f"{role}{{:03d}}.dcm", series=f"{case}{role}{n}"
        )
    return hu
