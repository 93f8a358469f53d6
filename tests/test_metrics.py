"""Metrics against hand-computed cases and brute force."""

import math

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import recall_score, roc_auc_score

from perfkit.metrics import (
    Surface,
    assd_mm,
    dice,
    hausdorff95_mm,
    jaccard,
    roc_auc,
    sensitivity,
    specificity,
    surface_distances_mm,
    surface_metrics_mm,
    volume_ml,
)


def brute_force_surfaces(a, b, spacing):
    """All directed surface distances, by all pairs; a surface voxel has a face neighbour outside."""

    def surface(mask):
        padded = np.pad(mask, 1)
        points = []
        for index in np.argwhere(padded):
            for axis in range(mask.ndim):
                step = np.eye(mask.ndim, dtype=int)[axis]
                if not (padded[tuple(index + step)] and padded[tuple(index - step)]):
                    points.append(index - 1)
                    break
        return np.array(points) * np.asarray(spacing, float)

    pa, pb = surface(a), surface(b)
    distances = np.linalg.norm(pa[:, None] - pb[None], axis=-1)
    return distances.min(axis=1), distances.min(axis=0)


def test_overlap_of_five_pixels_by_hand():
    a = np.array([1, 1, 1, 0, 0])
    b = np.array([0, 1, 1, 1, 0])
    assert dice(a, b) == pytest.approx(4 / 6)
    assert jaccard(a, b) == pytest.approx(2 / 4)


def test_sensitivity_and_specificity_are_the_recalls_of_scikit_learn():
    rng = np.random.default_rng(2)
    core, predicted = rng.random((2, 9, 8, 7)) < 0.3
    assert sensitivity(core, predicted) == pytest.approx(recall_score(core.ravel(), predicted.ravel()))
    expected = recall_score(core.ravel(), predicted.ravel(), pos_label=0)
    assert specificity(core, predicted) == pytest.approx(expected)
    assert sensitivity([1, 1, 1, 0], [1, 0, 1, 1]) == pytest.approx(2 / 3)
    assert specificity([1, 1, 0, 0, 0], [1, 0, 1, 0, 0]) == pytest.approx(2 / 3)


def test_dice_and_jaccard_tell_the_same(seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, 9, 8, 7)) < 0.3
    j = jaccard(a, b)
    assert dice(a, b) == pytest.approx(2 * j / (1 + j))
    assert dice(a, b) == dice(b, a)


def test_empty_masks_follow_the_stated_policy():
    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    assert (dice(empty, empty), jaccard(empty, empty), hausdorff95_mm(empty, empty, (1, 1))) == (1, 1, 0)
    assert (dice(empty, full), jaccard(full, empty)) == (0, 0)
    assert math.isnan(hausdorff95_mm(empty, full, (1, 1)))
    assert math.isnan(hausdorff95_mm(full, empty, (1, 1)))
    assert assd_mm(empty, empty, (1, 1)) == 0
    assert math.isnan(assd_mm(empty, full, (1, 1))) and math.isnan(assd_mm(full, empty, (1, 1)))
    assert math.isnan(sensitivity(empty, full)) and sensitivity(full, empty) == 0
    assert math.isnan(specificity(full, empty)) and specificity(empty, full) == 0
    from_full, from_empty = surface_distances_mm(full, empty, (1, 1))
    assert np.isinf(from_full).all() and from_empty.size == 0


@pytest.mark.parametrize("axis, expected", [(0, 2.0), (1, 3.0), (2, 25.0)])
def test_hausdorff_of_two_voxels_is_their_distance_in_mm(axis, expected):
    a, b = np.zeros((2, 9, 9, 9), bool)
    a[2, 2, 2] = True
    b[tuple(np.array((2, 2, 2)) + 5 * np.eye(3, dtype=int)[axis])] = True
    assert hausdorff95_mm(a, b, (0.4, 0.6, 5.0)) == pytest.approx(expected)


def test_hausdorff_by_hand_in_one_dimension():
    a = np.zeros(100, bool)
    b = a.copy()
    a[10:21] = True  # surface: 10 and 20
    b[10:31] = True  # surface: 10 and 30
    # Both directions are {0, 10} voxels of 2 mm; the 95th percentile of {0, 20} mm is 19 mm.
    assert hausdorff95_mm(a, b, (2.0,)) == pytest.approx(19.0)
    assert hausdorff95_mm(a, b, (2.0,), definition="pooled") == pytest.approx(20.0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(40,), (14, 11), (9, 8, 5)])
def test_hausdorff_equals_all_pairs(shape, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random((2, *shape)) < (0.4, 0.2)[seed % 2]
    spacing = rng.uniform(0.4, 6, len(shape))
    from_a, from_b = brute_force_surfaces(a, b, spacing)
    expected = max(np.percentile(from_a, 95), np.percentile(from_b, 95))
    pooled = np.percentile(np.concatenate([from_a, from_b]), 95)
    assert hausdorff95_mm(a, b, spacing) == pytest.approx(expected)
    assert hausdorff95_mm(a, b, spacing, definition="pooled") == pytest.approx(pooled)
    both = (from_a.sum() + from_b.sum()) / (len(from_a) + len(from_b))
    assert assd_mm(a, b, spacing) == pytest.approx(both)
    assert surface_metrics_mm(a, b, spacing) == {
        "hd95_mm": hausdorff95_mm(a, b, spacing),
        "assd_mm": assd_mm(a, b, spacing),
    }
    found = [np.sort(distances) for distances in surface_distances_mm(a, b, spacing)]
    for ours, theirs in zip(found, (from_a, from_b), strict=True):
        np.testing.assert_allclose(ours, np.sort(theirs))


@pytest.mark.parametrize("seed", range(4))
def test_a_surface_kept_for_many_masks_measures_what_the_masks_do(seed):
    rng = np.random.default_rng(seed)
    masks, spacing = rng.random((4, 20, 16, 3)) < 0.2, (0.9, 0.8, 5.0)
    masks[2] = False
    kept = Surface(masks[0], spacing)
    for mask in masks:
        assert kept.metrics_mm(Surface(mask, spacing)) == pytest.approx(
            surface_metrics_mm(masks[0], mask, spacing), nan_ok=True
        )
    assert len(Surface(masks[2], spacing).points) == 0
    np.testing.assert_allclose(Surface(np.ones(3), (2.0,)).points, [[0], [4]])


@pytest.mark.parametrize("seed", range(3))
def test_surfaces_are_as_far_apart_as_scipys_distance_transform_says(seed):
    rng = np.random.default_rng(seed)
    a, b = ndimage.gaussian_filter(rng.normal(size=(2, 64, 48, 5)), (0, 4, 4, 0)) > 0.03
    spacing = (0.9, 0.86, 6.0)
    for one, other, distances in zip((a, b), (b, a), surface_distances_mm(a, b, spacing), strict=True):
        surface_of_one, surface = (m & ~ndimage.binary_erosion(m) for m in (one, other))
        expected = ndimage.distance_transform_edt(~surface, sampling=spacing)[surface_of_one]
        np.testing.assert_allclose(distances, expected)


def test_hausdorff_is_symmetric_zero_on_equals_and_scales_with_spacing():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 8, 8, 4)) < 0.3
    spacing = np.array([0.9, 0.9, 5.0])
    assert hausdorff95_mm(a, b, spacing) == hausdorff95_mm(b, a, spacing)
    assert hausdorff95_mm(a, a, spacing) == 0
    assert hausdorff95_mm(a, b, 3 * spacing) == pytest.approx(3 * hausdorff95_mm(a, b, spacing))


def test_volume_counts_voxels_in_ml():
    mask = np.zeros((10, 10, 10), int)
    mask[:2, :5, :3] = 1
    assert volume_ml(mask, (1.0, 2.0, 5.0)) == pytest.approx(30 * 10 / 1000)


@pytest.mark.parametrize("decimals", [0, 1, 9])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_roc_auc_equals_scikit_learn_with_and_without_ties(decimals, dtype):
    rng = np.random.default_rng(3)
    core = rng.random((30, 20, 4)) < 0.1
    score = np.round(3 * rng.normal(size=core.shape) + 2 * core, decimals).astype(dtype)
    assert roc_auc(core, score) == pytest.approx(roc_auc_score(core.ravel(), score.ravel()), abs=1e-12)


def test_roc_auc_by_hand():
    assert roc_auc([0, 1, 0, 1], [1, 2, 2, 3]) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert roc_auc([0, 0, 1], [0, 1, 2]) == 1
    assert roc_auc([0, 1], [5, 5]) == 0.5
    assert roc_auc([1, 0], [-np.inf, np.inf]) == 0


def test_roc_auc_only_knows_ranks():
    rng = np.random.default_rng(4)
    core, score = rng.random(500) < 0.3, rng.normal(size=500)
    assert roc_auc(core, score) == roc_auc(core, np.exp(score))
    assert roc_auc(core, -score) == pytest.approx(1 - roc_auc(core, score))


@pytest.mark.parametrize("core", [np.zeros(5, bool), np.ones(5, bool)])
def test_roc_auc_is_nan_with_one_class(core):
    assert math.isnan(roc_auc(core, np.arange(5)))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: roc_auc([0, 1], [0.1, np.nan]), "1 of 2 are NaN"),
        (lambda: roc_auc([0, 1], [0.1, 0.2, 0.3]), "one shape"),
        (lambda: roc_auc([0, 2], [0.1, 0.2]), "only 0 and 1"),
        (lambda: dice([0, 1], [[0, 1]]), "one shape"),
        (lambda: jaccard([0, 0.5], [0, 1]), "only 0 and 1"),
        (lambda: dice([0, np.nan], [0, 1]), "only 0 and 1"),
        (lambda: hausdorff95_mm(np.ones((2, 2)), np.ones((2, 2)), (1, 1, 1)), "2 positive"),
        (lambda: hausdorff95_mm(np.ones((2, 2)), np.ones((2, 2)), (1, 0)), "positive"),
        (lambda: hausdorff95_mm(np.ones((2, 2)), np.ones((2, 2)), (1, np.nan)), "positive"),
        (lambda: hausdorff95_mm(np.ones((2,) * 4), np.ones((2,) * 4), (1,) * 4), "one to three axes"),
        (lambda: sensitivity([0, 1], [0, 1, 1]), "core has"),
        (lambda: specificity([0, 1], [0, 3]), "predicted must hold only"),
        (lambda: assd_mm(np.ones((2, 2)), np.ones((2, 2)), (1,)), "2 positive"),
        (lambda: hausdorff95_mm([1], [1], (1,), definition="mean"), "pooled"),
        (lambda: volume_ml(np.ones((2, 2, 2)), (1, 1)), "3 positive"),
    ],
)
def test_wrong_input_is_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("score", [["low", "high"], [None, None], [1j, 2j]])
def test_what_is_no_number_is_refused(score):
    with pytest.raises(TypeError, match="Scores must be real numbers"):
        roc_auc([0, 1], score)
    with pytest.raises(TypeError, match="spacing must be numbers in mm"):
        volume_ml([0, 1], "isotropic")
