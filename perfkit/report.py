"""The report of a study: one page that opens offline, with the numbers said in words.

Every sentence is made from the scores of the run. Beside ``index.html`` lies ``plotly.min.js``; nothing
outside the run's folder is ever asked for.
"""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pandas as pd

from . import paper
from .comparison import METRICS, paired_tests
from .drawing import CONFIG, arm_label
from .wording import (
    METRIC_LABELS,
    comparison_rows,
    count,
    plain_notes,
    summary_sentences,
    table1_rows,
    volume_sentences,
)

# name -> (heading, words under it); other figures follow under their own name
FIGURES = {
    "fig2": (
        "Fig. 2: relative blood flow and the core",
        "Each row is a scan. Left, the ground truth; then the rCBF map of each arm, all in the same colours. "
        "Dark tissue has lost its flow. White outlines the core seen on DWI, orange the core that the "
        f"threshold rCBF < {paper.RCBF_THRESHOLD} predicts. Images are in the radiological convention.",
    ),
    "fig3": (
        "Fig. 3: agreement of core volumes",
        "Each dot is a scan: the further from zero, the more the predicted volume differs from the ground "
        "truth. The solid line is the bias, dashed lines are the limits of agreement. Point at a dot to see "
        "its scan.",
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
    pooled_auc=None,
    figures=None,
    notebooks=(),
    parameters=None,
    notes=(),
    failures=(),
    cohort="",
    title="Does a learned arterial input function find the stroke core better?",
    reference="expert",
) -> Path:
    """Write ``index.html`` and ``plotly.min.js`` into the folder of a run.

    Parameters
    ----------
    run_folder : folder; made where missing.
    scores : DataFrame, one row per scan × arm × matrix (see `comparison`).
    pooled_auc : {arm: AUC over all voxels} of the first matrix, or {matrix: {arm: AUC}}.
    figures : {name: plotly figure}; the names of ``FIGURES`` have their place and words, others come
        after them. Fig. 3 is drawn from the scores where it is not given.
    notebooks : (path, title) of the executed notebooks, absolute or relative to the run's folder.
    parameters : {name: value} of the run, printed as they are.
    notes : lines the reader should know.
    failures : (case, reason) or lines; scans that are in no number.
    cohort : a sentence on the data.
    reference : the arm the others are tested against.

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
    tests = _tests(rows, matrices[0], reference)
    tables = [(matrix, table1_rows(scores, matrix, pooled.get(matrix))) for matrix in matrices]
    page = _template().render(
        title=title,
        cohort=cohort,
        sizes=f"{count(rows['case'].nunique(), 'scan')} of {count(rows['patient'].nunique(), 'patient')}",
        summary=summary_sentences(rows, tests),
        tables=tables,
        columns=[METRIC_LABELS[name] for name in ("pooled_auc", *METRICS)],
        tests=comparison_rows(tests),
        remarks=sorted({remark for note in tests["note"] for remark in note.split("; ") if remark}),
        reference=arm_label(reference),
        volumes=volume_sentences(rows) if "volume_ml" in rows else [],
        figures=_figures(rows, matrices[0], figures),
        failures=[line if isinstance(line, str) else ": ".join(map(str, line)) for line in failures],
        notes=[*map(str, notes), *plain_notes(rows)],
        parameters=parameters or {},
        versions=software_versions(),
        notebooks=[_notebook(folder, path, name) for path, name in notebooks],
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    _write(folder / "plotly.min.js", _plotly_js())
    return _write(folder / "index.html", page)


def software_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that made the numbers."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _nested(pooled_auc):
    return bool(pooled_auc) and all(isinstance(value, dict) for value in dict(pooled_auc).values())


def _tests(rows, matrix, reference):
    if reference in set(rows["arm"]):
        return paired_tests(rows, reference, matrix=matrix)
    return pd.DataFrame(columns=["arm", "metric", "test", "note"])


def _figures(rows, matrix, figures):
    from .figures import fig3

    given = dict(figures or {})
    if "fig3" not in given and {"volume_ml", "reference_volume_ml"} <= set(rows.columns):
        given["fig3"] = fig3(rows, matrix)
    order = [name for name in FIGURES if name in given] + [name for name in given if name not in FIGURES]
    entries = []
    for name in order:
        heading, words = FIGURES.get(name, (name.replace("_", " ").capitalize(), ""))
        entries.append({"name": name, "heading": heading, "words": words, "html": _embed(given[name], name)})
    return entries


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


def _template():
    from jinja2 import Environment, PackageLoader, StrictUndefined

    options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    return Environment(loader=PackageLoader("perfkit"), **options).get_template("study.html.j2")


def _plotly_js():
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()


def _write(path, text):
    """Write a file under its final name only when it is whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path
