"""The base class of callbacks that act on the results of a SpectralMonitor."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, TypeVar

import keras

from ww_callbacks.keras.monitor import SpectralMonitor, check_source, source_of
from ww_callbacks.signals.signal import Signal

T = TypeVar("T", bound="FollowerCallback")


class FollowerCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Finds the SpectralMonitor of the same ``fit``, at any position in the list, and attaches a signal to it.

    ``_source`` is that monitor from the first epoch on; None before.

    Args:
        source: the monitor to follow; None for the last one in the list.

    Raises:
        TypeError: ``source`` is something else.
    """

    def __init__(self, source: SpectralMonitor | None) -> None:
        super().__init__()
        check_source(source)
        self._given_source = source
        self._source: SpectralMonitor | None = None

    @abstractmethod
    def named_signal(self) -> tuple[str, Signal]:
        """The signal to attach, and its name."""

    @abstractmethod
    def check_model(self) -> None:
        """Raise an error if the arguments do not fit the model; called before the signal is attached."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget an earlier training."""
        self._source = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Find the monitor; all callbacks have started by then."""
        if self._source is None:
            source = source_of(self, self._given_source)
            assert source.monitor is not None
            self.check_model()
            source.monitor.attach(*self.named_signal())
            self._source = source

    @classmethod
    def from_config(cls: type[T], config: dict[str, Any]) -> T:
        """The inverse of ``get_config``."""
        return cls(**config)

    def __getstate__(self) -> dict[str, Any]:
        """Copies do not share the monitor."""
        return self.__dict__ | {"_source": None}
