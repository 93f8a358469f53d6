"""The figures of a study: Fig. 2 here, and the front of the modules that hold the others.

They return plotly figures, need no kernel once made, and name the unit on every axis. Slices are (X, Y)
in voxel order and shown as `drawing` says.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import paper
from .aiffigures import aif_curves, aif_curves_by_case, aif_sources
from .comparison import ordered_arms
from .drawing import (
    ARM_COLOURS,
    ARM_LABELS,
    PREDICTED_COLOUR,
    QUIET_COLOUR,
    add_contour,
    add_core,
    add_image,
    panels,
    plot_label,
    plot_text,
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
from .volumefigures import fig3, volume_scatter

__all__ = [
    "ARM_COLOURS",
    "ARM_LABELS",
    "CaseSlice",
    "aif_curves",
    "aif_curves_by_case",
    "aif_sources",
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
    "volume_scatter",
]

STROKE_WINDOW = (20, 60)  # HU; our choice: level and width 40, narrower than a brain window, as for infarcts


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


def fig2(slices, *, rcbf_range=(0, 1.5), background_range=STROKE_WINDOW):
    """Show, scan by scan, the ground truth and the rCBF map of each arm with both core contours.

    Paper: Fig. 2.

    Parameters
    ----------
    slices : a `CaseSlice` or several; one row of panels each.
    rcbf_range : the same colours for all arms; healthy tissue is 1.
    background_range : HU window of the ground-truth panel; default ``STROKE_WINDOW``.
    """
    slices = [slices] if isinstance(slices, CaseSlice) else list(slices)
    arms = ordered_arms(arm for row in slices for arm in row.rcbf)
    titles = ["Ground truth", *(plot_label(arm) for arm in arms)]
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
        meta={"printed_height": 110 + 165 * len(slices)},
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
        hovertemplate=f"{plot_text(row.case)}<br>x %{{x}}, y %{{y}}: %{{z:.0f}} HU<extra></extra>",
    )
    add_core(figure, row.core, i, 1, showlegend=i == 1)
    _note_under(figure, i, 1, plot_text(row.case))


def _arm_panel(figure, row, arm, i, j):
    brain, name = _brain(row), f"{plot_text(row.case)}, {plot_label(arm)}"
    add_image(
        figure,
        np.where(brain, row.rcbf[arm], np.nan),
        i,
        j,
        affine=row.affine,
        window=window_of(brain),
        coloraxis="coloraxis",
        hovertemplate=f"{name}<br>x %{{x}}, y %{{y}}: rCBF %{{z:.2f}}<extra></extra>",
    )
    add_core(figure, row.core, i, j)
    if arm in row.predicted:
        name = f"Predicted core (rCBF < {paper.RCBF_THRESHOLD})"
        mask, first = row.predicted[arm], (i, j) == (1, 2)
        add_contour(figure, mask, i, j, colour=PREDICTED_COLOUR, name=name, showlegend=first)
    _note_under(figure, i, j, row.captions.get(arm, ""))


def _brain(row):
    return np.isfinite(row.background) if row.brain is None else np.asarray(row.brain, bool)


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
