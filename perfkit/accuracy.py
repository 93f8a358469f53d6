"""The estimator table: every matrix with every regularisation, against truths that are known.

Five views: the Kudo grid, where every number is given; phantom scans with anatomy, noise and partial volume;
changes that leave the tissue as it was; the core's threshold over widths of the bolus; and what the choice of
the AIF does to plain and to calibrated maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from perfkit import aifeffect, cohortaccuracy, estimators, metamorphic

RESIDUES = ("exponential", "linear", "box")
SCANS = range(1, 13)  # our choice: 12 scans of 1-2 s each
AIF_SCANS = range(1, 25)  # our choice: of 17 patients with a core in the sample


def accuracy_table(noise_hu: float = 0.7, seed: int = 0, residues: Sequence[str] = RESIDUES):
    """Compare the maps of all estimators with the truth of the Kudo grid.

    Parameters
    ----------
    noise_hu : HU, standard deviation of white noise in every voxel; maps are read from tiles averaged to
        8 × 8 blocks of 4 × 4 voxels, as no one reads single voxels of such a phantom
    seed : of the noise
    residues : families of ``kudo.kudo_phantom``

    Returns
    -------
    DataFrame, one row per residue × matrix × estimator × map: n (blocks of 5 slices), bias and rms (of the
    estimate less the truth, in the map's unit), relative bias, Pearson's r over the blocks, and r_image, the
    smallest r of the five images (one per CBV, which is constant there: NaN). Plain estimators have no delay:
    their Tmax stands for it.
    """
    import pandas as pd

    from perfkit.kudo import kudo_phantom

    rows = []
    for residue in residues:
        case = kudo_phantom(residue=residue, noise_hu=noise_hu, seed=seed)
        inside = _blocks(case.ctp - case.ctp[..., :4].mean(axis=-1, keepdims=True))
        truth = {name: _blocks(np.asarray(case.truth[name])) for name in estimators.MAPS}
        for matrix, label, options in estimators.combinations():
            found = estimators.read(inside, case.truth["aif"], case.dt, options)
            names = {"residue": residue, "matrix": matrix, "estimator": label}
            for m in estimators.MAPS:
                errors = estimators.errors(found[m], truth[m])
                rows.append(names | {"map": m} | errors | {"r_image": _least_r(found[m], truth[m])})
    return pd.DataFrame(rows)


def _least_r(found, truth):
    """Pearson's r within each slice, the smallest; NaN where the truth does not vary."""
    if np.ptp(truth, axis=(0, 1)).min() == 0:
        return np.nan
    slices = range(truth.shape[2])
    return min(float(np.corrcoef(found[..., z].ravel(), truth[..., z].ravel())[0, 1]) for z in slices)


def measure(
    say: Callable = print, scans: Sequence[int] = SCANS, aif_scans: Sequence[int] = AIF_SCANS
) -> dict:
    """Print all five views, as ``perfkit bench accuracy`` does.

    Parameters
    ----------
    say : called with each line
    scans : numbers of the phantom scans for the second view
    aif_scans : numbers of those for the last

    Returns
    -------
    dict from what was measured to a number: correlations of all maps, Dice, and how far rCBF moves
    """
    return _kudo(say) | _cohort(say, scans) | _metamorphic(say) | _widths(say) | _aifs(say, aif_scans)


def _kudo(say):
    table = accuracy_table()
    say("Kudo grid: 30 frames of 2 s, noise 0.7 HU, blocks of 4 × 4 voxels, CBV 1-5 ml/100 g pooled.")
    say("Relative bias / Pearson's r with the truth; for delay the bias in s.")
    for (residue, matrix), rows in table.groupby(["residue", "matrix"], sort=False):
        say(f"\n{residue} residue, {matrix} matrix")
        _print_maps(say, rows)
    keys = ["residue", "matrix", "estimator", "map"]
    varied = table[table["map"].isin(["cbf", "mtt"])]
    say("\nKudo grid, each image by itself (one CBV, one residue): the smallest r of five, CBF / MTT")
    for (matrix, label), rows in varied.groupby(["matrix", "estimator"], sort=False):
        least = rows.set_index(["residue", "map"])["r_image"]
        pairs = [
            f"{residue} {least[residue, 'cbf']:.3f} / {least[residue, 'mtt']:.3f}"
            for residue in table["residue"].unique()
        ]
        say(f"  {matrix} {label}: " + ", ".join(pairs))
    return _numbers(table, keys, "r", "kudo") | _numbers(varied, keys, "r_image", "kudo_image")


def _cohort(say, scans):
    maps, cores = cohortaccuracy.cohort_table(scans)
    values = ["bias", "relative_bias", "rms", "r"]
    mean = maps.groupby(["matrix", "estimator", "map"], sort=False)[values].mean().reset_index()
    say(f"\n{len(scans)} phantom scans of size small, tissue only, true AIF: means over scans.")
    for matrix, rows in mean.groupby("matrix", sort=False):
        say(f"\nphantom scans, {matrix} matrix")
        _print_maps(say, rows)
    core = cohortaccuracy.core_table(cores)
    found = _numbers(mean, ["matrix", "estimator", "map"], "r", "cohort")
    if core.empty:
        say("\nNo scan has a core of 40 voxels or more in its sample: no Dice.")
        return found
    for name, rows in core.groupby("core", sort=False):
        what = {"late": "low flow, and late", "any": "low flow, whenever it comes"}[name]
        say(f"\nCore ({what}), Dice at rCBF 0.30 and at the best threshold, {rows['scans'].max()} scans")
        _print_cores(say, rows)
    return found | _numbers(core, ["core", "matrix", "estimator"], "dice_nominal", "dice_nominal")


def _metamorphic(say):
    table = metamorphic.metamorphic_table()
    say("\nThe scan changed, the tissue not: largest change of rCBF, Tmax (s), CBV; largest error of CBV")
    for (change, matrix), rows in table.groupby(["change", "matrix"], sort=False):
        say(f"\n{change}, {matrix} matrix")
        for row in rows.itertuples():
            cells = f"{row.rcbf:9.3f}{row.tmax:9.2f}{row.cbv:9.1%}{row.cbv_error:9.1%}"
            say(f"  {row.estimator:<12}{cells}")
    return _numbers(table, ["change", "matrix", "estimator"], "rcbf", "change")


def _widths(say):
    table = metamorphic.dice_by_width()
    mean = table.groupby(["fwhm", "estimator"], sort=False).mean(numeric_only=True).reset_index()
    say("\nCore of simulated tissue by width of the AIF, mean of four residue families")
    for fwhm, rows in mean.groupby("fwhm"):
        say(f"\nAIF {fwhm:g} s wide")
        _print_cores(say, rows)
    return _numbers(mean, ["fwhm", "estimator"], "dice_nominal", "width")


def _aifs(say, scans):
    table = aifeffect.summary(aifeffect.aif_table(scans))
    say(f"\nWhich AIF? {len(scans)} phantom scans, the label of a rater, {table['patients'].max()} patients")
    say("Dice at .38, at .30, at the other patients' best; gain over the expert's plain map ± standard error")
    for row in table.to_dict("records"):
        dice = "  ".join(f"{row[name]:.3f}" for name in ("dice_0.38", "dice_0.30", "crossvalidated"))
        gain = f"{row['gain']:+.3f} ± {row['error']:.3f}"
        say(f"  {row['aif']:<11}{row['map']:<11}{dice}  (best {row['best']:.2f})  {gain}")
    return _numbers(table, ["aif", "map"], "crossvalidated", "aif")


def _print_maps(say, rows):
    say(f"  {'':<12}" + "".join(f"{name.upper():>16}" for name in estimators.MAPS))
    for label, part in rows.groupby("estimator", sort=False):
        cells = part.set_index("map")
        texts = [
            f"{cells.loc[m, 'bias' if m == 'delay' else 'relative_bias']:+.2f} / {cells.loc[m, 'r']:.3f}"
            for m in estimators.MAPS
        ]
        say(f"  {label:<12}" + "".join(f"{text:>16}" for text in texts).replace("-", "−"))


def _print_cores(say, rows):
    for row in rows.itertuples():
        name = f"{getattr(row, 'matrix', '')} {row.estimator}".strip()
        say(f"  {name:<24}.30: {row.dice_nominal:.3f}   best {row.best:.2f}: {row.dice_best:.3f}")


def _numbers(table, keys, value, prefix):
    names = prefix + "_" + table[keys].astype(str).agg("_".join, axis=1)
    return dict(zip(names, table[value].astype(float), strict=True))


def _blocks(values, side=4):
    """Average the tiles over squares of voxels: (X, Y, Z, …) of 224 × 224 becomes (56, 56, Z, …)."""
    tiles = values[:224, :224]
    shape = (224 // side, side, 224 // side, side, *tiles.shape[2:])
    return tiles.reshape(shape).mean(axis=(1, 3), dtype=np.float64)
