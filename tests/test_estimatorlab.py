"""The voxel of notebook 06: its truth, what is read off it, and that the figure shows both."""

import numpy as np
import pandas as pd
import pytest

from perfkit import estimatorlab, tissuesample
from perfkit.deconvolution import FLOW_UNITS
from perfkit.estimatorlab import CONTROLS, EstimatorLab

RESIDUES = {
    "exponential": lambda t, m: np.exp(-t / m),
    "gamma": lambda t, m: (1 + 2 * t / m) * np.exp(-2 * t / m),
    "linear": lambda t, m: np.maximum(1 - t / (2 * m), 0),
    "box": lambda t, m: np.where(t < 0.6 * m, 1.0, np.exp(-(t - 0.6 * m) / (0.4 * m))),
}


@pytest.fixture
def lab():
    return EstimatorLab(noise=0.5)


@pytest.mark.parametrize("residue", estimatorlab.FAMILIES)
def test_the_true_k_is_flow_times_the_residue(residue):
    found = estimatorlab.true_irf(40.0, 6.0, 2.0, residue)
    at = estimatorlab.LAGS - 2.0
    expected = np.where(at >= 0, RESIDUES[residue](np.maximum(at, 0), 6.0), 0) * 40 / FLOW_UNITS
    np.testing.assert_allclose(found, expected, atol=0.005 * expected.max())


@pytest.mark.parametrize("residue", estimatorlab.FAMILIES)
def test_tissue_is_the_integral_of_artery_and_residue(residue):
    """By a sum over the middles of the fine grid's steps."""
    aif = tissuesample.arterial(9.0)
    tissue = tissuesample.sampled(aif, np.array([30.0]), np.array([6.0]), np.array([2.5]), residue=residue)
    middle, steps = (aif[1:] + aif[:-1]) / 2, 0.1 * np.arange(len(aif) - 1) + 0.05
    for frame in (5, 20, 33, 59):
        age = frame - 2.5 - steps
        kernel = np.where(age >= 0, RESIDUES[residue](np.maximum(age, 0), 6.0), 0.0)
        expected = 30 / FLOW_UNITS * np.sum(middle * kernel) * 0.1
        assert tissue.curves[0, frame] == pytest.approx(expected, abs=0.003 * tissue.curves.max())


def test_the_artery_is_what_was_asked_for():
    aif = tissuesample.arterial(12.0, onset=9.0, peak=150.0)
    t = 0.1 * np.arange(len(aif))
    assert aif.max() == pytest.approx(150)
    assert np.ptp(t[aif > 75]) == pytest.approx(12.0, abs=0.3)
    assert t[np.argmax(aif > 15)] == pytest.approx(9.0, abs=0.3)
    smeared = tissuesample.arterial(12.0, onset=9.0, peak=150.0, widen=5.0)
    assert np.ptp(t[smeared > smeared.max() / 2]) > 13.5


def test_classes_and_drawn_tissue_say_which_is_healthy():
    aif = tissuesample.arterial()
    each = tissuesample.classes(aif)
    assert len(each.cbf) == 2 * 3 + 4 * 7 and each.healthy.sum() == 6
    np.testing.assert_allclose(each.cbv, each.cbf * each.mtt / 60)
    one, same, other = (tissuesample.drawn(aif, 50, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.curves, same.curves)
    assert not np.array_equal(one.curves, other.curves)
    assert one.cbf[one.healthy].mean() > 2 * one.cbf[~one.healthy].mean()


@pytest.mark.parametrize("matrix", ["circulant", "truncated"])
@pytest.mark.parametrize("fwhm", [6.0, 14.0])
def test_the_plain_reading_is_biased_and_the_calibrated_one_is_not(fwhm, matrix):
    lab = EstimatorLab(fwhm=fwhm, noise=0.0, matrix=matrix, end=80.0)
    plain, calibrated = (lab.readings[name] for name in ("plain", "calibrated"))
    assert plain["cbf"] < 0.75 * lab.truth["cbf"] and plain["rcbf"] > 0.42 > 0.3 > lab.truth["rcbf"] - 0.01
    assert plain["tmax"] > lab.truth["delay"] + 2
    for name in ("cbf", "cbv", "mtt", "rcbf"):
        assert calibrated[name] == pytest.approx(lab.truth[name], rel=0.1), name
    assert calibrated["delay"] == pytest.approx(lab.truth["delay"], abs=0.4)


def test_spread_follows_the_noise_and_a_seed_repeats_it(lab):
    one = lab.spreads["plain"]["cbf"]
    assert EstimatorLab(noise=0.5).spreads["plain"]["cbf"] == one
    assert lab.set(noise=1.0).spreads["plain"]["cbf"] > 1.5 * one
    assert lab.set(noise=0.0).spreads["plain"]["cbf"] == pytest.approx(0, abs=1e-12)


def test_every_slider_moves_the_figure(lab):
    lab.widget()
    (shown,) = lab._figures
    for name, control in CONTROLS.items():
        before = [np.array(trace.y, float) for trace in shown.data]
        lab.set(**{name: control.high})
        after = [np.array(trace.y, float) for trace in shown.data]
        assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True)), name
    assert len(shown.data[0].x) == 91  # the scan ends at 90 s


def test_the_figure_shows_what_was_read(lab):
    figure = lab.figure()
    assert "FigureWidget" not in type(figure).__name__
    bars = {trace.name: trace for trace in figure.data if trace.meta == "share"}
    for name in ("plain", "calibrated"):
        for at, key in enumerate(("cbf", "cbv", "mtt")):
            assert bars[name].y[at] == pytest.approx(100 * lab.readings[name][key] / lab.truth[key])
    delays = figure.data[-1].y
    assert delays[0] == 3.0 and delays[1] == lab.readings["plain"]["tmax"]
    assert {shape.y0 for shape in figure.layout.shapes} == {100, 6.0}
    assert all(figure.layout[axis].title.text for axis in ("xaxis", "yaxis", "xaxis2", "yaxis2", "yaxis3"))
    assert "True flow 30% of healthy, 3.0 s late" in figure.layout.title.text


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"lambda": 1}, "lambda came"),
        ({"matrix": "svd"}, "circulant, truncated: 'svd' came"),
        ({"residue": "step"}, "'step' came"),
        ({"end": 5.0}, "end must lie between 30 and 90: 5 came"),
        ({"mtt": 0}, "mtt must lie between 2 and 24: 0 came"),
    ],
)
def test_wrong_settings_are_refused_in_words(lab, settings, words):
    with pytest.raises(ValueError, match=words):
        lab.set(**settings)


def test_the_figure_of_widths_shows_means_over_families():
    rows = [
        {"fwhm": f, "residue": r, "estimator": e, "best": b, "dice_best": 0.9, "dice_nominal": d}
        for f in (6.0, 12.0)
        for e, b in (("Tikhonov .3", 0.4), ("calibrated", 0.3))
        for r, d in (("gamma", 0.6), ("linear", 0.8))
    ]
    figure = estimatorlab.width_figure(pd.DataFrame(rows))
    lines = {trace.name: trace for trace in figure.data if trace.name}
    np.testing.assert_allclose(lines["calibrated at 0.30"].y, [0.7, 0.7])
    np.testing.assert_allclose(lines["Tikhonov .3 best threshold"].y, [0.4, 0.4])
    band = figure.data[0]
    assert list(band.x) == [6, 12, 12, 6] and list(band.y) == [0.8, 0.8, 0.6, 0.6]
    assert [figure.layout[a].title.text for a in ("xaxis", "yaxis", "yaxis2")] == [
        "width of the AIF (s)", "Dice", "rCBF",
    ]  # fmt: skip
