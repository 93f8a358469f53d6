"""Mean curves over patients with pointwise bands: ROC curves, Dice against the threshold."""

from __future__ import annotations

import numpy as np

from .resampling import LEVEL, bootstrap_intervals, weighted_mean
from .scoretables import ordered_arms

BAND_RESAMPLES = 1000  # Davison & Hinkley 1997, § 5.2: enough for 95 % limits; a band is read by eye


def patient_curves(table, x: str, y: str) -> dict:
    """Lay out a tidy table of curves, arm by arm.

    Parameters
    ----------
    table : DataFrame of ``patient, arm`` and the columns x and y, one curve per patient and arm.
    x, y : names of columns; all curves of an arm share the values of x.

    Returns
    -------
    {arm: DataFrame (patients, points of x, rising)}; patients without any value of y are left out.

    Raises
    ------
    ValueError : a patient has two values of an arm at the same x.
    """
    twice = table.duplicated(["patient", "arm", x])
    if twice.any():
        patient, arm, at = table.loc[twice, ["patient", "arm", x]].iloc[0]
        raise ValueError(
            f"Curves are averaged over patients, so a patient has one curve per arm: patient {patient!r}, "
            f"arm {arm!r} has several values at {x} {at:g}. Join the slabs, or keep the rows of one matrix."
        )
    curves = {}
    for arm in ordered_arms(table["arm"]):
        wide = table[table["arm"] == arm].pivot(index="patient", columns=x, values=y)
        curves[arm] = wide.astype(float).dropna(how="all")
    return curves


def mean_curves(table, x: str, y: str, *, level=LEVEL, n_resamples=BAND_RESAMPLES, seed=0):
    """Average curves over patients, point by point, with a band.

    Parameters
    ----------
    table, x, y : as for `patient_curves`.
    level : of the band at each point; it holds there, not for the curve as a whole.
    n_resamples : of patients.
    seed : the same seed gives the same band.

    Returns
    -------
    DataFrame of ``arm``, x, ``mean, low, high`` and ``n``, the patients with a value there. Limits are NaN
    where there is only one patient.

    Notes
    -----
    Vertical averaging (Fawcett 2006, § 8.1). Percentile bootstrap over patients, all points of a curve from
    the same resamples.
    """
    import pandas as pd

    parts = []
    for arm, curves in patient_curves(table, x, y).items():
        if curves.empty:
            continue
        mean, values = weighted_mean(curves.to_numpy().T), curves.to_numpy()
        options = {"level": level, "n_resamples": n_resamples, "seed": seed, "method": "percentile"}
        band = bootstrap_intervals(mean, curves.index, **options)
        columns = {"mean": mean(np.ones(len(curves))), "n": np.isfinite(values).sum(axis=0)}
        columns |= {side: [getattr(interval, side) for interval in band] for side in ("low", "high")}
        parts.append(pd.DataFrame({"arm": arm, x: curves.columns.to_numpy(float)} | columns))
    names = ["arm", x, "mean", "low", "high", "n"]
    return pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)
