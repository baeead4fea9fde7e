"""The base class of callbacks that act on the results of a SpectralMonitor."""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, TypeVar

import keras

from ww_callbacks.checks import check_choice
from ww_callbacks.keras.monitor import SpectralMonitor, check_source, plain_arguments, source_of
from ww_callbacks.signals.signal import Signal

_log = logging.getLogger("ww_callbacks")

T = TypeVar("T", bound="FollowerCallback")


@dataclass(kw_only=True, eq=False)
class FollowerCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Finds the SpectralMonitor of the same ``fit``, at any position in the list, and attaches a signal to it.

    ``_source`` is that monitor from the first epoch on; None before.

    Args:
        source: the monitor to follow if there are several in the list; None for the last of them.
        verbose: 1 to print messages unless ``fit`` is silent (``verbose=0``), 0 to write them to the log only.

    Raises:
        TypeError: ``source`` is something else.
        ValueError: ``verbose`` is something else.
    """

    source: SpectralMonitor | None = None
    verbose: int = 1

    def __post_init__(self) -> None:
        keras.callbacks.Callback.__init__(self)
        check_source(self.source)
        check_choice("verbose", self.verbose, (0, 1))
        self._source: SpectralMonitor | None = None

    @abstractmethod
    def named_signal(self) -> tuple[str, Signal]:
        """The signal to attach, and its name."""

    @property
    @abstractmethod
    def acts(self) -> bool:
        """Whether training depends on the verdict."""

    @abstractmethod
    def check_model(self) -> None:
        """Raise an error if the arguments do not fit the model; called before the signal is attached."""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget an earlier training."""
        self._source = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Find the monitor; all callbacks have started by then."""
        if self._source is None:
            source = source_of(self, self.source)
            assert source.monitor is not None
            self.check_model()
            source.monitor.attach(*self.named_signal(), acts=self.acts)
            self._source = source

    def get_config(self) -> dict[str, Any]:
        """The arguments as plain values, without ``source``."""
        return plain_arguments(self, without=["source"])

    @classmethod
    def from_config(cls: type[T], config: dict[str, Any]) -> T:
        """The inverse of ``get_config``."""
        return cls(**config)

    def say(self, message: str, *, begins: str = "") -> None:
        """Print a message, or log it if nothing is to be printed.

        Args:
            message: a sentence.
            begins: printed before it: a line break while the progress bar is drawn, as Keras's own callbacks do it.
        """
        if self.verbose and (self.params or {}).get("verbose") and keras.config.is_interactive_logging_enabled():
            print(f"{begins}{message}", flush=True)
        else:
            _log.info("%s", message)

    def __getstate__(self) -> dict[str, Any]:
        """Copies do not share the monitor."""
        return self.__dict__ | {"_source": None}
