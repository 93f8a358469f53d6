"""How true the maps of each estimator are, on the Kudo grid, where every number is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

ESTIMATES = {
    "Tikhonov .3": {"lambda_rel": 0.3},
    "Tikhonov .1": {"lambda_rel": 0.1},
    "TSVD .15": {"regularization": "tsvd", "lambda_rel": 0.15},
    "oSVD": {"regularization": "osvd", "lambda_rel": 0.035},  # Wu 2003: the limit of oscillation
    "calibrated": {"estimator": "calibrated"},
}
MATRICES = ("volterra", "circulant")
MAPS = ("cbf", "cbv", "mtt", "delay")
RESIDUES = ("exponential", "linear", "box")


def accuracy_table(noise_hu: float = 0.7, seed: int = 0):
    """Compare the maps of all estimators with the truth of the Kudo grid.

    Parameters
    ----------
    noise_hu : HU, standard deviation of white noise in every voxel; maps are read from tiles averaged to
        8 × 8 blocks of 4 × 4 voxels, as no one reads single voxels of such a phantom
    seed : of the noise

    Returns
    -------
    DataFrame, one row per residue × matrix × estimator × map: n (blocks of 5 slices), bias and rms (of the
    estimate less the truth, in the map's unit), relative bias, and Pearson's r over the blocks. Plain
    estimators have no delay: their Tmax stands for it.
    """
    import pandas as pd

    from perfkit.kudo import kudo_phantom

    rows = []
    for residue in RESIDUES:
        case = kudo_phantom(residue=residue, noise_hu=noise_hu, seed=seed)
        inside = _blocks(case.ctp - case.ctp[..., :4].mean(axis=-1, keepdims=True))
        truth = {name: _blocks(np.asarray(case.truth[name])) for name in MAPS}
        for matrix in MATRICES:
            for label, options in ESTIMATES.items():
                found = _estimated(inside, case, {"matrix": matrix, **options})
                names = {"residue": residue, "matrix": matrix, "estimator": label}
                rows += [names | {"map": m} | _errors(found[m], truth[m]) for m in MAPS]
    return pd.DataFrame(rows)


def measure(say: Callable = print) -> dict:
    """Print the table and return the correlations, as ``perfkit bench accuracy`` does."""
    table = accuracy_table()
    say("Kudo grid: 30 frames of 2 s, noise 0.7 HU, blocks of 4 × 4 voxels, CBV 1-5 ml/100 g pooled.")
    say("Relative bias / Pearson's r with the truth; for delay the bias in s.")
    for (residue, matrix), rows in table.groupby(["residue", "matrix"], sort=False):
        say(f"\n{residue} residue, {matrix} matrix")
        say(f"  {'':<12}" + "".join(f"{name.upper():>16}" for name in MAPS))
        for label, part in rows.groupby("estimator", sort=False):
            cells = part.set_index("map")
            texts = [
                f"{cells.loc[m, 'bias' if m == 'delay' else 'relative_bias']:+.2f} / {cells.loc[m, 'r']:.3f}"
                for m in MAPS
            ]
            say(f"  {label:<12}" + "".join(f"{text:>16}" for text in texts).replace("-", "−"))
    keys = table[["residue", "matrix", "estimator", "map"]].agg("_".join, axis=1)
    return dict(zip(keys, table["r"].astype(float), strict=True))


def _estimated(curves, case, options):
    from perfkit.maps import perfusion_maps

    found = perfusion_maps(curves, case.truth["aif"], case.dt, **options)
    delay = found.tmax if found.delay is None else found.delay
    return {"cbf": found.cbf, "cbv": found.cbv, "mtt": found.mtt, "delay": delay}


def _blocks(values, side=4):
    """Average the tiles over squares of voxels: (X, Y, Z, …) of 224 × 224 becomes (56, 56, Z, …)."""
    tiles = values[:224, :224]
    shape = (224 // side, side, 224 // side, side, *tiles.shape[2:])
    return tiles.reshape(shape).mean(axis=(1, 3), dtype=np.float64)


def _errors(found, truth):
    error = np.asarray(found, float) - truth
    return {
        "n": int(error.size),
        "bias": float(error.mean()),
        "rms": float(np.sqrt((error**2).mean())),
        "relative_bias": float(error.mean() / truth.mean()),
        "r": float(np.corrcoef(np.ravel(found), np.ravel(truth))[0, 1]),
    }
