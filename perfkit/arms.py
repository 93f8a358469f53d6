"""The arms of the study: one pipeline, several AIFs, one row of numbers for each scan and arm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from perfkit import annotations, paper
from perfkit.aif import METHODS, brain_mean_aif, expert_aif, select_aif
from perfkit.deconvolution import MATRICES
from perfkit.maps import core_mask, perfusion_maps, relative_cbf
from perfkit.metrics import dice, hausdorff95_mm, jaccard, roc_auc, volume_ml
from perfkit.preprocessing import Prepared

ARMS = ("expert", "automatic", "cnn", "brain_mean")


def arm_aifs(
    prepared: dict[str, Prepared],
    picks: dict[str, annotations.Pick],
    cohort=None,
    *,
    method: str = "straka",
) -> tuple[dict, dict]:
    """Find the AIFs of the arms that need no training.

    Parameters
    ----------
    prepared : dict from case id to Prepared
    picks : recorded voxels of one rater, by case id; scans without a pick have no expert AIF
    cohort : datasets.Cohort, to read voxels that were picked outside the brain mask
    method : of the automatic arm, one of ``aif.METHODS``

    Returns
    -------
    aifs : dict from arm to dict from case id to (T,), HU above baseline
    failures : dict from (case id, arm) to the reason

    Raises
    ------
    ValueError : no such method.
    """
    if method not in METHODS:
        raise ValueError(f"The automatic AIF is found by one of {', '.join(METHODS)}: {method!r} came.")
    finders = {
        "expert": lambda p: _expert(p, picks, cohort),
        "automatic": lambda p: select_aif(p, method),
        "brain_mean": brain_mean_aif,
    }
    aifs: dict = {arm: {} for arm in finders}
    failures = {}
    for case, scan in prepared.items():
        for arm, find in finders.items():
            try:
                aifs[arm][case] = find(scan).curve
            except (ValueError, KeyError) as error:
                failures[case, arm] = str(error)
    return aifs, failures


def _expert(prepared, picks, cohort):
    try:
        return expert_aif(prepared, picks)
    except ValueError:
        if cohort is None or prepared.id not in picks:
            raise
        return expert_aif(prepared, picks, cohort[prepared.id])  # outside the brain only the scan has curves


def rcbf_map(prepared: Prepared, aif, matrix: str = "circulant", lambda_rel: float = paper.LAMBDA_REL):
    """Compute rCBF inside the brain from an AIF: deconvolution and normalisation as for every arm.

    Parameters
    ----------
    prepared : Prepared
    aif : (T,), any unit
    matrix, lambda_rel : of the deconvolution

    Returns
    -------
    rcbf : (X, Y, Z), 0 outside the brain
    """
    options = {"matrix": matrix, "lambda_rel": lambda_rel, "mask": prepared.brain, "only": ("cbf",)}
    maps = perfusion_maps(prepared.concentration, aif, prepared.dt, **options)
    return relative_cbf(maps.cbf, prepared.reference_tissue)


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
    dict with roc_auc (of −rCBF), dice, jaccard, hd95_mm, volume_ml, reference_volume_ml

    Notes
    -----
    Voxels of the mask outside the brain are not counted, neither for nor against. The policy for empty
    masks stands in ``perfkit.metrics``.
    """
    core = prepared.core & prepared.brain
    predicted = core_mask(rcbf, prepared.brain, threshold)
    return {
        "roc_auc": roc_auc(core[prepared.brain], -rcbf[prepared.brain]),
        "dice": dice(core, predicted),
        "jaccard": jaccard(core, predicted),
        "hd95_mm": hausdorff95_mm(core, predicted, prepared.spacing),
        "volume_ml": volume_ml(predicted, prepared.spacing),
        "reference_volume_ml": volume_ml(core, prepared.spacing),
    }


@dataclass
class Evaluation:
    """Scores of all arms.

    Attributes
    ----------
    scores : DataFrame, one row per scan, arm and matrix
    pooled_auc : dict from matrix to dict from arm to the AUC over the voxels of all scans
    failures : dict from (case id, arm) to the reason
    """

    scores: object
    pooled_auc: dict
    failures: dict


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

    rows, failures = [], {}
    voxels: dict = {}
    for case, scan in prepared.items():
        if scan.core is None:
            continue
        truth = scan.core[scan.brain]
        for arm, curves in aifs.items():
            if case not in curves:
                failures[case, arm] = f"{case} has no AIF of this arm."
                continue
            for matrix in matrices:
                try:
                    rcbf = rcbf_map(scan, curves[case], matrix, lambda_rel)
                except ValueError as error:
                    failures[case, arm] = str(error)
                    continue
                row = {"case": case, "patient": scan.patient, "arm": arm, "matrix": matrix}
                rows.append(row | score(scan, rcbf, threshold))
                voxels.setdefault((matrix, arm), []).append((truth, rcbf[scan.brain]))
        if tell:
            tell(case)
    pooled: dict = {}
    for (matrix, arm), pairs in voxels.items():
        truth, values = (np.concatenate(part) for part in zip(*pairs, strict=True))
        pooled.setdefault(matrix, {})[arm] = roc_auc(truth, -values)
    return Evaluation(pd.DataFrame(rows), pooled, failures)


def join(parts: Iterable[Evaluation]) -> Evaluation:
    """Put evaluations of different matrices or scans side by side.

    Parameters
    ----------
    parts : Evaluations; of two pooled AUCs for one matrix and arm the later stands

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
    return Evaluation(pd.concat([part.scores for part in parts], ignore_index=True), pooled, failures)


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
    prepared : with its core
    curves : dict from arm to dict from case id to (T,)
    lambda_rel, threshold : as for ``evaluate``; the matrix is circulant

    Returns
    -------
    Arguments for ``figures.case_slice``; arms whose AIF cannot be used are left out
    """
    rcbf = {}
    for arm, held in curves.items():
        if prepared.id in held:
            with suppress(ValueError):  # ``evaluate`` has reported it
                rcbf[arm] = rcbf_map(prepared, held[prepared.id], "circulant", lambda_rel)
    return {
        "case": prepared.id,
        "background": prepared.baseline,
        "core": prepared.core,
        "rcbf": rcbf,
        "predicted": {arm: core_mask(values, prepared.brain, threshold) for arm, values in rcbf.items()},
        "brain": prepared.brain,
        "affine": prepared.affine,
        "captions": {
            arm: f"Dice {score(prepared, values, threshold)['dice']:.2f}" for arm, values in rcbf.items()
        },
    }
