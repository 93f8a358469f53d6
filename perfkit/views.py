"""Pictures of arrays: curves, impulse responses, singular values, maps, slices, a series that plays.

They return plotly figures, need no kernel once made, and name the unit on every axis. Slices are (X, Y)
in voxel order and shown as `drawing` says.
"""

from __future__ import annotations

import numpy as np

from . import paper
from .drawing import (
    ARM_COLOURS,
    ARM_DASHES,
    ARM_LABELS,
    COLOURWAY,
    MAPS,
    QUIET_COLOUR,
    add_core,
    add_image,
    arm_colour,
    mark_sides,
    oriented,
    panels,
    shrink,
    window_of,
)


def curves_figure(curves, dt=paper.FRAME_INTERVAL, *, title="", y_title="Enhancement (HU above baseline)"):
    """Draw named curves over time.

    Parameters
    ----------
    curves : {name: (T,)}; a known arm takes its colour.
    dt : frame interval, s.
    """
    times = {name: np.arange(len(curve)) * dt for name, curve in curves.items()}
    return _lines(times, curves, title, "Time (s)", y_title)


def irf_figure(times, curves, *, title=""):
    """Draw impulse responses k(t).

    Parameters
    ----------
    times : (T,) s.
    curves : {name: (T,)}, 1/s; "truth" is drawn dotted.
    """
    return _lines(dict.fromkeys(curves, times), curves, title, "Time (s)", "Impulse response k (1/s)")


def singular_values_figure(values, lambda_=None, *, title=""):
    """Draw singular values in falling order on a logarithmic axis, with the Tikhonov strength.

    Parameters
    ----------
    values : {name: (N,)}, HU·s.
    lambda_ : λ in the same unit, or {name: λ}; optional. Values below it are damped.
    """
    ordered = {name: np.sort(np.asarray(sigma, float))[::-1] for name, sigma in values.items()}
    shown = {name: np.where(sigma > 1e-12 * sigma[0], sigma, np.nan) for name, sigma in ordered.items()}
    index = {name: np.arange(1, len(sigma) + 1) for name, sigma in shown.items()}
    figure = _lines(index, shown, title, "Index", "Singular value (HU·s)", mode="lines+markers")
    lambdas = lambda_ if isinstance(lambda_, dict) else {"": lambda_} if lambda_ is not None else {}
    for name, value in lambdas.items():  # a trace, since a shape's label ignores the logarithm
        n = index[name].size if name in index else max(map(len, index.values()))
        line = {"color": QUIET_COLOUR, "dash": "dash", "width": 1.5}
        figure.add_scatter(x=[1, n], y=[value, value], mode="lines", line=line, name=f"λ {name}".strip())
    return figure.update_yaxes(type="log", exponentformat="power")


def _lines(x, y, title, x_title, y_title, mode="lines"):
    import plotly.graph_objects as go

    figure = panels(1, 1)
    colours = [colour for colour in COLOURWAY if colour not in {arm_colour(name) for name in y}]
    for i, (name, values) in enumerate(y.items()):
        colour = ARM_COLOURS.get(name, "#111827" if name == "truth" else colours[i % len(colours)])
        dash = "dot" if name == "truth" else ARM_DASHES.get(name, "solid")
        line = {"color": colour, "width": 2, "dash": dash}
        marker = {"size": 4}
        label = ARM_LABELS.get(name, str(name))
        figure.add_trace(go.Scatter(x=x[name], y=values, mode=mode, line=line, marker=marker, name=label))
    figure.update_xaxes(title_text=x_title)
    figure.update_yaxes(title_text=y_title)
    return figure.update_layout(height=380, title_text=title, showlegend=True)


def maps_figure(maps, *, affine=None, brain=None, core=None, ranges=None):
    """Show perfusion maps of one slice side by side, each with its unit.

    Parameters
    ----------
    maps : {"cbf" | "cbv" | "mtt" | "tmax" | …: (X, Y)}; other names are shown without unit.
    affine : (4, 4) mm, optional; marks R and L.
    brain, core : (X, Y) bool, optional; outside the brain nothing is shown, the core is outlined.
    ranges : {name: (low, high)}, optional, in the map's unit.
    """
    known = {name: MAPS.get(name, (name, "", None, "viridis")) for name in maps}
    figure = panels(1, len(maps), subplot_titles=[entry[0] for entry in known.values()])
    for j, (name, image) in enumerate(maps.items(), start=1):
        title, unit, limits, scale = known[name]
        low, high = (ranges or {}).get(name, limits or (np.nanmin(image), np.nanmax(image)))
        inside = np.ones(image.shape, bool) if brain is None else np.asarray(brain, bool)
        axis = f"coloraxis{j if j > 1 else ''}"
        hover = f"x %{{x}}, y %{{y}}: {title} %{{z:.1f}} {unit}<extra></extra>"
        window = window_of(inside)
        options = {"coloraxis": axis, "hovertemplate": hover, "affine": affine, "window": window}
        add_image(figure, np.where(inside, image, np.nan), 1, j, **options)
        if core is not None:
            add_core(figure, core, 1, j)
        left, right = figure.get_subplot(1, j).xaxis.domain
        bar = {"orientation": "h", "x": (left + right) / 2, "len": (right - left) * 0.9, "y": -0.02}
        bar |= {"yanchor": "top", "thickness": 10, "outlinewidth": 0, "title": {"side": "bottom"}}
        bar["title"]["text"] = f"{title} ({unit})" if unit else title
        figure.layout[axis] = {"colorscale": scale, "cmin": low, "cmax": high, "colorbar": bar}
    return figure.update_layout(height=380, margin={"l": 8, "r": 8, "t": 40, "b": 80})


def slice_mosaic(volume, *, affine=None, columns=None, limits=None, unit="HU", colorscale="gray", title=""):
    """Show all slices of a volume as tiles, first slice top left, in one picture.

    Parameters
    ----------
    volume : (X, Y, Z); tiles are shown at 128 pixels a side at most.
    affine : (4, 4) mm, optional; orients the tiles and marks R and L.
    limits : (low, high) in ``unit``; default the 1st and 99th percentile.
    """
    tiles = oriented(shrink(np.asarray(volume, np.float32), 128), affine)
    x, y, n = tiles.shape
    columns = columns or min(n, int(np.ceil(np.sqrt(1.6 * n))))
    rows = -(-n // columns)
    mosaic = np.full((columns * x, rows * y), np.nan, np.float32)
    for z in range(n):
        row, column = rows - 1 - z // columns, z % columns
        mosaic[column * x : (column + 1) * x, row * y : (row + 1) * y] = tiles[..., z]
    low, high = limits or np.nanpercentile(mosaic, [1, 99])
    figure = panels(1, 1)
    view = np.eye(4) * [-1, 1, 1, 1] if affine is not None else None  # tiles are oriented already
    add_image(figure, mosaic, 1, 1, affine=view, coloraxis="coloraxis", hoverinfo="skip", hovertemplate=None)
    bar = {"title": {"text": unit}, "thickness": 12, "outlinewidth": 0}
    colours = {"colorscale": colorscale, "cmin": float(low), "cmax": float(high), "colorbar": bar}
    margin = {"l": 8, "r": 8, "t": 48 if title else 8, "b": 8}
    return figure.update_layout(
        coloraxis=colours, height=int(60 + 900 * rows * y / (columns * x)), title_text=title, margin=margin
    )


_NO_METRICS = ("fold", "epoch", "lr", "learning_rate", "seconds", "watched")


def training_history(history):
    """Draw loss and metrics over epochs, each fold thin and the mean over folds thick.

    Parameters
    ----------
    history : DataFrame with ``fold, epoch`` and columns like ``loss, val_loss, dice, val_dice``; ``watched``
        says of whom the ``val_`` columns are: "validation" by default.
    """
    import plotly.graph_objects as go

    names = [c for c in history.columns if c not in _NO_METRICS]
    metrics = list(dict.fromkeys(name.removeprefix("val_") for name in names))
    watched = " or ".join(dict.fromkeys(history["watched"])) if "watched" in history else "validation"
    labels = {"loss": "Loss", "dice": "Dice", "roc_auc": "ROC AUC", "auc": "ROC AUC"}
    titles = [labels.get(metric, metric) for metric in metrics]
    figure = panels(1, max(1, len(metrics)), subplot_titles=titles, horizontal_spacing=0.07)
    for j, metric in enumerate(metrics, start=1):
        for name, label, colour in [
            (metric, "training", QUIET_COLOUR),
            (f"val_{metric}", watched, "#111827"),
        ]:
            if name not in history:
                continue
            group = {"legendgroup": label, "mode": "lines", "name": label}
            for fold, rows in history.groupby("fold"):
                hover = f"fold {fold}, {label}<br>epoch %{{x}}: %{{y:.3f}}<extra></extra>"
                thin = go.Scatter(
                    x=rows["epoch"], y=rows[name], line={"color": colour, "width": 1}, opacity=0.35
                )
                figure.add_trace(thin.update(group, showlegend=False, hovertemplate=hover), row=1, col=j)
            mean = history.groupby("epoch")[name].mean()
            thick = go.Scatter(x=mean.index, y=mean, line={"color": colour, "width": 3})
            figure.add_trace(thick.update(group, showlegend=j == 1), row=1, col=j)
    step = max(1, -(-int(np.ptp(history["epoch"])) // 5))  # whole epochs, six ticks at most
    figure.update_xaxes(title_text="Epoch", tick0=0, dtick=step)
    return figure.update_layout(height=360, legend={"y": 1.1})


def series_player(slices, dt=paper.FRAME_INTERVAL, *, affine=None, limits=(0, 120), title=""):
    """Play a slice of a series over time, with a slider and buttons that need no kernel.

    Parameters
    ----------
    slices : (X, Y, T), HU; shown at 128 pixels a side at most, 8 bits.
    dt : frame interval, s.
    affine : (4, 4) mm, optional; orients the slice and marks R and L.
    limits : HU window.
    """
    import plotly.graph_objects as go

    series = oriented(shrink(np.asarray(slices, np.float32), 128), affine)
    x, y, n = series.shape
    low, high = limits
    grey = (np.clip((series - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    frames = [_png(grey[:, ::-1, t].T) for t in range(n)]
    figure = panels(1, 1)
    figure.add_trace(go.Image(source=frames[0], hoverinfo="skip"))
    figure.frames = [go.Frame(data=[go.Image(source=frame)], name=str(t)) for t, frame in enumerate(frames)]
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    playing = still | {"fromcurrent": True, "frame": {"duration": 120, "redraw": True}}
    steps = [{"args": [[str(t)], still], "label": f"{t * dt:g}", "method": "animate"} for t in range(n)]
    slider = {"steps": steps, "currentvalue": {"prefix": "Time ", "suffix": " s", "xanchor": "right"}}
    slider |= {
        "x": 0.3,
        "len": 0.7,
        "y": 0,
        "pad": {"t": 8},
        "ticklen": 0,
        "font": {"color": "rgba(0,0,0,0)"},
    }
    slider["currentvalue"]["font"] = {"color": "#1F2937", "size": 13}
    buttons = [
        {"args": [None, playing], "label": "▶ Play", "method": "animate"},
        {"args": [[None], still], "label": "❚❚", "method": "animate"},
    ]
    menu = {"type": "buttons", "direction": "left", "buttons": buttons, "x": 0, "y": 0, "showactive": False}
    menu |= {"xanchor": "left", "yanchor": "top", "pad": {"t": 28}}
    figure.update_xaxes(visible=False, range=[-0.5, x - 0.5], constrain="domain")
    figure.update_yaxes(visible=False, range=[y - 0.5, -0.5], scaleanchor="x", constrain="domain")
    mark_sides(figure, affine, "x", "y")
    margin = {"l": 8, "r": 8, "t": 48 if title else 8, "b": 84}
    size = {"width": 520, "height": int(504 * y / x) + margin["t"] + margin["b"]}
    return figure.update_layout(sliders=[slider], updatemenus=[menu], title_text=title, margin=margin, **size)


def _png(image):
    """Encode an image (rows, columns) of 8-bit grey as a data address."""
    from base64 import b64encode
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()
