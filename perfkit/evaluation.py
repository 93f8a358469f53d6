"""Scores of the arms: one row for each scan and arm, one for each patient and arm, and curves per patient.

The unit of a study is the patient. The slabs of one patient are joined before anything is measured: overlap,
sensitivity, specificity and ROC AUC count the voxels of all slabs together, volumes are summed, and the
surface distances, which have no meaning from slab to slab, are averaged over the slabs that have one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from perfkit import paper, parallel
from perfkit.arms import rcbf_map, relative_maps
from perfkit.deconvolution import MATRICES
from perfkit.maps import TMAX_THRESHOLD, core_mask
from perfkit.metrics import (
    dice,
    jaccard,
    roc_auc,
    sensitivity,
    specificity,
    surface_metrics_mm,
    volume_ml,
)
from perfkit.preprocessing import Prepared

FALSE_POSITIVE_RATES = np.linspace(0, 1, 101)  # our choice: where ROC curves are read, by 1 %
THRESHOLDS = np.round(np.arange(0.02, 1.201, 0.02), 2)  # our choice: rCBF cut-offs from none to healthy
SUMMED = ["volume_ml", "reference_volume_ml", "volume_error_ml", "hypoperfusion_ml"]
AVERAGED = ["hd95_mm", "assd_mm"]


def score(prepared: Prepared, rcbf, threshold: float = paper.RCBF_THRESHOLD) -> dict:
    """Measure an rCBF map against the core mask, inside the brain.

    Paper: Experiments, metrics.

    Parameters
    ----------
    prepared : with its core
    rcbf : (X, Y, Z)
    threshold : core is rCBF below it

    Returns
    -------
    dict with roc_auc (of −rCBF), dice, jaccard, sensitivity, specificity, hd95_mm, assd_mm, volume_ml,
    reference_volume_ml and volume_error_ml (predicted − reference)

    Notes
    -----
    Voxels of the mask outside the brain are not counted, neither for nor against. The policy for empty
    masks stands in ``perfkit.metrics``.
    """
    core = prepared.core & prepared.brain
    predicted = core_mask(rcbf, prepared.brain, threshold)
    inside = overlap(core[prepared.brain], predicted[prepared.brain], rcbf[prepared.brain])
    volume, reference = (volume_ml(mask, prepared.spacing) for mask in (predicted, core))
    return (
        inside
        | surface_metrics_mm(core, predicted, prepared.spacing)
        | {
            "volume_ml": volume,
            "reference_volume_ml": reference,
            "volume_error_ml": volume - reference,
        }
    )


def overlap(core, predicted, rcbf) -> dict:
    """Measure what needs no geometry: ROC AUC, Dice, Jaccard, sensitivity and specificity.

    Parameters
    ----------
    core, predicted : (voxels,) bool, of the brain
    rcbf : (voxels,)
    """
    return {
        "roc_auc": roc_auc(core, -rcbf),
        "dice": dice(core, predicted),
        "jaccard": jaccard(core, predicted),
        "sensitivity": sensitivity(core, predicted),
        "specificity": specificity(core, predicted),
    }


@dataclass
class Evaluation:
    """Scores of all arms.

    Attributes
    ----------
    scores : DataFrame, one row per scan, arm and matrix: what ``score`` measures and hypoperfusion_ml
    pooled_auc : dict from matrix to dict from arm to the AUC over the voxels of all scans
    failures : dict from (case id, arm) to the reason
    patients : DataFrame, the same per patient, arm and matrix; ``cases`` names the slabs joined, ``n_scans``
        counts them
    roc : DataFrame of patient, arm, matrix, fpr, tpr, at ``FALSE_POSITIVE_RATES``
    thresholds : DataFrame of patient, arm, matrix, threshold, dice, at ``THRESHOLDS``
    """

    scores: object
    pooled_auc: dict
    failures: dict
    patients: object = None
    roc: object = None
    thresholds: object = None


def evaluate(
    prepared: dict[str, Prepared],
    aifs: dict[str, dict],
    *,
    matrices: Iterable[str] = MATRICES,
    lambda_rel: float = paper.LAMBDA_REL,
    threshold: float = paper.RCBF_THRESHOLD,
    tell: Callable | None = None,
) -> Evaluation:
    """Run every arm's AIF through one and the same pipeline and score it.

    Paper: Experiments, same pipeline.

    Parameters
    ----------
    prepared : dict from case id to Prepared; scans without a core are left out
    aifs : dict from arm to dict from case id to (T,)
    matrices : of the deconvolution; one table each
    lambda_rel, threshold : the same for all
    tell : called with the case id after each scan

    Returns
    -------
    Evaluation
    """
    import pandas as pd

    matrices = list(matrices)
    rows, failures = [], {}
    voxels: dict = {}
    known = {case: scan for case, scan in prepared.items() if scan.core is not None}

    def measured(case):
        return list(_of_scan(case, known[case], aifs, matrices, lambda_rel, threshold))

    for case, found in zip(known, parallel.each(measured, known), strict=True):
        for arm, matrix, row, rcbf in found:
            if isinstance(row, str):
                failures[case, arm] = row
                continue
            scan = known[case]
            rows.append({"case": case, "patient": scan.patient, "arm": arm, "matrix": matrix} | row)
            held = (scan.core[scan.brain], rcbf)
            voxels.setdefault((matrix, arm), {}).setdefault(scan.patient, []).append(held)
        if tell:
            tell(case)
    scores = pd.DataFrame(rows)
    return Evaluation(scores, _pooled(voxels), failures, *_by_patient(scores, voxels, threshold))


def _of_scan(case, scan, aifs, matrices, lambda_rel, threshold):
    """Yield arm, matrix, what was measured or why nothing was, and rCBF of the brain's voxels."""
    for arm, curves in aifs.items():
        if case not in curves:
            yield arm, "", f"{case} has no AIF of this arm.", None
            continue
        for matrix in matrices:
            try:
                rcbf, tmax = relative_maps(scan, curves[case], matrix, lambda_rel)
            except ValueError as error:
                yield arm, matrix, str(error), None
                continue
            late = volume_ml(scan.tissue & (tmax > TMAX_THRESHOLD), scan.spacing)
            yield arm, matrix, score(scan, rcbf, threshold) | {"hypoperfusion_ml": late}, rcbf[scan.brain]


def _pooled(voxels):
    pooled: dict = {}
    for (matrix, arm), patients in voxels.items():
        truth, values = _joined(held for slabs in patients.values() for held in slabs)
        pooled.setdefault(matrix, {})[arm] = roc_auc(truth, -values)
    return pooled


def _joined(slabs):
    return tuple(np.concatenate(part) for part in zip(*slabs, strict=True))


def _by_patient(scores, voxels, threshold):
    """Join the slabs of each patient; return the table of patients, of ROC and of threshold curves."""
    import pandas as pd

    def measured(slabs):
        core, rcbf = _joined(slabs)
        return overlap(core, rcbf < threshold, rcbf), roc_curve(core, rcbf), threshold_curve(core, rcbf)

    rows, roc, cut = [], [], []
    by_name = dict(iter(scores.groupby(["matrix", "arm", "patient"], sort=False))) if len(scores) else {}
    held = {(*key, patient): slabs for key, found in voxels.items() for patient, slabs in found.items()}
    curves = parallel.each(measured, held.values())
    for (matrix, arm, patient), (merged, tpr, values) in zip(held, curves, strict=True):
        names = {"patient": patient, "arm": arm, "matrix": matrix}
        scans = by_name[matrix, arm, patient]
        joined = {"cases": " + ".join(scans["case"]), "n_scans": len(scans)} | merged
        rows.append(names | joined | scans[AVERAGED].mean().to_dict() | scans[SUMMED].sum().to_dict())
        roc.append(pd.DataFrame(names | {"fpr": FALSE_POSITIVE_RATES, "tpr": tpr}))
        cut.append(pd.DataFrame(names | {"threshold": THRESHOLDS, "dice": values}))
    return pd.DataFrame(rows), *(pd.concat(part, ignore_index=True) if part else None for part in (roc, cut))


def roc_curve(core, rcbf, rates=FALSE_POSITIVE_RATES):
    """Read the ROC curve of −rCBF at given false positive rates, for averaging over patients.

    Parameters
    ----------
    core : (voxels,) bool
    rcbf : (voxels,)
    rates : (n,), rising, 0…1

    Returns
    -------
    (n,), the highest sensitivity at each rate (Fawcett 2006, vertical averaging); NaN without both classes
    """
    from sklearn.metrics import roc_curve as curve_of

    if core.all() or not core.any():
        return np.full(len(rates), np.nan)
    false, true, _ = curve_of(core, -rcbf)
    last = np.append(np.diff(false) > 0, True)  # of a vertical step its top
    return np.interp(rates, false[last], true[last])


def threshold_curve(core, rcbf, thresholds=THRESHOLDS):
    """Compute the Dice coefficient of {rCBF < threshold} for many thresholds at once.

    Parameters
    ----------
    core : (voxels,) bool
    rcbf : (voxels,)
    thresholds : (n,)

    Returns
    -------
    (n,); 1 where both masks are empty
    """
    inside = np.searchsorted(np.sort(rcbf[core]), thresholds, side="left")
    outside = np.searchsorted(np.sort(rcbf[~core]), thresholds, side="left")
    total = 2 * inside + outside + (np.count_nonzero(core) - inside)
    return np.divide(2.0 * inside, total, out=np.ones(len(thresholds)), where=total > 0)


def join(parts: Iterable[Evaluation]) -> Evaluation:
    """Put evaluations of different matrices or scans side by side.

    Parameters
    ----------
    parts : Evaluations, whole patients in each; of two pooled AUCs for one matrix and arm the later stands

    Returns
    -------
    Evaluation
    """
    import pandas as pd

    parts = list(parts)
    pooled: dict = {}
    failures: dict = {}
    for part in parts:
        failures |= part.failures
        for matrix, values in part.pooled_auc.items():
            pooled[matrix] = pooled.get(matrix, {}) | values
    tables = {}
    for name in ("scores", "patients", "roc", "thresholds"):
        held = [table for table in (getattr(part, name) for part in parts) if table is not None]
        tables[name] = pd.concat(held, ignore_index=True) if held else None
    return Evaluation(pooled_auc=pooled, failures=failures, **tables)


def example_cases(scores, n: int = 3, arm: str = "expert", matrix: str = "circulant") -> list[str]:
    """Pick scans to show without choosing by eye: evenly spread over the ranks of an arm's Dice.

    Parameters
    ----------
    scores : DataFrame of ``evaluate``
    n : scans
    arm, matrix : whose Dice ranks them

    Returns
    -------
    Case ids, best first
    """
    rows = scores[(scores["arm"] == arm) & (scores["matrix"] == matrix)].sort_values(
        "dice", ascending=False, kind="stable"
    )
    ranks = (np.arange(n) + 0.5) / n * len(rows)
    return [rows["case"].iloc[i] for i in dict.fromkeys(ranks.astype(int))] if len(rows) else []


def example_slice(
    prepared: Prepared,
    curves: dict,
    lambda_rel: float = paper.LAMBDA_REL,
    threshold: float = paper.RCBF_THRESHOLD,
) -> dict:
    """Compute what one row of Fig. 2 shows, for every arm that has an AIF for the scan.

    Parameters
    ----------
    prepared : with its core, or None
    curves : dict from arm to dict from case id to (T,)
    lambda_rel, threshold : as for ``evaluate``; the matrix is circulant

    Returns
    -------
    Arguments for ``figures.case_slice``; arms whose AIF cannot be used are left out. The background is the
    mean of the series over time, as far as it was prepared: smoothed, and the baseline outside the brain
    """
    rcbf = {}
    for arm, held in curves.items():
        if prepared.id in held:
            with suppress(ValueError):  # ``evaluate`` has reported it
                rcbf[arm] = rcbf_map(prepared, held[prepared.id], "circulant", lambda_rel)
    captions = {}
    if prepared.core is not None:
        core = prepared.core & prepared.brain
        captions = {
            arm: f"Dice {dice(core, core_mask(values, prepared.brain, threshold)):.2f}"
            for arm, values in rcbf.items()
        }
    return {
        "case": prepared.id,
        "background": prepared.baseline + prepared.concentration.mean(axis=-1),
        "core": prepared.core,
        "rcbf": rcbf,
        "predicted": {arm: core_mask(values, prepared.brain, threshold) for arm, values in rcbf.items()},
        "brain": prepared.brain,
        "affine": prepared.affine,
        "captions": captions,
    }
