"""The Kudo grid: its layout, and its curves against quadrature that shares no code with it."""

import numpy as np
import pytest
from scipy.integrate import quad

from perfkit import kudo

RESIDUES = {
    "exponential": (lambda t, m: np.exp(-t / m), lambda m: np.inf),
    "linear": (lambda t, m: 1 - t / (2 * m), lambda m: 2 * m),
    "box": (lambda t, m: 1.0, lambda m: m),
}


@pytest.fixture(scope="module")
def grid():
    return kudo.kudo_phantom()


def tile(row, column):
    return column * 32 + 16, row * 32 + 16  # x, y


def test_rows_are_delays_and_columns_are_transit_times(grid):
    assert grid.ctp.shape == (256, 256, 5, 30)
    assert grid.dt == 2.0
    for row, delay in enumerate((0, 0.5, 1, 1.5, 2, 2.5, 3)):
        for column, mtt in enumerate((24, 12, 8, 6, 4.8, 4, 3.43)):
            x, y = tile(row, column)
            assert grid.truth["delay"][x, y, 0] == pytest.approx(delay)
            assert grid.truth["mtt"][x, y, 0] == pytest.approx(mtt, rel=1e-3)
    assert grid.truth["cbv"][16, 16].tolist() == [1, 2, 3, 4, 5]


def test_flow_is_sixty_volumes_per_transit_time(grid):
    truth = grid.truth
    assert truth["cbf"][grid.brain] == pytest.approx(60 * truth["cbv"][grid.brain] / truth["mtt"][grid.brain])
    assert np.unique(np.round(truth["cbf"][..., 3][grid.brain[..., 3]], 3)).tolist() == [
        10,
        20,
        30,
        40,
        50,
        60,
        70,
    ]
    assert grid.brain.sum() == 5 * 49 * 32 * 32


@pytest.mark.parametrize("residue", RESIDUES)
@pytest.mark.parametrize(("row", "column", "slice_"), [(0, 0, 0), (3, 4, 3), (6, 6, 4)])
def test_tissue_curve_equals_quadrature(residue, row, column, slice_):
    case = kudo.kudo_phantom(residue=residue)
    mtt, delay, cbv = (24, 12, 8, 6, 4.8, 4, 24 / 7)[column], 0.5 * row, slice_ + 1.0
    shape, end = RESIDUES[residue]

    def aif(t):
        u = (t - 12 - delay) / 4.5
        return 465 * u**3 * np.exp(3 * (1 - u)) if u > 0 else 0.0

    def curve(t):
        low = max(12 + delay, t - end(mtt))
        flow = 1.04 / (0.55 / 0.75) * (60 * cbv / mtt) / 6000
        return flow * quad(lambda s: aif(s) * shape(t - s, mtt), low, t)[0] if t > low else 0.0

    x, y = tile(row, column)
    expected = 40 + np.array([curve(t) for t in 2.0 * np.arange(30)])
    measured = case.ctp[x, y, slice_]
    assert np.abs(measured - expected).max() < 1e-3 * (expected.max() - 40)


def test_patches_hold_the_vessels(grid):
    (a, v), truth = (grid.truth["rater_voxels"], grid.truth["rater_vof_voxels"]), grid.truth
    assert (len(a), len(v)) == (5 * 8 * 8, 5 * 16 * 16)
    measured = grid.ctp[tuple(a.T)].mean(axis=0) - 40
    venous = grid.ctp[tuple(v.T)].mean(axis=0) - 40
    rescaled = measured * venous.sum() / measured.sum()
    assert measured.max() < 0.6 * truth["aif"].max()  # partial volume
    assert rescaled == pytest.approx(truth["aif"], abs=1e-3 * 465)  # undone by the VOF
    assert kudo.kudo_phantom(dt=0.5, n_frames=120).truth["aif"].max() == pytest.approx(465)
    assert not grid.brain[tuple(a.T)].any()


def test_noise_has_the_asked_size_and_is_seeded():
    clean, noisy, again = (kudo.kudo_phantom(4.0, noise_hu=s, seed=3) for s in (0, 2.0, 2.0))
    difference = (noisy.ctp - clean.ctp)[clean.brain]
    assert difference.std() == pytest.approx(2.0, rel=0.01)
    assert abs(difference.mean()) < 0.01
    assert np.array_equal(noisy.ctp, again.ctp)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"residue": "gamma"}, "exponential, linear, box"),
        ({"cbv": 0}, "positive"),
        ({"cbv": [1, np.nan]}, "positive"),
        ({"dt": 0}, "seconds"),
        ({"n_frames": 9}, "at least 10"),
        ({"noise_hu": -1}, "standard deviation"),
    ],
)
def test_wrong_arguments_are_refused_in_words(wrong, words):
    with pytest.raises(ValueError, match=words):
        kudo.kudo_phantom(**wrong)
