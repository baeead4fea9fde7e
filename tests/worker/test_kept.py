import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from ww_callbacks.analysis import LayerSpec, Settings
from ww_callbacks.analysis.spec import Snapshot
from ww_callbacks.worker.kept import kept_of
from ww_callbacks.worker.runners import analysis_runner
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer
from ww_callbacks.worker.task import make_task, read_answer, run_task, weights_digest

SHAPE, DTYPE = (90, 60), np.dtype("f4")
SPEC = LayerSpec("fc", "Linear", SHAPE, "float32", ((), (0,), (1,)))


def weights(seed):
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(DTYPE)


def snapshot(stored, step):
    return Snapshot(step, stored, weights_digest(stored))


@pytest.fixture
def buffer():
    made = SnapshotBuffer([(SHAPE, DTYPE), ((7,), np.dtype("u2"))], slots=1, keep=[1, 0])
    yield made
    made.close()


def test_the_first_and_the_previous_weights_come_back_with_their_steps(buffer):
    kept = buffer.kept(0)
    nothing = kept.exchange(snapshot(weights(0), 5))
    assert (nothing.start[0], nothing.previous) == (5, None)
    one = kept.exchange(snapshot(weights(1), 10))
    assert (one.start[0], one.previous[0]) == (5, 5)
    two = kept.exchange(snapshot(weights(2), 15))
    assert (two.start[0], two.previous[0]) == (5, 10)
    assert np.array_equal(two.start[1], weights(0))
    assert np.array_equal(two.previous[1], weights(1))
    assert np.array_equal(one.previous[1], weights(0)), "an answer does not change with later weights"


def test_layers_do_not_overlap_with_each_other_or_with_the_slots(buffer):
    slot = buffer.take([lambda: weights(7), lambda: np.full(7, 3, "u2")])
    for step in (1, 2):
        buffer.kept(0).exchange(snapshot(weights(step), step))
        buffer.kept(1).exchange(snapshot(np.full(7, 10 + step, "u2"), step))
    assert np.array_equal(buffer.array(slot, 0), weights(7))
    assert set(buffer.array(slot, 1)) == {3}
    after = buffer.kept(1).exchange(snapshot(np.zeros(7, "u2"), 3))
    assert (set(after.start[1]), set(after.previous[1])) == ({11}, {12})
    assert np.array_equal(buffer.kept(0).exchange(snapshot(weights(3), 3)).previous[1], weights(2))


def test_weights_of_an_earlier_step_do_not_replace_later_ones(buffer):
    kept = buffer.kept(0)
    kept.exchange(snapshot(weights(0), 0))
    kept.exchange(snapshot(weights(20), 20))
    late = kept.exchange(snapshot(weights(10), 10))
    assert late.previous is None
    assert np.array_equal(late.start[1], weights(0))
    assert kept.exchange(snapshot(weights(30), 30)).previous[0] == 20


def test_arrays_that_are_not_kept_have_no_copies():
    buffer = SnapshotBuffer([(SHAPE, DTYPE)], slots=2)
    assert buffer.kept(0) is None
    assert buffer.nbytes < 2 * weights(0).nbytes + 8192
    buffer.close()


def test_a_worker_sees_what_the_trainer_kept_and_the_other_way_round(buffer):
    offset = buffer.offset_of(buffer.kept(0).steps)
    buffer.kept(0).exchange(snapshot(weights(0), 0))
    other = kept_of(buffer.fd, offset, SHAPE, DTYPE)
    assert np.array_equal(other.exchange(snapshot(weights(1), 1)).previous[1], weights(0))
    assert np.array_equal(buffer.kept(0).exchange(snapshot(weights(2), 2)).previous[1], weights(1))


def test_the_process_answers_as_this_thread_does(buffer):
    run = analysis_runner(buffer.fd)
    here = SnapshotBuffer([(SHAPE, DTYPE)], slots=1, keep=[0])
    for step in (0, 10, 20):
        slot = buffer.take([lambda step=step: weights(step), lambda: np.zeros(7, "u2")])
        stored = buffer.array(slot, 0)
        task = make_task(SPEC, Settings(), step)
        places = {"offset": buffer.offset_of(stored), "kept": buffer.offset_of(buffer.kept(0).steps)}
        answer, expected = run(task | places), run_task(task, stored, here.kept(0))
        assert answer["report"] == expected["report"]
        buffer.release(slot)
    report = read_answer(answer, SPEC, 20)
    assert (report.update_since, report.learned_since) == (10, 0)
    here.close()


def _hold(fd, offset, ready):
    kept = kept_of(fd, offset, SHAPE, DTYPE)
    kept.steps[1] = -1  # as in the middle of a copy
    with kept.exclusive():
        ready.set()
        time.sleep(60)


@pytest.mark.timeout(60)
def test_a_worker_that_dies_while_it_writes_blocks_nobody_and_leaves_no_half_copy(buffer):
    buffer.kept(0).exchange(snapshot(weights(0), 0))
    buffer.kept(0).exchange(snapshot(weights(1), 1))
    context = multiprocessing.get_context("fork")
    offset, ready = buffer.offset_of(buffer.kept(0).steps), context.Event()
    inherited = os.dup(buffer.fd)  # the buffer closes its own descriptor in children
    process = context.Process(target=_hold, args=(inherited, offset, ready))
    process.start()
    os.close(inherited)
    assert ready.wait(20)
    mine, found = kept_of(buffer.fd, offset, SHAPE, DTYPE), []
    thread = threading.Thread(target=lambda: found.append(mine.exchange(snapshot(weights(2), 2))))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive(), "the other process holds the lock"
    os.kill(process.pid, signal.SIGKILL)
    process.join(20)
    thread.join(20)
    assert found[0].previous is None
    assert np.array_equal(found[0].start[1], weights(0))
    assert mine.exchange(snapshot(weights(3), 3)).previous[0] == 2
    assert not process.is_alive()


def test_a_task_that_cannot_map_its_copies_reports_the_error(buffer):
    buffer.take([lambda: weights(0), lambda: np.zeros(7, "u2")])
    task = make_task(SPEC, Settings(), 1) | {"offset": 0, "kept": 123}
    assert "Error" in analysis_runner(buffer.fd)(task)["error"]
