"""What a ceiling says: the table of where the loss lies, and a figure of what each freedom reaches."""

from __future__ import annotations

from itertools import combinations
from math import factorial

import numpy as np

from perfkit.drawing import ARM_COLOURS, QUIET_COLOUR, arm_label, panels
from perfkit.figureparts import INK, empty_figure
from perfkit.resampling import bootstrap_intervals, weighted_mean

FREE = ("aif", "threshold", "lambda_rel")
CONTROL = "brain_mean"
LABELS = {
    ("oracle", "aif"): "AIF",
    ("oracle", "threshold"): "θ",
    ("oracle", "lambda_rel"): "λ",
    ("oracle", "aif+threshold"): "AIF, θ",
    ("oracle", "aif+lambda_rel"): "AIF, λ",
    ("oracle", "threshold+lambda_rel"): "θ, λ",
    ("oracle", "aif+threshold+lambda_rel"): "AIF, θ, λ",
    ("oracle", "ranking"): "AIF, for ranking",
    ("cohort", "threshold"): "θ of the others",
    ("cohort", "threshold+lambda_rel"): "θ, λ of the others",
    ("truth", "rcbf"): "True rCBF, best θ",
    ("truth", "rcbf+delay"): "True rCBF and delay, best cuts",
    ("truth", "core"): "Exact core",
}
KINDS = {"given": "As given, θ .38, λ .3", "cohort": "Best for other patients", "oracle": "Best for the scan"}
KINDS |= {"truth": "Truth of the phantom"}
COLOURS = {"given": QUIET_COLOUR, "cohort": ARM_COLOURS["cnn"], "oracle": ARM_COLOURS["expert"]}
COLOURS |= {"truth": INK}
SYMBOLS = {"given": "circle", "cohort": "square", "oracle": "diamond", "truth": "x"}


def shares(ceiling, *, seed: int = 0):
    """Split the loss 1 − Dice of the control AIF into what could and what could not be had.

    Parameters
    ----------
    ceiling : Ceiling, or its scores
    seed : of the bootstrap

    Returns
    -------
    DataFrame of part, dice (points of Dice, the mean over scans), low, high (95 %, resampling patients) and
    share (of the mean loss, %). "loss" is the sum of the others:

    - aif, threshold, lambda_rel : what the best of each for every scan gains,
    - rest : what stays lost with all three; where the truth is known it is split into
    - estimate : the true rCBF at its best threshold does better than the estimate with all three; below 0
      where the estimate, fitted to the label, does better than the truth,
    - delay : a cut of the true delay, as good as can be, adds to the true rCBF (a core is late as well),
    - definition : the exact core does better than both (mixed voxels, CSF, cuts that are one for all voxels),
    - label : the exact core is not the core as labelled.

    Notes
    -----
    Freedoms overlap: a better AIF does part of what a threshold does. Each gets its Shapley value (Shapley
    1953), the mean of what it adds over all orders in which the three may be freed.
    """
    scores = getattr(ceiling, "scores", ceiling)
    wide = scores.pivot(index=["case", "patient"], columns=["kind", "freedom"], values="dice")
    parts = _parts(wide)
    patients = wide.index.get_level_values("patient")
    intervals = bootstrap_intervals(weighted_mean(np.stack(list(parts.values()))), patients, seed=seed)
    return _table(parts, intervals)


def _parts(wide):
    start, top = wide["given", CONTROL], wide["oracle", "+".join(FREE)]
    reached = {(): start} | {
        free: wide["oracle", "+".join(free)] for n in (1, 2, 3) for free in combinations(FREE, n)
    }
    parts = {name: _shapley(name, reached) for name in FREE}
    if ("truth", "core") in wide:
        flow, late, exact = (wide["truth", name] for name in ("rcbf", "rcbf+delay", "core"))
        parts |= {
            "estimate": flow - top,
            "delay": late - flow,
            "definition": exact - late,
            "label": 1 - exact,
        }
    else:
        parts["rest"] = 1 - top
    return parts | {"loss": 1 - start}


def _shapley(name, reached):
    total, n = 0.0, len(FREE)
    for free, value in reached.items():
        if name not in free:
            weight = factorial(len(free)) * factorial(n - len(free) - 1) / factorial(n)
            total = total + weight * (reached[tuple(f for f in FREE if f in (*free, name))] - value)
    return total


def _table(parts, intervals):
    import pandas as pd

    table = pd.DataFrame({"part": list(parts), "dice": [part.mean() for part in parts.values()]})
    table["low"], table["high"] = [i.low for i in intervals], [i.high for i in intervals]
    table["share"] = 100 * table["dice"] / table["dice"].iloc[-1]
    return table


def ceiling_figure(ceiling, *, seed: int = 0):
    """Show Dice and AUC of every freedom: each scan, and the mean with its interval over patients.

    Parameters
    ----------
    ceiling : Ceiling, or its scores
    seed : of the bootstrap

    Returns
    -------
    plotly figure
    """
    scores = getattr(ceiling, "scores", ceiling)
    if not len(scores):
        return empty_figure("No ceiling to show")
    groups = [key for kind in KINDS for key in _freedoms(scores, kind)]
    figure = panels(1, 2, shared_yaxes=True, horizontal_spacing=0.04)
    heights = dict(zip(groups, range(len(groups))[::-1], strict=True))
    for column, metric in enumerate(("dice", "roc_auc"), start=1):
        for kind in KINDS:
            rows = scores[(scores["kind"] == kind) & scores[metric].notna()]
            if len(rows):
                _scans(figure, rows, metric, heights, column)
                _means(figure, rows, metric, heights, column, seed)
    names = [LABELS.get(key, arm_label(key[1])) for key in groups]
    figure.update_yaxes(tickvals=list(heights.values()), ticktext=names, showgrid=False, ticks="")
    figure.update_xaxes(title_text="Dice", row=1, col=1).update_xaxes(title_text="ROC AUC", row=1, col=2)
    return figure.update_layout(height=120 + 30 * len(groups))


def _freedoms(scores, kind):
    return [(kind, name) for name in dict.fromkeys(scores.loc[scores["kind"] == kind, "freedom"])]


def _scans(figure, rows, metric, heights, column):
    kind = rows["kind"].iloc[0]
    figure.add_scatter(
        x=rows[metric],
        y=[heights[kind, freedom] - 0.22 for freedom in rows["freedom"]],
        mode="markers",
        marker={"color": COLOURS[kind], "size": 4, "opacity": 0.35},
        customdata=rows["case"],
        hovertemplate="%{customdata} %{x:.3f}<extra></extra>",
        showlegend=False,
        row=1,
        col=column,
    )


def _means(figure, rows, metric, heights, column, seed):
    kind = rows["kind"].iloc[0]
    wide = rows.pivot(index=["case", "patient"], columns="freedom", values=metric)[rows["freedom"].unique()]
    patients = wide.index.get_level_values("patient")
    found = bootstrap_intervals(weighted_mean(wide.to_numpy().T), patients, seed=seed)
    mean = wide.mean().to_numpy()
    bars = {"array": [i.high for i in found] - mean, "arrayminus": mean - [i.low for i in found]}
    figure.add_scatter(
        x=mean,
        y=[heights[kind, freedom] for freedom in wide.columns],
        mode="markers",
        marker={"color": COLOURS[kind], "symbol": SYMBOLS[kind], "size": 10},
        error_x={"type": "data", "symmetric": False, "color": COLOURS[kind], "thickness": 2} | bars,
        name=KINDS[kind],
        hovertemplate="mean %{x:.3f}<extra></extra>",
        showlegend=column == 1,
        row=1,
        col=column,
    )
