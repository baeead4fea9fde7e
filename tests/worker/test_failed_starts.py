"""Whatever keeps a worker from starting counts as a failed start, is said once, and leaks nothing."""

from __future__ import annotations

import errno
import gc
import os
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from processes import held, no_worker_left

import ww_callbacks as ww
from ww_callbacks.worker import restarts, worker_process

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(restarts, "MIN_DELAY", 0.001)


def monitored_run():
    """The warnings of a run whose worker cannot start; nothing is left of it."""
    model = {f"fc{i}": np.eye(40, 30) + i for i in range(20)}
    with no_worker_left(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor = ww.Monitor(model, every_n_steps=1)
        step, end = 0, time.monotonic() + 60
        while not monitor.closed and time.monotonic() < end:
            step += 1
            monitor.step(step)
            time.sleep(0.002)
        for more in range(5):
            monitor.step(step + more)
        monitor.finish()
        del monitor
        gc.collect()
    return [str(each.message) for each in caught]


def check_one_failure(reason):
    monitored_run()  # whatever is loaded and opened once
    before = held()
    (message,) = monitored_run()
    assert "monitoring has ended, training continues" in message
    assert "3 times in a row" in message
    assert reason in message
    assert held() == before


@pytest.mark.parametrize(
    ("interpreter", "reason"),
    [
        (None, "sys.executable is None; set it to the path of the Python interpreter"),
        ("", "sys.executable is ''; set it to the path of the Python interpreter"),
        ("/no/such/python", "No such file or directory"),
        ("/etc/passwd", "Permission denied"),
        ("/bin/false", "the worker process ended with status 1"),
    ],
    ids=["none", "empty", "missing", "not executable", "exits at once"],
)
def test_an_interpreter_that_does_not_start(monkeypatch, interpreter, reason):
    monkeypatch.setattr(sys, "executable", interpreter)
    check_one_failure(reason)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM, errno.EMFILE], ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["Popen", "pipe"])
def test_a_system_without_resources(monkeypatch, number, call):
    calls = []

    def fail(*arguments, **options):
        calls.append(1)
        if call == "pipe" and len(calls) % 3:  # the first two pipes of a worker can be opened
            return real()
        raise OSError(number, os.strerror(number))

    real = os.pipe
    places = {"Popen": worker_process.subprocess, "pipe": worker_process.os}
    monkeypatch.setattr(places[call], call, fail)
    check_one_failure(os.strerror(number))


def test_an_import_that_fails_in_the_worker(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'ww_callbacks.worker' in sys.orig_argv: sys.modules['numpy'] = None\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    check_one_failure("import of numpy halted")


def test_a_thread_that_does_not_start_ends_the_monitoring_only(monkeypatch):
    start = threading.Thread.start

    def fail(thread):
        if thread.name == "ww-worker":
            raise RuntimeError("can't start new thread")
        start(thread)

    before = held()
    monkeypatch.setattr(threading.Thread, "start", fail)
    (message,) = monitored_run()
    assert "can't start new thread" in message
    assert held() == before
