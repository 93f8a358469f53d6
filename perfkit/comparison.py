"""Comparing methods: Table 1, the paper's tests and the paired ones, agreement of volumes.

``scores`` is a tidy table with one row per scan, arm and matrix: ``case, patient, arm, matrix`` and the
metrics. A metric without a value (a Hausdorff distance to an empty mask, an AUC where one class is
missing) is NaN; it is left out and counted, never replaced.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from . import paper

ARMS = ("expert", "automatic", "cnn", "brain_mean")
METRICS = ("roc_auc", "dice", "jaccard", "hd95_mm")
DECIMALS = {"roc_auc": 3, "dice": 3, "jaccard": 3}  # as Table 1 prints them; every other metric: 1
_ROUNDING = 1e-9  # our choice: differences below it are rounding, no metric is known better
_KEYS = ["case", "patient", "arm", "matrix"]
_TEST_COLUMNS = ["arm", "reference", "metric", "test", "unit", "n", "dropped"]
_TEST_COLUMNS += ["difference", "statistic", "p", "note"]


def table1(scores, matrix="circulant", *, metrics=METRICS, pooled_auc=None) -> pd.DataFrame:
    """Summarise the scores of each arm as mean (sd) over scans.

    Paper: Table 1.

    Parameters
    ----------
    scores : DataFrame, one row per scan × arm × matrix.
    matrix : the deconvolution matrix whose rows are summarised.
    metrics : columns of ``scores`` to summarise.
    pooled_auc : {arm: AUC over the voxels of all scans together}; NaN where not given.

    Returns
    -------
    DataFrame, one row per arm: ``arm, n_scans, n_patients, pooled_auc`` and for each metric ``<metric>``
    ("mean (sd)"), ``<metric>_mean``, ``<metric>_sd`` (n − 1) and ``<metric>_undefined`` (values left out).
    """
    rows = _select(scores, matrix, metrics)
    pooled = {} if pooled_auc is None else dict(pooled_auc)
    return pd.DataFrame(
        [_summary(arm, rows[rows["arm"] == arm], metrics, pooled) for arm in ordered_arms(rows["arm"])]
    )


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
        rows.append(row)
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
    rows = _select(scores, matrix, metrics)
    if reference not in set(rows["arm"]):
        raise ValueError(
            f"The reference must be an arm of scores: {reference!r} is not in {ordered_arms(rows['arm'])}."
        )
    found = []
    for arm in ordered_arms(rows["arm"]):
        if arm == reference:
            continue
        for metric in metrics:
            pairs, dropped = _pairs(rows, arm, reference, metric)
            names = {"arm": arm, "reference": reference, "metric": metric, "dropped": dropped}
            found += [names | test for test in _three_tests(pairs, dropped)]
    return pd.DataFrame(found, columns=_TEST_COLUMNS)


@dataclass(frozen=True)
class BlandAltman:
    """Agreement of two measurements of the same things, in their unit."""

    bias: float
    sd: float
    lower: float
    upper: float
    n: int


def bland_altman(x, y) -> BlandAltman:
    """Describe the differences x − y by their bias and limits of agreement.

    Paper: Experiments, Bland-Altman.

    Parameters
    ----------
    x, y : (n,), same unit, n ≥ 2, finite.

    Returns
    -------
    BlandAltman with ``bias`` (mean of x − y), ``sd`` (n − 1), ``lower`` and ``upper`` = bias ∓ 1.96 sd.
    """
    x, y = _measurements(x, y)
    bias, sd = float(np.mean(x - y)), float(np.std(x - y, ddof=1))
    return BlandAltman(bias, sd, bias - 1.96 * sd, bias + 1.96 * sd, x.size)


def icc21(x, y) -> float:
    """Compute the intraclass correlation ICC(2,1): two-way random, absolute agreement, single rater.

    Parameters
    ----------
    x, y : (n,), same unit, n ≥ 2, finite.

    Returns
    -------
    float ≤ 1; NaN where all values are equal, since there is nothing to tell apart.

    Notes
    -----
    Shrout & Fleiss 1979, from the mean squares of the two-way analysis of variance.
    """
    return _icc21(np.stack(_measurements(x, y), axis=-1))


def _icc21(ratings):
    n, k = ratings.shape
    grand = ratings.mean()
    rows, columns = ratings.mean(axis=1, keepdims=True), ratings.mean(axis=0, keepdims=True)
    between_targets = k * np.sum((rows - grand) ** 2) / (n - 1)
    between_raters = n * np.sum((columns - grand) ** 2) / (k - 1)
    residual = np.sum((ratings - rows - columns + grand) ** 2) / ((n - 1) * (k - 1))
    total = between_targets + (k - 1) * residual + k * (between_raters - residual) / n
    return float((between_targets - residual) / total) if np.ptp(ratings) > 0 else float("nan")


def ordered_arms(arms) -> list[str]:
    """Return the different arms in the order of the paper, unknown ones last."""
    present = list(dict.fromkeys(arms))
    return [arm for arm in ARMS if arm in present] + [arm for arm in present if arm not in ARMS]


def format_value(metric, value) -> str:
    """Write a value of a metric with the decimals Table 1 gives it; "–" where undefined."""
    return f"{value:.{DECIMALS.get(metric, 1)}f}" if np.isfinite(value) else "–"


def _summary(arm, rows, metrics, pooled):
    summary = {
        "arm": arm,
        "n_scans": len(rows),
        "n_patients": rows["patient"].nunique(),
        "pooled_auc": np.nan if pooled.get(arm) is None else float(pooled[arm]),
    }
    for metric in metrics:
        values = rows[metric].to_numpy(float)
        defined = values[np.isfinite(values)]
        mean = float(defined.mean()) if defined.size else np.nan
        sd = float(defined.std(ddof=1)) if defined.size > 1 else np.nan
        summary |= _cells(metric, mean, sd, len(values) - defined.size)
    return summary


def _cells(metric, mean, sd, undefined):
    text = format_value(metric, mean) + (f" ({format_value(metric, sd)})" if np.isfinite(sd) else "")
    return {metric: text, f"{metric}_mean": mean, f"{metric}_sd": sd, f"{metric}_undefined": undefined}


def _three_tests(pairs, dropped):
    """Run the tests on ``pairs``, a table of patient, arm, reference."""
    from scipy import stats

    x, y = pairs["arm"].to_numpy(float), pairs["reference"].to_numpy(float)
    means = pairs.groupby("patient")[["arm", "reference"]].mean()
    patient_differences = (means["arm"] - means["reference"]).to_numpy(float)
    plural = "scan" if dropped == 1 else "scans"
    left_out = [f"{dropped} {plural} without a value in both arms left out"] if dropped else []
    shared = f"the {len(x)} scans are of {len(means)} patients and not independent"
    slabs = [shared] if len(means) < len(x) else []

    moved = int(np.sum(np.abs(patient_differences) > _ROUNDING))
    few = ["fewer than 6 patients differ: p cannot fall below .05"] if moved < 6 else []
    paired = _test(x - y, lambda: stats.ttest_rel(x, y), left_out, slabs, needs_spread=True)
    unpaired = _test(x - y, lambda: stats.mannwhitneyu(x, y), left_out, ["ignores the pairing", *slabs])
    # differences of rounding error become exact zeros, which the signed-rank test leaves out
    signed = np.where(np.abs(patient_differences) <= _ROUNDING, 0.0, patient_differences)
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
    elif np.max(np.abs(differences)) <= _ROUNDING:
        reason = "all differences are zero: no test"
    elif needs_spread and np.ptp(differences) <= _ROUNDING * np.max(np.abs(differences)):
        reason = "all differences are equal: no test"
    statistic, p = (np.nan, np.nan) if reason else run()
    return {
        "n": n,
        "difference": float(np.mean(differences)) if n else np.nan,
        "statistic": float(statistic),
        "p": float(p),
        "note": "; ".join([reason, *left_out] if reason else [*left_out, *remarks]),
    }


def _pairs(rows, arm, reference, metric):
    """Return the scans with a value in both arms, and the number of scans without."""
    wide = rows[rows["arm"].isin([arm, reference])].pivot(
        index=["case", "patient"], columns="arm", values=metric
    )
    wide = wide.rename(columns={arm: "arm", reference: "reference"}).reset_index()
    defined = np.isfinite(wide[["arm", "reference"]].to_numpy(float)).all(axis=1)
    return wide[defined], int((~defined).sum())


def _select(scores, matrix, metrics):
    missing = [column for column in [*_KEYS, *metrics] if column not in scores.columns]
    if missing:
        raise ValueError(
            f"scores must have one row per scan × arm × matrix with the columns {[*_KEYS, *metrics]}: "
            f"{missing} are missing. Try the table that the evaluation of the arms writes (scores.csv)."
        )
    rows = scores[scores["matrix"] == matrix]
    if rows.empty:
        raise ValueError(
            f"scores must hold rows of the matrix asked for: {matrix!r} was asked for, "
            f"scores hold {sorted(set(scores['matrix']))}."
        )
    twice = rows.duplicated(["case", "arm"])
    if twice.any():
        case, arm = rows.loc[twice, ["case", "arm"]].iloc[0]
        raise ValueError(
            f"scores must hold one row per scan × arm × matrix: case {case!r}, arm {arm!r}, matrix "
            f"{matrix!r} comes more than once. Try scores.drop_duplicates() or keep one run."
        )
    return rows


def _measurements(x, y):
    try:
        x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"x and y must be numbers: {error}.") from None
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"x and y must be paired lists of one length: shapes {x.shape} and {y.shape} came.")
    if x.size < 2:
        raise ValueError(f"Agreement needs at least 2 pairs: {x.size} came.")
    bad = int(np.sum(~(np.isfinite(x) & np.isfinite(y))))
    if bad:
        raise ValueError(f"x and y must be finite: {bad} of {x.size} pairs hold NaN or Inf. Drop them first.")
    return x, y
