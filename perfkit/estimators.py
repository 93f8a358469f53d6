"""The estimators that are compared, all read by one function, and how far maps are from the truth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from perfkit.deconvolution import SOLVERS, SYSTEMS
from perfkit.maps import perfusion_maps

ESTIMATES = {
    "Tikhonov .3": {"lambda_rel": 0.3},
    "Tikhonov .1": {"lambda_rel": 0.1},
    "TSVD .15": {"regularization": "tsvd", "lambda_rel": 0.15},
    "oSVD": {"regularization": "osvd", "lambda_rel": 0.035},  # oSVD does not use it
    "D2": {"regularization": "d2", "lambda_rel": 0.3},  # s²; our choice: flow as Tikhonov .1 at 6 s
    "calibrated": {"estimator": "calibrated"},
}
MAPS = ("cbf", "cbv", "mtt", "delay")


def combinations() -> Iterator[tuple[str, str, dict]]:
    """Yield matrix, label and options of ``maps.perfusion_maps`` of every estimator that exists."""
    for matrix in SYSTEMS:
        for label, options in ESTIMATES.items():
            if (matrix, options.get("regularization", "tikhonov")) in SOLVERS:
                yield matrix, label, {"matrix": matrix, **options}


def read(curves, aif, dt: float, options: dict, *, noise=None) -> dict:
    """Read the maps of one estimator off.

    Parameters
    ----------
    curves : (..., T), HU above baseline
    aif : (T,), HU above baseline
    dt : s
    options : of ``maps.perfusion_maps``, as ``combinations`` gives them
    noise : HU, of the curves, for the calibrated estimator; default: estimated from them

    Returns
    -------
    dict of cbf, cbv, mtt, tmax and delay, each (...,). Where an estimator has no delay, Tmax stands for it.
    """
    calibrated = options.get("estimator") == "calibrated"
    maps = perfusion_maps(curves, aif, dt, **options, noise=noise if calibrated else None)
    delay = maps.tmax if maps.delay is None else maps.delay
    return {"cbf": maps.cbf, "cbv": maps.cbv, "mtt": maps.mtt, "tmax": maps.tmax, "delay": delay}


def errors(found, truth) -> dict:
    """Measure a map (n,) against the truth (n,): n, bias, rms, relative bias and Pearson's r."""
    found, truth = np.ravel(np.asarray(found, float)), np.ravel(np.asarray(truth, float))
    error = found - truth
    return {
        "n": int(error.size),
        "bias": float(error.mean()),
        "rms": float(np.sqrt((error**2).mean())),
        "relative_bias": float(error.mean() / truth.mean()),
        "r": float(np.corrcoef(found, truth)[0, 1]),
    }
