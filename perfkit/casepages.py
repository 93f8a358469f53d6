"""One page per scan: its series, the maps and cores of every arm, where each AIF was taken, the numbers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from perfkit import drawing, pages
from perfkit.casefiles import MAPS, page_name
from perfkit.scoretables import format_value, ordered_arms
from perfkit.wording import METRIC_LABELS, cell

CHART = {"left": 56, "right": 628, "top": 12, "bottom": 252}  # px of the drawing of the curves
LOWEST = -0.25  # of the peak; our choice: the lower end of the chart, a learned curve may go below
DASHES = {"dash": "9 5", "dot": "2 5", "dashdot": "9 4 2 4", "longdash": "14 5", "longdashdot": "14 4 2 4"}


def render_cases(folder, scores, order) -> dict[str, str]:
    """Write the pages of all cases that a run has left something of.

    Parameters
    ----------
    folder : of the run, with ``cases/<name>/case.json``.
    scores : DataFrame, one row per scan × arm × matrix.
    order : case ids; previous and next follow it.

    Returns
    -------
    dict from case id to the address of its page, relative to the run.
    """
    home = Path(folder) / "cases"
    drawing.introduce(ordered_arms(scores["arm"]))
    there = [case for case in order if (home / page_name(case) / "case.json").exists()]
    rows = dict(iter(scores.groupby("case")))
    for i, case in enumerate(there):
        sides = [there[j] if 0 <= j < len(there) else None for j in (i - 1, i + 1)]
        previous, following = (
            side and {"case": side, "href": f"../{page_name(side)}/index.html"} for side in sides
        )
        near = {"home": "../../index.html", "previous": previous, "following": following}
        render_case(home / page_name(case), rows.get(case, scores[:0]), **near)
    return {case: f"cases/{page_name(case)}/index.html" for case in there}


def render_case(folder, scores, *, home: str, previous=None, following=None) -> Path:
    """Write ``index.html`` of a case from what ``write_case`` left there.

    Parameters
    ----------
    folder : of the case.
    scores : DataFrame, the rows of this case: scan × arm × matrix.
    home : address of the report, relative to the folder.
    previous, following : dict of case and href, or None.

    Returns
    -------
    Path of the page.

    Raises
    ------
    ValueError : ``case.json`` is damaged.
    """
    folder = Path(folder)
    path = folder / "case.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        drawing.introduce(facts["arms"])
        arms = [_shown(arm, held, facts, scores) for arm, held in facts["arms"].items()]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}). Run notebook 04 again; it writes it anew."
        ) from None
    low, high = drawing.MAPS["rcbf"][2]
    page = pages.template("case.html.j2").render(
        facts=facts,
        arms=arms,
        detailed=next((arm for arm in arms if arm["drawn"]), None),
        failures=[f"{drawing.arm_label(arm)}: {why}" for arm, why in facts["failures"].items()],
        chart=CHART | _axes(facts),
        rcbf={"low": low, "high": high, "gradient": _gradient("rcbf")},
        orange=drawing.PREDICTED_COLOUR,
        tables=[_numbers(matrix, rows) for matrix, rows in scores.groupby("matrix")],
        home=home,
        previous=previous,
        next=following,
    )
    return pages.write(folder / "index.html", page)


def _axes(facts):
    duration = max((facts["shape"][3] - 1) * facts["dt"], facts["dt"])
    scale = (CHART["right"] - CHART["left"]) / duration
    height = CHART["bottom"] - CHART["top"]
    xticks = [(round(CHART["left"] + t * scale, 1), t) for t in range(0, int(duration) + 1, 10)]
    yticks = [(round(CHART["bottom"] - (v - LOWEST) / (1 - LOWEST) * height, 1), v) for v in (0, 0.5, 1)]
    return {"xticks": xticks, "yticks": yticks, "step": scale * facts["dt"]}


def _line(curve, facts):
    """Scale a curve to peak 1 and give its points in the chart; what is lower than the chart is cut off."""
    peak = np.max(curve)
    y = np.clip(np.asarray(curve) / peak if peak > 0 else curve, LOWEST, 1)
    x = CHART["left"] + np.arange(len(y)) * _axes(facts)["step"]
    y = CHART["bottom"] - (y - LOWEST) / (1 - LOWEST) * (CHART["bottom"] - CHART["top"])
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _shown(arm, held, facts, scores):
    """Lay out an arm for the page."""
    rows = scores[(scores["arm"] == arm) & (scores["matrix"] == "circulant")]
    curve, style = np.asarray(held["aif"], float), drawing.arm_style(arm)
    names = [name for name in MAPS if name in held["maps"]]
    return held | {
        "label": drawing.arm_label(arm),
        "colour": style["colour"],
        "dash": DASHES.get(style["dash"], ""),
        "dice": format_value("dice", rows["dice"].iloc[0]) if len(rows) else "",
        "line": _line(curve, facts),
        "peak": f"{curve.max():.1f}",
        "ttp": f"{np.argmax(curve) * facts['dt']:.1f}",
        "source": " ".join([_source(arm, held), *held["notes"]]),
        "drawn": [_map(name, held["maps"][name]) for name in names],
    }


def _source(arm, held):
    places = ", ".join(str(k + 1) for k in held["slices"])
    if places:
        return f"Slice{'s' if len(held['slices']) > 1 else ''} {places}."
    return "Every voxel of the brain." if arm == "brain_mean" else "Computed from the whole series."


def _map(name, file):
    label, unit, (low, high), _ = drawing.MAPS[name]
    return {"name": label, "unit": unit, "low": low, "high": high, "file": file, "gradient": _gradient(name)}


@cache
def _gradient(name):
    from plotly.colors import sample_colorscale

    return f"linear-gradient(90deg, {', '.join(sample_colorscale(drawing.MAPS[name][3], 9))})"


def _numbers(matrix, rows):
    columns = [name for name in METRIC_LABELS if name in rows.columns]
    ordered = rows.set_index("arm").loc[ordered_arms(rows["arm"])]
    return {
        "matrix": matrix,
        "columns": [METRIC_LABELS[name].removesuffix(", per scan") for name in columns],
        "rows": [
            {
                "label": drawing.arm_label(arm),
                "colour": drawing.arm_colour(arm),
                "cells": [cell(name, row[name]) for name in columns],
            }
            for arm, row in ordered.iterrows()
        ],
    }
