"""What all figures share: one look, one colour per arm, one orientation of images, one way to save.

Images are slices (X, Y) in nibabel's voxel order. With an affine they are shown in the radiological
convention, anterior up and the patient's left on the right of the screen, with R and L marked; without
one (or where the first two voxel axes are not left-right and back-front) as stored, x to the right and
y upward, unmarked. Voxel indices under the pointer are always those of the stored array.
"""

from __future__ import annotations

import logging
import os
import shutil
from functools import cache
from html import escape
from pathlib import Path

import numpy as np

# Okabe & Ito 2008: told apart with any colour vision; dashes and symbols repeat it for print.
ARM_COLOURS = {"expert": "#0072B2", "automatic": "#E69F00", "cnn": "#009E73", "brain_mean": "#CC79A7"}
ARM_COLOURS |= {"pool": "#8C510A"}
ARM_COLOURS |= {"straka": "#E69F00", "mouridsen": "#56B4E9", "murase": "#D55E00"}  # Straka's rule: automatic
ARM_COLOURS |= {"peruzzo": "#882255", "shi": "#332288", "rausch": "#999933", "truth": "#111827"}
ARM_LABELS = {
    "expert": "Expert AIF",
    "automatic": "Automatic AIF",
    "cnn": "CNN AIF",
    "pool": "Pooled AIF",
    "brain_mean": "Mean brain curve",
    "straka": "Straka 2010",
    "mouridsen": "Mouridsen 2006",
    "murase": "Murase 2001",
    "peruzzo": "Peruzzo 2011",
    "shi": "Shi 2014",
    "rausch": "Rausch 2000",
    "truth": "True AIF",
}
ARM_DASHES = {"expert": "solid", "automatic": "dash", "cnn": "dashdot", "brain_mean": "dot"}
ARM_DASHES |= {"pool": "longdashdot"}
ARM_DASHES |= {"straka": "dash", "mouridsen": "dash", "murase": "dashdot", "peruzzo": "dashdot"}
ARM_DASHES |= {"shi": "longdash", "rausch": "longdash", "truth": "solid"}
ARM_SYMBOLS = {"expert": "circle", "automatic": "diamond", "cnn": "square", "brain_mean": "cross"}
ARM_SYMBOLS |= {"pool": "hexagram"}
ARM_SYMBOLS |= {"straka": "diamond", "mouridsen": "triangle-up", "murase": "triangle-down"}
ARM_SYMBOLS |= {"peruzzo": "pentagon", "shi": "star", "rausch": "hexagon", "truth": "x"}
# for arms of one's own: what the four arms of the study leave of the same colours, then darker ones
SPARE_STYLES = {
    "colour": ("#56B4E9", "#D55E00", "#999933", "#882255", "#332288", "#111827"),
    "dash": ("longdash", "longdashdot", "dashdot", "dash", "dot"),
    "symbol": ("triangle-up", "star", "pentagon", "triangle-down", "hexagon", "x", "bowtie", "hourglass"),
}
_guests: dict[str, dict[str, str]] = {}  # arm of one's own -> its style, for the session
TRUTH_COLOUR, PREDICTED_COLOUR, QUIET_COLOUR = "#FFFFFF", "#D55E00", "#6B7280"
COLOURWAY = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#111827")
BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge"),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"

# plotly's toolbar offers to upload a figure to a server ("Share chart"): images of patients stay here
CONFIG = {"displaylogo": False, "showSendToCloud": False, "plotlyServerURL": "", "responsive": True}

# map -> (name, unit, range, colour scale); our choice: ranges that show healthy tissue and core at once
MAPS = {
    "cbf": ("CBF", "ml/100 g/min", (0, 80), "cividis"),
    "cbv": ("CBV", "ml/100 g", (0, 6), "cividis"),
    "mtt": ("MTT", "s", (0, 16), "viridis"),
    "tmax": ("Tmax", "s", (0, 12), "viridis"),
    "ttp": ("TTP", "s", (0, 30), "viridis"),
    "delay": ("Delay", "s", (0, 10), "viridis"),
    "arrival": ("Arrival", "s", (0, 20), "viridis"),
    "rcbf": ("rCBF", "relative", (0, 1.5), "cividis"),
}


def introduce(arms) -> None:
    """Give arms of one's own a style that no arm beside them has; they keep it for the session.

    Parameters
    ----------
    arms : all that are shown together, those of the study too.
    """
    arms = list(dict.fromkeys(arms))
    for arm in arms:
        if arm not in ARM_COLOURS and arm not in _guests:
            _guests[arm] = {
                name: _spare(name, [arm_style(other)[name] for other in arms]) for name in SPARE_STYLES
            }


def _spare(name, beside):
    """Choose what no arm beside has; of that, what the fewest others of the session have."""
    free = [look for look in SPARE_STYLES[name] if look not in beside] or SPARE_STYLES[name]
    return min(free, key=[style[name] for style in _guests.values()].count)


def arm_style(arm: str) -> dict[str, str]:
    """Return the colour, dash and symbol of an arm; grey for a stranger nobody has introduced."""
    if arm not in ARM_COLOURS:
        return _guests.get(arm, {"colour": QUIET_COLOUR, "dash": "solid", "symbol": "circle"})
    return {"colour": ARM_COLOURS[arm], "dash": ARM_DASHES[arm], "symbol": ARM_SYMBOLS[arm]}


def arm_colour(arm: str) -> str:
    """Return the colour of an arm; grey for a stranger nobody has introduced."""
    return arm_style(arm)["colour"]


def arm_label(arm: str) -> str:
    """Return the name of an arm for readers."""
    return ARM_LABELS.get(arm, arm.replace("_", " "))


def plot_label(arm: str) -> str:
    """Return the name of an arm for a figure."""
    return plot_text(arm_label(arm))


def plot_text(text: str) -> str:
    """Escape a text for a figure, where plotly takes tags, entities and ``%{`` for its own."""
    return escape(str(text), quote=False).replace("%{", "%&#123;")


@cache
def template():
    """Build the look all figures share: white, dark text, quiet grid, colour-blind-safe colours."""
    import plotly.graph_objects as go

    _keep_figures_here()
    axis = {
        "showline": True,
        "linecolor": "#9CA3AF",
        "ticks": "outside",
        "tickcolor": "#9CA3AF",
        "gridcolor": "#EEF0F3",
        "zeroline": False,
        "automargin": True,
        "title": {"font": {"size": 13}, "standoff": 10},
    }
    return go.layout.Template(
        layout={
            "font": {"family": FONT, "size": 13, "color": "#1F2937"},
            "title": {"font": {"size": 17}, "x": 0, "xref": "paper", "xanchor": "left"},
            "paper_bgcolor": "#FFFFFF",
            "plot_bgcolor": "#FFFFFF",
            "colorway": COLOURWAY,
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
            "margin": {"l": 64, "r": 24, "t": 72, "b": 56},
            "hoverlabel": {"font": {"family": FONT, "size": 12}},
            "coloraxis": {"colorbar": {"outlinewidth": 0, "thickness": 12}},
            "annotationdefaults": {"font": {"size": 12}},
        }
    )


def _keep_figures_here():
    """Take the upload button out of whatever shows a figure in a notebook."""
    import plotly.io

    for name in plotly.io.renderers:
        renderer = plotly.io.renderers[name]
        if hasattr(renderer, "config"):
            renderer.config = dict(renderer.config or {}) | CONFIG


def panels(rows: int, columns: int, **options):
    """Make an empty figure of panels in the shared look."""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=rows, cols=columns, **options)
    return figure.update_layout(template=template())


def orientation(affine) -> tuple[bool, bool, bool]:
    """Say how to show a slice (X, Y) in the radiological convention.

    Parameters
    ----------
    affine : (4, 4) mm, or None.

    Returns
    -------
    (flip x, flip y, whether left and right are known)
    """
    if affine is None:
        return False, False, False
    x, y = np.asarray(affine, float)[:3, :2].T
    if np.argmax(np.abs(x)) != 0 or np.argmax(np.abs(y)) != 1:
        return False, False, False
    return bool(x[0] > 0), bool(y[1] < 0), True  # +x is the patient's right-to-left: RAS world


def oriented(image, affine):
    """Flip an image (X, Y, …) so that x to the right and y upward show it as `orientation` says."""
    flip_x, flip_y, _ = orientation(affine)
    return image[:: -1 if flip_x else 1, :: -1 if flip_y else 1]


def add_image(figure, image, row: int, column: int, *, affine=None, window=None, **options) -> None:
    """Add a slice (X, Y) to a panel: square pixels, no axes, R and L marked where known.

    Parameters
    ----------
    image : (X, Y); NaN is transparent.
    window : (X0, X1, Y0, Y1), voxels to show; default all.
    options : of ``plotly.graph_objects.Heatmap``.
    """
    import plotly.graph_objects as go

    x0, x1, y0, y1 = window or (0, image.shape[0], 0, image.shape[1])
    part = np.asarray(image[x0:x1, y0:y1], np.float32).T
    hover = options.pop("hovertemplate", "x %{x}, y %{y}: %{z:.2f}<extra></extra>")
    trace = go.Heatmap(z=part, x0=x0, y0=y0, dx=1, dy=1, hovertemplate=hover, **options)
    figure.add_trace(trace, row=row, col=column)
    flip_x, flip_y, _ = orientation(affine)
    ratio = 1.0 if affine is None else np.divide(*np.linalg.norm(np.asarray(affine)[:3, :2], axis=0)[::-1])
    subplot = figure.get_subplot(row, column)
    x_name, y_name = subplot.xaxis.plotly_name, subplot.yaxis.plotly_name
    hidden = {"visible": False, "constrain": "domain"}
    x_range, y_range = [x0 - 0.5, x1 - 0.5], [y0 - 0.5, y1 - 0.5]
    figure.layout[x_name].update(hidden, range=x_range[::-1] if flip_x else x_range)
    anchor = {"scaleanchor": x_name.replace("axis", ""), "scaleratio": float(ratio)}
    figure.layout[y_name].update(hidden, range=y_range[::-1] if flip_y else y_range, **anchor)
    mark_sides(figure, affine, x_name.replace("axis", ""), y_name.replace("axis", ""))


def mark_sides(figure, affine, x_axis: str, y_axis: str) -> None:
    """Write R and L into the lower corners of a panel where the affine tells them."""
    for text, x in [("R", 0.02), ("L", 0.98)] if orientation(affine)[2] else []:
        style = {"font": {"size": 11, "color": "#9CA3AF"}, "showarrow": False, "yanchor": "bottom"}
        figure.add_annotation(text=text, x=x, y=0, xref=f"{x_axis} domain", yref=f"{y_axis} domain", **style)


def add_contour(figure, mask, row: int, column: int, *, colour: str, name: str, **options) -> None:
    """Outline a mask (X, Y) in a panel, with a dark halo that keeps it visible on any map."""
    import plotly.graph_objects as go

    x, y = outline(mask)
    for style in ({"color": "rgba(0,0,0,.55)", "width": 4}, {"color": colour, "width": 2}):
        last = style["color"] == colour
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                line=style,
                name=name,
                legendgroup=name,
                hoverinfo="skip",
                showlegend=options.get("showlegend", False) and last,
            ),
            row=row,
            col=column,
        )


def add_core(figure, core, row: int, column: int, *, showlegend: bool = False) -> None:
    """Outline the true core (X, Y) in a panel; nothing where it is unknown."""
    if core is not None:
        name = "Core on DWI (ground truth)"
        add_contour(figure, core, row, column, colour=TRUTH_COLOUR, name=name, showlegend=showlegend)


def outline(mask) -> tuple[np.ndarray, np.ndarray]:
    """Trace the outlines of a mask (X, Y), NaN between them; empty for an empty mask."""
    from skimage.measure import find_contours

    loops = find_contours(np.pad(np.asarray(mask, float), 1), 0.5)
    if not loops:
        return np.array([]), np.array([])
    points = np.concatenate([np.vstack([loop - 1, [[np.nan, np.nan]]]) for loop in loops]).round(2)
    return points[:-1, 0], points[:-1, 1]


def window_of(mask, margin: int = 4) -> tuple[int, int, int, int]:
    """Return the bounding box (X0, X1, Y0, Y1) of a mask (X, Y) with a margin; all of it if empty."""
    mask = np.asarray(mask, bool)
    limits = []
    for axis in (0, 1):
        (hit,) = np.nonzero(mask.any(axis=1 - axis))
        first, last = (hit[0], hit[-1]) if hit.size else (0, mask.shape[axis] - 1)
        limits += [int(max(first - margin, 0)), int(min(last + margin + 1, mask.shape[axis]))]
    return tuple(limits)


def shrink(image, limit: int):
    """Average blocks of an image (X, Y, …) until neither side is longer than ``limit``."""
    step = -(-max(image.shape[:2]) // limit)
    if step == 1:
        return image
    x, y = (size // step for size in image.shape[:2])
    blocks = image[: x * step, : y * step].reshape(x, step, y, step, *image.shape[2:])
    return blocks.mean(axis=(1, 3))


def save_figure(figure, path_stem, *, png: bool = False) -> list[Path]:
    """Write a figure as a page that opens offline and, where a browser is found, as a picture.

    Parameters
    ----------
    figure : plotly figure.
    path_stem : path without suffix; ``.html`` (and ``.png``) are added. ``plotly.min.js`` is shared by all
        pages of the folder.
    png : also write a PNG through kaleido, which needs Chrome or Chromium. Without one, or where it
        fails, the page alone is written and a line of the log says so.

    Returns
    -------
    Paths written.
    """
    stem = Path(path_stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    page = stem.with_name(stem.name + ".html")
    figure.write_html(page, config=CONFIG, include_plotlyjs="directory", include_mathjax=False)
    return [page, *(_save_png(figure, stem.with_name(stem.name + ".png")) if png else [])]


def find_browser() -> str | None:
    """Return the path of Chrome or Chromium, or None.

    ``PERFKIT_CHROMIUM`` and ``BROWSER_PATH`` come first, then the PATH, then the usual places.
    """
    asked = [os.environ.get(name, "") for name in ("PERFKIT_CHROMIUM", "BROWSER_PATH")]
    return next((found for found in map(shutil.which, (*asked, *BROWSERS)) if found), None)


def _save_png(figure, path):
    browser = find_browser()
    reason = "no Chrome or Chromium was found; install one or set BROWSER_PATH"
    if browser:
        try:
            import kaleido

            options = {"format": "png", "width": figure.layout.width or 1100, "scale": 2}
            options["height"] = figure.layout.height or 500
            where = {"path": browser, "mathjax": False}  # kaleido would fetch MathJax from the internet
            image = kaleido.calc_fig_sync(figure.to_dict(), opts=options, kopts=where)
            path.write_bytes(image)
            return [path]
        except Exception as error:  # a picture is a convenience: no failure of a browser may end a run
            reason = f"{type(error).__name__}: {error}"
    logging.getLogger(__name__).warning("%s was not written: %s.", path.name, reason)
    return []
