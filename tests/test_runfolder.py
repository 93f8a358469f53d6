"""What a run left is read as it was written, or named with what is wrong in it."""

import json

import numpy as np
import pandas as pd
import pytest
from synthetic import synthetic_curves, synthetic_patients, synthetic_scores

from perfkit import runfolder
from perfkit.study import assemble_report
from perfkit.tables import save_table

FACTS = {
    "cohort": "Cohort c",
    "parameters": {"lambda_rel": 0.3},
    "pooled_auc": {"circulant": {"expert": 0.9, "cnn": None}},
    "notes": ["a note"],
    "failures": [["case_9", "the series is constant"]],
    "flow": [{"label": "in the cohort", "scans": 4, "patients": 3}],
    "reference": "expert",
}


@pytest.fixture
def run(tmp_path):
    scores = synthetic_scores(n=4)
    scores["patient"] = scores["patient"].str.replace("p", "00")  # names that look like numbers
    patients = synthetic_patients(scores)
    roc, thresholds = synthetic_curves(patients)
    tables = {"scores": scores, "patients": patients, "roc": roc, "thresholds": thresholds}
    for name, table in tables.items():
        save_table(tmp_path / f"{name}.csv", table)
    (tmp_path / "metrics.json").write_text(json.dumps(FACTS))
    return tmp_path


@pytest.mark.parametrize("name", runfolder.TABLES)
def test_a_table_with_a_head_alone_is_named(run, name):
    path = run / f"{name}.csv"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match=rf"{name}\.csv.*it has a head and no rows"):
        runfolder.read_table(path)


@pytest.mark.parametrize("name", runfolder.TABLES)
def test_tables_come_back_as_they_were_written(run, name):
    table = runfolder.read_table(run / f"{name}.csv")
    assert table["patient"].str.startswith("00").all()
    written = pd.read_csv(run / f"{name}.csv", dtype={"patient": str})
    for column in written.select_dtypes("number"):
        np.testing.assert_array_equal(table[column], written[column])


def test_facts_come_back_and_what_is_not_said_is_empty(run):
    found = runfolder.read_facts(run / "metrics.json")
    assert found == FACTS | {"failures": [("case_9", "the series is constant")]}
    (run / "metrics.json").write_text("{}")
    empty = runfolder.read_facts(run / "metrics.json")
    assert empty["notes"] == [] and empty["pooled_auc"] == {} and empty["reference"] == "expert"


@pytest.mark.parametrize("name", runfolder.TABLES)
def test_a_table_that_lacks_a_column_a_name_or_a_number_is_said_where(run, name):
    path = run / f"{name}.csv"
    table = runfolder.read_table(path)
    texts, numbers = runfolder.TABLES[name]
    for column in (*texts, *numbers):
        save_table(path, table.drop(columns=column))
        with pytest.raises(ValueError, match=rf"{name}\.csv is damaged .*{column} is missing"):
            assemble_report(run)
    save_table(path, table.assign(arm=["", *table["arm"][1:]]))
    with pytest.raises(ValueError, match=rf"{name}\.csv .*names its arm; line 2 does not"):
        assemble_report(run)
    text = table.astype({numbers[0]: object})
    text.loc[2, numbers[0]] = "abc"
    save_table(path, text)
    with pytest.raises(ValueError, match=rf"{numbers[0]} holds numbers; line 4 has 'abc'"):
        assemble_report(run)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1, 2]", "it holds an object"),
        ("{", "damaged"),
        (json.dumps(FACTS | {"failures": "nonsense"}), r"failures is a list of \[case, reason\]"),
        (json.dumps(FACTS | {"failures": [["a", "b", "c"]]}), "failures is a list"),
        (json.dumps(FACTS | {"notes": {"a": 1}}), "notes is a list of sentences"),
        (json.dumps(FACTS | {"pooled_auc": {"circulant": {"cnn": "high"}}}), "pooled_auc is an object"),
        (json.dumps(FACTS | {"flow": [{"label": "x"}]}), "flow is a list of"),
        (json.dumps(FACTS | {"parameters": 3}), "parameters is an object"),
        (json.dumps(FACTS | {"cohort": None}), "cohort is a sentence; null came"),
    ],
)
def test_facts_of_another_kind_are_named(run, content, words):
    (run / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        assemble_report(run)


@pytest.mark.parametrize("column", ["reference_volume_ml", "volume_ml", "hypoperfusion_ml"])
def test_what_is_merely_missing_leaves_its_part_out(run, column):
    for name in ("scores", "patients"):
        table = runfolder.read_table(run / f"{name}.csv")
        save_table(run / f"{name}.csv", table.drop(columns=column, errors="ignore"))
    page = assemble_report(run).read_text(encoding="utf-8")
    assert f"the tables of this run have no {column}" in page and "Paired, the patient as unit" in page
