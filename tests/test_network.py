"""The network and the model of Fig. 1: against NumPy pipelines, by hand, and by what must not matter."""

import keras
import numpy as np
import pytest

from perfkit.corerule import core_probability
from perfkit.deconvolution import impulse_response, lag_window
from perfkit.maps import perfusion_maps, relative_cbf
from perfkit.network import (
    CoreProbability,
    Deconvolution,
    RelativeCBF,
    aif_network,
    clock_view,
    deconvolution_model,
    network_view,
    soft_dice_loss,
)
from perfkit.readout import soft_peak_time

RNG = np.random.default_rng(0)


def bolus(n, onset=6.0, peak=100.0):
    s = np.clip(np.arange(n) - onset, 0, None) / 2.0
    return peak * (s / 3) ** 3 * np.exp(3 - s)


def series(shape=(16, 18, 2), n=40):
    gains = RNG.uniform(0.02, 0.12, shape)
    return (gains[..., None] * bolus(n, 9.0) + RNG.normal(0, 0.3, (*shape, n))).astype(np.float32)


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def test_soft_dice_of_five_pixels_by_hand():
    core = np.array([[1, 1, 0, 0, 0]])
    p = np.array([[0.5, 1.0, 0.5, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(numpy_of(soft_dice_loss(core, p)), [1 - 2 * 1.5 / (2 + 2)], rtol=1e-6)


def test_soft_dice_of_masks_is_one_minus_dice():
    a, b = RNG.random((3, 50)) < 0.4, RNG.random((3, 50)) < 0.4
    expected = [1 - 2 * np.sum(x & y) / (x.sum() + y.sum()) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(numpy_of(soft_dice_loss(a, b.astype("float32"))), expected, rtol=1e-6)


def test_soft_dice_of_nothing_and_nothing_is_no_loss():
    assert numpy_of(soft_dice_loss(np.zeros((1, 4)), np.zeros((1, 4), np.float32)))[0] == 0


def test_soft_dice_hides_no_nan():
    assert np.isnan(numpy_of(soft_dice_loss(np.ones((1, 4)), np.full((1, 4), np.nan, np.float32))))[0]


def test_soft_dice_refuses_masks_of_another_shape():
    with pytest.raises(ValueError, match="one shape"):
        soft_dice_loss(np.zeros((1, 4)), np.zeros((1, 5), np.float32))


def test_the_sigmoid_is_centred_at_the_threshold():
    p = numpy_of(CoreProbability(slope=0.05)(np.array([0.38, 0.33, 0.43], np.float32)))
    np.testing.assert_allclose(p, [0.5, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-4)


@pytest.mark.parametrize("matrix", ["circulant", "volterra"])
def test_layers_give_the_rcbf_of_the_maps(matrix):
    ctp, aif = series(), bolus(40)
    reference = RNG.random(ctp.shape[:3]) < 0.5
    cbf = perfusion_maps(ctp, aif, matrix=matrix).cbf
    flow = Deconvolution(matrix)(ctp[None], aif[None].astype("float32"))
    np.testing.assert_allclose(numpy_of(flow)[0], cbf, rtol=2e-4, atol=1e-3)
    rcbf = RelativeCBF()(flow, reference[None])
    np.testing.assert_allclose(numpy_of(rcbf)[0], relative_cbf(cbf, reference), rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("matrix", ["circulant", "volterra"])
def test_padding_to_the_clock_changes_no_flow(matrix):
    ctp, aif = series(), bolus(40).astype("float32")
    valid = (np.arange(64) < 40).astype("float32")
    expected = perfusion_maps(ctp, aif, matrix=matrix).cbf
    padded = np.pad(ctp, ((0, 0), (0, 0), (0, 0), (0, 24)))
    found = Deconvolution(matrix)(padded[None], np.pad(aif, (0, 24))[None], valid[None])
    np.testing.assert_allclose(numpy_of(found)[0], expected, rtol=2e-4, atol=1e-3)


@pytest.mark.parametrize(
    "shape, n", [((16, 18, 2), 40), ((33, 21, 5), 64), ((16, 16, 1), 10), ((20, 16, 3), 80)]
)
def test_the_model_takes_any_number_of_slices_and_frames(shape, n):
    model = deconvolution_model(seed=3)
    p = numpy_of(model(series(shape, n)[None]))
    assert p.shape == (1, *shape)
    assert p.min() >= 0 and p.max() <= 1 and np.isfinite(p).all()
    assert model.aif(series(shape, n)[None]).shape == (1, n)


def test_the_model_takes_a_batch():
    model = deconvolution_model(seed=3)
    batch = np.stack([series(), series()])
    together = numpy_of(model(batch))
    for one, alone in zip(together, batch, strict=True):
        np.testing.assert_allclose(one, numpy_of(model(alone[None]))[0], atol=1e-4)


def test_nothing_outside_the_brain_is_core():
    brain = RNG.random((1, 16, 18, 2)) < 0.6
    p = numpy_of(deconvolution_model()({"series": series()[None], "brain": brain, "reference_tissue": brain}))
    assert not p[~brain].any() and p[brain].any()


def test_the_scale_of_contrast_does_not_matter():
    model, ctp = deconvolution_model(seed=1), series()[None]
    np.testing.assert_allclose(numpy_of(model(3 * ctp)), numpy_of(model(ctp)), atol=2e-3)


def test_gathered_voxels_give_the_same_probabilities():
    model, ctp = deconvolution_model(seed=2), series()
    whole = numpy_of(model(ctp[None]))[0]
    view, _, home = clock_view(ctp[None], model.n_frames)
    inputs = {"series": ctp.reshape(1, -1, 40), "view": view, "home": home}
    np.testing.assert_allclose(numpy_of(model(inputs))[0], whole.ravel(), atol=1e-5)


def test_the_view_averages_blocks_and_keeps_the_frames():
    ctp = series((100, 90, 2), 30)
    view = network_view(ctp[None], size=48)[0]
    assert view.shape == (34, 30, 2, 30)
    block = ctp[3:6, 6:9, 1].mean(axis=(0, 1))
    ratio = view[1, 2, 1] / block
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)


def test_the_network_has_the_layers_of_the_paper():
    kinds = [type(layer).__name__ for layer in aif_network().layers]
    order = ["Conv3D", "Conv3D", "MeanOverSlices", "Conv2D", "Conv2D", "Dense"]
    assert [kind for kind in kinds if kind in order] == order
    for i, kind in enumerate(kinds):
        if kind.startswith("Conv"):
            assert kinds[i + 1] == f"AveragePooling{kind[4:]}" and kinds[i + 2] == "Dropout"
    assert kinds[-1] == "Dense" and aif_network().layers[-1].activation.__name__ == "linear"


def test_seeds_decide_the_weights():
    one, same, other = (aif_network(seed=s).get_weights() for s in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])


def test_a_saved_model_comes_back(tmp_path):
    model, ctp = deconvolution_model(seed=4, matrix="volterra", slope=0.03, tmax_factor=True), series()[None]
    expected = numpy_of(model(ctp))
    model.save(tmp_path / "model.keras")
    back = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy_of(back(ctp)), expected, atol=1e-6)


@pytest.mark.parametrize("matrix", ["circulant", "volterra"])
def test_the_second_factor_of_the_core_is_that_of_the_rule(matrix):
    """Low flow times late: from the same k as the maps', by NumPy."""
    ctp = series()
    model = deconvolution_model(matrix=matrix, tmax_factor=True)
    found = model.outputs({"series": ctp[None]})
    aif = numpy_of(found["aif"])[0].astype(float)
    k = impulse_response(ctp.astype(float), aif, matrix=matrix)
    lags = lag_window(40, 1.0, matrix)
    tmax = soft_peak_time(k[..., lags % k.shape[-1]], lags, beta=80.0)
    np.testing.assert_allclose(numpy_of(found["tmax"])[0], tmax, atol=0.02)
    expected = core_probability(numpy_of(found["rcbf"])[0], numpy_of(found["tmax"])[0])
    np.testing.assert_allclose(numpy_of(found["core_probability"])[0], expected, atol=1e-6)
    assert "tmax" not in deconvolution_model(matrix=matrix).outputs({"series": ctp[None]})


def test_with_the_second_factor_the_time_of_the_aif_counts():
    """rCBF is blind to it with the circulant matrix: its gradient has nothing along a shift."""
    ctp, aif = series(), bolus(40).astype("float32")
    along = np.gradient(aif).astype("float32")

    def slope(tmax_factor):
        model = deconvolution_model(tmax_factor=tmax_factor)

        def mean(by):
            moved = aif - np.float32(by) * along
            k = model.deconvolution.irf(ctp[None], moved[None])
            tmax = model.soft_tmax(k, n_frames=40) if tmax_factor else None
            rcbf = model.relative_cbf(keras.ops.max(k, axis=-1), np.ones((1, *ctp.shape[:3]), np.float32))
            return float(keras.ops.mean(model.core_probability(rcbf * 0.5, tmax)))

        return (mean(1.0) - mean(-1.0)) / mean(0.0)

    assert abs(slope(False)) < 0.02 < 0.2 < abs(slope(True))


def test_half_precision_policies_leave_the_deconvolution_alone():
    assert Deconvolution().compute_dtype == "float32"


def test_too_few_filters_are_refused():
    with pytest.raises(ValueError, match="filters"):
        aif_network(filters=(8, 8))


def test_scans_of_any_slices_and_frames_go_through_one_compiled_model():
    """Keras relaxes the shapes of its graph at the second scan: to unknown Z, then unknown T and X."""
    rng = np.random.default_rng(0)
    model = deconvolution_model(seed=2)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), soft_dice_loss)
    for shape in ((24, 20, 2, 40), (24, 20, 5, 40), (24, 20, 3, 64), (32, 20, 3, 50)):
        series = rng.standard_normal((1, *shape)).astype("float32")
        direct = keras.ops.convert_to_numpy(model(series))
        np.testing.assert_allclose(model.predict_on_batch(series), direct, atol=2e-3)
        assert np.isfinite(model.train_on_batch(series, (series[..., 0] > 1).astype("float32")))


@pytest.mark.parametrize("shape", [(8, 8), (256, 10)])
def test_a_narrow_volume_leaves_the_poolings_something(shape):
    series = np.random.default_rng(0).standard_normal((1, *shape, 1, 12)).astype("float32")
    assert np.isfinite(keras.ops.convert_to_numpy(deconvolution_model()(series))).all()


@pytest.mark.parametrize(
    "options, words",
    [({"matrix": "toeplitz"}, "toeplitz"), ({"lambda_rel": 0}, "lambda_rel"), ({"slope": 0}, "slope")],
)
def test_a_model_that_cannot_work_is_refused_when_it_is_made(options, words):
    with pytest.raises(ValueError, match=words):
        deconvolution_model(**options)


def test_inputs_that_do_not_fit_are_refused_in_words():
    model, series = deconvolution_model(), np.ones((1, 16, 16, 2, 12), "float32")
    for inputs, words in (
        (series[0], r"series\[None\]"),
        ({"brain": series[..., 0]}, "needs a series"),
        ({"series": series, "brain": np.ones((1, 5, 5, 2))}, "brain must have the shape"),
    ):
        with pytest.raises(ValueError, match=words):
            model(inputs)
    with pytest.raises(ValueError, match="one shape"):
        soft_dice_loss(np.ones((2, 4)), np.ones((1, 4)))
    with pytest.raises(TypeError, match="The mask must be real numbers"):
        soft_dice_loss("core", np.ones((1, 4)))
