"""What was found in a scan, drawn on its slices: masks, and voxels of arteries and veins."""

from __future__ import annotations

import numpy as np

from perfkit import drawing

BRAIN_WINDOW = (0, 80)  # HU; the usual brain window of CT
VOXEL_COLOURS = ("#D55E00", "#56B4E9", "#CC79A7", "#009E73")
SIDE_COLOURS = ("#E69F00", "#56B4E9")
TITLE_SIZE = 12  # px; our choice: "12 of 345 voxels, slice 10" is then narrower than a panel of 160 px
# told apart by the colour-blind, on grey
LESION_COLOURS = {"core": "#D55E00", "penumbra": "#56B4E9", "final infarct": "#F0E442"}
MOST_SLICES = 8  # our choice: two rows of panels
COLUMNS = 4  # our choice: panels in a row of a notebook that are still seen
FAINT = 0.05  # of the largest value; our choice: what is below would only veil the picture beneath


def masks_figure(prepared, z: int):
    """Show the brain, the hemispheres, the tissue and the reference tissue on one slice.

    Parameters
    ----------
    prepared : prepared scan.
    z : slice.
    """
    brain = prepared.brain[..., z]
    named = {
        "brain": {"brain": brain},
        "hemispheres": {"one side": prepared.sides[..., z] < 0, "other side": prepared.sides[..., z] > 0},
        "tissue": {"tissue": prepared.tissue[..., z]},
        "reference tissue": {"reference tissue": prepared.reference_tissue[..., z]},
    }
    figure = _slices(list(named), [prepared.baseline[..., z]] * len(named), prepared.affine, brain)
    for column, masks in enumerate(named.values(), start=1):
        for colour, (name, mask) in zip(SIDE_COLOURS, masks.items(), strict=False):
            drawing.add_contour(figure, mask, 1, column, colour=colour, name=name)
    return figure


def voxels_figure(background, groups, *, affine=None, brain=None, limits=BRAIN_WINDOW, unit="HU"):
    """Outline groups of voxels, each on the slice that holds most of it.

    Parameters
    ----------
    background : (X, Y, Z).
    groups : {name: (n, 3)}, array indices; empty groups are left out.
    affine : (4, 4) mm, optional; marks R and L.
    brain : (X, Y, Z) bool, optional; what to zoom to.
    limits : grey window in ``unit``.
    """
    groups = {name: np.asarray(voxels, int) for name, voxels in groups.items() if len(voxels)}
    slices = {name: int(np.bincount(voxels[:, 2]).argmax()) for name, voxels in groups.items()}
    titles = [_title(name, groups[name], z) for name, z in slices.items()]
    shown = None if brain is None else brain.any(axis=2)
    images = [background[..., z] for z in slices.values()]
    figure = _slices(titles, images, affine, shown, limits, unit)
    for i, (name, z) in enumerate(slices.items()):
        mask = np.zeros(background.shape, bool)
        mask[tuple(groups[name].T)] = True
        colour = drawing.ARM_COLOURS.get(name, VOXEL_COLOURS[i % len(VOXEL_COLOURS)])
        drawing.add_contour(figure, mask[..., z], *_place(i), colour=colour, name=name)
    return figure


def lesions_figure(background, masks, *, affine=None, brain=None, most: int = MOST_SLICES):
    """Outline masks on the slices of a scan, from the lowest upwards.

    Parameters
    ----------
    background : (X, Y, Z), HU.
    masks : {name: (X, Y, Z) bool}, such as core and penumbra; the first lies on top.
    affine : (4, 4) mm, optional; marks R and L.
    brain : (X, Y, Z) bool, optional; what to zoom to, and slices without any are left out.
    most : slices; of more, those that stand evenly among them.
    """
    there = np.arange(background.shape[2]) if brain is None else np.flatnonzero(brain.any(axis=(0, 1)))
    steps = np.linspace(0, len(there) - 1, min(most, len(there)))
    shown = there[np.round(steps).astype(int)]
    window = None if brain is None else brain.any(axis=2)
    titles = [f"Slice {z + 1}" for z in shown]
    figure = _slices(titles, [background[..., z] for z in shown], affine, window)
    for i, z in enumerate(shown):
        for name, mask in reversed(masks.items()):  # where two share a border, the first one's is seen
            colour = LESION_COLOURS.get(name, VOXEL_COLOURS[0])
            drawing.add_contour(figure, mask[..., z], *_place(i), colour=colour, name=name)
    for name in masks:  # a slice without a mask has no line of its own to stand in the legend
        line = {"color": LESION_COLOURS.get(name, VOXEL_COLOURS[0]), "width": 2}
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name, showlegend=True)
    legend = {"orientation": "h", "x": 0, "y": 1.0, "yanchor": "bottom", "yref": "container"}
    return figure.update_layout(showlegend=True, legend=legend | {"yanchor": "top"}, margin_t=64)


def heat_figure(background, heat, *, affine=None, brain=None, most: int = COLUMNS, name="Weight"):
    """Lay a map of what matters over the slices that hold most of it, from the lowest upwards.

    Parameters
    ----------
    background : (X, Y, Z), HU.
    heat : (X, Y, Z), not negative; below a twentieth of its largest value it is left out.
    affine : (4, 4) mm, optional; marks R and L.
    brain : (X, Y, Z) bool, optional; what to zoom to.
    most : slices.
    name : of the map, with its unit; written at its colours.
    """
    shown = np.sort(np.argsort(heat.sum(axis=(0, 1)))[::-1][:most])
    window = None if brain is None else brain.any(axis=2)
    titles = [f"Slice {z + 1}" for z in shown]
    figure = _slices(titles, [background[..., z] for z in shown], affine, window)
    largest = float(heat.max())
    seen = np.where(heat > FAINT * largest, heat, np.nan)
    part = None if window is None else drawing.window_of(window)
    hover = f"x %{{x}}, y %{{y}}: %{{z:.3g}}<extra>{name}</extra>"
    options = {"coloraxis": "coloraxis2", "opacity": 0.7, "hoverongaps": False, "hovertemplate": hover}
    for i, z in enumerate(shown):
        drawing.add_image(figure, seen[..., z], *_place(i), affine=affine, window=part, **options)
    bar = {"title": {"text": name, "side": "right"}, "thickness": 12, "outlinewidth": 0, "x": 1.1}
    colours = {"colorscale": "viridis", "cmin": 0, "cmax": largest or 1.0, "colorbar": bar}
    return figure.update_layout(coloraxis2=colours)


def _title(name, voxels, z):
    """Two short lines: four panels stand side by side."""
    n, here = len(voxels), int((voxels[:, 2] == z).sum())
    share = f"{here} of {n}" if here < n else f"{n}"
    return f"{drawing.plot_label(name)}<br>{share} voxel{'' if n == 1 else 's'}, slice {z + 1}"


def _place(i):
    return i // COLUMNS + 1, i % COLUMNS + 1


def _slices(titles, images, affine, brain, limits=BRAIN_WINDOW, unit="HU"):
    rows, columns = max(1, -(-len(titles) // COLUMNS)), max(1, min(len(titles), COLUMNS))
    space = {"horizontal_spacing": 0.02, "vertical_spacing": 0.12 / rows}
    figure = drawing.panels(rows, columns, subplot_titles=titles, **space)
    figure.update_annotations(font_size=TITLE_SIZE)
    window = None if brain is None else drawing.window_of(brain)
    for i, image in enumerate(images):
        drawing.add_image(figure, image, *_place(i), affine=affine, window=window, coloraxis="coloraxis")
    bar = {"title": {"text": unit}, "thickness": 12, "outlinewidth": 0}
    colours = {"colorscale": "gray", "cmin": limits[0], "cmax": limits[1], "colorbar": bar}
    margin = {"l": 8, "r": 8, "t": 40, "b": 8}
    return figure.update_layout(
        height=60 + 300 * rows, coloraxis=colours, showlegend=False, margin=margin, font_size=12
    )
