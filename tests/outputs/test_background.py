"""Work in a thread: in order, never waited for while training, for a limited time at the end."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest
from processes import eventually

from ww_callbacks.outputs import background
from ww_callbacks.outputs.background import Background

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def stuck() -> Iterator[threading.Event]:
    """Work that waits for this event does not end before the test does."""
    event = threading.Event()
    yield event
    event.set()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ww_callbacks test"]


def test_pieces_are_done_in_order_and_the_thread_is_gone() -> None:
    done: list[int] = []
    work = Background("test", "the test")
    for number in range(200):
        work.add(lambda number=number: done.append(number))
    work.flush()
    assert done == list(range(200))
    work.close()
    assert not threads()


def test_what_is_forgotten_is_done_and_ends() -> None:
    done: list[str] = []
    work = Background("test", "the test", last=lambda: done.append("end"))
    work.add(lambda: done.append("piece"))
    del work
    gc.collect()
    assert not threads()
    assert done == ["piece", "end"]


def test_after_an_error_nothing_more_is_done_and_every_call_raises_it() -> None:
    done: list[int] = []
    work = Background("test", "the test", last=lambda: done.append(0))
    work.add(lambda: 1 / 0)
    assert eventually(lambda: work.errors, 20.0)
    for call in (lambda: work.add(lambda: done.append(1)), work.flush, work.close):
        with pytest.raises(ZeroDivisionError):
            call()
    assert eventually(lambda: not threads(), 20.0)
    assert done == [0]


def test_adding_never_waits_and_gives_up_at_last(stuck: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "MOST_WAITING", 10)
    work = Background("test", "the test")

    def fill() -> None:
        for _ in range(20):
            work.add(stuck.wait)

    with pytest.raises(TimeoutError, match=r"^the test is too slow, 10 pieces wait for it$"):
        fill()


@pytest.mark.parametrize("end", ["flush", "close"])
def test_the_end_waits_so_long_and_no_longer(end: str, stuck: threading.Event) -> None:
    work = Background("test", "the test", timeout=0.2)
    work.add(stuck.wait)
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"^the test is too slow, not all is written after 0\.2 s$"):
        getattr(work, end)()
    assert time.monotonic() - start >= 0.2
