"""A notebook over many cases: ``perfkit batch``.

The driver decides what is missing, hands out cases, tries again where a fault may pass, and keeps records.
``batchplan`` says what to run, ``batchtask`` runs one, ``executors`` where.
"""

from __future__ import annotations

import heapq
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from perfkit import batchrecord, executors, paths
from perfkit.batchplan import Plan, Run, make_plan
from perfkit.batchtask import WORK, Outcome, Task

BACKOFF, LONGEST_BACKOFF = 5.0, 300.0  # s; our choice: doubles with each attempt; a share is back in minutes
LOOK = 0.5  # s; our choice: how soon what has waited is begun
LOCK = ".batch.lock"


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

    def __str__(self) -> str:
        left = self.total - len(self.done) - len(self.skipped) - len(self.failures)
        parts = [f"{len(self.done)} done", f"{len(self.skipped)} were there", f"{len(self.failures)} failed"]
        parts += [f"{left} not run"] * (left > 0)
        where = f". See {self.folder / 'failures.csv'}" if self.failures else ""
        return f"{', '.join(parts)} of {self.total} cases in {self.seconds:.0f} s{where}"


def run_batch(
    notebook,
    cohort="",
    out="",
    *,
    parameters: dict | None = None,
    sets="",
    cases=None,
    scheduler: str = "",
    cluster: str = "",
    jobs: int = 1,
    workers: int | None = None,
    time_limit: float | None = None,
    memory_limit: float | None = None,
    retries: int = 2,
    resume: bool = True,
    gpu: bool = True,
    progress: bool = True,
    say: Callable = print,
) -> Summary:
    """Run a notebook once for every scan of a cohort, or for every row of a table.

    Parameters
    ----------
    notebook, cohort, parameters, sets, cases : see ``batchplan.make_plan``
    out : folder; each case gets one of its own in it
    scheduler : address of a Dask scheduler, whose workers see ``cohort`` and ``out`` under the same names
    cluster, jobs : batch system (slurm, pbs, sge) that shall start so many workers
    workers : cases at a time at most; see ``executors``
    time_limit : s for a case; None: none
    memory_limit : GiB for a case; None: its worker's share of the memory
    retries : further attempts after a fault that may pass: a lost process, a full or vanished disk
    resume : leave what is there and was made from the same inputs, parameters, notebook and version
    gpu : let cases use the GPUs of this machine, one each
    progress : show a bar
    say : called with lines for the reader

    Returns
    -------
    Summary

    Raises
    ------
    ValueError, OSError : what cannot work at all, before anything is run.
    KeyboardInterrupt : it was stopped; what is done is kept, and no process is left.
    """
    begun = time.monotonic()
    _check_options(out, scheduler, cluster, jobs, workers, time_limit, memory_limit, retries)
    plan = make_plan(notebook, cohort, parameters=parameters, sets=sets, cases=cases)
    out = paths.resolve(out)
    summary = Summary(folder=out, total=len(plan.runs))
    options = {"workers": workers, "time_limit": time_limit, "memory_limit": memory_limit, "retries": retries}
    with _folder(out) as lease, _stoppable():
        facts = plan.facts | {"versions": batchrecord.versions(), "options": options}
        facts["started"] = batchrecord.now()
        records = batchrecord.Records(out, facts, {run.case for run in plan.runs} if plan.whole else None)
        todo = _missing(plan, out, resume, records, summary)
        state = "stopped"
        try:
            if todo:
                copied = shutil.copyfile(plan.notebook, lease.parent / plan.notebook.name)
                expected = sorted(run.expected for run in todo)[len(todo) // 2]
                with _pool(scheduler, cluster, jobs, workers, expected, gpu) as pool:
                    say(f"{len(todo)} of {summary.total} cases to run, {pool.words}.")
                    tasks = (
                        _task(run, plan, out, copied, lease, pool, time_limit, memory_limit) for run in todo
                    )
                    _Driver(pool, retries, records, summary, lease).drive(tasks, len(todo), progress)
            state = "done"
        finally:
            summary.seconds = time.monotonic() - begun
            facts["seconds"] = round(summary.seconds, 1)
            records.write(state)
            say(f"{'Stopped: ' if state == 'stopped' else ''}{summary}.")
    return summary


def _missing(plan: Plan, out: Path, resume, records, summary) -> list[Run]:
    """Sort out what is there already and what cannot be run at all."""
    todo = []
    for run in plan.runs:
        there = batchrecord.read_done(out / run.name, run.record["key"]) if resume else None
        if there:
            summary.skipped.append(run.case)
            records.done(run.case, there)
        elif run.problem:
            summary.failures[run.case] = ("input", run.problem)
            records.failed(run.case, "input", run.problem, 0.0, 0)
        else:
            todo.append(run)
    return todo


def _task(run: Run, plan, out, notebook, lease, pool, time_limit, memory_limit) -> Task:
    if memory_limit:
        limit = int(memory_limit * 2**30)
    else:
        limit = pool.memory and max(pool.memory, 2 * run.expected)
    return Task(
        case=run.case,
        folder=str(out),
        name=run.name,
        notebook=str(notebook),
        parameters=run.parameters,
        out="out" in plan.declared,
        record=run.record,
        lease=str(lease),
        time_limit=time_limit,
        memory_limit=limit,
        expected=run.expected,
        threads=pool.threads,
    )


class _Driver:
    """Hand out tasks, a bounded number at a time, and note what becomes of them."""

    def __init__(self, pool: executors.Pool, retries: int, records, summary: Summary, lease: Path):
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
                    finished, _ = wait(self.running, timeout=LOOK, return_when=FIRST_COMPLETED)
                    if not self.running:
                        time.sleep(LOOK)
                    for future in finished:
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
        outcome = _outcome(future)
        if outcome.kind == "stopped":
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


def _outcome(future: Future) -> Outcome:
    try:
        return future.result()
    except CancelledError:
        return Outcome(kind="stopped")
    except (
        Exception
    ) as error:  # the case itself never raises: this is the cluster, or a worker without perfkit
        kind = "error" if isinstance(error, ImportError) else "lost"
        return Outcome(kind=kind, reason=f"Its worker was lost ({type(error).__name__}: {error}).")


@contextmanager
def _pool(scheduler, cluster, jobs, workers, expected, gpu):
    if scheduler:
        with executors.on_scheduler(scheduler, workers) as pool:
            yield pool
    elif cluster:
        with executors.on_cluster(cluster, jobs, expected=expected, workers=workers) as pool:
            yield pool
    else:
        with executors.local(workers, expected=expected, gpu=gpu) as pool:
            yield pool


@contextmanager
def _folder(out: Path):
    """Take the folder of a run for this driver alone; yields its lease, a file that stands while it runs."""
    import filelock

    try:
        (out / WORK).mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(out / LOCK)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise RuntimeError(
            f"{out}: another batch writes there. Wait for it, or take another folder."
        ) from None
    except OSError as error:
        raise _unwritable(out, error) from None
    try:
        try:
            shutil.rmtree(out / WORK, ignore_errors=True)  # of a run that was killed: its leases go first
            (out / WORK).mkdir(exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix="run-", dir=out / WORK))
            lease = folder / "lease"
            lease.write_bytes(b"x" * 4096)  # as large as a record: a full disk shows now
        except OSError as error:
            raise _unwritable(out, error) from None
        yield lease
    finally:
        shutil.rmtree(out / WORK, ignore_errors=True)
        lock.release()


def _unwritable(out, error):
    words = f"{out}: results need a folder that can be written to, and it cannot ({error.strerror or error})."
    return type(error)(f"{words} Free space or ask for the right, or give another --out.")


@contextmanager
def _stoppable():
    """Let the signal by which batch systems end jobs stop the run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_options(out, scheduler, cluster, jobs, workers, time_limit, memory_limit, retries):
    if not out:
        raise ValueError("A batch needs a folder for its results: give --out.")
    if Path(out).exists() and not Path(out).is_dir():
        raise NotADirectoryError(f"--out names a folder, and {out} is a file. Give another path.")
    if scheduler and cluster:
        raise ValueError("A batch runs on one cluster: --scheduler and --cluster came. Leave one out.")
    if cluster and cluster not in executors.SYSTEMS:
        raise ValueError(f"--cluster must be one of {', '.join(executors.SYSTEMS)}: {cluster!r} came.")
    limits = {"jobs": jobs, "workers": workers, "time-limit": time_limit, "memory-limit": memory_limit}
    for name, value in limits.items():
        if value is not None and not value > 0:
            raise ValueError(f"--{name} must be above 0: {value} came.")
    if retries < 0:
        raise ValueError(f"--retries must not be negative: {retries} came.")
