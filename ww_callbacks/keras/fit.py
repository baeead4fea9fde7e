"""What Keras does not report to callbacks: that ``fit`` raised."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from threading import Event
from types import FrameType

import keras

_WATCH_SECONDS = 0.5


def when_left(fit: FrameType, model: keras.Model, act: Callable[[], object]) -> Callable[[], None]:
    """Call a function in another thread after ``model.fit`` has ended. Keras calls no hook if ``fit`` raises.

    A thread checks twice a second whether the frame of ``fit`` is still running.

    Args:
        fit: the frame from which the callbacks are called.
        model: the model in training. If ``fit`` is not the frame of its ``fit``, nothing is watched.
        act: the function to call.

    Returns:
        A function that ends the watch. Afterwards nothing keeps the frame and ``act`` alive.
    """
    over = threading.Event()
    if fit.f_code.co_name == "fit" and fit.f_locals.get("self") is model:
        is_running = _is_running if _is_running(fit) else _is_on_stack_of(threading.get_ident())
        held = [(fit, act, is_running)]
        threading.Thread(target=_watch, args=(held, over), name="ww-watch", daemon=True).start()

        def end() -> None:
            held.clear()
            over.set()

        return end
    return nothing_to_end


def nothing_to_end() -> None:
    """Does nothing: there is no watch to end."""


def _watch(held: list[tuple[FrameType, Callable[[], object], Callable[[FrameType], bool]]], over: Event) -> None:
    while not over.wait(_WATCH_SECONDS):
        for fit, act, is_running in held[:]:
            if not is_running(fit):
                held.clear()
                over.set()
                act()
        fit = act = is_running = None  # type: ignore[assignment]


def _is_running(frame: FrameType) -> bool:
    """Since Python 3.11, a frame refers to its code and owns its variables only after it has ended.

    Walking the stack of another thread through ``f_back`` is not safe there: the frames change meanwhile.
    """
    return not any(each is frame.f_code for each in gc.get_referents(frame))


def _is_on_stack_of(thread: int) -> Callable[[FrameType], bool]:
    """Before Python 3.11, frames are separate objects, so the stack of the thread can be walked."""

    def is_on_stack(frame: FrameType) -> bool:
        at = sys._current_frames().get(thread)
        while at is not None and at is not frame:
            at = at.f_back
        return at is frame

    return is_on_stack
