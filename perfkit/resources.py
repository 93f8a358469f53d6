"""What a machine can give: memory, GPUs, and an end to processes that take too much of either."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# places of both versions of control groups: what a group may take, takes, and could give back
FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
CGROUPS, CGROUP_OF_ME = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
RESERVE = 0.1  # our choice: share of the memory that is left to the system and its file cache


def total_memory() -> int:
    """Return the bytes this process may use at most: the machine's, or its container's or job's."""
    import psutil

    return min([psutil.virtual_memory().total, *(limit for _, limit, _ in _limits())])


def free_memory() -> int:
    """Return the bytes that can be had now without swapping."""
    import psutil

    free = [psutil.virtual_memory().available]
    for group, limit, version in _limits():
        _, current, cache = FILES[version]
        with suppress(OSError, ValueError):
            used = int((group / current).read_text(encoding="ascii"))
            free.append(limit - used + _reclaimable(group, cache))
    return max(0, min(free))


def _limits() -> Iterator[tuple[Path, int, int]]:
    """Yield the control groups around this process that limit memory, with the bytes and the version."""
    try:
        lines = CGROUP_OF_ME.read_text(encoding="ascii").splitlines()
    except OSError:
        return  # not Linux
    for _, controllers, own in (line.split(":", 2) for line in lines if line.count(":") > 1):
        version = 1 if "memory" in controllers.split(",") else 2  # on a mixed system the memory is in one
        if version == 2 and controllers:
            continue
        root = CGROUPS / "memory" if version == 1 else CGROUPS
        group = root / own.strip("/")
        group = group if group.is_dir() else root  # a container sees its own as the root
        for place in (group, *group.parents):
            with suppress(
                OSError, ValueError
            ):  # version 2 says "max" where there is no limit, 1 a huge number
                yield place, int((place / FILES[version][0]).read_text(encoding="ascii")), version
            if place == root:
                break


def _reclaimable(group: Path, name: str) -> int:
    """Bytes of file cache in a control group, which the system drops when asked for memory."""
    for line in (group / "memory.stat").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name} "):
            return int(line.split()[1])
    return 0


class Gate:
    """Let work in only while its memory fits beside what runs already.

    A process that was just let in has not taken its memory yet, so the gate counts what was promised to
    those inside and not yet used by them. One is always let in: a case too large for the machine shall fail
    by itself and not wait for ever.
    """

    def __init__(self):
        self._inside: dict[int, list[int]] = {}
        self._changed = threading.Condition()

    @contextmanager
    def admit(self, promised: int, given_up=lambda: False):
        """Wait until ``promised`` bytes fit; yields ``used(n)`` to be told the bytes in use, or None where
        ``given_up()`` came true while waiting."""
        place = [promised, 0]
        with self._changed:
            while self._inside and not self._fits(promised):
                if given_up():
                    break
                self._changed.wait(1.0)  # memory may also come back from elsewhere
            stopped = given_up()
            self._inside[id(place)] = place
        try:
            yield None if stopped else lambda n: place.__setitem__(1, n)
        finally:
            with self._changed:
                del self._inside[id(place)]
                self._changed.notify_all()

    def _fits(self, promised):
        owed = sum(max(0, promise - used) for promise, used in self._inside.values())
        return promised + owed <= free_memory() - RESERVE * total_memory()


def gpus() -> list[str]:
    """Return the GPUs this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; none without a driver."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    with suppress(OSError):
        return [str(n) for n in range(len(list(Path("/proc/driver/nvidia/gpus").iterdir())))]
    return []


def tree(pid: int) -> list:
    """Return the processes (psutil.Process) below and including ``pid``, as far as they live."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def memory_of(pid: int) -> int:
    """Return the resident bytes of a process and all below it.

    Resident, not address space: TensorFlow and CUDA reserve tens of gigabytes that they never touch, so a
    limit by ``RLIMIT_AS`` would kill what is sound. Pages that processes share are counted in each.
    """
    import psutil

    used = 0
    for process in tree(pid):
        with suppress(psutil.Error):
            used += process.memory_info().rss
    return used


def kill_tree(pid: int, *, itself: bool = True) -> None:
    """End a process and all below it at once, those in sessions of their own too (Jupyter's kernels are)."""
    import psutil

    for _ in range(3):  # one may be born while the others die
        found = tree(pid)[0 if itself else 1 :]
        if not found:
            return
        for process in found:
            with suppress(psutil.Error, OSError):
                if hasattr(os, "killpg") and os.getpgid(process.pid) == process.pid:
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
        psutil.wait_procs(found, timeout=5)
