"""How much of a ceiling is no mere fit to noise: found on some slices of a scan, scored on the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from perfkit.aif import brain_mean_aif
from perfkit.ceiling import sample_size, with_core
from perfkit.ceilingfigures import CONTROL, FREE
from perfkit.metrics import dice, roc_auc
from perfkit.oracle import STEPS, Setting, make_target, oracle_for, seconds

METRICS, PARTS = ("dice", "roc_auc"), ("fitted", "held")
KEYS = ["case", "patient", "kind", "freedom"]


def across_slices(prepared: dict, *, matrix="volterra", steps=STEPS, seed=0) -> pd.DataFrame:
    """Optimise on every second slice, and score there and on the slices between.

    Parameters
    ----------
    prepared, matrix, steps, seed : as for ``ceiling.ceiling``

    Returns
    -------
    DataFrame of case, patient, kind ("given" or "oracle"), freedom, and dice and roc_auc with the suffixes
    _fitted (the slices optimised on) and _held (the others), the mean of even on odd and odd on even.
    Scans are left out where either half lacks core or reference tissue.

    Raises
    ------
    ValueError : no scan with a core.

    Notes
    -----
    Soft Dice from the mean curve of the brain; a free threshold is that of soft Dice, too.
    """
    scans, _ = with_core(prepared)
    if not scans:
        raise ValueError(f"A ceiling needs a scan with a core: of {len(prepared)} scans none has one.")
    n_frames, sample = max(seconds(scan) for scan in scans.values()), sample_size(scans)
    oracle, rows = oracle_for(n_frames, matrix), []
    for scan in scans.values():
        halves, _ = with_core({parity: _half(scan, parity) for parity in (0, 1)})
        if len(halves) < 2 or not all(half.reference_tissue.any() for half in halves.values()):
            continue
        targets = [make_target(half, n_frames, seed=seed, voxels=sample) for half in halves.values()]
        start = Setting(targets[0].on_clock(brain_mean_aif(scan).curve))
        for fitted, held in (targets, targets[::-1]):
            rows += _carried(oracle, fitted, held, start, steps)
    table = pd.DataFrame(rows, columns=[*KEYS, *(f"{m}_{part}" for m in METRICS for part in PARTS)])
    return table.groupby(KEYS, sort=False).mean().reset_index()


def _half(scan, parity):
    chosen = np.arange(scan.brain.shape[2]) % 2 == parity
    return replace(scan, brain=scan.brain & chosen, reference_tissue=scan.reference_tissue & chosen)


def _carried(oracle, fitted, held, start, steps):
    """Score what is best for one target on both."""
    settings = {("given", CONTROL): start}
    for free in (("aif",), ("threshold",), FREE):
        settings["oracle", "+".join(free)] = oracle.descend(fitted, start, free, steps=steps)[0]
    ranked = oracle.descend(fitted, start, ("aif",), ranking=True, steps=steps)[0]
    rows = []
    for (kind, freedom), setting in (settings | {("oracle", "ranking"): ranked}).items():
        row = {"case": fitted.id, "patient": fitted.patient, "kind": kind, "freedom": freedom}
        for part, target in zip(PARTS, (fitted, held), strict=True):
            rcbf = oracle.rcbf(target, setting)
            row[f"dice_{part}"] = dice(target.core, rcbf < setting.threshold)
            row[f"roc_auc_{part}"] = roc_auc(target.core, -rcbf)
        rows.append(row)
    return rows
