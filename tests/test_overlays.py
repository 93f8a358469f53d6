"""Overlays show the slices and voxels they claim to show."""

from types import SimpleNamespace

import numpy as np
import pytest

from perfkit import overlays


@pytest.fixture
def prepared():
    brain = np.zeros((20, 16, 3), bool)
    brain[3:17, 3:13] = True
    sides = np.where(np.arange(20) < 10, -1, 1)[:, None, None] * brain
    baseline = np.random.default_rng(0).normal(35, 3, brain.shape)
    affine = np.diag([-2.0, 2, 5, 1])
    fields = {"brain": brain, "sides": sides, "tissue": brain, "reference_tissue": brain & (sides > 0)}
    return SimpleNamespace(baseline=baseline, affine=affine, **fields)


def images(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def test_masks_are_outlined_on_the_slice_asked_for(prepared):
    figure = overlays.masks_figure(prepared, 2)
    assert len(images(figure)) == 4
    shown = np.asarray(images(figure)[0].z)
    assert any(np.isclose(shown, prepared.baseline[10, 8, 2], atol=1e-4).ravel())
    names = {trace.name for trace in figure.data if trace.type == "scatter"}
    assert names == {"brain", "one side", "other side", "tissue", "reference tissue"}


def test_each_group_is_shown_where_it_has_most_voxels(prepared):
    groups = {"AIF": [(5, 5, 1), (5, 6, 1), (5, 5, 0)], "VOF": [(9, 4, 2)], "none": []}
    figure = overlays.voxels_figure(prepared.baseline, groups, affine=prepared.affine, brain=prepared.brain)
    titles = [a.text for a in figure.layout.annotations if a.text not in "RL"]
    assert titles == ["AIF<br>2 of 3 voxels, slice 2", "VOF<br>1 voxel, slice 3"]
    outline = [trace for trace in figure.data if trace.name == "AIF"][-1]
    assert (np.nanmin(outline.x), np.nanmax(outline.y)) == (4.5, 6.5)
    assert figure.layout.coloraxis.colorbar.title.text == "HU"


def test_many_groups_wrap_into_rows_and_keep_the_colours_of_their_methods(prepared):
    groups = {name: [(5, 5, 0)] for name in ("expert", "straka", "mouridsen", "murase", "shi")}
    figure = overlays.voxels_figure(prepared.baseline, groups, affine=prepared.affine, brain=prepared.brain)
    assert len(images(figure)) == 5
    titles = [a for a in figure.layout.annotations if "<br>" in a.text]
    assert len(titles) == 5 and {a.font.size for a in titles} == {overlays.TITLE_SIZE}
    rows = {round(axis.domain[0], 3) for axis in figure.select_yaxes() if axis.domain}
    assert len(rows) == 2
    straka = [trace for trace in figure.data if trace.name == "straka"][-1]
    assert straka.line.color == overlays.drawing.ARM_COLOURS["automatic"]  # the same rule, the same colour


def test_lesions_are_outlined_on_the_slices_of_the_brain_and_named_once(prepared):
    prepared.brain[..., 0] = False
    core = np.zeros(prepared.brain.shape, bool)
    core[5:9, 5:9, 1] = True
    masks = {"core": core, "penumbra": np.zeros_like(core)}
    figure = overlays.lesions_figure(prepared.baseline, masks, affine=prepared.affine, brain=prepared.brain)
    titles = [a.text for a in figure.layout.annotations if a.text not in "RL"]
    assert titles == ["Slice 2", "Slice 3"] and len(images(figure)) == 2
    assert [trace.name for trace in figure.data if trace.showlegend] == ["core", "penumbra"]
    drawn = [trace for trace in figure.data if trace.name == "core" and not trace.showlegend]
    x = np.concatenate([np.asarray(trace.x, float) for trace in drawn if trace.x is not None])
    assert np.nanmin(x) == 4.5 and np.nanmax(x) == 8.5  # the borders of its voxels


def test_the_core_is_seen_where_it_shares_its_border_with_the_penumbra():
    core = np.zeros((12, 12, 1), bool)
    core[4:8, 4:8] = True
    around = np.zeros_like(core)
    around[2:10, 2:10] = ~core[2:10, 2:10]
    figure = overlays.lesions_figure(np.zeros(core.shape), {"core": core, "penumbra": around})
    lines = [
        trace.name for trace in figure.data if trace.x is not None and not trace.showlegend and trace.name
    ]
    assert lines.index("core") > max(i for i, name in enumerate(lines) if name == "penumbra")


def test_of_many_slices_those_are_shown_that_stand_evenly(prepared):
    background = np.zeros((8, 8, 16))
    figure = overlays.lesions_figure(background, {}, most=4)
    titles = [a.text for a in figure.layout.annotations if a.text not in "RL"]
    assert titles == ["Slice 1", "Slice 6", "Slice 11", "Slice 16"]
