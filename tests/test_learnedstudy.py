"""The study of learned AIFs: scans that were trained on are refused, and sentences say what numbers do."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from perfkit import learnedstudy, phantom
from perfkit.datasets import open_cohort
from perfkit.learnedstudy import agreement_summary, aif_agreement, answers, learned_tests, sentences
from perfkit.preprocessing import prepare_cohort
from perfkit.training import Settings, cross_validate, predict_cohort
from perfkit.unseen import check_unseen, fingerprints, phantom_options


@pytest.fixture(scope="module")
def run(tmp_path_factory, cohort):
    """What a training on the tiny cohort leaves, as far as freshness goes: its prepared scans."""
    folder = tmp_path_factory.mktemp("run")
    prepare_cohort(cohort, cache=folder / "prepared")
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another tiny cohort, of another seed: case and patient names are the same."""
    folder = tmp_path_factory.mktemp("cohort") / "other"
    return open_cohort(phantom.write_cohort(folder, 2, 7, size="tiny", progress=False))


def patients(**differences):
    """Twelve patients: the expert's Dice and AUC, and arms that differ from it by what is given."""
    rng = np.random.default_rng(0)
    base = {"dice": rng.uniform(0.3, 0.5, 12), "roc_auc": rng.uniform(0.8, 0.9, 12)}
    rows = []
    for arm, moved in {"expert": 0.0, **differences}.items():
        table = pd.DataFrame({name: values + moved for name, values in base.items()})
        rows.append(table.assign(patient=[f"p{i}" for i in range(12)], arm=arm, matrix="circulant"))
    return pd.concat(rows, ignore_index=True)


GAIN = 0.02 + 0.001 * np.arange(12)  # all above 0: the least p of twelve patients, 2 / 2**12


# Fresh scans


def test_scans_that_were_trained_on_are_refused(cohort, prepared, run):
    with pytest.raises(ValueError, match=r"no fold has seen: case_1, case_2, case_3 and 3 more"):
        check_unseen(cohort, prepared, {"cnn": run})


def test_phantoms_of_another_seed_are_fresh_though_their_names_are_the_same(other, cohort, run):
    fresh = prepare_cohort(other).scans
    assert set(fresh) <= set(cohort.ids) and {s.patient for s in fresh.values()} & set(
        cohort.patients.values()
    )
    assert check_unseen(other, fresh, {"cnn": run, "pool": run}) == len(cohort)


def test_a_scan_under_another_name_or_with_another_mask_is_found_out(other, prepared, run):
    scan = replace(prepared["case_2"], id="new", patient="new")
    bare = replace(scan, core=None)
    moved = replace(scan, baseline=scan.baseline + 1)  # as if the baseline were counted otherwise
    for one in (scan, bare, moved):
        with pytest.raises(ValueError, match="new of other is among"):
            check_unseen(other, {"new": one}, {"cnn": run})
    other_scan = replace(moved, core=None)
    assert check_unseen(other, {"new": other_scan}, {"cnn": run}) == 6


def test_a_known_patient_is_refused_where_names_name_somebody(tmp_path, other, prepared, run):
    scan = prepared["case_2"]
    unlike = {"x": replace(scan, id="x", baseline=scan.baseline + 1, core=None)}
    assert check_unseen(other, unlike, {"cnn": run}) == 6  # phantoms
    (tmp_path / "cohort.json").write_text("{}", encoding="utf-8")
    real = type(other)(other.scans, tmp_path)
    assert phantom_options(real) is None and phantom_options(other)["seed"] == 7
    with pytest.raises(ValueError, match=rf"{scan.patient} of .* has a scan in .*patients\.csv"):
        check_unseen(real, unlike, {"cnn": run})


def test_a_run_without_its_scans_cannot_vouch_for_them(tmp_path, other):
    with pytest.raises(ValueError, match="holds none"):
        check_unseen(other, {}, {"cnn": tmp_path})


def test_small_cores_and_no_core_do_not_tell_scans_apart():
    baseline, core = np.zeros((4, 4, 1)), np.zeros((4, 4, 1), bool)
    core[:2, :2] = True
    assert fingerprints(baseline, core) == fingerprints(baseline)
    core[:3, :4] = True
    assert len(fingerprints(baseline, core)) == 2


# Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory, prepared):
    """An epoch on a scan or two: one fold of the CNN, two of the pooling head."""
    folder, some = tmp_path_factory.mktemp("runs"), {case: prepared[case] for case in ("case_1", "case_3")}
    folds = [(["case_1"], ["case_3"]), (["case_3"], ["case_1"])]
    for head, n in (("cnn", 1), ("pool", 2)):
        settings = Settings.preset("tiny", epochs=1, head=head, validation=0.0)
        cross_validate(some, folds[:n], folder / head, settings)
    return {head: folder / head for head in ("cnn", "pool")}


@pytest.mark.parametrize("head", ["cnn", "pool"])
def test_a_learned_arm_proposes_what_predict_cohort_does(head, runs, prepared):
    curve = learnedstudy.learned_arm(runs[head])(prepared["case_2"])
    whole = predict_cohort(runs[head], {"case_2": prepared["case_2"]})["case_2"]
    np.testing.assert_allclose(curve, whole, rtol=1e-6)


def test_a_run_of_another_head_is_refused_and_another_matrix_is_said(runs, tmp_path):
    assert learnedstudy.check_runs(runs, "circulant") == []
    assert learnedstudy.check_runs({"cnn": runs["cnn"]}, "volterra") == [
        "CNN AIF: trained through circulant, scored through volterra."
    ]
    with pytest.raises(ValueError, match=r"head pool is asked for.*'cnn'"):
        learnedstudy.check_runs({"pool": runs["cnn"]}, "volterra")
    with pytest.raises(FileNotFoundError, match="--arm cnn"):
        learnedstudy.check_runs({"cnn": tmp_path}, "volterra")


# Tests and sentences


def test_tests_are_of_the_learned_arms_alone_and_holm_counts_all_of_them():
    table = patients(cnn=GAIN, pool=-GAIN, brain_mean=0.5 * GAIN, automatic=0.01)
    tests = learned_tests(table)
    keys = list(tests[["arm", "reference", "metric"]].itertuples(index=False, name=None))
    assert len(keys) == 8 and keys[0] == ("cnn", "expert", "dice") and keys[4][0] == "pool"
    assert {reference for _, reference, _ in keys} == {"expert", "brain_mean"}
    p = stats.wilcoxon(GAIN).pvalue
    np.testing.assert_allclose(tests["wilcoxon_p"], p)  # all differences have one sign
    np.testing.assert_allclose(tests["wilcoxon_p_holm"], 8 * p)
    np.testing.assert_allclose(tests["mean_difference"][:2], GAIN.mean())


def test_answers_and_sentences_say_who_wins_and_who_loses():
    tests = learned_tests(patients(cnn=GAIN, pool=-GAIN, brain_mean=0.5 * GAIN))
    won, lost = answers(tests)
    assert won.startswith("CNN AIF: beats the expert and the mean brain curve in both")
    assert "higher in 4 at p < .05 (4 after" in won and "lower in 0" in won
    assert (
        lost.startswith("Pooled AIF: is not shown to beat") and "higher in 0" in lost and "lower in 4" in lost
    )
    first = sentences(tests)[0]
    assert first.startswith("Dice, CNN AIF against the expert: +0.026 (95 % interval +0.02")
    assert "12 patients; Wilcoxon p < .001, sign flips p < .001" in first and "Holm p = .004" in first
    assert first.endswith("Chance alone would seldom give such a difference.")


def test_an_arm_that_wins_in_one_measure_only_is_not_shown_to_beat():
    table = patients(cnn=GAIN)
    table.loc[table["arm"] == "cnn", "roc_auc"] -= 2 * GAIN
    (said,) = answers(learned_tests(table))
    assert (
        "is not shown to beat the expert in both" in said and "higher in 1" in said and "lower in 1" in said
    )


def test_one_patient_is_no_test():
    table = patients(cnn=GAIN)
    tests = learned_tests(table[table["patient"] == "p0"])
    assert sentences(tests)[0] == "Dice, CNN AIF against the expert: no test (one patient)."
    assert "higher in 0" in answers(tests)[0]


def test_nothing_to_compare_with_is_refused():
    table = patients(cnn=GAIN)
    with pytest.raises(ValueError, match="none of expert, brain_mean"):
        learned_tests(table[table["arm"] == "cnn"])


# True AIFs


def test_the_true_aif_agrees_with_itself_and_a_shifted_one_is_late(cohort, prepared):
    truth = learnedstudy.true_aifs(cohort)
    assert set(truth) == set(prepared)
    late = {case: 0.5 * np.roll(curve, 2) for case, curve in truth.items()}  # tails end at almost 0
    table = aif_agreement(prepared, {"expert": truth, "cnn": late, "pool": {}}, truth)
    assert len(table) == 2 * len(truth)
    summary = agreement_summary(table).set_index("arm")
    assert summary.loc["expert", "r"] == pytest.approx(1) and summary.loc["expert", "near"] == 1
    assert summary.loc["cnn", "abs_delta_ttp"] == pytest.approx(2) and summary.loc["cnn", "near"] == 0
    assert summary.loc["cnn", "r"] < 0.99


def test_patients_have_no_true_aif_and_an_empty_table(prepared):
    table = aif_agreement(prepared, {"expert": {}}, {})
    assert list(table) == ["case", "patient", "arm", "r", "delta_ttp"] and agreement_summary(table).empty


def test_the_scan_without_noise_is_that_of_the_cohort(cohort, prepared, tmp_path):
    scan = prepared["case_3"]
    clean = learnedstudy.noise_free(cohort, prepared)("case_3")
    noise = (scan.concentration - clean)[scan.brain]
    assert 0 < noise.std() < 0.5 * scan.concentration[scan.brain].std()
    assert learnedstudy.noise_free(type(cohort)(cohort.scans, tmp_path), prepared) is None


# Files


def test_results_are_strict_json_and_tables(tmp_path):
    table = pd.DataFrame({"arm": ["cnn"], "dice": [np.nan], "n": [3]})
    metrics = {"rows": table, "p": float("nan"), "few": (np.float32(0.5), True), "none": None}
    path = learnedstudy.save_results(tmp_path, tables={"scores": table}, figures={}, metrics=metrics)
    back = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    rows = [{"arm": "cnn", "dice": None, "n": 3}]
    assert back == {"rows": rows, "p": None, "few": [0.5, True], "none": None}
    assert pd.read_csv(tmp_path / "scores.csv")["n"].tolist() == [3]
