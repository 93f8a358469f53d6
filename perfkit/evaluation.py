"""Scores of the arms: one row for each scan and arm, one for each patient and arm, and curves per patient.

The unit of a study is the patient. The slabs of one patient are joined before anything is measured: overlap,
sensitivity, specificity and ROC AUC count the voxels of all slabs together, volumes are summed, and the
surface distances, which have no meaning from slab to slab, are averaged. Where a slab has none, because an
arm predicts nothing there, the patient has none: the mean of fewer slabs compares with no other arm's.
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
from perfkit.metrics import Surface, dice, jaccard, sensitivity, specificity, volume_ml
from perfkit.preprocessing import Prepared
from perfkit.ranking import Ranking

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
    rcbf = np.asarray(rcbf)
    if rcbf.shape != prepared.brain.shape:
        raise ValueError(
            f"rCBF must have the shape of the scan, {prepared.brain.shape}: {rcbf.shape} came. "
            "Take arms.rcbf_map of the same scan."
        )
    return _scored(prepared, rcbf[prepared.brain], threshold, _core_surface(prepared))[0]


def _core_surface(prepared):
    return Surface(prepared.core & prepared.brain, prepared.spacing)


def _scored(prepared, rcbf, threshold, surface):
    """What ``score`` returns, and the Slab, of rCBF (V,) in the brain and the surface of the core there."""
    slab = Slab.of(prepared.core[prepared.brain], rcbf, threshold)
    predicted = np.zeros_like(prepared.brain)
    predicted[prepared.brain] = slab.predicted
    volume, reference = (volume_ml(mask, prepared.spacing) for mask in (slab.predicted, slab.core))
    row = (
        overlap(slab)
        | surface.metrics_mm(Surface(predicted, prepared.spacing))
        | {
            "volume_ml": volume,
            "reference_volume_ml": reference,
            "volume_error_ml": volume - reference,
        }
    )
    return row, slab


@dataclass(frozen=True, eq=False)
class Slab:
    """Voxels of the brain, of one slab or of several joined.

    Attributes
    ----------
    core, predicted : (voxels,) bool
    ranking : Ranking of −rCBF
    """

    core: np.ndarray
    predicted: np.ndarray
    ranking: Ranking

    @classmethod
    def of(cls, core, rcbf, threshold: float = paper.RCBF_THRESHOLD) -> Slab:
        """Threshold and rank rCBF (voxels,)."""
        return cls(core, rcbf < threshold, Ranking.of(core, -rcbf))

    @classmethod
    def joined(cls, slabs: Iterable[Slab]) -> Slab:
        """Count the voxels of several slabs as those of one."""
        slabs = list(slabs)
        core, predicted = (
            np.concatenate([getattr(s, name) for s in slabs]) for name in ("core", "predicted")
        )
        return cls(core, predicted, Ranking.joined(s.ranking for s in slabs))


def overlap(slab: Slab) -> dict:
    """Measure what needs no geometry: ROC AUC, Dice, Jaccard, sensitivity and specificity."""
    core, predicted = slab.core, slab.predicted
    return {
        "roc_auc": slab.ranking.auc(),
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
    slabs: dict = {}
    known = {case: scan for case, scan in prepared.items() if scan.core is not None}

    def measured(case):
        return list(_of_scan(case, known[case], aifs, matrices, lambda_rel, threshold))

    for case, found in zip(known, parallel.each(measured, known), strict=True):
        for arm, matrix, row, slab in found:
            if isinstance(row, str):
                failures[case, arm] = row
                continue
            patient = known[case].patient
            rows.append({"case": case, "patient": patient, "arm": arm, "matrix": matrix} | row)
            slabs.setdefault((matrix, arm), {}).setdefault(patient, []).append(slab)
        if tell:
            tell(case)
    scores = pd.DataFrame(rows)
    return Evaluation(scores, _pooled(slabs), failures, *_by_patient(scores, slabs))


def _of_scan(case, scan, aifs, matrices, lambda_rel, threshold):
    """Yield arm, matrix, what was measured or why nothing was, and the Slab."""
    surface, brain = _core_surface(scan), scan.brain
    voxels, reference, tissue = scan.concentration[brain], scan.reference_tissue[brain], scan.tissue[brain]
    for arm, curves in aifs.items():
        if case not in curves:
            yield arm, "", f"{case} has no AIF of this arm.", None
            continue
        for matrix in matrices:
            try:
                rcbf, tmax = relative_maps(voxels, reference, curves[case], scan.dt, matrix, lambda_rel)
            except ValueError as error:
                yield arm, matrix, str(error), None
                continue
            late = volume_ml(tissue & (tmax > TMAX_THRESHOLD), scan.spacing)
            row, slab = _scored(scan, rcbf, threshold, surface)
            yield arm, matrix, row | {"hypoperfusion_ml": late}, slab


def _pooled(slabs):
    def auc(patients):
        return Ranking.joined(slab.ranking for held in patients.values() for slab in held).auc()

    pooled: dict = {}
    for (matrix, arm), value in zip(slabs, parallel.each(auc, slabs.values()), strict=True):
        pooled.setdefault(matrix, {})[arm] = value
    return pooled


def _by_patient(scores, slabs):
    """Join the slabs of each patient; return the table of patients, of ROC and of threshold curves."""
    import pandas as pd

    def measured(held):
        slab = Slab.joined(held)
        ranking = slab.ranking  # of −rCBF, so that core is above a cut-off
        return overlap(slab), ranking.roc(FALSE_POSITIVE_RATES), ranking.dice(-THRESHOLDS)

    rows, roc, cut = [], [], []
    by_name = dict(iter(scores.groupby(["matrix", "arm", "patient"], sort=False))) if len(scores) else {}
    held = {(*key, patient): of_one for key, found in slabs.items() for patient, of_one in found.items()}
    curves = parallel.each(measured, held.values())
    for (matrix, arm, patient), (merged, tpr, values) in zip(held, curves, strict=True):
        names = {"patient": patient, "arm": arm, "matrix": matrix}
        scans = by_name[matrix, arm, patient]
        joined = {"cases": " + ".join(scans["case"]), "n_scans": len(scans)} | merged
        averaged, summed = scans[AVERAGED].mean(skipna=False), scans[SUMMED].sum()
        rows.append(names | joined | averaged.to_dict() | summed.to_dict())
        roc.append(pd.DataFrame(names | {"fpr": FALSE_POSITIVE_RATES, "tpr": tpr}))
        cut.append(pd.DataFrame(names | {"threshold": THRESHOLDS, "dice": values}))
    return pd.DataFrame(rows), *(pd.concat(part, ignore_index=True) if part else None for part in (roc, cut))


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
