import math
import os
import threading
from dataclasses import asdict

import numpy as np
import pytest

from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer
from ww_callbacks.worker.protocol import decode, encode, recv_exact, send_all
from ww_callbacks.worker.runners import analysis_runner
from ww_callbacks.worker.serve import serve
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer
from ww_callbacks.worker.task import make_task, read_answer

SPEC = LayerSpec("fc", "Linear", (80, 60), "float64", ((), (0,), (1,)))


class Conversation:
    """The real main loop at the other end of two pipes, in a thread."""

    def __init__(self, memory):
        self.task_read, self.task_write = os.pipe()
        self.answer_read, self.answer_write = os.pipe()
        self.thread = threading.Thread(target=serve, args=(self.task_read, self.answer_write, analysis_runner(memory)))
        self.thread.start()
        self.hello = self.receive()

    def receive(self):
        return decode(lambda count: recv_exact(self.answer_read, count))

    def ask(self, **task):
        send_all(self.task_write, encode(task))
        return self.receive()

    def end(self):
        os.close(self.task_write)
        self.thread.join(timeout=10)
        assert not self.thread.is_alive()
        for fd in (self.task_read, self.answer_read, self.answer_write):
            os.close(fd)


@pytest.fixture
def weights():
    return np.random.default_rng(0).standard_normal((80, 60))


@pytest.fixture
def buffer(weights):
    made = SnapshotBuffer([((80, 60), np.dtype("f8")), ((80, 60), np.dtype("f8"))], slots=1)
    made.take([lambda: weights, lambda: 2 * weights])
    yield made
    made.close()


@pytest.fixture
def talk(buffer):
    conversation = Conversation(buffer.fd)
    yield conversation
    conversation.end()


def task(**changes):
    return make_task(SPEC, Settings(), 5) | {"task": 7, "offset": 0} | changes


@pytest.mark.timeout(30)
def test_hello_with_pid_then_answers_with_reports(talk, buffer, weights):
    assert talk.hello == {"hello": os.getpid()}
    for index, scale in enumerate((1, 2)):
        answer = talk.ask(**task(offset=buffer.offset_of(buffer.array(0, index))))
        assert answer["task"] == 7
        assert read_answer(answer, SPEC, 5) == analyze_layer(SPEC, scale * weights, Settings(), 5)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"spec": {"name": "fc"}}, "TypeError"),
        ({"spec": asdict(SPEC) | {"shape": [10**6, 10**6]}}, "TypeError"),
        ({"spec": asdict(SPEC) | {"dtype": "nonsense"}}, "TypeError"),
        ({"spec": asdict(SPEC) | {"axes": [[], [0], [5]]}}, "Error"),
        ({"offset": 10**9}, "TypeError|ValueError"),
        ({"settings": {"conv_scale": "x"}}, "ValueError"),
        ({"settings": {"beauty": 1}}, "ValueError"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_failing_task_is_answered_with_its_error_and_the_loop_continues(talk, changes, error):
    answer = talk.ask(**task(**changes))
    assert "report" not in answer
    assert any(kind in answer["error"] for kind in error.split("|"))
    assert read_answer(talk.ask(**task()), SPEC, 5).status == "ok"


@pytest.mark.timeout(30)
def test_lack_of_memory_is_answered_with_an_error(buffer):
    spec = LayerSpec("huge", "Linear", (2**24, 2**24), "float64", ((), (0,), (1,)))
    conversation = Conversation(buffer.fd)
    answer = conversation.ask(**task(spec=asdict(spec)))
    conversation.end()
    assert "error" in answer


@pytest.mark.timeout(30)
def test_nan_weights_give_a_failed_report(talk, buffer):
    buffer.array(0, 0)[3, 3] = math.nan
    report = read_answer(talk.ask(**task()), SPEC, 5)
    assert (report.status, report.reason) == ("failed", "non-finite weights")


@pytest.mark.timeout(30)
def test_weights_are_not_modified(talk, buffer, weights):
    talk.ask(**task())
    np.testing.assert_array_equal(buffer.array(0, 0), weights)


@pytest.mark.timeout(30)
def test_truncated_task_ends_the_loop(buffer):
    conversation = Conversation(buffer.fd)
    send_all(conversation.task_write, encode(task())[:20])
    conversation.end()
