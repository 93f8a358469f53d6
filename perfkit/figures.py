"""The figures of a study: Fig. 2, Fig. 3, the AIFs of all arms, the training; `views` holds the others.

They return plotly figures, need no kernel once made, and name the unit on every axis. Slices are (X, Y)
in voxel order and shown as `drawing` says.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import paper
from .comparison import bland_altman, ordered_arms
from .drawing import (
    ARM_COLOURS,
    ARM_DASHES,
    ARM_LABELS,
    ARM_SYMBOLS,
    PREDICTED_COLOUR,
    QUIET_COLOUR,
    add_contour,
    add_core,
    add_image,
    arm_colour,
    arm_label,
    panels,
    save_figure,
    window_of,
)
from .views import (
    curves_figure,
    irf_figure,
    maps_figure,
    series_player,
    singular_values_figure,
    slice_mosaic,
    training_history,
)

__all__ = [
    "ARM_COLOURS",
    "ARM_LABELS",
    "CaseSlice",
    "aif_curves",
    "aif_curves_by_case",
    "case_slice",
    "curves_figure",
    "fig2",
    "fig3",
    "irf_figure",
    "maps_figure",
    "save_figure",
    "series_player",
    "singular_values_figure",
    "slice_mosaic",
    "training_history",
]


@dataclass(frozen=True, kw_only=True)
class CaseSlice:
    """One row of Fig. 2: a slice (X, Y) of a scan with the maps of each arm."""

    case: str
    background: np.ndarray  # HU, mean of the series or its baseline
    core: np.ndarray | None  # bool, ground truth
    rcbf: dict[str, np.ndarray] = field(default_factory=dict)
    predicted: dict[str, np.ndarray] = field(default_factory=dict)
    brain: np.ndarray | None = None
    affine: np.ndarray | None = None
    captions: dict[str, str] = field(default_factory=dict)  # arm -> a line under its map, e.g. its Dice


def case_slice(case, background, core, rcbf, predicted, *, brain=None, z=None, **options) -> CaseSlice:
    """Cut volumes (X, Y, Z) to the slice that shows most of the core.

    Parameters
    ----------
    case : name.
    background : (X, Y, Z), HU.
    core : (X, Y, Z) bool, or None.
    rcbf, predicted : {arm: (X, Y, Z)}.
    brain : (X, Y, Z) bool, optional.
    z : slice; default the one with the largest core, the middle one where there is none.
    options : ``affine`` and ``captions`` of `CaseSlice`.
    """
    if z is None:
        z = int(np.argmax(core.sum(axis=(0, 1)))) if core is not None and core.any() else None
    z = background.shape[2] // 2 if z is None else z
    return CaseSlice(
        case=str(case),
        background=background[..., z],
        core=None if core is None else core[..., z],
        rcbf={arm: volume[..., z] for arm, volume in rcbf.items()},
        predicted={arm: volume[..., z] for arm, volume in predicted.items()},
        brain=None if brain is None else brain[..., z],
        **options,
    )


def fig2(slices, *, rcbf_range=(0, 1.5), background_range=(0, 60)):
    """Show, scan by scan, the ground truth and the rCBF map of each arm with both core contours.

    Paper: Fig. 2.

    Parameters
    ----------
    slices : a `CaseSlice` or several; one row of panels each.
    rcbf_range : the same colours for all arms; healthy tissue is 1.
    background_range : HU window of the ground-truth panel.
    """
    slices = [slices] if isinstance(slices, CaseSlice) else list(slices)
    arms = ordered_arms(arm for row in slices for arm in row.rcbf)
    titles = ["Ground truth", *(arm_label(arm) for arm in arms)]
    figure = panels(
        len(slices), 1 + len(arms), column_titles=titles, horizontal_spacing=0.01, vertical_spacing=0.04
    )
    for i, row in enumerate(slices, start=1):
        _truth_panel(figure, row, i, background_range)
        for j, arm in enumerate(arms, start=2):
            if arm in row.rcbf:
                _arm_panel(figure, row, arm, i, j)
    bar = {"title": {"text": "rCBF<br>(healthy = 1)"}, "thickness": 12, "outlinewidth": 0}
    bar |= {"len": 0.8, "x": 1.01}
    colours = {"colorscale": "cividis", "cmin": rcbf_range[0], "cmax": rcbf_range[1], "colorbar": bar}
    return figure.update_layout(
        height=110 + 270 * len(slices),
        coloraxis=colours,
        margin={"l": 8, "r": 8, "t": 40, "b": 64},
        legend={"y": -0.09 / len(slices), "yanchor": "top", "bgcolor": "#D1D5DB"},
    )


def _truth_panel(figure, row, i, limits):
    add_image(
        figure,
        row.background,
        i,
        1,
        affine=row.affine,
        window=window_of(_brain(row)),
        colorscale="gray",
        zmin=limits[0],
        zmax=limits[1],
        showscale=False,
        hovertemplate=f"{row.case}<br>x %{{x}}, y %{{y}}: %{{z:.0f}} HU<extra></extra>",
    )
    add_core(figure, row.core, i, 1, showlegend=i == 1)
    _note_under(figure, i, 1, row.case)


def _arm_panel(figure, row, arm, i, j):
    brain = _brain(row)
    add_image(
        figure,
        np.where(brain, row.rcbf[arm], np.nan),
        i,
        j,
        affine=row.affine,
        window=window_of(brain),
        coloraxis="coloraxis",
        hovertemplate=f"{row.case}, {arm_label(arm)}<br>x %{{x}}, y %{{y}}: rCBF %{{z:.2f}}<extra></extra>",
    )
    add_core(figure, row.core, i, j)
    if arm in row.predicted:
        name = f"Predicted core (rCBF < {paper.RCBF_THRESHOLD})"
        mask, first = row.predicted[arm], (i, j) == (1, 2)
        add_contour(figure, mask, i, j, colour=PREDICTED_COLOUR, name=name, showlegend=first)
    _note_under(figure, i, j, row.captions.get(arm, ""))


def _brain(row):
    return np.isfinite(row.background) if row.brain is None else np.asarray(row.brain, bool)


def fig3(scores, matrix="circulant"):
    """Draw one Bland-Altman panel of core volumes per arm, against the ground truth.

    Paper: Fig. 3.

    Parameters
    ----------
    scores : DataFrame with ``case, patient, arm, matrix, volume_ml, reference_volume_ml``.
    matrix : the deconvolution matrix whose rows are drawn.
    """
    rows = scores[(scores["matrix"] == matrix)].dropna(subset=["volume_ml", "reference_volume_ml"])
    arms = ordered_arms(rows["arm"])
    if not arms:
        raise ValueError(f"Fig. 3 needs volumes: scores hold none for the matrix {matrix!r}.")
    figure = panels(
        1,
        len(arms),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        subplot_titles=[arm_label(arm) for arm in arms],
    )
    for j, arm in enumerate(arms, start=1):
        _bland_altman_panel(figure, rows[rows["arm"] == arm], arm, j)
    largest = float(((rows["volume_ml"] + rows["reference_volume_ml"]) / 2).max())
    figure.update_xaxes(title_text="Mean of both volumes (ml)", range=[-0.04 * largest, 1.06 * largest])
    figure.update_yaxes(title_text="Arm − ground truth (ml)", col=1)
    return figure.update_layout(height=420, showlegend=False, margin={"t": 40})


def _bland_altman_panel(figure, rows, arm, column):
    import plotly.graph_objects as go

    volume, reference = rows["volume_ml"].to_numpy(float), rows["reference_volume_ml"].to_numpy(float)
    marker = {"color": arm_colour(arm), "size": 8, "opacity": 0.75, "symbol": ARM_SYMBOLS.get(arm, "circle")}
    hover = "%{customdata[0]} (patient %{customdata[1]})<br>arm %{customdata[2]:.1f} ml, ground truth "
    points = go.Scatter(
        x=(volume + reference) / 2,
        y=volume - reference,
        mode="markers",
        name=arm_label(arm),
        marker=marker,
        customdata=np.column_stack([rows[["case", "patient"]].astype(str), volume, reference]).astype(object),
        hovertemplate=hover + "%{customdata[3]:.1f} ml<br>difference %{y:.1f} ml<extra></extra>",
    )
    figure.add_trace(points, row=1, col=column)
    figure.add_hline(y=0, line={"color": "#D1D5DB", "width": 1}, row=1, col=column, layer="below")
    if len(rows) < 2:
        figure.add_annotation(text="fewer than 2 scans: no limits", showarrow=False, row=1, col=column)
        return
    found = bland_altman(volume, reference)
    for value, text, dash in [
        (found.bias, f"bias {found.bias:+.1f}", "solid"),
        (found.upper, f"+1.96 SD {found.upper:+.1f}", "dash"),
        (found.lower, f"−1.96 SD {found.lower:+.1f}", "dash"),
    ]:
        figure.add_hline(
            y=value,
            line={"color": "#374151", "width": 1.5, "dash": dash},
            annotation={
                "text": text.replace("-", "−"),
                "font": {"size": 11, "color": "#374151"},
                "bgcolor": "rgba(255,255,255,.75)",
            },
            annotation_position="top right",
            row=1,
            col=column,
        )


def aif_curves(curves, dt=paper.FRAME_INTERVAL, *, unit_peak=False, title=""):
    """Draw the AIFs of all arms for one scan.

    Parameters
    ----------
    curves : {arm: (T,)}, HU above baseline.
    dt : frame interval, s.
    unit_peak : divide each curve by its peak; rCBF does not depend on the peak.
    """
    figure = panels(1, 1)
    for arm in ordered_arms(curves):
        _add_aif(figure, arm, curves[arm], dt, unit_peak, 1, 1)
    figure.update_xaxes(title_text="Time (s)")
    figure.update_yaxes(title_text="AIF / its peak" if unit_peak else "AIF (HU above baseline)")
    return figure.update_layout(height=380, title_text=title)


def aif_curves_by_case(curves, dt=paper.FRAME_INTERVAL, *, unit_peak=True, columns=4):
    """Draw the AIFs of all arms, one small panel per scan.

    Paper: Supplement, AIF curves.

    Parameters
    ----------
    curves : {case: {arm: (T,)}}, HU above baseline.
    dt : frame interval in s, or {case: s}.
    unit_peak : divide each curve by its peak, so that arms of any scale share a panel.
    columns : panels per row.
    """
    columns = max(1, min(columns, len(curves)))
    rows = max(1, -(-len(curves) // columns))
    figure = panels(
        rows,
        columns,
        subplot_titles=[str(case) for case in curves],
        shared_xaxes="all",
        shared_yaxes="all" if unit_peak else False,
        horizontal_spacing=0.02 if unit_peak else 0.05,
        vertical_spacing=min(0.09, 0.35 / rows),
    )
    seen = set()
    for i, (case, arms) in enumerate(curves.items()):
        step = dt[case] if isinstance(dt, dict) else dt
        row, column = i // columns + 1, i % columns + 1
        for arm in ordered_arms(arms):
            _add_aif(figure, arm, arms[arm], step, unit_peak, row, column, showlegend=arm not in seen)
            seen.add(arm)
    for i in range(max(0, len(curves) - columns), len(curves)):  # the lowest panel of each column
        figure.update_xaxes(
            title_text="Time (s)", showticklabels=True, row=i // columns + 1, col=i % columns + 1
        )
    figure.update_yaxes(title_text="AIF / its peak" if unit_peak else "AIF (HU)", col=1)
    offset = 0.25 / rows
    return figure.update_layout(height=120 + 170 * rows, legend={"y": 1 + offset, "yanchor": "bottom"})


def _add_aif(figure, arm, curve, dt, unit_peak, row, column, showlegend=True):
    import plotly.graph_objects as go

    curve = np.asarray(curve, float)
    if unit_peak and np.nanmax(curve) > 0:
        curve = curve / np.nanmax(curve)
    trace = go.Scatter(
        x=np.arange(curve.size) * dt,
        y=curve,
        mode="lines",
        line={"color": arm_colour(arm), "dash": ARM_DASHES.get(arm, "solid"), "width": 2},
        name=arm_label(arm),
        legendgroup=arm,
        showlegend=showlegend,
        hovertemplate=f"{arm_label(arm)}: %{{y:.2f}} at %{{x:.1f}} s<extra></extra>",
    )
    figure.add_trace(trace, row=row, col=column)


def _note_under(figure, row, column, text):
    axis = figure.get_subplot(row, column).xaxis.plotly_name.replace("axis", "")
    figure.add_annotation(
        text=text,
        x=0.5,
        y=0,
        xref=f"{axis} domain",
        yref=f"{axis.replace('x', 'y')} domain",
        yanchor="top",
        showarrow=False,
        font={"size": 12, "color": QUIET_COLOUR},
    )
