"""Standard deviations of maps against those of simulated noise, on tissue made on a fine grid."""

import numpy as np
import pytest
from test_calibration import bolus, tissue

from perfkit import curves
from perfkit.deconvolution import FLOW_UNITS, impulse_response, lag_window
from perfkit.maps import perfusion_maps
from perfkit.uncertainty import irf_covariance, map_uncertainty

TISSUE = ((60, 4, 1), (25, 5, 1), (18, 9, 4))  # CBF, MTT, delay of grey, white and ischaemic tissue
PEAK = 300.0
NOISE = 0.7


def smoothed(values, sigma_s):
    n = len(values)
    series = np.reshape(values, (n, 1, 1, -1))
    return curves.smooth(series, (1, 1, 1), 1.0, sigma_mm=0, sigma_s=sigma_s)[:, 0, 0].astype(float)


def repeated(cbf, mtt, delay, *, noise=NOISE, peak=PEAK, sigma_s=0.0, n_baseline=0, n=1500, seed=0):
    """Curves (n, T) of one tissue that differ by noise only, made on the fine grid, and the AIF at 1 s."""
    fine = bolus(9.0, peak)
    clean = tissue(fine, [cbf / FLOW_UNITS], [mtt], [delay], "gamma-2")
    noisy = clean + noise * np.random.default_rng(seed).normal(size=(n, clean.shape[1]))
    if n_baseline:
        noisy = noisy - noisy[:, :n_baseline].mean(axis=1, keepdims=True)
    return (smoothed(noisy, sigma_s) if sigma_s else noisy), fine[:: len(fine) // clean.shape[1]]


@pytest.mark.parametrize("kind", TISSUE)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"matrix": "volterra"},
        {"matrix": "truncated"},
        {"regularization": "d2"},
        {"regularization": "tsvd", "lambda_rel": 0.15},
        {"estimator": "calibrated"},
        {"sigma_s": 1.0},
        {"n_baseline": 6},
        {"sigma_s": 1.0, "n_baseline": 6, "estimator": "calibrated"},
    ],
    ids=str,
)
def test_deviations_are_those_of_simulated_noise(kind, options):
    made = {name: value for name, value in options.items() if name in ("sigma_s", "n_baseline")}
    noisy, aif = repeated(*kind, **made)
    found = map_uncertainty(noisy, aif, noise=NOISE, **options)
    plain = {name: value for name, value in options.items() if name not in made}
    maps = perfusion_maps(noisy, aif, **plain, **({"noise": NOISE} if "estimator" in options else {}))
    assert np.median(found.snr) > 9
    for name in ("cbf", "cbv", "mtt", "tmax") + (("delay",) if "estimator" in options else ()):
        observed = getattr(maps, name).std()
        assert np.median(getattr(found, name)) == pytest.approx(observed, rel=0.1), name


def test_a_weak_bolus_that_still_shows():
    """Peak 150 HU: k'' is half noise there, and first order alone would give two thirds of Tmax's scatter."""
    noisy, aif = repeated(18, 9, 4, peak=150.0)
    found = map_uncertainty(noisy, aif, noise=NOISE)
    maps = perfusion_maps(noisy, aif)
    assert 8 < np.median(found.snr) < 10
    for name in ("cbf", "cbv", "mtt", "tmax"):
        assert np.median(getattr(found, name)) == pytest.approx(getattr(maps, name).std(), rel=0.12)


def test_where_first_order_breaks_the_signal_to_noise_says_so():
    """In a dying voxel the maximum picks noise up: CBF too high, its scatter less than that of one sample."""
    noisy, aif = repeated(3, 15, 6)
    clean, _ = repeated(3, 15, 6, noise=0.0, n=1)
    found, maps = map_uncertainty(noisy, aif, noise=NOISE), perfusion_maps(noisy, aif)
    assert np.median(found.snr) < 5
    assert maps.cbf.mean() > 1.1 * perfusion_maps(clean, aif).cbf[0]
    assert np.median(found.cbf) > 1.2 * maps.cbf.std()
    assert 0.7 * maps.tmax.std() < np.median(found.tmax) < 1.5 * maps.tmax.std()


@pytest.mark.parametrize("matrix", ["circulant", "volterra"])
def test_the_covariance_of_k_is_the_rows_of_the_operator(matrix):
    rng = np.random.default_rng(2)
    _, aif = repeated(*TISSUE[0], n=1)
    single = impulse_response(np.eye(60), aif, matrix=matrix)[
        :, lag_window(60, 1.0, matrix)
    ]  # column by column
    found = irf_covariance(aif, noise=0.5, matrix=matrix)
    np.testing.assert_allclose(np.diag(found), 0.25 * (single**2).sum(axis=0), rtol=1e-9)
    i, j = rng.integers(0, len(found), (2, 20))
    np.testing.assert_allclose(found[i, j], 0.25 * (single[:, i] * single[:, j]).sum(axis=0), rtol=1e-9)


def test_deviations_grow_with_noise_and_nothing_else_is_asked_of_units():
    noisy, aif = repeated(*TISSUE[1], n=20)
    one = map_uncertainty(noisy, aif, noise=0.1)
    two = map_uncertainty(noisy, aif, noise=0.2)
    np.testing.assert_allclose(two.cbf, 2 * one.cbf)
    np.testing.assert_allclose(two.cbv, 2 * one.cbv)
    contrast = map_uncertainty(3 * noisy, 3 * aif, noise=0.3)
    for name in ("cbf", "cbv", "mtt", "tmax", "snr"):
        np.testing.assert_allclose(getattr(contrast, name), getattr(one, name), rtol=1e-9)


@pytest.mark.parametrize("estimator", ["tikhonov", "calibrated"])
def test_the_maps_are_read_as_maps_reads_them(estimator):
    """Without noise there is no deviation, and a difference of the maps is the slope times the change."""
    noisy, aif = repeated(*TISSUE[2], n=40)
    change = 1e-3 * np.sin(np.arange(60.0))
    options = {"estimator": estimator, **({"noise": 1e-3} if estimator == "calibrated" else {})}
    before = perfusion_maps(noisy, aif, **options)
    after = perfusion_maps(noisy + change, aif, **options)
    found = map_uncertainty(noisy, aif, estimator=estimator, noise=1e-3)
    for name in ("cbf", "cbv", "tmax"):
        moved = np.abs(getattr(after, name) - getattr(before, name))
        # Cauchy-Schwarz: a change of norm n moves a map by no more than n sd per unit of noise
        limit = np.linalg.norm(change) / 1e-3 * getattr(found, name)
        assert (moved <= 1.05 * limit + 1e-9).all() and moved.max() > 0.02 * limit.max(), name


@pytest.mark.parametrize("sigma_s", [0.0, 1.0])
def test_noise_is_estimated_as_it_was_before_smoothing_in_time(sigma_s):
    noisy, aif = repeated(*TISSUE[0], sigma_s=sigma_s)
    assert map_uncertainty(noisy, aif, sigma_s=sigma_s).noise == pytest.approx(NOISE, rel=0.1)


def test_a_mask_a_shape_and_voxels_without_a_peak():
    noisy, aif = repeated(*TISSUE[0], n=24)
    noisy[5] = -noisy[5] - 5
    mask = (np.arange(24) % 4 > 0).reshape(4, 3, 2)
    for estimator in ("tikhonov", "calibrated"):
        whole = map_uncertainty(noisy, aif, noise=0.7, estimator=estimator)
        part = map_uncertainty(noisy.reshape(4, 3, 2, 60), aif, noise=0.7, estimator=estimator, mask=mask)
        np.testing.assert_array_equal(part.cbf[mask], whole.cbf[mask.ravel()])
        assert not part.tmax[~mask].any() and part.cbf.shape == mask.shape
        assert (part.delay is None) == (estimator == "tikhonov")
    flat = map_uncertainty(np.zeros((2, 60)), aif, noise=0.7, estimator="calibrated")
    assert np.isnan(flat.cbf).all() and (flat.snr == 0).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"estimator": "bayes"}, "tikhonov, calibrated: 'bayes' came"),
        ({"noise": -1.0}, "standard deviation in HU"),
        ({"sigma_s": -1.0}, "width of a Gaussian in s"),
        ({"n_baseline": 60}, "frames of the 60 before the bolus: 60 came"),
        ({"mask": np.ones(3, bool)}, r"shape of the voxels, \(2,\): \(3,\) came"),
        ({"regularization": "osvd"}, "osvd"),
    ],
)
def test_what_has_no_analytic_variance_is_refused_in_words(options, words):
    noisy, aif = repeated(*TISSUE[0], n=2)
    with pytest.raises(ValueError, match=words):
        map_uncertainty(noisy, aif, **options)
