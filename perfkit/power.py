"""Power of paired comparisons: what this cohort could have shown, and how many patients it would take."""

from __future__ import annotations

import numpy as np

from . import paper
from .resampling import LEVEL
from .scoretables import METRICS, check_reference, comparators, paired_rows, rows_of_matrix

ALPHA = 1 - LEVEL
BEYOND = 40.0  # standard deviations; a normal value lies beyond with a chance that double precision has as 0
# What the paper reports for its CNN against the expert: the difference one would want to see again.
DIFFERENCES = {
    metric: round(abs(paper.TABLE1["cnn"][metric][0] - paper.TABLE1["expert"][metric][0]), 4)
    for metric in METRICS
}
DIFFERENCES["volume_ml"] = 5.0  # our choice: the margin of equivalence of `pairedtests`
COLUMNS = ("arm", "reference", "metric", "unit", "n", "dropped", "sd", "sd_low", "sd_high", "difference")
COLUMNS += ("power", "n_80", "n_90", "detectable_80", "note")


def paired_power(difference, sd, n, *, alpha=ALPHA) -> float:
    """Compute the power of the two-sided paired t-test.

    Parameters
    ----------
    difference : true mean difference.
    sd : of the paired differences, same unit.
    n : pairs.
    alpha : size of the test.

    Returns
    -------
    float in [0, 1]; NaN where sd is zero or n < 2.

    Notes
    -----
    P(T > t) + P(T < −t) of the noncentral t with n − 1 degrees of freedom and noncentrality difference / sd ·
    √n (Cohen 1988), the lower tail as the upper one of −T: SciPy, and with it statsmodels, has no value for a
    far lower tail.
    """
    if not (n >= 2 and sd > 0 and np.isfinite(difference)):
        return float("nan")
    from scipy import stats

    critical, shift = stats.t.isf(alpha / 2, n - 1), abs(difference) / sd * np.sqrt(n)
    if shift > BEYOND * (1 + critical):
        return 1.0
    return float(min(1.0, stats.nct.sf(critical, n - 1, [shift, -shift]).sum()))


def pairs_needed(difference, sd, power=0.8, *, alpha=ALPHA) -> float:
    """Compute the number of pairs at which the two-sided paired t-test has a power.

    Parameters
    ----------
    difference, sd, alpha : as for `paired_power`.
    power : wanted.

    Returns
    -------
    float, a whole number, at least 2 (the first n that has the power); inf where the difference is zero or
    10⁹ pairs do not find it, NaN where sd is zero.
    """
    if not (sd > 0 and np.isfinite(difference)):
        return float("nan")
    if difference == 0:
        return float("inf")
    low, high = 1, 2
    while paired_power(difference, sd, high, alpha=alpha) < power:
        low, high = high, 2 * high
        if high > 1e9:
            return float("inf")
    while high - low > 1:  # power rises with n, so halving finds the first n that has it
        middle = (low + high) // 2
        enough = middle >= 2 and paired_power(difference, sd, middle, alpha=alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return float(high)


def power_table(patients, reference="expert", *, matrix="circulant", differences=DIFFERENCES, alpha=ALPHA):
    """Say for each arm and metric what the cohort could show, from the SD of the paired differences.

    Parameters
    ----------
    patients : DataFrame, one row per patient × arm × matrix.
    reference : the arm all others are compared with.
    matrix : the deconvolution matrix whose rows are taken.
    differences : {metric: difference worth finding}; a metric that is no column is left out.
    alpha : size of the test.

    Returns
    -------
    DataFrame, columns ``COLUMNS``: ``n`` patients; ``sd`` of arm − reference with its 95 % interval (χ²,
    normal differences); ``power`` to find ``difference``; patients needed for 80 and 90 %; the difference
    that n patients find with 80 %. A power computed from the difference that was observed says no more than
    its p (Hoenig & Heisey 2001), so ``differences`` come from outside.
    """
    import pandas as pd

    present = [metric for metric in differences if metric in patients.columns]
    rows = rows_of_matrix(patients, matrix, present or list(differences), unit="patient")
    check_reference(rows, reference)
    found = []
    for arm in comparators(rows, reference):
        for metric in present:
            pairs, dropped = paired_rows(rows, arm, reference, [metric], unit="patient")
            d = (pairs[f"{metric}_arm"] - pairs[f"{metric}_reference"]).to_numpy(float)
            row = {"arm": arm, "reference": reference, "metric": metric, "unit": "patient"}
            row |= {"n": len(d), "dropped": dropped, "difference": differences[metric]}
            found.append(row | _power_of(d, differences[metric], alpha))
    return pd.DataFrame(found, columns=list(COLUMNS))


def _power_of(d, difference, alpha):
    from scipy import optimize, stats

    n, sd = len(d), float(np.std(d, ddof=1)) if len(d) > 1 else np.nan
    if not sd > 1e-9:
        return {"note": f"n = {n}: no SD" if n < 2 else "all differences are equal: no SD"}
    low, high = sd * np.sqrt((n - 1) / stats.chi2.ppf([(1 + LEVEL) / 2, (1 - LEVEL) / 2], n - 1))
    found = {"sd": sd, "sd_low": float(low), "sd_high": float(high), "note": ""}
    found["power"] = paired_power(difference, sd, n, alpha=alpha)
    found["n_80"], found["n_90"] = (pairs_needed(difference, sd, p, alpha=alpha) for p in (0.8, 0.9))
    if n >= 4:
        found["detectable_80"] = sd * float(
            optimize.brentq(lambda d: paired_power(d, 1, n, alpha=alpha) - 0.8, 0, 1e3)
        )
    else:
        found["note"] = f"{n} patients: the SD is hardly known"
    return found
