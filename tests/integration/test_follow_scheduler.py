"""The scheduler of a cluster ends while a run is followed: it is said, and another one at its address goes on."""

import pytest
from programs import session

pytest.importorskip("distributed")

PROGRAM = """
import os, signal, socket, subprocess, sys, threading, time, warnings
import numpy as np
import ww_callbacks as ww
from distributed import Client

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = "tcp://127.0.0.1:%d" % free.getsockname()[1]

def scheduler():
    words = ["scheduler", "--host", address, "--no-dashboard", "--no-jupyter"]
    return subprocess.Popen([sys.executable, "-m", "dask", *words])

def write(*steps):
    for step in steps:
        np.savez(f"run/.step-{step}.npz", **{"fc.weight": np.random.default_rng(step).standard_normal((90, 60))})
        os.replace(f"run/.step-{step}.npz", f"run/step-{step}.npz")

told, started = [], []

def warned(message, *_):
    print(message, flush=True)
    told.append(str(message))
    if len(started) == 1:
        started.append(scheduler())

def reported(report):
    if report.step == 1:
        started[0].send_signal(signal.SIGKILL)
        started[0].wait()
        write(2, 3)
    if report.step == 3:
        raise KeyboardInterrupt

if __name__ == "__main__":
    warnings.showwarning = warned
    os.mkdir("run")
    started.append(scheduler())
    words = ["worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    worker = subprocess.Popen([sys.executable, "-m", "dask", *words])
    try:
        with Client(address, timeout=60) as client:
            client.wait_for_workers(1, timeout=60)
            write(1)
            history = ww.follow("run", poll=0.5, figures=False, executor=client, on_result=reported)
            print(history.steps, len(told), flush=True)
            assert history.steps == [1, 2, 3]
            assert 1 <= len(told) <= 5
            assert all("for now, trying again every 0.5 s" in text for text in told)
    finally:
        for process in (worker, *started):
            process.kill()
            process.wait()
"""


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_scheduler_that_ends_is_waited_for(tmp_path):
    with session(tmp_path) as run:
        run.start(PROGRAM).succeed(timeout=150)
        run.assert_nothing_left(timeout=10.0, had_memory=False)
