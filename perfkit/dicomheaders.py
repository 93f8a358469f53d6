"""Headers of DICOM files: what each image is, where it lies, and what the clock said; pixels stay on disk.

A file is one image (CT Image Storage) or many frames with functional groups of their own (Enhanced CT and
its legacy conversion): both become a list of ``Image``. DICOM PS3.3, C.7.6.2, C.7.6.16 and C.8.15.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# clocks in the order of their worth: when an image was acquired, what it stands for, when it was made
CLOCKS = (
    "AcquisitionDateTime",
    "AcquisitionTime",
    "FrameReferenceDateTime",
    "ContentTime",
    "TriggerTime",
    "TemporalPositionTimeOffset",
)
ORDERS = ("TemporalPositionIndex", "TemporalPositionIdentifier", "AcquisitionNumber", "InstanceNumber")
_CAPTURE = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.7(\.\d+)?")
_DIRECTORY = "1.2.840.10008.1.3.10"
_NOBODY = re.compile(r"anon\w*|unknown|none|no ?name|na|n/a|nil|null|patient|subject|test|[0x*._ -]*", re.I)
_NAMES = (
    "SOPClassUID SOPInstanceUID SeriesInstanceUID StudyInstanceUID PatientID Modality ImageType SeriesNumber"
    " Rows Columns SamplesPerPixel PhotometricInterpretation BitsStored PixelRepresentation NumberOfFrames"
    " ImagePositionPatient ImageOrientationPatient PixelSpacing SliceThickness SpacingBetweenSlices"
    " RescaleSlope RescaleIntercept RescaleType TemporalResolution FrameAcquisitionNumber"
    " SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence"
)
_TAGS = [*_NAMES.split(), *CLOCKS, *ORDERS]
_MACROS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "CTPixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameContentSequence": (
        "FrameAcquisitionDateTime",
        "FrameReferenceDateTime",
        "TemporalPositionIndex",
        "FrameAcquisitionNumber",
    ),
    "TemporalPositionSequence": ("TemporalPositionTimeOffset",),
    "CTImageFrameTypeSequence": ("FrameType",),
}
_SAME = {  # of an enhanced frame → of a classic image
    "FrameAcquisitionDateTime": "AcquisitionDateTime",
    "FrameAcquisitionNumber": "AcquisitionNumber",
    "FrameType": "ImageType",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One image of a series: a classic file, or a frame of an enhanced one.

    Parameters
    ----------
    path, frame : the file, and the frame in it from 0; None in a classic file.
    uid, series, study : SOP instance, series and study UID, "" where they are missing.
    patient : a short hash of the PatientID; "" where there is none or it names nobody.
    series_number : as the scanner counts; None where it is missing.
    shape : (columns, rows): voxels along X and Y.
    position : (3,), mm, LPS, centre of the first voxel.
    orientation : (6,), direction of a row and of a column, LPS.
    spacing : (columns', rows' distance), mm: voxel size along X and Y.
    thickness : mm, distance of slices, or their thickness; None where neither is given.
    slope, intercept : to HU.
    bits : (BitsStored, PixelRepresentation).
    clocks : s by the attribute's name: within the day, or from the trigger; those that are given.
    orders : whole numbers by the attribute's name.
    interval : s, TemporalResolution.
    syntax : UID of the transfer syntax.
    derived : whether the image was computed from others.
    reason : why it is no image of a perfusion series, in words; None where it may be.
    """

    path: Path
    frame: int | None = None
    uid: str = ""
    series: str = ""
    study: str = ""
    patient: str = ""
    series_number: int | None = None
    shape: tuple[int, int] = (0, 0)
    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    spacing: tuple[float, ...] | None = None
    thickness: float | None = None
    slope: float = 1.0
    intercept: float = 0.0
    bits: tuple[int, int] = (16, 0)
    clocks: dict[str, float] = field(default_factory=dict)
    orders: dict[str, int] = field(default_factory=dict)
    interval: float | None = None
    syntax: str = ""
    derived: bool = False
    reason: str | None = None


def is_dicom(path: Path) -> bool:
    """Whether a file has the mark of DICOM: DICM after a preamble of 128 bytes."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read(path: Path) -> list[Image]:
    """Read the header of a file once.

    Parameters
    ----------
    path : a DICOM file

    Returns
    -------
    Its images, one or more; empty for a DICOMDIR. What keeps an image out of a perfusion series stands in its
    ``reason``.

    Raises
    ------
    ValueError, OSError : naming the file, where it is damaged.
    """
    import pydicom
    from pydicom.config import disable_value_validation

    try:
        with disable_value_validation():  # a wrongly written value elsewhere is none of our business
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            if header.file_meta.get("MediaStorageSOPClassUID") == _DIRECTORY:
                return []
            syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
            return [_image(path, frame, facts.get, syntax) for frame, facts in _frames(header)]
    except OSError:
        raise
    except Exception as problem:  # pydicom raises many kinds at damaged files
        raise ValueError(
            f"{path}: the header of a DICOM file must be readable; {problem or type(problem).__name__}. "
            "Copy it again."
        ) from None


def _frames(header) -> Iterator[tuple[int | None, dict]]:
    """Each frame with its facts: those of the header, and above them those of its functional groups."""
    facts = {keyword: header[keyword].value for keyword in _TAGS if keyword in header}
    groups = facts.pop("PerFrameFunctionalGroupsSequence", None)
    if not groups:
        yield None, facts
        return
    facts |= _facts(*facts.pop("SharedFunctionalGroupsSequence", ()))
    facts.pop("InstanceNumber", None)  # numbers the file, not the frames
    for frame, group in enumerate(groups):
        yield frame, facts | _facts(group)


def _facts(*groups) -> dict:
    facts = {}
    for group in groups:
        for macro, keywords in _MACROS.items():
            for item in group.get(macro) or ():
                facts |= {_SAME.get(k, k): item.get(k) for k in keywords if item.get(k) is not None}
    return facts


def _image(path: Path, frame: int | None, get: Callable, syntax: str) -> Image:
    kind = [str(part).upper() for part in _list(get("ImageType"))]
    thickness = [_number(get(k)) for k in ("SpacingBetweenSlices", "SliceThickness")]
    orders = {k: _number(get(k)) for k in ORDERS}
    slope, intercept = _number(get("RescaleSlope")), _number(get("RescaleIntercept"))
    return Image(
        path=path,
        frame=frame,
        uid=str(get("SOPInstanceUID") or ""),
        series=str(get("SeriesInstanceUID") or ""),
        study=str(get("StudyInstanceUID") or ""),
        patient=_hashed(get("PatientID")),
        series_number=_whole(_number(get("SeriesNumber"))),
        shape=(int(get("Columns") or 0), int(get("Rows") or 0)),
        position=_numbers(get("ImagePositionPatient"), 3),
        orientation=_numbers(get("ImageOrientationPatient"), 6),
        spacing=(_numbers(get("PixelSpacing"), 2) or ())[::-1] or None,  # given for rows, then for columns
        thickness=next((abs(value) for value in thickness if value), None),
        slope=1.0 if slope is None else slope,
        intercept=intercept or 0.0,
        bits=(int(get("BitsStored") or 16), int(get("PixelRepresentation") or 0)),
        clocks={k: s for k in CLOCKS if (s := _seconds(k, get(k))) is not None},
        orders={k: _whole(number) for k, number in orders.items() if number is not None},
        interval=(_number(get("TemporalResolution")) or 0) / 1000 or None,
        syntax=syntax,
        derived="DERIVED" in kind[:1],
        reason=_reason(get, frame, kind),
    )


def _reason(get: Callable, frame: int | None, kind: list[str]) -> str | None:
    sop, modality = str(get("SOPClassUID") or ""), str(get("Modality") or "")
    photometric, samples = str(get("PhotometricInterpretation") or ""), int(get("SamplesPerPixel") or 1)
    if _CAPTURE.fullmatch(sop):
        return "a secondary capture, not a scan"
    if not modality:
        return "without a modality: the header is damaged or incomplete"
    if modality != "CT":
        return f"of modality {modality}, not CT"
    if "LOCALIZER" in kind or "SCOUT" in kind:
        return "a localiser"
    if not get("Rows") or not get("Columns"):
        return "without an image"
    if samples != 1 or photometric not in ("MONOCHROME2", ""):
        return f"{photometric or f'of {samples} samples a pixel'}; values of CT are MONOCHROME2"
    if str(get("RescaleType") or "HU").upper() not in ("HU", "HU_MOD", "US"):
        return f"in units of {get('RescaleType')}, not HU"
    if frame is None and int(get("NumberOfFrames") or 1) > 1:
        return "a file of many frames without their functional groups: where and when each lies is not known"
    if not (get("ImagePositionPatient") and get("ImageOrientationPatient") and get("PixelSpacing")):
        return "without position, orientation or pixel spacing: its place is not known"
    return None


def _hashed(patient) -> str:
    """Short hash of a PatientID: tells patients apart and shows no name.

    It hides, and does not make anonymous: who can guess an id can confirm it.
    """
    patient = str(patient or "").strip()
    if _NOBODY.fullmatch(patient):
        return ""
    return "p" + hashlib.sha256(patient.encode()).hexdigest()[:8]


def _seconds(keyword: str, value) -> float | None:
    """Seconds within the day, or from the trigger. Dates are left out: a scan takes less than a day."""
    if value is None or str(value).strip() == "":
        return None
    if keyword in ("TriggerTime", "TemporalPositionTimeOffset"):
        return float(value) / (1000 if keyword == "TriggerTime" else 1)
    text = str(value).strip().replace(":", "")  # ACR-NEMA wrote 10:11:12
    match = re.fullmatch(r"(?:\d{8})?(\d{2})(\d{2})(\d{2}(?:\.\d+)?)(?:[+-]\d{4})?", text)
    if not match:
        return None  # a date alone, or a time without seconds: no time of a frame
    hours, minutes, seconds = match.groups()
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _list(value) -> list:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _number(value) -> float | None:
    return None if value is None or str(value).strip() == "" else float(value)


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _numbers(value, n: int) -> tuple[float, ...] | None:
    numbers = tuple(float(part) for part in value) if value else ()
    return numbers if len(numbers) == n else None
