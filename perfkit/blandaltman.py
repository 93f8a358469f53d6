"""Bland-Altman: the bias of two measurements of the same things, their limits of agreement, and a trend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .agreement import CONSTANT, is_flat, measurements, moments, patients_of_pairs, ratio, unrounded
from .resampling import LEVEL, bootstrap_intervals

LIMITS = 1.96  # standard deviations; Bland & Altman 1986
ON_LINE = 1e-12  # 1 − |r|; our choice: above the rounding of a correlation
CANCELLED = 1e-6  # of the error of independent pairs; our choice: above the rounding of a variance


@dataclass(frozen=True)
class BlandAltman:
    """Agreement of two measurements of the same things, in their unit.

    ``n`` counts pairs, ``n_patients`` patients (None where they were not given). ``<name>_low`` and
    ``<name>_high`` are confidence limits at ``level``.
    """

    bias: float
    sd: float
    lower: float
    upper: float
    n: int
    bias_low: float = np.nan
    bias_high: float = np.nan
    lower_low: float = np.nan
    lower_high: float = np.nan
    upper_low: float = np.nan
    upper_high: float = np.nan
    slope: float = np.nan
    slope_low: float = np.nan
    slope_high: float = np.nan
    slope_p: float = np.nan
    sd_ratio: float = np.nan
    sd_ratio_low: float = np.nan
    sd_ratio_high: float = np.nan
    pitman_morgan_p: float = np.nan
    level: float = LEVEL
    n_patients: int | None = None
    method: str = "by formula, pairs independent"
    note: str = ""


def bland_altman(x, y, *, patients=None, level=LEVEL, seed=0) -> BlandAltman:
    """Describe the differences x − y by their bias and limits of agreement.

    Paper: Experiments, Bland-Altman.

    Parameters
    ----------
    x, y : (n,), same unit, n ≥ 2, finite.
    patients : (n,), the patient of each pair; intervals and the test of the slope then count patients.
    level : of the intervals.
    seed : of the bootstrap; used with ``patients`` alone.

    Returns
    -------
    BlandAltman with ``bias`` (mean of x − y), ``sd`` (n − 1), ``lower`` and ``upper`` = bias ∓ 1.96 sd;
    ``slope`` of x − y on (x + y)/2 with its p; ``sd_ratio`` = sd(x) / sd(y) with the p of the
    Pitman-Morgan test that it is 1; an interval for each of them. Without scatter about the line, as where
    one side is constant, the slope has neither p nor interval, and ``note`` says why.

    Notes
    -----
    Bias and slope: Student's t (Bland & Altman 1999). Limits: exact, by the noncentral t (Carkeet 2015); the
    formula of Bland & Altman 1999 is too short below some 50 pairs. Ratio: Morgan 1939, Pitman 1939. With
    ``patients`` the intervals are BCa bootstrap intervals over patients, and the slope is tested with a
    cluster-robust variance and t on patients − 1; the Pitman-Morgan p goes on counting pairs.

    The slope of the difference on the mean is zero exactly where both variances are equal, so it tests the
    same hypothesis as Pitman-Morgan, with the same p where pairs are independent. A slope is thus no proof
    of a proportional bias: a measurement that merely scatters more makes one too (Bland & Altman 1995).
    """
    x, y = measurements(x, y)
    patients = patients_of_pairs(patients, x)
    difference = x - y
    bias, sd, n = float(np.mean(difference)), float(np.std(difference, ddof=1)), x.size
    found = {"bias": bias, "sd": sd, "lower": bias - LIMITS * sd, "upper": bias + LIMITS * sd, "n": n}
    why = _untestable(x, y)
    notes = [why] if why else []
    found |= _trend(x, y, level, why)
    if patients is None:
        found |= _formula_limits(bias, sd, n, level)
        return BlandAltman(**found, level=level, note="; ".join(notes))
    found |= _clustered(x, y, patients, level, seed, notes)
    found["slope_p"] = np.nan if why else _clustered_slope_p(x - y, (x + y) / 2, patients, notes)
    n_patients = len(set(patients))
    return BlandAltman(**found, level=level, n_patients=n_patients, note="; ".join(dict.fromkeys(notes)))


def _formula_limits(bias, sd, n, level):
    from scipy import stats

    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / np.sqrt(n)
    near, far = (sd * float(factor) for factor in _limit_factors(n, LIMITS, level))
    return {
        "bias_low": bias - half,
        "bias_high": bias + half,
        "lower_low": bias - far,
        "lower_high": bias - near,
        "upper_low": bias + near,
        "upper_high": bias + far,
    }


def _limit_factors(n, z, level):
    """Return k of the exact limits mean + k sd for the quantile mean + z sd of a normal sample."""
    from scipy import stats

    tails = (1 - level) / 2
    return stats.nct.ppf([tails, 1 - tails], n - 1, z * np.sqrt(n)) / np.sqrt(n)


def patients_with_several(patients):
    """Return the patients (n,) of scans where one has several, else None, as `bland_altman` takes them."""
    return patients if len(set(patients)) < len(patients) else None


def _untestable(x, y):
    """Return why the slope of the difference on the mean cannot be tested, if so."""
    difference, mean = x - y, (x + y) / 2
    if x.size < 3:
        return "2 pairs: no test of the slope"
    if is_flat(mean):
        return "all means are equal: no slope"
    if is_flat(difference):
        return "all differences are equal: no test of the slope"
    if is_flat(x) or is_flat(y):
        return "one side is constant: no test of the slope"
    on_line = abs(np.corrcoef(difference, mean)[0, 1]) > 1 - ON_LINE
    return "no scatter about the line: no test of the slope" if on_line else ""


def _trend(x, y, level, why):
    """Return the regression of the difference on the mean, and the Pitman-Morgan test beside it."""
    from scipy import stats

    n, difference, mean = x.size, x - y, (x + y) / 2
    found = {"sd_ratio": float(ratio(np.std(x), np.std(y)))}
    if n < 3 or is_flat(mean):
        return found
    fit = stats.linregress(mean, difference)
    found["slope"] = float(fit.slope)
    if is_flat(difference):
        found |= {"slope_low": found["slope"], "slope_high": found["slope"]}
    if why:
        return found
    t = stats.t.ppf((1 + level) / 2, n - 2)
    found["slope_low"], found["slope_high"] = (float(fit.slope + side * fit.stderr) for side in (-t, t))
    r, total = np.corrcoef(x, y)[0, 1], stats.pearsonr(difference, mean)
    k = 1 + 2 * max(1 - r**2, 0.0) * t**2 / (n - 2)
    spread = np.sqrt(k**2 - 1)
    for name, factor in (("sd_ratio_low", k - spread), ("sd_ratio_high", k + spread)):
        found[name] = found["sd_ratio"] * float(np.sqrt(factor))
    return found | {"slope_p": float(fit.pvalue), "pitman_morgan_p": float(total.pvalue)}


def _clustered(x, y, patients, level, seed, notes):
    """Return the intervals over patients."""
    names = ("bias", "lower", "upper", "slope", "sd_ratio")
    no_spread = CONSTANT if is_flat(x) or is_flat(y) else "the same in all resamples: no interval"
    options = {"level": level, "seed": seed, "no_spread": "" if is_flat(x - y) else no_spread}
    found = bootstrap_intervals(lambda w: _weighted_bland_altman(w, x, y), patients, **options)
    limits = {f"{name}_low": interval.low for name, interval in zip(names, found, strict=True)}
    limits |= {f"{name}_high": interval.high for name, interval in zip(names, found, strict=True)}
    for name, interval in zip(names, found, strict=True):
        parts = filter(None, interval.note.split("; "))
        notes += [part if "patient" in part else f"{name}: {part}" for part in parts]
    limits["method"] = f"{found[0].method} bootstrap over patients"
    return limits


def _clustered_slope_p(difference, mean, patients, notes):
    if len(set(patients)) < 3:
        notes.append("fewer than 3 patients: the slope cannot be tested")
        return np.nan
    from scipy import stats
    from statsmodels.api import OLS, add_constant

    group = np.unique(patients, return_inverse=True)[1]
    line = OLS(difference, add_constant(mean)).fit()
    variance = line.get_robustcov_results("cluster", groups=group).cov_params()[1, 1]
    if not variance > (CANCELLED * line.bse[1]) ** 2:
        notes.append("residuals cancel within patients: the slope cannot be tested")
        return np.nan
    return float(2 * stats.t.sf(abs(line.params[1]) / np.sqrt(variance), len(set(patients)) - 1))


def _weighted_bland_altman(weights, x, y):
    n, mx, my, xx, yy, xy = moments(weights, x, y)
    bias, sd = mx - my, np.sqrt(np.maximum(unrounded(xx + yy - 2 * xy, xx + yy), 0) / (n - 1))
    slope = ratio((xx - yy) / 2, unrounded(xx + yy + 2 * xy, xx + yy) / 4)
    sd_ratio = np.sqrt(np.maximum(ratio(xx, yy), 0))
    return np.stack([bias, bias - LIMITS * sd, bias + LIMITS * sd, slope, sd_ratio])
