"""How true the maps of each estimator are on phantom scans, tissue only, and what that does to the core."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perfkit import estimators, metamorphic
from perfkit.phantom import make_case
from perfkit.preprocessing import prepare

VOXELS = 8000  # our choice: an even sample of a scan's tissue; their r has an error below .01
LEAST_CORE = 40  # our choice: voxels of the sample below which a scan's Dice says little
DICE_COLUMNS = ("core", "matrix", "estimator")


def cohort_table(cases: Sequence[int] = range(1, 13), seed: int = 0, size: str = "small"):
    """Compare the maps of all estimators with the truth of phantom scans, on the scan's true AIF.

    Parameters
    ----------
    cases : numbers of the scans
    seed, size : of ``phantom.make_case``

    Returns
    -------
    maps : DataFrame, one row per scan × matrix × estimator × map: as ``accuracy.accuracy_table``
    cores : DataFrame, one row per scan × core × matrix × estimator × threshold: Dice of "rCBF below the
        threshold" where the sample holds 40 voxels of the core. "late" is the phantom's physiological core,
        which is low flow and late; "any" is all tissue whose true flow is below 0.30 of the reference's

    Notes
    -----
    Curves are smoothed as for the study. Only tissue counts, as ``masks`` finds it: neither vessels nor CSF
    have a flow to be true to. The calibrated estimator is told the noise of the frames before the bolus.
    """
    import pandas as pd

    maps, cores = [], []
    for case in cases:
        scan = _sampled(make_case(seed, case, size=size))
        for matrix, label, options in estimators.combinations():
            found = estimators.read(scan["curves"], scan["aif"], scan["dt"], options, noise=scan["noise"])
            names = {"scan": scan["id"], "matrix": matrix, "estimator": label}
            maps += [
                names | {"map": m} | estimators.errors(found[m], scan["truth"][m]) for m in estimators.MAPS
            ]
            rcbf = found["cbf"] / found["cbf"][scan["reference"]].mean()
            for name, core in scan["cores"].items():
                if np.count_nonzero(core) >= LEAST_CORE:
                    dice = metamorphic.dice_curve(rcbf, core)
                    row = names | {"core": name, "threshold": metamorphic.CUTS, "dice": dice}
                    cores.append(pd.DataFrame(row))
    empty = pd.DataFrame(columns=["scan", *DICE_COLUMNS, "threshold", "dice"])
    return pd.DataFrame(maps), pd.concat(cores, ignore_index=True) if cores else empty


def core_table(cores):
    """Average Dice over scans, at the nominal threshold and at the one that is best for all of them.

    Parameters
    ----------
    cores : as from ``cohort_table``

    Returns
    -------
    DataFrame, one row per core × matrix × estimator: scans, best (threshold), dice_best, dice_nominal (at
    0.30)
    """
    import pandas as pd

    rows = []
    for names, part in cores.groupby(list(DICE_COLUMNS), sort=False):
        mean = part.groupby("threshold")["dice"].mean()
        summary = metamorphic.threshold_summary(mean.to_numpy())
        rows.append(dict(zip(DICE_COLUMNS, names, strict=True)) | {"scans": part["scan"].nunique()} | summary)
    return pd.DataFrame(rows)


def _sampled(case) -> dict:
    """Prepare a scan and take an even sample of its tissue: curves (n, T), AIF, truth and masks (n,)."""
    prepared = prepare(case)
    tissue = np.argwhere(prepared.tissue & (np.asarray(case.truth["cbf"]) > 0))
    at = tuple(tissue[:: max(1, len(tissue) // VOXELS)].T)
    truth = {name: np.asarray(case.truth[name])[at] for name in estimators.MAPS}
    reference = prepared.reference_tissue[at]
    low = truth["cbf"] < metamorphic.NOMINAL * truth["cbf"][reference].mean()
    return {
        "id": case.id,
        "dt": prepared.dt,
        "aif": np.asarray(case.truth["aif"]),
        "curves": prepared.concentration[at],
        "noise": prepared.frame_noise,
        "truth": truth,
        "cores": {"late": np.asarray(case.truth["core"])[at], "any": low},
        "reference": reference,
    }
