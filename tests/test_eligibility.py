"""Eligibility at the edges of the rules, κ against scikit-learn, and counts by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perfkit.eligibility import COLUMNS, Rule, compare_decisions, eligibility_table, eligible, mismatch


@pytest.mark.parametrize(
    ("core", "hypo", "defuse", "extend"),
    [
        (20, 60, 1, 1),
        (70, 200, 0, 0),  # the core must be smaller than 70 ml
        (69.9, 200, 1, 1),
        (50, 90, 1, 1),  # ratio 1.8 and 40 ml
        (50, 89.9, 0, 1),
        (15, 30, 1, 1),  # 15 ml of mismatch are enough for DEFUSE 3
        (10, 24.9, 0, 1),
        (10, 20, 0, 0),  # EXTEND asks for more than 10 ml
        (64, 76.8, 0, 0),  # and for more than 1.2
        (0, 15, 1, 1),  # no core: the ratio is infinite, the volume decides
        (0, 10, 0, 0),
        (0, 0, 0, 0),
        (30, 10, 0, 0),
        (np.nan, 60, np.nan, np.nan),
        (20, np.nan, np.nan, np.nan),
    ],
)
def test_edges_of_the_rules(core, hypo, defuse, extend):
    assert eligible(core, hypo, "DEFUSE 3") == pytest.approx(defuse, nan_ok=True)
    assert eligible(core, hypo, "EXTEND") == pytest.approx(extend, nan_ok=True)


def test_mismatch_without_core_is_infinite():
    ratio, volume = mismatch([10, 0, 0, np.nan], [30, 20, 0, 20])
    assert ratio == pytest.approx([3, np.inf, np.nan, np.nan], nan_ok=True)
    assert volume == pytest.approx([20, 20, 0, np.nan], nan_ok=True)


def test_a_rule_of_ones_own_and_an_unknown_name():
    assert eligible(20, 60, Rule(10, 1.2, 10, True)) == 0
    with pytest.raises(ValueError, match="one of DEFUSE 3, EXTEND: 'DAWN' came"):
        eligible(20, 60, "DAWN")


def patients(volumes):
    """volumes: {arm: [(core, hypoperfusion), …]}; the reference core is 20 ml."""
    rows = [
        {
            "patient": f"p{i}",
            "arm": arm,
            "matrix": "circulant",
            "volume_ml": core,
            "hypoperfusion_ml": hypo,
            "reference_volume_ml": 20.0,
        }
        for arm, held in volumes.items()
        for i, (core, hypo) in enumerate(held)
    ]
    return pd.DataFrame(rows)


def test_counts_and_kappa_by_hand():
    """Decisions expert 1 1 0 0 1, cnn 1 0 0 1 1: agreed 3 of 5, by chance 13/25, so κ = .08/.48."""
    yes, no = (20, 60), (80, 200)
    table = eligibility_table(patients({"expert": [yes, yes, no, no, yes], "cnn": [yes, no, no, yes, yes]}))
    assert list(table.columns) == list(COLUMNS)
    row = table.query("rule == 'DEFUSE 3' and arm == 'cnn' and against == 'expert'").iloc[0]
    counts = [
        "n",
        "both",
        "neither",
        "only_arm",
        "only_against",
        "discordant",
        "eligible",
        "eligible_against",
    ]
    assert row[counts].tolist() == [5, 2, 1, 1, 1, 2, 3, 3]
    assert row["kappa"] == pytest.approx(0.08 / 0.48)
    assert row["mcnemar_p"] == 1
    assert "2 discordant: the interval of κ is crude" in row["note"]
    # with the reference core of 20 ml and the arm's own hypoperfusion everybody is eligible
    known = table.query("rule == 'DEFUSE 3' and arm == 'cnn' and against == 'reference core'").iloc[0]
    assert known["eligible_against"] == 5 and known["kappa"] == 0
    assert known["note"] == "one decides the same for all: κ is 0 and has no interval"


def test_decisions_that_never_differ_have_no_interval():
    found = compare_decisions([1, 1, 0, 0, 1, 0, 1], [1, 1, 0, 0, 1, 0, 1])
    assert found["kappa"] == 1 and np.isnan(found["kappa_low"])
    assert found["note"] == "no patient is discordant: κ is 1 and has no interval"


def test_decisions_agree_with_other_libraries():
    from sklearn.metrics import cohen_kappa_score
    from statsmodels.stats.contingency_tables import mcnemar
    from statsmodels.stats.proportion import proportion_confint

    rng = np.random.default_rng(0)
    a = (rng.random(60) < 0.5).astype(float)
    b = np.where(rng.random(60) < 0.25, 1 - a, a)
    found = compare_decisions(a, b)
    assert found["kappa"] == pytest.approx(cohen_kappa_score(a, b))
    table = [[found["both"], found["only_arm"]], [found["only_against"], found["neither"]]]
    assert found["mcnemar_p"] == pytest.approx(mcnemar(table, exact=True).pvalue)
    interval = proportion_confint(a.sum(), 60, method="wilson")
    assert [found["share_low"], found["share_high"]] == pytest.approx(interval)
    assert stats.binom.cdf(0, 60, 0.5) < 1e-15 and found["note"] == ""


@pytest.mark.parametrize(
    ("volumes", "words"),
    [
        ([(20, 60)], "one patient"),
        ([(20, 60), (20, 60)], "both decide the same for all"),
        ([(np.nan, 60), (20, np.nan)], "no patient with all volumes"),
    ],
)
def test_degenerate_cohorts_are_said_in_words(volumes, words):
    table = eligibility_table(patients({"expert": volumes, "cnn": volumes}))
    assert table["note"].str.contains(words).all()
    assert table["kappa"].isna().all()


def test_without_a_reference_core_only_arms_are_compared():
    held = patients({"expert": [(20, 60), (80, 90)], "cnn": [(20, 60), (20, 90)]})
    table = eligibility_table(held.drop(columns="reference_volume_ml"))
    assert set(table["against"]) == {"expert"} and len(table) == 2


def test_a_missing_arm_of_a_patient_is_dropped_and_counted():
    held = patients({"expert": [(20, 60), (80, 90), (10, 40)], "cnn": [(20, 60), (20, 90)]})
    row = eligibility_table(held).query("against == 'expert'").iloc[0]
    assert (row["n"], row["dropped"]) == (2, 1)
