"""What a study found, in two sentences: the learned AIF against the reference, and against the control."""

from __future__ import annotations

import numpy as np

from .comparison import paired_tests, patient_tests
from .scoretables import count, format_value, p_value, paired_rows
from .wording import SIGNIFICANCE, difference, owner, signed, standing, verdict


def summary_sentences(rows, reference, patients=None, tests=None) -> list[str]:
    """Say what the study found: the learned AIF against the reference, then against the control.

    Parameters
    ----------
    rows : DataFrame, the scores of one matrix.
    reference : arm.
    patients : DataFrame, the same per patient, slabs joined; without it, patients are means of their scans.
    tests : DataFrame of ``pairedtests.patient_tests`` against the reference; gives the p after Holm.

    Notes
    -----
    Both means are over the scans that both arms have, so a missing arm cannot turn the words round.
    """
    pairs = {other: paired_rows(rows, "cnn", other, ["dice"]) for other in (reference, "brain_mean")}
    sentences = []
    if reference != "cnn" and len(pairs[reference][0]):
        both, dropped = pairs[reference]
        ours, theirs = both[["dice_arm", "dice_reference"]].mean()
        on_scans = paired_tests(rows, reference, matrix=rows["matrix"].iloc[0], metrics=["dice"])
        on_scans = on_scans[on_scans["arm"] == "cnn"].set_index("test").loc["paired t-test"]
        found = _of_patients(rows, reference, patients, tests)
        sentences.append(
            f"The {owner('cnn')} mean Dice is {format_value('dice', ours)}, the {owner(reference)} "
            f"{format_value('dice', theirs)}: {difference('dice', ours - theirs)} over "
            f"{_the_same(len(both), dropped)} (paired t-test, {p_value(on_scans['p'])}). Patient by patient "
            f"it is {_told(found)}. {_judged(found)}"
        )
    if reference != "brain_mean" and len(pairs["brain_mean"][0]):
        both, dropped = pairs["brain_mean"]
        ours, theirs = both[["dice_arm", "dice_reference"]].mean()
        found = _of_patients(rows, "brain_mean", patients, None)
        place = "cannot be compared with it" if np.isnan(found["difference"]) else "is not above it"
        place = "is above it" if found["difference"] > 0 else place
        sentences.append(
            f"The control, the mean curve of the brain taken as AIF, reaches "
            f"{format_value('dice', theirs)} over {_the_same(len(both), dropped)}, the CNN "
            f"{format_value('dice', ours)}. A learned AIF has to beat it, and here, patient by "
            f"patient, the CNN {place}: {_told(found)}. {_judged(found)}"
        )
    return sentences


def _of_patients(rows, reference, patients, tests) -> dict:
    """Compare the CNN's Dice with an arm's over patients: difference, limits, p, and p after Holm."""
    if patients is None:
        found = paired_tests(rows, reference, matrix=rows["matrix"].iloc[0], metrics=["dice"])
        row = found[found["arm"] == "cnn"].set_index("test").loc["Wilcoxon signed-rank"]
        return {"difference": row["difference"], "n": row["n"], "p": row["p"]}
    if tests is None:
        two = patients[patients["arm"].isin(["cnn", reference])]
        tests = patient_tests(two, reference, matrix=rows["matrix"].iloc[0], metrics=["dice"])
    row = tests[(tests["arm"] == "cnn") & (tests["metric"] == "dice")].iloc[0]
    return {
        "difference": row["mean_difference"],
        "limits": (row["mean_low"], row["mean_high"]),
        "n": row["n"],
        "p": row["wilcoxon_p"],
        "tested": int(tests["wilcoxon_p"].notna().sum()),
        "holm": row["wilcoxon_p_holm"],
    }


def _judged(found) -> str:
    """Say what the p over patients allows to say, alone and among all that the study compared."""
    if found["p"] < SIGNIFICANCE <= found.get("holm", 0):
        return (
            "Taken alone, chance would seldom give such a difference; among the "
            f"{found['tested']} comparisons of this study it can once."
        )
    return verdict(found["p"])


def _told(found) -> str:
    """Say a comparison over patients: difference, interval, p and n."""
    said = []
    low, high = found.get("limits", (np.nan, np.nan))
    if np.isfinite(low):
        said.append(f"95 % CI {signed('dice', low)} to {signed('dice', high)}")
    said.append(f"Wilcoxon signed-rank test over {count(found['n'], 'patient')}, {p_value(found['p'])}")
    if np.isfinite(found.get("holm", np.nan)) and found["tested"] > 1:
        said.append(f"after Holm {p_value(found['holm']).removeprefix('p ').removeprefix('= ')}")
    elif np.isfinite(found["p"]) and "limits" in found and found["tested"] == 1:
        said.append("tested by itself, outside Holm's correction")
    if not np.isfinite(found["difference"]):
        return f"not known ({'; '.join(said)})"
    return f"{standing('dice', found['difference'])} ({'; '.join(said)})"


def _the_same(n, dropped) -> str:
    return f"the {count(n, 'scan')} that have both" if dropped else count(n, "scan")
