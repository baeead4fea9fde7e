"""The monitor: takes snapshots on a schedule and publishes their results in order."""

from __future__ import annotations

from ww_callbacks.monitor.monitor import Monitor
from ww_callbacks.monitor.schedule import crosses
from ww_callbacks.monitor.seams import Output, Published

__all__ = ["Monitor", "Output", "Published", "crosses"]
