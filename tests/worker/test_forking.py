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
from ww_callbacks.worker.memory import SnapshotBuffer
from ww_callbacks.worker.process_pool import WorkerProcess
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


class Child:
    """A forked child that waits, as a DataLoader worker does."""

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
        self.told = os.read(ready_read, 1)
        os.close(ready_read)

    def end(self):
        os.close(self.go)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture(autouse=True)
def nothing_survives():
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
    worker = WorkerProcess(buffer)

    def run():
        return analysed(worker, buffer)

    assert run().status == "ok"
    yield buffer, worker, run
    worker.shutdown()
    buffer.close()


def test_a_forked_child_holds_no_pipe_of_the_worker_and_no_memory(bench):
    _, worker, _ = bench
    theirs = {link for link in open_files(worker.pids[0]).values() if link.startswith("pipe:")}
    assert theirs & set(open_files(os.getpid()).values())  # what the child would inherit
    child = Child()
    try:
        files = set(open_files(child.pid).values())
        assert not files & theirs
        assert not any("ww_callbacks" in link for link in files)
        assert "memfd:ww_callbacks" not in Path(f"/proc/{child.pid}/maps").read_text()
    finally:
        assert child.end() == 0


def test_the_worker_of_the_parent_keeps_working_while_a_child_lives_and_after_it(bench):
    _, worker, run = bench
    pid, expected = worker.pids[0], run()
    child = Child()
    assert run() == expected
    assert child.end() == 0
    assert run() == expected
    assert worker.pids[0] == pid


def test_shutting_down_in_the_child_does_not_end_the_worker_of_the_parent(bench):
    buffer, worker, run = bench
    pid = worker.pids[0]

    def work():
        worker.shutdown()
        buffer.close()
        gc.collect()

    child = Child(work)
    assert child.told == b"x"
    assert child.end() == 0
    assert worker.pids[0] == pid
    assert run().status == "ok"


def test_the_worker_ends_with_the_parents_wish_though_a_child_lives(bench):
    _, worker, _ = bench
    process, child = psutil.Process(worker.pids[0]), Child()
    worker.shutdown()
    assert not process.is_running()
    assert child.end() == 0


def test_a_child_may_fork_on_and_watch_models_of_its_own(bench):
    def work():
        weights = np.random.default_rng(1).standard_normal((90, 60))
        buffer = SnapshotBuffer([((90, 60), np.dtype("f8"))], slots=1)
        buffer.take([lambda: weights])
        with WorkerProcess(buffer) as worker:
            report = analysed(worker, buffer)
            grandchild = Child()
            assert report == analyze_layer(SPEC, weights, Settings())
            assert grandchild.end() == 0

    child = Child(work)
    assert child.told == b"x"
    assert child.end() == 0


def test_resources_are_let_go_in_the_child_only_and_dropped_ones_are_forgotten():
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

    child = Child(work)
    assert child.told == b"x"
    assert child.end() == 0
    assert not kept.closed


def test_forks_wait_for_descriptors_that_are_being_made():
    order = []

    def fork():
        child = Child()
        order.append("forked")
        child.end()

    with forking.opening:
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join(timeout=0.3)
        order.append("made")
    thread.join(timeout=20)
    assert order == ["made", "forked"]
    assert not forking.opening.locked()


def test_the_child_can_make_descriptors_again():
    def work():
        assert forking.opening.acquire(timeout=1)
        forking.opening.release()

    child = Child(work)
    assert child.told == b"x"
    assert child.end() == 0
