"""The exit statuses, which are the same in all commands."""

from __future__ import annotations

DONE = 0
"""All went well."""

FAILED = 1
"""A layer failed, or a model has no layer that could be analysed; the result is written."""

ERROR = 2
"""Wrong usage, or a file or a folder that cannot be read or written."""

STOPPED = 3
"""Training should stop; only with ``follow --until-stop``."""

INTERRUPTED = 130
"""Ended with Ctrl-C."""
