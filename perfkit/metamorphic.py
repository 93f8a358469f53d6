"""What a change that leaves the tissue as it was does to the maps, and to the threshold of the core."""

from __future__ import annotations

import numpy as np

from perfkit import estimators, tissuesample

NOISE = 0.7  # HU; docs/science.md §1.7: of smoothed CT curves; calibration is told it, whatever the contrast
ONSET, SHIFT, SECONDS = 10.0, 8.0, 70  # s; our choice: ±8 s leave the peak 20 s and more within the scan
CHANGES = {  # label -> how the scan differs: options of ``arterial`` and ``classes``, and contrast
    "8 s earlier": {"onset": ONSET - SHIFT},
    "8 s later": {"onset": ONSET + SHIFT},
    "contrast and noise × 0.3": {"contrast": 0.3, "noise": 0.3 * NOISE},
    "contrast and noise × 3": {"contrast": 3.0, "noise": 3 * NOISE},
    "contrast × 0.3": {"contrast": 0.3},
    "contrast × 3": {"contrast": 3.0},
    "bolus smeared by 5 s": {"widen": 5.0},
    "a frame every 2 s": {"dt": 2.0},
    "scan ends at 45 s": {"seconds": 45},
}
WIDTHS = (6.0, 8.0, 10.0, 12.0, 14.0, 16.0)  # s; issue and docs/science.md §7: FWHM of real AIFs
FAMILIES = ("exponential", "gamma", "box", "linear")
NOMINAL = 0.30  # of healthy flow, RAPID's rule
CUTS = np.round(np.arange(0.05, 1.0, 0.01), 2)
SHOWN = ("Tikhonov .3", "calibrated")  # of the curves of Dice


def metamorphic_table(fwhm: float = 9.0, residue: str = "gamma", changes: dict = CHANGES):
    """Change a scan, not its tissue, and see how far the maps move.

    Parameters
    ----------
    fwhm : s, of the AIF
    residue : a family of ``forward.residue_integral``
    changes : as ``CHANGES``

    Returns
    -------
    DataFrame, one row per change × matrix × estimator: the largest change, over six classes of tissue and
    delays of 0-6 s, of rcbf (in units of healthy flow), tmax and delay (s) and cbv (as a share of it), and
    cbv_error, the largest error of CBV against the truth after the change. Curves carry no noise.
    """
    import pandas as pd

    rows = []
    for matrix, label, options in estimators.combinations():
        before = _maps({}, options, fwhm, residue)
        for change, settings in changes.items():
            after = _maps(settings, options, fwhm, residue)
            moved = {name: np.abs(after[name] - before[name]).max() for name in ("rcbf", "tmax", "delay")}
            moved["cbv"] = np.abs(after["cbv"] / before["cbv"] - 1).max()
            moved["cbv_error"] = np.abs(after["cbv"] / after["true_cbv"] - 1).max()
            names = {"change": change, "matrix": matrix, "estimator": label}
            rows.append(names | {name: float(value) for name, value in moved.items()})
    return pd.DataFrame(rows)


def _maps(change, options, fwhm, residue):
    """Read the maps of all classes of tissue in a scan that differs by ``change``."""
    settings = {"onset": ONSET, "contrast": 1.0, "noise": NOISE, "widen": 0.0, "dt": 1.0, "seconds": SECONDS}
    settings |= change
    aif = settings["contrast"] * tissuesample.arterial(fwhm, onset=settings["onset"], widen=settings["widen"])
    frames = round(settings["seconds"] / settings["dt"])
    tissue = tissuesample.classes(aif, residue=residue, dt=settings["dt"], n_frames=frames)
    found = estimators.read(tissue.curves, tissue.aif, tissue.dt, options, noise=settings["noise"])
    return found | {"rcbf": found["cbf"] / found["cbf"][tissue.healthy].mean(), "true_cbv": tissue.cbv}


def dice_by_width(
    widths=WIDTHS, families=FAMILIES, labels=SHOWN, *, peak: float = 180.0, n: int = 1500, seed: int = 0
):
    """Measure the core's Dice at the nominal and at the best threshold, for boluses of several widths.

    Parameters
    ----------
    widths : s, FWHM of the AIF
    families : residue functions of the tissue, of ``forward.residue_integral``
    labels : of ``estimators.ESTIMATES``, with the circulant matrix
    peak : HU, of the AIF
    n : voxels of each
    seed : of tissue and noise (0.7 HU)

    Returns
    -------
    DataFrame of fwhm, residue, estimator, best (threshold), dice_best, dice_nominal (at 0.30)
    """
    import pandas as pd

    rows = []
    for fwhm in widths:
        aif = tissuesample.arterial(fwhm, onset=8.0, peak=peak)
        for family in families:
            tissue = tissuesample.drawn(aif, n, residue=family, noise=NOISE, seed=seed)
            core = tissue.cbf < NOMINAL * tissue.cbf[tissue.healthy].mean()
            for label in labels:
                options = {"matrix": "circulant", **estimators.ESTIMATES[label]}
                cbf = estimators.read(tissue.curves, tissue.aif, tissue.dt, options)["cbf"]
                found = dice_curve(cbf / cbf[tissue.healthy].mean(), core)
                names = {"fwhm": fwhm, "residue": family, "estimator": label}
                rows.append(names | threshold_summary(found))
    return pd.DataFrame(rows)


def dice_curve(rcbf, core):
    """Dice of "rCBF below the cut" with a core, at every one of ``CUTS``: (C,), from rcbf and core (n,)."""
    cuts = np.sort(rcbf), np.sort(rcbf[core])
    below, hits = (np.searchsorted(values, CUTS, side="left") for values in cuts)
    return 2 * hits / np.maximum(below + np.count_nonzero(core), 1)


def threshold_summary(dice) -> dict:
    """Name the best threshold of a curve of Dice (C,), Dice there and at the nominal one."""
    at = int(np.argmax(dice))
    nominal = int(np.flatnonzero(np.isclose(CUTS, NOMINAL))[0])
    return {"best": float(CUTS[at]), "dice_best": float(dice[at]), "dice_nominal": float(dice[nominal])}
