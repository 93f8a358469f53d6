"""What our departures from the paper change, measured: the numbers beside the README's list."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from perfkit import paper
from perfkit.deconvolution import flow, impulse_response, lag_window, volterra_matrix

N, ONSET, STEP = 50, 10.0, 1e-5


def measure(say: Callable = print) -> dict:
    """Measure each departure on one simulated bolus, and print a line for each.

    Parameters
    ----------
    say : called with each line

    Returns
    -------
    dict from name to number
    """
    found = {
        "eq4_without_lags": _eq4_without_lags(),
        **{f"delay_{matrix}": _delay_span(matrix) for matrix in ("volterra", "circulant")},
        **{f"lambda_detached_{matrix}": _detached_lambda(matrix) for matrix in ("volterra", "circulant")},
        **_svd_gradient(),
    }
    lines = [
        f"Eq. 4 with the row where the lag belongs: curve off by {found['eq4_without_lags']:.0%} of its peak"
    ]
    for matrix in ("volterra", "circulant"):
        span, detached = found[f"delay_{matrix}"], found[f"lambda_detached_{matrix}"]
        lines.append(f"{matrix}: CBF moves by {span:.0%} of itself as the AIF moves from -4 to +4 s")
        lines.append(f"{matrix}: gradient off by {detached:.0%} where λ is detached")
    svd, fft = found["gradient_svd"], found["gradient_fft"]
    lines.append(f"circulant: gradient through the SVD off by {svd:.0%}, through the FFT by {fft:.0e}")
    for line in lines:
        say(line)
    return found


def _bolus(onset=ONSET, beta=2.0):
    s = np.clip(np.arange(N) - onset, 0, None) / beta
    return 150 * (s / 3) ** 3 * np.exp(3 - s)


def _tissue():
    """Three voxels: healthy, late and low, very late and low."""
    fine = np.arange(0, N, 0.02)
    curves = []
    for delay, mtt, weight in ((0, 4, 60), (2, 9, 25), (4, 14, 12)):
        s = np.clip(fine - ONSET - delay, 0, None) / 2.0
        aif = 150 * (s / 3) ** 3 * np.exp(3 - s)
        curve = np.convolve(aif, np.exp(-fine / mtt))[: len(fine)] * 0.02 * weight / 6000
        curves.append(np.interp(np.arange(N), fine, curve))
    return np.array(curves)


def _eq4_without_lags():
    """Our reading of the printed entries: a_{i-1} + 4 a_i + a_{i+1} in row i, whatever the column."""
    aif, k = _bolus(), np.exp(-np.arange(N) / 4)
    right = volterra_matrix(aif)
    rows = (np.append(0, aif[:-1]) + 4 * aif + np.append(aif[1:], 0)) / 6
    i, j = np.indices(right.shape)
    printed = np.where((j > 0) & (j < i), rows[:, None], right)
    return float(np.abs(printed @ k - right @ k).max() / (right @ k).max())


def _delay_span(matrix):
    window = lag_window(N, 1.0, matrix)
    cbf = [
        flow(impulse_response(_tissue()[0], _bolus(ONSET + shift), matrix=matrix)[window])
        for shift in (-4.0, 0.0, 4.0)
    ]
    return float(np.ptp(cbf) / cbf[1])


def _rcbf(aif, matrix, lambda_=None):
    """The readout whose gradient counts: rCBF of a sick voxel; ``lambda_`` in HU s holds λ fixed."""
    largest = np.linalg.norm(volterra_matrix(aif), 2) if matrix == "volterra" else _largest(aif)
    relative = paper.LAMBDA_REL if lambda_ is None else lambda_ / largest
    k = impulse_response(_tissue(), aif, matrix=matrix, lambda_rel=relative)
    cbf = flow(k[:, lag_window(N, 1.0, matrix)])
    return cbf[1] / cbf[0]


def _largest(aif):
    padded = np.concatenate([aif, np.zeros(128 - N)])
    v = (np.roll(padded, 1) + 4 * padded + np.roll(padded, -1)) / 6
    return np.abs(np.fft.fft(v)).max()


def _gradient(function, at):
    """Central differences in float64."""
    step = STEP * np.abs(at).max()
    return np.array(
        [(function(at + step * e) - function(at - step * e)) / (2 * step) for e in np.eye(len(at))]
    )


def _detached_lambda(matrix):
    aif = _bolus()
    largest = np.linalg.norm(volterra_matrix(aif), 2) if matrix == "volterra" else _largest(aif)
    attached = _gradient(lambda a: _rcbf(a, matrix), aif)
    detached = _gradient(lambda a: _rcbf(a, matrix, paper.LAMBDA_REL * largest), aif)
    return _relative(detached, attached)


def _svd_gradient():
    """Automatic differentiation through both solvers of the circulant matrix, against central differences."""
    from perfkit.network import keras

    if keras.backend.backend() != "tensorflow":
        return {"gradient_svd": np.nan, "gradient_fft": np.nan}
    import tensorflow as tf

    weights = np.random.default_rng(0).standard_normal((3, 128))
    found = {}
    for solver in ("svd", "fft"):
        aif = tf.constant(_bolus())
        with tf.GradientTape() as tape:
            tape.watch(aif)
            k = impulse_response(tf.constant(_tissue()), aif, matrix="circulant", solver=solver)
            value = tf.reduce_sum(k * weights)
        found[solver] = tape.gradient(value, aif).numpy()
    truth = _gradient(
        lambda a: np.sum(impulse_response(_tissue(), a, matrix="circulant") * weights), _bolus()
    )
    return {f"gradient_{solver}": _relative(gradient, truth) for solver, gradient in found.items()}


def _relative(found, truth):
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))
