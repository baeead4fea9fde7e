"""The scheduler of a cluster ends while a run is followed: another one at its address goes on, or it is said."""

import pytest
from programs import require, session

PROGRAM = """
import os, signal, socket, subprocess, sys, warnings
import numpy as np
import ww_callbacks as ww
from distributed import Client

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = "tcp://127.0.0.1:%d" % free.getsockname()[1]

started = []

def start(*words):
    command = [sys.executable, "-m", "dask", *words, "--no-dashboard"]
    started.append(subprocess.Popen(command))
    return started[-1]

def cluster():
    scheduler = start("scheduler", "--host", address)
    start("worker", address, "--nthreads", "1", "--no-nanny")
    return scheduler

def write(*steps):
    for step in steps:
        np.savez(f"run/.step-{step}.npz", **{"fc.weight": np.random.default_rng(step).standard_normal((90, 60))})
        os.replace(f"run/.step-{step}.npz", f"run/step-{step}.npz")

def reported(report):
    if report.step == 1:
        first.send_signal(signal.SIGKILL)
        first.wait()
        write(2, 3)
        cluster()
    if report.step == 3:
        started[2].send_signal(signal.SIGKILL)
        started[2].wait()
        write(4)

if __name__ == "__main__":
    os.mkdir("run")
    first = cluster()
    try:
        with Client(address, timeout=20) as client:
            client.wait_for_workers(1, timeout=60)
            write(1)
            try:
                ww.follow("run", poll=0.5, figures=False, executor=client, on_result=reported)
            except OSError as error:
                assert "the executor takes no more tasks" in str(error), error
            else:
                raise AssertionError("it went on without a scheduler")
        assert ww.follow("run", once=True, figures=False).steps == [1, 2, 3, 4]
    finally:
        for process in started:
            process.kill()
            process.wait()
"""


@pytest.mark.slow
@pytest.mark.timeout(250)
def test_a_scheduler_that_ends_may_be_replaced_and_is_told_if_it_is_not(tmp_path):
    require("distributed")
    with session(tmp_path) as run:
        run.start(PROGRAM).succeed(timeout=200)
        run.assert_nothing_left(timeout=10.0, had_memory=False)
