"""The report of a study: one page that opens offline, with the numbers said in words, and a page per case.

Every sentence is made from the scores of the run. ``index.html`` holds all it needs, the plotting library
too, so it can be sent alone; the pages of the cases lie beside it in ``cases``.
"""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path

from . import pages
from .casepages import render_cases
from .casetable import case_order, case_table
from .comparison import METRICS, ordered_arms, paired_tests
from .drawing import CONFIG, arm_label, introduce
from .export import save_many_static
from .headline import summary_sentences
from .reporttables import DECISIVE, TESTED, statistics, tests_of_patients
from .wording import (
    METRIC_LABELS,
    comparison_rows,
    count,
    methods_paragraph,
    plain_notes,
    table1_rows,
    volume_sentences,
)

# name -> (heading, words under it); other figures follow under their own name
FIGURES = {
    "fig2": (
        "Fig. 2: relative blood flow and the core",
        "Each row is a scan. Left, the ground truth; then the rCBF map of each arm, all in the same colours. "
        "Dark tissue has lost its flow. White outlines the core seen on DWI, orange the core that the "
        "threshold predicts. Images are in the radiological convention.",
    ),
    "fig3": (
        "Fig. 3: agreement of core volumes",
        "Each dot is a scan: the further from zero, the more the predicted volume differs from the ground "
        "truth. The solid line is the bias, dashed lines are the limits of agreement, bands their 95 % "
        "intervals. Point at a dot to see its scan.",
    ),
    "volumes": (
        "Predicted against true volume",
        "On the diagonal the predicted core is as large as the true one. 70 ml is the limit of DEFUSE 3.",
    ),
    "raincloud": (
        "Paired differences",
        "Each dot is a patient: the arm's value less the reference's. The cloud is their density, the box "
        "holds the middle half; inside the grey band a difference would not matter.",
    ),
    "roc": (
        "ROC curves of rCBF",
        "The mean curve over patients, with 95 % bands from a bootstrap over patients.",
    ),
    "thresholds": (
        "Which threshold?",
        "Dice against the rCBF cut-off. The nominal threshold of a rule need not be the best one: the "
        "regularised deconvolution lowers healthy flow more than sick flow.",
    ),
    "aif_curves": (
        "AIF curves",
        "The input functions of all arms, scaled to one peak: rCBF does not depend on the height of an AIF. "
        "With the circulant matrix it does not depend on its timing either, so nothing in the loss asks a "
        "learned curve to come when the blood does, or to stay above zero: it is whatever serves the map, "
        "and no measurement of an artery.",
    ),
    "training_history": ("Training", "Thin lines are folds, thick lines are the mean over folds."),
}
SHORT = {"volumes": "Volumes", "raincloud": "Differences", "roc": "ROC", "thresholds": "Threshold"}
SHORT |= {"aif_curves": "AIFs"}
PACKAGES = (
    "perfkit",
    "numpy",
    "scipy",
    "pandas",
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "nibabel",
    "nilearn",
)
PACKAGES += ("scikit-image", "scikit-learn", "statsmodels", "plotly", "papermill")


def write_report(
    run_folder,
    *,
    scores,
    patients=None,
    roc=None,
    thresholds=None,
    pooled_auc=None,
    figures=None,
    notebooks=(),
    parameters=None,
    notes=(),
    failures=(),
    flow=None,
    cohort="",
    title="Does a learned arterial input function find the stroke core better?",
    reference="expert",
    pictures=(),
    model=None,
) -> Path:
    """Write ``index.html`` into the folder of a run, and a page for each case that the run left pictures of.

    Parameters
    ----------
    run_folder : folder; made where missing.
    scores : DataFrame, one row per scan × arm × matrix (see `evaluation`).
    patients, roc, thresholds : DataFrames of the same evaluation; what depends on a missing one is left out.
    pooled_auc : {arm: AUC over all voxels} of the first matrix, or {matrix: {arm: AUC}}.
    figures : {name: plotly figure}; the names of ``FIGURES`` have their place and words, others come
        after them. Those that need only the tables are drawn where they are not given.
    notebooks : (path, title) of the executed notebooks, absolute or relative to the run's folder.
    parameters : {name: value} of the run.
    notes : lines the reader should know.
    failures : (case, reason) or lines; scans that are in no number.
    flow : list of dict of label, scans, patients: from the cohort to what was evaluated.
    cohort : a sentence on the data.
    reference : the arm the others are tested against; where it is missing, the first that is there.
    pictures : of "png" and "svg": also write the figures for print, into ``figures``; needs a browser.
    model : ``mixedmodel.MixedModel`` of the scores' Dice; one against another reference is fitted anew.

    Returns
    -------
    Path of ``index.html``.
    """
    if not len(scores):
        raise ValueError(
            "A report needs scores: the table has no rows. Every scan may have failed: see the log."
        )
    folder = Path(run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    matrices = sorted(set(scores["matrix"]))  # circulant, the one of Table 1, comes before volterra
    pooled = pooled_auc if _nested(pooled_auc) else {matrices[0]: pooled_auc}
    rows = scores[scores["matrix"] == matrices[0]]
    present = ordered_arms(rows["arm"])
    introduce(present)
    notes = [*map(str, notes)]
    if reference not in present:
        notes.append(
            f"{arm_label(reference)}, the reference of this run, has no result: {arm_label(present[0])} is "
            "the reference instead."
        )
        reference = present[0]
    tests = paired_tests(rows, reference, matrix=matrices[0], metrics=_tested(rows))
    by_patient = None if patients is None else tests_of_patients(patients, reference, matrices[0])
    tables = [(matrix, table1_rows(scores, matrix, pooled.get(matrix))) for matrix in matrices]
    failed = [entry if isinstance(entry, str) else ": ".join(map(str, entry)) for entry in failures]
    drawn = dict(figures or {})
    for name, draw in _from_tables(rows, patients, roc, thresholds, matrices[0], reference):
        if name not in drawn:
            drawn[name] = draw()
    order = case_order(rows, reference, failures)
    page = pages.template("study.html.j2").render(
        title=title,
        cohort=cohort,
        sizes=f"{count(rows['case'].nunique(), 'scan')} of {count(rows['patient'].nunique(), 'patient')}",
        summary=summary_sentences(rows, reference, None if by_patient is None else patients, by_patient),
        tables=tables,
        columns=[METRIC_LABELS[name] for name in ("pooled_auc", *METRICS)],
        tests=comparison_rows(tests, by_patient),
        corrected=by_patient is not None,
        remarks=sorted({remark for note in tests["note"] for remark in note.split("; ") if remark}),
        statistics=[]
        if by_patient is None
        else statistics(scores, patients, reference, matrices[0], tests=by_patient, model=model),
        reference=arm_label(reference),
        volumes=volume_sentences(rows) if {"volume_ml", "reference_volume_ml"} <= set(rows) else [],
        figures=_figures(drawn),
        failures=failed,
        unused=_unused(failures, scores),
        flow=flow or [],
        cases=case_table(rows, order, failures, render_cases(folder, scores, order)),
        notes=[*notes, *plain_notes(rows)],
        methods=methods_paragraph(parameters or {}, scores, matrices),
        parameters=parameters or {},
        versions=software_versions(),
        notebooks=[_notebook(folder, path, name) for path, name in notebooks],
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        plotly=_plotly_js(),
    )
    written = pages.write(folder / "index.html", page)
    if pictures:
        (folder / "figures").mkdir(exist_ok=True)
        save_many_static({folder / "figures" / name: figure for name, figure in drawn.items()}, pictures)
    return written


def software_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that made the numbers."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _tested(rows):
    return [metric for metric in TESTED if metric in rows.columns or metric in METRICS]


def _unused(failures, scores):
    """Count what failed and stands in no number; a case may fail for one arm and not for another."""
    used = set(scores["case"])
    return sum(isinstance(entry, str) or str(entry[0]) not in used for entry in failures)


def _nested(pooled_auc):
    return bool(pooled_auc) and all(isinstance(value, dict) for value in dict(pooled_auc).values())


def _figures(given):
    order = [name for name in FIGURES if name in given] + [name for name in given if name not in FIGURES]
    entries = []
    for name in order:
        heading, words = FIGURES.get(name, (name.replace("_", " ").capitalize(), ""))
        short = SHORT.get(name, heading.split(":")[0])
        entry = {"name": name, "heading": heading, "words": words, "short": short}
        entries.append(entry | {"html": _embed(given[name], name)})
    return entries


def _from_tables(rows, patients, roc, thresholds, matrix, reference):
    """Name the figures that need nothing but tables, each with the call that draws it."""
    from . import studyfigures as draw

    if {"volume_ml", "reference_volume_ml"} <= set(rows.columns):
        yield "fig3", partial(draw.fig3, rows, matrix)
        yield "volumes", partial(draw.volume_scatter, rows, matrix=matrix)
    if patients is not None:
        metrics = [name for name in DECISIVE if name in patients.columns]
        yield "raincloud", partial(draw.raincloud_figure, patients, reference, metrics, matrix=matrix)
    if roc is not None:
        options = {"matrix": matrix, "patients": patients, "zoom": draw.ZOOM}
        yield "roc", partial(draw.roc_figure, roc, **options)
    if thresholds is not None:
        yield "thresholds", partial(draw.threshold_figure, thresholds, matrix=matrix)


def _embed(figure, name):
    from markupsafe import Markup

    options = {"full_html": False, "include_plotlyjs": False, "include_mathjax": False, "auto_play": False}
    return Markup(figure.to_html(config=CONFIG, div_id=f"plot-{name}", **options))


def _notebook(folder, path, name):
    """Return a link to an executed notebook, and to its page where one lies beside it."""
    path = folder / path  # an absolute one stays itself
    link = Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    page = path.with_suffix(".html")
    return {
        "title": name,
        "link": link,
        "page": link.removesuffix(path.suffix) + ".html" if page.exists() else "",
        "missing": not path.exists(),
    }


def _plotly_js():
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())
