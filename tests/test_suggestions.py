"""Suggestions lie in arteries, in different ones, keep their numbers, and say what was left out."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from perfkit import aif
from perfkit.phantom import make_case
from perfkit.preprocessing import prepare
from perfkit.suggestions import METHODS, iter_suggestions, suggest

T = np.arange(60.0)
SPACING = np.array([2.0, 2.0, 6.0])
ARTERIES = [
    (slice(8, 11), slice(6, 9), 0),
    (slice(20, 23), slice(10, 13), 0),
    (slice(8, 11), slice(24, 27), 1),
]
VEIN = (slice(24, 28), slice(24, 28), slice(0, None))


def bolus(t, onset, rise, peak):
    x = np.clip(np.asarray(t, float) - onset, 0, None) / rise
    return peak * (x * np.exp(1 - x)) ** 3


@pytest.fixture(scope="module")
def scan():
    """Three arteries at least 24 mm apart, one of them through both slices' borders, and a vein."""
    random = np.random.default_rng(0)
    shape = (32, 32, 2)
    brain = np.zeros(shape, bool)
    brain[2:-2, 2:-2] = True
    concentration = random.normal(0, 0.2, (*shape, 60))
    concentration[brain] += (random.uniform(0.6, 1.4, shape)[..., None] * bolus(T, 9, 11, 6))[brain]
    for region, peak in zip(ARTERIES, (90, 80, 70), strict=True):
        concentration[region] += bolus(T, 6, 7, peak)
    concentration[VEIN] += bolus(T, 12, 9, 150)
    return SimpleNamespace(
        id="scan", concentration=concentration.astype(np.float32), brain=brain, dt=1.0, spacing=SPACING
    )


def region_of(voxel):
    for i, region in enumerate([*ARTERIES, VEIN]):
        mask = np.zeros((32, 32, 2), bool)
        mask[region] = True
        if mask[tuple(voxel)]:
            return i
    return None


def test_each_artery_is_suggested_once_and_the_vein_last(scan):
    found = suggest(scan)
    assert [s.number for s in found] == [1, 2, 3, 4]
    assert sorted(region_of(s.voxel) for s in found[:3]) == [0, 1, 2]
    assert [s.kind for s in found] == ["aif"] * 3 + ["vof"]
    assert region_of(found[-1].voxel) == 3 and found[-1].methods == ("vof",) and np.isnan(found[-1].score)
    for s in found:
        assert len({region_of(voxel) for voxel in s.voxels}) == 1
        assert s.voxel in map(tuple, s.voxels.tolist()) and s.why


def test_suggestions_are_apart_in_mm_across_slices(scan):
    for apart in (10.0, 15.0, 40.0):
        places = np.array([s.voxel for s in suggest(scan, apart_mm=apart) if s.kind == "aif"]) * SPACING
        for i, a in enumerate(places):
            for b in places[:i]:
                assert np.linalg.norm(a - b) > apart


def test_methods_that_agree_are_named_together(scan):
    series = aif.brain_curves(scan)
    chosen = {}
    for method in METHODS:
        try:
            chosen[method] = series.voxels[aif.METHODS[method](series).rows]
        except ValueError:
            chosen[method] = np.zeros((0, 3))
    for s in suggest(scan)[:3]:
        named = [m for m in METHODS if (np.linalg.norm((chosen[m] - s.voxel) * SPACING, axis=1) <= 7.5).any()]
        assert list(s.methods) == named
    assert max(len(s.methods) for s in suggest(scan)) >= 4


def test_numbers_stay_while_methods_come_in(scan):
    steps = list(iter_suggestions(scan))
    assert len(steps) == len(METHODS) + 1
    for before, after in pairwise(steps):
        for old, new in zip(before, after, strict=False):
            assert old.number == new.number and old.voxel == new.voxel
            assert new.methods[: len(old.methods)] == old.methods
            np.testing.assert_array_equal(old.voxels, new.voxels)
    assert [s.voxel for s in steps[-1]] == [s.voxel for s in suggest(scan)]
    assert steps[0][0].methods == ("straka",)


def test_no_more_than_asked_for(scan):
    assert [s.kind for s in suggest(scan, n=2)] == ["aif", "aif", "vof"]


def test_a_method_that_fails_is_left_out_with_its_reason(scan, monkeypatch):
    def fails(series):
        raise ValueError("nothing stands out.")

    monkeypatch.setitem(aif.METHODS, "shi", fails)
    found = suggest(scan)
    assert found.reasons["shi"] == "nothing stands out."
    assert len(found) == 4 and all("shi" not in s.methods for s in found)
    for method in METHODS:
        monkeypatch.setitem(aif.METHODS, method, fails)
    with pytest.raises(ValueError, match=r"No method finds an artery.*murase: nothing stands out"):
        suggest(scan)


def test_a_brain_without_artery_has_no_suggestion_in_its_tissue(scan):
    bare = SimpleNamespace(**vars(scan) | {"concentration": scan.concentration.copy()})
    for region in ARTERIES:
        bare.concentration[region] = scan.concentration[15:18, 16:19, 0]
    with pytest.raises(ValueError, match="No method finds an artery"):
        suggest(bare)


def test_without_a_vein_none_is_suggested_and_one_cut_off_is_with_a_warning(scan):
    bare = SimpleNamespace(**vars(scan) | {"concentration": scan.concentration.copy()})
    bare.concentration[VEIN] = scan.concentration[14:18, 15:19]
    found = suggest(bare)
    assert all(s.kind == "aif" for s in found) and "It is no vein" in found.reasons["vof"]
    cut = SimpleNamespace(**vars(scan) | {"concentration": scan.concentration[..., :24]})
    assert suggest(cut)[-1].kind == "vof" and "It is truncated" in suggest(cut)[-1].why


def test_weak_places_say_that_they_are(scan):
    faint = SimpleNamespace(**vars(scan) | {"concentration": scan.concentration * np.float32(0.15)})
    peaks = [faint.concentration[tuple(s.voxels.T)].mean(axis=0).max() for s in suggest(faint)[:-1]]
    assert [peak < 15 for peak in peaks] == ["Weak:" in s.why for s in suggest(faint)[:-1]]
    assert any(peak < 15 for peak in peaks)
    assert not any("Weak" in s.why for s in suggest(scan))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n": 0}, "n must be a whole number of at least 1"),
        ({"methods": ("straka", "stroka")}, "must be some of straka.*'stroka' came"),
        ({"methods": ()}, "'none' came"),
        ({"apart_mm": 0}, "apart_mm must be above 0 mm"),
    ],
)
def test_arguments_out_of_range_are_refused_in_words(scan, options, words):
    with pytest.raises(ValueError, match=words):
        suggest(scan, **options)


def test_a_brain_without_contrast_is_refused(scan):
    flat = SimpleNamespace(**vars(scan) | {"concentration": np.zeros_like(scan.concentration)})
    with pytest.raises(ValueError, match="contrast must arrive"):
        suggest(flat)


def test_suggestions_of_phantoms_are_arterial_and_apart():
    r = []
    for number in range(1, 7):
        case = make_case(7, number, size="tiny")
        prepared = prepare(case)
        found = [s for s in suggest(prepared) if s.kind == "aif"]
        places = np.array([s.voxel for s in found]) * prepared.spacing
        apart = [np.linalg.norm(a - b) for i, a in enumerate(places) for b in places[:i]]
        assert min(apart, default=99) > 15
        first = prepared.concentration[tuple(found[0].voxels.T)].mean(axis=0)
        r.append(np.corrcoef(first, case.truth["aif"])[0, 1])
    assert np.median(r) > 0.9
