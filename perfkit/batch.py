"""A notebook over many cases: ``perfkit batch``.

``batchplan`` says what to run, ``batchdriver`` hands it out, ``batchtask`` runs one case, ``executors`` says
where.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from perfkit import batchrecord, executors, paths
from perfkit.batchdriver import Driver, Summary
from perfkit.batchplan import Plan, Run, make_plan
from perfkit.batchtask import FAILED, LOG, WORK, Task

LOCK = ".batch.lock"


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
    _check_place(plan, out)
    summary = Summary(folder=out, total=len(plan.runs))
    options = {
        "scheduler": scheduler,
        "cluster": cluster,
        "workers": workers,
        "time_limit": time_limit,
        "memory_limit": memory_limit,
        "retries": retries,
    }
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
                with _pool(scheduler, cluster, jobs, workers, expected, gpu, say) as pool:
                    say(f"{len(todo)} of {summary.total} cases to run, {pool.words}.")
                    tasks = (
                        _task(run, plan, out, copied, lease, pool, time_limit, memory_limit, resume)
                        for run in todo
                    )
                    Driver(pool, retries, records, summary, lease).drive(tasks, len(todo), progress)
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


def _task(run: Run, plan, out, notebook, lease, pool, time_limit, memory_limit, resume) -> Task:
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
        record=run.record if resume else run.record | {"run": lease.parent.name},
        lease=str(lease),
        time_limit=time_limit,
        memory_limit=limit,
        expected=run.expected,
        threads=pool.threads,
    )


@contextmanager
def _pool(scheduler, cluster, jobs, workers, expected, gpu, say):
    if scheduler:
        say(f"Asking the Dask scheduler at {scheduler}, for {executors.PATIENCE:g} s at most.")
        with executors.on_scheduler(scheduler, workers) as pool:
            yield pool
    elif cluster:
        say(f"Asking {cluster} for {jobs} jobs; the first case starts with the first of them.")
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


def _check_place(plan: Plan, out: Path) -> None:
    """Refuse a folder where results would take the place of something else, or be read as scans."""
    cohort = plan.facts["cohort"] and Path(plan.facts["cohort"])
    if cohort and (out == cohort or (plan.facts["layout"] == "NIfTI" and cohort in out.parents)):
        raise ValueError(
            f"Results among scans would be read as scans: --out is {out} and --cohort {cohort}. "
            "Give a folder beside it."
        )
    for run in plan.runs:
        there = set(os.listdir(out / run.name)) if (out / run.name).is_dir() else set()
        if not (batchrecord.DONE in there or there <= {FAILED, LOG}):
            raise FileExistsError(
                f"{out / run.name} holds what no batch made, and the result of {run.case} would replace it. "
                "Give another --out."
            )


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
