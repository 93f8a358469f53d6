"""A page per case: made from a scan, rendered again without it, damaged or odd cases said in words."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from perfkit import annotations, arms, casefiles, casepages, evaluation
from perfkit.datasets import open_cohort
from perfkit.maps import core_mask
from perfkit.pictures import PLAYED_SIZE, View
from perfkit.preprocessing import prepare_cohort


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_cohort):
    """(folder, cohort, prepared, inputs, evaluation, series) of three scans."""
    cohort = open_cohort(tiny_cohort).select(3)
    ready = prepare_cohort(cohort, keep=casefiles.played_series)
    prepared = ready.scans
    picks = annotations.latest(cohort.folder / "aif" / "simulated-rater.csv")
    inputs, _ = arms.arm_inputs(prepared, picks)
    curves = {arm: arms.curves_of(held) for arm, held in inputs.items()}
    found = evaluation.evaluate(prepared, curves)
    folder = tmp_path_factory.mktemp("run")
    assert casefiles.write_cases(folder, ready.kept, prepared, inputs, progress=False) == {}
    return folder, cohort, prepared, inputs, found, ready.kept


def facts_of(folder, case):
    return json.loads((folder / "cases" / case / "case.json").read_text(encoding="utf-8"))


def test_a_case_leaves_its_pictures_curves_and_sources(run):
    folder, _, prepared, inputs, _, _ = run
    for case, scan in prepared.items():
        facts = facts_of(folder, case)
        assert list(facts["arms"]) == ["expert", "automatic", "brain_mean"]
        files = {path.name for path in (folder / "cases" / case).iterdir()}
        named = re.findall(r'"([\w.]+\.webp)"', json.dumps(facts))
        assert set(named) == {name for name in files if name.endswith(".webp")}
        assert not any(name.startswith(".") for name in files)
        for name in named:
            with Image.open(folder / "cases" / case / name) as image:
                image.verify()
        assert facts["arms"]["expert"]["voxels"] == len(inputs["expert"][case].voxels)
        np.testing.assert_allclose(
            facts["arms"]["automatic"]["aif"], inputs["automatic"][case].curve, atol=1e-3
        )
        assert facts["core_ml"] == pytest.approx(scan.core.sum() * np.prod(scan.spacing) / 1000)
        core = scan.core[..., facts["slice"]]
        assert core.sum() == scan.core.sum(axis=(0, 1)).max()


def test_the_series_that_is_played_is_the_slice_as_it_came(run):
    _, cohort, prepared, _, _, series = run
    for case, scan in prepared.items():
        z = int(np.argmax(scan.core.sum(axis=(0, 1))))
        pixels, layout = series[case]
        rows = View(scan.brain.any(axis=2), scan.affine).rows(cohort[case].ctp[:, :, z])
        height, width, n = rows.shape
        assert layout["frames"] == n and max(height, width) <= PLAYED_SIZE  # so small a scan is not shrunk
        expected = (np.clip(rows / 120, 0, 1) * 255).astype(int)
        for t in range(n):
            y, x = height * (t // layout["columns"]), width * (t % layout["columns"])
            np.testing.assert_allclose(pixels[y : y + height, x : x + width], expected[..., t], atol=1)


def test_the_core_drawn_is_the_core_scored(run, tmp_path, monkeypatch):
    """One slice mapped alone gives the same core as the whole scan."""
    _, _, prepared, inputs, _, series = run
    case, scan = next(iter(prepared.items()))
    drawn = []
    monkeypatch.setattr(casefiles, "core_mask", lambda *given: drawn.append(core_mask(*given)) or drawn[-1])
    casefiles.write_case(tmp_path / "c", series[case], scan, {"expert": inputs["expert"][case]})
    z = int(np.argmax(scan.core.sum(axis=(0, 1))))
    whole = (arms.rcbf_map(scan, inputs["expert"][case].curve) < 0.38) & scan.brain
    assert whole[..., z].any() and np.array_equal(drawn[0], whole[..., z])


def test_pages_are_made_again_from_what_was_left(run):
    folder, _, prepared, _, found, _ = run
    order = list(prepared)[::-1]
    links = casepages.render_cases(folder, found.scores, order)
    assert list(links) == order
    middle = (folder / links[order[1]]).read_text(encoding="utf-8")
    assert f'href="../{order[0]}/index.html"' in middle and f'href="../{order[2]}/index.html"' in middle
    assert 'href="../../index.html#cases"' in middle
    row = found.scores.query("case == @order[1] and arm == 'expert' and matrix == 'volterra'").iloc[0]
    assert f"{row['dice']:.3f}" in middle and f"{row['hd95_mm']:.1f}" in middle
    assert not re.search(r'(?:src|href)="https?:', middle)
    for name in re.findall(r'(?:href="|url\()([\w.]+\.webp)', middle):
        assert (folder / "cases" / order[1] / name).exists()
    casepages.render_cases(folder, found.scores, order)
    assert (folder / links[order[1]]).read_text(encoding="utf-8") == middle


def test_a_case_without_a_core_or_with_an_arm_that_fails_has_a_page_that_says_so(run, tmp_path):
    _, _, prepared, inputs, found, series = run
    case, scan = next(iter(prepared.items()))
    given = {"expert": inputs["expert"][case], "cnn": np.zeros(scan.concentration.shape[-1])}
    casefiles.write_case(tmp_path / case, series[case], replace(scan, core=None), given)
    page = casepages.render_case(tmp_path / case, found.scores[:0], home="../index.html")
    text = page.read_text(encoding="utf-8")
    assert "The core of this scan is not known" in text
    assert re.search(r"CNN AIF: .*zero", text)
    assert "Numbers" not in text


def test_a_scan_that_cannot_be_shown_is_reported_and_the_others_go_on(run, tmp_path):
    _, _, prepared, inputs, _, series = run
    first, second, third = prepared

    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / first).write_text("in the way")
    less = {name: kept for name, kept in series.items() if name != third}
    failed = casefiles.write_cases(tmp_path, less, prepared, inputs, progress=False)
    assert list(failed) == [first, third]
    assert "File exists" in failed[first] and "was not kept" in failed[third]
    assert (tmp_path / "cases" / second / "case.json").exists()


def test_damaged_facts_are_named(run, tmp_path):
    (tmp_path / "case.json").write_text("{")
    with pytest.raises(ValueError, match=r"case\.json is damaged .*Run notebook 04 again"):
        casepages.render_case(tmp_path, pd.DataFrame(), home="")


@pytest.mark.parametrize(
    "case, safe", [("case_1", True), ("sub-01_ses-2", True), ("a/b", False), ("..", False), ("ä ö", False)]
)
def test_page_names_are_safe_and_differ(case, safe):
    name = casefiles.page_name(case)
    assert (name == case) is safe
    assert re.fullmatch(r"[\w.-]+", name) and name.strip(".")
    assert casefiles.page_name("a_b") != casefiles.page_name("a/b") != casefiles.page_name("a b")


def test_words_of_a_case_are_escaped(run, tmp_path):
    _, _, prepared, inputs, found, series = run
    case, scan = next(iter(prepared.items()))
    odd = replace(scan, notes=("<script>alert(1)</script>",), patient="<b>p</b>")
    casefiles.write_case(tmp_path / case, series[case], odd, {"expert": inputs["expert"][case]})
    page = casepages.render_case(tmp_path / case, found.scores[:0], home="").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "<b>p</b>" not in page


def words_of(page):
    return " ".join(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")).split())


def test_volume_errors_have_a_sign_and_what_is_said_of_an_aif_are_sentences(run, tmp_path):
    _, _, prepared, inputs, found, series = run
    case, scan = next(iter(prepared.items()))
    flagged = replace(inputs["expert"][case], notes=("It is weak: below 15 HU.", "It is truncated."))
    casefiles.write_case(tmp_path / case, series[case], scan, {"expert": flagged})
    rows = found.scores.query("case == @case and arm == 'expert'").head(1)
    for error, text in ((-3.04, "−3.0"), (3.04, "+3.0"), (np.nan, "–")):
        page = casepages.render_case(tmp_path / case, rows.assign(volume_error_ml=error), home="")
        (row,) = re.findall(
            r"<tr><td class=.k.>(?:(?!</tr>).)*</tr>", page.read_text(encoding="utf-8").split("Numbers")[1]
        )
        assert re.findall(r"<td class=.n.>([^<]*)</td>", row)[-2] == text
    assert re.search(r"Slices? [\d, ]+\. It is weak: below 15 HU\. It is truncated\.", words_of(page))
    assert "The other maps, with the expert AIF" in words_of(page)


def test_arms_of_ones_own_have_a_colour_each(run, tmp_path, monkeypatch):
    monkeypatch.setattr(casepages.drawing, "_guests", {})
    _, _, prepared, inputs, found, series = run
    case, scan = next(iter(prepared.items()))
    given = {"expert": inputs["expert"][case]} | {arm: inputs["automatic"][case] for arm in ("mine", "yours")}
    casefiles.write_case(tmp_path / case, series[case], scan, given)
    text = casepages.render_case(tmp_path / case, found.scores[:0], home="").read_text(encoding="utf-8")
    lines = re.findall(r'<polyline [^>]*stroke="(#\w+)"(?: stroke-dasharray="([\d ]+)")?', text)
    assert len({colour for colour, _ in lines}) == 3 and len({dash for _, dash in lines}) == 3
    assert "#6B7280" not in text  # grey is for strangers


def test_one_stands_on_the_scale_where_it_belongs(run):
    folder, _, prepared, _, found, _ = run
    link = casepages.render_cases(folder, found.scores, list(prepared))[next(iter(prepared))]
    assert 'style="left:66.7%">healthy = 1' in (folder / link).read_text(encoding="utf-8")  # of 0 to 1.5


@pytest.mark.browser
def test_nothing_of_a_page_is_cut_off_on_a_screen_or_on_paper(run, chromium_path):
    from playwright.sync_api import sync_playwright

    folder, _, prepared, _, found, _ = run
    link = casepages.render_cases(folder, found.scores, list(prepared))[next(iter(prepared))]
    cut = "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
    split = "[...document.querySelectorAll('figure')].map(e => getComputedStyle(e).breakInside)"
    with sync_playwright() as engine:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = engine.chromium.launch(executable_path=chromium_path, args=flags)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto((folder / link).as_uri())
        screen = page.evaluate(cut)
        page.set_viewport_size({"width": 718, "height": 1047})  # A4 less 10 mm on each side
        page.emulate_media(media="print")
        paper, breaks = page.evaluate(cut), set(page.evaluate(split))
        browser.close()
    assert len(screen) >= 3
    assert max(screen) <= 0
    assert max(paper) <= 0
    assert breaks == {"avoid"}
