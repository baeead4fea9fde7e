"""What lies between a snapshot and its report: memory for the copies, the analysis, and the snapshots under way."""

from ww_callbacks.engine.drain import wait_for
from ww_callbacks.engine.engine import Engine
from ww_callbacks.engine.resources import Limits
from ww_callbacks.engine.status import Status, resident_bytes

__all__ = ["Engine", "Limits", "Status", "resident_bytes", "wait_for"]
