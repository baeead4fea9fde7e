"""What lies between a snapshot and its report: memory for the copies, the worker, and the snapshots under way."""

from ww_callbacks.engine.engine import Engine
from ww_callbacks.engine.pending import Pending

__all__ = ["Engine", "Pending"]
