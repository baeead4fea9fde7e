"""The same results wherever the layers are analysed, and training goes on when that place dies."""

import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import psutil
import pytest

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
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    yield
    deadline = time.monotonic() + 10
    while {c.pid for c in psutil.Process().children(recursive=True)} - before - trackers():
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.01)


def trackers():
    """Resource trackers of multiprocessing and loky live as long as the interpreter: they are not ours."""
    return {
        child.pid
        for child in psutil.Process().children(recursive=True)
        if "resource_tracker" in " ".join(child.cmdline())
    }


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
    model = {"big": np.random.default_rng(0).standard_normal((1200, 1200))}
    with ww.Monitor(model, executor="thread", every_n_steps=1) as monitor:
        begin = last = time.perf_counter()
        longest = 0.0
        while not monitor._engine._under_way[0].done():
            time.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        whole = time.perf_counter() - begin
        assert longest < whole / 2, (longest, whole)
    assert monitor.history[0]["big"].status == "ok"


def test_a_pool_of_threads_does_not_keep_the_interpreter():
    ThreadPool(1).shutdown()
    assert not any(thread.name == "ww-worker" and not thread.daemon for thread in threading.enumerate())


def test_a_process_pool_by_spawn_says_the_same_and_is_not_shut_down(expected):
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert rows(run(pool)) == expected
        assert pool.submit(math.sqrt, 4.0).result(timeout=30) == 2.0


def test_loky_says_the_same_and_is_not_shut_down(expected):
    loky = pytest.importorskip("loky")
    pool = loky.ProcessPoolExecutor(2)
    try:
        assert rows(run(pool)) == expected
        assert pool.submit(math.sqrt, 4.0).result(timeout=30) == 2.0
    finally:
        pool.shutdown(kill_workers=True)


def test_a_thread_pool_of_the_users_says_the_same(expected):
    with ThreadPoolExecutor(2) as pool:
        assert rows(run(pool)) == expected


def test_a_pool_whose_processes_are_killed_ends_the_monitoring_with_one_warning_and_not_the_training():
    model = weights()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        monitor = ww.Monitor(model, executor=pool, every_n_steps=1, when_busy="wait")
        monitor.start()
        assert monitor.wait_for_first()
        for process in list(pool._processes.values()):
            os.kill(process.pid, signal.SIGKILL)
        with pytest.warns(RuntimeWarning, match="training goes on.*the executor failed") as caught:  # noqa: PT031
            for step in range(1, 8):
                model["fc"] *= 1.1
                monitor.step(step)
            monitor.finish()
    assert len([each for each in caught if "ww_callbacks" in str(each.message)]) == 1
    assert monitor.closed
    assert monitor.history.steps[0] == 0


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


@pytest.fixture
def cluster():
    distributed = pytest.importorskip("distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
        )
        client = distributed.Client(made)
        yield client
        client.close(timeout=5)
        made.close(timeout=10)


def test_a_dask_cluster_of_two_processes_says_the_same_and_its_death_leaves_training_alive(cluster, expected):
    executor = cluster.get_executor()
    assert rows(run(executor)) == expected
    assert cluster.submit(math.sqrt, 4.0).result(timeout=30) == 2.0  # it is not shut down

    model = weights()
    monitor = ww.Monitor(
        model, executor=executor, every_n_steps=1, when_busy="wait", layer_timeout=5.0, drain_timeout=8.0
    )
    monitor.start()
    assert monitor.wait_for_first()
    cluster.cluster.close(timeout=10)
    steps = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(1, 7):
            model["fc"] *= 1.1
            monitor.step(step)
            steps += 1
        monitor.finish()
    ours = [str(each.message) for each in caught if str(each.message).startswith("ww_callbacks")]
    assert (steps, len(ours)) == (6, 1), ours
    assert "training goes on" in ours[0]
    assert monitor.closed
