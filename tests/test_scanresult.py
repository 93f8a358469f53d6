"""What one scan says: volumes against counted voxels, rules against their definition, and its flags."""

import json
from dataclasses import replace

import numpy as np
import pytest

from perfkit import scanresult
from perfkit.aif import select_aif


@pytest.fixture(scope="module")
def scan(prepared):
    return next(iter(prepared.values()))


@pytest.fixture(scope="module")
def result(scan):
    return scanresult.read_scan(scan, select_aif(scan))


def test_volumes_count_voxels(scan, result):
    ml = np.prod(scan.spacing) / 1000
    late = scan.tissue & (result.maps.tmax > 6)
    core = scan.tissue & (result.rcbf < 0.38)
    expected = {
        "brain_ml": scan.brain.sum() * ml,
        "core_ml": core.sum() * ml,
        "hypoperfusion_ml": late.sum() * ml,
        "penumbra_ml": (late & ~core).sum() * ml,
        "mismatch_ml": (late.sum() - core.sum()) * ml,
        "reference_core_ml": (scan.core & scan.brain).sum() * ml,
    }
    for name, value in expected.items():
        assert result.volumes[name] == pytest.approx(value, rel=1e-6), name
    assert result.volumes["mismatch_ratio"] == pytest.approx(late.sum() / core.sum(), rel=1e-6)
    assert 0 < result.volumes["hir"] == (late & (result.maps.tmax > 10)).sum() / late.sum() < 1


def test_another_threshold_gives_another_core(scan, result):
    wider = scanresult.read_scan(scan, result.aif, threshold=0.6)
    assert wider.core.sum() > result.core.sum()
    np.testing.assert_array_equal(wider.core, scan.tissue & (wider.rcbf < 0.6))


@pytest.mark.parametrize("name", ["DEFUSE 3", "EXTEND"])
def test_verdicts_follow_the_trial(result, name):
    core, late = (result.volumes[key] for key in ("core_ml", "hypoperfusion_ml"))
    if name == "DEFUSE 3":
        expected = core < 70 and late >= 1.8 * core and late - core >= 15
    else:
        expected = core < 70 and late > 1.2 * core and late - core > 10
    assert result.eligible[name] is expected


def test_the_record_is_strict_json_without_nan(scan, result):
    nothing = {"mismatch_ratio": float("inf"), "hir": float("nan")}
    empty = replace(result, volumes=result.volumes | nothing)
    record = json.loads(json.dumps(empty.record(), allow_nan=False))
    assert record["volumes"]["mismatch_ratio"] is None and record["volumes"]["hir"] is None
    assert record["case"] == scan.id and len(record["aif"]["curve"]) == scan.concentration.shape[-1]
    assert record["eligible"] == result.eligible


def test_a_weak_aif_is_flagged(scan):
    aif = select_aif(scan)
    weak = scanresult.choose_aif(scan, learned={scan.id: aif.curve / 20})
    found = scanresult.read_scan(scan, weak)
    assert found.flags and any("HU" in flag for flag in found.flags)
    assert set(weak.notes) <= set(found.flags)


def test_a_scan_without_a_late_side_and_a_small_brain_are_flagged(scan):
    few = np.zeros_like(scan.brain)
    few[tuple(np.argwhere(scan.brain)[:60].T)] = True
    flags = scanresult._flags(
        replace(scanresult.read_scan(scan, select_aif(scan)), prepared=replace(scan, lesion_side=0)),
        {"brain_ml": 3.0},
        None,
        "CBF and CBV are relative.",
    )
    assert any("3.0 ml" in flag for flag in flags)
    assert any("side" in flag for flag in flags) and "CBF and CBV are relative." in flags


def test_the_aif_comes_from_whom_the_caller_names(scan, picks):
    pick = {scan.id: picks[scan.id]}
    curve = np.linspace(0, 50, scan.concentration.shape[-1])
    assert scanresult.choose_aif(scan).method == "straka"
    assert scanresult.choose_aif(scan, method="rausch").method == "rausch"
    assert scanresult.choose_aif(scan, method="brain_mean").method == "brain_mean"
    expert = scanresult.choose_aif(scan, picks=pick)
    voxels = tuple(np.array(pick[scan.id].voxels).T)
    np.testing.assert_allclose(expert.curve, scan.concentration[voxels].mean(axis=0), rtol=1e-6)
    learned = scanresult.choose_aif(scan, picks=pick, learned={scan.id: curve})
    np.testing.assert_array_equal(learned.curve, curve)


def test_an_expert_or_a_network_is_never_invented(scan, picks):
    others = {name: pick for name, pick in picks.items() if name != scan.id}
    with pytest.raises(ValueError, match=f"No AIF was picked for {scan.id}"):
        scanresult.choose_aif(scan, picks=others)
    with pytest.raises(ValueError, match="No AIF was picked"):
        scanresult.choose_aif(scan, picks={})
    with pytest.raises(ValueError, match=f"no learned AIF for {scan.id}"):
        scanresult.choose_aif(scan, learned={"another": np.ones(3)})
    with pytest.raises(ValueError, match="a value per frame"):
        scanresult.choose_aif(scan, learned={scan.id: np.ones(3)})


def test_calibrated_maps_have_a_delay_and_their_own_threshold(scan, result):
    found = scanresult.read_scan(scan, result.aif, estimator="calibrated")
    assert found.images()["delay"].shape == scan.brain.shape and result.maps.delay is None
    np.testing.assert_array_equal(found.core, scan.tissue & (found.rcbf < 0.30))
    assert found.method()["estimator"] == "calibrated"
    np.testing.assert_array_equal(found.maps.tmax, result.maps.tmax)
