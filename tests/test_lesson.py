"""What notebook 00 shows is what the literature's numbers say."""

import numpy as np
import pytest

from perfkit import lesson
from perfkit.explorer import CONTROLS, DeconvolutionExplorer

# Published with this project's formulas: CBF over truth, circulant Tikhonov, exponential residue.
BIAS = {(6, 0.3): (0.45, 0.56, 0.69, 0.80), (6, 0.1): (0.61, 0.72, 0.84, 0.94),
        (9, 0.3): (0.35, 0.47, 0.60, 0.75), (12, 0.3): (0.29, 0.40, 0.54, 0.70),
        (12, 0.1): (0.42, 0.55, 0.70, 0.85)}  # fmt: skip


def test_flow_is_underestimated_as_the_theory_says():
    table = lesson.flow_bias().set_index(["fwhm", "lambda_rel", "mtt"])["ratio"].sort_index()
    for (fwhm, strength), ratios in BIAS.items():
        np.testing.assert_allclose(table[fwhm, strength], ratios, atol=0.02)


def test_volterra_feels_a_shift_of_the_aif_and_circulant_does_not():
    table = lesson.delay_sensitivity().set_index(["matrix", "mtt", "shift"])["ratio"].sort_index()
    volterra = [table["volterra", mtt, shift] for mtt in (4, 10) for shift in (-4, 4)]
    np.testing.assert_allclose(volterra, [0.37, 0.79, 0.59, 1.24], atol=0.015)
    assert np.ptp(table["circulant", 4]) < 0.01


@pytest.mark.parametrize("residue", lesson.RESIDUES)
def test_the_simulated_voxel_keeps_the_central_volume_law(residue):
    voxel = lesson.simulate(cbf=40, mtt=6, residue=residue, n_frames=200)
    # area(c) / area(a) = CBF ρ / (6000 κ) × MTT
    ratio = voxel.tissue.sum() / voxel.aif.sum()
    assert ratio == pytest.approx(40 * 6 * 1.04 / (6000 * 0.55 / 0.75), rel=0.02)


def test_a_delay_moves_the_tissue_curve():
    early, late = (lesson.simulate(delay=d, dt=0.5, n_frames=120) for d in (0, 3))
    np.testing.assert_allclose(late.tissue[6:], early.tissue[:-6], atol=1e-9)


def test_every_slider_moves_the_figure():
    explorer = DeconvolutionExplorer(noise=0.5)
    explorer.widget()
    shown = explorer._figures[0]
    for name, control in CONTROLS.items():
        before = [np.array(trace.y, float) for trace in shown.data]
        explorer.set(**{name: control.high})
        moved = [not np.array_equal(a, np.array(b.y, float)) for a, b in zip(before, shown.data, strict=True)]
        assert any(moved), name
        assert moved[-1], name


def test_a_matrix_can_be_hidden():
    explorer = DeconvolutionExplorer(matrix="circulant")
    visible = {trace.name: trace.visible for trace in explorer.figure().data}
    assert visible["k circulant"] and not visible["k volterra"]
    with pytest.raises(ValueError, match="'svd' came"):
        explorer.set(matrix="svd")
    with pytest.raises(ValueError, match="lambda came"):
        explorer.set(**{"lambda": 1})


def test_the_figure_stands_without_a_kernel():
    figure = DeconvolutionExplorer().figure()
    assert "FigureWidget" not in type(figure).__name__
    titles = [figure.layout[axis].title.text for axis in ("yaxis", "yaxis2", "yaxis3", "yaxis5")]
    assert titles == ["AIF (HU)", "tissue (HU)", "k (1/s)", "CBF (ml/100 g/min)"]


@pytest.mark.parametrize("draw", [lesson.matrix_figure, lesson.spectrum_figure])
def test_figures_of_an_aif_have_axis_titles(draw):
    figure = draw(lesson.simulate().aif)
    assert all(figure.layout[axis].title.text for axis in ("xaxis", "yaxis", "xaxis2", "yaxis2"))
