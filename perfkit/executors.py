"""Where the cases of a batch run: on this machine, on a Dask cluster, or on one that a batch system starts.

All give the same: ``submit(task)``, a future, and how many of them are worth having at a time. On this
machine the pool is one of threads, each of which watches a process: a process pool would break as a whole
when one of its workers is killed.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from perfkit import parallel, resources
from perfkit.batchtask import Outcome, Task, run_case

SYSTEMS = {"slurm": "SLURMCluster", "pbs": "PBSCluster", "sge": "SGECluster"}
PATIENCE = 60  # s; our choice: a scheduler that runs has its workers by then
LOOK = 1.0  # s; our choice: how soon it is told that a batch system refuses
AHEAD = 2  # our choice: futures per worker, so that none waits for the next


@dataclass(frozen=True, kw_only=True)
class Pool:
    """A place to run cases.

    Parameters
    ----------
    submit : of a Task, gives the future of its Outcome.
    width : how many to have in flight now.
    threads, memory : for each case; bytes, None where it is not known.
    words : what it is, for the reader.
    alive : whether it can still be asked.
    """

    submit: Callable[[Task], Future]
    width: Callable[[], int]
    threads: int
    memory: int | None
    words: str
    alive: Callable[[], bool] = lambda: True


@contextmanager
def local(workers: int | None = None, *, expected: int = 0, gpu: bool = True) -> Iterator[Pool]:
    """Run cases on this machine.

    Parameters
    ----------
    workers : cases at a time; default: one per usable core, and no more than memory has room for. With GPUs
        at most one per GPU.
    expected : bytes a usual case takes.
    gpu : whether cases may use the GPUs, one each.
    """
    memory = int((1 - resources.RESERVE) * resources.total_memory())
    cores, devices = parallel.usable_cores(), resources.gpus() if gpu else []
    if workers is None:
        workers = max(1, min(cores, memory // max(1, expected)))
    if devices:
        workers = min(workers, len(devices))
    free: queue.SimpleQueue = queue.SimpleQueue()
    for n in range(workers):
        free.put(devices[n] if devices else None if gpu else "")

    def run(task: Task) -> Outcome:
        device = free.get()
        try:
            return run_case(replace(task, gpu=device))
        finally:
            free.put(device)

    executor = ThreadPoolExecutor(workers)
    words = f"{workers} at a time on this machine" + (f", {len(devices)} GPUs" if devices else "")
    try:
        yield Pool(
            submit=lambda task: executor.submit(run, task),
            width=lambda: workers,
            threads=max(1, cores // workers),
            memory=memory // workers,
            words=words,
        )
    finally:
        executor.shutdown(cancel_futures=True)  # waits: the lease is gone, so it takes a moment


@contextmanager
def on_scheduler(address: str, workers: int | None = None) -> Iterator[Pool]:
    """Run cases on the workers of a running Dask scheduler.

    Parameters
    ----------
    address : such as ``tcp://host:8786``; ``tls://`` takes the certificates of Dask's configuration.
    workers : cases at a time at most; default: as many as the workers have threads.

    Raises
    ------
    ConnectionError : no scheduler answers there, or it has no worker.
    """
    client_of = _distributed().Client
    _ask(address)
    with client_of(address, timeout=PATIENCE, set_as_default=False) as client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError:
            raise ConnectionError(
                f"The scheduler {address} has no worker. Start some: `dask worker {address} --nthreads 1`."
            ) from None
        with _of_client(client, workers, address) as pool:
            yield pool


def _ask(address):
    """Reach a scheduler before there is a client: one without a connection holds up the process's end."""
    from distributed.core import connect
    from distributed.security import Security

    async def ask():
        comm = await connect(address, timeout=PATIENCE, **Security().get_connection_args("client"))
        await comm.close()

    try:
        asyncio.run(ask())
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"No Dask scheduler answers at {address} ({error}). Start one with `dask scheduler`, and workers "
            "with `dask worker ADDRESS --nthreads 1`; its address is one such as tcp://host:8786."
        ) from None


@contextmanager
def on_cluster(system: str, jobs: int, *, expected: int, workers: int | None = None) -> Iterator[Pool]:
    """Let a batch system start workers through dask-jobqueue, and run cases on them.

    Parameters
    ----------
    system : slurm, pbs or sge. Queue, account and time stand in ``~/.config/dask/jobqueue.yaml``.
    jobs : how many; each is one worker with one thread unless that file says otherwise.
    expected : bytes a case takes; a job asks for twice that where the file does not say.
    workers : cases at a time at most.

    Raises
    ------
    RuntimeError : there is no such batch system here, or it takes none of the jobs.
    """
    client_of = _distributed().Client
    with cluster_of(system, expected) as cluster, client_of(cluster, set_as_default=False) as client:
        _start_jobs(cluster, client, system, jobs)
        with _of_client(client, workers, f"{jobs} jobs of {system}") as pool:
            yield pool


def _start_jobs(cluster, client, system, jobs):
    """Wait for the first worker: jobs may lie in the queue for hours, unless all of them are refused."""
    from distributed.core import Status

    refusals = []

    def catch(entry):  # Dask logs a refusal, with a traceback, and would wait on
        error = entry.exc_info and entry.exc_info[1]
        refusals.extend([error] if error else [])
        return not error

    log = logging.getLogger("tornado.application")
    log.addFilter(catch)
    try:
        cluster.scale(jobs=jobs)
        while True:
            try:
                return client.wait_for_workers(1, timeout=LOOK)
            except TimeoutError:
                if refusals and all(job.job_id is None for job in cluster.workers.values()):
                    for job in cluster.workers.values():  # else closing it would fail as well
                        job.status = Status.failed
                    why = " ".join(str(refusals[0]).split())
                    raise RuntimeError(
                        f"{system} takes none of the jobs ({jobs} asked for): {why}. Queue, "
                        "account and time stand in ~/.config/dask/jobqueue.yaml."
                    ) from None
    finally:
        log.removeFilter(catch)


def cluster_of(system: str, expected: int):
    """Make the dask-jobqueue cluster of a batch system; it has no jobs yet."""
    _distributed()
    import dask

    made = getattr(_jobqueue(), SYSTEMS[system])
    command = made.job_cls.submit_command.split()[0]
    if not shutil.which(command):
        raise RuntimeError(
            f"--cluster {system} hands jobs over by {command}, and there is no such command here. Start the "
            "batch on a login node of the cluster, or use a Dask scheduler that runs (--scheduler)."
        )
    said = dask.config.get(f"jobqueue.{system}", {})
    own = {"cores": 1, "memory": f"{max(2, round(2 * expected / 2**30))}GiB"}
    missing = {name: value for name, value in own.items() if not said.get(name)}
    if "cores" in missing:
        missing["processes"] = 1
    return made(**missing)


def _jobqueue():
    ours = signal.getsignal(signal.SIGINT)
    import dask_jobqueue  # makes Ctrl-C end the process as if all had gone well

    if signal.getsignal(signal.SIGINT) is not ours:
        signal.signal(signal.SIGINT, ours)
    return dask_jobqueue


@contextmanager
def _of_client(client, workers, words):
    executor = client.get_executor(pure=False, retries=0)
    described = client.scheduler_info(n_workers=-1)["workers"].values()
    shares = [one["memory_limit"] / one["nthreads"] for one in described if one["memory_limit"]]

    def width():
        n = sum(client.nthreads().values())
        return max(1, AHEAD * n if workers is None else min(workers, AHEAD * n))

    try:
        yield Pool(
            submit=lambda task: executor.submit(run_case, task),
            width=width,
            threads=1,
            memory=int((1 - resources.RESERVE) * min(shares)) if shares else None,
            words=f"{len(described)} workers of {words}",
            alive=lambda: client.status == "running",
        )
    finally:
        executor.shutdown(wait=False)  # cancels what has not begun


def _distributed():
    try:
        import distributed
    except ImportError:
        raise RuntimeError(
            "A cluster needs Dask, which is not installed: pip install -c constraints.txt -e '.[cluster]'."
        ) from None
    return distributed
