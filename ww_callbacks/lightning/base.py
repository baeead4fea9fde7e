"""What is used of the Lightning distribution in use: the base class of callbacks, and its logger."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

from ww_callbacks.console import above_bars

Trainer = Any  # of either distribution; its attributes come from mixins that type checkers do not see

if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback
else:

    def _callback_class() -> type:
        """The Callback of the distribution that is in use, of an installed one where none is imported yet."""
        names = ("lightning.pytorch", "pytorch_lightning")
        for name in sorted(names, key=lambda name: name not in sys.modules):
            try:
                return importlib.import_module(name).Callback
            except ImportError:
                continue
        raise ImportError("ww_callbacks.lightning needs Lightning: pip install ww_callbacks[lightning]")

    Callback = _callback_class()

log = logging.getLogger(f"{Callback.__module__.partition('.callbacks')[0]}.ww_callbacks")
"""A child of Lightning's logger, ``lightning.pytorch`` or ``pytorch_lightning``: it has its level and its handlers."""


def say(trainer: Trainer, message: str, level: int = logging.INFO) -> None:
    """Log a message with Lightning's logger, on the first rank only and above a progress bar.

    Args:
        trainer: in training.
        message: a sentence.
        level: of the message.
    """
    if trainer.is_global_zero:
        with above_bars(log):
            log.log(level, "%s", message)
