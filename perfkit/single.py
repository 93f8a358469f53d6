"""From a folder or a file to maps on disk: what ``perfkit maps`` does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from perfkit import paper
from perfkit.aif import partial_volume_factor, select_aif, select_vof, voxel_aif
from perfkit.datasets import Cohort, open_cohort, open_series
from perfkit.deconvolution import impulse_response
from perfkit.maps import core_mask, penumbra_mask, perfusion_maps, relative_cbf, save_maps
from perfkit.metrics import volume_ml
from perfkit.preprocessing import Prepared, prepare


def map_scans(
    source,
    out,
    *,
    case="",
    voxel="",
    matrix="circulant",
    lambda_rel=paper.LAMBDA_REL,
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
    matrix, lambda_rel : of the deconvolution
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
            say(map_scan(prepare(scan.load()), Path(out) / scan.id, voxels, matrix, lambda_rel))
        except (OSError, ValueError) as error:
            failed += 1
            warn(f"{scan.id}: failed: {error}")
    if failed and len(cohort) > 1:
        warn(f"{failed} of {len(cohort)} scans failed.")
    return int(failed > 0)


def map_scan(prepared: Prepared, folder, voxels=None, matrix="circulant", lambda_rel=paper.LAMBDA_REL) -> str:
    """Compute the maps of a prepared scan and save them with the AIF they rest on.

    Parameters
    ----------
    prepared : Prepared
    folder : for the images, sidecars and ``<id>_aif.json``
    voxels : (n, 3) int, AIF voxels; None: Straka's rule
    matrix, lambda_rel : of the deconvolution

    Returns
    -------
    A line that says what came out, then one for each note on the scan and its AIF
    """
    picked = voxels is not None
    aif = voxel_aif(prepared.concentration, voxels, prepared.dt) if picked else select_aif(prepared)
    vof, said = scaling_vof(prepared, aif)
    maps = perfusion_maps(
        prepared.concentration,
        aif.curve,
        prepared.dt,
        matrix=matrix,
        lambda_rel=lambda_rel,
        mask=prepared.brain,
        vof=vof,
    )
    rcbf = relative_cbf(maps.cbf, prepared.reference_tissue)
    core = core_mask(rcbf, prepared.brain)
    penumbra = penumbra_mask(maps.tmax, core, prepared.brain)
    method = {**maps.method, "aif": aif.method, "aif_voxels": np.asarray(aif.voxels).tolist()}
    images = {**dict(maps.items()), "rcbf": rcbf, "core": core, "penumbra": penumbra}
    save_maps(folder, prepared.id, images, prepared.affine, method=method)
    notes = [*prepared.notes, *aif.notes, said]
    record = {
        "method": aif.method,
        "voxels": method["aif_voxels"],
        "dt": prepared.dt,
        "curve": aif.curve.tolist(),
        "notes": notes,
    }
    path = Path(folder) / f"{prepared.id}_aif.json"
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    temporary.write_text(json.dumps(record) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    sizes = (volume_ml(mask, prepared.spacing) for mask in (core, penumbra))
    line = "{}: core {:.1f} ml, penumbra {:.1f} ml, AIF of {} voxel(s), maps in {}".format(
        prepared.id, *sizes, len(aif.voxels), folder
    )
    return "\n".join([line, *(f"  {note}" for note in notes)])


def scaling_vof(prepared: Prepared, aif):
    """Find the venous curve whose area undoes the AIF's partial volume, where the scan holds all of it.

    Parameters
    ----------
    prepared : Prepared
    aif : AIF of the same scan

    Returns
    -------
    vof : (T,), HU above baseline, or None;  words : what was done, with the factor
    """
    try:
        vof = select_vof(prepared, aif)
    except ValueError as error:
        return None, f"CBF and CBV are relative, their AIF is not corrected for partial volume: {error}"
    factor = partial_volume_factor(aif, vof)
    if not factor > 1:
        why = "the venous curve is cut off or smaller than the AIF"
        return None, f"CBF and CBV are relative, their AIF is not corrected for partial volume: {why}."
    return vof.curve, f"The AIF is scaled by {factor:.2f} to the area of the venous curve (partial volume)."


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
