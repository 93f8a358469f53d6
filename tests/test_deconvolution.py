"""Deconvolution: loops, closed forms and other routines as oracles; laws; the door."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad

from perfkit.deconvolution import (
    FLOW_UNITS,
    MATRICES,
    SOLVERS,
    SYSTEMS,
    circulant_matrix,
    convolve,
    deconvolution_operator,
    flow,
    impulse_response,
    lag_window,
    oscillation,
    truncated_matrix,
    volterra_matrix,
)

TIMES = np.arange(45.0)


def bolus(onset=8.0, beta=1.5, peak=200.0, times=TIMES):
    s = np.clip(times - onset, 0, None) / beta
    return peak * (s / 3) ** 3 * np.exp(3 - s)


def signed(seed=0, n=45):
    return np.random.default_rng(seed).standard_normal(n)


AIFS = {"bolus": bolus(), "early": bolus(onset=-1.0), "signed": signed(), "noisy": bolus() + 4 * signed(1)}


def volterra_loop(a, dt):
    """Eq. 4 with its lags, entry by entry."""
    n = len(a)
    matrix = np.zeros((n, n))
    for i in range(1, n):
        matrix[i, 0] = dt * (2 * a[i] + a[i - 1]) / 6
        matrix[i, i] = dt * (2 * a[0] + a[1]) / 6
        for j in range(1, i):
            matrix[i, j] = dt * (a[i - j - 1] + 4 * a[i - j] + a[i - j + 1]) / 6
    return matrix


@pytest.mark.parametrize("name", AIFS)
def test_volterra_matrix_equals_eq4_written_as_a_loop(name):
    np.testing.assert_allclose(volterra_matrix(AIFS[name], 0.7), volterra_loop(AIFS[name], 0.7), atol=1e-13)


@settings(max_examples=15, deadline=None)
@given(
    a=arrays(float, 9, elements=st.floats(0, 100)).filter(lambda a: a.max() > 1),
    k=arrays(float, 9, elements=st.floats(-1, 1)),
)
def test_volterra_is_exact_for_piecewise_linear_curves(a, k):
    dt, grid = 1.3, np.arange(9) * 1.3

    def integrand(tau, t):
        return np.interp(tau, grid, a) * np.interp(t - tau, grid, k)

    for i in range(1, 9):
        knots = [quad(integrand, grid[j], grid[j + 1], args=(grid[i],))[0] for j in range(i)]
        np.testing.assert_allclose((volterra_matrix(a, dt) @ k)[i], sum(knots), atol=1e-9)


def test_convolve_is_the_matrix_product():
    k = np.exp(-TIMES / 4)
    np.testing.assert_allclose(
        convolve(np.stack([k, 2 * k]), bolus(), 1.0)[1], 2 * volterra_loop(bolus(), 1.0) @ k
    )


def test_circulant_columns_are_shifts_of_the_volterra_weights():
    a, n = AIFS["early"], 45
    matrix = circulant_matrix(a, 2.0)
    assert matrix.shape[0] >= 2 * n - 1
    extended = np.concatenate([[0.0], a, np.zeros(len(matrix) - n), [a[0]]])
    v = 2.0 * (extended[:-2] + 4 * extended[1:-1] + extended[2:]) / 6
    for j in range(len(matrix)):
        np.testing.assert_allclose(matrix[:, j], np.roll(v, j), atol=1e-12)


def test_circulant_does_not_wrap():
    """A response at the last lag must not come back at the first frames."""
    matrix = circulant_matrix(np.ones(20), 1.0)
    k = np.zeros(len(matrix))
    k[19] = 1.0
    assert np.abs((matrix @ k)[:18]).max() == 0


def test_truncated_matrix_is_the_integral_over_straight_pieces_inside_the_scan():
    """Each entry is the overlap of the AIF, straight between frames, with the tent of one lag."""
    a, dt, n = AIFS["early"][:14], 1.5, 14
    matrix = truncated_matrix(a, dt)
    assert matrix.shape == (n, n + 7)  # 10 s are six frames and a part of one
    fine = np.linspace(-40, 60, 100_001)
    inside = np.interp(fine, dt * np.arange(-1, n + 1), np.pad(a, 1), left=0, right=0)
    for row, column, lag in ((0, 0, 0), (9, 4, 4), (3, 19, -2), (5, 14, -7), (3, 4, 4), (2, 8, 8)):
        tent = np.clip(1 - np.abs(dt * (row - lag) - fine) / dt, 0, None)
        expected = np.sum(inside * tent) * (fine[1] - fine[0])
        assert matrix[row, column] == pytest.approx(expected, abs=1e-4 * a.max())


@pytest.mark.parametrize("n_zeros", [0, 1, 5])
def test_leading_zeros_of_the_aif_are_lost_singular_values(n_zeros):
    a = np.concatenate([np.zeros(n_zeros), np.linspace(5, 1, 20)])
    s = np.linalg.svd(volterra_matrix(a), compute_uv=False)
    assert np.count_nonzero(s < 1e-12 * s[0]) == max(1, n_zeros)


def tikhonov_by_least_squares(a, c, lambda_rel):
    """argmin |Ak − c|² + λ²|k|², as one stacked least-squares problem."""
    strength = lambda_rel * np.linalg.norm(a, 2)
    stacked = np.vstack([a, strength * np.eye(a.shape[1])])
    return np.linalg.lstsq(stacked, np.concatenate([c, np.zeros(a.shape[1])]), rcond=None)[0]


BUILD = {"volterra": volterra_matrix, "circulant": circulant_matrix, "truncated": truncated_matrix}


@pytest.mark.parametrize("matrix", SYSTEMS)
@pytest.mark.parametrize("name", AIFS)
def test_tikhonov_minimises_its_penalised_residual(matrix, name):
    c, a = signed(3), AIFS[name]
    system = BUILD[matrix](a)
    padded = np.concatenate([c, np.zeros(len(system) - len(c))])
    expected = tikhonov_by_least_squares(system, padded, 0.2)
    np.testing.assert_allclose(impulse_response(c, a, matrix=matrix, lambda_rel=0.2), expected, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dt", [1.0, 2.0])
@pytest.mark.parametrize("name", AIFS)
def test_smoothness_priors_minimise_the_residual_and_a_derivative_of_k(order, dt, name):
    """argmin |Ck − c|² + λ²|Dk|² with D the differences per second around the circle, by least squares."""
    c, a, strength = signed(3), AIFS[name], 0.4
    system = circulant_matrix(a, dt)
    n = len(system)
    difference = np.linalg.matrix_power((np.eye(n) - np.roll(np.eye(n), 1, axis=0)) / dt, order)
    stacked = np.vstack([system, strength * np.linalg.norm(system, 2) * difference])
    expected = np.linalg.lstsq(stacked, np.pad(c, (0, 2 * n - len(c))), rcond=None)[0]
    k = impulse_response(c, a, dt, matrix="circulant", regularization=f"d{order}", lambda_rel=strength)
    np.testing.assert_allclose(k, expected, atol=1e-9 * np.abs(expected).max())


LENGTHS = {"volterra": 45, "circulant": 128, "truncated": 45 + 7}  # dt 1.5 s: 10 s are seven frames


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-10), ("float32", 1e-5)])
@pytest.mark.parametrize("name", AIFS)
@pytest.mark.parametrize("matrix, regularization", SOLVERS)
def test_all_solvers_agree(matrix, regularization, name, dtype, tolerance):
    curves = np.random.default_rng(5).standard_normal((3, 4, 45)).astype(dtype)
    solutions = [
        impulse_response(
            curves, AIFS[name], 1.5, matrix=matrix, regularization=regularization, lambda_rel=0.13, solver=s
        )
        for s in (*SOLVERS[matrix, regularization], "auto")
    ]
    for solution in solutions:
        assert solution.dtype == dtype
        assert solution.shape == (3, 4, LENGTHS[matrix])
        np.testing.assert_allclose(solution, solutions[0], atol=tolerance * np.abs(solutions[0]).max())


def test_tsvd_keeps_what_a_truncated_pseudo_inverse_keeps():
    c, a = signed(4), bolus()
    system = circulant_matrix(a)
    expected = np.linalg.pinv(system, rcond=0.15) @ np.concatenate([c, np.zeros(83)])
    k = impulse_response(c, a, matrix="circulant", regularization="tsvd", lambda_rel=0.15)
    np.testing.assert_allclose(k, expected, atol=1e-10)


def test_osvd_takes_the_least_truncation_that_is_calm():
    rng = np.random.default_rng(7)
    truth = np.exp(-TIMES / 5)
    curves = convolve(truth, bolus()) / 50 + rng.normal(0, [[0.05], [0.5], [2.0]], (3, 45))
    k = impulse_response(curves, bolus(), matrix="circulant", regularization="osvd")
    for voxel in range(3):
        for p in np.arange(0.05, 1, 0.05):
            one = impulse_response(
                curves[voxel], bolus(), matrix="circulant", regularization="tsvd", lambda_rel=p
            )
            wiggle = sum(abs(one[j] - 2 * one[j - 1] + one[j - 2]) for j in range(2, 128)) / (128 * one.max())
            if wiggle <= 0.095:
                break
        np.testing.assert_allclose(k[voxel], one, atol=1e-12)


def test_oscillation_of_a_zigzag_by_hand():
    assert oscillation(np.array([0.0, 1.0, 0.0, 1.0])) == pytest.approx((2 + 2) / 4)
    assert oscillation(np.zeros(5)) == 0


@pytest.mark.parametrize("shift", [-4, 4])
def test_circulant_flow_is_blind_to_a_delayed_aif_and_volterra_is_not(shift):
    tissue = convolve(np.exp(-TIMES / 4) / 100, bolus(onset=14))
    moved = bolus(onset=14 + shift)
    flows = {}
    for matrix in SYSTEMS:
        window = lag_window(45, 1.0, matrix)
        here, there = (
            flow(impulse_response(tissue, a, matrix=matrix)[window]) for a in (bolus(onset=14), moved)
        )
        flows[matrix] = there / here
    assert flows["circulant"] == pytest.approx(1, abs=0.01)
    assert flows["truncated"] == pytest.approx(1, abs=0.01)
    assert abs(flows["volterra"] - 1) > 0.2


def test_the_truncated_matrix_keeps_the_area_of_k_that_the_scan_has_seen():
    """Slow tissue, cut at 45 s: the zeros after the scan that the circulant matrix assumes cost it area."""
    long = np.arange(90.0)
    k = np.exp(-long / 11) / 100
    tissue, aif = convolve(k, bolus(onset=20, times=long))[:45], bolus(onset=20)
    seen = k[: 45 - np.argmax(aif)].sum()
    areas = {}
    for matrix in ("circulant", "truncated"):
        found = impulse_response(tissue, aif, matrix=matrix, lambda_rel=0.1)
        areas[matrix] = found[lag_window(45, 1.0, matrix)].sum() / seen
    assert areas["circulant"] < 0.92 < 0.96 < areas["truncated"] <= 1


@pytest.mark.parametrize("matrix", SYSTEMS)
def test_irf_scales_inversely_with_the_aif(matrix):
    c = signed(8)
    k, scaled = (impulse_response(c, gain * bolus(), matrix=matrix) for gain in (1, 3.7))
    np.testing.assert_allclose(scaled * 3.7, k, atol=1e-12)


@pytest.mark.parametrize("matrix", MATRICES)
def test_error_falls_with_the_square_of_the_frame_interval(matrix):
    """Second order: halve dt, quarter the difference to the fine-grid convolution."""

    def forward_error(dt):
        times = np.arange(0, 40, dt)
        fine = np.arange(0, 40, 0.005)
        k = np.exp(-times / 4)
        truth = np.convolve(bolus(times=fine), np.exp(-fine / 4))[: len(fine)] * 0.005
        if matrix == "volterra":
            c = volterra_matrix(bolus(times=times), dt) @ k
        else:
            # the first sample of k counts half: its tent reaches to the lag −1 as well
            system = circulant_matrix(bolus(times=times), dt)
            half = np.zeros(len(system))
            half[: len(times)] = [k[0] / 2, *k[1:]]
            c = (system @ half)[: len(times)]
        return np.abs(c - np.interp(times, fine, truth)).max()

    assert 3.2 < forward_error(1.0) / forward_error(0.5) < 4.8


def test_flow_has_the_units_of_the_field():
    """Grey matter, 53 ml/100 g/min at MTT 3.7 s, peaks at 7-8 HU under an artery of 180 HU, FWHM 13 s."""
    k = 53 / FLOW_UNITS * np.exp(-TIMES / 3.74)
    assert 7 < convolve(k, bolus(peak=180, beta=3.2)).max() < 8
    assert flow(k) == pytest.approx(53)


def test_lag_window_leaves_the_padding_out():
    assert lag_window(45, 1.0).tolist() == list(range(-10, 45))
    assert lag_window(45, 1.0, "volterra").tolist() == list(range(45))
    assert lag_window(8, 1.0)[0] == -7
    assert lag_window(45, 1.0, "truncated").tolist() == list(range(-10, 45))


@pytest.mark.parametrize("matrix", SYSTEMS)
def test_padding_a_scan_changes_no_lag_of_its_own(matrix):
    """Training pads all scans to one length: its k must be that of the scan."""
    c, aif = signed(9), AIFS["noisy"]
    valid = (np.arange(64) < 45).astype(float)
    padded = deconvolution_operator(np.pad(aif, (0, 19)), matrix=matrix, valid=valid) @ np.pad(c, (0, 19))
    lags = lag_window(45, 1.0, matrix)
    np.testing.assert_allclose(padded[lags], impulse_response(c, aif, matrix=matrix)[lags], atol=1e-10)


def test_operator_takes_a_batch_of_aifs():
    batch = np.stack([AIFS["bolus"], AIFS["noisy"]])
    for matrix in SYSTEMS:
        together = deconvolution_operator(batch, 1.0, matrix=matrix)
        for one, a in zip(together, batch, strict=True):
            np.testing.assert_allclose(one, deconvolution_operator(a, 1.0, matrix=matrix), atol=1e-12)


def test_lists_and_integers_are_welcome():
    k = impulse_response([[1, 2, 3, 4]], [0, 3, 1, 0], 1)
    assert k.shape == (1, 4) and k.dtype.kind == "f"


BAD_AIFS = [
    (np.zeros(45), "zero everywhere"),
    (np.full(45, np.nan), "NaN"),
    (-bolus(), "never above zero"),
    (bolus()[:44], "44"),
    (np.stack([bolus()] * 2), r"\(2, 45\)"),
]


@pytest.mark.parametrize("aif, words", BAD_AIFS)
def test_a_bad_aif_is_refused_in_words(aif, words):
    with pytest.raises(ValueError, match=words):
        impulse_response(np.ones((2, 45)), aif)


@pytest.mark.parametrize(
    "options, kind, words",
    [
        ({"lambda_rel": 0}, ValueError, "lambda_rel must be positive"),
        ({"lambda_rel": -0.3}, ValueError, "-0.3"),
        ({"lambda_rel": np.nan}, ValueError, "nan"),
        ({"lambda_rel": "strong"}, TypeError, "strong"),
        ({"lambda_rel": None}, TypeError, "None"),
        ({"dt": 0}, ValueError, "dt"),
        ({"matrix": "toeplitz"}, ValueError, "toeplitz"),
        ({"regularization": "ridge"}, ValueError, "ridge"),
        ({"solver": "qr"}, ValueError, "qr"),
        ({"solver": "fft"}, ValueError, "cholesky"),
        ({"regularization": "tsvd", "solver": "cholesky"}, ValueError, "svd"),
        ({"regularization": "d2"}, ValueError, "need the circulant matrix: 'volterra' came with 'd2'"),
        ({"matrix": "truncated", "regularization": "d1"}, ValueError, "'truncated' came with 'd1'"),
        ({"matrix": "truncated", "solver": "fft"}, ValueError, "cholesky"),
    ],
)
def test_bad_options_are_refused_in_words(options, kind, words):
    with pytest.raises(kind, match=words):
        impulse_response(np.ones((2, 45)), bolus(), **options)


@pytest.mark.parametrize("build", BUILD.values())
def test_half_precision_is_raised_to_what_a_matrix_needs(build):
    half = bolus().astype(np.float16)
    np.testing.assert_array_equal(build(half), build(half.astype(float)))


@pytest.mark.parametrize("curves", ["curve", ["1"] * 45, 1j * np.ones(45), np.ones(45, "M8[s]")])
def test_what_is_no_real_number_is_refused(curves):
    with pytest.raises(TypeError, match="Curves must be real numbers"):
        impulse_response(curves, bolus())
    with pytest.raises(TypeError, match="The AIF must be real numbers"):
        volterra_matrix(curves)
