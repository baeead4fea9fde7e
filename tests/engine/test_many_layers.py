"""The work per layer does not grow with the number of layers, and the end of a run keeps its limit of time."""

from __future__ import annotations

import sys
import time
from concurrent.futures import Executor, Future

import numpy as np
import pytest
from processes import no_worker_left

import ww_callbacks as ww
from ww_callbacks.worker.task import run_task

pytestmark = pytest.mark.timeout(120)


class Instant(Executor):
    """Analyses one layer, and answers for all others with its result under their names."""

    def __init__(self):
        self.answers = {}

    def submit(self, fn, task, stored, kept=None):
        answer = self.answers.get(task["step"])
        if answer is None:
            answer = self.answers[task["step"]] = run_task(task | {"digest": ""}, stored)
        future = Future()
        future.set_result(answer | {"report": [task["spec"]["name"], *answer["report"][1:]]})
        return future


def calls_of_a_run(layers):
    """Number of Python calls of a snapshot, of its publication and of the end of a run."""
    rng = np.random.default_rng(0)
    model = {f"fc{i}": rng.standard_normal((32, 32)).astype("f4") for i in range(layers)}
    monitor = ww.Monitor(model, every_n_steps=1, executor=Instant(), deterministic=True, on_result=lambda report: None)
    monitor.start()
    monitor.step(1)
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call" or event == "c_call"

    for weights in model.values():
        weights *= 1.01
    sys.setprofile(count)
    try:
        monitor.step(2)
        monitor.finish()
    finally:
        sys.setprofile(None)
    assert monitor.history.steps == [0, 1, 2]
    return calls


def test_the_work_of_a_snapshot_grows_with_the_number_of_layers_and_not_with_its_square():
    few, many = calls_of_a_run(50), calls_of_a_run(400)
    assert many < 10 * few


@pytest.mark.parametrize(
    ("layers", "timeout"), [(300, 0.3), pytest.param(5000, 3.0, marks=pytest.mark.slow)], ids=["300", "5000"]
)
def test_the_end_keeps_its_limit_and_counts_what_was_not_analysed(layers, timeout):
    rng = np.random.default_rng(0)
    model = {f"fc{i}": rng.standard_normal((64, 64)).astype("f4") for i in range(layers)}
    with no_worker_left():
        monitor = ww.Monitor(model, every_n_steps=1, timeout=timeout)
        monitor.start()
        monitor.step(1)
        start = time.monotonic()
        with pytest.warns(RuntimeWarning, match=r"2 snapshots were not analysed within"):
            monitor.finish()
        assert time.monotonic() - start < timeout + 20  # of a busy machine; without a limit it takes minutes
    assert len(monitor.history) == 0
