"""Each term of the loss against a plain loop or a closed form, and blind to what it says it is blind to."""

import keras
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from perfkit import losses
from perfkit.losses import OBJECTIVES, Objective

RNG = np.random.default_rng(0)
T = np.arange(60.0)


def numpy_of(tensor):
    return keras.ops.convert_to_numpy(tensor)


def tensor(values):
    return keras.ops.convert_to_tensor(np.asarray(values, "float32"))


def bolus(onset, fwhm, peak=200.0):
    """A gamma variate of shape 3 with its recirculation left out."""
    x = np.clip(T - onset, 0, None) / (fwhm / 1.34)
    return peak * (x * np.exp(1 - x)) ** 3


def tissue(aif, mtt=4.0, delay=0.0, flow=0.01):
    fine = np.arange(0, 60, 0.1)
    k = flow * np.exp(-np.clip(fine - delay, 0, None) / mtt) * (fine >= delay)
    return np.convolve(np.interp(fine, T, aif), k)[: len(fine)][::10] * 0.1


def test_ranking_is_one_minus_the_area_under_the_roc_curve():
    core = RNG.random((3, 4000)) < 0.1
    rcbf = RNG.normal(1.0, 0.4, core.shape) - 0.5 * core
    found = numpy_of(losses.ranking_loss(tensor(core), tensor(rcbf), tensor(np.ones_like(core))))
    expected = [1 - roc_auc_score(c, -r) for c, r in zip(core, rcbf, strict=True)]
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_ranking_looks_at_the_brain_alone():
    core = (RNG.random((1, 500)) < 0.2).astype("float32")
    rcbf, brain = RNG.normal(1, 0.3, (1, 500)), np.maximum(core, RNG.random((1, 500)) < 0.5)
    whole = losses.ranking_loss(tensor(core), tensor(rcbf), tensor(brain))
    changed = np.where(brain > 0, rcbf, 50.0)
    np.testing.assert_allclose(
        numpy_of(losses.ranking_loss(tensor(core), tensor(changed), tensor(brain))),
        numpy_of(whole),
        atol=1e-6,
    )


def test_ranking_hardly_feels_a_shift_of_the_whole_map_and_soft_dice_does():
    core = (RNG.random((1, 4000)) < 0.1).astype("float32")
    rcbf = RNG.normal(0.9, 0.3, core.shape) - 0.4 * core
    ones = tensor(np.ones_like(core))
    ranks, dices = [], []
    for shift in (0.0, 0.2):
        ranks.append(float(losses.ranking_loss(tensor(core), tensor(rcbf + shift), ones)[0]))
        p = 1 / (1 + np.exp((rcbf + shift - 0.38) / 0.05))
        dices.append(float(losses.soft_dice_loss(tensor(core), tensor(p))[0]))
    assert abs(ranks[1] - ranks[0]) < 0.002 and abs(dices[1] - dices[0]) > 0.1


def test_without_core_ranking_says_nothing_and_cross_entropy_does():
    nothing, p = np.zeros((1, 50)), np.full((1, 50), 0.2)
    assert numpy_of(losses.ranking_loss(tensor(nothing), tensor(p), tensor(np.ones((1, 50)))))[0] == 0
    found = numpy_of(losses.cross_entropy(tensor(nothing), tensor(p), tensor(np.ones((1, 50)))))
    np.testing.assert_allclose(found, -np.log(0.8), rtol=1e-5)


def test_volume_is_that_of_sums():
    core, p = np.array([[1, 1, 0, 0.0]]), np.array([[0.5, 0.5, 0.5, 0.0]])
    found = numpy_of(losses.volume_loss(tensor(core), tensor(p), tensor(np.ones((1, 4)))))
    np.testing.assert_allclose(found, [(0.5 / 3.5) ** 2], rtol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_an_artery_pays_nothing_for_timing_and_a_vein_does(shift):
    artery = bolus(8 + shift, 10)
    healthy = tissue(artery, mtt=4.0, delay=0.7)
    vein = tissue(artery, mtt=1.0, delay=8.0)
    early = bolus(3 + shift, 10)
    pays = {
        name: float(losses.tmax_loss(tensor(curve)[None], tensor(healthy)[None])[0])
        for name, curve in (("artery", artery), ("vein", vein), ("early", early))
    }
    assert pays["artery"] < 0.01 and pays["vein"] > 1 and pays["early"] > 1


def test_the_venous_area_asks_for_scale():
    aif = tensor(bolus(8, 10))[None]
    area = float(np.sum(bolus(8, 10)))
    for factor in (1.0, 2.0, 0.25):
        found = float(losses.venous_area_loss(aif, tensor([factor * area]))[0])
        assert found == pytest.approx(np.log(factor) ** 2, abs=1e-5)
    assert float(losses.venous_area_loss(-aif, tensor([area]))[0]) == pytest.approx(
        np.log(0.01) ** 2, rel=1e-5
    )


def test_a_bolus_fits_the_dictionary_and_other_curves_do_not():
    tail = 0.22 * bolus(8.3 + 15, 16.5, 1.0) + 0.06 * (T > 14)
    real = bolus(8.3, 10.3, 1.0) + tail
    values = {
        "real": real,
        "sine": np.sin(T / 4),
        "two": bolus(3, 6) + bolus(30, 6),
        "flat": np.ones(60),
    }
    loss = {name: float(losses.gamma_loss(tensor(c)[None])[0]) for name, c in values.items()}
    assert loss["real"] < 0.01 and min(loss[n] for n in ("sine", "two", "flat")) > 0.05
    scaled = float(losses.gamma_loss(tensor(7 * real)[None])[0])
    assert scaled == pytest.approx(loss["real"], abs=1e-5)


def test_a_pooled_aif_pays_for_fewer_than_six_voxels():
    for n in (1, 3, 6, 20):
        weights = np.zeros((1, 50))
        weights[0, :n] = 1 / n
        found = float(losses.spread_loss(tensor(weights))[0])
        assert found == pytest.approx(max(0, np.log(6 / n)) ** 2, abs=1e-5)
    rcbf = tensor(RNG.normal(0.8, 0.3, (1, 50)))
    outputs = {"core_probability": rcbf, "rcbf": rcbf, "aif": None}
    objective = Objective(dice=0, ranking=0, spread=1.0)
    assert not objective.terms({"brain": np.ones((1, 50))}, np.zeros((1, 50)), outputs)  # a CNN pools nothing
    outputs["weights"] = tensor(weights)[..., None]
    assert set(objective.terms({"brain": np.ones((1, 50))}, np.zeros((1, 50)), outputs)) == {"spread"}


def test_padding_does_not_count():
    valid = (T < 40).astype("float32")
    curve = bolus(8, 9) * valid
    changed = np.where(T < 40, curve, 99.0)
    for loss, extra in (
        (losses.gamma_loss, ()),
        (losses.venous_area_loss, (tensor([1000.0]),)),
        (losses.tmax_loss, (tensor(tissue(bolus(8, 9)))[None],)),
    ):
        one = float(loss(tensor(curve)[None], *extra, tensor(valid)[None])[0])
        other = float(loss(tensor(changed * valid)[None], *extra, tensor(valid)[None])[0])
        assert np.isfinite(one) and one == pytest.approx(other, abs=1e-6)


def test_an_objective_adds_its_terms():
    objective = Objective(dice=1.0, ranking=2.0, volume=0.5)
    core = tensor(RNG.random((1, 100)) < 0.3)
    rcbf = tensor(RNG.normal(0.8, 0.3, (1, 100)))
    outputs = {"core_probability": keras.ops.sigmoid((0.38 - rcbf) / 0.05), "rcbf": rcbf, "aif": None}
    inputs = {"brain": np.ones((1, 100))}
    terms = objective.terms(inputs, core, outputs)
    assert set(terms) == {"dice", "ranking", "volume"}
    total = sum(w * float(terms[n][0]) for n, w in (("dice", 1.0), ("ranking", 2.0), ("volume", 0.5)))
    assert float(objective.total(terms)[0]) == pytest.approx(total, rel=1e-6)
    assert OBJECTIVES["paper"] == Objective(ranking=0.0)


@pytest.mark.parametrize("name", ["ranking", "physical"])
@pytest.mark.parametrize("matrix", ["volterra", "circulant"])
def test_gradients_by_the_aif_agree_with_central_differences(name, matrix):
    """Through the whole chain, in double precision."""
    import tensorflow as tf

    from perfkit.deconvolution import deconvolution_operator, lag_window

    rng = np.random.default_rng(3)
    artery = bolus(8, 9)
    core = (np.arange(80) < 16).astype(float)
    flows = np.where(core > 0, 0.004, 0.012) * rng.lognormal(0, 0.3, 80)
    curves = np.stack(
        [tissue(artery, 8.0 if c else 4.0, 3.0 * c, f) for c, f in zip(core, flows, strict=True)]
    )
    curves += rng.normal(0, 0.3, curves.shape)
    reference = tf.constant((core == 0).astype(float))
    objective = OBJECTIVES[name]
    lags = lag_window(60, 1.0, matrix)

    def loss(aif):
        operator = deconvolution_operator(aif, 1.0, matrix=matrix)
        irf = tf.constant(curves) @ tf.transpose(tf.gather(operator, lags % operator.shape[-2]))
        cbf = tf.reduce_max(irf, axis=-1)
        rcbf = (cbf / (tf.reduce_sum(cbf * reference) / tf.reduce_sum(reference)))[None]
        outputs = {"rcbf": rcbf, "core_probability": tf.sigmoid((0.38 - rcbf) / 0.05), "aif": aif[None]}
        inputs = {"brain": np.ones((1, 80)), "reference_tissue": reference[None]}
        inputs |= {"series": tf.constant(curves[None]), "venous_area": tf.constant([2500.0], tf.float64)}
        return objective.total(objective.terms(inputs, core[None], outputs))[0]

    start = artery + rng.normal(0, 3, 60)
    aif = tf.Variable(start)
    with tf.GradientTape() as tape:
        value = loss(aif)
    gradient = tape.gradient(value, aif).numpy()
    for _ in range(4):
        direction = rng.normal(size=60)
        h = 1e-3
        numeric = (
            float(loss(tf.constant(start + h * direction))) - float(loss(tf.constant(start - h * direction)))
        ) / (2 * h)
        assert numeric == pytest.approx(gradient @ direction, rel=1e-4, abs=1e-7)
