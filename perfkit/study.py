"""The whole study: the phantom cohort, the five notebooks by papermill, and the report."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from perfkit import pages, paths, runfolder

NOTEBOOKS = (
    "00_deconvolution_by_hand",
    "01_explore_a_case",
    "02_pick_an_aif",
    "03_train_the_aif_network",
    "04_compare_methods",
)
MATRICES = ("circulant", "volterra")  # a network is trained through each: Table 1 and the one beside it
JOINED = ("patients", "roc", "thresholds")  # tables of an evaluation beside its scores
N_SCANS = 40  # our choice: scans of the default study; enough for five folds, done in minutes


def run_study(
    out="",
    cohort="",
    *,
    n: int = N_SCANS,
    size: str = "small",
    preset: str = "quick",
    folds: int = 5,
    seed: int = 0,
    say: Callable = print,
) -> Path:
    """Make the phantom cohort where none is given, run the notebooks over it, and write the report.

    Parameters
    ----------
    out : folder of the run; default ``data/runs/study``
    cohort : folder of scans with core masks; default: the embedded phantom cohort, made on disk
    n, size : scans of the phantom cohort and their size
    preset, folds, seed : of the training, see ``training.PRESETS``
    say : called with a line of progress

    Returns
    -------
    Path of ``index.html``

    Raises
    ------
    ValueError, OSError : the cohort cannot be opened, has no core mask or too few patients for the folds.
    RuntimeError : a notebook failed; it is kept, with the traceback on top.
    """
    from perfkit.datasets import open_cohort

    start = time.monotonic()
    out = paths.resolve(out or "../data/runs/study")
    folder = paths.resolve(cohort) if cohort else demo_cohort(n, size=size, seed=seed, say=say)
    opened = open_cohort(folder)
    opened.require_core("A study")
    opened.folds(folds, seed)  # too few patients: say so now, not after three notebooks
    say(f"Cohort: {len(opened)} scans in {folder}")
    out.mkdir(parents=True, exist_ok=True)
    common = {"cohort": str(folder), "seed": seed}
    training = {**common, "preset": preset, "folds": folds}
    folders = {matrix: str(out / f"training_{matrix}") for matrix in MATRICES}
    runs = [
        (NOTEBOOKS[0], "", {"seed": seed, "out": str(out / "00")}),
        (NOTEBOOKS[1], "", {**common, "out": str(out / "01")}),
        (NOTEBOOKS[2], "", {**common, "out": str(out / "02")}),
        *((NOTEBOOKS[3], f"_{m}", {**training, "matrix": m, "out": folders[m]}) for m in MATRICES),
        (NOTEBOOKS[4], "", {**common, "out": str(out), **{f"training_{m}": folders[m] for m in MATRICES}}),
    ]
    for i, (name, suffix, parameters) in enumerate(runs, start=1):
        say(f"[{i}/{len(runs)}] {name}{suffix}  ({time.monotonic() - start:.0f} s so far)")
        run_notebook(name, out / f"{name}{suffix}.ipynb", parameters, show_output=name == NOTEBOOKS[3])
    page = assemble_report(out)
    say(f"Done in {time.monotonic() - start:.0f} s. Open {page}")
    return page


def demo_cohort(n: int = N_SCANS, *, size: str = "small", seed: int = 0, say: Callable = print) -> Path:
    """Write the embedded phantom cohort below the data folder, or find it there.

    Parameters
    ----------
    n, size, seed : as for ``phantom.write_cohort``
    say : called with a line of progress

    Returns
    -------
    Path of the cohort
    """
    from perfkit.phantom import write_cohort

    folder = paths.data_folder() / "cohorts" / f"{size}-{n}-seed{seed}"
    say(f"Phantom cohort: {n} scans, size {size}, seed {seed}")
    return write_cohort(folder, n, seed, size=size)


def run_notebook(name: str, output, parameters: dict, *, show_output: bool = False) -> Path:
    """Run a notebook of the kit by papermill.

    Parameters
    ----------
    name : file name without suffix
    output : where the executed notebook goes
    parameters : for its ``parameters`` cell
    show_output : pass on what the notebook prints, its progress bars for instance

    Returns
    -------
    The path of the executed notebook

    Raises
    ------
    RuntimeError : a cell failed; the executed notebook is kept with the traceback on top.
    """
    import papermill

    source = paths.repository() / "notebooks" / f"{name}.ipynb"
    if not source.exists():
        raise FileNotFoundError(
            f"The notebooks lie in the repository, and {source} is missing. Run perfkit from a clone."
        )
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # one warning less in every kernel
    quiet = ["--log-level=ERROR"]  # the kernel greets with a warning about its transport otherwise
    options: dict = {"kernel_name": "python3", "extra_arguments": quiet}
    if show_output:
        options |= {"stdout_file": sys.stdout, "stderr_file": sys.stderr, "progress_bar": False}
    try:
        papermill.execute_notebook(source, output, parameters, **options)
    except papermill.PapermillExecutionError as error:
        raise RuntimeError(f"{name} failed: {error.ename}: {error.evalue}. See {output}") from None
    return Path(output)


def save_results(
    folder,
    *,
    evaluation,
    tables: dict,
    figures: dict,
    cohort: str,
    parameters: dict,
    notes=(),
    failures=(),
    flow=(),
    reference: str = "expert",
) -> Path:
    """Write what a comparison found, for spreadsheets and for ``assemble_report``.

    Parameters
    ----------
    folder : of the run
    evaluation : arms.Evaluation
    tables : dict from file stem to DataFrame
    figures : dict from name to plotly figure; written as pages and as JSON
    cohort : a sentence on the data
    parameters : of the run
    notes, failures : lines the reader should know; (case, reason) of scans that are in no number
    flow : of ``cohort_flow``
    reference : arm the others were compared with

    Returns
    -------
    Path of ``metrics.json``

    Raises
    ------
    ValueError : no scan has a score.
    """
    from perfkit.figures import save_figure
    from perfkit.tables import save_table

    folder = Path(folder)
    if not len(evaluation.scores):
        reasons = [why for _, why in failures] + list(evaluation.failures.values())
        raise ValueError(
            "A comparison needs scores, and no scan has any: "
            + (
                f"{len(reasons)} failed, the first with: {reasons[0]}"
                if reasons
                else "none has a core mask. The infarct at follow-up (final_infarct) does not count as one."
            )
        )
    save_table(folder / "scores.csv", evaluation.scores)
    for name in JOINED:
        if getattr(evaluation, name) is not None:
            save_table(folder / f"{name}.csv", getattr(evaluation, name))
    for stem, table in tables.items():
        save_table(folder / f"{stem}.csv", table)
    for name, figure in figures.items():
        save_figure(figure, folder / "figures" / name)
        figure.write_json(folder / "figures" / f"{name}.json")
    without = [f"No {arm} result for {case}: {why}" for (case, arm), why in evaluation.failures.items()]
    metrics = {
        "cohort": cohort,
        "parameters": parameters,
        "pooled_auc": _without_nan(evaluation.pooled_auc),
        "notes": [*notes, *without],
        "failures": list(failures),
        "flow": list(flow),
        "reference": reference,
        "mean": _without_nan(_means(evaluation.scores)),
    }
    return pages.write(folder / "metrics.json", json.dumps(metrics, indent=2, default=float) + "\n")


def cohort_flow(cohort, prepared, evaluation) -> list[dict]:
    """Count scans and patients from the cohort to what was evaluated.

    Parameters
    ----------
    cohort : datasets.Cohort
    prepared : preprocessing.PreparedCohort
    evaluation : evaluation.Evaluation

    Returns
    -------
    list of dict of label, scans, patients
    """
    everyone = dict(cohort.patients)
    ready = {case: scan for case, scan in prepared.scans.items() if scan.core is not None}
    blind = len(prepared.scans) - len(ready)
    steps = [("in the cohort", everyone)]
    if prepared.failures:
        steps.append((f"could be read; {len(prepared.failures)} could not", list(prepared.scans)))
    if blind:
        steps.append((f"have a core mask; {blind} have none", list(ready)))
    if len(evaluation.scores):
        arms = evaluation.scores.groupby("case")["arm"].nunique()
        full = arms.index[arms == evaluation.scores["arm"].nunique()]
        steps.append(("have a result of some arm", list(arms.index)))
        if len(full) < len(arms):
            steps.append(("have a result of every arm", list(full)))
    return [
        {"label": label, "scans": len(cases), "patients": len({everyone[case] for case in cases})}
        for label, cases in steps
    ]


def _without_nan(value):
    """NaN as null: strict readers of JSON know no NaN."""
    if isinstance(value, dict):
        return {name: _without_nan(inner) for name, inner in value.items()}
    return None if value != value else value


def _means(scores):
    columns = ["roc_auc", "dice", "jaccard", "hd95_mm", "volume_ml"]
    means = scores.groupby(["matrix", "arm"])[columns].mean()
    return {matrix: rows.droplevel(0).to_dict("index") for matrix, rows in means.groupby(level=0)}


def assemble_report(folder, *, pictures=(), model=None) -> Path:
    """Write ``index.html`` from what the notebooks left in the folder of a run.

    Parameters
    ----------
    folder : with ``scores.csv``, ``metrics.json`` and, for what they show, ``patients.csv``, ``roc.csv``,
        ``thresholds.csv``, ``figures/*.json`` and ``cases/``, as notebook 04 writes them
    pictures : of "png" and "svg": also write the figures for print, into ``figures``
    model : ``mixedmodel.MixedModel`` of the Dice of ``scores.csv``, where it is at hand: a fit takes seconds

    Returns
    -------
    Path of ``index.html``

    Raises
    ------
    FileNotFoundError : notebook 04 has not run there.
    ValueError : what it left is damaged.
    OSError : pictures were asked for, and no Chrome or Chromium was found.
    """
    from perfkit.report import write_report

    folder = Path(folder).resolve()
    for name in ("scores.csv", "metrics.json"):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"A report needs {name}, and {folder} has none. "
                f"Run `perfkit study --out {folder}`, or notebook 04 with out={folder}."
            )
    facts = runfolder.read_facts(folder / "metrics.json")
    figures = {p.stem: runfolder.read_figure(p) for p in sorted((folder / "figures").glob("*.json"))}
    found = [
        (p, p.stem.replace("_", " ")) for name in NOTEBOOKS for p in sorted(folder.glob(f"{name}*.ipynb"))
    ]
    joined = {name: folder / f"{name}.csv" for name in JOINED}
    return write_report(
        folder,
        scores=runfolder.read_table(folder / "scores.csv"),
        **{name: runfolder.read_table(path) for name, path in joined.items() if path.exists()},
        **facts,
        figures=figures,
        notebooks=found,
        pictures=pictures,
        model=model,
    )
