"""Results of a scan as files that other programs know: BIDS-derivatives-like names, NIfTI, JSON and TSV.

    dataset_description.json
    sub-<patient>[_acq-<scan>]/perf/
        …_desc-<aif>_{cbf,cbv,mtt,tmax,ttp,rcbf}.nii.gz   float32, each with a .json that names its unit
        …_desc-<aif>_dseg.nii.gz, .tsv, .json              0 nothing, 1 core, 2 penumbra
        …_desc-<aif>_label-{core,penumbra}_mask.nii.gz, .json
        …_desc-<aif>_timeseries.tsv, .json                 AIF and VOF over time

BIDS has no CT perfusion yet: the folder ``perf`` and the suffixes are those of its MR perfusion and of the
field's usual maps. ITK-SNAP, 3D Slicer and NiiVue open every image and lay it over the series.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np

from perfkit import __version__, pages
from perfkit.mapfiles import UNITS, save_image

BIDS_VERSION = "1.10.0"
SEGMENTS = (("core", 1, "#d62728"), ("penumbra", 2, "#2ca02c"))  # name, value, colour
MEANINGS = {
    "cbf": "Cerebral blood flow",
    "cbv": "Cerebral blood volume",
    "mtt": "Mean transit time",
    "tmax": "Time to maximum of the impulse response",
    "ttp": "Time to peak of the curve",
    "delay": "Delay of the tissue behind the arterial input, calibrated",
    "rcbf": "Blood flow over its mean in the reference tissue",
    "core": "Infarct core: relative blood flow below the threshold",
    "penumbra": "Tmax above 6 s that is not core",
}


def entities(case: str, patient: str = "") -> str:
    """Name a scan as BIDS does: ``sub-<patient>``, and ``_acq-<scan>`` where the scan has a name of its own.

    Parameters
    ----------
    case, patient : any text; a patient that is not known counts as the scan.

    Notes
    -----
    BIDS labels hold letters and digits only. Text that loses a sign that tells it from another is told apart
    by a short hash.
    """
    subject = _label(patient or case)
    return f"sub-{subject}" + ("" if patient in ("", case) else f"_acq-{_label(case)}")


def _label(text: str) -> str:
    text = re.sub(r"^sub-", "", text)
    short = re.sub(r"[^A-Za-z0-9]", "", text)
    plain = re.fullmatch(r"[A-Za-z0-9]+|[A-Za-z]+[_-]\d+", text)  # case_3 and the like lose nothing
    return short if plain else f"{short}{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def write_derivatives(folder, result, *, desc: str = "") -> list[Path]:
    """Write all that is known of a scan below a folder.

    Parameters
    ----------
    folder : of the derivatives; several scans may share it.
    result : scanresult.ScanResult.
    desc : name of the way the AIF was found, in the file names; default: the AIF's method.

    Returns
    -------
    Paths of the images, maps first. Each is written after its sidecar, and whole or not at all.
    """
    prepared, method = result.prepared, result.method()
    name = entities(prepared.id, prepared.patient)
    home = Path(folder) / name.split("_")[0] / "perf"
    home.mkdir(parents=True, exist_ok=True)
    describe(folder)
    stem = f"{name}_desc-{re.sub('[^A-Za-z0-9]', '', desc or result.aif.method) or 'aif'}"
    common = {"Case": prepared.id, "Method": method, "GeneratedBy": f"perfkit {__version__}"}
    written = []
    for suffix, values in result.images().items():
        facts = {"Map": suffix, "Units": UNITS.get(suffix, "1"), "Description": MEANINGS[suffix]} | common
        is_mask = values.dtype == bool
        ending = f"label-{suffix}_mask" if is_mask else suffix
        facts |= {"Type": "ROI"} if is_mask else {}
        written.append(save_image(home / f"{stem}_{ending}.nii.gz", values, prepared.affine, facts))
    segments = np.zeros(prepared.brain.shape, np.uint8)
    for label, value, _ in SEGMENTS:
        segments[result.images()[label]] = value
    rows = [{"index": value, "name": label, "color": colour} for label, value, colour in SEGMENTS]
    _write_tsv(home / f"{stem}_dseg.tsv", rows)
    words = {"Map": "dseg", "Units": "1", "Labels": {str(row["index"]): row["name"] for row in rows}}
    written.append(save_image(home / f"{stem}_dseg.nii.gz", segments, prepared.affine, words | common))
    _write_curves(home, stem, result, common)
    return written


def describe(folder) -> Path:
    """Write ``dataset_description.json``, which makes a folder a BIDS derivative."""
    about = {
        "Name": "CT perfusion maps",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "perfkit", "Version": __version__}],
    }
    return pages.write(Path(folder) / "dataset_description.json", json.dumps(about, indent=2) + "\n")


def _write_curves(home, stem, result, common):
    times = result.prepared.dt * np.arange(len(result.aif.curve))
    curves = {"time": times, "aif": result.aif.curve}
    if result.vof is not None:
        curves["vof"] = result.vof.curve
    rows = [
        {key: f"{value:.6g}" for key, value in zip(curves, row, strict=True)}
        for row in zip(*curves.values(), strict=True)
    ]
    columns = {key: {"Units": "s" if key == "time" else "HU above baseline"} for key in curves}
    columns |= {"Voxels": result.method()["aif_voxels"], "Notes": list(result.notes)}
    pages.write(home / f"{stem}_timeseries.json", json.dumps(columns | common, indent=2) + "\n")
    _write_tsv(home / f"{stem}_timeseries.tsv", rows)


def _write_tsv(path, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    pages.write(path, text.getvalue())
