import os
import signal
import subprocess
import sys
import time

import pytest

from ww_callbacks.following.lease import Claims

OWNER = """
import sys, time
from pathlib import Path
from ww_callbacks.following.lease import Claims
claims = Claims(Path(sys.argv[1]), lease=float(sys.argv[2]))
print(claims.acquire("step-1"), flush=True)
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path):
    processes = []

    def start(lease=60.0):
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(tmp_path), str(lease)], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "True\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_one_of_many_gets_a_claim(tmp_path):
    everyone = [Claims(tmp_path) for _ in range(8)]
    assert [claims.acquire("step-1") for claims in everyone].count(True) == 1
    assert [claims.acquire("step-1") for claims in everyone].count(True) == 1  # the owner keeps it
    for claims in everyone:
        claims.close()
    assert os.listdir(tmp_path) == []


def test_the_claim_of_a_killed_process_is_taken_over_at_once(tmp_path, start):
    owner, mine = start(), Claims(tmp_path)
    assert not mine.acquire("step-1")
    owner.kill()
    owner.wait()
    assert mine.acquire("step-1")
    assert mine.holds("step-1")
    mine.close()


def test_a_stopped_process_loses_its_claim_after_the_lease(tmp_path, start):
    owner, mine = start(lease=0.4), Claims(tmp_path, lease=0.4)
    os.kill(owner.pid, signal.SIGSTOP)
    end = time.monotonic() + 30
    while not mine.acquire("step-1") and time.monotonic() < end:
        time.sleep(0.05)
    assert mine.holds("step-1")
    mine.close()


def test_a_renewed_claim_stays(tmp_path, start):
    start(lease=0.4)
    mine = Claims(tmp_path, lease=60.0)
    changed = next(iter(tmp_path.iterdir())).stat().st_mtime_ns
    end = time.monotonic() + 30
    while next(iter(tmp_path.iterdir())).stat().st_mtime_ns == changed and time.monotonic() < end:
        time.sleep(0.05)
    assert next(iter(tmp_path.iterdir())).stat().st_mtime_ns > changed
    assert not mine.acquire("step-1")
    mine.close()


def test_who_lost_a_claim_knows_it(tmp_path):
    mine, theirs = Claims(tmp_path, lease=1e6), Claims(tmp_path, lease=0.1)  # mine is not renewed in this test
    assert mine.acquire("step-1")
    assert not theirs.acquire("step-1")
    time.sleep(0.2)
    assert theirs.acquire("step-1")
    assert not mine.holds("step-1")
    theirs.close()
    mine.close()
