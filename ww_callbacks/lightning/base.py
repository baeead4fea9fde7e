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
        """The Callback of the distribution that is in use, of an installed one where none is imported yet.

        Where both are loaded it is of both: a Trainer of Lightning below 2.5 takes its own distribution's only.
        """
        names = ("lightning.pytorch", "pytorch_lightning")
        loaded = tuple(sys.modules[name].Callback for name in names if hasattr(sys.modules.get(name), "Callback"))
        if loaded:
            return type("Callback", loaded, {"__module__": loaded[0].__module__}) if len(loaded) > 1 else loaded[0]
        for name in names:
            try:
                return importlib.import_module(name).Callback
            except ImportError:
                continue
        raise ImportError("ww_callbacks.lightning needs Lightning: pip install ww_callbacks[lightning]")

    Callback = _callback_class()

log = logging.getLogger(f"{Callback.__module__.split('.')[0]}.ww_callbacks")
