"""Tables of the report say the numbers of the statistics, and say what could not be computed."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from synthetic import synthetic_patients, synthetic_scores

from perfkit import reporttables
from perfkit.mixedmodel import mixed_model
from perfkit.pairedtests import patient_tests


@pytest.fixture(scope="module")
def study():
    scores = synthetic_scores(n=24)
    scores.loc[scores["arm"] == "cnn", "dice"] += 0.1
    return scores, synthetic_patients(scores)


@pytest.fixture(scope="module")
def tables(study):
    found = reporttables.statistics(*study, "expert", "circulant")
    return {table["id"]: table for table in found}


def pairs(study, arm, metric):
    rows = study[1].query("matrix == 'circulant'").pivot(index="patient", columns="arm", values=metric)
    return (rows[arm] - rows["expert"]).to_numpy()


def test_every_row_has_a_cell_for_every_heading(tables):
    assert list(tables) == ["patients", "mixed", "agreement", "eligibility", "power"]
    for table in tables.values():
        assert table["rows"] and all(len(row["cells"]) == len(table["head"]) for row in table["rows"])


def test_differences_are_those_of_scipy(study, tables):
    table = tables["patients"]
    row = next(r["cells"] for r in table["rows"] if r["label"] == "CNN AIF" and r["cells"][0] == "Dice")
    difference = pairs(study, "cnn", "dice")
    assert row[1].startswith(f"+{difference.mean():.3f}\n+")
    assert row[3] == "< .001" and stats.wilcoxon(difference).pvalue < 0.001
    assert row[7] == str(len(difference))
    assert any(
        line.startswith(f"The CNN's Dice is higher by {difference.mean():.3f} (95 % CI +")
        and "would seldom do that" in line
        and "lies beyond ±0.02" in line
        for line in table["sentences"]
    )


def test_words_follow_the_test(study):
    one = patient_tests(study[1], "expert", metrics=["dice"]).set_index("arm", drop=False)
    still = one.loc["automatic"].copy()
    still["mean_difference"], still["wilcoxon_p_holm"], still["equivalence"] = 0.0, 0.9, "equivalent"
    said = reporttables.patient_sentence(still)
    assert said.startswith("The automatic AIF's Dice is the same to the last decimal")
    assert said.endswith("alone can do that; the 90 % interval of the difference lies within ±0.02.")
    p = f"{one.loc['automatic', 'wilcoxon_p']:.2f}".removeprefix("0")
    assert f"; p = {p}, after Holm .90; 18 patients)" in said
    still["equivalence"] = "not shown"
    assert reporttables.patient_sentence(still).endswith("yet equivalence is not shown either.")
    still["wilcoxon_p"], still["metric"], still["margin"] = 0.016, "volume_ml", 5.0
    said = reporttables.patient_sentence(still, tested=15)
    assert "p = .016, after Holm .90" in said
    assert "among 15 comparisons, chance alone can do that once" in said
    still["equivalence"] = "equivalent"
    assert reporttables.patient_sentence(still).endswith("lies within ±5 ml.")
    still["wilcoxon_p"], still["note"] = np.nan, "one patient: no test"
    said = reporttables.patient_sentence(still)
    assert said == "No test was possible of the automatic AIF's core volume over 18 patients: one patient."


def test_agreement_is_bias_and_limits_by_hand(study, tables):
    rows = study[0].query("matrix == 'circulant' and arm == 'cnn'")
    difference = rows["volume_ml"] - rows["reference_volume_ml"]
    cells = next(r["cells"] for r in tables["agreement"]["rows"] if r["label"] == "CNN AIF")
    bias, sd = difference.mean(), difference.std()
    for text, value in zip(cells, (bias, bias - 1.96 * sd, bias + 1.96 * sd), strict=False):
        assert float(text.split("\n")[0].replace("−", "-")) == pytest.approx(value, abs=0.051)
    assert cells[-1] == f"{len(rows)} / {rows['patient'].nunique()}"


def test_a_model_at_hand_is_taken_where_it_is_of_the_same_comparison(study, monkeypatch):
    asked = []
    monkeypatch.setattr(reporttables, "mixed_model", lambda *a, **o: asked.append(a) or mixed_model(*a, **o))
    for reference, fitted in (("expert", 0), ("cnn", 1)):
        model = mixed_model(study[0], "dice", "expert")
        found = reporttables.statistics(*study, reference, "circulant", model=model)
        assert len(asked) == fitted
        table = next(table for table in found if table["id"] == "mixed")
        assert table == reporttables.mixed_table(mixed_model(study[0], "dice", reference))


def test_warnings_of_the_mixed_model_are_said(study, tables):
    table = tables["mixed"]
    model = mixed_model(study[0], "dice", "expert")
    assert ("The fit converged" in table["words"]) is model.converged
    assert set(model.notes) <= set(table["notes"])
    broken = reporttables.mixed_table(replace(model, converged=False, fit_warnings=("lbfgs: no",)))
    assert "did NOT converge" in broken["words"] and "lbfgs: no" in broken["notes"]
    labels = [row["label"] for row in table["rows"]]
    assert labels[1:4] == ["Automatic AIF", "CNN AIF", "Mean brain curve"]
    effect = float(table["rows"][2]["cells"][0])
    assert effect == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("kind", ["one patient", "empty predictions", "missing arm", "two scans"])
def test_odd_studies_have_tables_that_say_so(kind):
    scores = synthetic_scores(n=6)
    if kind == "one patient":
        scores["patient"] = "p"
    if kind == "empty predictions":
        scores[["dice", "jaccard", "volume_ml"]] = 0.0
        scores[["hd95_mm"]] = np.nan
    if kind == "missing arm":
        scores = scores[(scores["arm"] != "cnn") | (scores["case"] == "case_6")]
    if kind == "two scans":
        scores = scores[scores["case"].isin(["case_5", "case_6"])]
    found = reporttables.statistics(scores, synthetic_patients(scores), "expert", "circulant")
    assert len(found) == 5
    said = " ".join(note for table in found for note in table["notes"])
    said += " ".join(found[0]["sentences"])
    assert said
    expected = {
        "one patient": "No test was possible over 1 patient",
        "empty predictions": "all differences are zero|No test was possible",
        "missing arm": "without a value in both arms for the same slabs left out",
        "two scans": "patients",
    }
    assert re.search(expected[kind], said), said


def test_without_the_reference_there_are_no_tables(study):
    assert reporttables.statistics(*study, "nobody", "circulant") == []


def test_patients_seen_by_different_slabs_are_not_compared(study):
    scores, _ = study
    cut = scores[(scores["arm"] != "cnn") | (scores["case"] != "case_1")]  # its patient keeps case_2
    tests = patient_tests(synthetic_patients(cut), "expert", metrics=["dice"]).set_index("arm")
    whole = patient_tests(synthetic_patients(scores), "expert", metrics=["dice"]).set_index("arm")
    assert tests.loc["cnn", "n"] == whole.loc["cnn", "n"] - 1 and tests.loc["cnn", "dropped"] == 1
    assert tests.loc["automatic", "n"] == whole.loc["automatic", "n"]
