"""The figure of two raters of one cohort: how far apart they pick, and what it does to curves and cores."""

from __future__ import annotations

import numpy as np

from .comparison import bland_altman
from .drawing import COLOURWAY, QUIET_COLOUR, panels

TIMES = {"delta_ttp": "TTP", "delta_fwhm": "FWHM", "delta_first_moment": "First moment"}


def raters_figure(table, a: str, b: str):
    """Draw distances, curve differences, peaks, core volumes and Dice of two raters.

    Parameters
    ----------
    table : DataFrame of `raters.compare_raters`.
    a, b : their names.
    """
    titles = ["Distance of the picks", f"Times of the curve, {a} − {b}", "Peak of the curve"]
    titles += ["Core volume", "Core volume, Bland-Altman", "What distance does to the core"]
    figure = panels(2, 3, subplot_titles=titles, horizontal_spacing=0.09, vertical_spacing=0.18)
    _distances(figure, table)
    _times(figure, table, f"{a} − {b}")
    _pairs(figure, table, "peak", (1, 3), f"{a}: peak (HU)", f"{b}: peak (HU)", " HU", COLOURWAY[2], "square")
    labels = (f"{a}: core (ml)", f"{b}: core (ml)", " ml")
    _pairs(figure, table, "core_ml", (2, 1), *labels, COLOURWAY[0], "circle")
    _agreement(figure, table, f"{a} − {b} (ml)")
    _dice(figure, table)
    figure.update_layout(height=760, showlegend=False, margin={"t": 48})
    return figure


def _distances(figure, table):
    rows = table.dropna(subset=["distance_mm"]).sort_values("distance_mm")
    share = 100 * np.arange(1, len(rows) + 1) / max(len(rows), 1)
    style = {"line": {"shape": "hv", "color": COLOURWAY[0], "width": 2}, "marker": {"size": 6}}
    _points(figure, rows, rows["distance_mm"], share, (1, 1), "%{x:.1f} mm", mode="lines+markers", **style)
    figure.update_xaxes(title_text="Distance at most (mm)", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="Share of scans (%)", range=[0, 104], row=1, col=1)


def _times(figure, table, whose):
    for (column, name), colour in zip(TIMES.items(), COLOURWAY, strict=False):
        figure.add_box(
            y=table[column],
            name=name,
            text=table["case"],
            boxpoints="all",
            jitter=0.5,
            pointpos=0,
            marker={"color": colour, "size": 5, "opacity": 0.6},
            line={"width": 1.5},
            fillcolor="rgba(0,0,0,0)",
            hovertemplate=f"%{{text}}<br>{name} %{{y:+.1f}} s<extra></extra>",
            row=1,
            col=2,
        )
    _zero(figure, 1, 2)
    figure.update_yaxes(title_text=f"{whose} (s)", row=1, col=2)


def _pairs(figure, table, column, place, x_title, y_title, unit, colour, symbol):
    x, y = table[f"{column}_a"], table[f"{column}_b"]
    top = 1.06 * max(float(np.nanmax([*x, *y, 0])), 1e-9)
    line = {"color": QUIET_COLOUR, "width": 1, "dash": "dot"}
    row, col = place
    figure.add_scatter(
        x=[0, top], y=[0, top], mode="lines", line=line, name="equal", hoverinfo="skip", row=row, col=col
    )
    marker = {"color": colour, "symbol": symbol, "size": 8, "opacity": 0.75}
    _points(figure, table, x, y, place, f"%{{x:.1f}} and %{{y:.1f}}{unit}", marker=marker)
    figure.update_xaxes(title_text=x_title, range=[-0.04 * top, top], row=row, col=col)
    figure.update_yaxes(title_text=y_title, range=[-0.04 * top, top], row=row, col=col)


def _agreement(figure, table, y_title):
    rows = table.dropna(subset=["core_ml_a", "core_ml_b"])
    a, b = rows["core_ml_a"], rows["core_ml_b"]
    marker = {"color": COLOURWAY[0], "size": 8, "opacity": 0.75}
    words = "mean %{x:.1f} ml, difference %{y:+.1f} ml"
    _points(figure, rows, (a + b) / 2, a - b, (2, 2), words, marker=marker)
    _zero(figure, 2, 2)
    if len(rows) > 1:
        found = bland_altman(a, b)
        for value, text, dash in [
            (found.bias, f"bias {found.bias:+.1f}", "solid"),
            (found.upper, f"+1.96 SD {found.upper:+.1f}", "dash"),
            (found.lower, f"−1.96 SD {found.lower:+.1f}", "dash"),
        ]:
            note = {"text": text.replace("-", "−"), "font": {"size": 11}, "bgcolor": "rgba(255,255,255,.75)"}
            line = {"color": "#374151", "width": 1.5, "dash": dash}
            options = {"annotation": note, "annotation_position": "top right"}
            figure.add_hline(y=value, line=line, row=2, col=2, **options)
    figure.update_xaxes(title_text="Mean of both volumes (ml)", row=2, col=2)
    figure.update_yaxes(title_text=y_title, row=2, col=2)


def _dice(figure, table):
    marker = {"color": COLOURWAY[1], "symbol": "diamond", "size": 8, "opacity": 0.75}
    words = "%{x:.1f} mm apart, Dice %{y:.2f}"
    _points(figure, table, table["distance_mm"], table["dice_cores"], (2, 3), words, marker=marker)
    figure.update_xaxes(title_text="Distance of the picks (mm)", rangemode="tozero", row=2, col=3)
    figure.update_yaxes(title_text="Dice of the two cores", range=[-0.03, 1.03], row=2, col=3)


def _points(figure, rows, x, y, place, words, *, mode="markers", **style):
    hover = f"%{{text}}<br>{words}<extra></extra>"
    figure.add_scatter(
        x=x, y=y, mode=mode, text=rows["case"], hovertemplate=hover, row=place[0], col=place[1], **style
    )


def _zero(figure, row, col):
    figure.add_hline(y=0, line={"color": "#D1D5DB", "width": 1}, layer="below", row=row, col=col)
