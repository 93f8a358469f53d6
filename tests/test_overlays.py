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
