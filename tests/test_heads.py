"""The pooling head against its own definition, and both heads in the model."""

import keras
import numpy as np
import pytest

from perfkit.clock import clock_matrices, half_rise
from perfkit.heads import VoxelPooling, aif_network
from perfkit.network import clock_view, deconvolution_model

RNG = np.random.default_rng(0)


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def bolus(n, onset=6.0, peak=100.0):
    s = np.clip(np.arange(n) - onset, 0, None) / 2.0
    return peak * (s / 3) ** 3 * np.exp(3 - s)


def series(shape=(16, 18, 2), n=40):
    gains = RNG.uniform(0.02, 0.12, shape)
    return (gains[..., None] * bolus(n, 9.0) + RNG.normal(0, 0.3, (*shape, n))).astype("float32")


@pytest.fixture(scope="module")
def model():
    return deconvolution_model(head="pool", matrix="volterra", seed=3)


def test_the_weights_are_a_small_network_of_each_curve_on_the_clock(model):
    ctp = series()
    voxels = ctp.reshape(-1, 40)
    mean = voxels.mean(axis=0)
    toward, _ = clock_matrices(half_rise(mean), 40)
    x = voxels @ toward.T / np.abs(mean).max()
    kernels, biases = (
        [numpy_of(w) for w in group] for group in (model.network.kernels, model.network.biases)
    )
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        x = np.maximum(x @ kernel + bias, 0)
    logits = (x @ kernels[-1] + biases[-1])[:, 0]
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    found = numpy_of(model.weights_of(ctp[None]))[0]
    np.testing.assert_allclose(found.ravel(), weights, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(numpy_of(model.aif(ctp[None]))[0], weights @ voxels, rtol=2e-3, atol=1e-3)


def test_nothing_outside_the_brain_is_weighed(model):
    brain = RNG.random((1, 16, 18, 2)) < 0.5
    weights = numpy_of(model.weights_of({"series": series()[None], "brain": brain}))
    assert not weights[~brain].any() and weights.sum() == pytest.approx(1, abs=1e-5)


def test_the_aif_stays_within_the_measured_curves(model):
    ctp = series()
    aif = numpy_of(model.aif(ctp[None]))[0]
    voxels = ctp.reshape(-1, 40)
    assert (aif >= voxels.min(axis=0) - 1e-4).all() and (aif <= voxels.max(axis=0) + 1e-4).all()


@pytest.mark.parametrize("head", ["cnn", "pool"])
def test_the_aif_comes_with_the_bolus_and_scales_as_the_head_says(head):
    proposes = deconvolution_model(head=head, seed=1)
    ctp = series((16, 16, 2), 44)
    late = np.concatenate([np.repeat(ctp[..., :1], 6, axis=-1), ctp], axis=-1)
    one, other = (numpy_of(proposes.aif(x[None]))[0] for x in (ctp, late))
    scale = np.abs(one).max()
    np.testing.assert_allclose(other[6:46] / scale, one[:40] / scale, atol=0.05)
    tripled = numpy_of(proposes.aif(3 * ctp[None]))[0]
    np.testing.assert_allclose(tripled / scale, one / scale * (3 if head == "pool" else 1), atol=1e-3)


def test_any_grid_and_any_length(model):
    for shape, n in (((5, 4, 1), 20), ((20, 12, 16), 80)):
        outputs = model.outputs(series(shape, n)[None])
        assert outputs["aif"].shape == (1, n) and outputs["core_probability"].shape == (1, *shape)
        assert np.isfinite(numpy_of(outputs["rcbf"])).all()


@pytest.mark.parametrize("head", ["cnn", "pool"])
def test_a_venous_output_is_an_option(head):
    outputs = deconvolution_model(head=head, vof=True).outputs(series()[None])
    assert outputs["vof"].shape == outputs["aif"].shape == (1, 40)
    assert not np.allclose(numpy_of(outputs["vof"]), numpy_of(outputs["aif"]))


def test_what_is_learned_has_a_gradient_and_starts_where_it_is_told():
    import tensorflow as tf

    names = ("threshold", "slope", "lambda_rel")
    learning = deconvolution_model(head="pool", matrix="volterra", learn=names, threshold=0.3, seed=2)
    plain = deconvolution_model(head="pool", matrix="volterra", threshold=0.3, seed=2)
    ctp = series()[None]
    np.testing.assert_allclose(numpy_of(learning(ctp)), numpy_of(plain(ctp)), atol=1e-5)
    assert len(learning.trainable_variables) == len(plain.trainable_variables) + 3
    assert float(learning.core_probability.threshold) == pytest.approx(0.3)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(learning(ctp) ** 2)
    logs = [v for v in learning.trainable_variables if v.path.endswith("log")]
    gradients = tape.gradient(total, [v.value for v in logs])
    for variable, gradient in zip(logs, gradients, strict=True):
        start = float(numpy_of(variable))
        sides = []
        for step in (0.01, -0.01):
            variable.assign(start + step)
            sides.append(float(tf.reduce_sum(learning(ctp) ** 2)))
        variable.assign(start)
        assert (sides[0] - sides[1]) / 0.02 == pytest.approx(float(gradient), rel=0.02)


def test_a_pooling_model_comes_back_from_disk(tmp_path):
    model = deconvolution_model(head="pool", matrix="volterra", learn=("threshold",), vof=True, seed=5)
    ctp = series()[None]
    expected = numpy_of(model(ctp))
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(
        numpy_of(keras.saving.load_model(tmp_path / "model.keras")(ctp)), expected, atol=1e-6
    )


def test_half_precision_convolutions_keep_a_single_precision_output():
    network = aif_network(dtype="mixed_float16")
    assert network.output.dtype == "float32" and network.layers[1].compute_dtype == "float16"
    assert VoxelPooling().compute_dtype == "float32"


@pytest.mark.parametrize(
    "options, words",
    [({"head": "rnn"}, "cnn, pool: 'rnn'"), ({"learn": "slope"}, "a list"), ({"learn": ("dt",)}, "dt")],
)
def test_heads_that_do_not_exist_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        deconvolution_model(**options)


def test_only_pooling_has_weights():
    with pytest.raises(ValueError, match="occlusion"):
        deconvolution_model(head="cnn").weights_of(series()[None])


def test_a_view_needs_its_way_home():
    with pytest.raises(ValueError, match="home"):
        deconvolution_model()({"series": series()[None], "view": np.zeros((1, 16, 18, 2, 64))})


def test_untrained_networks_draw_one_bolus_at_one_time_whatever_their_seed():
    """Else a loss that is blind to time leaves each fold at a time of its own, and their mean is no curve."""
    view = clock_view(series()[None])[0]
    drawn = [numpy_of(aif_network(vof=True, seed=seed)(view))[0] for seed in range(3)]
    for aif, vof in drawn:
        assert 18 <= np.argmax(aif) <= 24  # the brain's mean curve is half up at 20 s of the clock
        above = np.flatnonzero(aif > aif.max() / 2)
        assert 8 <= above[-1] - above[0] + 1 <= 15  # ISLES 2018: 8.8-19.5 s, 11.3 in the middle
        assert 3 <= np.argmax(vof) - np.argmax(aif) <= 12  # 6.5 ± 1.8 s
    for aif, _ in drawn[1:]:
        assert np.corrcoef(aif, drawn[0][0])[0, 1] > 0.95
