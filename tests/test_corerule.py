"""Core and penumbra as probabilities: by hand, against the hard rule, and with their gradients."""

import numpy as np
import pytest

from perfkit.corerule import (
    core_probability,
    hypoperfusion_intensity_ratio,
    late_probability,
    penumbra_probability,
)
from perfkit.maps import core_mask, penumbra_mask

RNG = np.random.default_rng(0)
RCBF, TMAX = RNG.uniform(0, 1.2, 400), RNG.uniform(-2, 15, 400)


def test_core_by_hand():
    """σ(ln 3) = 3/4 and σ(−ln 3) = 1/4."""
    rcbf = np.array([0.38, 0.38 - 0.05 * np.log(3), 0.38 + 0.05 * np.log(3)])
    np.testing.assert_allclose(core_probability(rcbf), [1 / 2, 3 / 4, 1 / 4])
    tmax = 6 + np.log(3) * np.array([1, -1, 0])
    np.testing.assert_allclose(core_probability(rcbf, tmax), [3 / 8, 3 / 16, 1 / 8])
    np.testing.assert_allclose(penumbra_probability(rcbf, tmax), [3 / 8, 1 / 16, 3 / 8])
    half = core_probability(rcbf, tmax, tmax_threshold=6 + np.log(3) * 0.5, tmax_slope=0.5)
    assert half[0] == pytest.approx(0.5 * 3 / 4)


def test_with_narrow_slopes_it_is_the_hard_rule():
    everywhere = np.ones(400, bool)
    core = core_mask(RCBF, everywhere)
    np.testing.assert_allclose(core_probability(RCBF, slope=1e-6), core, atol=1e-6)
    narrow = {"slope": 1e-6, "tmax_slope": 1e-6}
    np.testing.assert_allclose(core_probability(RCBF, TMAX, **narrow), core & (TMAX > 6), atol=1e-6)
    penumbra = penumbra_mask(TMAX, core, everywhere)
    np.testing.assert_allclose(penumbra_probability(RCBF, TMAX, **narrow), penumbra, atol=1e-6)


def test_core_and_penumbra_share_what_is_late():
    both = core_probability(RCBF, TMAX) + penumbra_probability(RCBF, TMAX)
    np.testing.assert_allclose(both, late_probability(TMAX), rtol=1e-12)
    assert (core_probability(RCBF, TMAX) < core_probability(RCBF)).all()


def test_far_from_the_threshold_nothing_overflows():
    far = np.array([-1e4, 1e4])
    np.testing.assert_array_equal(core_probability(far, far), [0, 0])
    np.testing.assert_array_equal(core_probability(far), [1, 0])


def test_the_layer_of_the_network_is_the_first_factor():
    network = pytest.importorskip("perfkit.network")
    rcbf = RCBF.astype("float32")
    found = network.CoreProbability(0.3, 0.02)(rcbf)
    np.testing.assert_allclose(found, core_probability(rcbf, threshold=0.3, slope=0.02), atol=1e-6)


def test_gradients_are_those_of_central_differences():
    """By both maps, and by the thresholds and slopes, which may be trained."""
    tf = pytest.importorskip("tensorflow")
    values = {"rcbf": RCBF[:9], "tmax": TMAX[:9], "threshold": 0.38, "slope": 0.05, "tmax_threshold": 6.0}
    values = {name: np.asarray(value, float) for name, value in (values | {"tmax_slope": 1.0}).items()}
    weights = RNG.normal(size=(2, 9))

    def total(xp, rcbf, tmax, **options):
        core = core_probability(rcbf, tmax, **options)
        penumbra = penumbra_probability(rcbf, tmax, **options)
        return xp(core * weights[0] + penumbra * weights[1])

    tensors = {name: tf.constant(value) for name, value in values.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss = total(tf.reduce_sum, **tensors)
    for name, gradient in tape.gradient(loss, tensors).items():
        step = 1e-6 * RNG.normal(size=values[name].shape)
        sides = [total(np.sum, **{**values, name: values[name] + sign * step}) for sign in (1, -1)]
        assert np.sum(gradient.numpy() * step) == pytest.approx((sides[0] - sides[1]) / 2, rel=1e-6), name


def test_intensity_counts_voxels():
    tmax = np.array([[3.0, 6.0, 6.5, 10.0], [10.5, 30.0, 11.0, np.nan]])
    mask = np.array([[True, True, True, True], [True, True, False, True]])
    assert hypoperfusion_intensity_ratio(tmax, mask) == 2 / 4
    assert hypoperfusion_intensity_ratio(tmax, mask, severe=20) == 1 / 4
    assert np.isnan(hypoperfusion_intensity_ratio(tmax, mask & (tmax < 5)))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: core_probability(RCBF, TMAX[:1]), r"one grid: shapes \(400,\) and \(1,\) came"),
        (lambda: penumbra_probability(RCBF, TMAX[None]), "one grid"),
        (lambda: core_probability(RCBF, slope=0), "width of the sigmoid in rCBF"),
        (lambda: late_probability(TMAX, slope=-1), "width of the sigmoid in s of Tmax"),
        (lambda: hypoperfusion_intensity_ratio(TMAX, True), "shape of Tmax"),
        (lambda: hypoperfusion_intensity_ratio(TMAX, TMAX > 0, severe=4), "severe=4 s came"),
    ],
)
def test_what_makes_no_rule_is_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()
