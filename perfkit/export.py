"""Figures for print: PNG and SVG at the width of a journal's column, many from one start of the browser.

A figure is laid out at ``PX_PER_MM`` whatever its width, so its texts have one size on paper: 12 px are
7.6 pt. A figure of several panels needs the width of a page; one panel fits a column of 85 mm.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from .drawing import find_browser

PAGE_MM, COLUMN_MM = 170.0, 85.0  # our choice: common widths of a page and of one of its two columns
PX_PER_MM = 760 / PAGE_MM  # our choice: 760 px, a notebook's width, fill a page; 11 px are 7 pt
DPI = 300  # our choice: what journals ask of figures with half-tones
FORMATS = ("png", "svg")
_HEIGHT = 450  # px; plotly's own, for a figure that says none


def save_static(
    figure, path_stem, formats=FORMATS, *, width_mm=PAGE_MM, height_mm=None, dpi=DPI
) -> list[Path]:
    """Write one figure as pictures; see `save_many_static`.

    Parameters
    ----------
    figure : plotly figure.
    path_stem : path without suffix.
    """
    size = {"width_mm": width_mm, "height_mm": height_mm, "dpi": dpi}
    return save_many_static({path_stem: figure}, formats, **size)


def save_many_static(
    figures: Mapping, formats=FORMATS, *, width_mm=PAGE_MM, height_mm=None, dpi=DPI
) -> list[Path]:
    """Write figures as pictures, with one start of the browser for all of them.

    Parameters
    ----------
    figures : {path without suffix: plotly figure}.
    formats : of "png" and "svg".
    width_mm : on paper.
    height_mm : on paper; default what the figure's own height gives, or ``layout.meta.printed_height`` in px
        where pictures of a fixed shape need less of it at the width of a page than on a screen.
    dpi : of PNG files; they carry it, so that they open at their size.

    Returns
    -------
    Paths written, figure by figure.

    Raises
    ------
    ValueError : another format, or no positive size.
    OSError : no Chrome or Chromium was found, or it did not draw a figure.
    """
    formats = [formats] if isinstance(formats, str) else list(formats)
    _check(formats, width_mm, height_mm, dpi)
    jobs = [
        _job(figure, Path(stem), suffix, width_mm, height_mm, dpi)
        for stem, figure in figures.items()
        for suffix in formats
    ]
    if jobs:
        _draw(jobs)
    for job in jobs:
        _give_size(Path(job["path"]), job["opts"]["width"], job["opts"]["height"], dpi)
    return [Path(job["path"]) for job in jobs]


def _check(formats, width_mm, height_mm, dpi):
    strange = [name for name in formats if name not in FORMATS]
    if strange:
        raise ValueError(
            f"Figures are written as {' and '.join(FORMATS)}: {strange} came. Try formats=('png',)."
        )
    for name, value in (("width_mm", width_mm), ("height_mm", height_mm), ("dpi", dpi)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive: {value} came. Try {name}={PAGE_MM:g}.")


def _job(figure, stem, suffix, width_mm, height_mm, dpi):
    width = round(width_mm * PX_PER_MM)
    own = (figure.layout.meta or {}).get("printed_height") or figure.layout.height or _HEIGHT
    height = round(height_mm * PX_PER_MM if height_mm else own)
    stem.parent.mkdir(parents=True, exist_ok=True)
    scale = dpi / 25.4 / PX_PER_MM if suffix == "png" else 1
    options = {"format": suffix, "width": width, "height": height, "scale": scale}
    return {"fig": figure.to_dict(), "path": str(stem.with_name(f"{stem.name}.{suffix}")), "opts": options}


def _draw(jobs):
    browser = find_browser()
    if browser is None:
        raise FileNotFoundError(
            "PNG and SVG files are drawn by Chrome or Chromium, and none was found. Install one, or set "
            "PERFKIT_CHROMIUM to its path; `drawing.save_figure` writes pages without a browser."
        )
    import kaleido

    # kaleido would fetch MathJax from the internet: no figure of ours has formulas
    options = {"path": browser, "mathjax": False}
    try:
        errors = kaleido.write_fig_from_object_sync(jobs, kopts=options)
    except Exception as error:
        raise OSError(
            f"{browser} did not start: {error}. Try another browser by PERFKIT_CHROMIUM."
        ) from error
    if errors:
        missing = [Path(job["path"]).name for job in jobs if not Path(job["path"]).is_file()]
        raise OSError(f"{browser} did not draw {', '.join(missing)}: {errors[0]}. Try again.") from errors[0]


def _give_size(path, width, height, dpi):
    """Write the size on paper into a picture: programs would take pixels for points else."""
    if path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            image.load()
        image.save(path, dpi=(dpi, dpi), optimize=True)
        return
    head, rest = path.read_text(encoding="utf-8").split(">", 1)
    for name, pixels in (("width", width), ("height", height)):
        head = re.sub(rf'(\s{name}=")[^"]*"', rf'\g<1>{pixels / PX_PER_MM:.4g}mm"', head, count=1)
    path.write_text(f"{head}>{rest}", encoding="utf-8")
