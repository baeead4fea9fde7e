"""What Keras does not tell a callback: how far the optimizer is, and that ``fit`` was left by an exception."""

from __future__ import annotations

import sys
import threading
import weakref
from types import CodeType, FrameType
from typing import Any, Protocol

import keras

_WATCH_SECONDS = 0.5


class Closing(Protocol):
    """Something that has to end with ``fit``."""

    @property
    def closed(self) -> bool:
        """Whether it has ended."""

    def close(self) -> None:
        """End it; called in another thread."""


def close_after(fit: FrameType, model: keras.Model, closing: Closing) -> None:
    """Close something when ``model.fit`` is left: Keras calls no hook when fit raises.

    A thread looks twice a second whether the frame of fit is still on the stack that called us. Nothing keeps the frame
    or what is to be closed alive.
    """
    if fit.f_code.co_name != "fit" or fit.f_locals.get("self") is not model:
        return
    arguments = (threading.get_ident(), id(fit), fit.f_code, weakref.ref(closing))
    threading.Thread(target=_watch, args=arguments, name="ww-watch", daemon=True).start()


def _watch(thread: int, frame: int, code: CodeType, closing: weakref.ref[Closing]) -> None:
    pause = threading.Event()
    while _on_stack(thread, frame, code):
        pause.wait(_WATCH_SECONDS)
        watched = closing()
        if watched is None or watched.closed:
            return
        del watched
    left = closing()
    if left is not None:
        left.close()


def _on_stack(thread: int, frame: int, code: CodeType) -> bool:
    at = sys._current_frames().get(thread)
    while at is not None:
        if id(at) == frame and at.f_code is code:
            return True
        at = at.f_back
    return False


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
