"""Spectral diagnostics of neural networks during training, without blocking it.

Importing this package imports no framework. Each name is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ww_callbacks.following import follow
    from ww_callbacks.models import analyze, compare
    from ww_callbacks.monitor import Monitor
    from ww_callbacks.outputs.jsonl import read_jsonl
    from ww_callbacks.outputs.services import MlflowOutput, TrackioOutput, WandbOutput
    from ww_callbacks.report import Comparison, Finding, History, LayerReport, Report
    from ww_callbacks.signals.stop import EarlyStopping
    from ww_callbacks.weights.files import WeightsFileError
    from ww_callbacks.weights.registered import register_layer

    __version__: str

_HOMES = {
    "Comparison": "ww_callbacks.report",
    "EarlyStopping": "ww_callbacks.signals.stop",
    "Finding": "ww_callbacks.report",
    "History": "ww_callbacks.report",
    "LayerReport": "ww_callbacks.report",
    "MlflowOutput": "ww_callbacks.outputs.services",
    "Monitor": "ww_callbacks.monitor",
    "Report": "ww_callbacks.report",
    "TrackioOutput": "ww_callbacks.outputs.services",
    "WandbOutput": "ww_callbacks.outputs.services",
    "WeightsFileError": "ww_callbacks.weights.files",
    "analyze": "ww_callbacks.models",
    "compare": "ww_callbacks.models",
    "follow": "ww_callbacks.following",
    "read_jsonl": "ww_callbacks.outputs.jsonl",
    "register_layer": "ww_callbacks.weights.registered",
}

__all__ = [
    "Comparison",
    "EarlyStopping",
    "Finding",
    "History",
    "LayerReport",
    "MlflowOutput",
    "Monitor",
    "Report",
    "TrackioOutput",
    "WandbOutput",
    "WeightsFileError",
    "__version__",
    "analyze",
    "compare",
    "follow",
    "read_jsonl",
    "register_layer",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    """That of the installed package, which setup.cfg states."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(__name__)
    except PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"
