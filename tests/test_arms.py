"""The arms: AIFs found, failures reported and passed over, one pipeline to rCBF."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from perfkit import arms
from perfkit.aif import select_aif


def test_rcbf_is_one_in_the_mean_reference_and_nothing_outside(prepared, curves):
    for case, scan in prepared.items():
        rcbf = arms.rcbf_map(scan, curves["expert"][case])
        assert rcbf[scan.reference_tissue].mean() == pytest.approx(1, rel=1e-4)
        assert not rcbf[~scan.brain].any()


def test_experts_find_the_physiological_core(cohort, prepared, curves):
    """Known core: the simulation's own, which no rater and no label noise has touched."""
    found = []
    for case, scan in prepared.items():
        core = np.asarray(cohort[case].truth["core"], bool) & scan.brain
        if core.sum() > 5:
            rcbf = arms.rcbf_map(scan, curves["expert"][case])
            found.append(roc_auc_score(core[scan.brain], -rcbf[scan.brain]))
    assert len(found) >= 4 and np.mean(found) > 0.75


def test_a_missing_pick_is_reported_and_the_others_go_on(prepared, picks):
    case, *others = prepared
    found, failures = arms.arm_inputs(prepared, {name: picks[name] for name in others})
    assert list(failures) == [(case, "expert")] and case in failures[case, "expert"]
    assert list(found["expert"]) == others and list(found["automatic"]) == [case, *others]


def test_the_automatic_arm_follows_the_method_asked_for(prepared, picks, curves):
    case = next(iter(prepared))
    alone = {case: prepared[case]}
    found, _ = arms.arm_inputs(alone, picks, method="murase")
    expected = select_aif(prepared[case], "murase").curve
    assert np.array_equal(found["automatic"][case].curve, expected)
    assert not np.array_equal(expected, curves["automatic"][case])
    with pytest.raises(ValueError, match=r"one of straka.*'kmeans' came"):
        arms.arm_inputs(alone, picks, method="kmeans")


def test_a_pick_that_is_no_artery_is_judged_like_any_aif(prepared, picks):
    case, scan = next(iter(prepared.items()))
    outside = tuple(int(v) for v in np.argwhere(scan.tissue & (scan.concentration.max(-1) < 15))[0])
    found, _ = arms.arm_inputs({case: scan}, {case: replace(picks[case], voxels=(outside,))})
    assert any("weak" in note for note in found["expert"][case].notes)
