"""Processes that die, with Keras: nothing stays of a monitor, and training goes on without its worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import pytest
from fork_server import ForkServer, fork_server
from programs import IN_EIGENSOLVER, Program, Session, program_environment, session

pytestmark = pytest.mark.timeout(120)

ONE_THREAD = {"OMP_NUM_THREADS": "1"}

TRAINING = """
import sys, time, warnings
import keras, numpy as np
from programs import outcome, reached, save, told
from ww_callbacks.keras import SpectralMonitor

class Conduct(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        time.sleep(0.05)
        if batch == 2:
            reached("training")
        if told("end"):
            self._model.stop_training = True
        if told("fail"):
            raise KeyError("as raised")

def fit(monitor, size):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(size), keras.layers.Dense(size),
                              keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    x = np.zeros((2000, 8), "float32")
    return model.fit(x, x[:, :1], batch_size=1, epochs=10**6, verbose=0, callbacks=[Conduct(), monitor])
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer | None]:
    """A process in which Keras is imported; None for JAX and TensorFlow, whose threads do not survive a fork."""
    if keras.backend.backend() != "torch":
        yield None
        return
    with fork_server("ww_callbacks.keras", environment=program_environment() | ONE_THREAD) as started:
        yield started


Start = Callable[[str], Program]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Session]:
    with session(tmp_path) as started:
        yield started


@pytest.fixture
def start(run: Session, server: ForkServer | None) -> Start:
    """Starts a program and waits until it trains."""

    def started(code: str) -> Program:
        program = run.start(TRAINING + code, environment=ONE_THREAD | IN_EIGENSOLVER, server=server)
        program.reaches("training")
        return program

    return started


def test_exception_in_fit(run: Session, start: Start) -> None:
    """It reaches the user unchanged, and a program that goes on afterwards has nothing left of the monitor."""
    program = start(
        """
monitor = SpectralMonitor(every_n_steps=1)
try:
    fit(monitor, 2000)
except KeyError as caught:
    assert caught.args == ("as raised",) and caught.__cause__ is None, caught
reached("caught")
while not told("looked"):
    time.sleep(0.01)
""",
    )
    program.busy_worker(0.1)
    run.memory()
    (run.folder / "fail").touch()
    program.reaches("caught")
    run.assert_worker_gone()
    assert not run.memory()
    (run.folder / "looked").touch()
    program.succeed()
    run.assert_nothing_left()


def test_ctrl_c(run: Session, start: Start) -> None:
    program = start("fit(SpectralMonitor(every_n_steps=1), 2000)\n")
    program.busy_worker(0.1)
    os.killpg(program.pid, signal.SIGINT)
    assert program.wait(20) != 0
    assert "KeyboardInterrupt" in program.output
    assert "ww_callbacks:" not in program.output
    assert "the results of step" in program.output  # are dropped
    run.assert_nothing_left()


def test_worker_killed_at_work(run: Session, start: Start) -> None:
    """Training ends normally, and later snapshots have their results."""
    program = start(
        """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    monitor = SpectralMonitor(every_n_steps=1)
    fit(monitor, 1200)
save([str(each.message) for each in caught if "ww_callbacks" in str(each.message)], "warnings.json")
save([[each.to_dict() for each in report] for report in monitor.history])
""",
    )
    worker = program.busy_worker(0.3)
    os.kill(worker, signal.SIGKILL)
    program.busy_worker(0.1, other_than=worker)
    (run.folder / "end").touch()
    program.succeed()
    assert run.json("warnings.json") == []
    reports = run.json()
    assert [layer["status"] for layer in reports[-1] if layer["M"] >= 20] == ["ok"]
    failed = [layer["reason"] for report in reports for layer in report if layer["status"] == "failed"]
    assert failed == ["the worker process ended with status -9"]
    run.assert_nothing_left()


def test_sigkill_of_the_trainer_in_the_eigensolver(run: Session, start: Start) -> None:
    program = start("fit(SpectralMonitor(every_n_steps=5), 3000)\n")
    program.worker_in_eigensolver()
    os.kill(program.pid, signal.SIGKILL)
    run.assert_nothing_left()
