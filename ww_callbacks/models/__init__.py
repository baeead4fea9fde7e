"""Finished models: one, one against another, and a series of them."""

from ww_callbacks.models.finished import analyze

__all__ = ["analyze"]
