"""Limits what the progress bar of Keras shows: without this, every mean in the logs of an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from types import FrameType
from typing import Any

import keras

from ww_callbacks.report.keys import AGGREGATES, ALPHA


def bar_of(fit: FrameType) -> keras.callbacks.ProgbarLogger | None:
    """The progress bar that Keras adds to the callbacks of ``fit``; None if there is none.

    Args:
        fit: the frame of ``fit``.
    """
    return getattr(fit.f_locals.get("callbacks"), "_progbar", None)


def show(bar: keras.callbacks.ProgbarLogger, known: Mapping[str, float] | None) -> None:
    """Let a progress bar show only the mean alpha, or none of our means, from the next batch on.

    Args:
        bar: the progress bar.
        known: the known means; None to show none.
    """
    shown = {ALPHA: known[ALPHA]} if known is not None and ALPHA in known else {}

    def on_train_batch_end(batch: int, logs: dict[str, Any] | None = None) -> None:
        type(bar).on_train_batch_end(bar, batch, {**(logs or {}), **shown})

    def on_epoch_end(epoch: int, logs: dict[str, Any] | None = None) -> None:
        others = {key: value for key, value in (logs or {}).items() if not key.startswith(AGGREGATES)}
        type(bar).on_epoch_end(bar, epoch, others | shown)

    bar.on_train_batch_end, bar.on_epoch_end = on_train_batch_end, on_epoch_end
