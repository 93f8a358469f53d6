"""From a folder or a file to maps on disk: what ``perfkit maps`` does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from perfkit import pages, paper
from perfkit.aif import select_aif, voxel_aif
from perfkit.datasets import Cohort, open_cohort, open_series
from perfkit.deconvolution import impulse_response
from perfkit.mapfiles import save_maps
from perfkit.preprocessing import Prepared, prepare
from perfkit.scanresult import read_scan


def map_scans(
    source,
    out,
    *,
    case="",
    voxel="",
    matrix="circulant",
    lambda_rel=paper.LAMBDA_REL,
    estimator="tikhonov",
    say=print,
    warn=None,
) -> int:
    """Compute and save the maps of every scan of a folder, or of one.

    Parameters
    ----------
    source : folder of scans, or one NIfTI series
    out : folder; each scan gets one of its own
    case : id of the only scan to do
    voxel : "x y z; x y z", AIF voxels from 0; empty: Straka's rule
    matrix, lambda_rel, estimator : of the deconvolution
    say : called with what came out of each scan, and with what the reader should know about it
    warn : called with the reason where a scan failed; default: ``say``

    Returns
    -------
    Exit status: 0, or 1 where a scan failed

    Raises
    ------
    ValueError, OSError : nothing to map there, or an option that would fail for every scan.
    """
    warn = warn or say
    voxels = parse_voxels(voxel) if voxel else None
    bolus = np.array([0.0, 1.0])
    impulse_response(bolus, bolus, matrix=matrix, lambda_rel=lambda_rel)  # its checks, once and not per scan
    cohort = _open(Path(source))
    if case:
        try:
            cohort = cohort.select([case])
        except KeyError as error:
            raise ValueError(error.args[0]) from None
    failed = 0
    for scan in cohort.scans:
        try:
            say(map_scan(prepare(scan.load()), Path(out) / scan.id, voxels, matrix, lambda_rel, estimator))
        except (OSError, ValueError) as error:
            failed += 1
            warn(f"{scan.id}: failed: {error}")
    if failed and len(cohort) > 1:
        warn(f"{failed} of {len(cohort)} scans failed.")
    return int(failed > 0)


def map_scan(
    prepared: Prepared,
    folder,
    voxels=None,
    matrix="circulant",
    lambda_rel=paper.LAMBDA_REL,
    estimator="tikhonov",
) -> str:
    """Compute the maps of a prepared scan and save them with the AIF they rest on.

    Parameters
    ----------
    prepared : Prepared
    folder : for the images, sidecars and ``<id>_aif.json``
    voxels : (n, 3) int, AIF voxels; None: Straka's rule
    matrix, lambda_rel, estimator : of the deconvolution

    Returns
    -------
    A line that says what came out, then one for each note on the scan and its AIF
    """
    picked = voxels is not None
    aif = voxel_aif(prepared.concentration, voxels, prepared.dt) if picked else select_aif(prepared)
    result = read_scan(prepared, aif, matrix=matrix, lambda_rel=lambda_rel, estimator=estimator)
    save_maps(folder, prepared.id, result.images(), prepared.affine, method=result.method())
    record = {
        "method": aif.method,
        "voxels": result.method()["aif_voxels"],
        "dt": prepared.dt,
        "curve": aif.curve.tolist(),
        "notes": list(result.notes),
    }
    pages.write(Path(folder) / f"{prepared.id}_aif.json", json.dumps(record) + "\n")
    sizes = (result.volumes[name] for name in ("core_ml", "penumbra_ml"))
    line = "{}: core {:.1f} ml, penumbra {:.1f} ml, AIF of {} voxel(s), maps in {}".format(
        prepared.id, *sizes, len(aif.voxels), folder
    )
    return "\n".join([line, *(f"  {note}" for note in result.notes)])


def parse_voxels(text: str) -> np.ndarray:
    """Read "x y z; x y z" into (n, 3) int."""
    try:
        voxels = np.array([[int(number) for number in voxel.split()] for voxel in text.split(";")])
        if voxels.ndim != 2 or voxels.shape[1] != 3:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"AIF voxels are written 'x y z; x y z', whole numbers from 0: {text!r} came."
        ) from None
    return voxels


def _open(source: Path) -> Cohort:
    if not source.exists():
        raise FileNotFoundError(f"Maps need a series or a folder of scans: {source} does not exist.")
    if source.is_dir():
        return open_cohort(source)
    if not source.name.lower().endswith((".nii", ".nii.gz")):
        raise ValueError(f"A series is a NIfTI file, .nii or .nii.gz, and {source} is not. Convert it first.")
    return open_series(source)
