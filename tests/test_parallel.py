"""Work in threads: the order of results, how far it reads ahead, and what an error does."""

import threading
import time

import numpy as np
import pytest

from perfkit import parallel


@pytest.mark.parametrize("workers", [None, 1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 3, 40])
def test_results_come_in_the_order_of_the_items(workers, n):
    def slower_at_first(i):
        time.sleep(0.002 * (i % 3 == 0))
        return i * i

    assert list(parallel.each(slower_at_first, range(n), workers)) == [i * i for i in range(n)]


def test_items_run_at_the_same_time():
    meet = threading.Barrier(3, timeout=30)  # a single thread would never pass it
    assert sorted(parallel.each(lambda i: (meet.wait(), i)[1], range(6), 3)) == list(range(6))


def test_items_are_taken_only_a_little_ahead():
    taken = []
    results = parallel.each(lambda i: i, (taken.append(i) or i for i in range(100)), 2)
    assert next(results) == 0 and len(taken) <= 4
    results.close()
    assert len(taken) <= 4


def test_an_error_comes_at_its_place_and_ends_the_work():
    done = []

    def fails_at_three(i):
        if i == 3:
            raise ValueError("three")
        done.append(i)
        return i

    results = parallel.each(fails_at_three, range(100), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(done) < 10


def test_the_matrix_library_has_one_thread_meanwhile_and_its_own_number_after():
    from threadpoolctl import threadpool_info

    def threads(_=None):
        return {
            pool["filepath"]: pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"
        }

    np.ones((2, 2)) @ np.ones((2, 2))
    before = threads()
    assert before
    for inside in parallel.each(threads, range(4), 2):
        assert set(inside.values()) == {1}
    assert threads() == before
