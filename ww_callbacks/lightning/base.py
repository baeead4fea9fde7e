"""The base class of the callbacks: that of the Lightning distribution in use."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

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

log = logging.getLogger(f"{Callback.__module__.split('.')[0]}.ww_callbacks")
