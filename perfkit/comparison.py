"""Comparing methods: Table 1, the paper's tests, and the front of the statistics beneath it.

``scores`` is a tidy table with one row per scan, arm and matrix: ``case, patient, arm, matrix`` and the
metrics. A metric without a value (a Hausdorff distance to an empty mask, an AUC where one class is
missing) is NaN; it is left out and counted, never replaced.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from . import paper
from .agreement import cohen_kappa, icc21, icc21_interval, lins_ccc
from .blandaltman import BlandAltman, bland_altman
from .eligibility import eligibility_table
from .mixedmodel import MixedModel, mixed_model
from .pairedtests import patient_tests
from .power import power_table
from .resampling import bootstrap_intervals, weighted_mean
from .scoretables import (
    ARMS,
    METRICS,
    ROUNDING,
    check_reference,
    comparators,
    count,
    format_value,
    ordered_arms,
    paired_rows,
    rows_of_matrix,
)

__all__ = [
    "ARMS",
    "METRICS",
    "BlandAltman",
    "MixedModel",
    "bland_altman",
    "cohen_kappa",
    "eligibility_table",
    "format_value",
    "icc21",
    "icc21_interval",
    "lins_ccc",
    "mixed_model",
    "ordered_arms",
    "paired_tests",
    "paper_table1",
    "patient_tests",
    "power_table",
    "table1",
]

_TEST_COLUMNS = ["arm", "reference", "metric", "test", "unit", "n", "dropped"]
_TEST_COLUMNS += ["difference", "statistic", "p", "note"]


def table1(scores, matrix="circulant", *, metrics=METRICS, pooled_auc=None, seed=0) -> pd.DataFrame:
    """Summarise the scores of each arm as mean (sd) over scans, with an interval that counts patients.

    Paper: Table 1.

    Parameters
    ----------
    scores : DataFrame, one row per scan × arm × matrix.
    matrix : the deconvolution matrix whose rows are summarised.
    metrics : columns of ``scores`` to summarise.
    pooled_auc : {arm: AUC over the voxels of all scans together}; NaN where not given.
    seed : of the intervals.

    Returns
    -------
    DataFrame, one row per arm: ``arm, n_scans, n_patients, pooled_auc`` and for each metric ``<metric>``
    ("mean (sd)"), ``<metric>_mean``, ``<metric>_sd`` (n − 1), ``<metric>_low`` and ``<metric>_high`` (95 %
    interval of the mean: BCa bootstrap over patients, see `resampling`) and ``<metric>_undefined`` (values
    left out); then ``note``, what is to be said of the intervals.
    """
    rows = rows_of_matrix(scores, matrix, metrics)
    pooled = {} if pooled_auc is None else dict(pooled_auc)
    arms = [(arm, rows[rows["arm"] == arm]) for arm in ordered_arms(rows["arm"])]
    return pd.DataFrame([_summary(arm, of_arm, metrics, pooled, seed) for arm, of_arm in arms])


def paper_table1() -> pd.DataFrame:
    """Return the paper's Table 1 with the columns of `table1`.

    The paper prints one AUC per arm without a standard deviation and does not say whether it is the mean
    over scans or pooled over voxels: it stands in both columns. Its patients are 63 (inferred) of 94 scans.
    """
    rows = []
    for arm, values in paper.TABLE1.items():
        row = {"arm": arm, "n_scans": paper.N_SCANS, "n_patients": 63, "pooled_auc": values["roc_auc"][0]}
        for metric in METRICS:
            mean, sd = values[metric]
            row |= _cells(metric, mean, np.nan if sd is None else sd, 0)
        rows.append(row | {"note": "printed without intervals"})
    return pd.DataFrame(rows)


def paired_tests(
    scores, reference="expert", *, matrix="circulant", metrics=(*METRICS, "volume_ml")
) -> pd.DataFrame:
    """Test each arm against the reference: the paper's two tests, and one that respects the pairing.

    Paper: Experiments, tests.

    Parameters
    ----------
    scores : DataFrame, one row per scan × arm × matrix.
    reference : the arm all others are compared with.
    matrix : the deconvolution matrix whose rows are tested.
    metrics : columns of ``scores`` to test.

    Returns
    -------
    DataFrame, three rows per arm and metric: ``arm, reference, metric, test, unit, n, dropped, difference,
    statistic, p, note``. ``difference`` is the mean of arm − reference over the ``n`` units; ``dropped``
    counts scans without a value in both arms; ``p`` is NaN where no test is possible, and ``note`` says why.

    Notes
    -----
    The paper's tests take the scan as unit. Two slabs of one patient are not independent, and the
    Mann-Whitney test ignores that the volumes are paired; the Wilcoxon signed-rank test on patient means
    does neither.
    """
    rows = rows_of_matrix(scores, matrix, metrics)
    check_reference(rows, reference)
    found = []
    for arm in comparators(rows, reference):
        for metric in metrics:
            pairs, dropped = paired_rows(rows, arm, reference, [metric])
            pairs = pairs.rename(columns={f"{metric}_arm": "arm", f"{metric}_reference": "reference"})
            names = {"arm": arm, "reference": reference, "metric": metric, "dropped": dropped}
            found += [names | test for test in _three_tests(pairs, dropped)]
    return pd.DataFrame(found, columns=_TEST_COLUMNS)


def _summary(arm, rows, metrics, pooled, seed):
    summary = {
        "arm": arm,
        "n_scans": len(rows),
        "n_patients": rows["patient"].nunique(),
        "pooled_auc": np.nan if pooled.get(arm) is None else float(pooled[arm]),
    }
    intervals = _intervals(rows, metrics, seed)
    for metric in metrics:
        values = rows[metric].to_numpy(float)
        defined = values[np.isfinite(values)]
        mean = float(defined.mean()) if defined.size else np.nan
        sd = float(defined.std(ddof=1)) if defined.size > 1 else np.nan
        low, high = intervals[metric].low, intervals[metric].high
        summary |= _cells(metric, mean, sd, len(values) - defined.size, low, high)
    return summary | {"note": _said(intervals)}


def _intervals(rows, metrics, seed):
    """Return the interval of each metric's mean; metrics defined in the same scans share their resamples."""
    values = {metric: rows[metric].to_numpy(float) for metric in metrics}
    alike = {}
    for metric in metrics:
        alike.setdefault(np.isfinite(values[metric]).tobytes(), []).append(metric)
    found = {}
    for mask, names in alike.items():
        defined = np.frombuffer(mask, dtype=bool)
        means = weighted_mean([values[name][defined] for name in names])
        intervals = bootstrap_intervals(means, rows["patient"].to_numpy()[defined], seed=seed)
        found |= dict(zip(names, intervals, strict=True))
    return found


def _said(intervals):
    """Join the notes of intervals; one that holds for all metrics is said once."""
    notes = {metric: interval.note for metric, interval in intervals.items() if interval.note}
    if len(notes) == len(intervals) and len(set(notes.values())) == 1:
        return next(iter(notes.values()))
    return "; ".join(f"{metric}: {note}" for metric, note in notes.items())


def _cells(metric, mean, sd, undefined, low=np.nan, high=np.nan):
    text = format_value(metric, mean) + (f" ({format_value(metric, sd)})" if np.isfinite(sd) else "")
    numbers = {"mean": mean, "sd": sd, "low": low, "high": high, "undefined": undefined}
    return {metric: text} | {f"{metric}_{name}": number for name, number in numbers.items()}


def _three_tests(pairs, dropped):
    """Run the tests on ``pairs``, a table of patient, arm, reference."""
    from scipy import stats

    x, y = pairs["arm"].to_numpy(float), pairs["reference"].to_numpy(float)
    means = pairs.groupby("patient")[["arm", "reference"]].mean()
    patient_differences = (means["arm"] - means["reference"]).to_numpy(float)
    left_out = [f"{count(dropped, 'scan')} without a value in both arms left out"] if dropped else []
    shared = f"the {len(x)} scans are of {count(len(means), 'patient')} and not independent"
    slabs = [shared] if len(means) < len(x) else []

    moved = int(np.sum(np.abs(patient_differences) > ROUNDING))
    few = ["fewer than 6 patients differ: p cannot fall below .05"] if moved < 6 else []
    paired = _test(x - y, lambda: stats.ttest_rel(x, y), left_out, slabs, needs_spread=True)
    unpaired = _test(x - y, lambda: stats.mannwhitneyu(x, y), left_out, ["ignores the pairing", *slabs])
    # differences of rounding error become exact zeros, which the signed-rank test leaves out
    signed = np.where(np.abs(patient_differences) <= ROUNDING, 0.0, patient_differences)
    signed_rank = _test(signed, lambda: stats.wilcoxon(signed), left_out, few)
    return [
        {"test": "paired t-test", "unit": "scan"} | paired,
        {"test": "Mann-Whitney U", "unit": "scan"} | unpaired,
        {"test": "Wilcoxon signed-rank", "unit": "patient"} | signed_rank,
    ]


def _test(differences, run, left_out, remarks, *, needs_spread=False):
    n = len(differences)
    reason = ""
    if n < 2:
        reason = f"n = {n}: no test"
    elif np.max(np.abs(differences)) <= ROUNDING:
        reason = "all differences are zero: no test"
    elif needs_spread and np.ptp(differences) <= ROUNDING * np.max(np.abs(differences)):
        reason = "all differences are equal: no test"
    statistic, p = (np.nan, np.nan) if reason else run()
    return {
        "n": n,
        "difference": float(np.mean(differences)) if n else np.nan,
        "statistic": float(statistic),
        "p": float(p),
        "note": "; ".join([reason, *left_out] if reason else [*left_out, *remarks]),
    }
