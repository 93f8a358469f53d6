"""The same work for many scans at once, in threads: NumPy and SciPy let others run while they count."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

MOST_WORKERS = 4  # our choice: each holds a series or two, and more gain little beside a disk


def usable_cores() -> int:
    """Return how many cores this process may use; a batch system or a container may give less than all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(function: Callable, items: Iterable, workers: int | None = None) -> Iterator:
    """Apply a function to every item in threads; the results come in the order of the items.

    Parameters
    ----------
    function : must be safe to run in several threads.
    items : are taken only a little ahead of the results.
    workers : threads; default: one per usable core, at most ``MOST_WORKERS``. 1: no thread at all.

    Yields
    ------
    The result for each item.

    Notes
    -----
    Meanwhile the matrix library has one thread: several times several threads would wait for each other.
    An error of the function is raised where its result would come, and no further item is begun.
    """
    workers = min(usable_cores(), MOST_WORKERS) if workers is None else workers
    if workers < 2:
        yield from map(function, items)
        return
    from threadpoolctl import threadpool_limits

    items, running = iter(items), deque()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        try:
            for item in islice(items, 2 * workers):
                running.append(pool.submit(function, item))
            while running:
                yield running.popleft().result()
                for item in islice(items, 1):
                    running.append(pool.submit(function, item))
        finally:
            for waiting in running:
                waiting.cancel()
