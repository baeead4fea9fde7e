"""Limits what the progress bar of Keras shows: without this, every mean in the logs of an epoch."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from types import FrameType
from typing import Any

import keras


def bar_of(fit: FrameType) -> keras.callbacks.ProgbarLogger | None:
    """The progress bar that Keras adds to the callbacks of ``fit``; None if there is none.

    Args:
        fit: the frame of ``fit``.
    """
    return getattr(fit.f_locals.get("callbacks"), "_progbar", None)


def show(bar: keras.callbacks.ProgbarLogger, prefix: str, shown: Mapping[str, float]) -> None:
    """Let a progress bar show only some means of a monitor, from the next batch on.

    Args:
        bar: the progress bar.
        prefix: of the metrics of the monitor; the other means with this prefix are not shown.
        shown: the means to show.
    """
    means: dict[str, Mapping[str, float]] = vars(bar).setdefault("_ww_means", {})
    is_new, means[prefix] = not means, shown
    if is_new:
        _limit(bar, means)


def _limit(bar: keras.callbacks.ProgbarLogger, means: Mapping[str, Mapping[str, float]]) -> None:
    """Let a progress bar show the means in ``means``, which may change, and no others with their prefixes."""

    def on_train_batch_end(batch: int, logs: dict[str, Any] | None = None) -> None:
        type(bar).on_train_batch_end(bar, batch, dict(ChainMap(*map(dict, means.values()), logs or {})))

    def on_epoch_end(epoch: int, logs: dict[str, Any] | None = None) -> None:
        ours = tuple(f"{prefix}/" for prefix in means)
        others = {key: value for key, value in (logs or {}).items() if not key.startswith(ours)}
        type(bar).on_epoch_end(bar, epoch, dict(ChainMap(*map(dict, means.values()), others)))

    bar.on_train_batch_end, bar.on_epoch_end = on_train_batch_end, on_epoch_end
