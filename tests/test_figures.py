"""Figures hold the data they were given and name the unit on every axis."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from synthetic import synthetic_scores

from perfkit import drawing, figures
from perfkit.aif import METHODS
from perfkit.figures import CaseSlice

RAS = np.diag([0.9, 0.9, 5.0, 1.0])  # x grows to the patient's right, y to the front
LPS = np.diag([-0.9, -0.9, 5.0, 1.0])
ARMS = ("expert", "automatic", "cnn", "brain_mean")


def square(size=24, at=slice(8, 12)):
    mask = np.zeros((size, size + 6), bool)
    mask[at, at] = True
    return mask


def row(case="case_1", **changes):
    core = square()
    brain = np.ones_like(core)
    rcbf = {arm: np.where(core, 0.2, 1.0 + i / 10) for i, arm in enumerate(ARMS)}
    fields = {"background": np.full(core.shape, 35.0), "core": core, "rcbf": rcbf, "brain": brain}
    return CaseSlice(
        case=case, **fields | {"predicted": {arm: m < 0.38 for arm, m in rcbf.items()}} | changes
    )


def heatmaps(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def named(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def titles(figure):
    axes = [*figure.select_xaxes(), *figure.select_yaxes()]
    return {axis.title.text for axis in axes} - {None}


def notes(figure):
    return [note.text for note in figure.layout.annotations]


def test_import_is_light():
    code = "import perfkit.figures, perfkit.report, sys; print({'plotly', 'tensorflow'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_colours_of_arms_differ_and_are_the_okabe_ito_ones():
    okabe_ito = {"#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"}
    colours = {arm: drawing.ARM_COLOURS[arm] for arm in ARMS}
    assert len(set(colours.values())) == 4 and set(colours.values()) <= okabe_ito
    assert set(drawing.ARM_LABELS) == set(drawing.ARM_COLOURS) == {*ARMS, *METHODS, "pool", "truth"}
    assert drawing.ARM_COLOURS["straka"] == drawing.ARM_COLOURS["automatic"]  # the same rule
    without_straka = [drawing.ARM_COLOURS[name] for name in drawing.ARM_COLOURS if name != "straka"]
    assert len(set(without_straka)) == len(without_straka)


def test_fig2_puts_the_ground_truth_first_and_each_arm_in_the_same_colours():
    figure = figures.fig2([row("case_1"), row("case_2")])
    maps = heatmaps(figure)
    assert len(maps) == 2 * 5
    assert notes(figure)[:5] == ["Ground truth", *(drawing.ARM_LABELS[arm] for arm in ARMS)]
    np.testing.assert_allclose(maps[0].z, np.full((30, 24), 35.0))
    np.testing.assert_allclose(maps[3].z, row().rcbf["cnn"].T, rtol=1e-6)
    assert {trace.coloraxis for trace in maps[1:5]} == {"coloraxis"}
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1.5)
    assert len(named(figure, "Core on DWI (ground truth)")) == 2 * 5 * 2  # halo and line in every panel
    assert len(named(figure, "Predicted core (rCBF < 0.38)")) == 2 * 4 * 2
    assert sum(trace.showlegend is True for trace in figure.data) == 2


def test_fig2_hides_what_is_outside_the_brain_and_takes_one_slice_alone():
    brain = np.zeros((24, 30), bool)
    brain[4:20, 5:25] = True
    figure = figures.fig2(row(brain=brain, core=None))
    z = heatmaps(figure)[1].z
    assert np.isnan(z).any()
    assert np.isfinite(z).sum() == brain.sum()
    assert not named(figure, "Core on DWI (ground truth)")


def test_fig2_of_an_empty_prediction_and_of_a_missing_arm():
    rcbf = {"expert": np.ones((24, 30))}
    figure = figures.fig2([row(), row("case_2", rcbf=rcbf, predicted={"expert": np.zeros((24, 30), bool)})])
    assert len(heatmaps(figure)) == 5 + 2


def test_case_slice_takes_the_slice_with_most_core():
    core = np.zeros((8, 9, 4), bool)
    core[2:5, 2:5, 2] = core[2, 2, 1] = True
    volume = np.broadcast_to(np.arange(4.0), core.shape)
    found = figures.case_slice("case_1", volume, core, {"cnn": volume}, {"cnn": core})
    assert np.all(found.rcbf["cnn"] == 2)
    assert np.all(figures.case_slice("c", volume, None, {}, {}).background == 2)
    assert np.all(figures.case_slice("c", volume, core, {}, {}, z=0).background == 0)


@pytest.mark.parametrize(("affine", "x_flipped", "y_flipped"), [(RAS, True, False), (LPS, False, True)])
def test_slices_are_shown_in_the_radiological_convention(affine, x_flipped, y_flipped):
    figure = drawing.panels(1, 1)
    drawing.add_image(figure, np.zeros((24, 30)), 1, 1, affine=affine)
    x, y = figure.layout.xaxis.range, figure.layout.yaxis.range
    assert (x[0] > x[1], y[0] > y[1]) == (x_flipped, y_flipped)
    assert [(note.text, note.x) for note in figure.layout.annotations] == [("R", 0.02), ("L", 0.98)]
    right_top, left_bottom = (affine @ [x[end], y[end], 0, 1] for end in (1, 0))
    assert right_top[0] < left_bottom[0]  # the right of the screen is the patient's left
    assert right_top[1] > left_bottom[1]  # the top is the patient's front


def test_slices_of_unknown_orientation_are_shown_as_stored_without_marks():
    sagittal = RAS[[1, 2, 0, 3]]
    for affine in (None, sagittal):
        figure = drawing.panels(1, 1)
        drawing.add_image(figure, np.zeros((24, 30)), 1, 1, affine=affine)
        assert figure.layout.xaxis.range == (-0.5, 23.5)
        assert not figure.layout.annotations


def test_oriented_puts_left_on_the_right():
    image = np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(drawing.oriented(image, RAS), image[::-1])
    np.testing.assert_array_equal(drawing.oriented(image, LPS), image[:, ::-1])


def test_pixels_keep_their_shape():
    figure = drawing.panels(1, 1)
    drawing.add_image(figure, np.zeros((24, 30)), 1, 1, affine=np.diag([1.0, 2.0, 5.0, 1.0]))
    assert figure.layout.yaxis.scaleratio == 2


def test_outline_encloses_the_mask():
    mask = square()
    x, y = drawing.outline(mask)
    assert (x.min(), x.max()) == (7.5, 11.5)
    assert (y.min(), y.max()) == (7.5, 11.5)
    assert drawing.outline(np.zeros((4, 4)))[0].size == 0
    assert np.isfinite(drawing.outline(np.ones((4, 4)))[0]).all()  # closed at the border as well


def test_window_is_the_bounding_box_with_a_margin():
    assert drawing.window_of(square(), margin=2) == (6, 14, 6, 14)
    assert drawing.window_of(np.zeros((5, 6))) == (0, 5, 0, 6)


def test_shrink_averages_blocks():
    image = np.arange(16.0).reshape(4, 4)
    np.testing.assert_allclose(drawing.shrink(image, 2), [[2.5, 4.5], [10.5, 12.5]])
    assert drawing.shrink(image, 4) is image


def test_fig3_shows_differences_over_means_with_bias_and_limits():
    scores = synthetic_scores()
    figure = figures.fig3(scores)
    rows = scores.query("arm == 'cnn' and matrix == 'circulant'")
    (points,) = named(figure, "CNN AIF")
    np.testing.assert_allclose(points.y, rows["volume_ml"] - rows["reference_volume_ml"])
    np.testing.assert_allclose(points.x, (rows["volume_ml"] + rows["reference_volume_ml"]) / 2)
    assert points.marker.color == drawing.ARM_COLOURS["cnn"]
    assert titles(figure) == {"Mean of both volumes (ml)", "Arm − ground truth (ml)"}
    difference = rows["volume_ml"] - rows["reference_volume_ml"]
    drawn = [shape.y0 for shape in figure.layout.shapes if shape.xref == "x3 domain"]
    limits = [difference.mean() + k * difference.std() for k in (-1.96, 0, 1.96)]
    np.testing.assert_allclose(sorted(drawn), sorted([0, *limits]))
    assert sum(text.startswith("bias") for text in notes(figure)) == 4


def test_fig3_says_where_there_are_too_few_scans():
    scores = synthetic_scores(n=4)
    scores = scores[(scores["arm"] != "cnn") | (scores["case"] == "case_1")]
    assert "fewer than 2 scans: no limits" in notes(figures.fig3(scores))
    with pytest.raises(ValueError, match="hold none"):
        figures.fig3(scores, matrix="toeplitz")


def test_aif_curves_carry_time_in_seconds_and_hounsfield_units():
    curve = np.r_[0, 10, 40, 20.0]
    figure = figures.aif_curves({"cnn": curve, "expert": 2 * curve}, dt=1.5)
    assert [trace.name for trace in figure.data] == ["Expert AIF", "CNN AIF"]
    np.testing.assert_allclose(figure.data[1].x, [0, 1.5, 3, 4.5])
    np.testing.assert_allclose(figure.data[1].y, curve)
    assert titles(figure) == {"Time (s)", "AIF (HU above baseline)"}
    np.testing.assert_allclose(figures.aif_curves({"cnn": curve}, unit_peak=True).data[0].y, curve / 40)


def test_the_names_of_nine_aifs_stand_beside_the_plot_clear_of_the_title():
    arms = ["expert", "brain_mean", "straka", "mouridsen", "murase", "peruzzo", "shi", "rausch", "truth"]
    figure = figures.aif_curves(dict.fromkeys(arms, np.r_[0, 10, 40, 20.0]), title="Scaled to the same peak")
    legend, margin = figure.layout.legend, figure.layout.template.layout.margin
    assert legend.orientation == "v" and legend.x > 1 and (legend.y, legend.yanchor) == (1, "top")
    assert len(arms) * 1.6 * figure.layout.template.layout.legend.font.size < figure.layout.height - (
        margin.t + margin.b
    )


def test_aif_curves_by_case_have_a_panel_each_and_one_legend():
    curve = np.r_[0, 10, 40, 20.0]
    cases = {f"case_{i}": {"expert": curve, "cnn": curve} for i in range(5)}
    figure = figures.aif_curves_by_case(cases, {case: 2.0 for case in cases}, columns=4)
    assert len(figure.data) == 10
    assert sum(trace.showlegend for trace in figure.data) == 2
    assert len({trace.xaxis for trace in figure.data}) == 5
    assert figure.data[0].x[-1] == 6
    assert titles(figure) == {"Time (s)", "AIF / its peak"}


def test_maps_name_their_units():
    image = np.ones((12, 12))
    maps = {name: image for name in ("cbf", "cbv", "mtt", "tmax")}
    figure = figures.maps_figure(maps, affine=LPS, core=square(12, slice(4, 6))[:, :12])
    bars = [figure.layout[f"coloraxis{k}"].colorbar.title.text for k in ("", 2, 3, 4)]
    assert bars == ["CBF (ml/100 g/min)", "CBV (ml/100 g)", "MTT (s)", "Tmax (s)"]
    assert len(heatmaps(figure)) == 4


def test_irf_and_singular_values():
    t = np.arange(5.0)
    figure = figures.irf_figure(t, {"truth": np.exp(-t), "Tikhonov": np.exp(-t) / 2})
    assert titles(figure) == {"Time (s)", "Impulse response k (1/s)"}
    np.testing.assert_allclose(figure.data[1].y, np.exp(-t) / 2)
    figure = figures.singular_values_figure({"Volterra": np.array([1, 4, 0, 2.0])}, 1.2)
    np.testing.assert_allclose(figure.data[0].y, [4, 2, 1, np.nan])
    assert list(figure.data[1].y) == [1.2, 1.2]
    assert figure.layout.yaxis.type == "log"
    assert titles(figure) == {"Index", "Singular value (HU·s)"}


def test_curves_keep_their_samples():
    figure = figures.curves_figure({"grey matter": [0, 1, 2], "cnn": [2, 1, 0]}, dt=2)
    assert list(figure.data[0].x) == [0, 2, 4]
    assert figure.data[1].line.color == drawing.ARM_COLOURS["cnn"]
    assert figure.data[0].line.color not in drawing.ARM_COLOURS["cnn"]


def test_mosaic_holds_every_slice_with_the_first_top_left():
    volume = np.broadcast_to(np.arange(6.0), (10, 12, 6))
    figure = figures.slice_mosaic(volume, columns=3)
    z = heatmaps(figure)[0].z
    assert z.shape == (24, 30)
    np.testing.assert_array_equal(z[::-12, ::10], [[0, 1, 2], [3, 4, 5]])
    assert figure.layout.coloraxis.colorbar.title.text == "HU"


def test_training_history_draws_folds_and_their_mean():
    history = pd.DataFrame(
        [
            {"fold": f, "epoch": e, "loss": f + e, "val_loss": 2.0, "dice": 0.1, "val_dice": 0.2}
            for f in (0, 2)
            for e in (1, 2)
        ]
    )
    figure = figures.training_history(history)
    loss = [trace for trace in figure.data if trace.name == "training" and trace.xaxis == "x"]
    np.testing.assert_allclose(loss[-1].y, [2, 3])  # mean over folds
    assert len(figure.data) == 2 * 2 * 3
    assert notes(figure) == ["Loss", "Dice"]
    assert titles(figure) == {"Epoch"}
    assert (figure.layout.xaxis.tick0, figure.layout.xaxis.dtick) == (0, 1)  # no epoch 1.5
    long = figures.training_history(pd.DataFrame({"fold": 0, "epoch": range(1, 41), "loss": 1.0}))
    assert long.layout.xaxis.dtick == 8
    assert {trace.name for trace in figure.data} == {"training", "validation"}
    for watched, name in ((["held out"] * 4, "held out"), (["a", "a", "b", "b"], "a or b")):
        told = figures.training_history(history.assign(watched=watched))
        assert len(told.data) == len(figure.data)
        assert {trace.name for trace in told.data} == {"training", name}


def test_series_player_stands_without_a_kernel_and_stays_small():
    rng = np.random.default_rng(0)
    series = rng.normal(40, 20, (256, 256, 60)).astype(np.float32)
    figure = figures.series_player(series, dt=1.5, affine=LPS)
    assert len(figure.frames) == 60
    assert [step.label for step in figure.layout.sliders[0].steps][:3] == ["0", "1.5", "3"]
    assert len(figure.to_json()) < 3e6  # noise compresses worst
    assert notes(figure) == ["R", "L"]


def test_series_player_shows_the_voxels_upright():
    """A bright corner at the patient's left front comes out top right."""
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    series = np.zeros((8, 8, 2))
    series[-1, 0] = 100  # LPS: x grows to the left, y to the back
    source = figures.series_player(series, affine=LPS, limits=(0, 100)).frames[1].data[0].source
    image = np.asarray(Image.open(BytesIO(b64decode(source.split(",")[1]))))
    assert image[0, -1] == 255
    assert image.sum() == 255


def test_saved_pages_share_one_plotly_and_ask_for_no_address(tmp_path):
    figure = figures.curves_figure({"a": [0, 1]})
    one, two = (figures.save_figure(figure, tmp_path / "figures" / stem)[0] for stem in ("one", "two.v1"))
    assert (one.name, two.name) == ("one.html", "two.v1.html")
    assert {path.name for path in one.parent.iterdir()} == {one.name, two.name, "plotly.min.js"}
    assert not re.search(r"<(?:script|link)[^>]+https?://", one.read_text(encoding="utf-8"))


def test_a_picture_never_breaks_a_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(drawing, "find_browser", lambda: None)
    paths = figures.save_figure(figures.curves_figure({"a": [0, 1]}), tmp_path / "one", png=True)
    assert [path.suffix for path in paths] == [".html"]
    assert "no Chrome or Chromium" in caplog.text
    monkeypatch.setattr(drawing, "find_browser", lambda: str(tmp_path / "no-browser"))
    assert len(figures.save_figure(figures.curves_figure({"a": [0, 1]}), tmp_path / "one", png=True)) == 1
    assert "one.png was not written" in caplog.text


@pytest.mark.browser
def test_picture_is_written_through_a_browser(tmp_path, chromium_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", chromium_path)
    paths = figures.save_figure(figures.curves_figure({"a": [0, 1]}), tmp_path / "one", png=True)
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_no_figure_offers_to_upload_itself(tmp_path):
    import plotly.io

    figure = figures.curves_figure({"a": [0, 1]})
    shown = plotly.io.renderers["plotly_mimetype"].to_mimebundle(figure.to_dict())
    config = shown["application/vnd.plotly.v1+json"]["config"]
    assert config["showSendToCloud"] is False
    assert config["plotlyServerURL"] == ""
    (page,) = figures.save_figure(figure, tmp_path / "one")
    assert '"showSendToCloud": false' in page.read_text(encoding="utf-8")


def test_figures_are_json_without_a_kernel():
    assert json.loads(figures.fig2(row()).to_json())["layout"]["coloraxis"]["colorbar"]["title"]["text"]
