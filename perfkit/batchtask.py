"""One case of a batch: papermill in a process of its own, watched, and its result put into place whole.

``run_case`` runs where the case runs, in a thread of the driver or in a Dask worker. It starts
``python -m perfkit.batchchild``, which runs the notebook, and ends that process with all below it when the
time or the memory is used up or the run is over. Whoever starts it may be killed too: the process reads its
standard input, and when that closes it ends itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from perfkit import __version__, batchrecord, pages, resources
from perfkit.batchchild import NO_ROOM, PASSING, RESULT

POLL = 0.25  # s; our choice: a process that takes 1 GB/s overshoots its limit by a quarter of that
LOG_TAIL = 300  # characters; our choice: a reason is one line of a table
WORK, FAILED, LOG = ".work", "failed.ipynb", "log.txt"
THREADS = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"),
    *("VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"),
    "TF_NUM_INTRAOP_THREADS",
)
_GATE = resources.Gate()


@dataclass(frozen=True, kw_only=True)
class Task:
    """All a worker must know; plain values, so it travels to any machine that sees ``folder``.

    Parameters
    ----------
    case : id.
    folder : of the whole run.
    name : of the case's folder in it.
    notebook : file to run.
    parameters : of the notebook, without ``out``.
    out : whether the notebook takes ``out``.
    record : what ``done.json`` says beside the timing; holds ``key``, and ``run`` where only a result of this
        run counts.
    lease : file that exists as long as the run goes on.
    time_limit : s, or None.
    memory_limit, expected : bytes a case may take, and is thought to take.
    threads : for each library that makes threads.
    gpu : for ``CUDA_VISIBLE_DEVICES``; None: as it is.
    attempt : from 1.
    version : of the driver's perfkit.
    """

    case: str
    folder: str
    name: str
    notebook: str
    parameters: dict
    out: bool
    record: dict
    lease: str
    time_limit: float | None = None
    memory_limit: int | None = None
    expected: int = 0
    threads: int = 1
    gpu: str | None = None
    attempt: int = 1
    version: str = __version__


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a case.

    Parameters
    ----------
    kind : ``done``; ``error`` (the notebook raised), ``timeout``, ``memory``; ``io`` and ``lost`` (the file
        system, the process), which may pass by themselves; ``stopped`` with the run.
    reason : in words.
    seconds : of this attempt.
    """

    kind: str
    reason: str = ""
    seconds: float = 0.0

    @property
    def passing(self) -> bool:
        """Whether another attempt may end otherwise."""
        return self.kind in ("io", "lost")


def run_case(task: Task) -> Outcome:
    """Run the notebook for one case and put what it leaves into place.

    Never raises for what goes wrong with the case: that is the outcome.
    """
    if task.version != __version__:
        reason = (
            f"The worker runs perfkit {__version__}, the driver {task.version}. Install the same on both."
        )
        return Outcome(kind="error", reason=reason)
    final = Path(task.folder, task.name)
    if _is_there(final, task.record):
        return Outcome(kind="done")  # by a worker that was thought lost
    with _GATE.admit(task.expected, lambda: not os.path.exists(task.lease)) as used:
        if used is None:
            return Outcome(kind="stopped")
        begun = time.monotonic()
        work = Path(task.folder, WORK, f"{task.name[:80]}.{uuid.uuid4().hex[:12]}")
        try:
            (work / "case").mkdir(parents=True)
            kind, reason = _supervise(task, work, used)
            seconds = time.monotonic() - begun
            if kind == "done":
                _finish(task, work, final, seconds)
            elif kind != "stopped":
                _keep_failed(task, work, final)
        except OSError as error:
            kind, reason = "io" if error.errno in PASSING else "error", f"{type(error).__name__}: {error}"
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return Outcome(kind=kind, reason=reason, seconds=time.monotonic() - begun)


def _is_there(final: Path, record: dict) -> bool:
    found = batchrecord.read_done(final, record["key"])
    return bool(found) and record.get("run", found.get("run")) == found.get("run")


def _supervise(task: Task, work: Path, used) -> tuple[str, str]:
    """Run the process of a case to its end, or end it. Returns kind and reason."""
    from perfkit.privatekernel import private_folder

    private = private_folder()
    begun = time.monotonic()
    with open(work / LOG, "wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "perfkit.batchchild"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=_environment(task, private),
            start_new_session=True,  # Ctrl-C at the terminal is the driver's to handle
        )
        try:
            job = asdict(task) | {"work": str(work), "private": str(private)}
            with suppress(BrokenPipeError):
                child.stdin.write(json.dumps(job).encode() + b"\n")
                child.stdin.flush()
            while True:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(POLL)
                    break
                if verdict := _verdict(task, child.pid, time.monotonic() - begun, used, work):
                    return verdict
        finally:
            resources.kill_tree(child.pid)
            child.wait()
            with suppress(OSError):
                child.stdin.close()
            shutil.rmtree(private, ignore_errors=True)
    return _result(work, child.returncode)


def _verdict(task, pid, seconds, used, work):
    """Why the process must end now; None where it may go on."""
    if not os.path.exists(task.lease):
        return "stopped", ""
    taken = resources.memory_of(pid)
    used(taken)
    if task.memory_limit and taken > task.memory_limit:
        words = f"It took {taken / 2**30:.2f} GiB; {task.memory_limit / 2**30:.2f} GiB were allowed"
        return "memory", words + _where(task, work)
    if task.time_limit and seconds > task.time_limit:
        return "timeout", f"It was not done after {task.time_limit:g} s" + _where(task, work)
    return None


def _where(task, work):
    """Name the cell that was running, as papermill notes it in the notebook."""
    with suppress(OSError, ValueError, KeyError):
        cells = json.loads(_executed(task, work).read_text(encoding="utf-8"))["cells"]
        for number, cell in enumerate(cells, start=1):
            if cell["metadata"].get("papermill", {}).get("status") == "running":
                return f", in cell {number}."
    return "."


def _executed(task, work):
    return work / "case" / Path(task.notebook).name


def _result(work: Path, status: int) -> tuple[str, str]:
    with suppress(OSError, ValueError, KeyError):
        result = json.loads((work / RESULT).read_text(encoding="utf-8"))
        return result["kind"], result["reason"]
    if status == NO_ROOM:
        return "io", "Not even its error could be written down. Is the disk full?"
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    hint = " (9 is also what a system short of memory sends)" if status == -9 else ""
    tail = (work / LOG).read_text(encoding="utf-8", errors="replace")[-LOG_TAIL:].strip()
    return "lost", f"Its process {how}{hint}." + (f" Last words: {tail}" if tail else "")


def _finish(task: Task, work: Path, final: Path, seconds: float) -> None:
    """Sign the result, then give it its name: what stands there is whole."""
    record = task.record | {
        "case": task.case,
        "seconds": round(seconds, 3),
        "attempts": task.attempt,
        "finished": batchrecord.now(),
    }
    _name_final_place(work / "case", final, Path(task.notebook))
    pages.write(work / "case" / batchrecord.DONE, json.dumps(record, indent=1) + "\n")
    _put(work, final, task.record)


def _name_final_place(made: Path, final: Path, notebook: Path) -> None:
    """Let the executed notebook name the folder it will lie in: run again by hand, it writes there."""
    with suppress(FileNotFoundError):
        text = (made / notebook.name).read_text(encoding="utf-8")
        for passing, lasting in ((made, final), (notebook, notebook.name)):  # what was run is a copy
            for old, new in zip(_written(passing), _written(lasting), strict=True):
                text = text.replace(old, new)
        pages.write(made / notebook.name, text)


def _written(path: Path | str) -> list[str]:
    """A path as a notebook's file holds it: plain, in a cell of papermill's, and printed as JSON."""
    plain = str(path)
    forms = (plain, plain.encode("unicode_escape").decode("ascii"), json.dumps(plain)[1:-1])
    return [json.dumps(form, ensure_ascii=False)[1:-1] for form in forms]


def _keep_failed(task: Task, work: Path, final: Path) -> None:
    """Leave of a failed case its notebook up to the cell that failed, and what it said: no half result."""
    kept = work / "failed"
    kept.mkdir()
    with suppress(OSError, ValueError):  # killed while it was saved
        json.loads(_executed(task, work).read_text(encoding="utf-8"))
        os.replace(_executed(task, work), kept / FAILED)
    if (work / LOG).stat().st_size:
        os.replace(work / LOG, kept / LOG)
    shutil.rmtree(work / "case")
    os.replace(kept, work / "case")
    _put(work, final)


def _put(work: Path, final: Path, record: dict | None = None) -> None:
    """Rename the case's folder into place; a result of the same key that came first stays."""
    for _ in range(5):
        try:
            os.rename(work / "case", final)
            return
        except OSError:
            if not final.exists():
                raise
        if record and _is_there(final, record):
            return
        with suppress(FileNotFoundError):
            os.rename(final, work / f"old.{uuid.uuid4().hex[:8]}")
    raise FileExistsError(f"{final}: two runs write there. Let one of them end.")


def _environment(task: Task, private: Path) -> dict:
    threads = dict.fromkeys(THREADS, str(task.threads)) | {"TF_NUM_INTEROP_THREADS": "1"}
    if task.gpu is not None:
        threads["CUDA_VISIBLE_DEVICES"] = task.gpu
    own = {"JUPYTER_RUNTIME_DIR": str(private), "IPYTHONDIR": str(private / "ipython")}
    return os.environ | threads | own | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
