"""The picker as a page of its own: notebook 02 under voila, for who reads scans and no code.

The page holds the notebook's code up to the cell tagged ``picker`` and shows the picker alone, under one line
of words: voila shows nothing before the last cell has run, and what follows compares methods.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from perfkit import annotations, paths
from perfkit.datasets import open_cohort

NOTEBOOK, TAG = "02_pick_an_aif", "picker"
SHARE = Path(__file__).parent / "share"  # the page's template, which asks no other server for anything
IDLE = 600  # s until a kernel without a page ends; our choice: each reload leaves one with a cohort's scans
WORDS = (
    "Click into an artery that is early, high and narrow; give your name, and every change is saved. "
    "*Not for clinical use.*"
)
QUIETLY = "%%capture --no-stdout --no-stderr"  # tables and progress bars go; warnings and errors are seen
STOP = 10.0  # s that the server gets to end its kernels


def serve(
    cohort: str | Path = "",
    rater: str = "",
    *,
    case: str = "",
    port: int = 8866,
    browser: bool = True,
    say: Callable = print,
) -> int:
    """Show the picker in the browser until Ctrl-C; picks are saved as in JupyterLab.

    Parameters
    ----------
    cohort : folder of scans; empty: the embedded phantom.
    rater : name of the rater; empty: given in the page.
    case : id of the first case; empty: the first without a pick.
    port : of this machine, 127.0.0.1 only.
    browser : open one.
    say : called with each line.

    Returns
    -------
    Exit status.

    Raises
    ------
    ValueError, OSError : a cohort that cannot be opened, an unknown case, a name no file can have.
    """
    if rater:
        annotations.rater_file(cohort or "cohort", rater, paths.data_folder() / "aif")
    parameters = {"rater": rater, "case": case}
    if cohort:
        opened = open_cohort(paths.resolve(cohort))
        parameters["cohort"] = str(opened.folder)
        if case:
            _check_case(opened, case)
    with tempfile.TemporaryDirectory(prefix="perfkit-pick-") as folder:
        page = _parametrised(Path(folder), parameters)
        say(f"Picks go to {paths.data_folder() / 'aif'}. Stop with Ctrl-C.")
        command = [sys.executable, "-m", "voila", str(page), f"--port={port}", "--Voila.ip=127.0.0.1"]
        command += ["--template=perfkit", "--show_tracebacks=True"] + ([] if browser else ["--no-browser"])
        culling = [f"cull_idle_timeout={IDLE}", f"cull_interval={IDLE // 10}", "cull_connected=False"]
        command += [f"--MappingKernelManager.{setting}" for setting in culling]
        return _run_until_interrupted(command)


def _check_case(cohort, case: str) -> None:
    try:
        cohort.scan(case)
    except KeyError as error:
        raise ValueError(str(error.args[0])) from None


def _parametrised(folder: Path, parameters: dict) -> Path:
    """Copy the notebook up to the picker with its parameters set, as papermill sets them."""
    import nbformat
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    source = paths.repository() / "notebooks" / f"{NOTEBOOK}.ipynb"
    if not source.is_file():
        raise FileNotFoundError(f"{source} is missing: the picker's page is a notebook of the checkout.")
    notebook = parameterize_notebook(load_notebook_node(str(source)), parameters)
    tags = [cell.metadata.get("tags", []) for cell in notebook.cells]
    last = [i for i, held in enumerate(tags) if TAG in held][-1]
    code = [cell for cell in notebook.cells[: last + 1] if cell.cell_type == "code"]
    for cell in code[:-1]:
        cell.source = f"{QUIETLY}\n{cell.source}"
    notebook.cells = [nbformat.v4.new_markdown_cell(WORDS), *code]
    page = folder / source.name
    nbformat.write(notebook, page)
    return page


def _run_until_interrupted(command: list[str]) -> int:
    search = os.pathsep.join(filter(None, (str(SHARE), os.environ.get("JUPYTER_PATH", ""))))
    process = subprocess.Popen(command, env={**os.environ, "JUPYTER_PATH": search})
    before = signal.signal(signal.SIGTERM, _interrupt)  # its kernels must not outlive a closed terminal
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.terminate()
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_signal, _frame) -> None:
    raise KeyboardInterrupt
