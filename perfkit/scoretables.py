"""Tables of scores: their arms and metrics, how they are printed, and what is asked of them at the door.

A table has a row per unit (scan or patient), arm and matrix. A value that is not defined is NaN; it is left
out and counted, never replaced.
"""

from __future__ import annotations

import numpy as np

ARMS = ("expert", "automatic", "cnn", "brain_mean")
METRICS = ("roc_auc", "dice", "jaccard", "hd95_mm")
# as Table 1 prints its metrics; shares like Dice, every other metric 1
DECIMALS = {"roc_auc": 3, "dice": 3, "jaccard": 3, "sensitivity": 3, "specificity": 3}
ROUNDING = 1e-9  # our choice: differences below it are rounding, no metric is known better
_SOURCES = {"case": "scores.csv", "patient": "patients.csv"}


def ordered_arms(arms) -> list[str]:
    """Return the different arms in the order of the paper, unknown ones last."""
    present = list(dict.fromkeys(arms))
    return [arm for arm in ARMS if arm in present] + [arm for arm in present if arm not in ARMS]


def format_value(metric, value) -> str:
    """Write a value of a metric with the decimals Table 1 gives it; "–" where undefined."""
    return f"{value:.{DECIMALS.get(metric, 1)}f}" if np.isfinite(value) else "–"


def p_value(p) -> str:
    """Write a p-value as journals print it: "p = .012", "p < .001"."""
    if not np.isfinite(p):
        return "p –"
    if p < 0.001:
        return "p < .001"
    text = f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return f"p = {text.removeprefix('0')}"


def count(n, noun) -> str:
    """Write a count with its noun."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def rows_of_matrix(table, matrix, metrics, unit="case"):
    """Return the rows of one matrix, one per unit and arm.

    Parameters
    ----------
    table : DataFrame, one row per unit × arm × matrix.
    matrix : the deconvolution matrix.
    metrics : columns that must be there.
    unit : "case" (scan) or "patient".

    Raises
    ------
    ValueError : columns are missing, no row of the matrix, or a unit twice.
    """
    what = "scan" if unit == "case" else "patient"
    keys = list(dict.fromkeys([unit, "patient", "arm", "matrix"]))
    missing = [column for column in [*keys, *metrics] if column not in table.columns]
    if missing:
        raise ValueError(
            f"scores must have one row per {what} × arm × matrix with the columns {[*keys, *metrics]}: "
            f"{missing} are missing. Try the table that the evaluation of the arms writes "
            f"({_SOURCES[unit]})."
        )
    rows = table[table["matrix"] == matrix]
    if rows.empty:
        raise ValueError(
            f"scores must hold rows of the matrix asked for: {matrix!r} was asked for, "
            f"scores hold {sorted(set(table['matrix']))}."
        )
    twice = rows.duplicated([unit, "arm"])
    if twice.any():
        name, arm = rows.loc[twice, [unit, "arm"]].iloc[0]
        hint = "scores.drop_duplicates() or keep one run" if unit == "case" else "the table with slabs joined"
        raise ValueError(
            f"scores must hold one row per {what} × arm × matrix: {unit} {name!r}, arm {arm!r}, matrix "
            f"{matrix!r} comes more than once. Try {hint}."
        )
    return rows


def check_reference(rows, reference) -> None:
    """Raise ValueError unless ``reference`` is an arm of ``rows``."""
    if reference not in set(rows["arm"]):
        raise ValueError(
            f"The reference must be an arm of scores: {reference!r} is not in {ordered_arms(rows['arm'])}."
        )


def comparators(rows, reference) -> list[str]:
    """Return all arms but the reference, in order."""
    return [arm for arm in ordered_arms(rows["arm"]) if arm != reference]


def paired_rows(rows, arm, reference, columns, unit="case"):
    """Put two arms side by side.

    Parameters
    ----------
    rows : DataFrame of `rows_of_matrix`.
    arm, reference : names.
    columns : to pair.
    unit : "case" (scan) or "patient".

    Returns
    -------
    DataFrame with ``patient`` (and ``case``) and, per column, ``<column>_arm`` and ``<column>_reference``,
    only units with a finite value everywhere; and the number of units left out. Of patients, those are left
    out too whose arms were scored on different ``cases``: with one slab less an arm is not comparable.
    """
    keys = list(dict.fromkeys([unit, "patient"]))
    sides = [rows[rows["arm"] == name].set_index(keys)[list(columns)] for name in (arm, reference)]
    wide = sides[0].add_suffix("_arm").join(sides[1].add_suffix("_reference"), how="outer")
    defined = np.isfinite(wide.to_numpy(dtype=float)).all(axis=1)
    if unit == "patient" and "cases" in rows.columns:  # of a patient both arms must have seen the same slabs
        seen = [rows[rows["arm"] == name].set_index(keys)["cases"] for name in (arm, reference)]
        defined &= (seen[0].reindex(wide.index) == seen[1].reindex(wide.index)).to_numpy()
    return wide[defined].reset_index(), int((~defined).sum())
