"""One DICOM series as a scan: what its headers say at once, and the Case it becomes when it is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from perfkit import checks, dicomseries, timing, unitobrain
from perfkit.case import Case
from perfkit.dicomheaders import Image
from perfkit.dicomseries import Series
from perfkit.foundfiles import natural
from perfkit.scans import Scan, find_brain
from perfkit.unitobrain import Unit


@dataclass(frozen=True, kw_only=True, eq=False)
class DicomScan(Scan):
    """One DICOM series as its headers describe it; ``load`` reads the pixels. It brings no masks.

    Parameters
    ----------
    id : UniToBrain's case; else made of the folder's path, and the series' number where there are several.
    patient : UniToBrain's case; else a short hash of the PatientID; ``id`` where that names nobody.
    path, name : folder of the files, and its name.
    shape : (X, Y, Z, T) of the Case.
    times : (Z, T), s, of the images as scanned; where they keep to no interval, T differs from ``shape``'s.
    vendor : folders of maps by name.
    series, files : the images in order, and the files they lie in.
    others : as in Scan.
    """

    times: np.ndarray | None = field(default=None, repr=False)
    vendor: Mapping[str, Path] = field(default_factory=dict, repr=False)
    series: Series | None = field(default=None, repr=False)
    files: tuple[Path, ...] = field(default=(), repr=False)

    def load(self) -> Case:
        """Read the pixels, each file once, and bring frames of other times to one interval.

        Raises
        ------
        ValueError, OSError : naming the file or folder that is missing or broken.
        """
        if self.problem:
            raise ValueError(self.problem)
        ctp = dicomseries.read_values(self.series)
        if self.series.dt is None:
            ctp, _, _ = timing.to_uniform(ctp, self.series.times, self.dt)
        ctp = checks.check_series(ctp, str(self.path))
        return Case(
            id=self.id,
            patient=self.patient,
            ctp=ctp,
            dt=self.dt,
            affine=self.series.affine,
            brain=find_brain(ctp, self.dt, self.series.affine, self.path),
            vendor=self.vendor,
            source=self.path,
            notes=self.notes,
        )

    def _read_from(self) -> tuple[Path, ...]:
        return self.files


def common_folder(images: list[Image]) -> Path:
    """Return the deepest folder in or below which all images lie."""
    return Path(os.path.commonpath({image.path.parent for image in images}))


def describe(images: list[Image], unit: Unit | None = None) -> DicomScan:
    """Put the images of one grid in order and say what they are.

    Parameters
    ----------
    images : as one group of ``dicomseries.split``.
    unit : of UniToBrain, where they belong to it.

    Returns
    -------
    DicomScan; what is wrong with the images stands in its ``problem``. Outside of UniToBrain it has no ``id``
    yet, and no ``patient`` where the PatientID names nobody.
    """
    path = unit.folder if unit else common_folder(images)
    scan = DicomScan(
        id=unit.case if unit else "",
        patient=unit.case if unit else images[0].patient,
        path=path,
        name=path.name,
        vendor=unit.maps if unit else {},
        notes=unit.notes if unit else (),
        files=tuple(sorted({image.path for image in images}, key=lambda file: natural(str(file)))),
    )
    try:
        _check_patient(images, path)
        _check_syntax(images)
        # without times UniToBrain's native interval counts, and only for series of its native length
        native = unit and dicomseries.n_frames(images) == unitobrain.FRAMES
        return _described(scan, dicomseries.arrange(images, str(path), dt=unitobrain.DT if native else None))
    except ValueError as problem:
        return replace(scan, problem=str(problem))


def _described(scan: DicomScan, series: Series) -> DicomScan:
    dt, n, notes = series.dt, series.shape[3], series.notes
    if dt is None:
        grid, dt = timing.common_grid(series.times)
        n, notes = len(grid), notes + timing.explain(series.times, dt)
    shape = (*series.shape[:3], n)
    checks.check_series_shape(shape, str(scan.path))
    checks.check_affine(series.affine, str(scan.path))
    spacing = tuple(round(float(s), 5) for s in checks.spacing_of(series.affine))
    if any(image.derived for image in series.images[0]):
        notes += ("The headers say the images were derived from others.",)
    return replace(
        scan,
        shape=shape,
        dt=checks.check_frame_interval(dt, str(scan.path)),
        spacing=spacing,
        times=series.times,
        series=series,
        notes=scan.notes + notes,
    )


def _check_patient(images: list[Image], path: Path) -> None:
    if (n := len({image.patient for image in images})) > 1:
        raise ValueError(
            f"{path}: a series is of one patient; the images of this one name {n} (PatientID). "
            "Take the files of the others out."
        )


def _check_syntax(images: list[Image]) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    for syntax, path in {image.syntax: image.path for image in images}.items():
        try:
            if get_decoder(UID(syntax)).is_available:
                continue
        except NotImplementedError:
            pass
        raise ValueError(
            f"{path}: compressed images need a decoder; {UID(syntax).name or syntax} has none here. Install "
            "one (pip install python-gdcm), or decompress the files (gdcmconv --raw, or dcmdjpeg of DCMTK)."
        )
