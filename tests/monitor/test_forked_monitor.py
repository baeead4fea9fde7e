"""A monitor in a forked process does nothing, says so once, and leaves the results of its owner alone."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings

import numpy as np
import pytest
from processes import no_worker_left, workers

import ww_callbacks as ww

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks:DeprecationWarning"),
]

SENTENCE = "in this process, which was forked from it, it does nothing"


def weights():
    return {"fc": np.random.default_rng(0).standard_normal((60, 50))}


def in_child(work):
    """Result of a function in a forked child, which then exits as an interpreter does."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover
        status = 1
        try:
            os.close(reading)
            result = json.dumps(work()).encode()
            os.write(writing, result)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        result = answer.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return json.loads(result)


def use(monitor):
    """Seconds and warnings of every call of a user."""
    start = time.monotonic()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(50, 60):
            monitor.step(step)
        monitor.snapshot(60)
        monitor.record("val_loss", 1.0)
        monitor.wait_for_first()
        monitor.state_dict()
        monitor.status()
        monitor.finish()
        monitor.close()
    return time.monotonic() - start, [str(each.message) for each in caught]


def test_a_child_neither_waits_nor_harms_its_parent(tmp_path):
    with no_worker_left():
        monitor = ww.Monitor(weights(), every_n_steps=1, log_dir=tmp_path, jsonl=True, figures=False)
        monitor.start()
        monitor.step(1)  # results are pending, for which the child would wait
        seconds, said = in_child(lambda: use(monitor))
        assert seconds < 20  # of a busy machine; it waited for timeout=60
        assert len(said) == 1
        assert SENTENCE in said[0]
        assert str(os.getpid()) in said[0]
        monitor.step(2)
        (pid,) = workers()
        monitor.finish()
    assert pid
    assert monitor.history.steps == [0, 1, 2]
    assert ww.read_jsonl(tmp_path / "ww_history.jsonl").steps == [0, 1, 2]


def test_a_child_that_ends_as_an_interpreter_does_leaves_the_parents_files_alone(tmp_path):
    """It runs atexit functions and finalisers."""
    import subprocess

    code = f"""
import os, sys, numpy as np, ww_callbacks as ww
monitor = ww.Monitor({{"fc": np.ones((60, 50)) + np.eye(60, 50)}}, every_n_steps=1, jsonl={str(tmp_path / "h.jsonl")!r})
monitor.start()
pid = os.fork()
if pid == 0:
    monitor.finish()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
monitor.step(1)
monitor.finish()
assert monitor.history.steps == [0, 1], monitor.history.steps
assert [layer.status for report in monitor.history for layer in report] == ["ok", "ok"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(SENTENCE) == 1
    assert ww.read_jsonl(tmp_path / "h.jsonl").steps == [0, 1]


def test_a_monitor_that_was_not_started_works_in_the_child():
    monitor = ww.Monitor(weights(), every_n_steps=1, executor="thread")

    def work():
        with monitor:
            monitor.step(1)
        return monitor.history.steps

    assert in_child(work) == [0, 1]
    with monitor:
        monitor.step(1)
    assert monitor.history.steps == [0, 1]


class Dataset:
    """A dataset that uses the monitor of the training, by mistake."""

    def __init__(self, monitor):
        self.monitor = monitor

    def __len__(self):
        return 8

    def __getitem__(self, index):
        self.monitor.step(index + 100)
        return index


@pytest.mark.filterwarnings("default:.*it does nothing:RuntimeWarning")
def test_data_loader_workers_may_hold_the_monitor():
    data = pytest.importorskip("torch.utils.data")
    monitor = ww.Monitor(weights(), every_n_steps=1)
    with no_worker_left(), monitor:
        loader = data.DataLoader(Dataset(monitor), num_workers=2, multiprocessing_context="fork")
        assert sorted(int(batch) for batch in loader) == list(range(8))
        monitor.step(1)
    assert monitor.history.steps == [0, 1]
