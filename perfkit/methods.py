"""The automatic AIF methods side by side: their curves against the truth, and the cores that follow."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from perfkit import aif, annotations, arms, curves, evaluation, paths
from perfkit.preprocessing import prepare

TRUE, CONTROL = "true AIF", "brain mean"  # rows that are no method
RATER = "simulated-rater"
# Shown as median and quartiles, shown as mean; columns of ``compare_methods``.
SPREAD = ("correlation", "dttp", "dfwhm", "area_ratio")
MEANS = ("seconds", "refused", "flagged", "roc_auc", "dice")
HEADS = {
    "scans": "scans",
    "correlation": "correlation",
    "dttp": "ΔTTP (s)",
    "dfwhm": "ΔFWHM (s)",
    "area_ratio": "area ratio",
    "seconds": "s per case",
    "refused": "refused",
    "flagged": "flagged",
    "roc_auc": "AUC",
    "dice": "Dice",
}


def compare_methods(
    cohort, methods=tuple(aif.METHODS), *, rater: str = "", progress: bool = True, say: Callable = print
):
    """Run every method over a cohort, beside a rater, the brain's mean curve and, on phantoms, the truth.

    Parameters
    ----------
    cohort : datasets.Cohort; a scan that cannot be read is told and left out.
    methods : names of ``aif.METHODS``.
    rater : whose picks stand beside them. Empty: the simulated rater's, left out where there are none.
    progress : show a bar.
    say : called with a line for each scan left out.

    Returns
    -------
    DataFrame, a row per scan and method: case, patient, method; reason (of a refusal, else empty), refused,
    flagged, notes, voxels, peak (HU), score, seconds; against the true AIF correlation, dttp, dfwhm (s, found
    minus true) and area_ratio; roc_auc and dice of the core by the pipeline of Table 1. NaN where there is no
    truth, no core or no AIF.

    Raises
    ------
    ValueError : unknown method, or a rater without picks for this cohort.

    Notes
    -----
    The seconds are those of the selection from a prepared scan, without imports. The truth is the undisturbed
    curve; what is found was smoothed with 1 s and 2 mm, which alone widens it by some tenths of a second.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    unknown = [method for method in methods if method not in aif.METHODS]
    if unknown:
        raise ValueError(f"The methods are {', '.join(aif.METHODS)}: {unknown[0]!r} came.")
    picks, rater = _picks(cohort, rater), rater or RATER
    rows, warm = [], set()
    for scan in tqdm(cohort.scans, desc="AIF methods", unit="scan", disable=not progress):
        try:
            case = scan.load()
            prepared = prepare(case)
        except (OSError, ValueError) as error:
            say(f"{scan.id} is left out: {error}")
            continue
        truth = np.asarray(case.truth["aif"], float) if "aif" in case.truth else None
        finders = _finders(methods, prepared, case, picks, rater, truth)
        for name, find in finders.items():
            if name in aif.METHODS and name not in warm:
                warm.add(name)
                _tried(find)  # the first call imports its library
            rows.append(_row(name, find, prepared, truth))
    return pd.DataFrame(rows)


def method_table(scores):
    """Summarise ``compare_methods``: a row per method.

    Parameters
    ----------
    scores : DataFrame of ``compare_methods``.

    Returns
    -------
    DataFrame indexed by method: scans; the median of each figure against the truth, with ``_q1`` and ``_q3``;
    the means of seconds, refused, flagged (shares; flagged of those found), roc_auc and dice.
    """
    import pandas as pd

    table = {}
    for method, rows in scores.groupby("method", sort=False):
        found = rows[~rows["refused"]]
        summary = {"scans": len(rows)}
        for name in SPREAD:
            quartiles = found[name].quantile([0.5, 0.25, 0.75]).to_list()
            summary |= dict(zip((name, f"{name}_q1", f"{name}_q3"), quartiles, strict=True))
        summary |= {name: found[name].mean() for name in MEANS}
        summary["refused"] = rows["refused"].mean()
        table[method] = summary
    return pd.DataFrame(table).T


def as_markdown(table) -> str:
    """Write a ``method_table`` as a table to read: median (quartiles), shares in per cent.

    Parameters
    ----------
    table : DataFrame of ``method_table``.
    """
    head = ["AIF", *HEADS.values()]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for method, row in table.iterrows():
        cells = [_cell(name, row) for name in HEADS]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(name, row):
    value = row[name]
    if np.isnan(value):
        return "-"
    if name == "scans":
        return f"{value:.0f}"
    if name in ("refused", "flagged"):
        return f"{value:.0%}"
    if name in ("roc_auc", "dice"):
        return f"{value:.3f}"
    if name not in SPREAD:
        return f"{value:.2f}"
    sign = "+" if name in ("dttp", "dfwhm") else ""
    digits = 3 if name == "correlation" else 2
    middle, low, high = (format(row[f"{name}{end}"], f"{sign}.{digits}f") for end in ("", "_q1", "_q3"))
    return f"{middle} ({low}, {high})"


def _picks(cohort, rater):
    files = annotations.rater_files(cohort.folder, paths.data_folder() / "aif")
    if rater and rater not in files:
        raise ValueError(
            f"A rater has a file of picks for {cohort.folder}: {rater!r} has none. "
            f"Raters: {', '.join(sorted(files)) or 'none'}."
        )
    return annotations.latest(files[rater or RATER]) if (rater or RATER) in files else None


def _finders(methods, prepared, case, picks, rater, truth):
    """Name -> function that finds the AIF of one scan, in the order of the table."""
    finders = {}
    if truth is not None:
        finders[TRUE] = lambda: _assessed(aif.AIF(truth, np.empty((0, 3), int), prepared.dt, TRUE), prepared)
    if picks is not None:
        finders[rater] = lambda: _assessed(aif.expert_aif(prepared, picks, case), prepared)
    finders |= {m: lambda m=m: aif.select_aif(prepared, m) for m in methods}
    finders[CONTROL] = lambda: _assessed(aif.brain_mean_aif(prepared), prepared)
    return finders


def _assessed(found, prepared):
    return aif.judged(found, aif.brain_mean_aif(prepared).curve)


def _tried(find):
    try:
        return find(), ""
    except ValueError as error:
        return None, str(error)


def _row(name, find, prepared, truth):
    start = time.perf_counter()
    found, reason = _tried(find)
    seconds = time.perf_counter() - start
    row = {"case": prepared.id, "patient": prepared.patient, "method": name}
    row |= {"refused": found is None, "reason": reason, "flagged": False, "notes": ""}
    row |= dict.fromkeys(("voxels", "peak", "score", "seconds", *SPREAD, "roc_auc", "dice"), np.nan)
    if name in aif.METHODS:
        row["seconds"] = seconds
    if found is None:
        return row
    row |= {"flagged": found.flagged, "notes": " ".join(found.notes), "voxels": len(found.voxels)}
    row |= {"peak": found.peak, "score": found.score}
    if truth is not None:
        row |= _against(found.curve, truth, prepared.dt)
    if prepared.core is not None:
        row |= _downstream(prepared, found.curve)
    return row


def _against(curve, truth, dt):
    width, time_of = curves.full_width_half_maximum, curves.time_to_peak
    return {
        "correlation": float(np.corrcoef(curve, truth)[0, 1]) if np.ptp(curve) > 0 else np.nan,
        "dttp": float(time_of(curve, dt) - time_of(truth, dt)),
        "dfwhm": float(width(curve, dt) - width(truth, dt)),
        "area_ratio": float(np.sum(curve) / np.sum(truth)),
    }


def _downstream(prepared, curve):
    try:
        scores = evaluation.score(prepared, arms.rcbf_map(prepared, curve))
    except ValueError:
        return {}  # an AIF that no deconvolution takes, or a reference tissue without flow
    return {name: scores[name] for name in ("roc_auc", "dice")}
