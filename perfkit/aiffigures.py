"""The AIFs of all arms: for one scan, scan by scan, and with the voxels they were taken from."""

from __future__ import annotations

import numpy as np

from . import paper
from .drawing import add_image, arm_style, introduce, panels, plot_label, plot_text, window_of
from .figureparts import arm_styles, say
from .overlays import BRAIN_WINDOW
from .scoretables import ordered_arms

_AXES = {True: "AIF / its peak", False: "AIF (HU above baseline)"}
_MARKS = 6  # our choice: symbols along a curve, enough to find its voxels in print


def aif_curves(curves, dt=paper.FRAME_INTERVAL, *, unit_peak=False, title=""):
    """Draw the AIFs of all arms for one scan.

    Parameters
    ----------
    curves : {arm: (T,)}, HU above baseline.
    dt : frame interval, s.
    unit_peak : divide each curve by its peak; rCBF does not depend on the peak.
    """
    figure = panels(1, 1)
    for arm in arm_styles(curves):
        _add_aif(figure, arm, curves[arm], dt, unit_peak, 1, 1)
    figure.update_xaxes(title_text="Time (s)")
    figure.update_yaxes(title_text=_AXES[unit_peak])
    # Beside the plot: in a row above it, nine names would wrap onto the title and under the toolbar.
    legend = {"orientation": "v", "x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top"}
    return figure.update_layout(height=380, title_text=title, legend=legend)


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
        subplot_titles=[plot_text(case) for case in curves],
        shared_xaxes="all",
        shared_yaxes="all" if unit_peak else False,
        horizontal_spacing=0.02 if unit_peak else 0.05,
        vertical_spacing=min(0.09, 0.35 / rows),
    )
    introduce(ordered_arms(arm for arms in curves.values() for arm in arms))
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


def aif_sources(background, inputs, *, affine=None, brain=None, z=None, unit_peak=False, title=""):
    """Show for one scan where each arm took its AIF from, beside the curves.

    Parameters
    ----------
    background : (X, Y, Z), HU.
    inputs : {arm: AIF}, objects with ``curve`` (T,) in HU above baseline, ``voxels`` (n, 3) and ``dt`` in
        s; an arm without voxels has its curve alone.
    affine : (4, 4) mm, optional; marks R and L.
    brain : (X, Y, Z) bool, optional; what to zoom to.
    z : slice; default the one that holds voxels of most arms, then most voxels.
    unit_peak : divide each curve by its peak.

    Returns
    -------
    plotly figure: voxels on the slice are filled, those of other slices are open.
    """
    order = ordered_arms(inputs)
    places = {arm: np.asarray(inputs[arm].voxels, int).reshape(-1, 3) for arm in order}
    z = _busiest(places.values(), background.shape[2]) if z is None else z
    figure = panels(1, 2, column_widths=[0.42, 0.58], horizontal_spacing=0.1)
    window = None if brain is None else window_of(np.asarray(brain, bool).any(axis=2))
    low, high = BRAIN_WINDOW
    image = {"colorscale": "gray", "zmin": low, "zmax": high, "showscale": False, "name": "scan"}
    add_image(figure, background[..., z], 1, 1, affine=affine, window=window, **image)
    styles = arm_styles(order)
    for arm in order:
        _add_voxels(figure, arm, places[arm], z, styles[arm])
        marker = {"symbol": styles[arm]["symbol"], "size": 7, "maxdisplayed": _MARKS}
        look = {"mode": "lines+markers", "marker": marker}
        _add_aif(figure, arm, inputs[arm].curve, inputs[arm].dt, unit_peak, 1, 2, **look)
    caption = f"Slice {z + 1} of {background.shape[2]}; open: voxels of other slices"
    say(figure, caption, 1, 1, y=0, yanchor="top", yshift=-4)
    figure.update_xaxes(title_text="Time (s)", row=1, col=2)
    figure.update_yaxes(title_text=_AXES[unit_peak], row=1, col=2)
    return figure.update_layout(height=440, title_text=title, margin={"l": 8, "t": 96 if title else 72})


def _busiest(places, n):
    slices = [voxels[:, 2] for voxels in places]
    arms = sum((np.isin(np.arange(n), held).astype(int) for held in slices), np.zeros(n, int))
    voxels = sum((np.bincount(held, minlength=n) for held in slices), np.zeros(n, int))
    central = -abs(np.arange(n) - n // 2)  # decides where no voxel does
    return int(np.lexsort((central, voxels, arms))[-1])


def _add_voxels(figure, arm, voxels, z, style):
    here = voxels[:, 2] == z
    for held, filled in ((voxels[~here], False), (voxels[here], True)):
        if not len(held):
            continue
        marker = {"symbol": style["symbol"] + ("" if filled else "-open"), "size": 9}
        marker |= {"color": style["colour"], "opacity": 1 if filled else 0.8}
        marker |= {"line": {"color": "#FFFFFF" if filled else style["colour"], "width": 1 if filled else 2}}
        figure.add_scatter(
            x=held[:, 0],
            y=held[:, 1],
            customdata=held[:, 2] + 1,
            mode="markers",
            marker=marker,
            name=f"{plot_label(arm)}, {'this slice' if filled else 'other slices'}",
            legendgroup=arm,
            showlegend=False,
            hovertemplate=f"{plot_label(arm)}<br>x %{{x}}, y %{{y}}, slice %{{customdata}}<extra></extra>",
            row=1,
            col=1,
        )


def _add_aif(figure, arm, curve, dt, unit_peak, row, column, showlegend=True, **look):
    import plotly.graph_objects as go

    curve, style = np.asarray(curve, float), arm_style(arm)
    if unit_peak and np.nanmax(curve) > 0:
        curve = curve / np.nanmax(curve)
    trace = go.Scatter(
        x=np.arange(curve.size) * dt,
        y=curve,
        line={"color": style["colour"], "dash": style["dash"], "width": 2},
        name=plot_label(arm),
        legendgroup=arm,
        showlegend=showlegend,
        hovertemplate=f"{plot_label(arm)}: %{{y:.2f}} at %{{x:.1f}} s<extra></extra>",
        **{"mode": "lines"} | look,
    )
    figure.add_trace(trace, row=row, col=column)
