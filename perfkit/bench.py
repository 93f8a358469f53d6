"""Speed, as ratios within one run: against the bare matrix product, or against the paper's seconds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

from perfkit import paper

SHAPE = (256, 256, 8, 60)  # the size the paper's figures are compared at
PARTS = ("all", "maps", "pipeline", "train", "start", "aif")
PARTS += ("study", "departures", "accuracy", "conformal")

# part -> module; each by itself, since they take minutes
APART = {"study": "studybench", "departures": "departures", "accuracy": "accuracy", "conformal": "coverage"}


def run(what: str = "all", repeats: int = 5, say: Callable = print) -> dict:
    """Measure and print; the median of the repetitions counts.

    Parameters
    ----------
    what : one of PARTS
    repeats : repetitions of each measurement
    say : called with each line

    Returns
    -------
    dict from measurement to seconds, ratio or megabytes
    """
    if what not in PARTS:
        raise ValueError(f"bench knows {', '.join(PARTS)}: {what!r} came.")
    if what in APART:
        return import_module(f"perfkit.{APART[what]}").measure(say)
    say(f"Series of {'×'.join(map(str, SHAPE))}, float32; median of {repeats}")
    found: dict = {}
    parts = {"maps": _maps, "pipeline": _pipeline, "train": _train, "start": _start, "aif": _aif}
    for name, part in parts.items():
        if what in ("all", name):
            found |= part(repeats, say)
    return found


def _maps(repeats, say):
    """All voxels to CBF and Tmax, interleaved with the product (V×T)·(T×L) it is measured against."""
    from perfkit.maps import perfusion_maps

    series, aif = _series(), _bolus()
    n = SHAPE[-1]
    voxels = series.reshape(-1, n)
    product = np.random.default_rng(1).standard_normal((n, 2 * n)).astype(np.float32)
    times = _interleaved(
        repeats,
        product=lambda: voxels @ product,
        both=lambda: perfusion_maps(series, aif, only=("cbf", "tmax")),
        five=lambda: perfusion_maps(series, aif),
        calibrated=lambda: perfusion_maps(series, aif, estimator="calibrated"),
    )
    tracemalloc.start()
    perfusion_maps(series, aif)
    peak = tracemalloc.get_traced_memory()[1] + series.nbytes
    tracemalloc.stop()
    say(f"bare product {voxels.shape} @ {product.shape}: {times['product']:.3f} s")
    say(f"CBF and Tmax: {times['both']:.3f} s, {times['both'] / times['product']:.2f}× the product")
    say(f"all five maps: {times['five']:.3f} s, {times['five'] / times['product']:.2f}× the product")
    ratio = times["calibrated"] / times["five"]
    say(f"calibrated maps: {times['calibrated']:.3f} s, {ratio:.2f}× the five plain ones")
    say(f"peak memory with the series: {peak / series.nbytes:.2f}× the series")
    return {
        "maps_ratio": times["both"] / times["product"],
        "all_maps_ratio": times["five"] / times["product"],
        "calibrated_ratio": ratio,
        "memory_ratio": peak / series.nbytes,
    }


def _pipeline(repeats, say):
    """From a file to a core mask, step by step."""
    from perfkit.datasets import open_cohort
    from perfkit.network import deconvolution_model
    from perfkit.phantom import make_case, write_cohort
    from perfkit.preprocessing import prepare
    from perfkit.training import predict_aif

    times = _interleaved(
        repeats, phantom=lambda: make_case(0, size="full", n_slices=SHAPE[2], n_frames=SHAPE[3])
    )
    with tempfile.TemporaryDirectory() as folder:
        write_cohort(folder, 1, size="full", n_slices=SHAPE[2], n_frames=SHAPE[3], progress=False)
        cohort = open_cohort(folder)
        case = cohort[0]
        prepared, model = prepare(case), deconvolution_model()
        predict_aif(model, prepared)
        times |= _interleaved(
            repeats,
            load=lambda: cohort[0],
            prepare=lambda: prepare(case),
            core=lambda: _core(prepared, np.abs(predict_aif(model, prepared))),
        )
    say(f"making the phantom case: {times['phantom']:.2f} s")
    say(f"loading .nii.gz, brain mask included: {times['load']:.2f} s")
    say(f"smoothing, masks and reference tissue: {times['prepare']:.2f} s")
    say(
        f"AIF (CNN) + maps + core: {times['core']:.2f} s; the paper needs {paper.SECONDS_PER_CASE} s on a K80"
    )
    return {f"{name}_s": seconds for name, seconds in times.items()}


def _core(prepared, aif):
    """All five maps, rCBF and core from an AIF."""
    from perfkit.maps import core_mask, perfusion_maps, relative_cbf

    maps = perfusion_maps(prepared.concentration, aif, prepared.dt, mask=prepared.brain)
    return core_mask(relative_cbf(maps.cbf, prepared.reference_tissue), prepared.brain)


def _train(repeats, say):
    from perfkit.trainbench import measure

    return measure(_series(), repeats, say)


def _start(repeats, say):
    """New processes: what a person waits for."""
    from perfkit.phantom import write_cohort

    with tempfile.TemporaryDirectory() as folder:
        write_cohort(folder, 94, size="tiny", progress=False)
        opening = f"from perfkit.datasets import open_cohort; assert len(open_cohort({str(folder)!r})) == 94"
        times = _interleaved(
            repeats,
            bare=lambda: _process("pass"),
            importing=lambda: _process("import perfkit"),
            opening=lambda: _process(opening),
        )
    say(f"import perfkit: {times['importing']:.2f} s (python alone {times['bare']:.2f} s)")
    say(f"import and open a cohort of 94: {times['opening']:.2f} s")
    return {"import_s": times["importing"], "open_s": times["opening"]}


def _aif(repeats, say):
    """Each automatic method on a prepared scan, against preparing that scan, and the suggestions."""
    from perfkit.aif import METHODS, select_aif
    from perfkit.phantom import make_case
    from perfkit.preprocessing import prepare
    from perfkit.suggestions import iter_suggestions, suggest

    case = make_case(0, size="full", n_slices=SHAPE[2], n_frames=SHAPE[3])
    prepared = prepare(case)
    times = _interleaved(
        repeats,
        prepare=lambda: prepare(case),
        first=lambda: next(iter_suggestions(prepared)),
        suggest=lambda: suggest(prepared),
        **{method: lambda m=method: select_aif(prepared, m) for method in METHODS},
    )
    unit = times["prepare"]
    say(f"smoothing, masks and reference tissue, to compare with: {unit:.2f} s")
    for method in METHODS:
        say(f"AIF by {method}: {times[method]:.2f} s, {times[method] / unit:.2f}× that")
    say(f"suggestions: the first after {times['first']:.2f} s, all methods {times['suggest']:.2f} s")
    found = {f"aif_{name}_s": seconds for name, seconds in times.items()}
    return found | {f"aif_{method}_ratio": times[method] / unit for method in METHODS}


def _process(code):
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def _interleaved(repeats, **actions):
    """Median seconds of each action, taken in turns, so that a busy machine slows them alike."""
    times: dict = {name: [] for name in actions}
    for action in actions.values():
        action()
    for _ in range(repeats):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def _series():
    rng = np.random.default_rng(0)
    return rng.standard_normal(SHAPE, dtype=np.float32) + 8 * _bolus().astype(np.float32) / 200


def _bolus():
    s = np.clip(np.arange(SHAPE[-1]) - 10.0, 0, None) / 2.5
    return 200 * (s / 3) ** 3 * np.exp(3 - s)
