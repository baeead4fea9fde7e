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
