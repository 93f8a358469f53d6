"""A look at a folder of scans: what is there, what is odd, what would be skipped, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perfkit import aif, islesindex, parallel, quality
from perfkit.datasets import Cohort, open_cohort
from perfkit.preprocessing import mean_curve, prepare
from perfkit.scanchecks import CHECKS, Examined, look_at_header

HEADER_COLUMNS = ("case", "patient", "kind", "shape", "spacing", "dt", "duration_s", "core", "brain", "maps")
FACTS = ("brain_ml", "core_ml", "final_infarct_ml", "brain_hu", "lowest_hu", "highest_hu", "onset_s")
FACTS += ("tissue_peak_hu", "vessel_peak_hu", "vessel_tail", "motion_mm")
COLUMNS = (*HEADER_COLUMNS, *FACTS, "status", "odd", "why")
EXAMPLES = 3  # our choice: of the scans with the same oddity, so many are told apart


@dataclass(frozen=True, eq=False)
class Report:
    """What ``check_cohort`` found.

    Parameters
    ----------
    cohort : Cohort.
    scans : DataFrame, a row per scan, columns ``COLUMNS``; ``status`` is ok, odd or skipped, ``odd`` names
        what is odd, divided by "; ", ``why`` says it in sentences.
    findings : DataFrame, a row per scan and finding: case, what, detail, odd; those not odd are notes.
    notes : on the folder as a whole.
    quick : whether headers alone were read.
    """

    cohort: Cohort
    scans: object
    findings: object
    notes: tuple[str, ...]
    quick: bool

    @property
    def skipped(self):
        """Rows of the scans that every other command would skip."""
        return self.scans[self.scans["status"] == "skipped"]


def check_cohort(
    folder: Cohort | str | Path, *, quick=False, deep=False, progress=False, workers=None
) -> Report:
    """Look at every scan of a folder: headers first, then each is loaded once.

    Parameters
    ----------
    folder : anything ``open_cohort`` opens, or a Cohort.
    quick : read headers only.
    deep : also read the maps beside each scan and judge the AIF that is found without a rater.
    progress : show a bar.
    workers : threads; default: one per core, at most four.

    Returns
    -------
    Report. A scan that cannot be read, whatever is wrong with it, is a row of it and no error.

    Raises
    ------
    OSError, ValueError : no folder, or no scan in it.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    cohort = folder if isinstance(folder, Cohort) else open_cohort(folder)

    def look(scan):
        return _look(scan, quick, deep)

    found = parallel.each(look, cohort.scans, 1 if quick else workers)
    seen = list(tqdm(found, total=len(cohort), desc="check", unit="scan", disable=not progress))
    _compare_contents(cohort.scans, seen)
    notes = cohort.notes + _compare_with_index(cohort, seen, quick)
    rows = [_row(cohort, scan, one) for scan, one in zip(cohort.scans, seen, strict=True)]
    findings = [
        (scan.id, finding.what, finding.detail, finding.odd)
        for scan, one in zip(cohort.scans, seen, strict=True)
        for finding in one.findings
    ]
    return Report(
        cohort,
        pd.DataFrame(rows, columns=list(COLUMNS)),
        pd.DataFrame(findings, columns=["case", "what", "detail", "odd"]),
        notes,
        quick,
    )


def _look(scan, quick, deep) -> Examined:
    """Look at one scan; whatever goes wrong is what was found."""
    seen = Examined(problem=scan.problem)
    try:
        seen = look_at_header(scan)
    except Exception as error:  # our choice: a check that stops at the worst scan checks nothing
        seen.add("check failed", _in_words(error))
    if quick or scan.problem:
        return seen
    try:
        case = scan.load()
    except Exception as error:
        seen.problem = _in_words(error)
        return seen
    for note in set(getattr(case, "notes", ())) - set(scan.notes):
        seen.add_note(note)
    for check in (*CHECKS, _look_deeper) if deep else CHECKS:
        try:
            with np.errstate(all="ignore"):  # a broken scan may divide by anything
                check(case, seen)
        except Exception as error:
            seen.add("check failed", f"{check.__name__}: {_in_words(error)}")
    return seen


def _in_words(error: Exception) -> str:
    expected = isinstance(error, OSError | ValueError)
    return str(error) if expected and str(error) else f"{type(error).__name__}: {error}"


def _look_deeper(case, seen):
    """Read the maps beside a scan, and judge the AIF of the automatic method."""
    for name in case.vendor_maps:
        try:
            case.vendor_maps[name]
        except (OSError, ValueError, KeyError) as error:
            seen.add("broken map", f"{name}: {_in_words(error)}")
    prepared = prepare(case)
    found = aif.select_aif(prepared)
    tissue = mean_curve(prepared.concentration, prepared.brain)
    for warning in quality.assess(found.curve, case.dt, tissue=tissue).warnings:
        seen.add("automatic AIF", warning)


def _compare_contents(scans, seen):
    """Tell scans of equal content: copies under two names part a patient among folds."""
    first = {}
    for scan, one in zip(scans, seen, strict=True):
        if (digest := one.facts.pop("digest", None)) is None:
            continue
        if digest in first:
            one.add("copy", f"Its series is that of {first[digest]}.")
        first.setdefault(digest, scan.id)


def _compare_with_index(cohort, seen, quick):
    """Compare with the index of ISLES 2018 where scans bear its numbers; return notes on the whole."""
    if quick or cohort.kind != "ISLES 2018":
        return ()
    try:
        index = islesindex.training_index()
    except FileNotFoundError:  # it comes with a clone only
        return ()
    if not {scan.number for scan in cohort.scans} & set(index["smir_id_4dpwi"]):
        return ()
    by_case = {scan.id: one for scan, one in zip(cohort.scans, seen, strict=True)}
    differences = islesindex.check_download(cohort, index)
    for row in differences.to_dict("records"):
        testing = row["case"].startswith("testing_") and row["what"] == "not in the index"
        if row["case"] in by_case and row["what"] not in ("missing", "broken") and not testing:
            sides = ", ".join(f"{side} {row[side]}" for side in ("expected", "found") if row[side])
            by_case[row["case"]].add("unlike the index", f"{row['what']}: {sides}.")
    missing = int((differences["what"] == "missing").sum())
    words = f"{missing} of the {len(index)} training scans of ISLES 2018 are not here"
    return (f"{words}; `perfkit data index FOLDER` names them.",) if missing else ()


def _row(cohort, scan, seen):
    odd = [finding for finding in seen.findings if finding.odd]
    what = list(dict.fromkeys(finding.what for finding in odd))
    why = [seen.problem] if seen.problem else [finding.detail for finding in odd]
    status = "skipped" if seen.problem else "odd" if what else "ok"
    is_series = scan.shape is not None and len(scan.shape) == 4
    header = (
        scan.id,
        scan.patient,
        cohort.kind,
        _sides(scan.shape),
        _sides([f"{s:.4g}" for s in scan.spacing or ()]),
        scan.dt,
        scan.shape[-1] * scan.dt if is_series and scan.dt else None,
        "core" if scan.has_core else "final infarct" if getattr(scan, "final_infarct_path", None) else "",
        getattr(scan, "brain_path", None) is not None,
        " ".join(sorted(scan.vendor)),
    )
    return (*header, *(seen.facts.get(name) for name in FACTS), status, "; ".join(what), " ".join(why))


def _sides(shape) -> str:
    return " × ".join(map(str, shape or ()))


def report_lines(report: Report) -> Iterator[str]:
    """Lay a report out for reading: what is there, what is odd, what would be skipped."""
    yield from _what_is_there(report)
    n = len(report.scans)
    odd = report.scans[report.scans["status"] == "odd"]
    yield f"\nOdd: {len(odd)} of {_n(n, 'scan')}." if len(odd) else "\nOdd: nothing."
    shown = report.findings[report.findings["odd"].astype(bool) & report.findings["case"].isin(odd["case"])]
    for what, rows in shown.groupby("what", sort=False):
        yield from _one_oddity(what, rows, n)
    notes = report.findings[~report.findings["odd"].astype(bool)]
    for note, rows in notes.groupby("detail", sort=False):
        yield f"  note, {_listed(rows['case'], n)}: {note}"
    skipped = report.skipped
    yield f"\nSkipped: {len(skipped)} of {_n(n, 'scan')}." if len(skipped) else "\nSkipped: none."
    yield from (f"  {row['case']}: {row['why']}" for row in skipped.to_dict("records"))
    if report.quick:
        yield "\nHeaders alone were read: values, bolus, masks and motion were not looked at."


def _one_oddity(what, rows, n):
    same = rows["detail"].nunique() == 1
    if not same and len(rows) <= EXAMPLES:
        yield from (f"  {what}, {row['case']}: {row['detail']}" for row in rows.to_dict("records"))
        return
    example = rows["detail"].iloc[0] if same else f"e.g. {rows['case'].iloc[0]}: {rows['detail'].iloc[0]}"
    yield f"  {what}, {_listed(rows['case'], n)}: {example}"


def _listed(cases, n) -> str:
    """Name cases: one, some of several, or all n."""
    cases = list(dict.fromkeys(cases))
    if len(cases) == 1:
        return cases[0]
    return (
        f"all {n}" if len(cases) == n else f"{len(cases)} ({', '.join(cases[:8])}{' …' * (len(cases) > 8)})"
    )


def _what_is_there(report):
    cohort, scans = report.cohort, report.scans
    patients = _n(scans["patient"].nunique(), "patient")
    yield f"{cohort.folder}: {cohort.kind}, {_n(len(scans), 'scan')} of {patients}."
    yield f"  shape     {_counted(scans['shape'])}"
    yield f"  spacing   {_spacings(cohort.scans)}"
    yield f"  Δt        {_counted(scans['dt'])} s"
    yield f"  duration  {_span(scans['duration_s'])} s"
    if not report.quick:
        yield f"  brain     {_span(scans['brain_ml'])} ml in the scan"
    beside = Counter(filter(None, [*scans["core"], *" ".join(scans["maps"]).split()]))
    beside["brain mask"] = int(scans["brain"].sum())
    listed = ", ".join(f"{name} {count}" for name, count in beside.items() if count)
    yield f"  beside    {listed or 'nothing'}"
    yield from (f"  note      {note}" for note in report.notes)


def _n(count, word) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _counted(column) -> str:
    values = [f"{value:g}" if isinstance(value, float) else str(value) for value in column.dropna()]
    counts = Counter(value for value in values if value)
    shown = [f"{value} ({count})" for value, count in counts.most_common(6)]
    more = f", {len(counts) - 6} others" if len(counts) > 6 else ""
    return (", ".join(shown) or "unknown") + more


def _span(column) -> str:
    values = column.dropna().to_numpy(float)
    if not values.size:
        return "unknown"
    low, high = np.min(values), np.max(values)
    return f"{low:.0f}" if round(low) == round(high) else f"{low:.0f} to {high:.0f}"


def _spacings(scans) -> str:
    known = np.array([scan.spacing for scan in scans if scan.spacing and len(scan.spacing) == 3])
    if not known.size:
        return "unknown"
    plane, slices = (
        f"{part.min():.3g}" if np.ptp(part) < 0.005 else f"{part.min():.3g} to {part.max():.3g}"
        for part in (known[:, :2], known[:, 2])
    )
    return f"{plane} mm in the plane, {slices} mm between slices"
