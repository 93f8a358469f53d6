"""Another grid by affine: linear for maps, nearest for masks, and fills that reach no other voxel."""

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.processing import resample_from_to

from perfkit import resample

SHAPE = (20, 22, 14)
GRID = (9, 10, 6)


def affine(seed=0, spacing=(2.0, 2.0, 3.0), tilt=0.3):
    """(4, 4): turned about a random axis by up to ``tilt`` rad, with the middle of SHAPE near 0."""
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_rotvec(rng.uniform(-tilt, tilt, 3)).as_matrix() @ np.diag(spacing)
    matrix[:3, 3] = rng.uniform(-1, 1, 3) - matrix[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return matrix


def coarse():
    matrix = np.diag([3.5, 3.5, 5.0, 1.0])
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(GRID) - 1) / 2)
    return matrix


def noise(seed=0):
    return np.random.default_rng(seed).normal(5, 1, SHAPE).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_without_gaps_it_is_nibabels_linear_interpolation(seed):
    values, matrix = noise(seed), affine(seed)
    ours = resample.map_to_grid(values, matrix, GRID, coarse())
    theirs = resample_from_to(nibabel.Nifti1Image(values, matrix), (GRID, coarse()), order=1, cval=np.nan)
    inside = np.isfinite(theirs.get_fdata())
    assert inside.mean() > 0.5 and np.isfinite(ours)[inside].all()
    np.testing.assert_allclose(ours[inside], theirs.get_fdata()[inside], atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_mask_is_nibabels_nearest_neighbour(seed):
    mask, matrix = noise(seed) > 5.2, affine(seed)
    ours = resample.mask_to_grid(mask, matrix, GRID, coarse())
    image = nibabel.Nifti1Image(mask.astype(np.uint8), matrix)
    theirs = resample_from_to(image, (GRID, coarse()), order=0, mode="grid-constant").get_fdata()
    assert ours.dtype == bool and ours.any()
    np.testing.assert_array_equal(ours, theirs > 0)


def test_labels_keep_their_values_and_type():
    labels = np.random.default_rng(1).integers(0, 5, SHAPE).astype(np.int16)
    moved = resample.mask_to_grid(labels, affine(), GRID, coarse())
    assert moved.dtype == np.int16 and set(np.unique(moved)) <= set(range(5))


def test_the_same_grid_changes_nothing():
    values, matrix = noise(), affine()
    np.testing.assert_allclose(resample.map_to_grid(values, matrix, SHAPE, matrix), values, atol=1e-5)
    np.testing.assert_array_equal(resample.mask_to_grid(values > 5, matrix, SHAPE, matrix), values > 5)


def test_whole_voxels_shift_as_an_array_does():
    values, matrix = noise(), np.diag([2.0, 2.0, 3.0, 1.0])
    to = matrix.copy()
    to[:3, 3] = (4, -2, 0)  # two voxels on along x, one back along y
    moved = resample.map_to_grid(values, matrix, SHAPE, to)
    np.testing.assert_allclose(moved[:-2, 1:], values[2:, :-1], atol=1e-5)
    assert np.isnan(moved[-2:]).all() and np.isnan(moved[:, 0]).all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), fill=st.sampled_from([np.nan, -30.0, np.inf]))
def test_values_stay_within_what_was_known(seed, fill):
    """A mean of known neighbours cannot leave their range: one drop of −30 would."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(2, 12, SHAPE).astype(np.float32)
    values[rng.random(SHAPE) < 0.4] = fill
    moved = resample.map_to_grid(resample.without_fills(values, "tmax"), affine(seed), GRID, coarse())
    known = moved[np.isfinite(moved)]
    assert len(known) and known.min() >= 2 - 1e-4 and known.max() <= 12 + 1e-4


def test_a_voxel_needs_half_of_its_neighbours_weight():
    values = np.full((4, 1, 1), 7.0)
    values[2:] = np.nan
    line, to = np.eye(4), np.eye(4)
    for offset, known in ((1.4, True), (1.5, True), (1.6, False), (-0.4, True), (-0.6, False)):
        to[0, 3] = offset
        (moved,) = resample.map_to_grid(values, line, (1, 1, 1), to).ravel()
        assert np.isfinite(moved) == known, offset
        if known:
            assert moved == pytest.approx(7)


def test_a_single_slice_reaches_half_its_thickness():
    values, thick, to = np.full((4, 4, 1), 3.0), np.diag([1.0, 1.0, 8.0, 1.0]), np.eye(4)
    to[2, 3] = -6
    moved = resample.map_to_grid(values, thick, (4, 4, 13), to)  # z from −6 to 6 mm
    np.testing.assert_array_equal(np.isfinite(moved[0, 0]), np.abs(np.arange(-6, 7)) <= 4)


# --- fills --------------------------------------------------------------------------------------------------


def test_fills_of_tmax_go_however_few():
    values = np.full(SHAPE, 4.0)
    values[0, 0, 0], values[1, 0, 0] = -30, -0.5
    cleaned = resample.without_fills(values, "tmax")
    assert cleaned.dtype == np.float32 and np.isnan(cleaned[0, 0, 0]) and np.isnan(cleaned).sum() == 1
    assert cleaned[1, 0, 0] == -0.5 and values[0, 0, 0] == -30


@pytest.mark.parametrize(("name", "fill"), [("cbf", -1.0), ("mtt", -1024.0), ("tmax", -1.0)])
def test_a_shared_negative_lowest_value_is_a_fill(name, fill):
    values = np.abs(noise())
    values[:3] = fill
    cleaned = resample.without_fills(values, name)
    np.testing.assert_array_equal(np.isnan(cleaned), values == fill)


def test_negative_values_of_single_voxels_and_zeros_are_no_fills():
    values = noise() - 5
    values[:3] = 0
    assert np.isfinite(resample.without_fills(values, "tmax")).all()


def test_hounsfield_units_have_no_fills():
    values = np.full(SHAPE, -1000.0)
    assert (resample.without_fills(values, "ncct") == -1000).all()


# --- distances ----------------------------------------------------------------------------------------------


def test_the_distance_of_two_grids_is_that_of_their_farthest_corner():
    matrix, other = np.diag([0.5, 0.5, 5.0, 1.0]), np.diag([0.501, 0.5, 5.0, 1.0])
    assert resample.distance(matrix, matrix, (512, 512, 16)) == 0
    assert resample.distance(matrix, other, (512, 512, 16)) == pytest.approx(0.511)
    other[2, 3] = -4
    assert resample.distance(matrix, other, (512, 512, 16)) == 4


def test_the_share_outside_counts_voxels():
    mask = np.zeros((10, 4, 4), bool)
    mask[2:6, 1, 1] = True
    to = np.eye(4)
    assert resample.share_outside(mask, np.eye(4), (10, 4, 4), to) == 0
    to[0, 3] = 4  # the grid begins at x = 3.5 mm: voxels 2 and 3 lie before it
    assert resample.share_outside(mask, np.eye(4), (10, 4, 4), to) == 0.5
    assert resample.share_outside(np.zeros((3, 3, 3)), np.eye(4), (3, 3, 3), np.eye(4)) == 0
