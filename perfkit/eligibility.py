"""Who would be treated: the perfusion criteria of DEFUSE 3 and EXTEND, and how often arms disagree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .agreement import cohen_kappa
from .resampling import LEVEL
from .scoretables import check_reference, ordered_arms, paired_rows, rows_of_matrix

COLUMNS = (
    "rule",
    "arm",
    "against",
    "unit",
    "n",
    "dropped",
    "eligible",
    "eligible_against",
    "both",
    "neither",
)
COLUMNS += ("only_arm", "only_against", "discordant", "share", "share_low", "share_high")
COLUMNS += ("kappa", "kappa_low", "kappa_high", "mcnemar_p", "note")
REFERENCE_CORE = "reference core"


@dataclass(frozen=True)
class Rule:
    """Perfusion criteria of a trial; ``strict`` asks for more than ratio and volume, not for as much."""

    core_below_ml: float
    ratio: float
    mismatch_ml: float
    strict: bool


RULES = {
    "DEFUSE 3": Rule(70.0, 1.8, 15.0, strict=False),  # Albers 2018: core < 70, ratio ≥ 1.8, mismatch ≥ 15 ml
    "EXTEND": Rule(70.0, 1.2, 10.0, strict=True),  # Ma 2019: core < 70, ratio > 1.2, mismatch > 10 ml
}


def mismatch(core_ml, hypoperfusion_ml):
    """Compute mismatch ratio and volume.

    Parameters
    ----------
    core_ml : (...), ml of core.
    hypoperfusion_ml : (...), ml with Tmax > 6 s, the core included.

    Returns
    -------
    ratio : (...), hypoperfusion / core; inf where only the core is 0, NaN where both are.
    volume : (...), hypoperfusion − core, ml.
    """
    core, hypo = np.broadcast_arrays(np.asarray(core_ml, float), np.asarray(hypoperfusion_ml, float))
    ratio = np.divide(hypo, core, out=np.where(hypo > 0, np.inf, np.nan), where=core > 0)
    return np.where(np.isnan(core), np.nan, ratio), hypo - core


def eligible(core_ml, hypoperfusion_ml, rule="DEFUSE 3"):
    """Decide by perfusion alone who would be treated.

    Parameters
    ----------
    core_ml, hypoperfusion_ml : (...), ml, as for `mismatch`.
    rule : name in ``RULES``, or a `Rule`.

    Returns
    -------
    (...) float: 1 eligible, 0 not, NaN where a volume is not known. Without a core the ratio is infinite, so
    the volume of the mismatch decides; without core and hypoperfusion nobody is eligible.
    """
    if not isinstance(rule, Rule):
        if rule not in RULES:
            raise ValueError(f"The rule is one of {', '.join(RULES)}: {rule!r} came. Or give a Rule.")
        rule = RULES[rule]
    ratio, volume = mismatch(core_ml, hypoperfusion_ml)
    more = np.greater if rule.strict else np.greater_equal
    small = np.asarray(core_ml, float) < rule.core_below_ml
    decided = small & more(ratio, rule.ratio) & more(volume, rule.mismatch_ml)
    return np.where(np.isnan(volume), np.nan, decided.astype(float))


def eligibility_table(
    patients,
    reference="expert",
    *,
    matrix="circulant",
    core="volume_ml",
    hypoperfusion="hypoperfusion_ml",
    reference_core="reference_volume_ml",
    level=LEVEL,
):
    """Count for each arm who is eligible, and compare with the reference arm and with the reference core.

    Parameters
    ----------
    patients : DataFrame, one row per patient × arm × matrix; volumes of all slabs summed.
    reference : arm the others are compared with.
    matrix : the deconvolution matrix whose rows are taken.
    core, hypoperfusion, reference_core : columns, ml. Without ``reference_core`` that comparison is missing.
    level : of the intervals.

    Returns
    -------
    DataFrame, columns ``COLUMNS``, rows per rule and arm against the reference arm and against
    "reference core": the known core with the hypoperfusion of the arm itself, so only the core differs.
    ``n`` counts patients with all volumes, ``dropped`` the others; ``share`` eligible by the arm with
    Wilson's interval; κ with its interval (`agreement.cohen_kappa`); exact McNemar p of the discordant.
    """
    import pandas as pd

    rows = rows_of_matrix(patients, matrix, [core, hypoperfusion], unit="patient")
    check_reference(rows, reference)
    found = []
    for rule in RULES:
        for arm in ordered_arms(rows["arm"]):
            if arm != reference:
                pairs, dropped = paired_rows(rows, arm, reference, [core, hypoperfusion], unit="patient")
                sides = [
                    eligible(pairs[f"{core}_{side}"], pairs[f"{hypoperfusion}_{side}"], rule)
                    for side in ("arm", "reference")
                ]
                names = {"rule": rule, "arm": arm, "against": reference, "dropped": dropped}
                found.append(names | compare_decisions(*sides, level=level))
            if reference_core in rows.columns:
                of_arm = rows.loc[rows["arm"] == arm, [core, reference_core, hypoperfusion]].astype(float)
                known = of_arm[np.isfinite(of_arm).all(axis=1)]
                sides = [eligible(known[name], known[hypoperfusion], rule) for name in (core, reference_core)]
                names = {"rule": rule, "arm": arm, "against": REFERENCE_CORE}
                names["dropped"] = len(of_arm) - len(known)
                found.append(names | compare_decisions(*sides, level=level))
    return pd.DataFrame(found, columns=list(COLUMNS))


def compare_decisions(a, b, *, level=LEVEL) -> dict:
    """Compare two decisions on the same patients.

    Parameters
    ----------
    a, b : (n,), 1 or 0.
    level : of the intervals.

    Returns
    -------
    dict with the columns of `eligibility_table` from ``unit`` on.
    """
    from scipy import stats

    a, b = np.asarray(a) > 0, np.asarray(b) > 0
    n, only_a, only_b = len(a), int(np.sum(a & ~b)), int(np.sum(~a & b))
    found = {"unit": "patient", "n": n, "eligible": int(a.sum()), "eligible_against": int(b.sum())}
    found |= {"both": int(np.sum(a & b)), "neither": int(np.sum(~a & ~b)), "only_arm": only_a}
    found |= {"only_against": only_b, "discordant": only_a + only_b, "note": ""}
    if not n:
        return found | {"note": "no patient with all volumes"}
    interval = stats.binomtest(int(a.sum()), n).proportion_ci(level, method="wilson")
    found |= {"share": float(a.mean()), "share_low": float(interval.low), "share_high": float(interval.high)}
    if only_a + only_b:
        found["mcnemar_p"] = float(stats.binomtest(only_a, only_a + only_b).pvalue)
    if n < 2:
        return found | {"note": "one patient: no κ"}
    kappa = cohen_kappa(a, b, level=level)
    found |= {"kappa": kappa.value, "kappa_low": kappa.low, "kappa_high": kappa.high}
    if not np.isfinite(kappa.value):
        found["note"] = "both decide the same for all: κ is not defined"
    elif not only_a + only_b:
        found["note"] = "no patient is discordant: κ is 1 and has no interval"
    elif np.isnan(kappa.low):
        found["note"] = "one decides the same for all: κ is 0 and has no interval"
    elif only_a + only_b < 5:  # our choice: a normal approximation to so few is crude
        found["note"] = f"{only_a + only_b} discordant: the interval of κ is crude"
    return found
