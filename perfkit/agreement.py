"""Agreement of two measurements of the same things as one number: ICC(2,1), Lin's CCC, Cohen's κ.

Intervals by formula take the pairs as independent. Where a patient has several scans they are not: give the
``patients`` and whole patients are resampled instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .resampling import LEVEL, bootstrap_interval

_ROUNDING = 1e-12  # our choice: above the rounding of sums of squares, below any volume or share
CONSTANT = "one side is constant: no interval"
IDENTICAL = "the measurements are identical"


@dataclass(frozen=True)
class Estimate:
    """A statistic with its confidence interval; NaN to NaN where there is none, and the note says why."""

    value: float
    low: float
    high: float
    level: float
    n: int
    unit: str
    n_patients: int | None
    method: str
    note: str = ""


def icc21(x, y) -> float:
    """Compute the intraclass correlation ICC(2,1): two-way random, absolute agreement, single rater.

    Parameters
    ----------
    x, y : (n,), same unit, n ≥ 2, finite.

    Returns
    -------
    float ≤ 1; NaN where all values are equal, since there is nothing to tell apart, and for two pairs that
    mirror each other, a, b and b, a, whose total variance comes out as zero.

    Notes
    -----
    Shrout & Fleiss 1979, from the mean squares of the two-way analysis of variance.
    """
    return _icc21(np.stack(measurements(x, y), axis=-1))


def icc21_interval(x, y, *, patients=None, level=LEVEL, seed=0) -> Estimate:
    """Give ICC(2,1) with its interval: McGraw & Wong 1996 (case 2A), or a bootstrap over ``patients``.

    Parameters
    ----------
    x, y : (n,), same unit, n ≥ 2, finite.
    patients : (n,), the patient of each pair; the interval then counts patients.
    level : of the interval.
    seed : of the bootstrap; used with ``patients`` alone.

    Returns
    -------
    Estimate; NaN as for `icc21`. Identical measurements have exactly 1, from 1 to 1.
    """
    x, y = measurements(x, y)
    formula = (lambda: _icc21_limits(np.stack([x, y], axis=-1), level), "F, McGraw & Wong 1996")
    return _estimate(_weighted_icc21, x, y, patients, level, seed, formula)


def lins_ccc(x, y, *, patients=None, level=LEVEL, seed=0) -> Estimate:
    """Compute Lin's concordance correlation coefficient: how close pairs lie to the line of identity.

    Parameters
    ----------
    x, y : (n,), same unit, n ≥ 2, finite.
    patients : (n,), the patient of each pair; the interval then counts patients.
    level : of the interval.
    seed : of the bootstrap; used with ``patients`` alone.

    Returns
    -------
    Estimate; NaN where all values are equal. Identical measurements have exactly 1, from 1 to 1.

    Notes
    -----
    2 s_xy / (s_x² + s_y² + (x̄ − ȳ)²) with variances over n, and the interval of its Fisher transform (Lin
    1989, variance as corrected in Lin 2000), or a bootstrap over ``patients``.
    """
    x, y = measurements(x, y)
    formula = (lambda: _ccc_limits(x, y, level), "Fisher's z, Lin 1989")
    return _estimate(_weighted_ccc, x, y, patients, level, seed, formula)


def cohen_kappa(a, b, *, patients=None, level=LEVEL, seed=0) -> Estimate:
    """Compute Cohen's κ of two decisions on the same things.

    Parameters
    ----------
    a, b : (n,), categories, n ≥ 2.
    patients, level, seed : the pairs as for `icc21`; patients (n,), optional; of the interval.

    Returns
    -------
    Estimate; NaN where both decide the same for all, since agreement by chance is then complete. No limits
    where no pair is discordant, or one decides the same for all: its variance comes out as zero, for 7 pairs
    as for 7000.

    Notes
    -----
    Cohen 1960; standard error of Fleiss, Cohen & Everitt 1969, from statsmodels; limits are cut at ±1. It is
    an approximation for large n: few discordant pairs make it too short.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 1 or a.shape != b.shape or a.size < 2:
        raise ValueError(
            f"a and b must be paired lists of one length, at least 2: shapes {a.shape} and {b.shape} came."
        )
    categories, coded = np.unique(np.concatenate([a, b]), return_inverse=True)
    a, b = coded[: a.size], coded[a.size :]
    formula = (lambda: _kappa_limits(a, b, len(categories), level), "Fleiss, Cohen & Everitt 1969")
    found = _estimate(_weighted_kappa, a, b, patients, level, seed, formula)
    if np.isfinite(found.value) and np.array_equal(a, b):
        return replace(found, low=np.nan, high=np.nan, note="no pair is discordant: no interval")
    return found


def _estimate(statistic, x, y, patients, level, seed, formula):
    patients = patients_of_pairs(patients, x)
    value = float(statistic(np.ones(x.size), x, y))
    held = {"level": level, "n": x.size, "unit": "pair"}
    held["n_patients"] = None if patients is None else len(set(patients))
    if not np.isfinite(value):
        return Estimate(value, np.nan, np.nan, method="none", note=_undefined(x, y), **held)
    identical, constant = value > 1 - _ROUNDING, is_flat(x) or is_flat(y)
    if patients is None:
        low, high = map(float, formula[0]())
        why = CONSTANT if constant else f"no interval by formula for these {x.size} pairs"
        note = why if np.isnan(low) else IDENTICAL * identical
        return Estimate(value, low, high, method=formula[1], note=note, **held)
    no_spread = "" if identical else CONSTANT if constant else "the same in all resamples: no interval"
    options = {"level": level, "seed": seed, "no_spread": no_spread}
    found = bootstrap_interval(lambda w: statistic(w, x, y), patients, **options)
    method = f"{found.method} bootstrap over patients"
    return Estimate(value, found.low, found.high, method=method, note=found.note, **held)


def _undefined(x, y):
    if is_flat(np.concatenate([x, y])):
        return "all values are equal: nothing to tell apart"
    return "two pairs that mirror each other: not defined"


def moments(weights, x, y):
    """Return n, means and central second moments (sums) of weighted pairs."""
    x, y = x - x.mean(), y - x.mean()  # near zero nothing cancels
    n = weights.sum(axis=-1)
    mx, my = weights @ x / n, weights @ y / n
    xx, yy = weights @ x**2, weights @ y**2
    return (
        n,
        mx,
        my,
        unrounded(xx - n * mx**2, xx),
        unrounded(yy - n * my**2, yy),
        unrounded(weights @ (x * y) - n * mx * my, np.sqrt(xx * yy)),
    )


def unrounded(found, size):
    """Return a difference of terms of a size; zero where it is their rounding."""
    return np.where(np.abs(found) > _ROUNDING * size, found, 0.0)[()]


def _weighted_icc21(weights, x, y):
    n, mx, my, xx, yy, xy = moments(weights, x, y)
    targets, raters = unrounded(xx + yy + 2 * xy, xx + yy) / (2 * (n - 1)), n * (mx - my) ** 2 / 2
    residual = unrounded(xx + yy - 2 * xy, xx + yy) / (2 * (n - 1))
    return ratio(targets - residual, targets + (1 - 2 / n) * residual + 2 * raters / n)


def _weighted_ccc(weights, x, y):
    n, mx, my, xx, yy, xy = moments(weights, x, y)
    return ratio(2 * xy, xx + yy + n * (mx - my) ** 2)


def _weighted_kappa(weights, a, b):
    n = weights.sum(axis=-1)
    agreed = weights @ (a == b) / n
    shares = [(weights @ (a == k) / n, weights @ (b == k) / n) for k in np.union1d(a, b)]
    chance = sum(first * second for first, second in shares)
    return ratio(agreed - chance, 1 - chance)


def ratio(above, below):
    """Divide; NaN where the divisor is zero up to rounding."""
    above, below = np.broadcast_arrays(np.asarray(above, float), np.asarray(below, float))
    found = np.divide(above, below, out=np.full(above.shape, np.nan), where=np.abs(below) > _ROUNDING)
    return found[()]


def _mean_squares(ratings):
    n, k = ratings.shape
    ratings = ratings - ratings.mean()
    rows, columns = ratings.mean(axis=1, keepdims=True), ratings.mean(axis=0, keepdims=True)
    squares = k * np.sum(rows**2), n * np.sum(columns**2), np.sum((ratings - rows - columns) ** 2)
    targets, raters, residual = unrounded(np.array(squares), sum(squares))
    return targets / (n - 1), raters / (k - 1), residual / ((n - 1) * (k - 1))


def _icc21(ratings):
    n, k = ratings.shape
    targets, raters, residual = _mean_squares(ratings)
    total = targets + (k - 1 - k / n) * residual + k * raters / n  # no term of it is negative
    return float("nan") if is_flat(ratings) or total == 0 else float((targets - residual) / total)


def _icc21_limits(ratings, level):
    from scipy import stats

    n, k = ratings.shape
    targets, raters, residual = _mean_squares(ratings)
    if residual <= _ROUNDING * targets:
        return (1.0, 1.0) if raters <= _ROUNDING * targets else (np.nan, np.nan)
    if targets == 0:  # all means are equal: F is 0 and has no interval
        return np.nan, np.nan
    icc = _icc21(ratings)
    a, b = k * icc / (n * (1 - icc)), 1 + k * icc * (n - 1) / (n * (1 - icc))
    v = (a * raters + b * residual) ** 2
    v /= (a * raters) ** 2 / (k - 1) + (b * residual) ** 2 / ((n - 1) * (k - 1))
    rest = k * raters + (k * n - k - n) * residual
    low, high = stats.f.ppf((1 + level) / 2, [n - 1, v], [v, n - 1])
    return (
        n * (targets - low * residual) / (low * rest + n * targets),
        n * (high * targets - residual) / (rest + n * high * targets),
    )


def _ccc_limits(x, y, level):
    from scipy import stats

    n, c = x.size, _weighted_ccc(np.ones(x.size), x, y)
    if abs(c) > 1 - _ROUNDING:
        return (1.0, 1.0) if c > 0 else (np.nan, np.nan)
    if n < 3 or is_flat(x) or is_flat(y):
        return np.nan, np.nan
    r, u2 = np.corrcoef(x, y)[0, 1], (x.mean() - y.mean()) ** 2 / (x.std() * y.std())
    closeness = 2 / (x.std() / y.std() + y.std() / x.std() + u2)  # c / r, and defined where r is 0
    variance = (1 - r**2) * closeness**2 / (1 - c**2)
    variance += (2 * (1 - c) * u2 - closeness * u2**2 / 2) * closeness * c**2 / (1 - c**2) ** 2
    if not variance > _ROUNDING:
        return np.nan, np.nan
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(variance / (n - 2))
    return np.tanh(np.arctanh(c) - half), np.tanh(np.arctanh(c) + half)


def _kappa_limits(a, b, k, level):
    from scipy import stats
    from statsmodels.stats.inter_rater import cohens_kappa

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return np.nan, np.nan  # one decides the same for all: κ is 0 whatever the other does
    table = np.zeros((k, k))
    np.add.at(table, (a, b), 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # of z = κ/0 for complete agreement, not used
        found = cohens_kappa(table)
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(max(found.var_kappa, 0))
    if not half > _ROUNDING:
        return np.nan, np.nan
    return max(found.kappa - half, -1.0), min(found.kappa + half, 1.0)


def is_flat(values):
    return np.ptp(values) <= _ROUNDING * max(1.0, np.max(np.abs(values)))


def patients_of_pairs(patients, x):
    if patients is None:
        return None
    patients = np.asarray(patients).astype(str)
    if patients.shape != x.shape:
        raise ValueError(
            f"patients must name the patient of each pair: {x.size} pairs, shape {patients.shape} came."
        )
    return patients


def measurements(x, y):
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
