"""The process of one case: papermill, and the kernel below it. ``batchtask`` starts it and watches it.

The job comes as a line of JSON on the standard input. When that closes, whoever started this is gone, and the
process ends itself with its kernel: nothing goes on writing behind a batch that was killed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import threading
from pathlib import Path

from perfkit import pages, resources

RESULT, NO_ROOM = "result.json", 74  # the status of sysexits.h for a failed write
# what may pass by itself: a full or vanished share, a network that stumbles, a machine short of something
PASSING = {
    getattr(errno, name)
    for name in (
        *("EIO", "ENOSPC", "EDQUOT", "ESTALE", "EREMOTEIO", "EBUSY", "EAGAIN", "ENFILE", "EMFILE"),
        *("ETIMEDOUT", "ECONNRESET", "ECONNABORTED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
    )
    if hasattr(errno, name)
}
SYSTEM_ERRORS = {
    *("OSError", "TimeoutError", "BlockingIOError", "ConnectionError"),
    *("ConnectionAbortedError", "ConnectionRefusedError", "ConnectionResetError"),
}


def main() -> None:
    """Run the notebook in this process and its kernel; the job comes as a line on the standard input."""
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_the_parent, args=(job["private"],), daemon=True).start()
    try:
        _execute(job)
        result = {"kind": "done", "reason": ""}
    except BaseException as error:
        result = _told(error)
    try:
        pages.write(Path(job["work"], RESULT), json.dumps(result))
    except OSError:  # the disk that failed the case may have no room for this either
        sys.exit(NO_ROOM)


def _end_with_the_parent(private: str) -> None:
    while os.read(0, 4096):  # not the buffered stdin: its lock would be held when this process ends
        pass
    resources.kill_tree(os.getpid(), itself=False)
    shutil.rmtree(private, ignore_errors=True)
    os._exit(1)


def _execute(job: dict) -> None:
    sys.modules.setdefault("rfc3987_syntax", None)  # builds a grammar for 2 s when jsonschema tries it
    import papermill

    from perfkit.privatekernel import PrivateKernelManager

    folder, notebook = Path(job["work"], "case"), Path(job["notebook"])
    parameters = job["parameters"] | ({"out": str(folder)} if job["out"] else {})
    papermill.execute_notebook(
        _escaped(notebook),
        _escaped(folder / notebook.name),
        parameters,
        kernel_name="python3",
        language="python",  # where the notebook does not say
        progress_bar=False,
        kernel_manager_class=PrivateKernelManager,
        extra_arguments=["--HistoryManager.enabled=False"],
    )


def _escaped(path: Path) -> str:
    return str(path).replace("{", "{{").replace("}", "}}")  # papermill formats paths with the parameters


def _told(error: BaseException) -> dict:
    """Sort an error of papermill or of the notebook into kind and reason."""
    name, words = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
    number = getattr(error, "errno", None)
    if name in SYSTEM_ERRORS and (found := re.match(r"\[Errno (\d+)\]", words)):
        number = int(found[1])
    kind = "lost" if name == "DeadKernelError" else "io" if number in PASSING else "error"
    return {"kind": kind, "reason": f"{name}: {words}" if words else name}


if __name__ == "__main__":
    main()
