"""What a study compares: paired differences patient by patient, and effects with their intervals.

Beside them stand the curves and volumes of `curvefigures` and `volumefigures`. Tables come from
`evaluation.evaluate` and `comparison`; one without rows gives a figure that says so.
"""

from __future__ import annotations

import numpy as np

from .curvefigures import ZOOM, roc_figure, threshold_figure
from .drawing import QUIET_COLOUR, arm_style, introduce, panels, plot_label
from .figureparts import PALE, SMALL, empty_figure, grid, rows_to_draw, wash
from .pairedtests import MARGINS
from .scoretables import check_reference, comparators, ordered_arms, paired_rows, rows_of_matrix
from .volumefigures import fig3, volume_scatter
from .wording import METRIC_LABELS, p_value, signed

__all__ = [
    "ZOOM",
    "fig3",
    "forest_figure",
    "raincloud_figure",
    "roc_figure",
    "threshold_figure",
    "volume_scatter",
]

_LABELS = METRIC_LABELS | {"roc_auc": "ROC AUC"}
_PATIENT_TESTS = {
    "hodges_lehmann": "difference",
    "hl_low": "low",
    "hl_high": "high",
    "wilcoxon_p_holm": "p",
}
_CLOUD, _BOX, _DROPS = 0.36, 0.09, (0.14, 0.4)  # shares of an arm's row: half-violin, box, from dot to dot
_GOLDEN = (np.sqrt(5) - 1) / 2  # multiples of it, modulo 1, fall evenly and never repeat


def raincloud_figure(patients, reference="expert", metric="dice", *, matrix="circulant", margins=MARGINS):
    """Show the differences arm − reference of each patient: their density, box and every value.

    Parameters
    ----------
    patients : DataFrame of ``patient, arm, matrix`` and the metrics, one row per patient × arm × matrix.
    reference : the arm all others are compared with.
    metric : column of ``patients``, or several, one panel each.
    matrix : the deconvolution matrix whose rows are drawn.
    margins : {metric: half-width of equivalence, in the metric's unit}, a grey band; {} for none.

    Returns
    -------
    plotly figure. A patient without a value in both arms is left out; n is what is drawn.

    Raises
    ------
    ValueError : no such reference, or a patient with several rows of an arm.
    """
    metrics = [metric] if isinstance(metric, str) else list(metric)
    rows = rows_to_draw(patients, ("patient", "arm", "matrix", *metrics), matrix)
    if not len(rows):
        return empty_figure(f"No scores of patients for the matrix {matrix}")
    rows = rows_of_matrix(rows, matrix, metrics, unit="patient")
    check_reference(rows, reference)
    introduce(ordered_arms(rows["arm"]))
    arms = comparators(rows, reference)
    if not arms:
        return empty_figure(f"No arm to compare with: {plot_label(reference)} alone")
    figure = _panels_of_arms(metrics, arms, 3, 92)
    for k, name in enumerate(metrics):
        place = _place(k, len(metrics), 3)
        for at, arm in zip(_heights(arms), arms, strict=True):
            pairs, _ = paired_rows(rows, arm, reference, [name], unit="patient")
            _raincloud(figure, pairs, arm, reference, name, at, place)
        _difference_axis(figure, name, [reference], margins.get(name), place)
    return figure


def forest_figure(tests, *, margins=None):
    """Draw the effect of each arm on each metric with its interval, every metric on a scale of its own.

    Parameters
    ----------
    tests : DataFrame of ``arm, reference, metric, difference, low, high, p``, or of
        `pairedtests.patient_tests`: then Hodges-Lehmann differences, their intervals, and Wilcoxon's p
        adjusted by Holm.
    margins : {metric: half-width of equivalence}; default the column ``margin``, where there is one.

    Returns
    -------
    plotly figure; a bar is missing where an effect has no interval.
    """
    if tests is not None and "hodges_lehmann" in tests.columns:
        tests = tests.rename(columns=_PATIENT_TESTS)
    columns = ("arm", "reference", "metric", "difference", "low", "high", "p")
    rows = rows_to_draw(tests, columns, None)
    if not len(rows):
        return empty_figure("No comparison to show")
    metrics, arms = list(dict.fromkeys(rows["metric"])), ordered_arms(rows["arm"])
    introduce(ordered_arms([*rows["reference"], *arms]))
    figure = _panels_of_arms(metrics, arms, 2, 58)
    for k, name in enumerate(metrics):
        of_metric, place = rows[rows["metric"] == name], _place(k, len(metrics), 2)
        for at, arm in zip(_heights(arms), arms, strict=True):
            for row in of_metric[of_metric["arm"] == arm].to_dict("records"):
                _effect(figure, row, at, place)
        margin = _margin(of_metric, name, margins)
        _difference_axis(figure, name, ordered_arms(of_metric["reference"]), margin, place)
    return figure


def _panels_of_arms(metrics, arms, most, height):
    """Make a panel per metric, the arms down each of them in the order of the study."""
    n_rows, columns = grid(len(metrics), most)
    gap = 104  # px: ticks and two lines under a panel, the title over the next
    tall = n_rows * height * len(arms) + (n_rows - 1) * gap
    gaps = {"horizontal_spacing": 0.06, "vertical_spacing": gap / tall if n_rows > 1 else 0}
    titles = [_name_and_unit(metric)[0] for metric in metrics]
    figure = panels(n_rows, columns, shared_yaxes=True, subplot_titles=titles, **gaps)
    figure.update_annotations(font_size=14)
    names, limits = [plot_label(arm) for arm in arms], [-0.5, len(arms) - 0.5]
    figure.update_yaxes(tickvals=_heights(arms), ticktext=names, range=limits, showgrid=False, ticks="")
    margin = {"t": 40, "b": 72}
    figure.update_layout(height=tall + sum(margin.values()), margin=margin, showlegend=False)
    return figure.update_layout(violinmode="overlay", boxmode="overlay")


def _heights(arms):
    return np.arange(len(arms))[::-1]


def _place(k, n, most):
    columns = grid(n, most)[1]
    return {"row": k // columns + 1, "col": k % columns + 1}


def _difference_axis(figure, metric, references, margin, place):
    """Name the axis, draw the line of no difference and the band of equivalence."""
    figure.add_vline(x=0, line={"color": QUIET_COLOUR, "width": 1.5}, layer="below", **place)
    against = " or ".join(_inside(plot_label(arm)) for arm in references)
    unit = _name_and_unit(metric)[1]
    label = f"Arm − {against}" + (f" ({unit})" if unit else "")
    if margin is not None and np.isfinite(margin):
        band = {"fillcolor": wash(PALE, 0.45), "line_width": 0, "layer": "below"}
        figure.add_vrect(x0=-margin, x1=margin, **band, **place)
        style = f"font-size:{SMALL}px;color:{QUIET_COLOUR}"
        label += f"<br><span style='{style}'>grey: equivalent, ±{margin:g}</span>"
    figure.update_xaxes(title_text=label, nticks=5, tickangle=0, **place)


def _name_and_unit(metric):
    name, _, unit = _LABELS.get(metric, _readable(metric)).partition(" (")
    return name, unit.removesuffix(")")


def _raincloud(figure, pairs, arm, reference, metric, at, place):
    ours, theirs = (pairs[f"{metric}_{side}"].to_numpy(float) for side in ("arm", "reference"))
    difference, style = ours - theirs, arm_style(arm)
    shared = {"name": plot_label(arm), "legendgroup": arm, **place}
    if np.ptp(difference) > 0 if len(difference) > 2 else False:
        _cloud_and_box(figure, difference, at, style, shared)
    marker = {"color": style["colour"], "symbol": style["symbol"], "size": 6, "opacity": 0.7}
    figure.add_scatter(
        x=difference,
        y=at - jitter(difference, *_DROPS),
        mode="markers",
        marker=marker,
        customdata=np.column_stack([pairs["patient"].astype(str), ours, theirs]).astype(object),
        hovertemplate=f"patient %{{customdata[0]}}<br>{plot_label(arm)} %{{customdata[1]:.3g}}, "
        f"{plot_label(reference)} %{{customdata[2]:.3g}}<br>difference %{{x:+.3g}}<extra></extra>",
        **shared,
    )
    _note(figure, f"n = {len(difference)}", at + 0.42, place)


def _cloud_and_box(figure, difference, at, style, shared):
    look = {"orientation": "h", "y0": at, "line": {"color": style["colour"], "width": 1.5}}
    figure.add_violin(
        x=difference,
        side="positive",
        width=2 * _CLOUD,
        points=False,
        spanmode="hard",
        fillcolor=wash(style["colour"], 0.35),
        hoverinfo="skip",
        **look,
        **shared,
    )
    figure.add_box(
        x=difference,
        width=_BOX,
        boxpoints=False,
        fillcolor="#FFFFFF",
        quartilemethod="linear",
        **look,
        **shared,
    )


def jitter(values, low: float, high: float):
    """Spread values over (low, high), neighbours in value far apart, the same every time.

    Parameters
    ----------
    values : (n,).

    Returns
    -------
    (n,), each between ``low`` and ``high``.
    """
    ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return low + (high - low) * ((ranks * _GOLDEN) % 1)


def _effect(figure, row, at, place):
    style, name = arm_style(row["arm"]), plot_label(row["arm"])
    words = _effect_words(row)
    figure.add_scatter(
        x=[row["difference"]],
        y=[at - 0.12],
        mode="markers",
        marker={"color": style["colour"], "symbol": style["symbol"], "size": 10},
        error_x=_bar(row, style["colour"]),
        name=name,
        hovertemplate=f"{name} − {plot_label(row['reference'])}<br>{words}<extra></extra>",
        **place,
    )
    _note(figure, words, at + 0.28, place)


def _bar(row, colour):
    if not np.isfinite([row["low"], row["high"]]).all():
        return {"visible": False}
    arms = {"array": [row["high"] - row["difference"]], "arrayminus": [row["difference"] - row["low"]]}
    return {"type": "data", "symmetric": False, "color": colour, "thickness": 2, "width": 4} | arms


def _effect_words(row):
    metric = row["metric"]
    if not np.isfinite(row["difference"]):
        return "no pair"
    limits = (
        f" [{signed(metric, row['low'])}, {signed(metric, row['high'])}]" if np.isfinite(row["low"]) else ""
    )
    return f"{signed(metric, row['difference'])}{limits}, {p_value(row['p'])}"


def _margin(rows, metric, margins):
    if margins is not None:
        return margins.get(metric)
    return rows["margin"].dropna().max() if "margin" in rows.columns else None


def _note(figure, text, at, place):
    """Write at a height of the arms, at the right end of a panel."""
    axes = figure.get_subplot(place["row"], place["col"])
    names = [axis.plotly_name.replace("axis", "") for axis in (axes.xaxis, axes.yaxis)]
    look = {"font": {"size": SMALL, "color": QUIET_COLOUR}, "showarrow": False, "xanchor": "right"}
    figure.add_annotation(text=text, x=1, y=at, xref=f"{names[0]} domain", yref=names[1], **look)


def _inside(label):
    """Write a label inside a sentence: "expert AIF", but "CNN AIF"."""
    return label if label[:2].isupper() else label[:1].lower() + label[1:]


def _readable(metric):
    stem, _, unit = metric.rpartition("_")
    return (
        f"{stem.replace('_', ' ')} ({unit})"
        if unit in ("ml", "mm", "s") and stem
        else metric.replace("_", " ")
    )
