"""What a training step costs: making its data, computing it, and how long the computing waits for data."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

COPIES = 6  # scans of an epoch that is timed; our choice: one alone would be in the processor's cache


def measure(series, repeats: int, say: Callable = print) -> dict:
    """Time the training of both heads on a series of this size.

    Parameters
    ----------
    series : (X, Y, Z, T), float32, HU above baseline
    repeats : epochs of ``COPIES`` steps
    say : called with each line

    Returns
    -------
    dict: for each head data_s, step_s (medians of a step's) and idle, the share of the epoch in which the
    step waited for its data although they are made ahead
    """
    found = {}
    for head in ("cnn", "pool"):
        with tempfile.TemporaryDirectory() as folder:
            fold = _fold(series, folder, head)
            data, step, idle = _times(fold, repeats)
        say(
            f"{head}: data {1000 * data:.0f} ms, step {1000 * step:.0f} ms ({data / step:.0%} of it is data, "
            f"made ahead); the step waits for data {idle:.1%} of the time"
        )
        found |= {f"{head}_data_s": data, f"{head}_step_s": step, f"{head}_idle": idle}
    return found


def _fold(series, folder, head):
    from perfkit.foldtraining import FoldTraining
    from perfkit.trainsettings import Settings

    return FoldTraining(folder, Settings.preset("tiny", head=head), [_sample(series)] * COPIES)


def _sample(series):
    from perfkit.samples import make_sample

    rng, shape = np.random.default_rng(0), series.shape[:-1]
    masks = {"core": rng.random(shape) < 0.05, "reference_tissue": rng.random(shape) < 0.4}
    return make_sample(
        SimpleNamespace(id="bench", concentration=series, dt=1.0, brain=np.ones(shape, bool), **masks)
    )


def _times(fold, repeats):
    """Medians of making and computing a step apart, then the waiting of epochs that do both at once."""
    from perfkit.foldtraining import ahead

    made, computed = [], []
    for epoch in range(2):  # the first traces the graph
        steps, clock = fold.steps(epoch), time.perf_counter
        for _ in range(COPIES):
            start = clock()
            one = next(steps)
            middle = clock()
            fold.step(*one)
            if epoch:
                made.append(middle - start)
                computed.append(clock() - middle)
    waited = total = 0.0
    for epoch in range(repeats):
        start = last = time.perf_counter()
        for one in ahead(fold.steps(epoch)):
            waited += time.perf_counter() - last
            fold.step(*one)
            last = time.perf_counter()
        total += time.perf_counter() - start
    return float(np.median(made)), float(np.median(computed)), waited / total
