"""Analysis of finished models: one model, a model and its baseline, and a series of models."""

from ww_callbacks.models.finished import analyze
from ww_callbacks.models.series import compare

__all__ = ["analyze", "compare"]
