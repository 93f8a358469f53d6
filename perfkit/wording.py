"""Numbers of a study said in plain sentences and table cells, each with its n and unit of analysis."""

from __future__ import annotations

from collections import Counter

import numpy as np

from . import paper
from .blandaltman import patients_with_several
from .comparison import (
    METRICS,
    bland_altman,
    format_value,
    ordered_arms,
    paper_table1,
    table1,
)
from .drawing import arm_colour, arm_label
from .scoretables import count, p_value

METRIC_LABELS = {
    "pooled_auc": "AUC, all voxels",
    "roc_auc": "AUC, per scan",
    "dice": "Dice",
    "jaccard": "Jaccard",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "volume_ml": "Core volume (ml)",
    "volume_error_ml": "Volume error (ml)",
    "hypoperfusion_ml": "Tmax > 6 s (ml)",
}
SIGNIFICANCE = 0.05  # our choice: the field's habit; it picks a word, the p-value stands beside it
LOWER_IS_BETTER = {"hd95_mm"}
FEWEST = 6  # patients; our choice: with fewer no signed-rank test rejects at .05, so no interval is said
_OWNERS = {
    "expert": "expert's",
    "automatic": "automatic AIF's",
    "cnn": "CNN's",
    "brain_mean": "mean brain curve's",
}
_MORE = {"hd95_mm": ("longer", "shorter", " mm"), "volume_ml": ("larger", "smaller", " ml")}


def volume_sentences(rows) -> list[str]:
    """Say Fig. 3 in words: bias and limits of agreement of each arm's core volume."""
    sentences = []
    for arm in ordered_arms(rows["arm"]):
        pairs = rows[rows["arm"] == arm].dropna(subset=["volume_ml", "reference_volume_ml"])
        if len(pairs) < 2:
            sentences.append(f"{arm_label(arm)}: {count(len(pairs), 'scan')} with volumes, no limits.")
            continue
        groups = patients_with_several(pairs["patient"])
        found = bland_altman(pairs["volume_ml"], pairs["reference_volume_ml"], patients=groups)
        low, high = (signed("volume_ml", limit) for limit in (found.bias_low, found.bias_high))
        size = f"{abs(found.bias):.1f} ml {'larger' if found.bias > 0 else 'smaller'} than"
        size = size if float(size.split()[0]) else "as large as"
        few = groups is not None and pairs["patient"].nunique() < FEWEST  # resampled: see `resampling`
        within = "" if few or not np.isfinite(found.bias_low) else f" (95 % CI {low} to {high})"
        sentences.append(
            f"The {owner(arm)} core is on average {size} the ground truth{within}; "
            f"about 95 % of differences lie between {signed('volume_ml', found.lower)} and "
            f"{signed('volume_ml', found.upper)} ml ({count(found.n, 'scan')})."
        )
    return sentences


def plain_notes(rows) -> list[str]:
    """Say what a reader would otherwise have to notice: missing arms, empty predictions, one patient."""
    notes, n = [], rows["case"].nunique()
    for arm, group in rows.groupby("arm", sort=False):
        if len(group) < n:
            notes.append(f"{arm_label(arm)} has results for {len(group)} of {n} scans.")
        if "volume_ml" in group and (group["volume_ml"] == 0).all():
            notes.append(f"{arm_label(arm)}: the predicted core is empty in every scan.")
    if "reference_volume_ml" in rows:
        empty = rows.loc[rows["reference_volume_ml"] == 0, "case"].nunique()
        where = "in every scan" if empty == n else f"in {empty} of {count(n, 'scan')}"
        undefined = "AUC, sensitivity and, where a core is predicted, distances are not defined there."
        notes += [f"The ground truth's core is empty {where}: {undefined}"] * bool(empty)
    if rows["patient"].nunique() == 1:
        notes.append("All scans are of one patient: nothing here can be generalised.")
    return notes


def table1_rows(scores, matrix, pooled_auc=None) -> list[dict]:
    """Lay out Table 1 for a page: per arm this study's cells, the best marked, and the paper's cells."""
    ours = table1(scores, matrix, pooled_auc=pooled_auc)
    printed = paper_table1().set_index("arm")
    ours["pooled_auc_mean"], ours["pooled_auc_undefined"] = ours["pooled_auc"], 0
    ours["pooled_auc"] = [format_value("roc_auc", value) for value in ours["pooled_auc"]]
    names = ["pooled_auc", *METRICS]
    measured = scores[scores["matrix"] == matrix]
    best = {name: _best(name, ours[f"{name}_mean"]) if _alike(measured, name) else None for name in names}
    rows = []
    for i, row in ours.iterrows():
        cells = [
            {
                "text": row[name],
                "interval": _interval(row, name),
                "best": best[name] == i,
                "left_out": int(row[f"{name}_undefined"]),
            }
            for name in names
        ]
        known = row["arm"] in printed.index
        paper_cells = [printed.loc[row["arm"], name] for name in METRICS] if known else None
        numbers = {"scans": row["n_scans"], "patients": row["n_patients"], "mean_dice": row["dice_mean"]}
        numbers["note"] = row["note"]
        rows.append(_named(row["arm"]) | numbers | {"cells": cells, "printed": paper_cells})
    for row in rows:
        whose = f"{row['label']}, " if len(set(ours["note"])) > 1 else ""
        row["note"] = whose + _with_labels(row["note"]) if row["note"] else ""
    return rows


def _with_labels(note):
    """Write "dice: no spread" of a table as a page does."""
    parts = [part.partition(": ") for part in note.split("; ")]
    return "; ".join(METRIC_LABELS.get(name, name) + colon + rest for name, colon, rest in parts)


def comparison_rows(tests, by_patient=None) -> list[dict]:
    """Lay out the tests for a page: per arm and metric the paper's two p-values and those over patients.

    Parameters
    ----------
    tests : DataFrame of ``comparison.paired_tests``.
    by_patient : DataFrame of ``pairedtests.patient_tests``: its Wilcoxon's p and the same after Holm stand
        beside the paper's, and its own table has the words. Without it the test is on means of scans.
    """
    rows = []
    joined = None if by_patient is None else by_patient.set_index(["arm", "metric"])
    for (arm, metric), group in tests.groupby(["arm", "metric"], sort=False):
        found = group.set_index("test")
        order = [found.loc[name] for name in ("paired t-test", "Mann-Whitney U", "Wilcoxon signed-rank")]
        p, n, words = [test["p"] for test in order], order[2]["n"], comparison_sentence(metric, order[2])
        if joined is not None:
            row = joined.loc[(arm, metric)]
            p, n, words = [*p[:2], row["wilcoxon_p"], row["wilcoxon_p_holm"]], row["n"], ""
        rows.append(
            _named(arm)
            | {
                "metric": METRIC_LABELS.get(metric, metric),
                "difference": signed(metric, order[0]["difference"]),
                "p": [p_value(value).removeprefix("p ").removeprefix("= ") for value in p],
                "n": [order[0]["n"], n],
                "words": words,
            }
        )
    return rows


def methods_paragraph(parameters: dict, scores, matrices) -> str:
    """Describe the methods of a run in the words of a paper, from its parameters and its tables.

    Parameters
    ----------
    parameters : {name: value}; ``lambda_rel``, ``threshold``, ``expert`` and ``automatic`` are used.
    scores : DataFrame, one row per scan × arm × matrix.
    matrices : names, the one of Table 1 first.
    """
    slabs = Counter(scores.drop_duplicates("case").groupby("patient").size())
    several = sum(n for size, n in slabs.items() if size > 1)
    lambda_rel = parameters.get("lambda_rel", paper.LAMBDA_REL)
    threshold = parameters.get("threshold", paper.RCBF_THRESHOLD)
    names = [name.replace("volterra", "Volterra") for name in matrices]
    words = [
        f"{count(scores['case'].nunique(), 'scan')} of {count(scores['patient'].nunique(), 'patient')} were "
        f"analysed; {count(several, 'patient')} had more than one slab.",
        "Series were smoothed in space and time, converted to enhancement above the baseline and deconvolved "
        f"with one AIF per scan by the {' and, separately, the '.join(names)} matrix with Tikhonov "
        f"regularisation, λ = {lambda_rel} of the largest singular value.",
        "CBF was divided by its mean in reference tissue, found without any AIF and without the mask; core "
        f"is rCBF < {threshold}.",
    ]
    words += _arm_words(parameters, ordered_arms(scores["arm"]))
    words += [
        "Masks were compared inside the brain. Dice and Jaccard are 1 where both masks are empty and 0 where "
        "one is; distances to an empty mask, sensitivity without a core and AUC without both classes are "
        "undefined, left out and counted.",
        "The slabs of a patient were joined for all tests on patients; intervals of means and of their "
        "differences come from a BCa bootstrap over patients, p-values of several metrics and arms were "
        "adjusted by Holm.",
    ]
    return " ".join(words)


def _arm_words(parameters, arms):
    whose = parameters.get("expert", "a rater")
    known = {
        "expert": f"The expert AIF is the mean curve at the voxels picked by {whose}.",
        "automatic": f"The automatic AIF follows the method {str(parameters.get('automatic', 'straka'))!r}.",
        "cnn": "The CNN's AIF was learned from masks of other patients, in folds that share no patient.",
        "brain_mean": "The mean curve of the brain, no artery at all, is the control.",
    }
    return [known[arm] for arm in arms if arm in known]


def comparison_sentence(metric, patients) -> str:
    """Say one comparison in words: the difference over patients, judged by their test."""
    if not np.isfinite(patients["p"]):
        return f"No test was possible: {patients['note'].split(':')[0]}."
    said = difference(metric, patients["difference"]).capitalize()
    return f"{said}; chance alone {'would seldom do' if patients['p'] < SIGNIFICANCE else 'can do'} that."


def verdict(p) -> str:
    """Say what a p-value allows to say about a difference."""
    if not np.isfinite(p):
        return "No test was possible."
    return f"Chance alone {'would seldom' if p < SIGNIFICANCE else 'can'} give such a difference."


def difference(metric, value) -> str:
    """Write a difference in words: "higher by 0.031", "shorter by 1.2 mm"."""
    more, less, unit = _MORE.get(metric, ("higher", "lower", ""))
    text = format_value(metric, abs(value))
    return (
        f"{more if value > 0 else less} by {text}{unit}"
        if float(text)
        else "no difference to the last decimal"
    )


def standing(metric, value) -> str:
    """Write a difference as what an arm is: "higher by 0.031", "the same to the last decimal"."""
    return difference(metric, value).replace("no difference", "the same")


def signed(metric, value) -> str:
    """Write a difference with its sign, a true minus."""
    text = format_value(metric, abs(value))
    if text == "–" or not float(text):
        return text
    return f"−{text}" if value < 0 else f"+{text}"


def cell(metric, value) -> str:
    """Write a value for a table of cases: an error with its sign, all else plain."""
    return signed(metric, value) if metric.endswith("_error_ml") else format_value(metric, value)


def owner(arm) -> str:
    """Write an arm as the owner of something: "CNN's"."""
    return _OWNERS.get(arm, f"{arm_label(arm)}'s")


def _named(arm):
    return {"label": arm_label(arm), "colour": arm_colour(arm)}


def _interval(row, name):
    low, high = (row.get(f"{name}_{side}", np.nan) for side in ("low", "high"))
    if not np.isfinite(low + high):
        return ""
    return f"{format_value(name, low)} to {format_value(name, high)}"


def _alike(rows, name):
    """Whether all arms have a value for the same scans: means over different ones have no best."""
    held = rows.dropna(subset=[name]) if name in rows.columns else rows
    scans = {arm: frozenset(of_arm["case"]) for arm, of_arm in held.groupby("arm")}
    return len(scans) == rows["arm"].nunique() and len(set(scans.values())) == 1


def _best(name, means):
    means = means.dropna()
    if len(means) < 2:
        return None
    return means.idxmin() if name in LOWER_IS_BETTER else means.idxmax()
