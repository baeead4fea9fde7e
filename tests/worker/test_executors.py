"""The same results wherever the layers are analysed; other libraries': integration/test_foreign_executors.py."""

import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import pytest
from processes import no_worker_left

import ww_callbacks as ww
from ww_callbacks.worker.pool import ThreadPool

pytestmark = pytest.mark.timeout(100)


def weights():
    rng = np.random.default_rng(0)
    return {"fc": rng.standard_normal((90, 60)), "wide": rng.standard_normal((60, 200)), "tiny": np.ones(3)}


def run(executor, steps=3, **arguments):
    """A loop that changes its weights; what came out is that of each step."""
    model = weights()
    with ww.Monitor(model, executor=executor, every_n_steps=1, when_busy="wait", **arguments) as monitor:
        for step in range(1, steps + 1):
            model["fc"] *= 1.5
            monitor.step(step)
    return monitor


def rows(monitor):
    return [layer.to_dict() for report in monitor.history for layer in report]


@pytest.fixture(scope="module")
def expected():
    return rows(run("sync"))


@pytest.fixture(autouse=True)
def nothing_survives():
    with no_worker_left():
        yield


def test_sync_knows_the_result_of_a_step_at_that_step():
    model = weights()
    with ww.Monitor(model, executor="sync", every_n_steps=1) as monitor:
        for step in range(1, 4):
            model["fc"] *= 2
            monitor.step(step)
            assert monitor.history.steps[-1] == step
            assert monitor.metrics["ww/lag_steps"] == 0.0
            assert monitor.status().worker_pids == ()


@pytest.mark.parametrize(("executor", "workers"), [("process", 2), ("thread", 1), ("thread", 2)])
def test_our_own_executors_say_the_same_as_sync(executor, workers, expected):
    assert rows(run(executor, workers=workers)) == expected


def test_workers_are_as_many_processes_as_asked_for():
    rng = np.random.default_rng(0)
    model = {f"fc{i}": rng.standard_normal((400, 400)) for i in range(6)}
    with ww.Monitor(model, workers=2, every_n_steps=1) as monitor:
        assert monitor.wait_for_first()
        assert len(monitor.status().worker_pids) == 2


def test_threads_let_python_go_on_in_the_middle_of_an_eigensolver():
    """A heartbeat of another thread is not stopped for as long as the layer takes."""
    model = {"big": np.random.default_rng(0).standard_normal((800, 800))}
    with ww.Monitor(model, executor="thread", every_n_steps=1) as monitor:
        begin = last = time.perf_counter()
        longest = 0.0
        while not monitor._engine._pending[0].done():
            time.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        whole = time.perf_counter() - begin
        assert longest < whole / 2, (longest, whole)
    assert monitor.history[0]["big"].status == "ok"


def test_a_pool_of_threads_does_not_keep_the_interpreter():
    ThreadPool(1).shutdown()
    assert not any(thread.name == "ww-worker" and not thread.daemon for thread in threading.enumerate())


def test_a_thread_pool_of_the_users_says_the_same(expected):
    with ThreadPoolExecutor(2) as pool:
        assert rows(run(pool)) == expected


def test_an_executor_that_never_answers_is_given_up():
    class Silent(Executor):
        def submit(self, fn, /, *args, **kwargs):
            return Future()

    monitor = ww.Monitor(weights(), executor=Silent(), every_n_steps=1, layer_timeout=0.2, drain_timeout=0.5)
    monitor.start()
    time.sleep(0.3)
    with pytest.warns(RuntimeWarning, match=r"no result within 0\.2 s"):
        monitor.step(1)
    assert monitor.closed
