"""The command ``ww-callbacks``: analyze, compare, watch."""

from ww_callbacks.cli.main import main

__all__ = ["main"]
