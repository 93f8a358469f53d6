"""Does a learned AIF beat an expert's? The arms on scans that no fold has seen, tests, and true AIFs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from perfkit import pages
from perfkit.curves import time_to_peak
from perfkit.drawing import arm_label, save_figure
from perfkit.pairedtests import holm, patient_tests
from perfkit.perturbations import clean_contrast
from perfkit.scoretables import count, ordered_arms, p_value
from perfkit.tables import save_table
from perfkit.unseen import check_unseen as check_unseen
from perfkit.unseen import phantom_options
from perfkit.wording import METRIC_LABELS, SIGNIFICANCE, signed, verdict

LEARNED = ("cnn", "pool")
# what is to be beaten: the claim, and the control that any cleverer AIF must beat
REFERENCES = {"expert": "the expert", "brain_mean": "the mean brain curve"}
METRICS = ("dice", "roc_auc")
FRESH = 1000  # our choice: seeds of fresh phantoms start here, far from any that was trained or tuned on
NEAR = 1.5  # s; our choice: an AIF whose peak is nearer to the true one came from an artery


def train_runs(cohort, folder, *, preset="quick", folds=5, matrix="circulant", seed=0, heads=LEARNED) -> dict:
    """Train the heads one after the other, or go on where it stopped.

    Parameters
    ----------
    cohort : folder of scans with core masks
    folder : each head gets a folder of its name in it
    preset, folds, matrix, seed : as for ``training.train_cohort``
    heads : of ``network.HEADS``

    Returns
    -------
    dict from head to the folder of its run
    """
    from perfkit.training import train_cohort

    runs = {head: Path(folder) / head for head in heads}
    options = {"preset": preset, "folds": folds, "matrix": matrix, "seed": seed}
    for head, run in runs.items():
        train_cohort(cohort, run, head=head, **options)
    return runs


def check_runs(runs: dict, matrix: str) -> list[str]:
    """Say what the reader should know of runs.

    Parameters
    ----------
    runs : dict from head to folder
    matrix : the scores are made with

    Returns
    -------
    Notes, in sentences.

    Raises
    ------
    FileNotFoundError : there is no run. ValueError : it has another head.
    """
    from perfkit.trainsettings import read_settings

    notes = []
    for head, run in runs.items():
        if not (Path(run) / "settings.json").is_file():
            raise FileNotFoundError(
                f"A training leaves settings.json: {run} has none. Try perfkit train --arm {head} --out {run}"
            )
        settings = read_settings(Path(run) / "settings.json")
        if settings.head != head:
            raise ValueError(f"A run of the head {head} is asked for: {run} trained {settings.head!r}.")
        if settings.matrix != matrix:
            notes.append(f"{arm_label(head)}: trained through {settings.matrix}, scored through {matrix}.")
    return notes


def learned_arm(run) -> Callable:
    """Load the folds of a run once and give its AIF as a function of a scan, changed or not.

    Parameters
    ----------
    run : folder of a training

    Returns
    -------
    function of Prepared giving (T,), as ``training.predict_cohort`` does
    """
    from perfkit.training import load_folds, mean_aif

    return partial(mean_aif, load_folds(run))


def learned_tests(patients, *, matrix="circulant", seed=0):
    """Compare each learned arm with the expert and with the mean curve of the brain, patient by patient.

    Parameters
    ----------
    patients : DataFrame of ``evaluation.evaluate``, the slabs of a patient joined
    matrix : whose rows are compared
    seed : of bootstrap and sign flips

    Returns
    -------
    DataFrame, as of ``pairedtests.patient_tests``: a row per learned arm, reference and metric. Holm's
    adjustment is over all of them, the family of this one question.
    """
    import pandas as pd

    there = set(patients["arm"])
    found = []
    for reference in (arm for arm in REFERENCES if arm in there):
        rows = patients[patients["arm"].isin([*LEARNED, reference])]
        found.append(patient_tests(rows, reference, matrix=matrix, metrics=METRICS, seed=seed))
    if not found:
        raise ValueError(f"There is nothing to compare with: none of {', '.join(REFERENCES)} has an AIF.")
    table = pd.concat(found, ignore_index=True)
    for name in ("wilcoxon_p", "permutation_p"):
        table[f"{name}_holm"] = holm(table[name])
    order = {arm: i for i, arm in enumerate(LEARNED)}
    return table.sort_values("arm", key=lambda arms: arms.map(order), kind="stable", ignore_index=True)


def sentences(tests) -> list[str]:
    """Say each comparison in a sentence: difference, interval, both p-values, and those adjusted by Holm."""
    return [_sentence(row) for row in tests.to_dict("records")]


def _sentence(row):
    metric = row["metric"]
    if not np.isfinite(row.get("wilcoxon_p", np.nan)):
        reason = row["note"].split(":")[0] or "there is none"
        return f"{_pair(row)}: no test ({reason})."
    low, high = (signed(metric, row[name]) for name in ("mean_low", "mean_high"))
    wilcoxon, flips, *adjusted = (
        p_value(row[name])
        for name in ("wilcoxon_p", "permutation_p", "wilcoxon_p_holm", "permutation_p_holm")
    )
    return (
        f"{_pair(row)}: {signed(metric, row['mean_difference'])} (95 % interval {low} to {high}; "
        f"{count(row['n'], 'patient')}; Wilcoxon {wilcoxon}, sign flips {flips}; adjusted by Holm "
        f"{adjusted[0]} and {adjusted[1]}). {verdict(row['wilcoxon_p_holm'])}"
    )


def _pair(row):
    metric = METRIC_LABELS[row["metric"]].split(",")[0]
    return f"{metric}, {arm_label(row['arm'])} against {REFERENCES[row['reference']]}"


def answers(tests) -> list[str]:
    """Say for each learned arm whether it beats what it was compared with: in all of it, at p < .05."""
    said = []
    for arm in ordered_arms(tests["arm"]):
        rows = tests[tests["arm"] == arm]
        higher, moved = rows["mean_difference"] > 0, rows["wilcoxon_p"] < SIGNIFICANCE
        won, lost = int((higher & moved).sum()), int((~higher & moved).sum())
        kept = int((higher & (rows["wilcoxon_p_holm"] < SIGNIFICANCE)).sum())
        verb = "beats" if won == len(rows) else "is not shown to beat"
        against = " and ".join(REFERENCES[name] for name in rows["reference"].unique())
        said.append(
            f"{arm_label(arm)}: {verb} {against} in both Dice and AUC. Of {count(len(rows), 'comparison')} "
            f"it is higher in {won} at p < .05 ({kept} after Holm's adjustment) and lower in {lost}."
        )
    return said


def true_aifs(cohort) -> dict:
    """Read the true AIFs of a phantom cohort: dict from case id to (T,), HU; empty for patients."""
    paths = {s.id: Path(s.truth_path) / "truth.json" for s in cohort.scans if s.truth_path}
    return {
        case: np.array(json.loads(path.read_text(encoding="utf-8"))["aif"], float)
        for case, path in paths.items()
        if path.is_file()
    }


def aif_agreement(prepared: dict, curves: dict, truth: dict):
    """Hold every arm's AIF against the true one.

    Parameters
    ----------
    prepared : dict from case id to Prepared
    curves : dict from arm to dict from case id to (T,), any unit
    truth : dict from case id to (T,)

    Returns
    -------
    DataFrame, a row per scan with truth and arm: case, patient, arm, r (Pearson, over the frames) and
    delta_ttp (s, time of the peak minus the true one's; each refined by a parabola)
    """
    import pandas as pd

    rows = []
    for arm, held in curves.items():
        for case in (name for name in truth if name in held and name in prepared):
            scan = prepared[case]
            ttp, true = (float(time_to_peak(curve, scan.dt)) for curve in (held[case], truth[case]))
            r = float(np.corrcoef(held[case], truth[case])[0, 1])
            rows.append({"case": case, "patient": scan.patient, "arm": arm, "r": r, "delta_ttp": ttp - true})
    return pd.DataFrame(rows, columns=["case", "patient", "arm", "r", "delta_ttp"])


def agreement_summary(table):
    """Average agreement over scans: arm, n, r (median), r_low (tenth percentile), delta_ttp and
    abs_delta_ttp (medians, s) and near (share of scans within 1.5 s)."""
    import pandas as pd

    rows = []
    for arm in ordered_arms(table["arm"]):
        held = table[table["arm"] == arm]
        off = held["delta_ttp"]
        row = {"arm": arm, "n": len(held), "r": held["r"].median(), "r_low": held["r"].quantile(0.1)}
        row |= {"delta_ttp": off.median(), "abs_delta_ttp": off.abs().median()}
        rows.append(row | {"near": float((off.abs() <= NEAR).mean())})
    return pd.DataFrame(rows)


def noise_free(cohort, prepared: dict) -> Callable | None:
    """Give the scans of a phantom cohort without noise, as ``robustness.scan_changes`` asks for them.

    Parameters
    ----------
    cohort : datasets.Cohort
    prepared : dict from case id to Prepared

    Returns
    -------
    function of case id giving (X, Y, Z, T), HU; None for patients
    """
    options = phantom_options(cohort)
    if options is None:
        return None
    return lambda case: clean_contrast(prepared[case], case=int(case.split("_")[-1]), **options)


def save_results(folder, *, tables: dict, figures: dict, metrics: dict) -> Path:
    """Write tables, figures and, last, ``metrics.json``.

    Parameters
    ----------
    folder : of the results
    tables : dict from file stem to DataFrame
    figures : dict from file stem to plotly figure; they go into ``figures``
    metrics : nest of dict and list; DataFrames in it become lists of rows, NaN null

    Returns
    -------
    Path of ``metrics.json``
    """
    folder = Path(folder)
    for stem, table in tables.items():
        save_table(folder / f"{stem}.csv", table)
    for stem, figure in figures.items():
        save_figure(figure, folder / "figures" / stem)
    text = json.dumps(_plain(metrics), indent=1, allow_nan=False)
    return pages.write(folder / "metrics.json", text + "\n")


def _plain(value):
    if hasattr(value, "to_dict"):
        value = value.to_dict("records")
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
