"""The table of cases of a report: failed ones first, then the worst, each with what every arm reached."""

from __future__ import annotations

import numpy as np

from .drawing import arm_colour, arm_label
from .scoretables import ordered_arms
from .wording import cell


def case_order(rows, reference: str, failures) -> list[str]:
    """Order cases as a reader needs them: failed ones first, then by the reference's Dice, the worst first.

    Parameters
    ----------
    rows : DataFrame, the scores of one matrix.
    reference : arm.
    failures : (case, reason) or lines, scans that are in no number.
    """
    dice = rows[rows["arm"] == reference].set_index("case")["dice"].sort_values(kind="stable")
    failed = [str(entry[0]) for entry in failures if not isinstance(entry, str)]
    return list(dict.fromkeys([*failed, *(c for c in rows["case"] if c not in dice.index), *dice.index]))


def case_table(rows, order, failures, links: dict) -> dict:
    """Lay out the table of cases: a link to each page, and what each arm reached.

    Parameters
    ----------
    rows : DataFrame, the scores of one matrix.
    order : case ids.
    failures : (case, reason) or lines.
    links : dict from case id to the address of its page.

    Returns
    -------
    dict of arms (label, colour) and rows (case, patient, link, why, cells of text and value)
    """
    arms = ordered_arms(rows["arm"])
    reasons = {str(entry[0]): str(entry[1]) for entry in failures if not isinstance(entry, str)}
    by_case = dict(iter(rows.groupby("case")))
    lines = []
    for case in order:
        held = by_case.get(case, rows[:0]).set_index("arm")
        missing = [arm_label(arm) for arm in arms if arm not in held.index]
        why = reasons.get(case) or (f"no result: {', '.join(missing)}" if missing else "")
        known = held.get("reference_volume_ml", ())
        values = [("volume_ml", float(known.iloc[0]) if len(known) else np.nan)]
        for metric in ("dice", "volume_error_ml"):
            for arm in arms:
                there = metric in held and arm in held.index
                values.append((metric, float(held.loc[arm, metric]) if there else np.nan))
        patient = str(held["patient"].iloc[0]) if len(held) else ""
        cells = [{"text": cell(name, v), "value": "" if v != v else v} for name, v in values]
        lines.append(
            {"case": case, "patient": patient, "link": links.get(case, ""), "why": why, "cells": cells}
        )
    head = [{"label": arm_label(arm), "colour": arm_colour(arm)} for arm in arms]
    return {"arms": head, "rows": lines}
