"""Augmentation: the laws of indicator dilution on curves convolved apart, the plane against SciPy."""

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from perfkit.augment import (
    Augmentation,
    add_noise,
    broaden_bolus,
    delay_tissue,
    move_in_plane,
    scale_contrast,
    shift_bolus,
    shift_matrix,
)
from perfkit.maps import perfusion_maps

FINE = 0.05  # s
N = 120  # frames: nothing of the bolus leaves the scan
FLOW, TRANSIT, DELAY = np.array([55.0, 25.0, 12.0]), np.array([3.5, 6.0, 9.0]), np.array([0.0, 1.0, 4.0])
OFF = Augmentation(rotation=0, translation=0, flip=False, shift=0, contrast=(1, 1), noise=0)


def bolus(times, onset=15.0, beta=1.3):
    s = np.clip(times - onset, 0, None) / beta
    return 200 * (s / 3) ** 3 * np.exp(3 - s)


@pytest.fixture(scope="module")
def curves():
    """(4, N): the AIF, then three tissues convolved on a fine grid."""
    fine = np.arange(0, N, FINE)
    rows = [bolus(np.arange(float(N)))]
    for flow, transit, delay in zip(FLOW, TRANSIT, DELAY, strict=True):
        tissue = np.convolve(bolus(fine - delay), np.exp(-fine / transit))[: len(fine)] * FINE
        rows.append(np.interp(np.arange(N), fine, flow / 6000 * tissue))
    return np.array(rows)


def maps_of(curves):
    return perfusion_maps(curves[1:], curves[0])


@pytest.mark.parametrize("seconds", [-7, -1, 4])
def test_moving_all_contrast_by_whole_frames_changes_no_map(curves, seconds):
    before, after = maps_of(curves), maps_of(shift_bolus(curves, seconds))
    for name in ("cbf", "cbv", "mtt", "tmax"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(after.ttp - before.ttp, seconds, atol=1e-6)


@pytest.mark.parametrize("seconds", [-2.5, 0.3, 1.7])
def test_moving_by_part_of_a_frame_changes_little(curves, seconds):
    """Interpolation broadens by up to 0.25 s², and a regularised flow feels the width of the bolus."""
    before, after = maps_of(curves), maps_of(shift_bolus(curves, seconds))
    np.testing.assert_allclose(after.cbf / after.cbf[0], before.cbf / before.cbf[0], rtol=0.02)
    np.testing.assert_allclose(after.cbv, before.cbv, rtol=1e-3)
    np.testing.assert_allclose(np.diff(after.tmax), np.diff(before.tmax), atol=0.05)


def test_a_shift_counts_in_seconds():
    curve = bolus(2.0 * np.arange(40))
    np.testing.assert_array_equal(shift_bolus(curve, 6, dt=2.0)[3:], curve[:-3])
    half = np.interp(np.arange(40) - 0.5, np.arange(40), curve)  # holds the ends, as ours
    np.testing.assert_allclose(shift_bolus(curve, 1, dt=2.0), half, rtol=1e-12)


@pytest.mark.parametrize("frames", [-3.25, -1, 0, 0.5, 4, 100])
def test_the_shift_matrix_interpolates_and_holds_the_ends(frames):
    curve = np.random.default_rng(0).normal(size=20)
    expected = np.interp(np.arange(20) - frames, np.arange(20), curve)
    np.testing.assert_allclose(shift_matrix(20, frames) @ curve, expected, atol=1e-12)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scaling_all_contrast_changes_no_map(curves, factor):
    before, after = maps_of(curves), maps_of(scale_contrast(curves, factor))
    for (name, a), (_, b) in zip(after.items(), before.items(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, err_msg=name)


def test_broadening_keeps_volume_and_widens(curves):
    broad = broaden_bolus(curves, 3.0)
    np.testing.assert_allclose(maps_of(broad).cbv, maps_of(curves).cbv, rtol=1e-3)
    np.testing.assert_allclose(broad[0].sum(), curves[0].sum(), rtol=1e-6)
    assert (broad[0] > broad[0].max() / 2).sum() > (curves[0] > curves[0].max() / 2).sum()
    kernel = np.exp(-np.arange(N) / 3.0)
    expected = np.convolve(curves[2], kernel / kernel.sum())[:N]
    np.testing.assert_allclose(broad[2], expected, rtol=1e-9, atol=1e-12)


def test_delaying_tissue_moves_tmax_and_leaves_arteries(curves):
    volume = curves.reshape(2, 2, N)
    tissue = np.array([[False, True], [True, True]])
    late = delay_tissue(volume, 3, tissue)
    np.testing.assert_array_equal(late[0, 0], volume[0, 0])
    before, after = maps_of(curves), maps_of(late.reshape(4, N))
    np.testing.assert_allclose(after.tmax - before.tmax, 3, atol=1e-3)
    np.testing.assert_allclose(after.cbf, before.cbf, rtol=1e-4)
    np.testing.assert_allclose(after.cbv, before.cbv, rtol=1e-4)
    assert not np.shares_memory(late, volume)


def test_noise_has_the_deviation_asked_for_and_its_own_seed():
    curves = np.full((60, 60, 40), 5, np.float32)
    noise = add_noise(curves, 2.5, seed=3) - curves
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.03 and noise.std() == pytest.approx(2.5, rel=0.01)
    assert abs(np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1]) < 0.02  # white in time
    np.testing.assert_array_equal(add_noise(curves, 2.5, seed=3) - curves, noise)
    assert not np.array_equal(add_noise(curves, 2.5, seed=4) - curves, noise)


@pytest.fixture
def volume():
    return np.random.default_rng(1).normal(size=(17, 17, 3, 4)).astype(np.float32)


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_quarter_turns_are_exact(volume, quarters):
    turned = move_in_plane(volume, degrees=90 * quarters)
    np.testing.assert_allclose(turned, np.rot90(volume, quarters), atol=1e-5)


def test_flips_and_whole_voxels_are_exact(volume):
    np.testing.assert_array_equal(move_in_plane(volume, flip=True), volume[::-1])
    moved = move_in_plane(volume, shift=(2, -3))
    np.testing.assert_array_equal(moved[2:, :-3], volume[:-2, 3:])
    assert not moved[:2].any() and not moved[:, -3:].any()
    np.testing.assert_array_equal(move_in_plane(volume), volume)


@pytest.mark.parametrize("degrees, shift, flip", [(13.0, (0.0, 0.0), False), (-37.5, (1.4, -2.2), True)])
@pytest.mark.parametrize("shape", [(17, 17), (12, 19)])
def test_any_move_agrees_with_scipy(degrees, shift, flip, shape):
    image = np.random.default_rng(2).normal(size=shape)
    a = np.deg2rad(degrees)
    back = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])  # output voxel -> input voxel
    centre = (np.array(shape) - 1) / 2
    expected = affine_transform(
        image[::-1] if flip else image, back, centre - back @ (centre + shift), order=1, mode="grid-constant"
    )
    found = move_in_plane(image[..., None], degrees, shift, flip)[..., 0]
    np.testing.assert_allclose(found, expected, atol=1e-9)


def view_of(curves):
    """A head of 12×12×2 blocks with air around it, the mean curve peaking at 1, as a network's view."""
    view = np.zeros((16, 16, 2, N), np.float32)
    view[2:-2, 2:-2] = np.random.default_rng(0).uniform(0.8, 1.2, (12, 12, 2, 1)) * curves[1]
    return view / view.mean(axis=(0, 1, 2)).max()


def test_nothing_switched_on_changes_nothing(curves):
    view = view_of(curves)
    changed, undo = OFF(view, np.random.default_rng(0))
    np.testing.assert_array_equal(changed, view)
    np.testing.assert_array_equal(undo, np.eye(N))


def test_the_same_generator_gives_the_same_draw(curves):
    view = view_of(curves)
    first, second, other = (Augmentation()(view, np.random.default_rng(i)) for i in (5, 5, 6))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])
    assert first[0].dtype == first[1].dtype == np.float32 and first[0].shape == view.shape


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_undo_takes_the_aif_of_the_new_view_back(curves, seed):
    """An ideal network reads a voxel of the view as its AIF: undone, it is that of the view before."""
    view = view_of(curves)
    only_shift = Augmentation(rotation=0, translation=0, flip=False, shift=4, contrast=(1, 1), noise=0)
    changed, undo = only_shift(view, np.random.default_rng(seed))
    aif, moved = view[8, 8, 0], changed[8, 8, 0]
    peak = aif.max()

    assert np.abs(undo @ moved - aif).max() < 0.04 * peak  # interpolated twice
    assert np.abs(moved - aif).max() > 0.25 * peak  # it had moved


@pytest.mark.parametrize(
    "onset, n_frames, dt", [(2.0, 40, 1.0), (28.0, 45, 1.0), (20.0, 45, 1.0), (4.0, 24, 2.0)]
)
def test_the_bolus_stays_in_the_scan(onset, n_frames, dt):
    """Onset is not lost at the front, and 8 s stay after the peak (or none is moved later)."""
    curve = bolus(dt * np.arange(64), onset=onset, beta=2.5)
    curve[n_frames:] = curve[n_frames - 1]  # frames after the scan repeat
    view = np.tile(curve.astype(np.float32), (4, 4, 1, 1))
    far = Augmentation(rotation=0, translation=0, flip=False, shift=100, contrast=(1, 1), noise=0)
    peak, rise = curve[:n_frames].argmax(), np.argmax(curve > 0.1 * curve.max())
    moves = []
    for seed in range(120):
        changed, _ = far(view, np.random.default_rng(seed), dt=dt, n_frames=n_frames)
        moves.append(changed[0, 0, 0, :n_frames].argmax() - peak)
        assert changed.max() > 0.9 * curve.max()  # but for interpolation
    room = max(0, n_frames - 1 - peak - 8 / dt)
    assert -rise - 1 <= min(moves) < -rise / 3  # the room there is is used
    assert 0.9 * room - 1 <= max(moves) <= room + 1


def test_contrast_is_log_uniform_and_noise_follows_it(curves):
    view = view_of(curves)
    factors = []
    only_contrast = Augmentation(rotation=0, translation=0, flip=False, shift=0, noise=0)
    for seed in range(200):
        factors.append(only_contrast(view, np.random.default_rng(seed))[0].max() / view.max())
    logs = np.log2(factors)
    assert -1 <= logs.min() < -0.9 and 0.9 < logs.max() <= 1 and abs(logs.mean()) < 0.12
    noisy = Augmentation(rotation=0, translation=0, flip=False, shift=0, contrast=(2, 2), noise=0.05)
    noise = noisy(view, np.random.default_rng(0))[0] - 2 * view
    inside = view.any(axis=-1)
    assert noise[inside].std() == pytest.approx(0.1, rel=0.02)
    assert not noise[~inside].any()  # air stays air


def test_half_of_the_draws_are_mirrored(curves):
    view = view_of(curves)
    only_flip = Augmentation(rotation=0, translation=0, shift=0, contrast=(1, 1), noise=0)
    draws = [only_flip(view, np.random.default_rng(seed))[0] for seed in range(40)]
    mirrored = sum(np.array_equal(draw, view[::-1]) for draw in draws)
    assert mirrored + sum(np.array_equal(draw, view) for draw in draws) == 40
    assert 10 < mirrored < 30
