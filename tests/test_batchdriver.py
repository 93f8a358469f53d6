"""The driver hands out a bounded number of cases, waits longer each time, and loses none."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from perfkit import batchdriver
from perfkit.batchdriver import Driver, Summary
from perfkit.batchtask import Outcome, Task
from perfkit.executors import Pool


class Notes:
    """Stands in for the records on disk."""

    def __init__(self):
        self.rows = {}

    def done(self, case, record):
        self.rows[case] = "done"

    def failed(self, case, kind, reason, seconds, attempts, **more):
        self.rows[case] = (kind, attempts)


def tasks(n, taken=None):
    for i in range(n):
        if taken is not None:
            taken.append(i)
        options = {"folder": "/nowhere", "notebook": "", "parameters": {}, "out": True, "lease": ""}
        yield Task(case=f"c{i}", name=f"c{i}", record={"key": "", "inputs": ""}, **options)


def drive(tmp_path, run, n, *, width=3, retries=2, taken=None, alive=lambda: True):
    """Drive ``n`` tasks through threads that call ``run``; returns summary and notes."""
    summary, notes = Summary(folder=tmp_path, total=n), Notes()
    lease = tmp_path / "lease"
    lease.touch()
    with ThreadPoolExecutor(width) as threads:
        pool = Pool(
            submit=lambda task: threads.submit(run, task),
            width=lambda: width,
            threads=1,
            memory=None,
            words="",
            alive=alive,
        )
        Driver(pool, retries, notes, summary, lease).drive(tasks(n, taken), n, False)
    return summary, notes


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(batchdriver, "BACKOFF", 0.001)
    monkeypatch.setattr(batchdriver, "LOOK", 0.01)


def test_no_more_are_in_flight_than_the_pool_is_wide(tmp_path):
    taken, ended, most = [], [], []
    lock = threading.Lock()

    def run(task):
        with lock:
            most.append(len(taken) - len(ended))
            ended.append(task.case)
        return Outcome(kind="done")

    summary, _ = drive(tmp_path, run, 50, width=3, taken=taken)
    assert sorted(summary.done) == sorted(f"c{i}" for i in range(50))
    assert max(most) <= 3 + 1  # tasks are made one by one, just before they are submitted


def test_what_may_pass_is_tried_again_and_no_other_fault(tmp_path):
    kinds = {"c0": "lost", "c1": "io", "c2": "error", "c3": "timeout", "c4": "memory"}
    count = dict.fromkeys(kinds, 0)

    def run(task):
        count[task.case] += 1
        assert task.attempt == count[task.case]
        return Outcome(kind=kinds[task.case], reason="why")

    summary, notes = drive(tmp_path, run, 5, retries=2)
    assert count == {"c0": 3, "c1": 3, "c2": 1, "c3": 1, "c4": 1}
    assert notes.rows == {case: (kinds[case], count[case]) for case in kinds}
    assert summary.failures["c2"] == ("error", "why") and summary.left == 0


@pytest.mark.parametrize("error", [RuntimeError("worker gone"), ImportError("no perfkit")])
def test_an_error_of_the_pool_is_an_outcome(tmp_path, error):
    def run(task):
        raise error

    summary, notes = drive(tmp_path, run, 1, retries=1)
    assert notes.rows["c0"] == (("error", 1) if isinstance(error, ImportError) else ("lost", 2))
    assert str(error) in summary.failures["c0"][1]


def test_a_worker_that_does_not_see_the_folder_is_told_apart_from_an_end(tmp_path):
    summary, _ = drive(tmp_path, lambda task: Outcome(kind="stopped"), 1, retries=0)
    kind, reason = summary.failures["c0"]
    assert kind == "lost" and "all must share that disk" in reason


def test_cancelled_futures_are_tried_again(tmp_path):
    seen = []

    def submit(task):
        future = Future()
        seen.append(task.attempt)
        if task.attempt == 1:
            future.cancel()
        else:
            future.set_result(Outcome(kind="done"))
        return future

    summary = Summary(folder=tmp_path, total=1)
    pool = Pool(submit=submit, width=lambda: 1, threads=1, memory=None, words="")
    Driver(pool, 1, Notes(), summary, tmp_path / "lease").drive(tasks(1), 1, False)
    assert seen == [1, 2] and summary.done == ["c0"]


def test_waiting_doubles_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(batchdriver, "BACKOFF", 5.0)
    monkeypatch.setattr(batchdriver, "LONGEST_BACKOFF", 30.0)
    monkeypatch.setattr(batchdriver.time, "monotonic", lambda: 100.0)
    waits = []
    for attempt in range(1, 6):
        driver = Driver(None, 10, Notes(), Summary(folder=Path(), total=1), Path())
        future = Future()
        future.set_result(Outcome(kind="io"))
        (task,) = tasks(1)
        driver._settle(batchdriver.replace(task, attempt=attempt), future)
        waits.append(driver.waiting[0][0] - 100.0)
    assert waits == [5.0, 10.0, 20.0, 30.0, 30.0]


def test_a_scheduler_that_goes_away_ends_the_run_with_its_lease(tmp_path):
    with pytest.raises(ConnectionError, match="the same command goes on"):
        drive(tmp_path, lambda task: Outcome(kind="done"), 5, alive=lambda: False)
    assert not (tmp_path / "lease").exists()
