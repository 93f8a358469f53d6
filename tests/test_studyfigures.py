"""The statistical figures show the numbers they claim, over patients, in the order and colour of the arms."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import synthetic_scores

from perfkit import drawing, export, figures, meancurves, pairedtests, studyfigures
from perfkit.blandaltman import bland_altman
from perfkit.figureparts import arm_styles, grid, wash

ARMS = ("expert", "automatic", "cnn", "brain_mean")
SIX = ("expert", "straka", "mouridsen", "murase", "peruzzo", "cnn")


def curves(x, values, y, arms=ARMS, patients=12, points=11, seed=0):
    """A tidy table of rising curves of random heights."""
    rng = np.random.default_rng(seed)
    grid_of_x = np.round(np.linspace(0, values, points), 3)
    rows = []
    for i in range(patients):
        for arm in arms:
            names = {"patient": f"p{i}", "arm": arm, "matrix": "circulant"}
            rows.append(pd.DataFrame(names | {x: grid_of_x, y: np.sort(rng.random(points))}))
    return pd.concat(rows, ignore_index=True)


def roc(**options):
    return curves("fpr", 1.0, "tpr", **options)


def cut_offs(**options):
    return curves("threshold", 1.0, "dice", **options)


def patient_scores(**options):
    return synthetic_scores(**options).drop_duplicates(["patient", "arm", "matrix"]).drop(columns="case")


def named(figure, name):
    return [trace for trace in figure.data if trace.name == name]


def starting(figure, text):
    return [trace for trace in figure.data if (trace.name or "").startswith(text)]


def axis_titles(figure):
    texts = {axis.title.text for axis in [*figure.select_xaxes(), *figure.select_yaxes()]} - {None}
    return {text.split("<br>")[0] for text in texts}


def notes(figure):
    return [note.text for note in figure.layout.annotations]


def means_of(figure):
    return [t for t in figure.data if t.type == "scatter" and t.mode == "lines+markers"]


# Mean curves and their bands


def test_mean_curve_and_band_equal_a_loop_over_the_same_resamples():
    table = roc(arms=["cnn"], patients=9)
    found = meancurves.mean_curves(table, "fpr", "tpr", n_resamples=200, seed=3)
    values = np.array([part["tpr"].to_numpy() for _, part in table.groupby("patient")])
    np.testing.assert_allclose(found["mean"], values.mean(axis=0))
    rng = np.random.default_rng(3)
    drawn = [[values[i] for i in rows] for rows in rng.integers(0, 9, (200, 9))]
    resampled = np.array([np.mean(part, axis=0) for part in drawn])
    np.testing.assert_allclose(found["low"], np.percentile(resampled, 2.5, axis=0), atol=1e-12)
    np.testing.assert_allclose(found["high"], np.percentile(resampled, 97.5, axis=0), atol=1e-12)
    assert set(found["n"]) == {9}


def test_band_agrees_with_the_normal_approximation_where_patients_are_many():
    table = roc(arms=["cnn"], patients=200, points=5)
    found = meancurves.mean_curves(table, "fpr", "tpr", n_resamples=4000)
    values = table.pivot(index="patient", columns="fpr", values="tpr").to_numpy()
    half = stats.norm.ppf(0.975) * stats.sem(values, axis=0)
    np.testing.assert_allclose((found["high"] - found["low"]) / 2, half, rtol=0.06)


def test_bands_of_a_study_are_the_same_every_time():
    table = roc(patients=63, points=101)
    one = meancurves.mean_curves(table, "fpr", "tpr", n_resamples=1000)
    pd.testing.assert_frame_equal(one, meancurves.mean_curves(table, "fpr", "tpr", n_resamples=1000))
    other = meancurves.mean_curves(table, "fpr", "tpr", n_resamples=1000, seed=1)
    assert not np.allclose(one["low"], other["low"])


def test_patients_without_a_curve_are_not_counted():
    table = roc(arms=["cnn"], patients=5)
    table.loc[table["patient"] == "p0", "tpr"] = np.nan
    found = meancurves.mean_curves(table, "fpr", "tpr")
    rest = table[table["patient"] != "p0"]
    np.testing.assert_allclose(found["mean"], rest.groupby("fpr")["tpr"].mean())
    assert set(found["n"]) == {4}


def test_a_patient_has_one_curve():
    with pytest.raises(ValueError, match=r"one curve per arm: patient 'p0'.*several values at fpr 0"):
        meancurves.mean_curves(pd.concat([roc(), roc()]), "fpr", "tpr")


# ROC


def test_roc_draws_the_mean_of_each_arm_in_order_and_colour():
    table = roc(arms=ARMS[::-1])
    figure = studyfigures.roc_figure(table)
    lines = means_of(figure)
    assert [line.name.split(":")[0] for line in lines] == [drawing.ARM_LABELS[arm] for arm in ARMS]
    assert [line.line.color for line in lines] == [drawing.ARM_COLOURS[arm] for arm in ARMS]
    assert len({(line.line.dash, line.marker.symbol) for line in lines}) == 4  # told apart without colour
    expected = table[table["arm"] == "cnn"].groupby("fpr")["tpr"].mean()
    np.testing.assert_allclose(lines[2].x, expected.index)
    np.testing.assert_allclose(lines[2].y, expected)
    assert axis_titles(figure) == {
        "False positive rate (1 − specificity)",
        "True positive rate (sensitivity)",
    }


def test_roc_band_encloses_what_mean_curves_gives():
    table = roc(arms=["cnn"])
    (band,) = named(studyfigures.roc_figure(table), "CNN AIF, band")
    found = meancurves.mean_curves(table, "fpr", "tpr")
    np.testing.assert_allclose(band.y, [*found["high"], *found["low"][::-1]])
    assert band.fillcolor == wash(drawing.ARM_COLOURS["cnn"], 0.16)


def test_roc_legend_gives_the_area_with_an_interval_over_patients():
    table = roc(arms=["cnn"], patients=15)
    (line,) = means_of(studyfigures.roc_figure(table))
    areas = [np.trapezoid(part["tpr"], part["fpr"]) for _, part in table.groupby("patient")]
    found = stats.bootstrap((areas,), np.mean, rng=np.random.default_rng(0)).confidence_interval  # BCa
    words = re.fullmatch(r"CNN AIF: AUC (\S+) \[(\S+), (\S+)\], n = 15", line.name)
    assert words[1] == f"{np.mean(areas):.3f}"
    np.testing.assert_allclose([float(words[2]), float(words[3])], [found.low, found.high], atol=0.0006)


def test_roc_legend_takes_the_scores_where_they_are_given():
    scores = pd.DataFrame(
        {"patient": ["p0", "p1", "p2"], "arm": "cnn", "matrix": "circulant", "roc_auc": [0.7, 0.8, np.nan]}
    )
    (line,) = means_of(studyfigures.roc_figure(roc(arms=["cnn"], patients=3), patients=scores))
    assert line.name.startswith("CNN AIF: AUC 0.750 [0.7")
    assert line.name.endswith("n = 2")


def test_roc_zooms_into_high_specificities_in_a_second_panel():
    figure = studyfigures.roc_figure(roc(), zoom=studyfigures.ZOOM)
    assert figure.layout.xaxis2.range[1] == pytest.approx(0.2, rel=0.02)
    inside = [line for line in means_of(figure) if line.xaxis == "x2"]
    assert [max(line.x) for line in inside] == [0.2] * 4
    assert [line.showlegend for line in inside] == [False] * 4


# Cut-offs


def test_threshold_marks_the_best_cut_off_of_each_arm():
    table = cut_offs()
    figure = studyfigures.threshold_figure(table)
    means = table.groupby(["arm", "threshold"])["dice"].mean()
    for arm in ARMS:
        (mark,) = named(figure, f"{drawing.ARM_LABELS[arm]}, best")
        assert (mark.x[0], mark.y[0]) == (means[arm].idxmax(), pytest.approx(means[arm].max()))
        (line,) = starting(
            figure, f"{drawing.ARM_LABELS[arm]}: best {means[arm].max():.3f} at {mark.x[0]:.2f}, "
        )
        np.testing.assert_allclose(line.y, means[arm])
    assert axis_titles(figure) == {"rCBF cut-off (reference tissue = 1)", "Mean Dice over patients"}


def test_threshold_names_the_cut_offs_of_the_field_and_of_the_paper():
    figure = studyfigures.threshold_figure(cut_offs())
    assert [shape.x0 for shape in figure.layout.shapes] == [0.3, 0.38]
    assert notes(figure) == ["0.30 RAPID", "0.38 Cereda 2016"]
    assert [note.xanchor for note in figure.layout.annotations] == ["right", "left"]  # never over each other


# Paired differences


def test_raincloud_draws_the_difference_of_every_patient():
    scores = patient_scores().query("matrix == 'circulant'")
    figure = studyfigures.raincloud_figure(scores, "expert", "dice")
    wide = scores.pivot(index="patient", columns="arm", values="dice")
    for arm in ARMS[1:]:
        violin, box, dots = named(figure, drawing.ARM_LABELS[arm])
        expected = (wide[arm] - wide["expert"]).sort_index()
        for trace in (violin, box, dots):
            np.testing.assert_allclose(np.sort(trace.x), np.sort(expected))
        by_patient = {row[0]: x for row, x in zip(dots.customdata, dots.x, strict=True)}
        assert by_patient == pytest.approx(expected.to_dict())
        assert dots.marker.color == violin.line.color == drawing.ARM_COLOURS[arm]
    assert notes(figure) == ["Dice", *["n = 15"] * 3]
    assert list(figure.layout.yaxis.ticktext) == [drawing.ARM_LABELS[arm] for arm in ARMS[1:]]
    assert list(figure.layout.yaxis.tickvals) == [2, 1, 0]  # the first arm on top


def test_raincloud_marks_no_difference_and_the_margin_of_equivalence():
    figure = studyfigures.raincloud_figure(patient_scores(), metric=("dice", "volume_ml"))
    shapes = [(shape.type, shape.xref, shape.x0, shape.x1) for shape in figure.layout.shapes]
    assert shapes == [
        ("line", "x", 0, 0),
        ("rect", "x", -0.02, 0.02),
        ("line", "x2", 0, 0),
        ("rect", "x2", -5, 5),
    ]
    assert axis_titles(figure) == {"Arm − expert AIF", "Arm − expert AIF (ml)"}
    figure = studyfigures.raincloud_figure(patient_scores(), margins={})
    assert [shape.type for shape in figure.layout.shapes] == ["line"]


def test_raincloud_counts_the_patients_each_metric_is_known_for():
    scores = patient_scores(arms=("expert", "cnn"))
    scores.loc[(scores["arm"] == "cnn") & scores["patient"].isin(["p0", "p1"]), "hd95_mm"] = np.nan
    missing = (scores["arm"] == "cnn") & (scores["patient"] == "p2")
    figure = studyfigures.raincloud_figure(scores[~missing], metric=["dice", "hd95_mm"])
    assert [text for text in notes(figure) if text.startswith("n =")] == ["n = 14", "n = 12"]


def test_jitter_is_deterministic_and_spreads_neighbours():
    values = np.random.default_rng(0).normal(size=200)
    y = studyfigures.jitter(values, 0.1, 0.4)
    np.testing.assert_array_equal(y, studyfigures.jitter(values, 0.1, 0.4))
    assert 0.1 <= y.min() < y.max() <= 0.4
    steps = np.abs(np.diff(y[np.argsort(values)]))
    assert steps.min() > 0.3 * 0.38  # 1 − golden ratio
    assert stats.kstest((y - 0.1) / 0.3, "uniform").pvalue > 0.5


# Effects


def test_forest_draws_effect_and_interval_of_every_metric():
    tests = pairedtests.patient_tests(patient_scores(), metrics=("dice", "volume_ml"), n_resamples=99)
    figure = studyfigures.forest_figure(tests)
    assert len(figure.data) == len(tests) == 6
    for trace, row in zip(figure.data, tests.sort_values("metric").to_dict("records"), strict=True):
        assert trace.name == drawing.ARM_LABELS[row["arm"]]
        assert trace.x[0] == row["hodges_lehmann"]
        assert trace.x[0] + trace.error_x.array[0] == pytest.approx(row["hl_high"])
        assert trace.x[0] - trace.error_x.arrayminus[0] == pytest.approx(row["hl_low"])
        assert trace.marker.color == trace.error_x.color == drawing.ARM_COLOURS[row["arm"]]
    assert axis_titles(figure) == {"Arm − expert AIF", "Arm − expert AIF (ml)"}
    assert notes(figure)[:2] == ["Dice", "Core volume"]
    bands = [(shape.x0, shape.x1) for shape in figure.layout.shapes if shape.type == "rect"]
    assert bands == [(-0.02, 0.02), (-5, 5)]


def test_forest_takes_any_tidy_table_and_says_its_numbers():
    table = pd.DataFrame(
        [
            ["cnn", "expert", "dice", 0.012, -0.003, 0.027, 0.11],
            ["automatic", "expert", "dice", -0.02, np.nan, np.nan, np.nan],
        ],
        columns=["arm", "reference", "metric", "difference", "low", "high", "p"],
    )
    figure = studyfigures.forest_figure(table)
    assert notes(figure) == ["Dice", "−0.020, p –", "+0.012 [−0.003, +0.027], p = .11"]
    assert [trace.error_x.visible for trace in figure.data] == [False, None]
    assert [trace.y[0] for trace in figure.data] == pytest.approx([0.88, -0.12])


# Volumes


@pytest.mark.parametrize("log", [True, False])
def test_scatter_draws_predicted_over_reference_volumes(log):
    scores = synthetic_scores()
    figure = studyfigures.volume_scatter(scores, log=log)
    rows = scores.query("arm == 'cnn' and matrix == 'circulant'")
    (points,) = named(figure, "CNN AIF")
    undo = np.expm1 if log else np.asarray
    np.testing.assert_allclose(undo(points.x), rows["reference_volume_ml"])
    np.testing.assert_allclose(undo(points.y), rows["volume_ml"])
    assert list(points.customdata[:, 0]) == list(rows["case"])
    for line in named(figure, "equal"):
        np.testing.assert_array_equal(line.x, line.y)
    upright = [shape.x0 for shape in figure.layout.shapes if shape.x0 == shape.x1]
    np.testing.assert_allclose(undo(upright), [70] * 4)
    assert axis_titles(figure) == {"Reference core (ml)", "Predicted core (ml)"}


def test_scatter_counts_who_falls_on_the_other_side_of_the_limit():
    scores = pd.DataFrame(
        {"volume_ml": [0, 69.9, 70, 200, 10], "reference_volume_ml": [80, 70, 70, 20, 10.0]}
    )
    scores = scores.assign(patient=list("abcde"), arm="cnn", matrix="circulant")
    figure = studyfigures.volume_scatter(scores)
    assert "5 patients, 3 across 70 ml" in notes(figure)[0]
    assert named(figure, "CNN AIF")[0].y[0] == 0  # an empty core stays in the figure
    labels = dict(zip(figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext, strict=True))
    assert labels[np.log1p(100)] == "100"


def test_fig3_shows_the_intervals_of_bias_and_limits_over_patients():
    scores = synthetic_scores()
    figure = figures.fig3(scores)
    rows = scores.query("arm == 'cnn' and matrix == 'circulant'")
    found = bland_altman(rows["volume_ml"], rows["reference_volume_ml"], patients=rows["patient"])
    assert "20 scans of 15 patients" in notes(figure)[0]
    for name, low, high in [
        ("interval, bias", found.bias_low, found.bias_high),
        ("interval, lower limit", found.lower_low, found.lower_high),
        ("interval, upper limit", found.upper_low, found.upper_high),
    ]:
        assert list(named(figure, name)[2].y) == [low, low, high, high]


def test_fig3_interval_of_the_bias_is_students_where_patients_have_one_scan():
    rows = synthetic_scores().query("arm == 'cnn' and matrix == 'circulant'")
    rows = rows.assign(patient=rows["case"])
    (band,) = named(figures.fig3(rows), "interval, bias")
    difference = rows["volume_ml"] - rows["reference_volume_ml"]
    expected = stats.ttest_1samp(difference, 0).confidence_interval(0.95)
    np.testing.assert_allclose([band.y[0], band.y[2]], expected)


@pytest.mark.parametrize("steep", [True, False])
def test_fig3_draws_a_trend_only_where_it_is_shown(steep):
    rng = np.random.default_rng(2)
    reference = rng.lognormal(3, 1, 40)
    volume = reference * (1.5 if steep else 1) + rng.normal(0, 3, 40)
    rows = pd.DataFrame({"volume_ml": volume, "reference_volume_ml": reference, "arm": "cnn"})
    rows["case"] = rows["patient"] = [f"c{i}" for i in range(40)]
    figure = figures.fig3(rows.assign(matrix="circulant"))
    lines = named(figure, "difference on mean")
    assert len(lines) == steep
    fit = stats.linregress((volume + reference) / 2, volume - reference)
    assert f"slope {fit.slope:+.2f}".replace("-", "−") in notes(figure)[0]
    for line in lines:
        np.testing.assert_allclose(line.y, fit.intercept + fit.slope * np.asarray(line.x))


# Where an AIF came from


def aif_input(voxels, peak=100.0):
    from perfkit.inputfunction import AIF

    curve = peak * np.exp(-((np.arange(20) - 8) ** 2) / 8)
    return AIF(curve=curve, voxels=np.array(voxels, int).reshape(-1, 3), dt=1.5, method="test")


def test_aif_sources_fills_the_voxels_of_the_slice_and_opens_the_others():
    background = np.random.default_rng(0).normal(35, 3, (24, 30, 5))
    inputs = {"cnn": aif_input([], 60), "automatic": aif_input([[3, 4, 1], [5, 6, 1], [9, 9, 4]])}
    inputs["expert"] = aif_input([[10, 12, 1], [11, 12, 1]], 120)
    figure = figures.aif_sources(background, inputs, affine=np.diag([-1.0, -1.0, 5.0, 1.0]))
    np.testing.assert_allclose(figure.data[0].z, background[..., 1].T, rtol=1e-6)  # both arms are there
    (here,) = named(figure, "Automatic AIF, this slice")
    (other,) = named(figure, "Automatic AIF, other slices")
    assert ([*here.x], [*here.y], here.marker.symbol) == ([3, 5], [4, 6], "diamond")
    assert ([*other.x], [*other.customdata], other.marker.symbol) == ([9], [5], "diamond-open")
    assert not starting(figure, "CNN AIF, ")
    shown = means_of(figure)
    assert [trace.name for trace in shown] == ["Expert AIF", "Automatic AIF", "CNN AIF"]
    np.testing.assert_allclose(shown[0].y, inputs["expert"].curve)
    assert shown[0].x[-1] == 28.5
    assert axis_titles(figure) == {"Time (s)", "AIF (HU above baseline)"}
    assert "Slice 2 of 5; open: voxels of other slices" in notes(figure)


def test_aif_sources_without_any_voxel_shows_the_middle_slice():
    figure = figures.aif_sources(np.zeros((8, 9, 5)), {"cnn": aif_input([])}, unit_peak=True)
    assert "Slice 3 of 5; open: voxels of other slices" in notes(figure)
    assert max(figure.data[-1].y) == 1


# What can be missing


def drawings(roc_table, thresholds, patients):
    yield studyfigures.roc_figure(roc_table, patients=patients, zoom=0.2)
    yield studyfigures.threshold_figure(thresholds)
    yield studyfigures.raincloud_figure(patients, metric=["dice", "volume_ml"])
    yield studyfigures.volume_scatter(patients)
    yield studyfigures.volume_scatter(patients, log=False)


@pytest.mark.parametrize("empty", [None, pd.DataFrame(), roc().iloc[:0]])
def test_empty_tables_are_said_in_the_figure(empty):
    for figure in [*drawings(empty, empty, empty), studyfigures.forest_figure(empty)]:
        assert len(figure.data) == 0
        assert figure.layout.annotations[0].text.startswith("No ")


def test_an_unknown_matrix_is_said_in_the_figure():
    assert notes(studyfigures.roc_figure(roc(), matrix="toeplitz")) == [
        "No ROC curve for the matrix toeplitz"
    ]


def test_a_table_without_the_columns_is_refused_in_words():
    with pytest.raises(ValueError, match=r"must have the columns .*'tpr'.*\['tpr'\] are missing"):
        studyfigures.roc_figure(roc().drop(columns="tpr"))
    with pytest.raises(ValueError, match="reference must be an arm"):
        studyfigures.raincloud_figure(patient_scores(), reference="picasso")


@pytest.mark.parametrize("n", range(1, 7))
def test_one_to_six_arms_have_a_place_and_a_look_of_their_own(n):
    arms, scores = SIX[:n], patient_scores(arms=SIX[:n])
    for figure in drawings(roc(arms=arms), cut_offs(arms=arms), scores):
        figure.to_json()
    looks = {(style["colour"], style["dash"], style["symbol"]) for style in arm_styles(arms).values()}
    assert len(looks) == n
    scans = synthetic_scores(n=8, arms=arms)
    panels_of = {trace.xaxis for trace in figures.fig3(scans.assign(patient=scans["case"])).data}
    assert len(panels_of) == n


def test_arms_of_ones_own_differ_from_all_beside_them_in_colour_dash_and_symbol(monkeypatch):
    monkeypatch.setattr(drawing, "_guests", {})
    assert drawing.arm_colour("ours") == drawing.QUIET_COLOUR  # nobody has introduced it
    beside = ["ours", "theirs", "cnn", "mouridsen", "third"]
    styles = arm_styles(beside)
    assert list(styles) == ["cnn", "ours", "theirs", "mouridsen", "third"]
    for name in ("colour", "symbol"):
        assert len({style[name] for style in styles.values()}) == 5
    assert len({styles[arm]["dash"] for arm in ("ours", "theirs", "third")}) == 3
    assert styles["ours"]["colour"] == "#D55E00"  # Okabe & Ito's spare one that Mouridsen leaves
    assert arm_styles(["theirs", "fourth"])["theirs"] == styles["theirs"]  # it keeps its style
    assert drawing.arm_colour("ours") == styles["ours"]["colour"]
    many = arm_styles([f"arm {i}" for i in range(30)])
    assert {style["colour"] for style in many.values()} == set(drawing.SPARE_STYLES["colour"])


def test_an_arm_of_ones_own_looks_the_same_in_every_figure(monkeypatch):
    monkeypatch.setattr(drawing, "_guests", {})
    arms = ("expert", "ours", "theirs")
    scores = synthetic_scores(n=8, arms=arms)
    patients = patient_scores(n=8, arms=arms)
    drawn = [figures.fig3(scores), studyfigures.volume_scatter(scores)]
    drawn += [studyfigures.raincloud_figure(patients), studyfigures.roc_figure(roc(arms=arms))]
    drawn.append(studyfigures.threshold_figure(cut_offs(arms=arms)))
    for arm in ("ours", "theirs"):
        points = [trace for figure in drawn for trace in starting(figure, arm) if trace.marker.symbol]
        assert len(points) == 6  # the best cut-off has a point of its own
        colours = {trace.marker.color or trace.line.color for trace in points}
        assert ({trace.marker.symbol for trace in points}, colours) == (
            {drawing.arm_style(arm)["symbol"]},
            {drawing.arm_colour(arm)},
        )
    assert drawing.arm_style("ours")["symbol"] != drawing.arm_style("theirs")["symbol"]


def test_a_name_that_looks_like_markup_is_shown_as_it_is():
    odd = "<b>a</b> & %{x}"
    scores = synthetic_scores(n=6, arms=("expert", odd))
    patients = patient_scores(n=6, arms=("expert", odd))
    tests = pairedtests.patient_tests(patients, n_resamples=99)
    drawn = [figures.fig3(scores), studyfigures.volume_scatter(scores), studyfigures.forest_figure(tests)]
    drawn.append(studyfigures.raincloud_figure(patients, odd))
    drawn += [studyfigures.roc_figure(roc(arms=[odd])), studyfigures.threshold_figure(cut_offs(arms=[odd]))]
    drawn.append(figures.aif_curves_by_case({"case_1": {odd: np.r_[0, 10, 40, 20.0]}}))
    for figure in drawn:
        data = json.loads(figure.to_json())
        texts = json.dumps([data["layout"].get(name) for name in ("annotations", "xaxis", "yaxis")])
        texts += json.dumps([[trace.get("name"), trace.get("hovertemplate")] for trace in data["data"]])
        assert "<b>" not in texts and "%{x}<" not in texts and "& %" not in texts
        assert "&lt;b&gt;a&lt;/b&gt; &amp; %&#123;x}" in texts


def test_one_patient_has_curves_but_no_band():
    scores = patient_scores(n=1)
    all_figures = list(drawings(roc(patients=1), cut_offs(patients=1), scores))
    lines = means_of(all_figures[0])
    assert [line.name for line in lines if line.showlegend][2].endswith("n = 1")
    assert not any(len(band.x) for band in all_figures[0].data if "band" in band.name)
    assert not any(trace.type in ("violin", "box") for trace in all_figures[2].data)
    tests = pairedtests.patient_tests(scores, n_resamples=99)
    assert len(studyfigures.forest_figure(tests).data) == len(tests)


def test_equal_arms_make_no_cloud():
    scores = patient_scores(arms=("expert",))
    figure = studyfigures.raincloud_figure(pd.concat([scores, scores.assign(arm="cnn")]))
    assert [trace.type for trace in figure.data] == ["scatter"]
    assert notes(studyfigures.raincloud_figure(scores)) == ["No arm to compare with: Expert AIF alone"]


def test_grid_keeps_rows_even():
    assert [grid(n, 4) for n in (1, 4, 5, 6, 9)] == [(1, 1), (1, 4), (2, 3), (2, 3), (3, 3)]


def test_wash_keeps_the_colour():
    assert wash("#0072B2", 0.5) == "rgba(0,114,178,0.5)"


# Print


def test_print_says_what_is_missing_without_a_browser(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_browser", lambda: None)
    with pytest.raises(FileNotFoundError, match=r"none was found\. Install one, or set PERFKIT_CHROMIUM"):
        export.save_static(studyfigures.roc_figure(roc()), tmp_path / "roc")
    assert not list(tmp_path.iterdir())


def test_print_refuses_what_it_cannot_write(tmp_path):
    figure = studyfigures.roc_figure(roc())
    with pytest.raises(ValueError, match=r"png and svg: \['gif'\] came"):
        export.save_static(figure, tmp_path / "roc", ("gif",))
    with pytest.raises(ValueError, match="width_mm must be positive: 0 came"):
        export.save_static(figure, tmp_path / "roc", width_mm=0)


def test_print_starts_one_browser_for_all_figures(tmp_path, monkeypatch):
    import kaleido

    calls = []
    monkeypatch.setattr(export, "find_browser", lambda: "/a/browser")
    monkeypatch.setattr(export, "_give_size", lambda *arguments: None)
    monkeypatch.setattr(
        kaleido, "write_fig_from_object_sync", lambda jobs, **options: calls.append((jobs, options)) or ()
    )
    figure = studyfigures.roc_figure(roc())
    paths = export.save_many_static({tmp_path / "v1.a": figure, tmp_path / "b": figure}, width_mm=85)
    assert [path.name for path in paths] == ["v1.a.png", "v1.a.svg", "b.png", "b.svg"]
    ((jobs, options),) = calls
    assert options == {"kopts": {"path": "/a/browser", "mathjax": False}}
    assert {job["opts"]["width"] for job in jobs} == {380}
    assert jobs[0]["opts"]["scale"] * 380 == pytest.approx(85 / 25.4 * 300)
    export.save_static(figure.update_layout(meta={"printed_height": 123}), tmp_path / "c", ("svg",))
    export.save_static(figure, tmp_path / "c", ("svg",), height_mm=170)
    assert [calls[i][0][0]["opts"]["height"] for i in (1, 2)] == [123, 760]


@pytest.mark.browser
def test_pictures_have_their_size_on_paper(tmp_path, chromium_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("PERFKIT_CHROMIUM", chromium_path)
    figure = studyfigures.threshold_figure(cut_offs(patients=3))
    png, svg = export.save_static(figure, tmp_path / "cut", width_mm=85, height_mm=70)
    with Image.open(png) as image:
        size = [pixels / dpi * 25.4 for pixels, dpi in zip(image.size, image.info["dpi"], strict=True)]
    np.testing.assert_allclose(size, [85, 70], atol=0.3)
    head = svg.read_text(encoding="utf-8").split(">", 1)[0]
    assert 'width="85mm"' in head
    assert 'height="70.01mm"' in head  # whole pixels
    assert 'viewBox="0 0 380 313"' in head


@pytest.mark.browser
def test_a_browser_that_does_not_start_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_browser", lambda: str(tmp_path / "no-browser"))
    with pytest.raises(OSError, match="no-browser did not start"):
        export.save_static(studyfigures.roc_figure(roc()), tmp_path / "roc")
