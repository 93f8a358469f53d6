"""Memory is what the machine and every control group around the process leave; work waits until it fits."""

import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

from perfkit import resources

GB = 10**9


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A machine of 64 GB with 60 free; ``groups(job="max", step=8)`` puts the process into nested groups."""
    machine = SimpleNamespace(total=64 * GB, available=60 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(resources, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resources, "CGROUP_OF_ME", tmp_path / "me")

    def make(cache=0, used=0, **limits):
        place = tmp_path / "cgroup"
        for name, limit in limits.items():
            place = place / name
            place.mkdir(parents=True)
            (place / "memory.max").write_text(limit if isinstance(limit, str) else str(limit * GB))
            (place / "memory.current").write_text(str(used * GB))
            (place / "memory.stat").write_text(f"anon 5\ninactive_file {cache * GB}\n")
        (tmp_path / "me").write_text(f"0::/{'/'.join(limits)}\n")

    return make


@pytest.mark.parametrize(
    ("limits", "total", "free"),
    [
        ({}, 64, 60),
        ({"job": "max"}, 64, 60),
        ({"job": 16, "step": "max", "used": 4}, 16, 12),
        ({"job": 16, "step": 8, "used": 6, "cache": 1}, 8, 3),
        ({"job": 128, "used": 1}, 64, 60),
    ],
)
def test_the_tightest_limit_around_counts(groups, limits, total, free):
    groups(**limits)
    assert resources.total_memory() == total * GB
    assert resources.free_memory() == free * GB


NO_LIMIT = 9223372036854771712  # what version 1 says: the largest multiple of a page


@pytest.mark.parametrize(
    ("above", "own", "total", "free"),
    [(16 * GB, NO_LIMIT, 16, 11), (NO_LIMIT, 8 * GB, 8, 3), (NO_LIMIT, NO_LIMIT, 64, 60)],
)
def test_limits_of_control_groups_of_version_1_count(groups, tmp_path, above, own, total, free):
    """As SLURM makes them on older systems, with version 2 mounted beside for other things."""
    for place, limit in (("memory/slurm", above), ("memory/slurm/job", own)):
        group = tmp_path / "cgroup" / place
        group.mkdir(parents=True)
        (group / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (group / "memory.usage_in_bytes").write_text(f"{6 * GB}\n")
        # the group's own share of the cache stands beside that of all below it
        (group / "memory.stat").write_text(f"inactive_file 7\ntotal_inactive_file {1 * GB}\n")
    (tmp_path / "me").write_text("11:cpu,cpuacct:/slurm\n4:memory:/slurm/job\n1:name=systemd:/x\n0::/x\n")
    assert resources.total_memory() == total * GB
    assert resources.free_memory() == free * GB


def test_without_control_groups_the_machine_counts(groups):
    assert resources.total_memory() == 64 * GB
    assert resources.free_memory() == 60 * GB


@pytest.fixture
def free(monkeypatch):
    """Say how much memory is free, of 100 bytes."""
    now = {"free": 100}
    monkeypatch.setattr(resources, "total_memory", lambda: 100)
    monkeypatch.setattr(resources, "free_memory", lambda: now["free"])
    return now


def test_the_gate_counts_what_is_promised_and_not_yet_taken(free):
    gate = resources.Gate()
    with gate.admit(50) as used:
        assert not gate._fits(50)  # 50 are owed to the first, 10 reserved
        assert gate._fits(40)
        used(50)
        free["free"] = 50
        assert gate._fits(40) and not gate._fits(41)
    free["free"] = 100
    assert gate._fits(90)


def test_the_gate_lets_one_in_however_large(free):
    free["free"] = 1
    with resources.Gate().admit(1000) as used:
        assert used is not None


def test_the_gate_opens_when_one_leaves(free):
    gate, order = resources.Gate(), []

    def second():
        with gate.admit(80):
            order.append("second in")

    with gate.admit(80):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.1)
        order.append("first out")
    waiting.join(10)
    assert order == ["first out", "second in"]


def test_who_waits_at_the_gate_can_be_sent_away(free):
    gate = resources.Gate()
    with gate.admit(80), gate.admit(80, lambda: True) as used:
        assert used is None


@pytest.mark.parametrize(
    ("value", "found"), [("0,1", ["0", "1"]), ("GPU-1f", ["GPU-1f"]), ("", []), ("-1", [])]
)
def test_gpus_are_those_that_are_allowed(monkeypatch, value, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert resources.gpus() == found


CHILD = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {!r}]{}); time.sleep(60)"


@pytest.mark.skipif(os.name == "nt", reason="sessions are of POSIX")
def test_a_tree_is_counted_and_ended_with_its_sessions():
    leaf = "import time; held = b'x' * 150_000_000; time.sleep(60)"
    middle = CHILD.format(leaf, ", start_new_session=True")
    root = subprocess.Popen([sys.executable, "-c", CHILD.format(middle, ", start_new_session=True")])
    try:
        for _ in range(600):
            if resources.memory_of(root.pid) > 150_000_000:
                break
            time.sleep(0.05)
        assert resources.memory_of(root.pid) > 150_000_000
        found = resources.tree(root.pid)
        assert len(found) == 3
    finally:
        resources.kill_tree(root.pid)
        root.wait()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in found)
    assert resources.memory_of(root.pid) == 0
