"""How often conformal intervals hold: volumes of phantom patients with their truth, calibrated and fresh.

The calibration patients and the fresh ones are two phantom cohorts with seeds of their own; nothing is chosen
on the fresh ones. Small phantoms are cheap and noisy, their volumes far from their truth: that makes the
intervals wide, not wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, takewhile

import numpy as np

from perfkit import parallel
from perfkit.conformal import VolumeIntervals, decide
from perfkit.eligibility import eligible
from perfkit.scanresult import THRESHOLDS

PATIENTS = 800  # in each cohort; with so many the rank alone leaves 90 ± 2 % (2 sd of its Beta distribution)
SEEDS = (181, 182)  # calibration, fresh; our choice: not used elsewhere
VOLUMES = ("core", "mismatch")
RULE = "DEFUSE 3"
GROUPS = 3  # thirds of the predicted volume, where sizes are fitted apart
BOTH = 0.95  # level of each of two intervals that together hold in 90 % (Bonferroni)


def patient_volumes(seed: int, patients: int = PATIENTS, *, size: str = "tiny", method: str = "straka"):
    """Measure core and mismatch of phantom patients with every estimator, and the true ones.

    Parameters
    ----------
    seed : of the phantom cohort
    patients : how many; about half of them have two slabs, whose volumes are summed
    size : of the phantoms, as ``phantom.make_case``
    method : of ``aif.select_aif``

    Returns
    -------
    DataFrame, one row per patient, ml: true_core, true_mismatch and, for each estimator, <estimator>_core and
    <estimator>_mismatch. Patients with a slab in which no artery was found are missing; their number is
    ``attrs["lost"]``.

    Notes
    -----
    Core is rCBF below the estimator's threshold in tissue, mismatch is Tmax > 6 s in tissue outside of it.
    The truth is the phantom's physiological core and its penumbra.
    """
    import pandas as pd

    recipes = _recipes(seed, patients, size)
    rows = pd.DataFrame(parallel.each(lambda recipe: _volumes(recipe, method), recipes))
    found = rows.groupby("patient").sum(min_count=1)
    lost = rows.loc[rows["true_core"].isna(), "patient"].unique()
    found = found.drop(index=lost)
    found.attrs["lost"] = len(lost)
    return found


def _recipes(seed, patients, size) -> Iterator:
    from perfkit.recipe import draw_recipe

    drawn = (draw_recipe(seed, case, size=size) for case in count(1))
    return takewhile(lambda recipe: recipe.patient <= patients, drawn)


def _volumes(recipe, method) -> dict:
    from perfkit.aif import select_aif
    from perfkit.maps import core_mask, penumbra_mask, perfusion_maps, relative_cbf
    from perfkit.metrics import volume_ml
    from perfkit.phantom import render
    from perfkit.preprocessing import prepare

    case = render(recipe)
    scan = prepare(case)
    try:
        aif = select_aif(scan, method).curve
    except ValueError:  # no artery in these slices
        return {"patient": recipe.patient, "true_core": np.nan}
    found = {"patient": recipe.patient}
    for name, key in (("core", "core"), ("mismatch", "penumbra")):
        found[f"true_{name}"] = volume_ml(case.truth[key], scan.spacing)
    for estimator, threshold in THRESHOLDS.items():
        options = {"noise": scan.frame_noise} if estimator == "calibrated" else {}
        maps = perfusion_maps(
            scan.concentration,
            aif,
            scan.dt,
            estimator=estimator,
            mask=scan.brain,
            only=("cbf", "tmax"),
            **options,
        )
        core = core_mask(relative_cbf(maps.cbf, scan.reference_tissue), scan.tissue, threshold)
        late = penumbra_mask(maps.tmax, core, scan.tissue)
        for name, mask in (("core", core), ("mismatch", late)):
            found[f"{estimator}_{name}"] = volume_ml(mask, scan.spacing)
    return found


def coverage_table(calibration, fresh, *, level: float = 0.90, groups: int = 1):
    """Count how many fresh patients' true volumes lie in intervals fitted on the calibration patients.

    Parameters
    ----------
    calibration, fresh : DataFrames of ``patient_volumes``
    level, groups : of the intervals, as ``VolumeIntervals.fit``

    Returns
    -------
    DataFrame, one row per estimator × volume × part: "all", and the thirds of the fresh patients by predicted
    and by true volume. Columns n, share covered with its 95 % Wilson interval (low, high), and the median
    width in ml.
    """
    import pandas as pd
    from scipy import stats

    rows = []
    for estimator in THRESHOLDS:
        for volume in VOLUMES:
            column, truth = f"{estimator}_{volume}", f"true_{volume}"
            known = calibration[column], calibration[truth]
            intervals = VolumeIntervals.fit(*known, level=level, groups=groups)
            predicted, true = (fresh[name].to_numpy() for name in (column, truth))
            low, high, _ = intervals.interval(predicted)
            held = (low <= true) & (true <= high)
            for part, rows_of in _parts(predicted, true).items():
                k, n = int(held[rows_of].sum()), int(rows_of.sum())
                bounds = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
                found = {"estimator": estimator, "volume": volume, "part": part, "n": n, "share": k / n}
                found |= {"low": float(bounds.low), "high": float(bounds.high)}
                rows.append(found | {"width_ml": float(np.median((high - low)[rows_of]))})
    return pd.DataFrame(rows)


def _parts(predicted, true) -> dict:
    """Everybody, and thirds by rank: with ties (0 ml) a third is still a third."""
    parts = {"all": np.ones(len(true), bool)}
    for name, volumes in (("predicted", predicted), ("true", true)):
        third = 3 * np.argsort(np.argsort(volumes, kind="stable")) // len(volumes)
        parts |= {f"{size} {name}": third == i for i, size in enumerate(("small", "middle", "large"))}
    return parts


def decision_table(calibration, fresh):
    """Count how often eligibility is certain, and how often it is then what the true volumes say.

    Parameters
    ----------
    calibration, fresh : as for ``coverage_table``

    Returns
    -------
    DataFrame, one row per estimator: n, share certain, share right among the certain and among the others,
    and ``plain_right``, the share that the volumes as predicted decide right.
    """
    import pandas as pd

    core, late = fresh["true_core"], fresh["true_mismatch"]
    truth = eligible(core, core + late, RULE) > 0
    rows = []
    for estimator in THRESHOLDS:
        seen = [fresh[f"{estimator}_{volume}"].to_numpy() for volume in VOLUMES]
        intervals = [
            VolumeIntervals.fit(
                calibration[f"{estimator}_{volume}"], calibration[f"true_{volume}"], level=BOTH
            ).interval(predicted)
            for volume, predicted in zip(VOLUMES, seen, strict=True)
        ]
        decision = decide(*intervals, RULE)
        right, certain = decision.eligible == truth, decision.certain
        found = {"estimator": estimator, "n": len(truth), "certain": float(certain.mean())}
        found["right_certain"] = float(right[certain].mean()) if certain.any() else np.nan
        found["right_open"] = float(right[~certain].mean()) if (~certain).any() else np.nan
        found["plain_right"] = float(np.mean((eligible(seen[0], sum(seen), RULE) > 0) == truth))
        rows.append(found)
    return pd.DataFrame(rows)


def measure(say: Callable = print, *, patients: int = PATIENTS) -> dict:
    """Print coverage and decisions and return the shares, as ``perfkit bench conformal`` does."""
    calibration, fresh = (patient_volumes(seed, patients) for seed in SEEDS)
    lost = calibration.attrs["lost"] + fresh.attrs["lost"]
    say(
        f"{len(calibration)} calibration and {len(fresh)} fresh patients, phantoms of size tiny; "
        f"{lost} left out: no artery found."
    )
    limits = " and ".join(f"{limit:g} ({name})" for name, limit in THRESHOLDS.items())
    say(f"AIF: straka; core: rCBF below {limits}; mismatch: Tmax > 6 s outside of it.")
    table = coverage_table(calibration, fresh)
    _say_coverage(table, say)
    _say_groups(coverage_table(calibration, fresh, groups=GROUPS), say)
    _say_decisions(decision_table(calibration, fresh), say)
    keys = table[["estimator", "volume", "part"]].agg("_".join, axis=1).str.replace(" ", "_")
    return dict(zip(keys, table["share"].astype(float), strict=True))


def _say_coverage(table, say):
    say(
        "Share of the fresh patients whose true volume lies in its 90 % interval (95 % interval of the share)"
    )
    for row in table.itertuples():
        if row.part == "all":
            say(f"\n{row.volume}, {row.estimator}")
        share = f"{100 * row.share:5.1f} % ({100 * row.low:.1f}-{100 * row.high:.1f})"
        say(f"  {row.part:<17}{share:<22} n {row.n:3d}  median width {row.width_ml:6.1f} ml")
    say("\nThe first line of each is what conformal prediction guarantees; the thirds it does not.")


def _say_groups(table, say):
    say("\nFitted apart for thirds of the predicted volume: all; small, middle, large predicted; same, true")
    for (estimator, volume), rows in table.groupby(["estimator", "volume"], sort=False):
        shares = " ".join(f"{100 * share:5.1f}" for share in rows["share"])
        width = rows["width_ml"].iloc[0]
        say(f"  {volume + ', ' + estimator:<21}{shares} %  median width {width:.1f} ml")


def _say_decisions(table, say):
    say(f"\n{RULE} with both intervals at {100 * BOTH:g} %, against the true volumes")
    for row in table.itertuples():
        say(
            f"  {row.estimator:<11} certain in {row.certain:.0%}; right: {row.right_certain:.0%} of these, "
            f"{row.right_open:.0%} of the others; {row.plain_right:.0%} of all by the volumes as predicted"
        )
