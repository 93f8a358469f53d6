"""Maps: closed forms of indicator dilution, invariances, files read back, the door."""

import json

import nibabel as nib
import numpy as np
import pytest
from scipy import signal

from perfkit.mapfiles import save_maps
from perfkit.maps import core_mask, penumbra_mask, perfusion_maps, relative_cbf

FINE = 0.02
RATIO = 0.55 / 0.75 / 1.04  # κ/ρ, typed again


def bolus(times, onset=10.0, beta=1.2, peak=200.0):
    s = np.clip(times - onset, 0, None) / beta
    return peak * (s / 3) ** 3 * np.exp(3 - s)


def series(cbf, mtt, delay, dt=1.0, n=60):
    """Tissue of exponential residue, convolved on a 0.02 s grid by the plain sum."""
    fine = np.arange(0, n * dt, FINE)
    curves = []
    for f, m, d in zip(np.ravel(cbf), np.ravel(mtt), np.ravel(delay), strict=True):
        residue = np.exp(-fine / m)
        residue[0] = 0.5
        tissue = f / 6000 / RATIO * signal.fftconvolve(bolus(fine - d), residue)[: len(fine)] * FINE
        curves.append(np.interp(np.arange(n) * dt, fine, tissue))
    return np.array(curves), bolus(np.arange(n) * dt)


TRUE = {"cbf": [60.0, 20.0, 8.0], "mtt": [4.0, 8.0, 10.0], "delay": [0.0, 2.0, 5.0]}


@pytest.mark.parametrize("dt", [1.0, 2.0])
def test_cbv_is_flow_times_transit_time(dt):
    curves, aif = series(**TRUE, dt=dt, n=int(90 / dt))
    expected = np.array(TRUE["cbf"]) * TRUE["mtt"] / 60
    np.testing.assert_allclose(perfusion_maps(curves, aif, dt).cbv, expected, rtol=0.01)


def test_weakly_regularised_maps_approach_the_truth():
    curves, aif = series(**TRUE, dt=0.5, n=160)
    maps = perfusion_maps(curves, aif, 0.5, lambda_rel=1e-3)
    np.testing.assert_allclose(maps.cbf, TRUE["cbf"], rtol=0.2)
    np.testing.assert_allclose(maps.tmax, TRUE["delay"], atol=1.0)


@pytest.mark.parametrize("fwhm, ratios", [(6, [0.45, 0.56, 0.69, 0.80]), (12, [0.29, 0.40, 0.54, 0.70])])
def test_tikhonov_lowers_flow_as_theory_says(fwhm, ratios):
    """CBF over true CBF at MTT 3.7, 6, 11, 24 s: the kernel h = |v̂|²/(|v̂|²+λ²) met with exp(−t/MTT)."""
    mtt = np.array([3.7, 6, 11, 24])
    n = 300
    curves, _ = series(np.full(4, 50.0), mtt, np.zeros(4), n=n)
    fine = np.arange(0, 30, 0.001)
    beta = fwhm / np.ptp(fine[bolus(fine, onset=2, beta=1.0) > 100])
    fine = np.arange(0, n, FINE)
    aif = bolus(np.arange(float(n)), beta=beta)
    curves = np.array(
        [
            np.interp(
                np.arange(n),
                fine,
                signal.fftconvolve(bolus(fine, beta=beta), np.exp(-fine / m))[: len(fine)] * FINE,
            )
            for m in mtt
        ]
    )
    found = perfusion_maps(curves * 50 / 6000 / RATIO, aif).cbf / 50
    np.testing.assert_allclose(found, ratios, atol=0.03)


def test_tmax_follows_a_subframe_delay():
    delays = np.linspace(0, 3, 13)
    curves, aif = series(np.full(13, 50.0), np.full(13, 5.0), delays)
    tmax = perfusion_maps(curves, aif).tmax
    np.testing.assert_allclose(tmax - tmax[0], delays, atol=0.06)


@pytest.mark.parametrize("regularization", ["tikhonov", "osvd"])
def test_the_exact_peak_moves_tmax_by_the_error_of_the_parabola_only(regularization):
    curves, aif = series(**TRUE)
    options = {"regularization": regularization}
    parabola, exact = (
        perfusion_maps(curves, aif, **options, peak_time=name) for name in ("parabola", "exact")
    )
    gap = np.abs(exact.tmax - parabola.tmax)
    assert 0.001 < gap.max() < 0.15
    for name in ("cbf", "cbv", "mtt", "ttp"):
        np.testing.assert_allclose(getattr(exact, name), getattr(parabola, name), rtol=1e-9)
    assert exact.method["peak_time"] == "exact"


@pytest.mark.parametrize("peak_time, least, most", [("parabola", 1e-3, 2e-2), ("exact", 0, 1e-4)])
def test_the_exact_tmax_follows_a_subframe_delay_more_closely(peak_time, least, most):
    """An AIF wide enough to be band-limited at 1 s: what is left is the reading of the peak."""
    delays = np.linspace(0, 3, 13)
    fine = np.arange(0, 90, FINE)
    wide = {"onset": 12.0, "beta": 2.5}
    residue = np.exp(-fine / 5)
    rows = [
        signal.fftconvolve(bolus(fine - d, **wide), residue)[: len(fine)][:: round(1 / FINE)] for d in delays
    ]
    tmax = perfusion_maps(FINE * np.array(rows), bolus(np.arange(90.0), **wide), peak_time=peak_time).tmax
    worst = np.abs(tmax - tmax[0] - delays).max()
    assert least < worst < most


def test_tissue_that_leads_the_aif_has_a_negative_tmax():
    curves, aif = series([50.0], [4.0], [0.0])
    late = np.roll(aif, 6)
    assert perfusion_maps(curves, late).tmax[0] < -2


def test_ttp_is_counted_from_t0():
    aif = bolus(np.arange(60.0), onset=10, beta=1.2)  # peak at 10 + 3 · 1.2 s
    maps = perfusion_maps(aif[None], aif, t0=10.0)
    assert maps.ttp[0] == pytest.approx(3.6, abs=0.1)


def test_scaling_all_contrast_changes_no_map():
    curves, aif = series(**TRUE)
    maps, scaled = perfusion_maps(curves, aif), perfusion_maps(2.5 * curves, 2.5 * aif)
    for (_, a), (_, b) in zip(maps.items(), scaled.items(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_the_vof_undoes_partial_volume():
    curves, aif = series(**TRUE)
    vof = np.roll(aif, 5)
    full, rescued = perfusion_maps(curves, aif), perfusion_maps(curves, 0.3 * aif, vof=vof)
    np.testing.assert_allclose(rescued.cbf, full.cbf, rtol=1e-9)
    np.testing.assert_allclose(rescued.cbv, full.cbv, rtol=1e-9)


@pytest.mark.parametrize("matrix", ["volterra", "circulant"])
@pytest.mark.parametrize("regularization", ["tikhonov", "tsvd", "osvd"])
def test_blocks_and_masks_change_nothing(matrix, regularization, monkeypatch):
    rng = np.random.default_rng(0)
    curves, aif = series(**TRUE)
    volume = (np.repeat(curves[:, None], 20, 1) + rng.normal(0, 0.2, (3, 20, 60))).reshape(5, 4, 3, 60)
    volume = volume.astype(np.float32)
    options = {"matrix": matrix, "regularization": regularization, "lambda_rel": 0.15}
    whole = perfusion_maps(volume, aif, **options)
    monkeypatch.setattr("perfkit.maps.BLOCK", 7)
    mask = rng.random((5, 4, 3)) > 0.4
    part = perfusion_maps(volume, aif, mask=mask, **options)
    for (_, a), (_, b) in zip(whole.items(), part.items(), strict=True):
        assert b.dtype == np.float32
        np.testing.assert_allclose(b[mask], a[mask], rtol=1e-4, atol=1e-4)
        assert not b[~mask].any()


def test_the_order_in_memory_changes_nothing():
    curves, aif = series(**TRUE)
    volume = np.repeat(curves[:, None], 4, 1).reshape(3, 2, 2, 60)
    mask = np.arange(12).reshape(3, 2, 2) % 3 > 0
    expected = perfusion_maps(volume, aif, mask=mask)
    found = perfusion_maps(np.asfortranarray(volume), aif, mask=mask)
    for (_, a), (_, b) in zip(found.items(), expected.items(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_only_what_is_asked_for_is_made():
    curves, aif = series(**TRUE)
    maps = perfusion_maps(curves, aif, only=("tmax", "mtt"))
    whole = perfusion_maps(curves, aif)
    assert maps.cbf is None and maps.cbv is None and maps.ttp is None
    np.testing.assert_array_equal(maps.tmax, whole.tmax)
    np.testing.assert_array_equal(maps.mtt, whole.mtt)


def test_an_aif_without_area_gives_no_volume():
    curves, aif = series(**TRUE)
    maps = perfusion_maps(curves, aif - 1.5 * aif.mean())
    assert np.isnan(maps.cbv).all() and np.isnan(maps.mtt).all() and np.isfinite(maps.cbf).all()


def test_tensors_and_arrays_give_the_same_maps():
    keras = pytest.importorskip("keras")
    curves, aif = series(**TRUE)
    expected = perfusion_maps(curves, aif, 1.0)
    tensors = (keras.ops.convert_to_tensor(x.astype("float32")) for x in (curves, aif))
    for (_, a), (_, b) in zip(perfusion_maps(*tensors, 1.0).items(), expected.items(), strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(a), b, rtol=2e-4, atol=2e-4)


def test_tensors_and_arrays_take_the_same_masks_and_veins():
    keras = pytest.importorskip("keras")
    curves, aif = series(**TRUE)
    spoilt, mask = np.stack([curves, np.full_like(curves, np.nan)]), np.array([True, False])
    mask = np.broadcast_to(mask[:, None], spoilt.shape[:2]) if spoilt.ndim == 3 else mask
    expected = perfusion_maps(spoilt, aif, 1.0, mask=mask, vof=3 * aif)
    tensor = keras.ops.convert_to_tensor(spoilt.astype("float32"))
    for inside in (mask, keras.ops.convert_to_tensor(mask)):
        found = perfusion_maps(tensor, aif, keras.ops.convert_to_tensor(1), mask=inside, vof=3 * aif)
        for (_, a), (_, b) in zip(found.items(), expected.items(), strict=True):
            np.testing.assert_allclose(keras.ops.convert_to_numpy(a), b, rtol=2e-4, atol=2e-4)
    rcbf = relative_cbf(keras.ops.convert_to_tensor([1.0, 3.0, np.nan]), [True, True, False])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(rcbf), [0.5, 1.5, np.nan])


def test_integers_and_variables_of_the_backend_are_welcome():
    keras = pytest.importorskip("keras")
    curves, aif = (np.rint(100 * x) for x in series(**TRUE))
    expected = perfusion_maps(curves, aif).cbf
    variable = keras.Variable(curves.astype("float32"))
    tensors = [keras.ops.convert_to_tensor(curves.astype(int)), variable, variable.value]
    for tensor in tensors:
        found = keras.ops.convert_to_numpy(perfusion_maps(tensor, aif).cbf)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_relative_cbf_is_one_in_the_mean_reference():
    cbf = np.array([10.0, 50.0, 70.0])
    np.testing.assert_allclose(relative_cbf(cbf, [False, True, True]), [1 / 6, 5 / 6, 7 / 6])


def test_core_and_penumbra_by_hand():
    rcbf, tmax = np.array([0.2, 0.37, 0.38, 1.0]), np.array([9.0, 2.0, 8.0, 6.0])
    mask = np.array([True, True, True, True])
    core = core_mask(rcbf, mask)
    assert core.tolist() == [True, True, False, False]
    assert penumbra_mask(tmax, core, mask).tolist() == [False, False, True, False]


def test_saved_maps_read_back_with_affine_and_sidecar(tmp_path):
    curves, aif = series(**TRUE)
    affine = np.array([[-1.7, 0, 0, 5], [0, 1.7, 0, -3], [0, 0, 8, 1], [0, 0, 0, 1.0]])
    maps = perfusion_maps(curves.reshape(3, 1, 1, -1), aif)
    paths = save_maps(tmp_path / "new", "sub-01_desc-expert", maps, affine)
    assert sorted(p.name for p in (tmp_path / "new").iterdir() if p.suffix == ".json")[0].endswith(
        "_cbf.json"
    )
    assert len(list((tmp_path / "new").iterdir())) == 2 * len(paths) == 10
    image = nib.load(paths[0])
    np.testing.assert_allclose(image.affine, affine)
    np.testing.assert_allclose(image.get_fdata(), maps.cbf, rtol=1e-6)
    sidecar = json.loads(paths[0].with_name("sub-01_desc-expert_cbf.json").read_text())
    assert sidecar["Units"] == "ml/100 g/min" and sidecar["Method"]["lambda_rel"] == 0.3


@pytest.mark.parametrize(
    "change, words",
    [
        ({"mask": np.ones((2, 2), bool)}, "mask"),
        ({"vof": np.ones(10)}, "VOF"),
        ({"estimator": "bayes"}, "bayes"),
        ({"peak_time": "soft"}, "'soft' came with 'circulant'"),
        ({"peak_time": "exact", "matrix": "volterra"}, "'exact' came with 'volterra'"),
        ({"lambda_rel": 0}, "lambda_rel"),
        ({"dt": -1}, "dt"),
        ({"aif": np.zeros(60)}, "zero everywhere"),
        ({"aif": np.ones(59)}, "59"),
        ({"concentration": 3.0}, "time axis"),
        ({"only": ("cbf", "flow")}, "flow"),
        ({"only": 3}, "3"),
        ({"vof": np.zeros(60)}, "area: that of the VOF is 0 "),
        ({"vof": np.full(60, np.nan)}, "area: that of the VOF is nan "),
        ({"aif": np.r_[1.0, -1.0, np.zeros(58)], "vof": np.ones(60)}, "area: that of the AIF is 0 "),
    ],
)
def test_bad_arguments_are_refused_in_words(change, words):
    curves, aif = series(**TRUE)
    with pytest.raises(ValueError, match=words):
        perfusion_maps(**{"concentration": curves, "aif": aif, **change})


@pytest.mark.parametrize(
    "cbf, reference, words",
    [
        ([1.0, 2.0], [False, False], "empty"),
        ([0.0, 0.0], [True, True], "flow"),
        ([1.0], [True, True], "shape"),
    ],
)
def test_a_reference_that_cannot_serve_is_refused(cbf, reference, words):
    with pytest.raises(ValueError, match=words):
        relative_cbf(cbf, reference)
    ops = pytest.importorskip("keras").ops
    for inside in (reference, ops.convert_to_tensor(reference)):
        with pytest.raises(ValueError, match=words):
            relative_cbf(ops.convert_to_tensor(cbf), inside)
