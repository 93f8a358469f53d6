"""The folder of a comparison, read at one door: tables and numbers that notebook 04 left, checked by name.

What stands there may have been opened in a spreadsheet or cut by a full disk. A file without which there is
no report, or one that holds something else than it should, is named with what is wrong; what is merely
missing leaves its part of the report out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from perfkit.scoretables import METRICS

TABLES = {  # columns without which a table is none: names, then numbers
    "scores": (("case", "patient", "arm", "matrix"), METRICS),
    "patients": (("patient", "arm", "matrix"), METRICS),
    "roc": (("patient", "arm", "matrix"), ("fpr", "tpr")),
    "thresholds": (("patient", "arm", "matrix"), ("threshold", "dice")),
}
NAMES = {"case", "patient", "arm", "matrix", "cases"}  # text, whatever it looks like
STEP = {"label", "scans", "patients"}


def read_table(path: Path):
    """Read one of ``TABLES``, by the name of its file.

    Parameters
    ----------
    path : CSV file, as notebook 04 writes it; further columns of numbers are welcome.

    Returns
    -------
    DataFrame; empty cells of numbers are NaN.

    Raises
    ------
    ValueError : it is no table, lacks a column or a name, or holds text where numbers belong.
    """
    import pandas as pd

    texts, numbers = TABLES[path.stem]
    dtype = dict.fromkeys(NAMES, str)
    table = _read(path, lambda p: pd.read_csv(p, dtype=dtype, keep_default_na=False, na_values=[""]))
    missing = [name for name in (*texts, *numbers) if name not in table.columns]
    if missing:
        raise _damaged(path, f"it needs the columns {', '.join((*texts, *numbers))}; {missing[0]} is missing")
    if table.empty:
        raise _damaged(path, "it has a head and no rows")
    for name in texts:
        empty = np.flatnonzero(table[name].isna() | (table[name].str.strip() == ""))
        if empty.size:
            raise _damaged(path, f"every row names its {name}; line {empty[0] + 2} does not")
    for name in set(table.columns) - NAMES:
        if not pd.api.types.is_numeric_dtype(table[name]):
            held = pd.to_numeric(table[name], errors="coerce").isna() & table[name].notna()
            line, value = int(np.argmax(held)) + 2, table[name][held].iloc[0]
            raise _damaged(path, f"{name} holds numbers; line {line} has {value!r}")
    return table


def read_facts(path: Path) -> dict:
    """Read ``metrics.json``: cohort, parameters, notes, failures, flow, pooled AUC and reference of a run.

    Returns
    -------
    dict of arguments for ``report.write_report``; what the file does not say is empty.

    Raises
    ------
    ValueError : it is no JSON object, or one of these is of another kind.
    """
    facts = _read(path, lambda p: json.loads(p.read_text(encoding="utf-8")))
    if not isinstance(facts, dict):
        raise _damaged(path, f"it holds an object with names; a {type(facts).__name__} came")
    found = {}
    for name, (kind, right) in _KINDS.items():
        value = facts.get(name, kind())
        if not isinstance(value, kind) or not right(value):
            raise _damaged(path, f"{name} is {_WORDS[name]}; {_short(value)} came")
        found[name] = value
    found["failures"] = [entry if isinstance(entry, str) else tuple(entry) for entry in found["failures"]]
    return found | {"reference": found["reference"] or "expert"}


def read_figure(path: Path):
    """Read a plotly figure from its JSON.

    Raises
    ------
    ValueError : it is none.
    """
    import plotly.io

    return _read(path, plotly.io.read_json)


def _texts(values):
    return all(isinstance(value, str) for value in values)


def _entries(values):
    return all(isinstance(v, str) or (isinstance(v, list) and len(v) == 2 and _texts(v)) for v in values)


def _steps(values):
    return all(isinstance(value, dict) and set(value) >= STEP for value in values)


def _areas(values):
    numbers = [
        v for value in values.values() for v in (value.values() if isinstance(value, dict) else [value])
    ]
    return all(v is None or isinstance(v, int | float) for v in numbers)


_KINDS: dict[str, tuple[type, Callable]] = {
    "cohort": (str, lambda _: True),
    "parameters": (dict, lambda _: True),
    "notes": (list, _texts),
    "failures": (list, _entries),
    "flow": (list, _steps),
    "pooled_auc": (dict, _areas),
    "reference": (str, lambda _: True),
}
_WORDS = {
    "cohort": "a sentence",
    "parameters": "an object, name: value",
    "notes": "a list of sentences",
    "failures": "a list of [case, reason]",
    "flow": "a list of {label, scans, patients}",
    "pooled_auc": "an object, matrix: {arm: number}",
    "reference": "the name of an arm",
}


def _read(path, reader):
    try:
        return reader(path)
    except ValueError as error:
        raise _damaged(path, error) from None


def _damaged(path, why):
    return ValueError(f"{path} is damaged ({why}). Run notebook 04 again; it writes it anew.")


def _short(value):
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
