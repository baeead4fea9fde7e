"""All executors give the same results. For those of other libraries see integration/test_foreign_executors.py."""

import threading
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import pytest
from processes import no_worker_left

import ww_callbacks as ww
from ww_callbacks.engine import Limits
from ww_callbacks.worker.pool import ThreadPool

pytestmark = pytest.mark.timeout(100)


def weights():
    rng = np.random.default_rng(0)
    return {"fc": rng.standard_normal((90, 60)), "wide": rng.standard_normal((60, 200)), "tiny": np.ones(3)}


def run(executor, steps=3, **arguments):
    """A training loop that changes the weights at each step."""
    model = weights()
    with ww.Monitor(model, executor=executor, every_n_steps=1, deterministic=True, **arguments) as monitor:
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
def no_leaks():
    with no_worker_left():
        yield


def test_sync_has_the_result_of_each_step_immediately():
    model = weights()
    with ww.Monitor(model, executor="sync", every_n_steps=1) as monitor:
        for step in range(1, 4):
            model["fc"] *= 2
            monitor.step(step)
            assert monitor.history.steps[-1] == step
            assert monitor.metrics["ww/lag_steps"] == 0.0
            assert monitor.status().worker_pids == ()


@pytest.mark.parametrize(("executor", "workers"), [("process", 2), ("thread", 1), ("thread", 2)])
def test_built_in_executors_give_the_same_results_as_sync(executor, workers, expected):
    assert rows(run(executor, workers=workers)) == expected


def test_number_of_worker_processes():
    rng = np.random.default_rng(0)
    model = {f"fc{i}": rng.standard_normal((400, 400)) for i in range(6)}
    with ww.Monitor(model, workers=2, every_n_steps=1) as monitor:
        assert monitor.wait_for_first()
        assert len(monitor.status().worker_pids) == 2


def test_threads_do_not_block_python_during_an_eigensolver():
    """The heartbeat of another thread does not stop during the analysis of a layer."""
    model = {"big": np.random.default_rng(0).standard_normal((800, 800))}
    with ww.Monitor(model, executor="thread", every_n_steps=1) as monitor:
        begin = last = time.process_time()  # stands still while other programs use the cores
        longest = 0.0
        while not all(each.done() for each in monitor._engine.futures(1)):
            time.sleep(0.001)
            now = time.process_time()
            longest, last = max(longest, now - last), now
        whole = time.process_time() - begin
        assert longest < whole / 2, (longest, whole)
    assert monitor.history[0]["big"].status == "ok"


def test_thread_pool_does_not_delay_interpreter_exit():
    ThreadPool(1).shutdown()
    assert not any(thread.name == "ww-worker" and not thread.daemon for thread in threading.enumerate())


def test_users_thread_pool_gives_the_same_results(expected):
    with ThreadPoolExecutor(2) as pool:
        assert rows(run(pool)) == expected


class Gate(ThreadPoolExecutor):
    """A pool whose ``submit`` blocks until ``opened`` is set."""

    def __init__(self):
        super().__init__(1)
        self.entered, self.opened = threading.Event(), threading.Event()
        self.futures = []

    def submit(self, fn, /, *args, **kwargs):
        self.entered.set()
        self.opened.wait()
        self.futures.append(super().submit(fn, *args, **kwargs))
        return self.futures[-1]


def alphas(rows):
    return [(row["name"], row["step"], row["alpha"]) for row in rows]


@pytest.fixture
def gate():
    with Gate() as pool:
        yield pool
        pool.opened.set()


def test_training_goes_on_while_submit_blocks_and_results_are_of_the_weights_at_each_step(gate, expected):
    model = weights()
    monitor = ww.Monitor(model, executor=gate, every_n_steps=1, deterministic=False)
    monitor.start()
    for step in range(1, 4):
        model["fc"] *= 1.5
        monitor.step(step)
    assert gate.entered.wait(30)
    assert not gate.futures
    assert monitor.status().pending == 4
    gate.opened.set()
    monitor.finish()
    assert alphas(rows(monitor)) == alphas(expected)


def test_a_submit_that_never_returns_does_not_hang_the_end_of_a_run(gate):
    monitor = ww.Monitor(weights(), executor=gate, every_n_steps=1, timeout=0.1)
    monitor.step(1)
    assert gate.entered.wait(30)
    with pytest.warns(RuntimeWarning, match=r"not analysed within 0\.1 s"):
        monitor.finish()
    assert monitor.closed


def test_tasks_are_cancelled_when_monitoring_is_closed_even_those_submitted_later(gate):
    busy = threading.Event()
    ThreadPoolExecutor.submit(gate, busy.wait)
    monitor = ww.Monitor(weights(), executor=gate, every_n_steps=1)
    monitor.step(1)
    assert gate.entered.wait(30)
    monitor.close()
    gate.opened.set()
    end = time.monotonic() + 30
    while not (gate.futures and gate.futures[-1].cancelled()) and time.monotonic() < end:
        time.sleep(0.01)
    busy.set()
    assert [future.cancelled() for future in gate.futures] == [True]


def test_hanging_executor_is_given_up(monkeypatch):
    class Silent(Executor):
        def submit(self, fn, /, *args, **kwargs):
            return Future()

    limits = Limits(executor=Silent(), layer_timeout=0.2)
    monkeypatch.setattr(ww.Monitor, "limits", lambda self: limits)
    monitor = ww.Monitor(weights(), every_n_steps=1, timeout=0.5)
    monitor.start()
    time.sleep(0.3)
    with pytest.warns(RuntimeWarning, match=r"no result within 0\.2 s"):
        monitor.step(1)
    assert monitor.closed
