import contextlib
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ww_callbacks.worker import lifeline

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the signal for a descriptor exists on Linux only"),
]

# A trainer: holds the writing end, starts a child on the reading end, prints its pid and first line, and sleeps.
PARENT = """
import os, subprocess, sys, time
reading, writing = os.pipe()
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(reading)], pass_fds=(reading,), stdout=subprocess.PIPE)
os.close(reading)
print(child.pid, child.stdout.readline().decode().strip(), flush=True)
time.sleep(600)
"""

CHILD = """
import sys, time
from ww_callbacks.worker import lifeline
lifeline.exit_on_close(int(sys.argv[1]), {method!r})
{work}
"""

SLEEPS = "print('ready', flush=True); time.sleep(600)"
COMPUTES = "print('ready', flush=True)\nwhile True: sum(range(1000))"
# LAPACK's evr driver through scipy holds the GIL during the whole call, which takes many seconds at this size.
HOLDS_THE_GIL = """
import os
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np, scipy.linalg
a = np.random.default_rng(0).standard_normal((6000, 6000)); a += a.T
print('ready', flush=True)
scipy.linalg.eigh(a, driver="evr", overwrite_a=True, check_finite=False)
"""
IGNORES_SIGNALS = """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGIO): signal.signal(number, signal.SIG_IGN)
print('ready', flush=True); time.sleep(600)
"""


def running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ends_within(pid, seconds):
    deadline = time.monotonic() + seconds
    while running(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@contextlib.contextmanager
def family(method, work):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD.format(method=method, work=work)], stdout=subprocess.PIPE, text=True
    )
    pid = None
    try:
        pid, word = parent.stdout.readline().split()
        pid = int(pid)
        assert word == "ready"
        yield parent, pid
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
        if pid is not None and running(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("method", "work"),
    [
        ("signal", SLEEPS),
        ("signal", COMPUTES),
        ("signal", HOLDS_THE_GIL),
        ("signal", IGNORES_SIGNALS),
        ("thread", SLEEPS),
        ("thread", COMPUTES),
        ("thread", IGNORES_SIGNALS),
    ],
    ids=lambda value: {
        SLEEPS: "sleeps",
        COMPUTES: "computes",
        HOLDS_THE_GIL: "holds the GIL",
        IGNORES_SIGNALS: "ignores signals",
    }.get(value, value),
)
def test_child_exits_within_two_seconds_of_its_parent(method, work):
    with family(method, work) as (parent, pid):
        time.sleep(0.3)
        assert running(pid)  # the child runs while its parent does
        os.kill(parent.pid, signal.SIGKILL)
        assert ends_within(pid, 2.0)


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_child_exits_if_the_parent_died_before_the_lifeline_was_set_up(method):
    reading, writing = os.pipe()
    os.close(writing)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(method=method, work="time.sleep(600)"), str(reading)], pass_fds=(reading,)
    )
    try:
        assert child.wait(timeout=20) == 0
    finally:
        child.kill()
        child.wait()
        os.close(reading)


@pytest.mark.parametrize("method", ["signal", "thread"])
def test_child_exits_when_the_parent_closes_its_end(method):
    reading, writing = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(method=method, work=SLEEPS), str(reading)],
        pass_fds=(reading,),
        stdout=subprocess.PIPE,
    )
    os.close(reading)
    try:
        assert child.stdout.readline() == b"ready\n"
        os.close(writing)
        assert child.wait(timeout=2) == (-signal.SIGKILL if method == "signal" else 0)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def test_linux_uses_the_signal():
    assert lifeline.default_method() == "signal"
