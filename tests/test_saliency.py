"""Where an AIF comes from, with networks whose answer is known because they look at one place only."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from perfkit import overlays, saliency
from perfkit.heads import VoxelPooling
from perfkit.network import deconvolution_model
from perfkit.preprocessing import Prepared
from perfkit.samples import predict_weights

SHAPE = (100, 90, 2)  # 3 voxels of the scan are one of the view's (34, 30)
N = 40
ROUNDING = 1e-5  # a product of another batch size rounds otherwise


def scan(dt=1.0, n=N):
    """An ellipse of brain whose curves are the same bolus, higher towards large x."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, k) for k in SHAPE), indexing="ij")
    brain = x**2 + y**2 < 0.9
    s = np.clip(np.arange(n) * dt - 8, 0, None) / 6
    bolus = s**3 * np.exp(3 - 3 * s)
    height = np.where(brain, 10 + 5 * x, 0)
    return Prepared(
        id="scan",
        patient="scan",
        concentration=(height[..., None] * bolus).astype(np.float32),
        baseline=np.where(brain, 35, 0).astype(np.float32),
        brain=brain,
        tissue=brain,
        reference_tissue=brain,
        sides=np.sign(x).astype(np.int8) * brain,
        lesion_side=1,
        dt=dt,
        spacing=np.array([2.0, 2.0, 5.0]),
        affine=np.diag([2, 2, 5, 1.0]),
        core=None,
        n_baseline=4,
    )


@keras.saving.register_keras_serializable("tests")
class LooksAt(keras.layers.Layer):
    """The mean curve of some voxels of the view, and of nothing else."""

    def __init__(self, x, y, z, twice=False, **kwargs):
        super().__init__(**kwargs)
        self.place, self.twice = (slice(*x), slice(*y), slice(*z)), twice

    def call(self, view):
        x, y, z = self.place
        mean = keras.ops.mean(view[:, x, y, z], axis=(1, 2, 3))
        return keras.ops.stack([mean, -3 * mean], axis=1) if self.twice else mean


def looking_at(*place, twice=False):
    series = keras.layers.Input((None, None, None, 64))
    network = keras.Model(series, LooksAt(*place, twice=twice)(series))
    return deconvolution_model(network, n_frames=64)


CORNER = ((20, 24), (12, 16), (1, 2))  # one block of the view: voxels 60-72, 36-48 of the second slice


@pytest.mark.parametrize("dt", [1.0, 2.0])
def test_what_the_network_looks_at_stands_out_and_nothing_else(dt):
    prepared = scan(dt, n=int(N / dt))
    found = saliency.occlusion(looking_at(*CORNER), prepared)
    inside = np.zeros(SHAPE, bool)
    inside[60:72, 36:48, 1] = True
    assert found.shape == SHAPE and found.dtype == np.float32
    assert (found[inside] > 0.05).all() and (found[~inside] < ROUNDING).all()


def test_the_change_is_that_of_putting_the_mean_curve_there():
    """All curves are one bolus: the AIF changes by the height of the block over that of the brain."""
    prepared = scan()
    found = saliency.occlusion(looking_at(*CORNER), prepared)
    heights = prepared.concentration.max(axis=-1)
    block, mean = heights[60:72, 36:48, 1].mean(), heights[prepared.brain].mean()
    np.testing.assert_allclose(found.max(), abs(mean / block - 1), rtol=1e-4)


def test_a_network_that_looks_everywhere_feels_the_blocks_that_differ_from_the_mean():
    prepared = scan()
    found = saliency.occlusion(looking_at((0, 34), (0, 30), (0, 2)), prepared)
    # of two whole blocks, the one whose bolus is further from the mean
    assert found[85, 45, 0] > 3 * found[52, 45, 0] > 0
    np.testing.assert_allclose(found[..., 0], found[..., 1], atol=1e-6)


def test_smaller_blocks_find_the_place_more_closely():
    point = ((21, 22), (13, 14), (0, 1))
    found = {k: saliency.occlusion(looking_at(*point), scan(), size=k) > ROUNDING for k in (1, 4)}
    assert found[1].sum() == 3 * 3 and found[4].sum() == 12 * 12
    assert (found[1] <= found[4]).all()


def test_few_at_once_give_the_same_map(monkeypatch):
    whole = saliency.occlusion(looking_at(*CORNER), scan())
    monkeypatch.setattr(saliency, "NUMBERS_AT_ONCE", 1)
    np.testing.assert_allclose(saliency.occlusion(looking_at(*CORNER), scan()), whole, atol=1e-6)


def test_the_venous_output_is_left_out():
    twice = saliency.occlusion(looking_at(*CORNER, twice=True), scan())
    np.testing.assert_allclose(twice, saliency.occlusion(looking_at(*CORNER), scan()), atol=1e-6)


def test_a_network_that_proposes_nothing_has_a_map_of_zeros():
    prepared = scan()
    prepared = replace(prepared, concentration=prepared.concentration * 0)
    assert not saliency.occlusion(looking_at(*CORNER), prepared).any()


def test_the_pooling_head_gives_its_weights():
    model, prepared = deconvolution_model(VoxelPooling(seed=3)), scan()
    weights = saliency.where_from(model, prepared)
    np.testing.assert_array_equal(weights, predict_weights(model, prepared))
    assert weights.sum() == pytest.approx(1, abs=1e-5) and not weights[~prepared.brain].any()
    with pytest.raises(ValueError, match=r"pools voxels.*where_from"):
        saliency.occlusion(model, prepared)


def test_a_regressed_aif_is_occluded_by_itself():
    found = saliency.where_from(looking_at(*CORNER), scan(), size=2)
    assert found.max() > 0 and set(zip(*np.nonzero(found > ROUNDING), strict=True)) <= {
        (x, y, 1) for x in range(60, 72) for y in range(36, 48)
    }


@pytest.mark.parametrize("size", [0, -1, 2.5, "4"])
def test_a_block_has_a_whole_number_of_voxels(size):
    with pytest.raises(ValueError, match=r"size.*is 1 or more"):
        saliency.occlusion(looking_at(*CORNER), scan(), size=size)


def test_the_figure_lays_the_map_over_the_slices_that_hold_most_of_it():
    heat = np.zeros((20, 30, 6), np.float32)
    heat[5:8, 10:12, 4], heat[3, 3, 1], heat[9, 9, 2] = 1.0, 0.5, 0.04
    background = np.broadcast_to(np.arange(6.0), heat.shape)
    figure = overlays.heat_figure(background, heat, affine=np.diag([-2, -2, 5, 1]), most=2, name="change")
    beneath = [t for t in figure.data if t.type == "heatmap" and t.coloraxis == "coloraxis"]
    above = [t for t in figure.data if t.type == "heatmap" and t.coloraxis == "coloraxis2"]
    assert [t.z[0, 0] for t in beneath] == [1, 4]
    assert [a.text for a in figure.layout.annotations if a.text.startswith("Slice")] == ["Slice 2", "Slice 5"]
    np.testing.assert_array_equal(np.nan_to_num(above[1].z.T), heat[..., 4])
    faint = overlays.heat_figure(background, heat, most=6).data
    assert not any(
        np.nanmax(t.z, initial=0) == np.float32(0.04) for t in faint if t.coloraxis == "coloraxis2"
    )
    assert figure.layout.coloraxis2.colorbar.title.text == "change"
    assert figure.layout.coloraxis2.cmax == 1
