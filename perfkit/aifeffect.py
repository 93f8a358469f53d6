"""Does it matter which AIF is used, plain or calibrated? Phantom scans, several AIFs, one core."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perfkit import estimators, metamorphic, paper
from perfkit.aif import brain_mean_aif, select_aif
from perfkit.inputfunction import voxel_aif
from perfkit.phantom import make_case
from perfkit.preprocessing import prepare

AIFS = ("true", "expert", "automatic", "pooled", "brain_mean")
VOXELS = 12000  # our choice: an even sample of a scan's brain; Dice has an error below .02 from it
FIXED = (paper.RCBF_THRESHOLD, metamorphic.NOMINAL)
SHOWN = {"plain": {}, "calibrated": {"estimator": "calibrated"}}
LEAST = 20  # our choice: voxels of core in the sample below which Dice says little


def aif_table(cases: Sequence[int] = range(1, 13), seed: int = 0, size: str = "small"):
    """Map phantom scans with several AIFs, plain and calibrated, and measure the core at all thresholds.

    Parameters
    ----------
    cases : numbers of the scans
    seed, size : of ``phantom.make_case``

    Returns
    -------
    DataFrame of scan, patient, aif, map ("plain", "calibrated"), threshold and dice, with the label a rater
    would draw, over the whole brain, as the study of the paper counts

    Notes
    -----
    "true" is the artery without noise and partial volume; "expert" the mean of the simulated rater's voxels;
    "automatic" that of Straka's rule; "brain_mean" the mean curve of the brain. "pooled" is the same for all:
    the mean of the other patients' expert AIFs, each of unit area and set to one time to peak. λ_rel is .3
    and the matrix circulant throughout, the reference tissue that of the study.
    """
    import pandas as pd

    scans = [_scan(make_case(seed, case, size=size)) for case in cases]
    tables = []
    for scan in scans:
        scan["aifs"]["pooled"] = _pooled(scan, scans)
        tables += _measured(scan, {name: scan["aifs"].get(name) for name in AIFS}, "circulant")
    return pd.concat(tables, ignore_index=True)


def effect_table(prepared: dict, curves: dict, *, matrix: str = "circulant"):
    """Map scans with the AIFs of several arms, plain and calibrated, and measure the core at all thresholds.

    Parameters
    ----------
    prepared : dict from case id to Prepared; scans without a core, or with hardly one, are left out
    curves : dict from arm to dict from case id to AIF (T,), in any unit
    matrix : of the deconvolution

    Returns
    -------
    DataFrame as of ``aif_table``, with the arm as "aif", for ``summary``. An AIF whose area is not positive,
    as a regressed one may be, has no calibrated row: there is no CBV to calibrate with.

    Raises
    ------
    ValueError : no scan has enough of a core.
    """
    import pandas as pd

    tables = []
    for case, scan in prepared.items():
        if scan.core is not None:
            aifs = {arm: of[case] for arm, of in curves.items() if case in of}
            tables += _measured(_sampled(scan), aifs, matrix)
    if not tables:
        raise ValueError(
            f"A core of {LEAST} sampled voxels is needed for its Dice: none of the scans has one."
        )
    return pd.concat(tables, ignore_index=True)


def summary(table):
    """Average Dice over patients, at fixed thresholds and at one chosen on the other patients.

    Parameters
    ----------
    table : as from ``aif_table``

    Returns
    -------
    DataFrame, one row per AIF × map: patients, dice at .38 and at .30, crossvalidated (Dice at the threshold
    that is best for all other patients), best (threshold, of all patients), and gain: the crossvalidated Dice
    less that of the plain map with the expert's AIF, over the patients both have, with its standard error
    """
    import pandas as pd

    rows, held_out = [], {}
    for (aif, kind), part in table.groupby(["aif", "map"], sort=False):
        dice = part.groupby(["patient", "threshold"])["dice"].mean().unstack()
        cuts = [dice.drop(index=patient).mean().idxmax() for patient in dice.index]
        values = [dice.loc[patient, cut] for patient, cut in zip(dice.index, cuts, strict=True)]
        held_out[aif, kind] = pd.Series(values, dice.index)
        row = {"aif": aif, "map": kind, "patients": len(dice)}
        row |= {f"dice_{cut:.2f}": float(dice[cut].mean()) for cut in FIXED}
        row |= {"crossvalidated": float(np.mean(values)), "best": float(dice.mean().idxmax())}
        rows.append(row)
    for row in rows:
        gain = (held_out[row["aif"], row["map"]] - held_out["expert", "plain"]).dropna()
        row |= {"gain": float(gain.mean()), "error": float(gain.std() / np.sqrt(len(gain)))}
    return pd.DataFrame(rows)


def _measured(scan, aifs, matrix) -> list:
    """Dice at all thresholds, a DataFrame for each AIF and map; none where there is hardly a core."""
    import pandas as pd

    if np.count_nonzero(scan["core"]) < LEAST:
        return []
    tables = []
    for name, aif in aifs.items():
        for kind, options in SHOWN.items():
            if aif is None or (kind == "calibrated" and not np.trapezoid(aif) > 0):
                continue
            options = {"matrix": matrix, **options}
            cbf = estimators.read(scan["curves"], aif, scan["dt"], options, noise=scan["noise"])["cbf"]
            dice = metamorphic.dice_curve(cbf / cbf[scan["reference"]].mean(), scan["core"])
            row = {"scan": scan["id"], "patient": scan["patient"], "aif": name, "map": kind}
            tables.append(pd.DataFrame(row | {"threshold": metamorphic.CUTS, "dice": dice}))
    return tables


def _scan(case) -> dict:
    """Prepare a scan, and find its own AIFs (T,)."""
    prepared = prepare(case)
    aifs = {
        "true": np.asarray(case.truth["aif"], float),
        "expert": voxel_aif(prepared.concentration, case.truth["rater_voxels"], prepared.dt).curve,
        "brain_mean": brain_mean_aif(prepared).curve,
    }
    try:
        aifs["automatic"] = select_aif(prepared).curve
    except ValueError:
        aifs["automatic"] = None  # a slab may hold no artery: that scan then has no such row
    return _sampled(prepared) | {"aifs": aifs}


def _sampled(prepared) -> dict:
    """Take an even sample of the brain's curves, with masks and label (n,)."""
    brain = np.argwhere(prepared.brain)
    at = tuple(brain[:: max(1, len(brain) // VOXELS)].T)
    return {
        "id": prepared.id,
        "patient": prepared.patient,
        "dt": prepared.dt,
        "curves": prepared.concentration[at],
        "reference": prepared.reference_tissue[at],
        "core": np.asarray(prepared.core)[at],
        "noise": prepared.frame_noise,
    }


def _pooled(scan, scans):
    """Average the other patients' expert AIFs, of unit area, around this scan's expert time to peak: (T,)."""
    own = scan["aifs"]["expert"]
    frames = np.arange(len(own)) - np.argmax(own)
    others = [other["aifs"]["expert"] for other in scans if other["patient"] != scan["patient"]]
    shifted = [np.interp(frames, np.arange(len(a)) - np.argmax(a), a / a.sum()) for a in others]
    return np.mean(shifted, axis=0) * own.sum() if shifted else None
