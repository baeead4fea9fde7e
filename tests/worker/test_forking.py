import gc
import os
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
from processes import no_worker_left

from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer
from ww_callbacks.worker import forking
from ww_callbacks.worker.process_pool import ProcessPool
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer
from ww_callbacks.worker.task import make_task, read_answer, run_task

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

SPEC = LayerSpec("fc", "Linear", (90, 60), "float64", ((), (0,), (1,)))


def open_files(pid):
    links = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links[entry.name] = os.readlink(entry)
        except FileNotFoundError:
            continue
    return links


class ForkedChild:
    """A forked child that waits, like a DataLoader worker."""

    def __init__(self, work=None):
        ready_read, ready_write = os.pipe()
        go_read, self.go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:  # pragma: no cover
            status = 1
            try:
                os.close(self.go)
                if work is not None:
                    work()
                os.write(ready_write, b"x")
                os.read(go_read, 1)
                status = 0
            finally:
                os._exit(status)
        os.close(ready_write)
        os.close(go_read)
        self.message = os.read(ready_read, 1)
        os.close(ready_read)

    def end(self):
        os.close(self.go)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture(autouse=True)
def no_leaks():
    with no_worker_left():
        yield
        gc.collect()


def analysed(worker, buffer):
    future = worker.submit(run_task, make_task(SPEC, Settings(), None), buffer.array(0, 0))
    return read_answer(future.result(timeout=100), SPEC, None)


@pytest.fixture
def bench():
    weights = np.random.default_rng(0).standard_normal((90, 60))
    buffer = SnapshotBuffer([((90, 60), np.dtype("f8"))], slots=1)
    buffer.take([lambda: weights])
    worker = ProcessPool(buffer)

    def run():
        return analysed(worker, buffer)

    assert run().status == "ok"
    yield buffer, worker, run
    worker.shutdown()
    buffer.close()


def test_forked_child_holds_no_pipe_and_no_memory(bench):
    _, worker, _ = bench
    theirs = {link for link in open_files(worker.pids[0]).values() if link.startswith("pipe:")}
    assert theirs & set(open_files(os.getpid()).values())  # the child would inherit these
    child = ForkedChild()
    try:
        files = set(open_files(child.pid).values())
        assert not files & theirs
        assert not any("ww_callbacks" in link for link in files)
        assert "memfd:ww_callbacks" not in Path(f"/proc/{child.pid}/maps").read_text()
    finally:
        assert child.end() == 0


def test_parents_worker_continues_during_and_after_a_child(bench):
    _, worker, run = bench
    pid, expected = worker.pids[0], run()
    child = ForkedChild()
    assert run() == expected
    assert child.end() == 0
    assert run() == expected
    assert worker.pids[0] == pid


def test_shutdown_in_the_child_does_not_stop_the_parents_worker(bench):
    buffer, worker, run = bench
    pid = worker.pids[0]

    def work():
        worker.shutdown()
        buffer.close()
        gc.collect()

    child = ForkedChild(work)
    assert child.message == b"x"
    assert child.end() == 0
    assert worker.pids[0] == pid
    assert run().status == "ok"


def test_worker_stops_at_shutdown_while_a_child_is_running(bench):
    _, worker, _ = bench
    process, child = psutil.Process(worker.pids[0]), ForkedChild()
    worker.shutdown()
    assert not process.is_running()
    assert child.end() == 0


def test_child_can_fork_and_start_its_own_worker(bench):
    def work():
        weights = np.random.default_rng(1).standard_normal((90, 60))
        buffer = SnapshotBuffer([((90, 60), np.dtype("f8"))], slots=1)
        buffer.take([lambda: weights])
        with ProcessPool(buffer) as worker:
            report = analysed(worker, buffer)
            grandchild = ForkedChild()
            assert report == analyze_layer(SPEC, weights, Settings())
            assert grandchild.end() == 0

    child = ForkedChild(work)
    assert child.message == b"x"
    assert child.end() == 0


def test_resources_are_closed_in_the_child_only():
    class Resource:
        closed = False

        def close_in_child(self):
            self.closed = True

    kept, dropped = Resource(), Resource()
    forking.close_in_children(kept)
    forking.close_in_children(dropped)
    del dropped
    gc.collect()

    def work():
        assert kept.closed

    child = ForkedChild(work)
    assert child.message == b"x"
    assert child.end() == 0
    assert not kept.closed


def test_fork_waits_for_the_fork_lock():
    order = []

    def fork():
        child = ForkedChild()
        order.append("forked")
        child.end()

    with forking.fork_lock:
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join(timeout=0.3)
        order.append("made")
    thread.join(timeout=20)
    assert order == ["made", "forked"]
    ForkedChild().end()  # it waits for ever unless the lock was released


def test_fork_lock_is_released_in_the_child():
    def work():
        assert forking.fork_lock.acquire(timeout=1)
        forking.fork_lock.release()

    child = ForkedChild(work)
    assert child.message == b"x"
    assert child.end() == 0
