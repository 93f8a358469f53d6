"""The ceiling: how good a core could be if the AIF, the threshold or λ were the best for each scan.

It is found on the true core, so no method can be asked to reach it; it bounds what a better AIF can gain, and
says what of the loss 1 − Dice lies elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from perfkit import nifti, paper
from perfkit.ceilingfigures import CONTROL, FREE
from perfkit.ceilingfigures import shares as shares  # the table belongs to what this module offers
from perfkit.deconvolution import MATRICES
from perfkit.metamorphic import CUTS, dice_curve
from perfkit.metrics import dice, roc_auc
from perfkit.oracle import STEPS, VOXELS, Setting, make_target, oracle_for, seconds

DELAYS = np.arange(0.0, 8.1, 0.5)  # s; our choice: cuts tried on the true delay
LAMBDAS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.9)  # our choice: what a cohort may choose from


@dataclass(frozen=True, eq=False)
class Ceiling:
    """What could be had of each scan.

    Attributes
    ----------
    scores : DataFrame, a row per scan and freedom: case, patient, matrix, kind ("given": an AIF at θ .38 and
        λ_rel .3; "oracle": best for the scan; "cohort": θ, or θ and λ, best for all other patients;
        "truth": of the phantom), freedom, dice, roc_auc, best_dice (of the same map at its best threshold),
        loss (soft Dice of the sample, as optimised; smooth AUC loss for "ranking"), threshold, lambda_rel
    aifs : dict from freedom to dict from case id to AIF (T,), 1 at its peak before optimisation, 1 s apart
    left_out : dict from case id to the reason
    """

    scores: pd.DataFrame
    aifs: dict
    left_out: dict


def ceiling(
    prepared: dict, *, matrix="volterra", steps=STEPS, truth=None, inputs=None, seed=0, tell=None
) -> Ceiling:
    """Optimise AIF, threshold and λ_rel of each scan on its core, alone and together.

    Parameters
    ----------
    prepared : dict from case id to Prepared
    matrix : "volterra" or "circulant"
    steps : of Adam for each scan and freedom
    truth : folder of a phantom cohort, or its ``truth``; adds the true AIF and what the true maps reach
    inputs : dict from arm to dict from case id to AIF (T,), on the frames of the scans
    seed : of the sampled voxels; the same seed gives the same numbers
    tell : called with the case id after each scan

    Returns
    -------
    Ceiling. Dice and AUC are of all voxels of the brain, also where only a sample was optimised on.

    Raises
    ------
    ValueError : no such matrix; no scan with a core.
    FileNotFoundError : a scan has no truth in the folder.

    Notes
    -----
    Adam from the mean curve of the brain, and from any given AIF that does better than what this finds, on
    soft Dice at the slope of training. Free is each subset of AIF, threshold and λ_rel; a larger one starts
    where the best smaller one ended, and keeps the smaller one's setting where its own has a lower Dice. A
    free threshold is set last, to the best for the map. "ranking" frees the AIF alone for a smooth AUC.
    """
    if matrix not in MATRICES:
        raise ValueError(f"matrix must be one of {', '.join(MATRICES)}: {matrix!r} came.")
    scans, left_out = with_core(prepared)
    if not scans:
        raise ValueError(f"A ceiling needs a scan with a core: of {len(prepared)} scans none has one.")
    n_frames = max(seconds(scan) for scan in scans.values())
    oracle, sample = oracle_for(n_frames, matrix), sample_size(scans)
    rows, aifs, choices = [], {}, []
    for case, scan in scans.items():
        target = make_target(scan, n_frames, seed=seed, voxels=sample)
        known = _truth(truth, case) if truth else None
        given = _given(target, inputs or {}, known)
        found = _given_settings(oracle, target, given) + _optimised(oracle, target, given, steps)
        for kind, freedom, setting, rcbf, loss in found:
            rows.append(_row(target, kind, freedom, rcbf, setting, loss))
            aifs.setdefault(freedom, {})[case] = setting.aif[: int(target.valid.sum())]
        rows += _true_rows(target, scan, known) if known else []
        choices.append(_choices(oracle, target, given[CONTROL]))
        if tell:
            tell(case)
    table = pd.DataFrame(rows + _cohort_rows(choices))
    table.insert(2, "matrix", matrix)
    return Ceiling(table, aifs, left_out)


def best_threshold(core, rcbf) -> tuple[float, float]:
    """Find the threshold below which rCBF fits a core best.

    Parameters
    ----------
    core : (V,) bool
    rcbf : (V,)

    Returns
    -------
    (threshold, Dice there); the threshold lies half way between two values of rCBF.
    """
    order = np.argsort(rcbf, kind="stable")
    values, hits = np.asarray(rcbf)[order], np.cumsum(np.asarray(core)[order])
    scores = 2 * hits / (np.arange(1, len(values) + 1) + np.count_nonzero(core))
    above = np.append(values[1:], np.inf)
    scores[above == values] = -1  # equal voxels are taken together
    k = int(np.argmax(scores))
    cut = values[k] + (min(above[k], values[k] + 1) - values[k]) / 2
    return float(cut), float(scores[k])


def with_core(prepared: dict) -> tuple[dict, dict]:
    """Part scans to optimise on from those that cannot be; the latter with the reason."""
    scans, left_out = {}, {}
    for case, scan in prepared.items():
        inside = 0 if scan.core is None else np.count_nonzero(scan.core & scan.brain)
        if scan.core is None:
            left_out[case] = "no core mask"
        elif not inside or inside == np.count_nonzero(scan.brain):
            left_out[case] = "the core is none or all of the brain"
        else:
            scans[case] = scan
    return scans, left_out


def sample_size(scans: dict) -> int:
    """Count the voxels to draw: one number for all scans, so that one graph serves them."""
    return min(VOXELS, max(np.count_nonzero(scan.brain) for scan in scans.values()))


def _truth(folder, case):
    """What a phantom cohort knows of a scan: its AIF, and maps of flow and core."""
    folder = Path(folder)
    folder = folder / "truth" if (folder / "truth").is_dir() else folder
    path = folder / case / "truth.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"The truth of a scan lies in truth/<case>/truth.json of a phantom cohort: {path} is missing. "
            "Leave truth out for real scans."
        )
    maps = {name: nifti.read(path.parent / f"{name}.nii.gz")[0] for name in ("cbf", "delay", "core")}
    return maps | {"aif": json.loads(path.read_text(encoding="utf-8"))["aif"]}


def _given(target, inputs, known):
    """The AIFs a scan comes with, on the target's frames: {name: (T,)}, the control first."""
    curves = {CONTROL: target.mean_curve}
    curves |= {arm: by_case[target.id] for arm, by_case in inputs.items() if target.id in by_case}
    curves |= {"truth": known["aif"]} if known else {}
    return {name: target.on_clock(curve) for name, curve in curves.items()}


def _given_settings(oracle, target, given):
    settings = {name: Setting(curve) for name, curve in given.items()}
    return [
        ("given", name, s, oracle.rcbf(target, s), oracle.descend(target, s)[1])
        for name, s in settings.items()
    ]


def _optimised(oracle, target, given, steps):
    """Free every subset of the three, and the AIF for ranking: [(kind, freedom, Setting, rCBF, loss)]."""
    control = Setting(given[CONTROL])
    settled = {(): (control, oracle.descend(target, control)[1])}
    scored = {(): (control, oracle.rcbf(target, control))}
    for n in range(1, len(FREE) + 1):
        for free in combinations(FREE, n):
            smaller = list(combinations(free, n - 1))
            starts = [min((settled[s] for s in smaller), key=lambda pair: pair[1])[0]]
            starts += [Setting(curve) for curve in given.values()] if free == ("aif",) else []
            settled[free] = best, _ = _best_of(oracle, target, starts, free, steps)
            candidates = [(best, oracle.rcbf(target, best)), *(scored[s] for s in smaller)]
            if "threshold" in free:
                candidates = [_at_best_threshold(target, *pair) for pair in candidates]
            scored[free] = max(candidates, key=lambda pair: dice(target.core, pair[1] < pair[0].threshold))
    rows = [("oracle", "+".join(free), *scored[free], settled[free][1]) for free in settled if free]
    ranked, loss = oracle.descend(target, control, ("aif",), ranking=True, steps=steps)
    return [*rows, ("oracle", "ranking", ranked, oracle.rcbf(target, ranked), loss)]


def _best_of(oracle, target, starts, free, steps):
    """Descend from the first start, and from every other that is already below what was found."""
    best = oracle.descend(target, starts[0], free, steps=steps)
    for start in starts[1:]:
        if oracle.descend(target, start)[1] < best[1]:
            best = min(best, oracle.descend(target, start, free, steps=steps), key=lambda pair: pair[1])
    return best


def _at_best_threshold(target, setting, rcbf):
    return replace(setting, threshold=best_threshold(target.core, rcbf)[0]), rcbf


def _row(target, kind, freedom, rcbf, setting, loss=np.nan):
    return {
        "case": target.id,
        "patient": target.patient,
        "kind": kind,
        "freedom": freedom,
        "dice": dice(target.core, rcbf < setting.threshold),
        "roc_auc": roc_auc(target.core, -rcbf),
        "best_dice": best_threshold(target.core, rcbf)[1],
        "loss": loss,
        "threshold": setting.threshold,
        "lambda_rel": setting.lambda_rel,
    }


def _true_rows(target, scan, known):
    """True flow, true flow and delay, each cut where it is best, and the exact core, against the label."""
    flow = known["cbf"][scan.brain].astype(float)
    rcbf = flow / flow[target.reference].mean()
    setting = Setting(target.mean_curve, best_threshold(target.core, rcbf)[0], np.nan)
    delay, exact = known["delay"][scan.brain], known["core"][scan.brain] > 0
    late = [np.where(delay > cut, rcbf, rcbf.max() + 1) for cut in DELAYS]
    both = max(best_threshold(target.core, flow_of_late)[1] for flow_of_late in late)
    overlap = dice(target.core, exact)
    row = {"case": target.id, "patient": target.patient, "kind": "truth"}
    return [
        _row(target, "truth", "rcbf", rcbf, setting),
        row | {"freedom": "rcbf+delay", "dice": both, "best_dice": both},
        row | {"freedom": "core", "dice": overlap, "best_dice": overlap},
    ]


def _choices(oracle, target, curve):
    """Dice of one AIF at every λ and threshold a cohort may choose: (L, C), with AUC and best Dice (L,)."""
    maps = [oracle.rcbf(target, Setting(curve, lambda_rel=value)) for value in LAMBDAS]
    return {
        "case": target.id,
        "patient": target.patient,
        "dice": np.stack([dice_curve(rcbf, target.core) for rcbf in maps]),
        "roc_auc": [roc_auc(target.core, -rcbf) for rcbf in maps],
        "best_dice": [best_threshold(target.core, rcbf)[1] for rcbf in maps],
    }


def _cohort_rows(choices):
    """Score each scan at the threshold, and at threshold and λ, that are best for all other patients."""
    patients = np.array([choice["patient"] for choice in choices])
    every = np.stack([choice["dice"] for choice in choices])
    usual = LAMBDAS.index(paper.LAMBDA_REL)
    rows = []
    for choice in choices:
        others = [every[patients == p].mean(axis=0) for p in np.unique(patients) if p != choice["patient"]]
        if not others:
            continue
        mean = np.mean(others, axis=0)
        at = {"threshold": (usual, int(mean[usual].argmax()))}
        at["threshold+lambda_rel"] = np.unravel_index(mean.argmax(), mean.shape)
        for freedom, (strength, cut) in at.items():
            row = {"case": choice["case"], "patient": choice["patient"], "kind": "cohort", "freedom": freedom}
            row |= {name: choice[name][strength] for name in ("roc_auc", "best_dice")}
            row |= {"threshold": CUTS[cut], "lambda_rel": LAMBDAS[strength]}
            rows.append(row | {"dice": choice["dice"][strength, cut]})
    return rows
