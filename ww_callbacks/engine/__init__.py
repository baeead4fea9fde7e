"""From a snapshot to its report: memory for the copies, the submission of the analysis, pending snapshots."""

from ww_callbacks.engine.drain import wait_for
from ww_callbacks.engine.engine import Engine
from ww_callbacks.engine.missed import Missed
from ww_callbacks.engine.resources import Limits
from ww_callbacks.engine.status import Status

__all__ = ["Engine", "Limits", "Missed", "Status", "wait_for"]
