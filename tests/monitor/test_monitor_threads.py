"""A monitor that several threads call: one call after the other, and no deadlock."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from delayed import Delayed
from processes import eventually, no_worker_left

import ww_callbacks as ww

pytestmark = pytest.mark.timeout(120)


def weights(layers=4):
    rng = np.random.default_rng(0)
    return {f"fc{i}": rng.standard_normal((40, 30)) for i in range(layers)}


def test_steps_snapshots_and_the_end_from_several_threads():
    errors = []

    def call(first):
        try:
            for step in range(first, 400, 3):
                monitor.step(step)
                monitor.status()
                monitor.record("val_loss", 1.0)
                if step % 20 == 0:
                    monitor.snapshot(step)
                    monitor.state_dict()
            monitor.finish()
        except BaseException as error:
            errors.append(error)

    with no_worker_left(), warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor = ww.Monitor(weights(), every_n_steps=10)
        threads = [threading.Thread(target=call, args=(first,)) for first in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(100)
            assert not thread.is_alive()
    assert errors == []
    assert monitor.closed
    assert monitor.history.steps == sorted(set(monitor.history.steps))
    assert {layer.status for report in monitor.history for layer in report} == {"ok"}


def test_training_does_not_wait_for_a_thread_that_waits_for_results():
    with Delayed(1.0) as executor:
        monitor = ww.Monitor(weights(1), every_n_steps=1000, executor=executor)
        monitor.start()
        thread = threading.Thread(target=monitor.wait_for_first)
        thread.start()
        steps = 0
        while len(monitor.history) == 0:
            steps += 1
            monitor.step(min(steps, 999))
            time.sleep(0.001)
        thread.join(60)
        monitor.close()
    assert steps > 10


def test_training_goes_on_while_another_thread_ends_the_monitoring():
    with Delayed(1.0) as executor:
        monitor = ww.Monitor(weights(1), every_n_steps=1, executor=executor)
        monitor.start()
        thread = threading.Thread(target=monitor.finish)
        thread.start()
        assert eventually(lambda: monitor._is_ending, 20.0)
        for step in range(1, 6):
            monitor.step(step)
        went_on = thread.is_alive()
        thread.join(60)
    assert went_on
    assert monitor.history.steps == [0]


def test_on_result_and_a_signal_handler_may_close_the_monitor():
    model = weights()
    monitor = ww.Monitor(model, every_n_steps=1, on_result=lambda report: os.kill(os.getpid(), signal.SIGUSR1))
    before = signal.signal(signal.SIGUSR1, lambda *_: monitor.close())
    try:
        with no_worker_left():
            monitor.start()
            step = 0
            while not monitor.closed:
                step += 1
                monitor.step(step)
                time.sleep(0.005)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(monitor.history) >= 1
