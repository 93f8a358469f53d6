"""Volumes and their deviations against simulated maps, coins and SciPy's bivariate normal."""

import numpy as np
import pytest
from scipy import ndimage, stats

from perfkit.volumenoise import relative_cbf_sd, volume_below, voxels_alike


def test_the_normaliser_of_relative_flow_is_nearly_certain():
    rng = np.random.default_rng(4)
    cbf, sd = np.full((40, 40, 2), 50.0), np.full((40, 40, 2), 4.0)
    reference = np.zeros(cbf.shape, bool)
    reference[:20] = True
    found, normaliser = relative_cbf_sd(cbf, sd, reference)
    drawn = cbf + sd * rng.normal(size=(300, *cbf.shape))
    relative = drawn / drawn[:, reference].mean(axis=1)[:, None, None, None]
    assert found[30, 3, 1] == pytest.approx(relative[:, 20:].std(axis=0).mean(), rel=0.05)
    assert normaliser == pytest.approx(0.08 / np.sqrt(1600))
    assert relative_cbf_sd(cbf, sd, reference, alike=9.0)[1] == pytest.approx(3 * normaliser)
    with pytest.raises(ValueError, match="at least one voxel"):
        relative_cbf_sd(cbf, sd, np.zeros(cbf.shape, bool))


def noise_field(rng, shape, sigma_px):
    """Unit noise, smoothed in the plane as a prepared scan is."""
    pad = 12
    white = rng.normal(size=(shape[0] + 2 * pad, shape[1] + 2 * pad, shape[2]))
    if not sigma_px:
        return white[pad:-pad, pad:-pad]
    field = ndimage.gaussian_filter(white, (sigma_px, sigma_px, 0))[pad:-pad, pad:-pad]
    return field * 2 * np.sqrt(np.pi) * sigma_px


def test_how_many_voxels_share_one_noise():
    """A mean's variance is that of a voxel times (Σ w)²/Σ w² per axis of the smoothing kernel w, over n."""
    expected = 1.0
    for step in (1.0, 1.6):
        w = np.exp(-((step * np.arange(-40, 41)) ** 2) / (2 * 2.0**2))
        expected *= w.sum() ** 2 / (w**2).sum()
    assert voxels_alike((1.0, 1.6, 5.0), 2.0) == pytest.approx(expected, rel=0.01)
    assert voxels_alike((1.0, 2.0, 5.0), 0.0) == 1


def test_the_volume_of_voxels_that_stand_alone_is_a_sum_of_coins():
    a = np.array([[-1.0, 0.0], [0.5, 3.0]])[..., None]
    found = volume_below(-a, np.ones_like(a), np.ones(a.shape, bool), (10, 10, 10), 0.0, sigma_mm=0)
    p = stats.norm.cdf(a)
    assert found.expected_ml == pytest.approx(p.sum())
    assert found.sd_ml == pytest.approx(np.sqrt((p * (1 - p)).sum()))
    assert found.effective_voxels == pytest.approx(4)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 5.0), (2.0, 3.0, 5.0)])
def test_the_covariance_of_neighbours_is_the_bivariate_normal(spacing):
    a = np.array([[-0.7, 0.2, 1.1], [0.9, -0.1, -1.6]])[..., None]
    found = volume_below(-a, np.ones_like(a), np.ones(a.shape, bool), spacing, 0.0, sigma_mm=2.0)
    at = [(i, j) for i in range(2) for j in range(3)]
    total = 0.0
    for i, j in at:
        for m, n in at:
            d2 = ((i - m) * spacing[0]) ** 2 + ((j - n) * spacing[1]) ** 2
            p, q = stats.norm.cdf([a[i, j, 0], a[m, n, 0]])
            rho = np.exp(-d2 / 16)
            both = (
                min(p, q)
                if d2 == 0
                else stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([a[i, j, 0], a[m, n, 0]])
            )
            total += both - p * q
    voxel_ml = np.prod(spacing) / 1000
    assert found.sd_ml == pytest.approx(voxel_ml * np.sqrt(total), rel=0.01)
    assert found.effective_voxels < 6


@pytest.mark.parametrize("sigma_px", [0.0, 2.0])
def test_the_true_volume_scatters_as_said_when_nothing_is_known_before(sigma_px):
    """True maps far wider than the noise: (true − expected)/sd of the volume is a standard normal."""
    rng = np.random.default_rng(7)
    sd, shape, z = 0.05, (24, 24, 2), []
    for _ in range(150):
        true = 0.3 + rng.uniform(-0.5, 0.5, shape)
        seen = true + sd * noise_field(rng, shape, sigma_px)
        found = volume_below(
            seen, np.full(shape, sd), np.ones(shape, bool), (1, 1, 10), 0.3, sigma_mm=sigma_px
        )
        z.append(((true < 0.3).sum() * 0.01 - found.expected_ml) / found.sd_ml)
    assert abs(np.mean(z)) < 0.2
    assert np.std(z) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("sigma_px", [0.0, 2.0])
def test_the_volume_that_is_read_scatters_as_said_between_repeated_scans(sigma_px):
    rng = np.random.default_rng(8)
    sd, shape = 0.06, (40, 40, 1)
    true = np.broadcast_to(np.linspace(0, 0.6, 40)[:, None, None], shape)  # a flow that falls towards a core
    read, said = [], []
    for _ in range(300):
        seen = true + sd * noise_field(rng, shape, sigma_px)
        read.append(0.01 * (seen < 0.3).sum())
        if len(said) < 20:
            mask = np.ones(shape, bool)
            said.append(volume_below(seen, sd * mask, mask, (1, 1, 10), 0.3, sigma_mm=sigma_px).sd_ml)
    assert np.mean(said) == pytest.approx(np.std(read), rel=0.15)


def test_a_shared_factor_moves_the_whole_volume():
    rng = np.random.default_rng(1)
    values = rng.uniform(0.0, 1.0, (50, 50, 2))
    found = [
        volume_below(
            values, np.full(values.shape, 1e-3), np.ones(values.shape, bool), (1, 1, 1), 0.5, shared=s
        )
        for s in (0.0, 0.05)
    ]
    # of values spread evenly over 0 … 1, a factor of 1 ± .05 moves .5 × .05 across the threshold
    assert found[1].sd_ml == pytest.approx(0.025 * 5.0, rel=0.2)
    assert found[0].sd_ml < 0.2 * found[1].sd_ml


def test_voxels_without_a_deviation_count_as_they_are_read():
    values = np.array([0.1, 0.2, 0.9, 0.1]).reshape(4, 1, 1)
    sd = np.array([0.0, np.nan, np.nan, 0.1]).reshape(4, 1, 1)
    mask = np.array([True, True, True, False]).reshape(4, 1, 1)
    found = volume_below(values, sd, mask, (10, 10, 10), 0.3)
    assert found.expected_ml == 2 and found.sd_ml == 0
