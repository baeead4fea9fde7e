"""What is used of the Lightning distribution in use: the base class of callbacks, and its logger."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

from ww_callbacks.console import above_bars

_DISTRIBUTIONS = ("lightning.pytorch", "pytorch_lightning")

Trainer = Any  # of either distribution; its attributes come from mixins that type checkers do not see

if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback
else:

    def _callback_class() -> type:
        """The Callback of the distribution that is in use, of an installed one where none is imported yet."""
        for name in sorted(_DISTRIBUTIONS, key=lambda name: name not in sys.modules):
            try:
                return importlib.import_module(name).Callback
            except ImportError:
                continue
        raise ImportError("ww_callbacks.lightning needs Lightning: pip install ww_callbacks[lightning]")

    Callback = _callback_class()


def say(trainer: Trainer, message: str, level: int = logging.INFO) -> None:
    """Log a message with Lightning's logger, on the first rank only and above a progress bar.

    Args:
        trainer: in training. The logger is a child of that of its distribution, so it has its level and its handlers.
        message: a sentence.
        level: of the message.
    """
    if trainer.is_global_zero:
        log = _log_of(trainer)
        with above_bars(log):
            log.log(level, "%s", message)


def _log_of(trainer: Trainer) -> logging.Logger:
    modules = [cls.__module__ for cls in type(trainer).__mro__]
    distribution = next(name for name in _DISTRIBUTIONS if any(module.startswith(f"{name}.") for module in modules))
    return logging.getLogger(f"{distribution}.ww_callbacks")
