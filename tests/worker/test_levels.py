"""Descriptors, threads, processes and memory stay level over many monitors, failed starts and forks."""

from __future__ import annotations

import gc
import os
import sys
import time
import warnings

import numpy as np
import psutil
import pytest
from processes import eventually, held, no_worker_left

import ww_callbacks as ww
from ww_callbacks.worker import restarts

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning"),
]

MOST_GROWTH = 8 * 2**20
"""Bytes by which the memory of the process may grow, whatever the number of rounds."""


def weights():
    return {"fc": np.random.default_rng(0).standard_normal((60, 50))}


def stays_level(action, rounds, warm=5):
    """Repeat an action; what the process holds is the same after the first rounds and after the last."""
    with no_worker_left():
        for _ in range(warm):
            action()
        gc.collect()
        before, memory = held(), psutil.Process().memory_info().rss
        for _ in range(rounds):
            action()
        gc.collect()
        assert eventually(lambda: held() == before), (held(), before)
        assert psutil.Process().memory_info().rss - memory < MOST_GROWTH


def many(few, number, timeout):
    """A few rounds by default, and the full number among the slow tests."""
    return pytest.mark.parametrize(
        "rounds", [few, pytest.param(number, marks=[pytest.mark.slow, pytest.mark.timeout(timeout)])]
    )


@many(50, 1000, 1800)
def test_monitors_in_sequence(rounds):
    def action():
        monitor = ww.Monitor(weights(), every_n_steps=1)
        monitor.start()
        assert eventually(lambda: monitor.status().worker_pids)
        monitor.step(1)
        monitor.close()

    stays_level(action, rounds)


@many(2, 50, 1800)
def test_monitors_that_finish(rounds):
    def action():
        with ww.Monitor(weights(), every_n_steps=1) as monitor:
            monitor.step(1)
        assert monitor.history.steps == [0, 1]

    stays_level(action, rounds, warm=1)


@many(10, 100, 600)
def test_failing_starts_three_in_each_round(monkeypatch, rounds):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    monkeypatch.setattr(restarts, "MIN_DELAY", 0.0001)

    def action():
        monitor = ww.Monitor(weights(), every_n_steps=1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            step = 0
            while not monitor.closed:
                step += 1
                monitor.step(step)
                time.sleep(0.001)
        assert "3 times in a row" in str(caught[-1].message)

    stays_level(action, rounds)


def test_forks_of_a_process_that_monitors():
    def action():
        pid = os.fork()
        if pid == 0:  # pragma: no cover
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                monitor.step(5)
                monitor.finish()
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0

    with no_worker_left(), ww.Monitor(weights(), every_n_steps=10) as monitor:
        assert monitor.wait_for_first()
        worker = monitor.status().worker_pids
        stays_level(action, 50)
        assert monitor.status().worker_pids == worker
    assert monitor.history.steps == [0]
