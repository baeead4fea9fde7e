"""The progress bar of Keras shows whatever is in the logs of an epoch: that would be every mean of ours."""

from __future__ import annotations

from collections.abc import Mapping
from types import FrameType
from typing import Any

import keras

from ww_callbacks.report.keys import AGGREGATES, ALPHA


def bar_of(fit: FrameType) -> keras.callbacks.ProgbarLogger | None:
    """The progress bar of a training, which Keras adds to the list of callbacks by itself.

    Args:
        fit: the frame of ``fit``.
    """
    return getattr(fit.f_locals.get("callbacks"), "_progbar", None)


def show(bar: keras.callbacks.ProgbarLogger, known: Mapping[str, float] | None) -> None:
    """Let a progress bar show none of our means, or the mean alpha alone, from the next batch on.

    Args:
        bar: of the training.
        known: the means as far as they are known; None to show none.
    """
    shown = {ALPHA: known[ALPHA]} if known is not None and ALPHA in known else {}

    def on_train_batch_end(batch: int, logs: dict[str, Any] | None = None) -> None:
        type(bar).on_train_batch_end(bar, batch, {**(logs or {}), **shown})

    def on_epoch_end(epoch: int, logs: dict[str, Any] | None = None) -> None:
        others = {key: value for key, value in (logs or {}).items() if not key.startswith(AGGREGATES)}
        type(bar).on_epoch_end(bar, epoch, others | shown)

    bar.on_train_batch_end, bar.on_epoch_end = on_train_batch_end, on_epoch_end
