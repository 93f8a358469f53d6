"""One interval from many times: gamma variates sampled as scanners do, and what must not happen to them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perfkit import timing


def gamma_variate(t, arrival=9.0, a=3.0, b=1.5, peak=200.0):
    """HU; highest, at ``peak``, a·b seconds after its arrival."""
    s = np.clip(np.asarray(t, float) - arrival, 0, None)
    return peak * (s / (a * b)) ** a * np.exp(a - s / b)


def shuttle(n_slices=16, n_frames=18, period=2.81):
    """(Z, T), s: a table that goes to and fro once in two periods and stops nowhere."""
    along = (np.arange(n_slices) + 0.5) / n_slices
    frames = np.arange(n_frames)
    there = frames[None] + along[:, None]
    back = frames[None] + 1 - along[:, None]
    return period * np.where(frames % 2 == 0, there, back)


def sampled(times, shape=(2, 3), **gamma):
    """(X, Y, Z, T): each slice sees the same curve at its own times; every voxel has another height."""
    height = np.arange(1, 1 + np.prod(shape)).reshape(shape) / np.prod(shape)
    return height[:, :, None, None] * gamma_variate(times, **gamma)[None, None]


@pytest.mark.parametrize("dt", [0.5, 1.0, 2.81])
def test_uniform_times_leave_the_series_alone(dt):
    curves = sampled(np.tile(dt * np.arange(20), (4, 1)))
    for times in (3 + dt * np.arange(20), 3 + dt * np.tile(np.arange(20), (4, 1))):
        series, found, notes = timing.to_uniform(curves, times)
        assert series is curves and found == pytest.approx(dt, rel=1e-6) and notes == ()


def test_jitter_below_a_twentieth_counts_as_uniform_and_above_does_not():
    rng = np.random.default_rng(0)
    times = np.arange(40) + rng.uniform(-1, 1, 40)[None] * np.array([[0.04]])
    assert timing.uniform_interval(times) == pytest.approx(1, abs=0.002)
    times[0, 7] += 0.2
    assert timing.uniform_interval(times) is None


def test_slices_that_are_late_by_a_constant_are_not_uniform():
    times = np.arange(20.0)[None] + np.array([[0.0], [0.4]])
    assert timing.uniform_interval(times[:1]) == timing.uniform_interval(times[1:]) == 1
    assert timing.uniform_interval(times) is None


@pytest.mark.parametrize("cut", [np.floor, np.round])
@pytest.mark.parametrize("dt", [1.5, 1.4, 2.81])
@pytest.mark.parametrize("start", [0.0, 0.3, 0.95])
def test_whole_seconds_hide_an_interval_that_is_found_all_the_same(cut, dt, start):
    times = cut(start + dt * np.arange(40))
    assert timing.uniform_interval(times) is None
    assert timing.uniform_interval(times, resolution=1) == pytest.approx(dt, rel=0.01)


def test_a_gap_is_not_explained_by_a_coarse_clock():
    times = np.delete(1.5 * np.arange(40.0), 20)
    assert timing.uniform_interval(np.floor(times), resolution=1) is None


def test_a_shuttle_becomes_one_interval_and_keeps_its_bolus():
    times = shuttle()
    curves = sampled(times, a=3.0, b=3.0)
    series, dt, notes = timing.to_uniform(curves, times)
    assert dt == pytest.approx(2.81, rel=1e-4) and series.dtype == np.float32
    start, stop = times[:, 0].max(), times[:, -1].min()
    grid = start + dt * np.arange(series.shape[-1])
    assert grid[-1] <= stop + 1e-3 * dt < grid[-1] + dt
    truth = sampled(np.tile(grid, (16, 1)), a=3.0, b=3.0)
    error = series - truth
    # the outermost slices are seen in pairs 5.4 s apart: the worst error, near their peak
    assert np.sqrt((error**2).mean()) < 0.01 * 200 and np.abs(error).max() < 0.08 * 200
    # without the times of the slices, the frames taken at their face value are several times worse
    naive = curves[..., 1 : 1 + series.shape[-1]] - truth
    assert np.sqrt((naive**2).mean()) > 3 * np.sqrt((error**2).mean())
    assert any("18" in note and "spline" in note for note in notes) and "2.81 s" in notes[1]


def test_slices_agree_afterwards():
    times = shuttle()
    spread = {}
    for name, series in {
        "before": sampled(times, a=3.0, b=3.0),
        "after": timing.to_uniform(sampled(times, a=3.0, b=3.0), times)[0],
    }.items():
        spread[name] = np.ptp(series[-1, -1], axis=0).max()
    assert spread["after"] < 0.15 * spread["before"]


def test_resampling_is_linear_and_leaves_constants():
    rng = np.random.default_rng(1)
    times = shuttle(4)
    a, b = rng.normal(size=(2, 2, 2, 4, 18))
    both = timing.to_uniform(2 * a - b + 40, times)[0]
    alone = [timing.to_uniform(curves, times)[0] for curves in (a, b)]
    np.testing.assert_allclose(both, 2 * alone[0] - alone[1] + 40, atol=1e-4)


def test_frames_that_fall_on_the_grid_are_kept():
    times = np.concatenate([np.arange(30.0), 30 + 3 * np.arange(6.0)])  # two rates, as many protocols have
    curves = sampled(np.tile(times, (2, 1)))
    series, dt, notes = timing.to_uniform(curves, times)
    assert dt == 1 and series.shape[-1] == 46
    np.testing.assert_allclose(series[..., :30], curves[..., :30], atol=1e-3)
    np.testing.assert_allclose(series[..., 33:46:3], curves[..., 31:], atol=1e-3)
    assert "widest gap lies between frames 30 and 31 (from 0), 30 s on" in notes[0]


def test_an_interval_can_be_asked_for():
    curves = sampled(np.tile(np.arange(20.0), (2, 1)), b=3.0)
    series, dt, _ = timing.to_uniform(curves, np.arange(20.0), dt=0.5)
    assert dt == 0.5 and series.shape[-1] == 39
    np.testing.assert_allclose(series[..., ::2], curves, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(12, 30))
def test_nothing_is_taken_from_outside_of_any_slice(seed, n_slices, n_frames):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.5, 3, (n_slices, n_frames)), axis=1) + rng.uniform(0, 2, (n_slices, 1))
    series, dt, _ = timing.to_uniform(np.broadcast_to(times, (1, 1, *times.shape)), times)
    start, stop = times[:, 0].max(), times[:, -1].min()
    # a natural spline keeps a straight line: the values are the times they were taken for
    np.testing.assert_allclose(
        series, np.broadcast_to(start + dt * np.arange(series.shape[-1]), series.shape), atol=1e-3
    )
    assert series.min() >= times[:, 0].max() - 1e-3 and series.max() <= stop + 1e-3


@pytest.mark.parametrize(
    ("times", "dt", "words"),
    [
        (np.arange(9.0), None, r"times \(1, 9\) came for curves \(2, 3, 2, 10\)"),
        (np.zeros((3, 10)), None, r"slice 0 frame 1 comes at 0 s"),
        (np.tile(np.arange(10.0), (3, 1)), None, r"times \(3, 10\) came"),
        (np.r_[0:9.0, np.nan], None, "frame 9 comes at nan s"),
        ([[0.0]], None, "at least two frames"),
        (np.arange(10.0) ** 2, -1.0, "positive number of seconds"),
        (np.arange(10.0)[None] + [[0.0], [9.0]], None, r"share at least two frames of 1 s"),
    ],
)
def test_what_cannot_be_is_told(times, dt, words):
    with pytest.raises(ValueError, match=words):
        timing.to_uniform(np.ones((2, 3, 2, 10)), times, dt)
