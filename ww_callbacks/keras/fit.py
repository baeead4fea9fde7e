"""What Keras does not tell a callback: how far the optimizer is, and that ``fit`` was left by an exception."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from threading import Event
from types import FrameType
from typing import Any

import keras

_WATCH_SECONDS = 0.5


def when_left(fit: FrameType, model: keras.Model, act: Callable[[], object]) -> Callable[[], None]:
    """Call a function, in another thread, once ``model.fit`` has been left: Keras calls no hook when fit raises.

    A thread looks twice a second whether the frame of fit is still at work.

    Args:
        fit: the frame from which the callbacks are called.
        model: in training; where ``fit`` is not the frame of its ``fit``, nothing is watched.
        act: to be called.

    Returns:
        A function that ends the watch; afterwards nothing keeps frame and function alive.
    """
    over = threading.Event()
    if fit.f_code.co_name == "fit" and fit.f_locals.get("self") is model:
        is_at_work = _refers_to_no_variables if _refers_to_no_variables(fit) else _on_stack_of(threading.get_ident())
        held = [(fit, act, is_at_work)]
        threading.Thread(target=_watch, args=(held, over), name="ww-watch", daemon=True).start()

        def end() -> None:
            held.clear()
            over.set()

        return end
    return nothing_to_end


def nothing_to_end() -> None:
    """Where no watch goes on."""


def _watch(held: list[tuple[FrameType, Callable[[], object], Callable[[FrameType], bool]]], over: Event) -> None:
    while not over.wait(_WATCH_SECONDS):
        for fit, act, is_at_work in held[:]:
            if not is_at_work(fit):
                held.clear()
                over.set()
                act()
        fit = act = is_at_work = None  # type: ignore[assignment]


def _refers_to_no_variables(frame: FrameType) -> bool:
    """Since Python 3.11 a frame owns its variables, and refers to its code, only once it has been left.

    Following the stack of another thread, ``f_back`` by ``f_back``, is not safe there: the frames change meanwhile.
    """
    return not any(each is frame.f_code for each in gc.get_referents(frame))


def _on_stack_of(thread: int) -> Callable[[FrameType], bool]:
    """Before Python 3.11, where frames are objects of their own."""

    def is_on_stack(frame: FrameType) -> bool:
        at = sys._current_frames().get(thread)
        while at is not None and at is not frame:
            at = at.f_back
        return at is frame

    return is_on_stack


def steps_done(model: keras.Model) -> int:
    """Finished optimizer steps."""
    return int(model.optimizer.iterations)


def batches_done(model: keras.Model) -> int:
    """Batches that went into the optimizer: as many as its steps but for gradient accumulation."""
    optimizer = inner_optimizer(model.optimizer)
    return int(getattr(optimizer, "_iterations", optimizer.iterations))


def inner_optimizer(optimizer: Any) -> Any:
    """The optimizer that counts, inside of one that scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)
