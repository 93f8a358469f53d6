"""Maps as NIfTI files, each with a JSON sidecar that says what it is and how it was made."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from perfkit import __version__

UNITS = {
    "cbf": "ml/100 g/min",
    "cbv": "ml/100 g",
    "mtt": "s",
    "tmax": "s",
    "ttp": "s",
    "delay": "s",
    "rcbf": "1",
}


def save_maps(folder, stem: str, maps, affine, *, method=None) -> list[Path]:
    """Write maps as NIfTI, each with a JSON sidecar that says what it is and how it was made.

    Parameters
    ----------
    folder : where to; made if missing
    stem : first part of the file names, BIDS-style: "sub-01_desc-expert"
    maps : Maps, or a dict from name to (X, Y, Z) array
    affine : (4, 4), mm
    method : dict for the sidecar; default: that of the maps

    Returns
    -------
    The paths of the images, ``<stem>_<name>.nii.gz``
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    method = dict(getattr(maps, "method", {}) if method is None else method)
    written = []
    for name, values in maps.items():
        facts = {"Map": name, "Units": UNITS.get(name, "1"), "Method": method}
        facts["GeneratedBy"] = f"perfkit {__version__}"
        written.append(save_image(folder / f"{stem}_{name}.nii.gz", values, affine, facts))
    return written


def save_image(path, values, affine, sidecar: dict) -> Path:
    """Write an image as NIfTI with a JSON sidecar beside it; each is whole under its name, the image last.

    Parameters
    ----------
    path : ``….nii.gz``
    values : (X, Y, Z), bool and integers as uint8, else float32
    affine : (4, 4), mm; goes into the sform and, where it has no shear, into the qform too: some programs
        read only one of them
    sidecar : what JSON takes

    Returns
    -------
    Path of the image
    """
    import nibabel as nib

    path, values = Path(path), np.asarray(values)
    values = values.astype(np.uint8 if values.dtype.kind in "bui" else np.float32)
    image = nib.Nifti1Image(values, np.asarray(affine, float))
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    try:
        image.set_qform(affine, code="scanner", strip_shears=False)
    except nib.spatialimages.HeaderDataError:
        image.set_qform(None)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    nib.save(image, temporary)
    beside = path.with_name(path.name.removesuffix(".nii.gz") + ".json")
    part = beside.with_name(f".{os.getpid()}.{beside.name}")
    part.write_text(json.dumps(sidecar, indent=2, default=float) + "\n", encoding="utf-8")
    os.replace(part, beside)
    os.replace(temporary, path)
    return path
