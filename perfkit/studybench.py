"""What a study of the size of ISLES 2018 costs once its networks are trained: notebook 04 and its report."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from perfkit import datasets, paper, phantom, study, tables

N, SIZE, SEED = paper.N_SCANS, "full", 5


def measure(say: Callable = print) -> dict:
    """Time notebook 04 with its report over a phantom cohort of 94 scans, against reading their series.

    Parameters
    ----------
    say : called with each line

    Returns
    -------
    dict of read_s (nibabel reads every series, one after the other), study_s (papermill, kernel and report
    included, case pages not), pages_s, and ratio, of study_s to read_s

    Notes
    -----
    The phantom has the slices and frames of ISLES 2018. Training is no part of it: the true AIFs stand in for
    the CNN's.
    """
    with tempfile.TemporaryDirectory() as home:
        folder = phantom.write_cohort(Path(home) / "cohort", N, SEED, size=SIZE)
        cohort, training = datasets.open_cohort(folder), Path(home) / "training"
        tables.save_aifs(training / "aifs.csv", {case.id: case.truth["aif"] for case in cohort})
        os.sync()  # or the cohort is still being written meanwhile
        read = _seconds(lambda: _read_all(cohort))
        parameters = {"cohort": str(folder), "out": str(Path(home) / "run")}
        parameters |= {f"training_{matrix}": str(training) for matrix in ("circulant", "volterra")}
        executed = Path(home) / "executed.ipynb"
        total = _seconds(lambda: study.run_notebook("04_compare_methods", executed, parameters))
        pages = _case_pages(executed)
        page = Path(home) / "run" / "index.html"
        say(f"nibabel reads {N} series of size {SIZE}: {read:.1f} s")
        say(f"notebook 04 and its report: {total - pages:.0f} s, {(total - pages) / read:.1f}× that")
        say(f"and {N} case pages: {pages:.0f} s; index.html has {page.stat().st_size / 1e6:.1f} MB")
    return {"read_s": read, "study_s": total - pages, "pages_s": pages, "ratio": (total - pages) / read}


def _read_all(cohort):
    import nibabel
    import numpy as np

    for scan in cohort.scans:
        np.asarray(nibabel.load(scan.path).dataobj)


def _case_pages(executed):
    """Seconds that the pictures of the case pages took, as their bar says."""
    cells = json.loads(Path(executed).read_text(encoding="utf-8"))["cells"]
    said = [output.get("text", "") for cell in cells for output in cell.get("outputs", ())]
    text = "".join(part if isinstance(part, str) else "".join(part) for part in said)
    found = re.findall(r"Case pages: 100%[^\[]*\[([\d:]+)<", text)
    seconds = 0
    for part in found[-1].split(":"):
        seconds = 60 * seconds + int(part)
    return float(seconds)


def _seconds(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
