"""Statistics laid out as tables for a page: cells as text, each row with its n, and what is to be said.

A table is a dict: ``heading``, ``words`` (a paragraph), ``head`` (titles of the columns after the label),
``rows`` (dicts of ``label``, ``colour`` and ``cells``; a cell's second line is its interval), ``notes`` and,
where a row can be said in words, ``sentences``.
"""

from __future__ import annotations

import re

import numpy as np

from .agreement import icc21_interval, lins_ccc
from .blandaltman import bland_altman, patients_with_several
from .drawing import arm_colour, arm_label
from .eligibility import eligibility_table
from .mixedmodel import mixed_model
from .pairedtests import MARGINS, patient_tests
from .power import power_table
from .scoretables import METRICS, format_value, ordered_arms
from .wording import METRIC_LABELS, SIGNIFICANCE, count, owner, p_value, signed, standing

TESTED = (*METRICS, "volume_ml")
DIFFERENCES = ("Metric", "Mean difference", "Hodges-Lehmann", "Wilcoxon p", "Holm p", "Permutation p")
PRECISION = ("Metric", "Difference sought", "SD of differences", "Power", "n for 80 %", "n for 90 %")
AGREEMENT = {
    "id": "agreement",
    "heading": "Agreement of core volumes with the ground truth (ml)",
    "words": "Bias and limits of agreement, the slope of the difference on the mean with its p (it tests "
    "unequal variances as much as proportional bias), ICC(2,1) and Lin's concordance. Intervals: 95 %, by "
    "bootstrap over patients where a patient has several scans, else by formula.",
    "head": ["Bias", "Lower limit", "Upper limit", "Slope (p)", "ICC(2,1)", "CCC", "Scans / patients"],
    "rows": [],
}
ELIGIBILITY = {
    "id": "eligibility",
    "heading": "Would the same patients be treated?",
    "words": "The rules of DEFUSE 3 and EXTEND (EXTEND-IA asked for the same) on core and mismatch volumes, "
    "each patient's slabs summed. Hypoperfusion is Tmax > 6 s of each arm's own map, on the biased scale of "
    "the regularised deconvolution. κ is Cohen's, with its 95 % interval.",
    "head": ["Rule", "Eligible", "Compared with", "Only this / only that", "κ", "Patients"],
    "rows": [],
}
DECISIVE = ("roc_auc", "dice", "volume_ml")  # our choice: one metric of rank, of overlap and of size


def statistics(scores, patients, reference: str, matrix: str, seed: int = 0, tests=None, model=None):
    """Lay out all patient-level statistics of a study; what cannot be computed says why.

    Parameters
    ----------
    scores : DataFrame, one row per scan × arm × matrix.
    patients : DataFrame, one row per patient × arm × matrix.
    reference : arm the others are compared with.
    matrix : whose rows count.
    seed : of the bootstrap.
    tests : of ``tests_of_patients``, where they are at hand.
    model : ``mixedmodel.MixedModel`` of Dice with this reference and matrix, where it is at hand.

    Returns
    -------
    list of tables, as the module says; without a column that a table needs, a table without rows that says so
    """
    if tests is None:
        tests = tests_of_patients(patients, reference, matrix, seed)
    if tests is None:
        return []
    if model is None or (model.metric, model.reference) != ("dice", reference):
        model = mixed_model(scores, "dice", reference, matrix=matrix)
    rows = scores[scores["matrix"] == matrix]
    needed = ("volume_ml", "reference_volume_ml")
    return [
        differences_table(tests),
        mixed_table(model),
        _or_without(rows, needed, AGREEMENT, lambda: agreement_table(rows, seed)),
        _or_without(
            patients,
            (*needed, "hypoperfusion_ml"),
            ELIGIBILITY,
            lambda: decisions_table(eligibility_table(patients, reference, matrix=matrix)),
        ),
        precision_table(power_table(patients, reference, matrix=matrix)),
    ]


def tests_of_patients(patients, reference: str, matrix: str, seed: int = 0):
    """Compare the arms with the reference, patient by patient: ``pairedtests.patient_tests`` of the report.

    Parameters
    ----------
    patients, reference, matrix, seed : as for ``statistics``.

    Returns
    -------
    DataFrame; None where no patient has the reference.
    """
    if reference not in set(patients.loc[patients["matrix"] == matrix, "arm"]):
        return None
    return patient_tests(patients, reference, matrix=matrix, metrics=TESTED, seed=seed)


def _or_without(table, needed, empty, make):
    missing = [name for name in needed if name not in table.columns]
    return make() if not missing else empty | {"notes": [f"the tables of this run have no {missing[0]}"]}


def differences_table(tests) -> dict:
    """Lay out ``pairedtests.patient_tests``: estimates, p-values and equivalence with a sentence each."""
    rows = []
    for _, test in tests.iterrows():
        cells = [
            METRIC_LABELS[test["metric"]].removesuffix(", per scan"),
            _with_interval(test["metric"], test["mean_difference"], test["mean_low"], test["mean_high"]),
            _with_interval(test["metric"], test["hodges_lehmann"], test["hl_low"], test["hl_high"]),
            *(_p(test[name]) for name in ("wilcoxon_p", "wilcoxon_p_holm", "permutation_p")),
            _equivalence_cell(test),
            str(test["n"]),
        ]
        rows.append(_row(test["arm"], cells))
    margins = ", ".join(f"{METRIC_LABELS[name].split(',')[0]} ±{MARGINS[name]:g}" for name in DECISIVE)
    return {
        "id": "patients",
        "heading": "Paired, the patient as unit",
        "words": "The slabs of a patient are joined before anything is measured: each patient counts once. "
        "Mean difference with its 95 % BCa bootstrap interval, Hodges-Lehmann difference with its exact one, "
        "Wilcoxon's signed-rank test, the same adjusted by Holm over all rows, and the sign-flip permutation "
        f"test of the mean. Equivalence: two one-sided tests at .05 each with the margins {margins} ml: "
        "whether the 90 % interval of the mean (Student's t) lies within them.",
        "head": [*DIFFERENCES, "Equivalence", "Patients"],
        "rows": rows,
        "sentences": _sentences(tests),
        "notes": _remarks(tests),
    }


def _sentences(tests):
    """Say every row that was tested; then what could not be, once for all rows that share a reason."""
    defined = tests["wilcoxon_p"].notna()
    said = [patient_sentence(test, int(defined.sum())) for _, test in tests[defined].iterrows()]
    without: dict = {}
    for _, test in tests[~defined].iterrows():
        without.setdefault((test["n"], _reason(test["note"])), {}).setdefault(test["arm"], []).append(test)
    for found in without.values():
        held = [test for of_arm in found.values() for test in of_arm]
        if len(held) == len(tests):
            return [_untested(held[0])]
        said += [_untested(rows[0], [_name(row["metric"]) for row in rows]) for rows in found.values()]
    return said


def _untested(test, metrics=()):
    of = f" of the {owner(test['arm'])} {_listed(metrics)}" if metrics else ""
    return f"No test was possible{of} over {count(test['n'], 'patient')}: {_reason(test['note'])}."


def _listed(names):
    return " and ".join([", ".join(names[:-1])] * (len(names) > 1) + [names[-1]])


def _name(metric):
    """A metric inside a sentence, without its unit."""
    name = re.sub(r",.*| \(.*\)", "", METRIC_LABELS[metric])
    return name[0].lower() + name[1:] if metric == "volume_ml" else name


def _equivalence_cell(test):
    if not test["equivalence"]:
        return "–"
    low, high = (signed(test["metric"], test[side]) for side in ("tost_low", "tost_high"))
    return f"{test['equivalence']}\n{low} to {high}"


def patient_sentence(test, tested: int = 1) -> str:
    """Say one row of ``patient_tests`` in words: interval, p, n, and whether it can matter.

    Parameters
    ----------
    test : row of the table.
    tested : rows with a p, for which Holm corrects.
    """
    metric = test["metric"]
    if not np.isfinite(test["wilcoxon_p"]):
        return _untested(test, [_name(metric)])
    told = f"The {owner(test['arm'])} {_name(metric)} is {standing(metric, test['mean_difference'])}"
    seldom = test["wilcoxon_p_holm"] < SIGNIFICANCE
    chance = f"chance alone {'would seldom' if seldom else 'can'} do that"
    if not seldom and test["wilcoxon_p"] < SIGNIFICANCE:
        chance = f"among {tested} comparisons, chance alone can do that once"
    return f"{told} ({_numbers_of(test)}); {chance}{_equivalence(test, seldom)}."


def _numbers_of(test):
    metric, said = test["metric"], []
    if np.isfinite(test["mean_low"]):
        said.append(f"95 % CI {signed(metric, test['mean_low'])} to {signed(metric, test['mean_high'])}")
    said.append(f"{p_value(test['wilcoxon_p'])}, after Holm {_p(test['wilcoxon_p_holm'])}")
    return "; ".join([*said, count(test["n"], "patient")])


def _reason(note):
    """Take out of a note why there is no test, and what was left out."""
    parts = str(note or "see the notes").split("; ")
    parts = [part for part in parts if part.endswith((": no test", "left out"))] or parts
    return "; ".join(dict.fromkeys(part.removesuffix(": no test") for part in parts))


def _equivalence(test, seldom):
    if test["equivalence"] in ("", "not shown"):
        return "" if seldom or not test["equivalence"] else ", yet equivalence is not shown either"
    where = "within" if test["equivalence"] == "equivalent" else "beyond"
    unit = " ml" if test["metric"].endswith("_ml") else ""
    return f"; the 90 % interval of the difference lies {where} ±{test['margin']:g}{unit}"


def mixed_table(model) -> dict:
    """Lay out a mixed model: effects of the arms, variances, and every warning of the fit."""
    rows = []
    for _, effect in model.effects.iterrows():
        arm = effect["arm"] if isinstance(effect["arm"], str) and effect["arm"] else None
        cells = [
            signed("dice", effect["estimate"]),
            f"{signed('dice', effect['low'])} to {signed('dice', effect['high'])}",
            _p(effect["p"]),
            f"{effect['n_scans']} / {effect['n_patients']}",
        ]
        label = arm_label(arm) if arm else str(effect["term"]).replace("log_volume", "log core volume")
        rows.append({"label": label, "colour": arm_colour(arm) if arm else "transparent", "cells": cells})
    shares = [f"{row['component']} {100 * row['share']:.0f} %" for _, row in model.variances.iterrows()]
    words = f"Model: {model.formula}. {_state(model)}"
    words += f"; of the variance {', '.join(shares)}." if shares else "."
    words += " Intervals and p are normal approximations, which are too sure of few patients." * bool(rows)
    return {
        "id": "mixed",
        "heading": "Mixed model of Dice, scans within patients",
        "words": words,
        "head": ["Effect on Dice", "95 % interval", "p", "Scans / patients"],
        "rows": rows,
        "notes": [*_diagnosed(model), *model.notes, *([] if model.converged else model.fit_warnings)],
    }


def _state(model):
    if model.converged:
        return "The fit converged"
    if model.fit_warnings or len(model.effects):
        return "The fit did NOT converge: read nothing from it"
    return "Nothing was fitted"


def _diagnosed(model):
    """Give the diagnostics of the residuals, whether they warn or not."""
    found = model.diagnostics
    if not np.isfinite(found.get("shapiro_p", np.nan)):
        return []
    return [
        f"residuals: Shapiro-Wilk {p_value(found['shapiro_p'])}, Breusch-Pagan "
        f"{p_value(found['breusch_pagan_p'])}, skewness {signed('dice', found['skewness'])}, excess kurtosis "
        f"{signed('dice', found['kurtosis'])}"
    ]


def agreement_table(rows, seed: int = 0) -> dict:
    """Lay out agreement of core volumes with the reference core: Bland-Altman, ICC(2,1), Lin's CCC."""
    found, notes = [], {}
    for arm in ordered_arms(rows["arm"]):
        pairs = rows[rows["arm"] == arm].dropna(subset=["volume_ml", "reference_volume_ml"])
        if len(pairs) < 2:
            found.append(_row(arm, ["–"] * 6 + [f"{len(pairs)} / {pairs['patient'].nunique()}"]))
            notes.setdefault("fewer than 2 scans, no agreement can be estimated", []).append(arm)
            continue
        cells, said = _agreement_cells(pairs, seed)
        found.append(_row(arm, cells))
        for note in said:
            notes.setdefault(note, []).append(arm)
    return AGREEMENT | {"rows": found, "notes": _by_arm(notes, len(found))}


def _agreement_cells(pairs, seed):
    """Cells of one arm, and the notes of its three measures, each once."""
    x, y = pairs["volume_ml"], pairs["reference_volume_ml"]
    options = {"patients": patients_with_several(pairs["patient"]), "seed": seed}
    limits = bland_altman(x, y, **options)
    icc, ccc = (measure(x, y, **options) for measure in (icc21_interval, lins_ccc))
    cells = [
        _with_interval("volume_ml", limits.bias, limits.bias_low, limits.bias_high),
        _with_interval("volume_ml", limits.lower, limits.lower_low, limits.lower_high),
        _with_interval("volume_ml", limits.upper, limits.upper_low, limits.upper_high),
        f"{signed('dice', limits.slope)} ({_p(limits.slope_p)})" if np.isfinite(limits.slope_p) else "–",
        *(_share(value.value, value.low, value.high, 3) for value in (icc, ccc)),
        f"{limits.n} / {pairs['patient'].nunique()}",
    ]
    notes = (part for note in (limits.note, icc.note, ccc.note) for part in note.split("; ") if part)
    return cells, list(dict.fromkeys(notes))


def _by_arm(notes, n_arms):
    """Say each note once, and of whom where it is not of all."""
    return [
        note if len(arms) == n_arms else f"{', '.join(map(arm_label, arms))}: {note}"
        for note, arms in notes.items()
    ]


def _share(value, low, high, digits):
    """Write a coefficient with its interval; "–" where it is not defined."""
    if not np.isfinite(value):
        return "–"
    limits = f"\n{low:.{digits}f} to {high:.{digits}f}" if np.isfinite(low + high) else ""
    return f"{value:.{digits}f}{limits}".replace("-", "−")


def decisions_table(table) -> dict:
    """Lay out ``eligibility.eligibility_table``: who would be treated, and how far two cores agree on it."""
    rows = []
    for _, row in table.iterrows():
        against = row["against"] if row["against"] == "reference core" else arm_label(row["against"])
        cells = [
            row["rule"],
            f"{row['eligible']} of {row['n']}",
            against,
            f"{row['only_arm']} / {row['only_against']}",
            _share(row["kappa"], row["kappa_low"], row["kappa_high"], 2),
            str(row["n"]),
        ]
        rows.append(_row(row["arm"], cells))
    return ELIGIBILITY | {"rows": rows, "notes": _remarks(table)}


def precision_table(table) -> dict:
    """Lay out ``power.power_table``: what the cohort could have shown, and what it would take."""
    rows = []
    for _, row in table[table["metric"].isin(DECISIVE)].iterrows():
        power = f"{100 * row['power']:.0f} %" if np.isfinite(row["power"]) else "–"
        needed = [f"{row[name]:.0f}" if np.isfinite(row[name]) else "–" for name in ("n_80", "n_90")]
        cells = [
            METRIC_LABELS[row["metric"]].removesuffix(", per scan"),
            format_value(row["metric"], row["difference"]),
            format_value(row["metric"], row["sd"]),
            power,
            *needed,
            format_value(row["metric"], row["detectable_80"]),
            str(row["n"]),
        ]
        rows.append(_row(row["arm"], cells))
    return {
        "id": "power",
        "heading": "What could this cohort have shown?",
        "words": "Power of a paired t-test over patients at a two-sided .05 for a difference of the size the "
        "paper reports (5 ml for volumes), with the spread of differences seen here; patients needed for 80 "
        "and 90 %; and the smallest difference found with 80 %.",
        "head": [*PRECISION, "Found with 80 %", "Patients"],
        "rows": rows,
        "notes": _remarks(table),
    }


def _row(arm, cells):
    return {"label": arm_label(arm), "colour": arm_colour(arm), "cells": cells}


def _with_interval(metric, value, low, high):
    if not np.isfinite(value):
        return "–"
    if not np.isfinite(low + high):
        return signed(metric, value)
    return f"{signed(metric, value)}\n{signed(metric, low)} to {signed(metric, high)}"


def _p(p):
    return p_value(p).removeprefix("p ").removeprefix("= ")


def _remarks(table):
    """List each remark once, with how many rows say it."""
    told: dict[str, int] = {}
    for note in table["note"].dropna():
        for remark in filter(None, str(note).split("; ")):
            told[remark] = told.get(remark, 0) + 1
    return [f"{remark} ({n} rows)" if n > 1 else remark for remark, n in told.items()]
