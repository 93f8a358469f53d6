"""What a page of one scan shows: pictures of a slice, outlines, the curves of every arm and their sources.

``write_case`` leaves it beside a run, so ``casepages`` can make the pages again without the scans.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np

from perfkit import drawing, pages, paper, parallel
from perfkit.case import Case
from perfkit.maps import core_mask, perfusion_maps, relative_cbf
from perfkit.metrics import volume_ml
from perfkit.pictures import CT_WINDOW, PLAYED_QUALITY, View, coloured, grey, save_picture, sprite
from perfkit.preprocessing import Prepared
from perfkit.scoretables import ordered_arms

SERIES_WINDOW = (0, 120)  # HU; our choice: tissue and filled vessels in one window
MAPS = ("cbf", "cbv", "mtt", "tmax")
MARKED = 400  # voxels; our choice: more are a region, not a place to point at


def page_name(case: str) -> str:
    """Return the folder of a case's page: its id where that is a safe file name, else one made of it.

    Parameters
    ----------
    case : id of a scan, any text.
    """
    safe = re.sub(r"[^\w.-]+", "_", case).strip(".") or "case"
    return safe if safe == case else f"{safe}-{hashlib.sha256(case.encode()).hexdigest()[:8]}"


def played_series(case: Case, prepared: Prepared) -> tuple:
    """Take out of a series what its page plays, for ``preprocessing.prepare_cohort(…, keep=played_series)``.

    Parameters
    ----------
    case : the scan, with its series as it came.
    prepared : the same scan, prepared.

    Returns
    -------
    pixels : (rows, columns), 8-bit grey: all frames of one slice, small
    layout : dict of frames and columns
    """
    return sprite(_view(prepared), case.ctp[:, :, _slice(prepared)], SERIES_WINDOW)


def write_cases(
    folder,
    series: dict,
    prepared: dict,
    inputs: dict,
    *,
    lambda_rel: float = paper.LAMBDA_REL,
    threshold: float = paper.RCBF_THRESHOLD,
    progress: bool = True,
) -> dict[str, str]:
    """Leave the pictures of all prepared scans beside a run; a scan that fails is reported, not fatal.

    Parameters
    ----------
    folder : of the run; the cases go below ``cases``.
    series : dict from case id to what ``played_series`` returns.
    prepared : dict from case id to Prepared.
    inputs : dict from arm to dict from case id to AIF or (T,).
    lambda_rel, threshold : of the deconvolution and of the core; the matrix is circulant.
    progress : show a bar.

    Returns
    -------
    dict from case id to the reason, for those that failed.
    """
    from tqdm import tqdm

    options = {"lambda_rel": lambda_rel, "threshold": threshold}

    def written(name):
        if name not in series:
            return f"the series of {name} was not kept: prepare_cohort(…, keep=casefiles.played_series)"
        held = {arm: found[name] for arm, found in inputs.items() if name in found}
        home = Path(folder) / "cases" / page_name(name)
        try:
            write_case(home, series[name], prepared[name], held, **options)
        except (ValueError, OSError) as error:
            return str(error)
        return ""

    told = {"desc": "Case pages", "unit": "case", "total": len(prepared), "disable": not progress}
    reasons = tqdm(parallel.each(written, prepared), **told)
    return {name: why for name, why in zip(prepared, reasons, strict=True) if why}


def write_case(
    folder,
    series: tuple,
    prepared: Prepared,
    inputs: dict,
    *,
    lambda_rel: float = paper.LAMBDA_REL,
    threshold: float = paper.RCBF_THRESHOLD,
) -> Path:
    """Compute what the page of a scan shows: pictures of one slice, outlines, curves and their sources.

    Parameters
    ----------
    folder : of the case.
    series : of ``played_series``.
    prepared : the same scan, prepared.
    inputs : dict from arm to AIF or (T,), HU above baseline.
    lambda_rel, threshold : of the deconvolution and of the core.

    Returns
    -------
    Path of ``case.json``, written last.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    z = _slice(prepared)
    view = _view(prepared)
    frames, played = series
    arms, failures = {}, {}
    for arm in ordered_arms(inputs):
        try:
            found = _deconvolved(prepared, inputs[arm], z, lambda_rel)
        except ValueError as error:
            failures[arm] = str(error)
            continue
        drawn = ("rcbf",) if arms else ("rcbf", *MAPS)  # the first arm's other maps stand for all
        arms[arm] = _arm(folder, view, z, inputs[arm], arm, found, drawn, threshold)
    facts = {
        "case": prepared.id,
        "patient": prepared.patient,
        "shape": [int(n) for n in prepared.concentration.shape],
        "spacing_mm": [round(float(v), 3) for v in prepared.spacing],
        "dt": prepared.dt,
        "slice": z,
        "size_mm": view.size_mm,
        "sides": drawing.orientation(prepared.affine)[2],
        "threshold": threshold,
        "core_ml": None if prepared.core is None else volume_ml(prepared.core, prepared.spacing),
        "core": "" if prepared.core is None else view.path(prepared.core[..., z]),
        "baseline": save_picture(folder / "baseline.webp", grey(view.rows(prepared.baseline[..., z]))),
        "series": played | {"file": save_picture(folder / "series.webp", frames, PLAYED_QUALITY)},
        "slices": _all_slices(folder, view, prepared),
        "arms": arms,
        "failures": failures,
        "notes": list(prepared.notes),
    }
    return pages.write(folder / "case.json", json.dumps(facts))


def _view(prepared):
    return View(prepared.brain.any(axis=2), prepared.affine)


def _slice(prepared):
    if prepared.core is not None and prepared.core.any():
        return int(np.argmax(prepared.core.sum(axis=(0, 1))))
    return prepared.brain.shape[2] // 2


def _deconvolved(prepared, given, z, lambda_rel):
    """Map one slice (X, Y) with one AIF; the reference tissue of the whole scan is deconvolved beside it."""
    shown = np.zeros_like(prepared.brain)
    shown[..., z] = prepared.brain[..., z]
    options = {"matrix": "circulant", "lambda_rel": lambda_rel, "mask": shown | prepared.reference_tissue}
    curve = getattr(given, "curve", given)
    maps = perfusion_maps(prepared.concentration, curve, prepared.dt, only=MAPS, **options)
    rcbf = relative_cbf(maps.cbf, prepared.reference_tissue)
    return {name: getattr(maps, name)[..., z] for name in MAPS} | {
        "rcbf": rcbf[..., z],
        "where": shown[..., z],
    }


def _arm(folder, view, z, given, arm, found, drawn, threshold):
    voxels = np.asarray(getattr(given, "voxels", ()), int).reshape(-1, 3)
    where = view.rows(found["where"])
    files = {
        name: save_picture(folder / f"{arm}_{name}.webp", coloured(view.rows(found[name]), name, where))
        for name in drawn
    }
    few = len(voxels) < MARKED
    return {
        "maps": files,
        "predicted": view.path(core_mask(found["rcbf"], found["where"], threshold)),
        "aif": [round(float(v), 3) for v in getattr(given, "curve", given)],
        "voxels": len(voxels),
        "slices": sorted({int(k) for k in voxels[:, 2]}) if few else [],
        "marks": view.points(voxels[voxels[:, 2] == z, :2]) if few else [],
        "notes": list(getattr(given, "notes", ())),
    }


def _all_slices(folder, view, prepared):
    """Put the baseline of every slice side by side, each with the outline of its core."""
    core = prepared.core
    frames, layout = sprite(view, prepared.baseline, CT_WINDOW)
    paths = [] if core is None else [view.path(core[..., k]) for k in range(core.shape[2])]
    return layout | {"file": save_picture(folder / "slices.webp", frames), "cores": paths}
