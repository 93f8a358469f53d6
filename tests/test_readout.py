"""Tmax from k against the interpolant summed term by term, its gradients against central differences."""

import numpy as np
import pytest
from scipy import optimize

from perfkit import readout
from perfkit.deconvolution import impulse_response, lag_window

FINE = 0.05  # s
LAGS = lag_window(60, 1.0)


def aif_and_tissue(widths=(6.0, 9.0, 12.0), mtts=(4.0, 8.0, 12.0), delays=(0.0, 2.3, 6.7), noise=0.0):
    """For each FWHM of the AIF in s: the AIF (60,), and its exponential tissue (9, 60)."""
    rng, t, found = np.random.default_rng(0), np.arange(0, 60, FINE), []
    for width in widths:
        s = np.clip(t - 8, 0, None) / (0.726 * width)  # (s e^(1−s))³ is above ½ for 1.377 of it
        aif = 250 * (s * np.exp(1 - s)) ** 3
        rows = []
        for mtt in mtts:
            for delay in delays:
                residue = np.where(t >= delay, np.exp(-(t - delay) / mtt), 0)
                rows.append(0.008 * FINE * np.convolve(aif, residue)[: len(t)][:: round(1 / FINE)])
        rows = np.array(rows)
        found.append((aif[:: round(1 / FINE)], rows + noise * rng.normal(size=rows.shape)))
    return found


def interpolant(k):
    """The band-limited function through k (L,), as the plain sum of its waves."""
    n = len(k)
    spectrum = [sum(k * np.exp(-2j * np.pi * m * np.arange(n) / n)) for m in range(n // 2 + 1)]

    def at(t):
        waves = [2 * (spectrum[m] * np.exp(2j * np.pi * m * t / n)).real for m in range(1, n // 2)]
        return (spectrum[0].real + sum(waves) + spectrum[-1].real * np.cos(np.pi * t)) / n

    return at


def true_peak(k):
    """The largest value of the interpolant between the lags searched, by a dense grid and Brent's method."""
    at, grid = interpolant(k), np.arange(LAGS[0], LAGS[-1], 0.05)
    i = int(np.argmax(at(grid)))
    return optimize.minimize_scalar(lambda t: -at(t), bracket=grid[[i - 1, i, i + 1]], tol=1e-10).x


@pytest.fixture(scope="module", params=[0.0, 0.7], ids=["without noise", "with noise"])
def responses(request):
    """k (27, 128) and where it truly is largest, s."""
    pairs = aif_and_tissue(noise=request.param)
    k = np.concatenate([impulse_response(c, a, matrix="circulant") for a, c in pairs])
    return k, np.array([true_peak(row) for row in k])


def test_the_exact_peak_is_that_of_the_interpolant(responses):
    k, truth = responses
    np.testing.assert_allclose(readout.peak_time_exact(k, LAGS), truth, atol=1e-6)


def test_the_parabola_is_near_it():
    """Nearer, the wider the AIF: 6, 9, 12 s."""
    for (aif, curves), error in zip(aif_and_tissue(), (0.09, 0.05, 0.03), strict=True):
        k = impulse_response(curves, aif, matrix="circulant")
        found = readout.peak_time_parabola(k[:, LAGS], LAGS)
        worst = np.abs(found - readout.peak_time_exact(k, LAGS)).max()
        assert error / 4 < worst < error


@pytest.mark.parametrize("place", [-7.31, -0.5, 0.0, 12.25, 33.5])
@pytest.mark.parametrize("dt", [0.5, 2.0])
def test_one_wave_peaks_where_it_was_put(place, dt):
    length = 128
    k = np.cos(2 * np.pi * 3 * (np.arange(length) - place) / length) + np.cos(
        2 * np.pi * (np.arange(length) - place) / length
    )
    assert readout.peak_time_exact(k, LAGS, dt) == pytest.approx(place * dt, abs=1e-9)


def test_the_roughest_k_keeps_to_its_largest_sample():
    k = np.random.default_rng(1).normal(size=(200, 128))
    found = readout.peak_time_exact(k, LAGS)
    largest = LAGS[0] + k[:, LAGS].argmax(axis=1)
    assert np.abs(found - largest).max() < 1
    inner = (largest > LAGS[0]) & (largest < LAGS[-1])
    for row, t, start in zip(k[inner][:40], found[inner], largest[inner], strict=False):
        at = interpolant(row)
        assert at(t) >= at(start) and at(t) >= max(at(t - 1e-3), at(t + 1e-3))


@pytest.mark.parametrize("at", [LAGS[0], LAGS[-1]])
def test_at_the_end_of_the_search_the_peak_is_the_sample(at):
    k = np.exp(-0.5 * ((np.arange(128) - at - 0.3 + 64) % 128 - 64) ** 2 / 9)
    lags = LAGS if at < 0 else LAGS[:-1]
    k[at + 1 if at > 0 else at - 1] = 0.99  # rises on, outside
    first = readout.peak_time_exact(np.roll(k, -1 if at > 0 else 0), lags)
    assert first == lags[-1] if at > 0 else lags[0]


def test_where_there_is_no_tissue_tmax_is_a_lag_and_no_nan():
    nothing = np.zeros((2, 128))
    for found in (
        readout.peak_time_exact(nothing, LAGS),
        readout.peak_time_parabola(nothing[:, LAGS], LAGS),
        readout.soft_peak_time(nothing[:, LAGS], LAGS),
        readout.soft_peak_time(nothing[:, LAGS] - 1e3, LAGS),
    ):
        assert np.isfinite(found).all()


def test_the_soft_peak_is_late_and_the_less_so_the_sharper():
    """Mean bias over AIF widths of 6 to 12 s; 0.83, 0.25, 0.10, 0.05, 0.03 s were published in §1.8."""
    k = np.concatenate([impulse_response(c, a, matrix="circulant") for a, c in aif_and_tissue()])
    exact = readout.peak_time_exact(k, LAGS)
    bias = {
        beta: np.mean(readout.soft_peak_time(k[:, LAGS], LAGS, beta=beta) - exact)
        for beta in (5, 10, 20, 40, 80)
    }
    published = {5: 0.83, 10: 0.25, 20: 0.10, 40: 0.05, 80: 0.03}
    for beta, value in published.items():
        assert bias[beta] == pytest.approx(value, abs=max(0.02, 0.15 * value)), beta


def test_a_sharp_soft_peak_is_the_largest_sample_within_its_window():
    rng = np.random.default_rng(2)
    k = rng.normal(size=(50, len(LAGS)))
    near = (LAGS >= -5) & (LAGS <= 25)
    found = readout.soft_peak_time(k, LAGS, beta=1e5)
    np.testing.assert_allclose(found, LAGS[near][k[:, near].argmax(axis=1)], atol=1e-6)
    found = readout.soft_peak_time(k, 2 * LAGS, 0.5, beta=1e5)  # the same lags in seconds
    np.testing.assert_allclose(found, LAGS[near][k[:, near].argmax(axis=1)], atol=1e-6)


def test_the_soft_peak_of_two_equal_peaks_is_between_them():
    k = np.zeros(len(LAGS))
    k[[10 + 3, 10 + 9]] = 1.0
    assert readout.soft_peak_time(k, LAGS, beta=60) == pytest.approx(6)
    assert readout.soft_peak_time(7 * k, LAGS, beta=60) == pytest.approx(6)


def test_sharpness_is_annealed_in_equal_ratios():
    assert [readout.soft_peak_beta(p) for p in (0, 0.5, 1)] == pytest.approx([20, 40, 80])
    with pytest.raises(ValueError, match="0 to 1: 3 came"):
        readout.soft_peak_beta(3)


def test_what_cannot_be_read_is_refused_in_words():
    with pytest.raises(ValueError, match="all lags of the circulant matrix: 60 came, of which 70"):
        readout.peak_time_exact(np.ones((3, 60)), LAGS)
    with pytest.raises(ValueError, match="sharpness of the weights"):
        readout.soft_peak_time(np.ones(len(LAGS)), LAGS, beta=0)


READERS = {
    "parabola": lambda k: readout.peak_time_parabola(k[..., : len(LAGS)], LAGS),
    "exact": lambda k: readout.peak_time_exact(k, LAGS),
    "soft": lambda k: readout.soft_peak_time(k[..., : len(LAGS)], LAGS, beta=20.0),
}


@pytest.mark.parametrize("name", READERS)
def test_tensors_give_what_arrays_give(name):
    keras = pytest.importorskip("keras")
    k = np.concatenate([impulse_response(c, a, matrix="circulant") for a, c in aif_and_tissue(noise=0.3)])
    k = np.roll(k, 10, axis=1) if name != "exact" else k
    for dtype, error in (("float64", 1e-9), ("float32", 2e-4)):
        found = READERS[name](keras.ops.convert_to_tensor(k.astype(dtype)))
        assert keras.backend.standardize_dtype(found.dtype) == dtype
        np.testing.assert_allclose(keras.ops.convert_to_numpy(found), READERS[name](k), atol=error)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("of", ["aif", "curves"])
def test_gradients_are_those_of_central_differences(name, of):
    """Through the deconvolution, λ = λ_rel σ_max included, in doubles."""
    tf = pytest.importorskip("tensorflow")
    (_, _), (aif, curves), (_, _) = aif_and_tissue(noise=0.2)
    values = {"aif": aif, "curves": curves}
    rng = np.random.default_rng(3)
    weights, directions = rng.normal(size=len(curves)), rng.normal(size=(3, *values[of].shape))

    def total(moved):
        xp = np if isinstance(moved["aif"], np.ndarray) else tf
        k = impulse_response(moved["curves"], moved["aif"], matrix="circulant")
        if name != "exact":
            k = np.roll(k, 10, axis=1) if xp is np else tf.roll(k, 10, axis=1)
        found = READERS[name](k)
        return np.sum(found * weights) if xp is np else tf.reduce_sum(found * weights)

    tensors = {key: tf.constant(value) for key, value in values.items()}
    with tf.GradientTape() as tape:
        tape.watch(tensors[of])
        loss = total(tensors)
    gradient = tf.convert_to_tensor(tape.gradient(loss, tensors[of])).numpy()
    for step in directions:
        h = 1e-4
        sides = [total({**values, of: values[of] + sign * h * step}) for sign in (1, -1)]
        assert np.sum(gradient * step) == pytest.approx((sides[0] - sides[1]) / (2 * h), rel=1e-5)


def test_the_gradient_is_that_of_the_implicit_function():
    """∂t*/∂k_n = −D'(t* − n) / k''(t*), with Dirichlet's kernel D summed term by term."""
    tf = pytest.importorskip("tensorflow")
    (aif, curves), *_ = aif_and_tissue()
    k = impulse_response(curves[4], aif, matrix="circulant")
    tensor = tf.constant(k)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        found = readout.peak_time_exact(tensor, LAGS)
    omega = 2 * np.pi * np.arange(1, 64) / 128
    x = float(found) - np.arange(128)
    slope = -(2 * omega * np.sin(np.outer(x, omega))).sum(1) - np.pi * np.sin(np.pi * x)
    bend = -(2 * omega**2 * np.cos(np.outer(x, omega))).sum(1) - np.pi**2 * np.cos(np.pi * x)
    expected = -slope / (k @ bend)
    np.testing.assert_allclose(tf.convert_to_tensor(tape.gradient(found, tensor)), expected, rtol=1e-6)


def test_it_runs_inside_a_traced_graph():
    tf = pytest.importorskip("tensorflow")
    (aif, curves), *_ = aif_and_tissue()
    k = impulse_response(curves, aif, matrix="circulant")

    @tf.function
    def read(k, beta):
        return readout.peak_time_exact(k, LAGS), readout.soft_peak_time(k[:, :60], LAGS[10:], beta=beta)

    exact, soft = read(tf.constant(k), tf.constant(40.0, tf.float64))
    np.testing.assert_allclose(exact, readout.peak_time_exact(k, LAGS), atol=1e-9)
    np.testing.assert_allclose(exact, readout.peak_time_exact(k.reshape(3, 3, -1), LAGS).ravel(), atol=1e-9)
    np.testing.assert_allclose(soft, readout.soft_peak_time(k[:, :60], LAGS[10:], beta=40.0), atol=1e-9)
