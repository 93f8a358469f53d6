"""Preparing a case: what comes out, that nothing of the truth goes in, and the cache."""

import dataclasses
import os

import numpy as np
import pytest
from scipy import ndimage

from perfkit import curves, masks, preprocessing
from perfkit.case import Case
from perfkit.datasets import open_cohort
from perfkit.metrics import dice
from perfkit.phantom import make_case
from perfkit.preprocessing import Prepared, mean_curve, prepare, prepare_cached, prepare_cohort


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    x, y = np.ogrid[-1:1:40j, -1:1:44j]
    brain = np.repeat((np.hypot(x / 0.7, y / 0.85) < 1)[..., None], 3, 2)
    t = np.arange(30) * 1.5
    late = (np.hypot((x - 0.35) / 0.3, y / 0.4) < 1)[..., None, None] & brain[..., None]
    bolus = np.where(late, curves.gamma_variate(t, 16, 30, 18, 3), curves.gamma_variate(t, 9, 19, 13, 6))
    still = np.where(brain, 33.0, -1000.0)[..., None]
    ctp = np.rint(still + bolus * brain[..., None] + rng.normal(0, 3, (40, 44, 3, 30))).astype(np.int16)
    core = late[..., 0] & (rng.random(brain.shape) < 0.5)
    affine = np.diag([-3.0, 3.0, 5.0, 1.0])
    return Case(
        id="case_7", patient="p4", ctp=ctp, dt=1.5, affine=affine, brain=brain, core=core, notes=("told",)
    )


def equal(a: Prepared, b: Prepared) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(Prepared)]
    return all(
        np.array_equal(x, y) and x.dtype == y.dtype if isinstance(x, np.ndarray) else x == y for x, y in pairs
    )


def test_prepare_joins_baseline_smoothing_and_masks(case):
    prepared = prepare(case)
    concentration, baseline = curves.enhancement(case.ctp, prepared.n_baseline)
    smoothed = curves.smooth(concentration, case.spacing, case.dt, mask=case.brain)
    np.testing.assert_allclose(prepared.concentration, smoothed, atol=1e-3)
    np.testing.assert_allclose(prepared.baseline, baseline, atol=1e-4)
    assert prepared.concentration.dtype == np.float32
    assert (prepared.concentration[~case.brain] == 0).all()
    found = masks.find_reference(smoothed, baseline, case.brain, case.spacing, case.dt)
    np.testing.assert_array_equal(prepared.reference_tissue, found.mask)
    assert (prepared.id, prepared.patient, prepared.dt) == ("case_7", "p4", 1.5)
    assert prepared.lesion_side == 1
    assert prepared.notes == ("told",)
    np.testing.assert_allclose(prepared.times, case.times)


def test_baseline_frames_lie_before_the_bolus(case):
    n = prepare(case).n_baseline
    assert 2 <= n * case.dt <= 10.5


@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_order_of_the_file_does_not_matter(case, order):
    other = dataclasses.replace(case, ctp=np.asarray(case.ctp, order=order))
    np.testing.assert_allclose(prepare(other).concentration, prepare(case).concentration, atol=1e-4)


def test_nothing_depends_on_the_core(case):
    blind = dataclasses.replace(case, core=None)
    seeing, blinded = prepare(case), prepare(blind)
    assert blinded.core is None
    assert equal(dataclasses.replace(seeing, core=None), blinded)


def test_the_infarct_at_follow_up_stays_beside_the_core(case, tmp_path):
    later = dataclasses.replace(case, core=None, final_infarct=case.core)
    for prepared in (prepare(later), prepare_cached(later, tmp_path), prepare_cached(later, tmp_path)):
        assert prepared.core is None
        np.testing.assert_array_equal(prepared.final_infarct, case.core)
    assert prepare(case).final_infarct is None


def test_an_early_bolus_is_told(case):
    early = dataclasses.replace(case, ctp=case.ctp[..., 5:])
    prepared = prepare(early)
    assert prepared.n_baseline < 3
    assert any("bolus comes early" in note for note in prepared.notes)


def test_options_reach_their_functions(case):
    raw = prepare(case, sigma_mm=0, sigma_s=0, reference="early")
    expected, _ = curves.enhancement(case.ctp, raw.n_baseline)
    np.testing.assert_allclose(raw.concentration, expected * case.brain[..., None], atol=1e-3)
    assert set(np.unique(raw.sides[raw.reference_tissue])) == {-1, 1}


def test_mean_curve_of_a_sample_is_the_mean():
    rng = np.random.default_rng(1)
    ctp = rng.normal(0, 1, (60, 60, 20, 12)).astype(np.float32) + np.arange(12)
    mask = rng.random((60, 60, 20)) < 0.9
    np.testing.assert_allclose(mean_curve(ctp, mask), ctp[mask].mean(axis=0), atol=0.05)
    small = np.zeros_like(mask)
    small[3:6, 4, 5] = True
    np.testing.assert_allclose(mean_curve(ctp, small), ctp[small].mean(axis=0), rtol=1e-6)


def test_cache_gives_the_same_back_without_preparing_again(case, tmp_path, monkeypatch):
    first = prepare_cached(case, tmp_path / "new")
    assert equal(first, prepare(case))
    monkeypatch.setattr(preprocessing, "prepare", None)
    assert equal(prepare_cached(case, tmp_path / "new"), first)
    assert len(os.listdir(tmp_path / "new")) == 1


def test_cache_keeps_an_unknown_core_unknown(case, tmp_path):
    case = dataclasses.replace(case, core=None)
    prepare_cached(case, tmp_path)
    assert prepare_cached(case, tmp_path).core is None


@pytest.mark.parametrize(
    "change",
    [
        lambda case: dict(ctp=np.where(np.arange(30) == 3, case.ctp + 1, case.ctp)),
        lambda case: dict(core=None),
        lambda case: dict(core=None, final_infarct=case.core),
        lambda case: dict(final_infarct=case.core),
        lambda case: dict(brain=np.roll(case.brain, 1, axis=0)),
        lambda case: dict(dt=1.0),
        lambda case: dict(affine=np.diag([3.0, 3.0, 5.0, 1.0])),
        lambda case: dict(notes=()),
    ],
)
def test_another_case_has_another_file(case, tmp_path, change):
    prepare_cached(case, tmp_path)
    prepare_cached(dataclasses.replace(case, **change(case)), tmp_path)
    assert len(os.listdir(tmp_path)) == 2


def test_other_options_and_versions_have_other_files(case, tmp_path, monkeypatch):
    prepare_cached(case, tmp_path)
    prepare_cached(case, tmp_path, sigma_mm=3.0)
    monkeypatch.setattr("perfkit.__version__", "999")
    prepare_cached(case, tmp_path)
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b"noise", lambda b: b[: len(b) // 2], "flip"])
def test_a_damaged_file_is_made_again(case, tmp_path, damage):
    first = prepare_cached(case, tmp_path)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    if damage == "flip":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :])
    else:
        path.write_bytes(damage(content))
    assert equal(prepare_cached(case, tmp_path), first)
    assert path.read_bytes()[:2] == b"PK"


def test_nothing_half_written_stays(case, tmp_path, monkeypatch):
    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", broken)
    with pytest.raises(OSError, match="disk full"):
        prepare_cached(case, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def phantoms():
    return [make_case(5, number, size="tiny") for number in range(1, 21)]


def test_side_and_reference_of_the_phantoms_are_right_without_truth_or_aif(phantoms):
    right, ratios = [], []
    for phantom in phantoms:
        prepared, truth = prepare(phantom), phantom.truth
        ischaemic = truth["core"] | truth["penumbra"]
        right.append(prepared.lesion_side == np.sign((prepared.sides * ischaemic).sum()))
        healthy = prepared.tissue & ~ischaemic & (truth["delay"] < 2)
        ratios.append(truth["cbf"][prepared.reference_tissue].mean() / truth["cbf"][healthy].mean())
    assert np.mean(right) >= 0.9
    np.testing.assert_allclose(ratios, 1, atol=0.1)


def test_brain_mask_finds_the_brain_of_an_anatomical_head():
    phantom = make_case(5, 3, size="small")
    found = masks.brain_mask(phantom.ctp[..., :3].mean(axis=-1), phantom.spacing)
    eroded = ndimage.binary_erosion(phantom.brain, ndimage.generate_binary_structure(2, 1)[..., None])
    assert dice(found, eroded) > 0.95
    assert np.count_nonzero(found & ~phantom.brain) < 0.002 * np.count_nonzero(found)


def test_what_is_kept_of_each_scan_is_made_while_its_series_is_there(tiny_cohort, monkeypatch):
    cohort = open_cohort(tiny_cohort).select(4)
    broken, stubborn, *sound = cohort.ids
    loaded, load = [], type(cohort.scans[0]).load

    def counted(scan):
        loaded.append(scan.id)
        if scan.id == broken:
            raise ValueError("the file ends early")
        return load(scan)

    def keep(case, prepared):
        if case.id == stubborn:
            raise ValueError("nothing to keep")
        return case.ctp.sum(), prepared

    monkeypatch.setattr(type(cohort.scans[0]), "load", counted)
    found = prepare_cohort(cohort, keep=keep)
    assert sorted(loaded) == sorted(cohort.ids)  # once each
    assert found.failures == {broken: "the file ends early"}
    assert list(found.scans) == [stubborn, *sound] and list(found.kept) == sound
    assert found.scans[stubborn].notes[-1] == "Nothing was kept of it: nothing to keep"
    for name in sound:
        total, prepared = found.kept[name]
        assert total == cohort[name].ctp.sum() and prepared is found.scans[name]
    assert prepare_cohort(cohort.select([sound[0]])).kept == {}
