"""The code paths for macOS and Windows, forced on Linux: weights in temporary files, a thread as the lifeline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from programs import HERE, ROOT, Session, session

pytestmark = pytest.mark.timeout(120)

PROGRAM = """
import os, sys, time
from elsewhere import take_away
take_away()
import numpy as np
import ww_callbacks as ww
from programs import reached, told, weights_at
from ww_callbacks.worker.lifeline import default_method
assert default_method() == "thread"

size = int(sys.argv[1])
model = {"fc": np.random.default_rng(0).standard_normal((size, size), np.float32)}
with ww.Monitor(model, every_n_steps=1) as monitor:
    for step in range(1, 10**9):
        model["fc"][0, 0] = step
        monitor.step(step)
        time.sleep(0.005)
        if len(monitor.history) >= 2:
            reached("results")
        if told("end"):
            break
"""


@pytest.fixture
def run(tmp_path):
    with session(tmp_path) as started:
        yield started


def start(run: Session, size: int):
    (run.folder / "tmp").mkdir()
    return run.start(
        PROGRAM,
        str(size),
        path=(HERE / "in_eigensolver", ROOT / "tests"),
        environment={"TMPDIR": str(run.folder / "tmp")},
    )


def test_completed_run_leaves_nothing(run: Session):
    program = start(run, 100)
    program.reaches("results")
    (run.folder / "end").touch()
    program.succeed()
    assert list((run.folder / "tmp").iterdir()) == []
    run.assert_nothing_left(had_memory=False)


def test_worker_exits_if_the_trainer_is_killed_during_an_eigensolver(run: Session):
    program = start(run, 3000)
    program.worker_in_eigensolver()
    os.kill(program.pid, signal.SIGKILL)
    run.assert_nothing_left(had_memory=False)
    assert list((run.folder / "tmp").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_other_tests_pass_without_linux_features():
    files = [
        "worker/test_snapshot_buffer.py",
        "worker/test_memory.py",
        "monitor/test_monitor.py",
        "worker/test_forking.py",
        "worker/test_process_pool.py",
        "engine/test_engine.py",
    ]
    command = [sys.executable, "-m", "pytest", "-q", "--elsewhere", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, cwd=ROOT / "tests", capture_output=True, text=True, timeout=1100, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
