"""Core volumes against the ground truth: Bland-Altman (Fig. 3), and predicted over reference."""

from __future__ import annotations

import numpy as np

from .blandaltman import bland_altman, patients_with_several
from .drawing import QUIET_COLOUR, panels, plot_label
from .eligibility import RULES
from .figureparts import INK, PALE, SMALL, arm_styles, empty_figure, grid, rows_to_draw, wash
from .scoretables import count, p_value

CORE_LIMIT_ML = RULES["DEFUSE 3"].core_below_ml
SIGNIFICANT = 0.05  # our choice: the field's habit; it decides whether a line is drawn
MOST = 4  # our choice: panels in a row; a fifth is too narrow for its texts on a page
_BANDS = (("lower", "lower limit", 0.1), ("upper", "upper limit", 0.1), ("bias", "bias", 0.2))
_TICKS = (0, 1, 3, 10, 30, 100, 300, 1000)  # ml


def fig3(scores, matrix="circulant"):
    """Draw one Bland-Altman panel of core volumes per arm, against the ground truth.

    Paper: Fig. 3.

    Parameters
    ----------
    scores : DataFrame with ``case, patient, arm, matrix, volume_ml, reference_volume_ml``.
    matrix : the deconvolution matrix whose rows are drawn.

    Returns
    -------
    plotly figure: bias and limits of agreement with their 95 % intervals as bands (bootstrapped over
    patients where patients have several scans, see `blandaltman.bland_altman`), and the line of the
    difference on the mean where its slope differs from zero (p < .05).
    """
    rows = scores[(scores["matrix"] == matrix)].dropna(subset=["volume_ml", "reference_volume_ml"])
    styles = arm_styles(rows["arm"])
    arms = list(styles)
    if not arms:
        raise ValueError(f"Fig. 3 needs volumes: scores hold none for the matrix {matrix!r}.")
    parts = {arm: rows[rows["arm"] == arm] for arm in arms}
    found = {arm: _agreement(part) for arm, part in parts.items()}
    titles = [_fig3_title(arm, parts[arm], found[arm]) for arm in arms]
    n_rows, columns = grid(len(arms), MOST)
    gaps = {"horizontal_spacing": 0.02, "vertical_spacing": 0.26 / n_rows}
    figure = panels(n_rows, columns, shared_yaxes="all", subplot_titles=titles, **gaps)
    largest = float(((rows["volume_ml"] + rows["reference_volume_ml"]) / 2).max())
    ends = (-0.04 * largest, 1.06 * largest) if largest > 0 else (-1.0, 1.0)
    for i, arm in enumerate(arms):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        _bland_altman_panel(figure, parts[arm], arm, styles[arm], found[arm], ends, place)
    figure.update_xaxes(title={"text": "Mean of both volumes (ml)", "font_size": SMALL}, range=list(ends))
    figure.update_yaxes(title_text="Arm − ground truth (ml)", col=1)
    return _finish(figure, 40 + 400 * n_rows, top=76)


def volume_scatter(scores, *, matrix="circulant", log=True, limit_ml=CORE_LIMIT_ML):
    """Draw predicted over reference core volumes, one panel per arm, with the line of identity.

    Parameters
    ----------
    scores : DataFrame with ``patient, arm, matrix, volume_ml, reference_volume_ml``: one row per scan
        (then with ``case``) or per patient.
    matrix : the deconvolution matrix whose rows are drawn.
    log : axes of log(1 + volume), which keep an empty core; else linear.
    limit_ml : a volume to mark on both axes, ml; default the largest core of DEFUSE 3. None for none.

    Returns
    -------
    plotly figure; an empty table gives one that says so.
    """
    titles = ("Reference core (ml)", "Predicted core (ml)")
    rows = rows_to_draw(scores, ("patient", "arm", "volume_ml", "reference_volume_ml"), matrix)
    rows = rows.dropna(subset=["volume_ml", "reference_volume_ml"])
    styles = arm_styles(rows["arm"])
    arms = list(styles)
    if not arms:
        return empty_figure(f"No core volumes for the matrix {matrix}", *titles)
    n_rows, columns = grid(len(arms), MOST)
    parts = {arm: rows[rows["arm"] == arm] for arm in arms}
    figure = panels(
        n_rows,
        columns,
        subplot_titles=[_scatter_title(arm, part, limit_ml) for arm, part in parts.items()],
        horizontal_spacing=0.03,
        vertical_spacing=0.26 / n_rows,
        shared_xaxes="all",
        shared_yaxes="all",
    )
    top = float(rows[["volume_ml", "reference_volume_ml"]].to_numpy().max())
    _volume_axes(figure, 1.1 * max(top, 1.0), log)
    for i, (arm, part) in enumerate(parts.items()):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        _volume_panel(figure, part, arm, styles[arm], top, log, limit_ml, place)
        if i + columns >= len(arms):
            figure.update_xaxes(title_text=titles[0], showticklabels=True, **place)
    figure.update_yaxes(title_text=titles[1], col=1)
    return _finish(figure, 60 + 320 * n_rows)


def _finish(figure, height, top=60):
    figure.update_annotations(font_size=14, selector={"yref": "paper"})  # titles of panels, four in a row
    figure.update_xaxes(tickangle=0)
    return figure.update_layout(height=height, showlegend=False, margin={"t": top})


def _agreement(rows):
    if len(rows) < 2:
        return None
    patients = patients_with_several(rows["patient"])
    return bland_altman(rows["volume_ml"], rows["reference_volume_ml"], patients=patients)


def _slopes(found):
    return found is not None and found.slope_p < SIGNIFICANT


def _small(text):
    return f"<br><span style='font-size:{SMALL}px;color:{QUIET_COLOUR}'>{text}</span>"


def _slope_words(found):
    return f"slope {found.slope:+.2f}, {p_value(found.slope_p)}".replace("-", "−")


def _fig3_title(arm, rows, found):
    n = f"{count(len(rows), 'scan')} of {count(rows['patient'].nunique(), 'patient')}"
    slope = _slope_words(found) if found and np.isfinite(found.slope_p) else " "
    return plot_label(arm) + _small(n) + _small(slope)


def _bland_altman_panel(figure, rows, arm, style, found, ends, place):
    import plotly.graph_objects as go

    if found:
        _bands(figure, found, ends, place)
    volume, reference = rows["volume_ml"].to_numpy(float), rows["reference_volume_ml"].to_numpy(float)
    marker = {"color": style["colour"], "size": 8, "opacity": 0.75, "symbol": style["symbol"]}
    hover = "%{customdata[0]} (patient %{customdata[1]})<br>arm %{customdata[2]:.1f} ml, ground truth "
    points = go.Scatter(
        x=(volume + reference) / 2,
        y=volume - reference,
        mode="markers",
        name=plot_label(arm),
        marker=marker,
        customdata=np.column_stack([rows[["case", "patient"]].astype(str), volume, reference]).astype(object),
        hovertemplate=hover + "%{customdata[3]:.1f} ml<br>difference %{y:.1f} ml<extra></extra>",
    )
    figure.add_trace(points, **place)
    figure.add_hline(y=0, line={"color": PALE, "width": 1}, **place, layer="below")
    if not found:
        figure.add_annotation(text="fewer than 2 scans: no limits", showarrow=False, **place)
        return
    _limits(figure, found, place)
    if _slopes(found):
        _trend(figure, found, (volume + reference) / 2, place)


def _bands(figure, found, ends, place):
    """Fill the intervals of the bias and of both limits; nothing where there are none."""
    for name, line, opacity in _BANDS:
        low, high = getattr(found, f"{name}_low"), getattr(found, f"{name}_high")
        if np.isfinite([low, high]).all():
            corners = {"x": [*ends, *ends[::-1]], "y": [low, low, high, high], "line": {"width": 0}}
            look = {"fill": "toself", "fillcolor": wash(INK, opacity), "mode": "lines", "hoveron": "fills"}
            words = f"{100 * found.level:g} % interval of the {line}<br>{low:+.1f} to {high:+.1f} ml"
            look |= {"text": words.replace("-", "−"), "hoverinfo": "text", "name": f"interval, {line}"}
            figure.add_scatter(**place, **corners, **look)


def _limits(figure, found, place):
    for value, text, dash in [
        (found.bias, f"bias {found.bias:+.1f}", "solid"),
        (found.upper, f"+1.96 SD {found.upper:+.1f}", "dash"),
        (found.lower, f"−1.96 SD {found.lower:+.1f}", "dash"),
    ]:
        figure.add_hline(
            y=value,
            line={"color": INK, "width": 1.5, "dash": dash},
            annotation={
                "text": text.replace("-", "−"),
                "font": {"size": SMALL, "color": INK},
                "bgcolor": "rgba(255,255,255,.75)",
            },
            annotation_position="top right",
            **place,
        )


def _trend(figure, found, means, place):
    """Draw the line of the difference on the mean, through the centre of the points."""
    ends = np.array([means.min(), means.max()])
    words = f"{_slope_words(found)}<br>the difference changes with the volume, or the two scatter differently"
    figure.add_scatter(
        x=ends,
        y=found.bias + found.slope * (ends - means.mean()),
        mode="lines",
        line={"color": INK, "width": 2, "dash": "dot"},
        name="difference on mean",
        hovertemplate=f"{words}<extra></extra>",
        **place,
    )


def _scatter_title(arm, rows, limit):
    n = count(len(rows), "scan" if "case" in rows.columns else "patient")
    if limit is None:
        return plot_label(arm) + _small(n)
    across = int(((rows["volume_ml"] < limit) != (rows["reference_volume_ml"] < limit)).sum())
    return plot_label(arm) + _small(f"{n}, {across} across {limit:g} ml")


def _volume_axes(figure, top, log):
    scale = np.log1p if log else np.asarray
    ticks = {"range": [float(scale(-0.03 * top)) if not log else -0.15, float(scale(top))]}
    if log:
        shown = [tick for tick in _TICKS if tick <= top]
        ticks |= {"tickvals": np.log1p(shown), "ticktext": [f"{tick}" for tick in shown]}
    figure.update_xaxes(**ticks)
    figure.update_yaxes(**ticks)


def _volume_panel(figure, rows, arm, style, top, log, limit, place):
    scale = np.log1p if log else np.asarray
    reference, volume = rows["reference_volume_ml"].to_numpy(float), rows["volume_ml"].to_numpy(float)
    ends = scale(np.array([0.0, 1.1 * max(top, 1.0)]))
    line = {"color": QUIET_COLOUR, "width": 1, "dash": "dash"}
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, name="equal", hoverinfo="skip", **place)
    case = rows["case"] if "case" in rows.columns else rows["patient"]
    figure.add_scatter(
        x=scale(reference),
        y=scale(volume),
        mode="markers",
        marker={"color": style["colour"], "symbol": style["symbol"], "size": 7, "opacity": 0.75},
        name=plot_label(arm),
        customdata=np.column_stack([case.astype(str), rows["patient"].astype(str), volume, reference]),
        hovertemplate="%{customdata[0]} (patient %{customdata[1]})<br>predicted %{customdata[2]:.1f} ml, "
        "reference %{customdata[3]:.1f} ml<extra></extra>",
        **place,
    )
    if limit is not None and limit < 1.1 * top:
        at = float(scale(limit))
        for add, name in ((figure.add_vline, "x"), (figure.add_hline, "y")):
            add(**{name: at}, line={"color": INK, "width": 1, "dash": "dot"}, layer="below", **place)
        look = {"font": {"size": SMALL, "color": INK}, "showarrow": False}
        axis = figure.get_subplot(**place).yaxis.plotly_name.replace("axis", "")
        where = {"x": at, "xref": axis.replace("y", "x"), "y": 0, "yref": f"{axis} domain"}
        look |= {"xanchor": "left", "yanchor": "bottom"}
        figure.add_annotation(text=f"{limit:g} ml", **where, **look)
