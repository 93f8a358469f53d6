"""The driver of a batch: hand out cases, try again where a fault may pass, note what becomes of each."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field, replace
from pathlib import Path

from perfkit import batchrecord
from perfkit.batchtask import Outcome, Task
from perfkit.executors import Pool

BACKOFF, LONGEST_BACKOFF = 5.0, 300.0  # s; our choice: doubles with each attempt; a share is back in minutes
LOOK = 0.5  # s; our choice: how soon what has waited is begun


@dataclass(kw_only=True)
class Summary:
    """What a batch did.

    Parameters
    ----------
    folder : of the run.
    done, skipped : ids of cases that were run, and that were there already.
    failures : dict from id to (kind, reason).
    seconds : all in all.
    """

    folder: Path
    total: int
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def left(self) -> int:
        """How many cases were not run."""
        return self.total - len(self.done) - len(self.skipped) - len(self.failures)

    def __str__(self) -> str:
        parts = [f"{len(self.done)} done", f"{len(self.skipped)} were there", f"{len(self.failures)} failed"]
        parts += [f"{self.left} not run"] * (self.left > 0)
        where = f". See {self.folder / 'failures.csv'}" if self.failures else ""
        return f"{', '.join(parts)} of {self.total} cases in {self.seconds:.0f} s{where}"


class Driver:
    """Hand out tasks, a bounded number at a time, and note what becomes of them."""

    def __init__(self, pool: Pool, retries: int, records, summary: Summary, lease: Path):
        self.pool, self.retries = pool, retries
        self.records, self.summary, self.lease = records, summary, lease
        self.running: dict[Future, Task] = {}
        self.waiting: list[tuple[float, int, Task]] = []  # for another attempt: when, tie-break, what

    def drive(self, tasks: Iterator[Task], n: int, progress: bool) -> None:
        from tqdm import tqdm

        told = {"total": n, "desc": "Cases", "unit": "case", "smoothing": 0.05, "disable": not progress}
        with tqdm(**told) as bar:
            try:
                while self._fill(tasks) or self.running or self.waiting:
                    wait(self.running, timeout=LOOK, return_when=FIRST_COMPLETED)
                    if not self.running:
                        time.sleep(LOOK)
                    for future in [future for future in self.running if future.done()]:  # cancelled ones too
                        bar.update(self._settle(self.running.pop(future), future))
                        bar.set_postfix(failed=len(self.summary.failures))
                    if not self.pool.alive():
                        raise ConnectionError(
                            "The Dask scheduler is gone. Start it again; the same command goes on from here."
                        )
            except BaseException:
                self.lease.unlink(missing_ok=True)  # every process of the run ends at that
                wait(self.running, timeout=10)
                for future, task in self.running.items():
                    if future.done():
                        self._settle(task, future, again=False)
                raise

    def _fill(self, tasks) -> bool:
        """Submit what there is room for; whether anything was."""
        room = self.pool.width() - len(self.running)
        before = len(self.running)
        for _ in range(room):
            due = self.waiting and self.waiting[0][0] <= time.monotonic()
            task = heapq.heappop(self.waiting)[-1] if due else next(tasks, None)
            if task is None:
                break
            self.running[self.pool.submit(task)] = task
        return len(self.running) > before

    def _settle(self, task: Task, future: Future, *, again: bool = True) -> int:
        """Note an outcome, or put the task up for another attempt; how many cases are over."""
        outcome = _outcome(future, task)
        if outcome.kind == "lost" and not again:  # stopped, as it was to be
            return 0
        if outcome.kind == "done":
            record = batchrecord.read_done(Path(task.folder, task.name)) or task.record
            self.records.done(task.case, record)
            self.summary.done.append(task.case)
            return 1
        if outcome.passing and again and task.attempt <= self.retries:
            delay = min(LONGEST_BACKOFF, BACKOFF * 2 ** (task.attempt - 1))
            entry = (time.monotonic() + delay, id(task), replace(task, attempt=task.attempt + 1))
            heapq.heappush(self.waiting, entry)
            return 0
        self.summary.failures[task.case] = (outcome.kind, outcome.reason)
        row = (task.case, outcome.kind, outcome.reason, outcome.seconds, task.attempt)
        self.records.failed(*row, inputs=task.record["inputs"])
        return 1


def _outcome(future: Future, task: Task) -> Outcome:
    try:
        outcome = future.result()
    except CancelledError:
        return Outcome(kind="lost", reason="The cluster gave it up.")
    except (
        Exception
    ) as error:  # the case itself never raises: this is the cluster, or a worker without perfkit
        kind = "error" if isinstance(error, ImportError) else "lost"
        return Outcome(kind=kind, reason=f"Its worker was lost ({type(error).__name__}: {error}).")
    if outcome.kind == "stopped":
        reason = f"Its worker does not see {task.folder}, or not what is new in it: all must share that disk."
        return replace(outcome, kind="lost", reason=reason)
    return outcome
