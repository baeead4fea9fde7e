"""Which monitor watches a model: a Keras callback cannot see the list of callbacks it is in."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import keras

if TYPE_CHECKING:
    from ww_callbacks.keras.monitor import SpectralMonitor

_monitors: weakref.WeakKeyDictionary[keras.Model, weakref.ref[SpectralMonitor]] = weakref.WeakKeyDictionary()


def enter(model: keras.Model, monitor: SpectralMonitor) -> None:
    """Make ``monitor`` the one that watches ``model``."""
    _monitors[model] = weakref.ref(monitor)


def monitor_of(model: keras.Model) -> SpectralMonitor | None:
    """The SpectralMonitor that watches this model, wherever it stands in the list of callbacks.

    Args:
        model: a model in training, as a callback sees it.
    """
    found = _monitors.get(model)
    return found() if found is not None else None


def source_of(follower: keras.callbacks.Callback, source: SpectralMonitor | None) -> SpectralMonitor:
    """The SpectralMonitor that a callback follows in this training.

    Ask at the beginning of the first epoch, when all callbacks have begun.

    Args:
        follower: the callback.
        source: what the user gave it, None for the monitor of the same list.

    Raises:
        ValueError: there is no SpectralMonitor among the callbacks of this ``fit``, or ``source`` is none of them.
    """
    found = source or monitor_of(follower._model)
    if found is None or found.monitor is None or found.params is not follower.params:
        who = type(follower).__name__
        here = "source: the monitor" if source is not None else f"{who} needs a SpectralMonitor, which"
        raise ValueError(f"{here} is not among the callbacks of fit: callbacks=[SpectralMonitor(), {who}()]")
    return found


def check_source(source: object) -> None:
    """Complain about a source that is not a SpectralMonitor of Keras; None is allowed.

    Raises:
        TypeError: it is something else.
    """
    from ww_callbacks.keras.monitor import SpectralMonitor

    if not isinstance(source, SpectralMonitor | None):
        raise TypeError(f"source: expected a SpectralMonitor of ww_callbacks.keras or None, got {source!r}")
