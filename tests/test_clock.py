"""The bolus's clock: arrival against a dense search, matrices against interpolation, and the way home."""

import keras
import numpy as np
import pytest

from perfkit.clock import ARRIVAL_FRAME, N_FRAMES, clock_matrices, half_rise

T = np.arange(60.0)


def bolus(onset, t=T, rise=8.0):
    x = np.clip(t - onset, 0, None) / rise
    return (x * np.exp(1 - x)) ** 3


@pytest.mark.parametrize("onset", [2.0, 7.3, 15.8])
def test_the_arrival_is_where_half_the_peak_is_reached(onset):
    fine = np.arange(0, 60, 0.001)
    curve = bolus(onset, fine)
    expected = fine[np.argmax(curve >= curve.max() / 2)]
    assert half_rise(bolus(onset)) == pytest.approx(expected, abs=0.05)


def test_what_has_no_bolus_arrives_at_the_first_frame():
    assert half_rise(np.zeros(20)) == 0
    assert half_rise(-np.ones(20)) == 0
    assert half_rise(np.r_[5.0, 1.0, 0.0]) == 0


def test_the_matrices_interpolate_and_repeat_the_ends():
    curve = bolus(9.0)[:45]
    toward, home = clock_matrices(half_rise(curve), 45)
    assert toward.shape == (N_FRAMES, 45) and home.shape == (45, N_FRAMES)
    at = np.arange(N_FRAMES) - ARRIVAL_FRAME + half_rise(curve)
    np.testing.assert_allclose(toward @ curve, np.interp(at, np.arange(45), curve), atol=1e-6)
    back = np.interp(np.arange(45), at, toward @ curve)
    np.testing.assert_allclose(home @ (toward @ curve), back, atol=1e-6)
    np.testing.assert_allclose(home @ (toward @ curve), curve, atol=0.02)


def test_on_the_clock_the_injection_cannot_matter():
    views = []
    for onset in (4.0, 9.0, 17.0):
        curve = bolus(onset)
        toward, _ = clock_matrices(half_rise(curve), 60)
        views.append((toward @ curve)[:50])
    np.testing.assert_allclose(views[1], views[0], atol=1e-4)
    np.testing.assert_allclose(views[2], views[0], atol=1e-4)


def test_tensors_and_batches_give_what_arrays_give():
    curves = np.stack([bolus(5.2), bolus(11.7)]).astype("float32")
    tensors = keras.ops.convert_to_tensor(curves)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(half_rise(tensors)), half_rise(curves), atol=1e-4)
    found = clock_matrices(half_rise(tensors), 60)
    for tensor, array in zip(found, clock_matrices(half_rise(curves), 60), strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(tensor), array, atol=1e-3)
