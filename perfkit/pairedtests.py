"""Paired comparisons of arms, the patient as unit: is there a difference, how large, and can it matter?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .resampling import LEVEL, N_RESAMPLES, bootstrap_interval, weighted_mean
from .scoretables import METRICS, ROUNDING, check_reference, comparators, count, paired_rows, rows_of_matrix

# Half-widths of equivalence; our choice: Dice and AUC near the gains the paper reports (.006, .012),
# volume a third of the mismatch of 15 ml that DEFUSE 3 asks for.
MARGINS = {"dice": 0.02, "roc_auc": 0.01, "volume_ml": 5.0, "volume_error_ml": 5.0}
EXACT_RANKS = 500  # patients; our choice: up to here the signed-rank distribution is counted, in .1 s at most
COLUMNS = ("arm", "reference", "metric", "unit", "n", "dropped", "mean_difference", "sd_difference")
COLUMNS += ("mean_low", "mean_high", "hodges_lehmann", "hl_low", "hl_high")
COLUMNS += ("wilcoxon_p", "wilcoxon_p_holm", "permutation_p", "permutation_p_holm", "permutation_exact")
COLUMNS += ("rank_biserial", "margin", "tost_p_lower", "tost_p_upper", "tost_low", "tost_high")
COLUMNS += ("equivalence", "note")


def patient_tests(
    patients,
    reference="expert",
    *,
    matrix="circulant",
    metrics=(*METRICS, "volume_ml"),
    margins=MARGINS,
    level=LEVEL,
    n_resamples=N_RESAMPLES,
    seed=0,
):
    """Compare each arm with the reference, patient by patient.

    Parameters
    ----------
    patients : DataFrame, one row per patient × arm × matrix, the slabs of a patient joined.
    reference : the arm all others are compared with.
    matrix : the deconvolution matrix whose rows are tested.
    metrics : columns of ``patients``; one that is not there is left out.
    margins : {metric: half-width of equivalence, in the metric's unit}.
    level : of the intervals; 1 − level is the size of the tests.
    n_resamples : of the bootstrap and of the sign flips.
    seed : of both.

    Returns
    -------
    DataFrame, one row per arm and metric, columns ``COLUMNS``; differences are arm − reference:
    ``n`` patients (``dropped``: without a value in both arms for the same slabs); mean difference with its
    BCa bootstrap interval; Hodges-Lehmann difference with its exact interval (neither below 6 patients, where
    no test could reject at .05); p of Wilcoxon's signed-rank test and of the
    sign-flip permutation of the mean (``permutation_exact``: all 2ⁿ flips), each also adjusted by Holm over
    all rows; the matched-pairs rank-biserial correlation (−1…1); two one-sided tests of equivalence with
    their interval at 1 − 2(1 − level) and ``equivalence``: "equivalent", "not equivalent" (the interval
    lies outside the margins), "not shown" or "" (not tested). ``note`` says what could not be done.

    Raises
    ------
    ValueError : no such reference or matrix, no metric at all, or a patient with several rows of an arm.

    Notes
    -----
    Wilcoxon 1945 (zero differences left out); Hodges & Lehmann 1963, interval from the ordered Walsh
    averages (Hollander, Wolfe & Chicken 2014, § 3.3); Holm 1979; rank-biserial: Kerby 2014; equivalence:
    Schuirmann 1987. No p says anything of scans: their differences are not independent.
    """
    import pandas as pd

    present = [metric for metric in metrics if metric in patients.columns]
    rows = rows_of_matrix(patients, matrix, present or metrics, unit="patient")
    check_reference(rows, reference)
    found = []
    for arm in comparators(rows, reference):
        for metric in present:
            pairs, dropped = paired_rows(rows, arm, reference, [metric], unit="patient")
            difference = (pairs[f"{metric}_arm"] - pairs[f"{metric}_reference"]).to_numpy(float)
            row = {"arm": arm, "reference": reference, "metric": metric, "unit": "patient"}
            options = {"level": level, "n_resamples": n_resamples, "seed": seed}
            found.append(row | compare_differences(difference, dropped, margins.get(metric), **options))
    table = pd.DataFrame(found, columns=list(COLUMNS))
    for name in ("wilcoxon_p", "permutation_p"):
        table[f"{name}_holm"] = holm(table[name])
    return table


def compare_differences(
    difference, dropped=0, margin=None, *, level=LEVEL, n_resamples=N_RESAMPLES, seed=0
) -> dict:
    """Test whether paired differences are centred at zero, estimate them, and test equivalence.

    Parameters
    ----------
    difference : (n,), one finite difference per patient.
    dropped : patients left out, for the note.
    margin : half-width of equivalence; None for no such test.
    level, n_resamples, seed : as for `patient_tests`.

    Returns
    -------
    dict with the columns of `patient_tests` from ``n`` on, without those of Holm.
    """
    difference = np.where(np.abs(difference) <= ROUNDING, 0.0, difference)
    n = len(difference)
    why = "without a value in both arms for the same slabs left out"
    notes = [f"{count(dropped, 'patient')} {why}"] if dropped else []
    found = {"n": n, "dropped": dropped, "margin": margin, "equivalence": ""}
    if not n:
        return found | {"note": "; ".join(["no patient: no test", *notes])}
    found["mean_difference"] = float(difference.mean())
    found["hodges_lehmann"], found["hl_low"], found["hl_high"] = hodges_lehmann(difference, level)
    if n < 2:
        return found | {"note": "; ".join(["one patient: no test", *notes])}
    found["sd_difference"] = float(difference.std(ddof=1))
    interval = bootstrap_interval(
        weighted_mean(difference), np.arange(n), level=level, n_resamples=n_resamples, seed=seed
    )
    if np.isnan(found["hl_low"]):  # so few that no signed-rank test could reject anything at this level
        notes.append(f"{n} patients: too few for a {100 * level:g} % interval")
    else:
        found |= {"mean_low": interval.low, "mean_high": interval.high}
        notes += [interval.note] if interval.note else []
    found |= _tests(difference, level, n_resamples, seed, notes)
    if margin is not None:
        found |= _equivalence(difference, margin, level, notes)
    return found | {"note": "; ".join(notes)}


def hodges_lehmann(difference, level=LEVEL) -> tuple[float, float, float]:
    """Return the median of the Walsh averages (dᵢ + dⱼ)/2, i ≤ j, and its interval.

    Parameters
    ----------
    difference : (n,), n ≥ 1.
    level : of confidence; the interval has at least this level, and holds the values that the signed-rank
        test does not reject.

    Returns
    -------
    (estimate, low, high); the limits are NaN where n is too small for the level (below 6 for 95 %).
    """
    n = len(difference)
    walsh = np.sort((difference[:, None] + difference)[np.triu_indices(n)] / 2)
    rank = _signed_rank_quantile(n, (1 - level) / 2)
    limits = (float(walsh[rank - 1]), float(walsh[-rank])) if rank >= 1 else (np.nan, np.nan)
    return float(np.median(walsh)), *limits


def rank_biserial(difference) -> float:
    """Return the matched-pairs rank-biserial correlation (W⁺ − W⁻)/(W⁺ + W⁻); NaN where all are zero."""
    from scipy import stats

    moved = np.asarray(difference)[np.abs(difference) > ROUNDING]
    ranks = stats.rankdata(np.abs(moved))
    return float(np.sum(np.sign(moved) * ranks) / ranks.sum()) if moved.size else float("nan")


def holm(p):
    """Adjust p-values for their number by Holm 1979; NaN stays NaN and is not counted."""
    p = np.asarray(p, dtype=float)
    adjusted, defined = np.full(p.shape, np.nan), np.isfinite(p)
    if defined.any():
        from statsmodels.stats.multitest import multipletests

        adjusted[defined] = multipletests(p[defined], method="holm")[1]
    return adjusted


def _tests(difference, level, n_resamples, seed, notes):
    from scipy import stats

    moved = np.count_nonzero(difference)
    if not moved:
        notes.append("all differences are zero: no test")
        return {}
    if 2.0 ** (1 - moved) > 1 - level:
        notes.append(f"{moved} patients differ: no p can fall below {1 - level:.2g}")
    flips = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=n_resamples,
        batch=1000,
        rng=np.random.default_rng(seed),
    )
    return {
        "wilcoxon_p": float(stats.wilcoxon(difference).pvalue),
        "permutation_p": float(flips.pvalue),
        "permutation_exact": bool(2.0 ** len(difference) <= n_resamples),
        "rank_biserial": rank_biserial(difference),
    }


def _equivalence(difference, margin, level, notes):
    from scipy import stats

    if np.ptp(difference) <= ROUNDING:
        notes.append("all differences are equal: no test of equivalence")
        return {}
    lower = stats.ttest_1samp(difference, -margin, alternative="greater")
    upper = stats.ttest_1samp(difference, margin, alternative="less")
    low, high = stats.ttest_1samp(difference, 0).confidence_interval(2 * level - 1)
    verdict = "equivalent" if -margin < low and high < margin else "not shown"
    verdict = "not equivalent" if low >= margin or high <= -margin else verdict
    tests = {"tost_p_lower": float(lower.pvalue), "tost_p_upper": float(upper.pvalue)}
    return tests | {"tost_low": float(low), "tost_high": float(high), "equivalence": verdict}


@lru_cache(maxsize=64)
def _signed_rank_quantile(n, p):
    """Return the least q with P(W⁺ ≤ q) ≥ p: W⁺ is the sum of a random half of the ranks 1…n."""
    from scipy import stats

    if n > EXACT_RANKS:
        mean, sd = n * (n + 1) / 4, np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return int(np.floor(mean + stats.norm.ppf(p) * sd))
    chance = np.zeros(n * (n + 1) // 2 + 1)
    chance[0] = 1
    for rank in range(1, n + 1):
        chance[rank:] += chance[:-rank].copy()
        chance /= 2
    return int(np.searchsorted(np.cumsum(chance), p))
