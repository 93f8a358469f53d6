"""Curves averaged over patients: ROC, and Dice against the rCBF cut-off, with bands that count patients."""

from __future__ import annotations

import numpy as np

from . import paper
from .drawing import panels, plot_label
from .figureparts import INK, PALE, SMALL, arm_styles, empty_figure, rows_to_draw, wash
from .meancurves import BAND_RESAMPLES, mean_curves, patient_curves
from .resampling import LEVEL, bootstrap_interval, weighted_mean
from .scoretables import format_value

ZOOM = 0.2  # our choice: specificities above 80 %, where a core map is of use
CUT_OFFS = {0.30: "0.30 RAPID", paper.RCBF_THRESHOLD: f"{paper.RCBF_THRESHOLD} Cereda 2016"}
ROC_AXES = ("False positive rate (1 − specificity)", "True positive rate (sensitivity)")
_ROC_HOVER = "false positive rate %{x:.2f}: sensitivity %{y:.3f}"
CUT_AXES = ("rCBF cut-off (reference tissue = 1)", "Mean Dice over patients")
_MARKS = 9  # our choice: symbols along a curve, enough to tell it in print
_BAND_OPACITY = 0.16  # our choice: six bands over each other still show their curves


def roc_figure(
    roc, *, matrix="circulant", patients=None, zoom=None, level=LEVEL, n_resamples=BAND_RESAMPLES, seed=0
):
    """Draw the mean ROC curve of each arm over patients, with its band.

    Parameters
    ----------
    roc : DataFrame of ``patient, arm, matrix, fpr, tpr``, all curves at the same rates.
    matrix : the deconvolution matrix whose rows are drawn.
    patients : DataFrame of ``patient, arm, matrix, roc_auc``, optional: the legend then gives the mean of
        ``roc_auc``, as a table of scores does; without it the area under the curves as drawn.
    zoom : largest false positive rate of a second panel, e.g. ``ZOOM``; None for no such panel.
    level, n_resamples, seed : of the bands and of the interval of the mean AUC, bootstrapped over patients.

    Returns
    -------
    plotly figure; an empty table gives one that says so.
    """
    rows = rows_to_draw(roc, ("patient", "arm", "fpr", "tpr"), matrix)
    curves = mean_curves(rows, "fpr", "tpr", level=level, n_resamples=n_resamples, seed=seed)
    if curves.empty:
        return empty_figure(f"No ROC curve for the matrix {matrix}", *ROC_AXES)
    areas = _areas(rows, rows_to_draw(patients, ("patient", "arm", "roc_auc"), matrix))
    names = {arm: _auc_label(arm, areas[arm], level, seed) for arm in areas}
    limits = [1.0] if zoom is None else [1.0, float(zoom)]
    figure = panels(1, len(limits), horizontal_spacing=0.11)
    for column, limit in enumerate(limits, start=1):
        diagonal = {"x": [0, limit], "y": [0, limit], "line": {"color": PALE, "width": 1.5, "dash": "dot"}}
        figure.add_scatter(
            mode="lines", hoverinfo="skip", showlegend=False, name="chance", row=1, col=column, **diagonal
        )
        shown = curves[curves["fpr"] <= limit + 1e-9]
        _draw_curves(figure, shown, "fpr", names, column, _ROC_HOVER)
        figure.update_xaxes(range=[-0.01 * limit, 1.01 * limit], title_text=ROC_AXES[0], row=1, col=column)
    figure.update_yaxes(title_text=ROC_AXES[1], range=[-0.01, 1.02])
    square = {} if zoom else {"height": 520, "width": 620}  # both rates run from 0 to 1
    return _below(figure, len(names), **square)


def threshold_figure(
    thresholds, *, matrix="circulant", level=LEVEL, n_resamples=BAND_RESAMPLES, seed=0, marks=None
):
    """Draw the mean Dice of {rCBF < cut-off} against the cut-off, arm by arm, with its band.

    Parameters
    ----------
    thresholds : DataFrame of ``patient, arm, matrix, threshold, dice``, all curves at the same cut-offs.
    matrix : the deconvolution matrix whose rows are drawn.
    level, n_resamples, seed : of the bands, bootstrapped over patients.
    marks : {cut-off: label}, two at most side by side; default ``CUT_OFFS``.

    Returns
    -------
    plotly figure; an empty table gives one that says so.

    Notes
    -----
    The best cut-off of an arm is the one with the largest mean Dice over these very patients: its Dice is
    optimistic for others.
    """
    rows = rows_to_draw(thresholds, ("patient", "arm", "threshold", "dice"), matrix)
    curves = mean_curves(rows, "threshold", "dice", level=level, n_resamples=n_resamples, seed=seed)
    if curves.empty:
        return empty_figure(f"No curve of cut-offs for the matrix {matrix}", *CUT_AXES)
    figure = panels(1, 1)
    best = {arm: part.loc[part["mean"].idxmax()] for arm, part in curves.groupby("arm", sort=False)}
    names = {arm: _best_label(arm, row) for arm, row in best.items()}
    _draw_curves(figure, curves, "threshold", names, 1, "rCBF < %{x:.2f}: Dice %{y:.3f}")
    for arm, row in best.items():
        _mark_best(figure, arm, row, arm_styles(best)[arm])
    top = float(np.nanmax(curves[["mean", "high"]].to_numpy()))
    _mark_cut_offs(figure, CUT_OFFS if marks is None else marks)
    figure.update_xaxes(title_text=CUT_AXES[0], range=[0, float(curves["threshold"].max())])
    figure.update_yaxes(title_text=CUT_AXES[1], range=[0, 1.16 * max(top, 0.05)])
    return _below(figure, len(names))


def _areas(rows, patients):
    """Return {arm: Series, the AUC of each patient}."""
    arms = arm_styles(rows["arm"])
    if len(patients):
        named = patients.set_index("patient")
        return {arm: named.loc[named["arm"] == arm, "roc_auc"].astype(float).dropna() for arm in arms}
    curves = patient_curves(rows, "fpr", "tpr")
    return {arm: wide.apply(_area, axis=1).dropna() for arm, wide in curves.items() if len(wide)}


def _area(tpr):
    return float(np.trapezoid(tpr, tpr.index.to_numpy(float)))


def _auc_label(arm, areas, level, seed):
    if areas.empty:
        return f"{plot_label(arm)}: no AUC"
    interval = bootstrap_interval(weighted_mean(areas), areas.index, level=level, seed=seed)
    value, low, high = (format_value("roc_auc", v) for v in (areas.mean(), interval.low, interval.high))
    limits = f" [{low}, {high}]" if np.isfinite(interval.low) else ""
    return f"{plot_label(arm)}: AUC {value}{limits}, n = {len(areas)}"


def _best_label(arm, row):
    dice = format_value("dice", row["mean"])
    return f"{plot_label(arm)}: best {dice} at {row['threshold']:.2f}, n = {row['n']}"


def _draw_curves(figure, curves, x, names, column, words):
    """Draw the bands, then the means over them."""
    styles = arm_styles(curves["arm"])
    for arm, style in styles.items():
        rows = curves[(curves["arm"] == arm) & np.isfinite(curves["low"])]
        band = {"x": [*rows[x], *rows[x][::-1]], "y": [*rows["high"], *rows["low"][::-1]]}
        look = {"fill": "toself", "fillcolor": wash(style["colour"], _BAND_OPACITY), "line": {"width": 0}}
        look |= {"mode": "lines", "hoverinfo": "skip", "showlegend": False, "legendgroup": arm}
        figure.add_scatter(name=f"{plot_label(arm)}, band", row=1, col=column, **band, **look)
    for arm, style in styles.items():
        rows = curves[curves["arm"] == arm]
        hover = f"{plot_label(arm)}<br>{words} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]"
        figure.add_scatter(
            x=rows[x],
            y=rows["mean"],
            customdata=rows[["low", "high", "n"]],
            mode="lines+markers",
            line={"color": style["colour"], "dash": style["dash"], "width": 2},
            marker={"symbol": style["symbol"], "size": 7, "maxdisplayed": _MARKS},
            name=names[arm],
            legendgroup=arm,
            showlegend=column == 1,
            hovertemplate=f"{hover}<br>%{{customdata[2]}} patients<extra></extra>",
            row=1,
            col=column,
        )


def _mark_best(figure, arm, row, style):
    words = f"{plot_label(arm)}<br>best mean Dice {row['mean']:.3f} at rCBF < {row['threshold']:.2f}"
    figure.add_scatter(
        x=[row["threshold"]],
        y=[row["mean"]],
        mode="markers",
        marker={
            "symbol": style["symbol"],
            "color": style["colour"],
            "size": 14,
            "line": {"color": "#111827", "width": 2},
        },
        name=f"{plot_label(arm)}, best",
        legendgroup=arm,
        showlegend=False,
        hovertemplate=f"{words}<br>chosen on these {row['n']} patients<extra></extra>",
    )


def _mark_cut_offs(figure, marks):
    """Draw a line at each cut-off; the lowest is named on its left, the others on their right."""
    for i, (value, text) in enumerate(sorted(marks.items())):
        figure.add_vline(x=value, line={"color": INK, "width": 1, "dash": "dot"}, layer="below")
        left = i == 0 and len(marks) > 1
        side = {"xanchor": "right" if left else "left", "xshift": -3 if left else 3}
        look = {"font": {"size": SMALL, "color": INK}, "showarrow": False, "yanchor": "top"}
        figure.add_annotation(text=text, x=value, y=1, yref="y domain", **look, **side)


def _below(figure, n, height=340, width=None):
    """Put the legend under panels of a height, one arm a line: long names never meet."""
    room = 20 * n
    legend = {"orientation": "v", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom"}
    legend["tracegroupgap"] = 0
    margin = {"t": 24, "b": 64 + room}
    layout = {"height": height + sum(margin.values()), "margin": margin, "legend": legend}
    return figure.update_layout(**layout, **({"width": width} if width else {}))
