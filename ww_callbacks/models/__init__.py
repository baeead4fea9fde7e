"""Finished models: one, one against another, and a series of them."""

from ww_callbacks.models.finished import analyze
from ww_callbacks.models.series import compare

__all__ = ["analyze", "compare"]
