"""The report says what the scores say, opens without a network, and draws every figure."""

import re
from html import unescape

import numpy as np
import pandas as pd
import pytest
from synthetic import synthetic_curves, synthetic_patients, synthetic_scores

from perfkit import drawing, figures, headline, pages, report, wording
from perfkit.comparison import patient_tests
from perfkit.report import write_report


def page_of(folder, *, whole=False, **changes):
    """Write a report; the tables of patients, whose statistics take seconds, only where asked for."""
    options = {"scores": synthetic_scores(), "pooled_auc": {"cnn": 0.901, "expert": 0.856}}
    options |= changes
    if whole:
        patients = synthetic_patients(options["scores"])
        roc, thresholds = synthetic_curves(patients)
        options = {"patients": patients, "roc": roc, "thresholds": thresholds} | options
    return write_report(folder, **options).read_text(encoding="utf-8")


def text_of(page):
    """Words a reader sees: no scripts, no tags, single spaces."""
    page = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page)).replace("\u2011", "-").split())


@pytest.fixture(scope="module")
def full_run(tmp_path_factory):
    """A report with everything in it."""
    folder = tmp_path_factory.mktemp("study") / "run"
    (folder / "notebooks").mkdir(parents=True)
    for name in ("04_compare_methods.ipynb", "04_compare_methods.html"):
        (folder / "notebooks" / name).write_text("{}")
    t = np.arange(40.0)
    curve = np.exp(-(((t - 15) / 5) ** 2))
    core = np.zeros((32, 32), bool)
    core[18:24, 12:20] = True
    rcbf = {arm: np.where(core, 0.2, 1.0) for arm in ("expert", "automatic", "cnn", "brain_mean")}
    slices = figures.CaseSlice(
        case="case_1",
        background=np.full((32, 32), 35.0),
        core=core,
        rcbf=rcbf,
        predicted={arm: image < 0.38 for arm, image in rcbf.items()},
        affine=np.diag([-1, -1, 5, 1]),
    )
    history = pd.DataFrame({"fold": 0, "epoch": [1, 2], "loss": [0.9, 0.7], "val_loss": [0.9, 0.8]})
    page_of(
        folder,
        whole=True,
        figures={
            "training_history": figures.training_history(history),
            "fig2": figures.fig2(slices),
            "aif_curves": figures.aif_curves_by_case({"case_1": {"cnn": curve, "expert": curve}}),
        },
        notebooks=[
            ("notebooks/04_compare_methods.ipynb", "Do the methods differ?"),
            ("notebooks/03.ipynb", "Missing"),
        ],
        parameters={"lambda_rel": 0.3, "cohort": "data/<phantom>"},
        notes=["The ground truth is a DWI-like label."],
        failures=[("case_99", "the series is constant")],
        flow=[{"label": "in the cohort", "scans": 21, "patients": 16}],
        cohort="Simulated scans.",
    )
    return folder


def test_numbers_of_the_page_are_those_of_the_scores(tmp_path):
    scores = synthetic_scores()
    text = text_of(page_of(tmp_path, scores=scores))
    rows = scores[scores["matrix"] == "circulant"]
    dice = rows.groupby("arm")["dice"].mean()
    assert f"The CNN's mean Dice is {dice['cnn']:.3f}, the expert's {dice['expert']:.3f}" in text
    sd = rows.groupby("arm")["dice"].std()
    assert f"{dice['cnn']:.3f} ({sd['cnn']:.3f})" in text
    assert "20 scans of 15 patients" in text
    assert "0.359 (0.201)" in text  # the paper's
    assert "0.901" in text  # pooled over voxels
    assert "The same with the printed (Volterra) matrix" in text
    assert "not for clinical use" in text.lower()


def test_page_names_parameters_versions_failures_and_notebooks(full_run):
    page = (full_run / "index.html").read_text(encoding="utf-8")
    text = text_of(page)
    assert "1 scan failed" in text
    assert "case_99: the series is constant" in text
    assert text.index("case_99") < text.index("Table 1: how well")  # failures first
    assert "lambda_rel 0.3" in text
    assert "data/<phantom>" in text  # escaped, not markup
    assert "numpy " + np.__version__ in text
    assert 'href="notebooks/04_compare_methods.ipynb"' in page
    assert 'href="notebooks/04_compare_methods.html"' in page
    assert "Missing (not written in this run)" in text
    assert "Differentiable Deconvolution for Improved Stroke Perfusion Analysis" in text


def test_figures_come_in_the_order_of_the_paper(full_run):
    page = (full_run / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)"', page) == [
        "cohort",
        "table1",
        "fig2",
        "fig3",
        "volumes",
        "raincloud",
        "roc",
        "thresholds",
        "aif_curves",
        "training_history",
        "tests",
        "patients",
        "mixed",
        "agreement",
        "eligibility",
        "power",
        "cases",
        "methods",
        "notebooks",
    ]


def test_nothing_outside_the_folder_is_asked_for(full_run):
    page = (full_run / "index.html").read_text(encoding="utf-8")
    bare = re.sub(r"<script>.*?</script>", "", page, flags=re.S)  # plotly's own text names addresses
    assert re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="([^"]*)"', bare) == ["data:,"]
    assert not re.search(r"@import|url\(", bare)
    assert {path.name for path in full_run.iterdir()} == {"index.html", "notebooks"}


def test_every_section_but_the_first_is_in_the_navigation(full_run):
    page = (full_run / "index.html").read_text(encoding="utf-8")
    menu = page[page.index("<nav>") : page.index("</nav>")]
    sections = re.findall(r'<section id="(\w+)"', page)
    assert re.findall(r'href="#(\w+)"', menu) == sections[1:]
    names = text_of(menu)
    assert "Tests Paired Mixed model Agreement Treated? Power Cases" in names


def test_an_arm_of_ones_own_has_its_colour_in_tables_and_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "_guests", {})
    page = page_of(tmp_path, scores=synthetic_scores(n=8, arms=("expert", "mine")))
    marks = re.findall(r'class="dot" style="background:(#\w+)"></span>mine', page)
    assert len(marks) > 3 and set(marks) == {drawing.arm_colour("mine")} != {drawing.QUIET_COLOUR}
    assert f'"color":"{drawing.arm_colour("mine")}"' in page


def test_captions_say_what_bands_are_and_which_scans_are_shown(full_run):
    text = text_of((full_run / "index.html").read_text(encoding="utf-8"))
    assert "bands their 95 % intervals by bootstrap over patients" in text
    assert "The first 12 of 20 scans are shown." in text


def test_names_and_counts_fit_into_their_sentences(tmp_path):
    text = text_of(
        page_of(tmp_path / "a", scores=synthetic_scores(n=1, arms=("cnn", "brain_mean")), reference="cnn")
    )
    assert "Tests against the CNN AIF" in text
    assert "mean Dice, 1 scan " in text and "1 scans" not in text
    text = text_of(page_of(tmp_path / "b", scores=synthetic_scores(n=3)))
    assert "Tests against the expert AIF" in text
    assert "The worst Dice of the expert AIF first" in text and "What failed" not in text
    assert "The first 12" not in text


def test_difference_and_its_tests_are_said_with_n_and_unit():
    scores = synthetic_scores(n=20)
    scores.loc[scores["arm"] == "cnn", "dice"] += 0.2
    rows = scores[scores["matrix"] == "circulant"]
    first, control = headline.summary_sentences(rows, "expert")
    assert "higher by" in first
    assert "over 20 scans" in first
    assert "over 15 patients" in first
    assert "would seldom give" in first
    assert "the CNN is above it" in control
    patients = synthetic_patients(scores)
    first, control = headline.summary_sentences(rows, "expert", patients, patient_tests(patients, "expert"))
    wide = patients.query("matrix == 'circulant'").pivot(index="patient", columns="arm", values="dice")
    for said, other in ((first, "expert"), (control, "brain_mean")):
        difference = (wide["cnn"] - wide[other]).mean()
        assert f"higher by {difference:.3f} (95 % CI +0." in said and "over 15 patients" in said
    assert "after Holm" in first and "after Holm" not in control  # that is one comparison
    assert "tested by itself, outside Holm's correction" in control
    tests = patient_tests(patients, "expert").assign(wilcoxon_p_holm=0.2)
    first, _ = headline.summary_sentences(rows, "expert", patients, tests)
    assert "after Holm p" not in first and "after Holm .20" in first
    assert first.endswith("among the 15 comparisons of this study it can once.")


def test_a_missing_arm_does_not_turn_the_words_round():
    """The CNN failed where the expert is worst, and is worse than the others where it did not."""
    scores = synthetic_scores(n=20, seed=1)
    rows = scores[scores["matrix"] == "circulant"]
    dice = rows.pivot(index="case", columns="arm", values="dice")
    kept = dice.index[dice["expert"] > dice["expert"].median()]
    expert = scores.loc[scores["arm"] == "expert", "dice"].to_numpy()
    for arm, less in (("cnn", 0.01), ("brain_mean", 0.0), ("automatic", 0.0)):
        scores.loc[scores["arm"] == arm, "dice"] = expert - less
    scores = scores[(scores["arm"] != "cnn") | scores["case"].isin(kept)]
    rows = scores[scores["matrix"] == "circulant"]
    means = rows.groupby("arm")["dice"].mean()
    assert means["cnn"] > means["expert"]  # over different scans
    first, control = headline.summary_sentences(rows, "expert", synthetic_patients(scores))
    common = dice.loc[kept, "expert"].mean()
    assert f"mean Dice is {common - 0.01:.3f}, the expert's {common:.3f}: lower by 0.010 over the 10" in first
    assert "the CNN is not above it: lower by 0.010" in control
    best = [[cell["best"] for cell in row["cells"]] for row in wording.table1_rows(scores, "circulant")]
    assert not np.any(best)  # means over different scans have no best


def test_all_of_a_report_has_one_reference(tmp_path):
    """Where nobody has picked, notebook 04 compares with the control: so do lead, tests and figures."""
    scores = synthetic_scores(arms=("automatic", "cnn", "brain_mean"))
    page = page_of(tmp_path, whole=True, scores=scores, reference="brain_mean")
    text = text_of(page)
    assert "Tests against the mean brain curve" in text and "the mean brain curve's" in text
    assert "automatic AIF's 0." not in text
    assert r'"Arm \u2212 mean brain curve' in page


def test_the_flow_and_every_case_are_listed_the_failed_ones_first(full_run):
    text = text_of((full_run / "index.html").read_text(encoding="utf-8"))
    assert "21 scans, 16 pat. in the cohort" in text
    listed = text[text.index("Every case") :]
    assert listed.index("case_99") < listed.index("the series is constant")
    scores = synthetic_scores().query("matrix == 'circulant' and arm == 'expert'").sort_values("dice")
    places = [listed.index(f" {case} p") for case in scores["case"]]
    assert places == sorted(places)  # the worst first


def test_the_methods_are_written_from_the_parameters(tmp_path):
    parameters = {"lambda_rel": 0.15, "threshold": 0.3, "expert": "Dr. Who", "automatic": "shi"}
    text = text_of(page_of(tmp_path, parameters=parameters))
    assert "λ = 0.15 of the largest singular value" in text and "core is rCBF < 0.3." in text
    assert "picked by Dr. Who" in text and "the method 'shi'" in text
    assert "20 scans of 15 patients were analysed; 5 patients had more than one slab" in text


def test_a_run_without_the_tables_of_patients_still_has_its_report(tmp_path):
    text = text_of(page_of(tmp_path))
    assert "Table 1" in text and "Paired, the patient as unit" not in text and "ROC curves" not in text


def test_report_of_one_arm_alone_says_there_is_nothing_to_test(tmp_path):
    text = text_of(
        page_of(tmp_path, whole=True, scores=synthetic_scores(n=3, arms=("automatic",)), pooled_auc=None)
    )
    assert "nothing to test" in text and "There is nothing to compare" in text
    assert "Table 1 shows those that are" in text


def test_report_of_one_patient_with_empty_predictions_and_a_missing_arm(tmp_path):
    scores = synthetic_scores(n=3).assign(patient="p1")
    scores.loc[scores["arm"] == "automatic", ["dice", "jaccard", "volume_ml"]] = 0.0
    scores.loc[scores["arm"] == "automatic", "hd95_mm"] = np.nan
    scores = scores[(scores["arm"] != "cnn") | (scores["case"] != "case_1")]
    text = text_of(page_of(tmp_path, whole=True, scores=scores))
    assert "All scans are of one patient" in text
    assert "Automatic AIF: the predicted core is empty in every scan" in text
    assert "CNN AIF has results for 2 of 3 scans" in text
    for arm in ("automatic AIF's", "mean brain curve's"):  # what holds for many rows is said once
        assert (
            len(re.findall(f"of the {arm} AUC, Dice, [^.]* core volume over 1 patient: one patient", text))
            == 1
        )
    assert "of the automatic AIF's HD95 over 0 patients: no patient; 1 patient without" in text
    assert "of the CNN's AUC, Dice, Jaccard, HD95 and core volume over 0 patients" in text


def test_what_holds_for_all_rows_is_said_once_without_names(tmp_path):
    text = text_of(page_of(tmp_path, whole=True, scores=synthetic_scores(n=3).assign(patient="p1")))
    assert text.count("No test was possible over 1 patient: one patient.") == 1
    assert "No test was possible of" not in text


def test_a_missing_reference_and_a_core_that_is_nowhere_are_said(tmp_path):
    scores = synthetic_scores(n=6)
    scores["reference_volume_ml"] = np.where(scores["case"].isin(["case_1", "case_2"]), 0.0, 20.0)
    failures = [("case_1", "no AIF of one arm"), ("case_9", "cut off"), "case_8: cut off"]
    options = {"scores": scores[scores["arm"] != "expert"], "failures": failures}
    text = text_of(page_of(tmp_path, whole=True, **options))
    assert "Expert AIF, the reference of this run, has no result: Automatic AIF is the reference" in text
    assert "The ground truth's core is empty in 2 of 6 scans: AUC" in text
    assert "; 2 more could not be used" in text  # case_1 stands in the numbers of other arms
    scores["reference_volume_ml"] = 0.0
    assert any("core is empty in every scan" in note for note in wording.plain_notes(scores))
    assert wording.plain_notes(synthetic_scores(n=6)) == []


def test_the_best_mean_is_one_over_the_same_scans():
    scores = synthetic_scores(n=8)
    worst = scores.query("matrix == 'circulant' and arm == 'expert'").nlargest(3, "hd95_mm").index
    scores.loc[worst, "hd95_mm"] = np.nan  # the expert predicts nothing where it is far off
    rows = wording.table1_rows(scores, "circulant", {arm: 0.9 for arm in ("expert", "cnn")})
    marked = [[cell["best"] for cell in row["cells"]] for row in rows]
    names = ["pooled_auc", *wording.METRICS]
    best = dict(zip(names, np.any(marked, axis=0), strict=True))
    assert best.pop("hd95_mm") == False and all(best.values())  # noqa: E712 NumPy's
    # as many scans each, yet others
    easy, hard = (set(scores["case"].unique()[part]) for part in (slice(6), slice(2, 8)))
    chosen = scores["case"].isin(easy).where(scores["arm"] == "expert", scores["case"].isin(hard))
    rows = wording.table1_rows(scores[chosen], "circulant")
    assert len({row["scans"] for row in rows}) == 1
    assert not any(cell["best"] for row in rows for cell in row["cells"])


def test_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        write_report(tmp_path / "run", scores=synthetic_scores(n=2).iloc[:0])
    assert not (tmp_path / "run").exists()


def test_pooled_auc_may_come_per_matrix(tmp_path):
    pooled = {"circulant": {"cnn": 0.911}, "volterra": {"cnn": 0.822}}
    text = text_of(page_of(tmp_path, pooled_auc=pooled))
    assert text.index("0.911") < text.index("printed (Volterra)") < text.index("0.822")


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0001, "p < .001"), (0.0123, "p = .012"), (0.43, "p = .43"), (1, "p = 1.00"), (np.nan, "p –")],
)
def test_p_values_are_printed_as_journals_do(p, text):
    assert wording.p_value(p) == text


def test_differences_are_said_in_the_words_of_the_metric():
    assert wording.difference("dice", -0.0312) == "lower by 0.031"
    assert wording.difference("hd95_mm", -1.24) == "shorter by 1.2 mm"
    assert wording.difference("volume_ml", 3.0) == "larger by 3.0 ml"
    assert wording.difference("dice", 0.0001) == "no difference to the last decimal"
    assert wording.signed("dice", -0.0312) == "−0.031"
    assert wording.signed("dice", -0.0001) == "0.000"


def test_volumes_are_said_with_bias_and_limits():
    scores = synthetic_scores(n=3, arms=("cnn",)).query("matrix == 'circulant'")
    scores["volume_ml"] = scores["reference_volume_ml"] + [1.0, 2.0, 3.0]
    (sentence,) = wording.volume_sentences(scores)
    assert "on average 2.0 ml larger than the ground truth (95 % CI −0.5 to +4.5)" in sentence
    assert "between 0.0 and +4.0 ml (3 scans)" in sentence
    scores["volume_ml"] = scores["reference_volume_ml"] + [1.0, -1.0, 0.0]
    assert "on average as large as the ground truth (95 % CI" in wording.volume_sentences(scores)[0]
    (sentence,) = wording.volume_sentences(scores.assign(patient="p"))  # nothing to resample
    assert "as large as the ground truth; about" in sentence and "nan" not in sentence and "–" not in sentence


def test_a_headline_without_a_difference_is_a_sentence():
    scores = synthetic_scores(n=20)
    for arm in ("cnn", "brain_mean"):
        scores.loc[scores["arm"] == arm, "dice"] = scores.loc[scores["arm"] == "expert", "dice"].to_numpy()
    patients = synthetic_patients(scores)
    rows = scores[scores["matrix"] == "circulant"]
    first, control = headline.summary_sentences(rows, "expert", patients)
    assert "Patient by patient it is the same to the last decimal" in first
    assert "the CNN is not above it: the same to the last decimal" in control
    seen = patients["cases"].where(patients["arm"] != "cnn", "other slabs")
    _, control = headline.summary_sentences(rows, "expert", patients.assign(cases=seen))
    assert "the CNN cannot be compared with it: not known" in control


def test_a_number_stays_on_the_line_of_its_name():
    tight = pages.unbroken("p = .03, p < .001, 95 %; t-test")
    assert tight == "p\u00a0=\u00a0.03, p\u00a0<\u00a0.001, 95\u00a0%; t\u2011test"


def test_software_versions_name_what_computed():
    versions = report.software_versions()
    assert versions["numpy"] == np.__version__
    assert "perfkit" in versions


@pytest.mark.browser
def test_page_draws_every_figure_without_network(full_run, chromium_path, tmp_path):
    from playwright.sync_api import sync_playwright

    asked, said = [], []
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

    def only_files(route):
        asked.append(route.request.url)
        route.continue_() if route.request.url.startswith(("file:", "data:")) else route.abort()

    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium_path, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.route("**/*", only_files)
        page.goto((full_run / "index.html").as_uri())
        page.wait_for_function("document.querySelectorAll('.js-plotly-plot .main-svg').length >= 8 * 2")
        drawn = page.locator(".js-plotly-plot").count()
        hits = page.locator("#plot-fig3 .scatterlayer .point").count()
        images = page.locator("#plot-fig2 .hm image").count()
        overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        tables = page.evaluate(
            "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
        )
        head = page.locator("#cases th", has_text="True core")
        head.locator("button").click()
        volumes = page.locator("#cases tbody td:nth-child(3)").all_inner_texts()
        order = head.get_attribute("aria-sort")
        page.locator("#plot-fig3").hover()
        buttons = page.locator(".modebar-btn").evaluate_all("all => all.map(button => button.dataset.title)")
        page.screenshot(path=tmp_path / "report.png", full_page=True)
        browser.close()
    assert said == []
    assert order == "ascending" and volumes[-1] == "–"  # the failed case has no volume
    assert [float(text) for text in volumes[:-1]] == sorted(float(text) for text in volumes[:-1])
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert (drawn, hits, images) == (8, 4 * 20, 5)
    assert "Zoom" in buttons
    assert not any(re.search("share|cloud|edit", title, re.I) for title in buttons)  # nothing uploads images
    assert overflow <= 0
    assert max(tables) <= 0  # nothing is cut off in a 1280 px window
    assert (tmp_path / "report.png").stat().st_size > 50_000


@pytest.mark.browser
def test_figures_for_print_lie_beside_the_report(chromium_path, tmp_path, monkeypatch):
    monkeypatch.setenv("PERFKIT_CHROMIUM", chromium_path)
    page_of(tmp_path, scores=synthetic_scores(n=8), pictures=("svg",))
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"fig3.svg", "volumes.svg"}
    assert "Mean of both volumes (ml)" in (tmp_path / "figures" / "fig3.svg").read_text(encoding="utf-8")


@pytest.mark.browser
def test_paper_repeats_the_headings_and_keeps_the_arms_in_a_row(full_run, chromium_path):
    """Chromium draws no button in the heading it repeats: in print a heading is its text alone."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = engine.chromium.launch(executable_path=chromium_path, args=flags)
        page = browser.new_page(viewport={"width": 718, "height": 1047})  # A4 less 10 mm on each side
        page.emulate_media(media="print")
        page.goto((full_run / "index.html").as_uri())
        style = "all => all.map(e => getComputedStyle(e).%s)"
        buttons = page.locator("#cases th button").evaluate_all(style % "display")
        after = page.locator("section > h2").evaluate_all(style % "breakAfter")
        captions = page.locator("section > p:has(+ .plot)").evaluate_all(style % "breakAfter")
        tops = page.locator(".tile").evaluate_all("all => all.map(e => e.getBoundingClientRect().top)")
        wide = page.evaluate(
            "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
        )
        browser.close()
    assert len(buttons) == 4 + 2 * 4 and set(buttons) == {"contents"}
    assert set(after) == set(captions) == {"avoid"} and len(captions) == 8
    assert len(tops) == 4 and len(set(tops)) == 1
    assert max(wide) <= 0
