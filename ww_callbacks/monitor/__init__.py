"""The monitor: when to copy weights, collecting results in order, publishing them."""

from __future__ import annotations

from ww_callbacks.monitor.monitor import Monitor
from ww_callbacks.monitor.publishing import Output, Published
from ww_callbacks.monitor.schedule import crosses

__all__ = ["Monitor", "Output", "Published", "crosses"]
