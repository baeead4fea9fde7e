"""The command ``ww-callbacks``: analyze, compare, follow, watch, serve."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(words: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        words: command-line arguments without the name of the program; None for those of this process.

    Returns:
        The exit status, see :mod:`ww_callbacks.cli.status`.
    """
    from ww_callbacks.cli.status import INTERRUPTED

    try:
        from ww_callbacks.cli.command import run  # here, because Ctrl-C may come while numpy and scipy are imported

        return run(words)
    except KeyboardInterrupt:
        print("ww-callbacks: interrupted", file=sys.stderr)
        return INTERRUPTED
