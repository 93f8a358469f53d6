"""Curves as tidy CSV tables: one row per case and frame."""

from __future__ import annotations

import os
from pathlib import Path


def save_aifs(path, aifs: dict) -> Path:
    """Write AIFs as a table of case, frame and value.

    Parameters
    ----------
    path : of the CSV file; it appears under this name only when it is whole
    aifs : dict from case id to (T,)

    Returns
    -------
    Path
    """
    import pandas as pd

    rows = [(case, frame, value) for case, curve in aifs.items() for frame, value in enumerate(curve)]
    return save_table(path, pd.DataFrame(rows, columns=["case", "frame", "value"]))


def load_aifs(path) -> dict:
    """Read what ``save_aifs`` wrote.

    Parameters
    ----------
    path : of the CSV file

    Returns
    -------
    dict from case id to (T,)

    Raises
    ------
    FileNotFoundError, ValueError : no such file; columns are missing.
    """
    import pandas as pd

    table = pd.read_csv(path, converters={"case": str})  # a case may be called NA
    missing = {"case", "frame", "value"} - set(table.columns)
    if missing:
        raise ValueError(
            f"A table of AIFs needs columns case, frame, value: {path} lacks {', '.join(sorted(missing))}."
        )
    by_case = table.sort_values("frame", kind="stable").groupby("case", sort=False)
    return {case: rows["value"].to_numpy() for case, rows in by_case}


def save_table(path, table) -> Path:
    """Write a DataFrame as CSV, atomically: a broken write leaves no half table."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        table.to_csv(temporary, index=False)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
