"""The index of the ISLES 2018 training set: two systems on the same scans, and whether a download is whole.

Volumes of OpenPerfusion and of the RAPID maps that come with the set, differences always the first − the
second; where they come from stands in ``data/reference/README.md``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import nifti, patients, volumes
from .agreement import icc21_interval, lins_ccc
from .blandaltman import bland_altman
from .datasets import Cohort, open_cohort
from .eligibility import RULES, compare_decisions, eligible
from .metrics import volume_ml
from .pairedtests import MARGINS, compare_differences

SYSTEMS = ("openperfusion", "rapid")
QUANTITIES = {"core": "core_ml", "hypoperfusion": "hypo_ml"}
COLUMNS = ("quantity", "statistic", "unit", "n", "n_patients", "value", "low", "high", "p", "method", "note")
KAPPA = ("kappa", "kappa_low", "kappa_high")
DIFFERENCE_COLUMNS = ("case", "smir_id_4dpwi", "what", "expected", "found")
VOLUME_TOLERANCE = 0.01  # ml; our choice: above the rounding of the index (1e-4), below any voxel of the set


def training_index(path: str | Path = patients.INDEX):
    """Read the index: a row per scan, columns as ``data/reference/README.md`` says.

    Parameters
    ----------
    path : of the CSV file.

    Returns
    -------
    DataFrame, 94 scans of 63 patients; ``patient`` as text.

    Raises
    ------
    FileNotFoundError : the file comes with a clone of the repository and is not there.
    """
    import pandas as pd

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"The index of ISLES 2018 comes with a clone of perfkit, and {path} is not there."
        )
    return pd.read_csv(path, dtype={"patient": str})


def patient_index(index=None):
    """Join the slabs of each patient: volumes are summed, Dice is that of the joined masks.

    Parameters
    ----------
    index : DataFrame of `training_index`; default: that one.

    Returns
    -------
    DataFrame, a row per patient: patient, n_scans, the volumes, and Dice with the lesion.

    Notes
    -----
    The overlap of a slab is Dice × (core + lesion) / 2, and overlaps add up. An empty core has Dice 0.
    """
    index = training_index() if index is None else index
    both = {system: index[f"core_ml_{system}"] + index["lesion_ml"] for system in SYSTEMS}
    overlaps = {f"overlap_{name}": index[f"dice_core_lesion_{name}"] * both[name] / 2 for name in SYSTEMS}
    summed = [f"{quantity}_{system}" for quantity in QUANTITIES.values() for system in SYSTEMS]
    groups = index.assign(**overlaps).groupby("patient", sort=False)
    table = groups[[*summed, "lesion_ml", *overlaps]].sum()
    for system in SYSTEMS:
        total = table[f"core_ml_{system}"] + table["lesion_ml"]
        table[f"dice_core_lesion_{system}"] = 2 * table.pop(f"overlap_{system}") / total.where(total > 0)
    return table.fillna(0.0).assign(n_scans=groups.size()).reset_index()


def agreement_of_systems(index=None, *, seed=0):
    """Say how far the two systems agree, on scans and on patients, and how each meets the drawn lesion.

    Parameters
    ----------
    index : DataFrame of `training_index`; default: that one.
    seed : of the bootstrap and the sign flips.

    Returns
    -------
    DataFrame, columns ``COLUMNS``, a row per quantity, statistic and unit. ``quantity``: core,
    hypoperfusion (OpenPerfusion − RAPID), "core − lesion" of each system, the eligibility rules, and Dice
    with the lesion. ``low`` and ``high`` are 95 % limits: over scans a bootstrap of patients, over patients
    by formula; ``method`` and ``note`` say which, and what is to be minded.
    """
    import pandas as pd

    scans = training_index() if index is None else index
    tables = {"scan": scans, "patient": patient_index(scans)}
    rows = []
    for unit, table in tables.items():
        owner = table["patient"] if unit == "scan" else None
        pairs = {
            name: [table[f"{column}_{system}"] for system in SYSTEMS] for name, column in QUANTITIES.items()
        }
        pairs |= {
            f"core − lesion, {name}": [table[f"core_ml_{name}"], table["lesion_ml"]] for name in SYSTEMS
        }
        for quantity, (x, y) in pairs.items():
            named = {
                "quantity": quantity,
                "unit": unit,
                "n": len(x),
                "n_patients": table["patient"].nunique(),
            }
            rows += [named | row for row in _agreement(x, y, owner, seed)]
    for rule in RULES:
        rows.append(_decisions(tables["patient"], rule))
    for unit, table in tables.items():
        rows += _dice_rows(table, unit, seed)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _agreement(x, y, owner, seed):
    found = bland_altman(x, y, patients=owner, seed=seed)
    said = {"method": found.method, "note": found.note}
    rows = [{"statistic": "SD of differences (ml)", "value": found.sd, "method": "", "note": ""}]
    names = {"bias": "bias (ml)", "lower": "lower limit (ml)", "upper": "upper limit (ml)"}
    names |= {"slope": "slope of difference on mean", "sd_ratio": "ratio of SDs"}
    for name, words in names.items():
        limits = {end: getattr(found, f"{name}_{end}") for end in ("low", "high")}
        rows.append({"statistic": words, "value": getattr(found, name)} | limits | said)
    rows[-2]["p"] = found.slope_p
    rows[-1]["p"] = found.pitman_morgan_p if owner is None else np.nan  # scans are not independent pairs
    for words, statistic in (("ICC(2,1)", icc21_interval), ("Lin's CCC", lins_ccc)):
        one = statistic(x, y, patients=owner, seed=seed)
        numbers = {"value": one.value, "low": one.low, "high": one.high}
        rows.append({"statistic": words} | numbers | {"method": one.method, "note": one.note})
    return rows


def _decisions(table, rule):
    found = compare_decisions(
        *(eligible(table[f"core_ml_{name}"], table[f"hypo_ml_{name}"], rule) for name in SYSTEMS)
    )
    numbers = {name: found.get(key) for name, key in zip(("value", "low", "high"), KAPPA, strict=True)}
    counts = f"eligible {found['eligible']} and {found['eligible_against']}"
    named = {"quantity": f"eligible by {rule}", "statistic": "Cohen's κ", "unit": "patient"}
    named |= {"n": found["n"], "n_patients": found["n"], "method": "Fleiss, Cohen & Everitt 1969"}
    return named | numbers | {"note": "; ".join(filter(None, [counts, found["note"]]))}


def _dice_rows(table, unit, seed):
    """Return the mean Dice of each system; on patients also the paired difference with its tests."""
    values = {name: table[f"dice_core_lesion_{name}"].to_numpy(float) for name in SYSTEMS}
    named = {"quantity": "Dice with the lesion", "unit": unit, "n": len(table)}
    named["n_patients"] = table["patient"].nunique()
    rows = [
        named | {"statistic": f"mean, {name}", "value": dice.mean(), "note": f"SD {dice.std(ddof=1):.3f}"}
        for name, dice in values.items()
    ]
    if unit == "scan":
        return rows
    found = compare_differences(values["openperfusion"] - values["rapid"], 0, MARGINS["dice"], seed=seed)
    tests = {
        "mean difference": (
            "mean_difference",
            "mean_low",
            "mean_high",
            "permutation_p",
            "sign-flip permutation",
        ),
        "Hodges-Lehmann difference": (
            "hodges_lehmann",
            "hl_low",
            "hl_high",
            "wilcoxon_p",
            "Wilcoxon signed-rank",
        ),
    }
    for words, (value, low, high, p, method) in tests.items():
        numbers = {"value": found[value], "low": found[low], "high": found[high], "p": found[p]}
        rows.append(named | {"statistic": words} | numbers | {"method": method, "note": found["note"]})
    equivalence = {"value": found["mean_difference"], "low": found["tost_low"], "high": found["tost_high"]}
    equivalence |= {"p": max(found["tost_p_lower"], found["tost_p_upper"]), "method": "two one-sided t-tests"}
    note = f"{found['equivalence']} within ±{MARGINS['dice']:g}; the limits are at 90 %"
    return [*rows, named | {"statistic": "equivalence"} | equivalence | {"note": note}]


def check_download(cohort: Cohort | str | Path, index=None):
    """Compare scans on disk with the index, matched by the number of their 4DPWI series.

    Parameters
    ----------
    cohort : Cohort, or a folder with the ISLES 2018 training set.
    index : DataFrame of `training_index`; default: that one.

    Returns
    -------
    DataFrame, columns ``DIFFERENCE_COLUMNS``, a row per difference, none where all is as it should be:
    ``what`` is "missing" (a scan of the index), "not in the index", "broken", "shape", "core" (no mask),
    "lesion_ml" or "repeated". Only headers and core masks are read.
    """
    import pandas as pd

    cohort = cohort if isinstance(cohort, Cohort) else open_cohort(cohort)
    index = training_index() if index is None else index
    expected = {int(row["smir_id_4dpwi"]): row for row in index.to_dict("records")}
    rows, seen = [], {}
    for scan in cohort.scans:
        where = {"case": scan.id, "smir_id_4dpwi": scan.number}
        if scan.number not in expected:
            rows.append(where | {"what": "not in the index", "found": scan.name})
        elif scan.number in seen:
            rows.append(
                where | {"what": "repeated", "expected": "once", "found": f"also {seen[scan.number]}"}
            )
        else:
            seen[scan.number] = scan.id
            rows += [where | row for row in _differences(scan, expected[scan.number])]
    for number in [number for number in expected if number not in seen]:
        case = f"case_{expected[number]['case']}"
        rows.append({"case": case, "smir_id_4dpwi": number, "what": "missing", "expected": "one scan"})
    return pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS)).fillna("")


def _differences(scan, row):
    if scan.problem:
        return [{"what": "broken", "expected": "a sound series", "found": scan.problem}]
    found = []
    shape = tuple(int(row[name]) for name in ("nx", "ny", "nz", "nt"))
    if scan.shape != shape:
        found.append({"what": "shape", "expected": _sides(shape), "found": _sides(scan.shape)})
    if scan.core_path is None:
        return [*found, {"what": "core", "expected": "an OT file", "found": "none"}]
    try:
        header = nifti.read_header(scan.path)
        ml = volume_ml(volumes.read_mask(scan.core_path, "core", header), scan.spacing)
    except (OSError, ValueError) as problem:
        return [*found, {"what": "broken", "expected": "a sound core", "found": str(problem)}]
    if abs(ml - row["lesion_ml"]) > VOLUME_TOLERANCE:
        found.append({"what": "lesion_ml", "expected": f"{row['lesion_ml']:.4f}", "found": f"{ml:.4f}"})
    return found


def _sides(shape):
    return " × ".join(map(str, shape))
