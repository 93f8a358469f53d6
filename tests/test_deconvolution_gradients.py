"""Gradients in float32 against central differences in float64, on the running Keras backend."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

from perfkit.deconvolution import (
    SOLVERS,
    circulant_matrix,
    flow,
    impulse_response,
    lag_window,
    volterra_matrix,
)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
keras = pytest.importorskip("keras")
ops = keras.ops
BACKEND = keras.backend.backend()

N = 30
TIMES = np.arange(float(N))
RNG = np.random.default_rng(0)


def bolus(onset):
    s = np.clip(TIMES - onset, 0, None) / 2.0
    return 150 * (s / 3) ** 3 * np.exp(3 - s)


AIFS = {
    "pre-bolus zeros": bolus(9.0),
    "no zeros": bolus(-2.0) + 3,
    "signed": 20 * RNG.standard_normal(N),
    "two equal boluses": bolus(3.0) + np.roll(bolus(3.0), 12),
}
TISSUE = np.stack(
    [volterra_matrix(bolus(d)) @ np.exp(-TIMES / m) / 90 for d, m in ((9, 4), (11, 9), (13, 15))]
)
TISSUE += 0.02 * RNG.standard_normal(TISSUE.shape)
WEIGHTS = RNG.standard_normal((3, 64))
LENGTHS = {"volterra": N, "circulant": 64, "truncated": N + 10}
EXACT = [(m, s) for (m, r), names in SOLVERS.items() if r == "tikhonov" for s in names if s != "svd"]


def gradient(function, *arrays, dtype="float32"):
    """d function / d arrays by the running backend."""
    tensors = [ops.convert_to_tensor(np.asarray(a, dtype)) for a in arrays]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        found = [tf.convert_to_tensor(g) for g in tape.gradient(value, tensors)]
    elif BACKEND == "torch":
        tensors = [t.detach().requires_grad_(True) for t in tensors]
        function(*tensors).backward()
        found = [t.grad for t in tensors]
    else:
        import jax

        found = jax.grad(function, argnums=tuple(range(len(tensors))))(*tensors)
    return [ops.convert_to_numpy(g).astype(np.float64) for g in found]


def central_differences(function, arrays, index, step=1e-5):
    """The same in float64 NumPy: another array module and no automatic differentiation."""
    arrays = [np.array(a, np.float64) for a in arrays]
    result = np.zeros_like(arrays[index])
    scale = step * np.abs(arrays[index]).max()
    for at in np.ndindex(result.shape):
        values = []
        for sign in (1, -1):
            moved = [a.copy() for a in arrays]
            moved[index][at] += sign * scale
            values.append(float(function(*moved)))
        result[at] = (values[0] - values[1]) / (2 * scale)
    return result


def relative_error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


def linear_readout(matrix, solver, **options):
    """Weigh every lag of every k: the plainest scalar that sees all of the operator."""

    def function(curves, aif):
        k = impulse_response(curves, aif, 1.0, matrix=matrix, solver=solver, **options)
        weights = WEIGHTS[:, : LENGTHS[matrix]]
        if not isinstance(k, np.ndarray):
            weights = ops.cast(ops.convert_to_tensor(weights), k.dtype)
        return (k * weights).sum() if isinstance(k, np.ndarray) else ops.sum(k * weights)

    return function


def rcbf_readout(matrix, solver, **options):
    """The normalised flow of the first voxel: max over the lags and the normaliser attached."""
    window = lag_window(N, 1.0, matrix)

    def function(curves, aif):
        k = impulse_response(curves, aif, 1.0, matrix=matrix, solver=solver, **options)
        length = k.shape[-1]
        cbf = flow(k[..., window] if isinstance(k, np.ndarray) else ops.take(k, window % length, axis=-1))
        return cbf[1] / ((cbf[0] + cbf[2]) / 2)

    return function


@pytest.mark.parametrize("name", AIFS)
@pytest.mark.parametrize("matrix, solver", EXACT)
@pytest.mark.parametrize("readout", [linear_readout, rcbf_readout])
def test_gradient_equals_central_differences(readout, matrix, solver, name):
    function, arrays = readout(matrix, solver), (TISSUE, AIFS[name])
    found = gradient(function, *arrays)
    for index in (0, 1):
        expected = central_differences(function, arrays, index)
        assert relative_error(found[index], expected) <= 1e-5


@pytest.mark.parametrize("name", ["pre-bolus zeros", "no zeros", "two equal boluses"])
@pytest.mark.parametrize("regularization", ["d1", "d2"])
@pytest.mark.parametrize("readout", [linear_readout, rcbf_readout])
def test_gradient_through_a_smoothness_prior_equals_central_differences(readout, regularization, name):
    """In double precision: a derivative damps slow changes little, so the inverse is worse conditioned."""
    function = readout("circulant", "fft", regularization=regularization, lambda_rel=0.5)
    arrays = (TISSUE, AIFS[name])
    found = gradient(function, *arrays, dtype="float64")
    for index in (0, 1):
        assert relative_error(found[index], central_differences(function, arrays, index)) <= 1e-6


@pytest.mark.parametrize("matrix, solver", EXACT)
def test_rcbf_does_not_feel_the_scale_of_the_aif(matrix, solver):
    aif = AIFS["no zeros"]
    slope = gradient(rcbf_readout(matrix, solver), TISSUE, aif)[1]
    assert abs(slope @ aif) <= 1e-5 * np.linalg.norm(slope) * np.linalg.norm(aif)


def test_circulant_rcbf_hardly_feels_a_shift_of_the_aif():
    aif = bolus(9.0)
    velocity = np.gradient(aif)
    slopes = {m: gradient(rcbf_readout(m, "cholesky"), TISSUE, aif)[1] for m in ("circulant", "volterra")}
    along = {m: abs(s @ velocity) / np.linalg.norm(s) / np.linalg.norm(velocity) for m, s in slopes.items()}
    assert along["circulant"] < 0.05 < 0.2 < along["volterra"]


def test_the_svd_gradient_of_the_circulant_matrix_is_silently_wrong():
    """Finite, of the right size, and off by far more than rounding: why the SVD is not trained through."""
    aif, arrays = AIFS["pre-bolus zeros"], (TISSUE, AIFS["pre-bolus zeros"])
    naive = gradient(linear_readout("circulant", "svd"), *arrays)[1]
    ours = gradient(linear_readout("circulant", "fft"), *arrays)[1]
    expected = central_differences(linear_readout("circulant", "fft"), arrays, 1)
    assert relative_error(ours, expected) <= 1e-5
    assert not relative_error(naive, expected) <= 0.05
    assert aif[:9].max() == 0


@pytest.mark.parametrize("matrix, regularization", SOLVERS)
def test_tensors_and_arrays_give_the_same(matrix, regularization):
    options = {"matrix": matrix, "regularization": regularization, "lambda_rel": 0.15}
    aif = AIFS["no zeros"]
    expected = impulse_response(TISSUE, aif, 1.5, **options)
    found = impulse_response(
        ops.convert_to_tensor(TISSUE.astype("float32")),
        ops.convert_to_tensor(aif.astype("float32")),
        1.5,
        **options,
    )
    np.testing.assert_allclose(ops.convert_to_numpy(found), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("estimator", ["tikhonov", "calibrated"])
@pytest.mark.parametrize("matrix, regularization", [("truncated", "tikhonov"), ("circulant", "d2")])
def test_maps_take_every_matrix_and_prior_on_tensors_too(matrix, regularization, estimator):
    from perfkit.maps import perfusion_maps

    options = {"matrix": matrix, "regularization": regularization, "estimator": estimator}
    options["noise"] = 0.1 if estimator == "calibrated" else None
    arrays = TISSUE, AIFS["pre-bolus zeros"]
    expected = perfusion_maps(*arrays, 1.0, **options)
    found = perfusion_maps(*map(ops.convert_to_tensor, arrays), 1.0, **options)
    for name, values in expected.items():
        given = ops.convert_to_numpy(getattr(found, name))
        np.testing.assert_allclose(given, values, rtol=1e-3, atol=1e-4, err_msg=name)

    def total(curves, aif):
        return perfusion_maps(curves, aif, 1.0, **options).cbf.sum()

    def total_of_tensors(curves, aif):
        return ops.sum(perfusion_maps(curves, aif, 1.0, **options).cbf)

    (slope,) = gradient(total_of_tensors, *arrays, dtype="float64")[1:]
    assert relative_error(slope, central_differences(total, arrays, 1)) <= 1e-4


def test_variables_and_mixed_inputs_are_welcome():
    expected = impulse_response(TISSUE, AIFS["signed"])
    variable = keras.Variable(AIFS["signed"].astype("float32"))
    for curves, aif in (
        (TISSUE, variable),
        (ops.convert_to_tensor(TISSUE.astype("float32")), AIFS["signed"]),
    ):
        found = ops.convert_to_numpy(impulse_response(curves, aif))
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "aif, words", [(np.zeros(N), "zero everywhere"), (np.full(N, np.nan), "NaN"), (np.ones(N - 1), "29")]
)
def test_a_bad_tensor_is_refused_in_words(aif, words):
    with pytest.raises(ValueError, match=words):
        impulse_response(ops.convert_to_tensor(TISSUE), ops.convert_to_tensor(aif))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the default backend starts the others")
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_the_same_on_another_backend(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: this checks the same gradients on it where it is")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__]
    run = subprocess.run(
        command, env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-3000:]


@pytest.mark.parametrize("build", [volterra_matrix, circulant_matrix])
def test_a_tensor_of_integers_or_a_frame_interval_of_another_type_is_welcome(build):
    aif = np.arange(12)
    expected = build(aif, 2.0)
    double = ops.convert_to_tensor(aif.astype("float64"))
    half = ops.convert_to_tensor(aif.astype("float16"))
    for a, dt in ((ops.convert_to_tensor(aif), 2), (double, ops.convert_to_tensor(2.0)), (half, 2.0)):
        np.testing.assert_allclose(ops.convert_to_numpy(build(a, dt)), expected, rtol=1e-6)
    assert isinstance(build(aif, ops.convert_to_tensor(2)), np.ndarray)


def test_a_strength_of_another_type_is_welcome():
    tensors = [ops.convert_to_tensor(a.astype("float32")) for a in (TISSUE, AIFS["signed"])]
    strength = ops.convert_to_tensor(np.float64(0.2))
    found = ops.convert_to_numpy(impulse_response(*tensors, lambda_rel=strength))
    np.testing.assert_allclose(found, impulse_response(*tensors, lambda_rel=0.2), rtol=1e-5, atol=1e-7)


def test_what_is_no_number_beside_a_tensor_is_refused():
    with pytest.raises(TypeError, match="The AIF must be real numbers"):
        impulse_response(ops.convert_to_tensor(TISSUE), "bolus")
    with pytest.raises(TypeError, match="The AIF must be real numbers"):
        volterra_matrix(ops.convert_to_tensor(np.ones(N, "complex64")))


@pytest.mark.parametrize("matrix, regularization", SOLVERS)
def test_all_solvers_agree_on_tensors(matrix, regularization):
    for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-5)):
        curves, aif = (ops.convert_to_tensor(a.astype(dtype)) for a in (TISSUE, AIFS["pre-bolus zeros"]))
        expected = impulse_response(
            TISSUE, AIFS["pre-bolus zeros"], matrix=matrix, regularization=regularization
        )
        for solver in SOLVERS[matrix, regularization]:
            k = impulse_response(curves, aif, matrix=matrix, regularization=regularization, solver=solver)
            found = ops.convert_to_numpy(k)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
