"""Messages on a console on which another program draws a progress bar."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def above_bars(log: logging.Logger | None = None) -> Iterator[None]:
    """Let a message be written above the progress bars of tqdm and rich, not into them.

    Args:
        log: the logger that writes the message; None for a message to standard error.

    Example:
        >>> with above_bars():
        ...     print("saved")
        saved
    """
    with contextlib.ExitStack() as ends:
        with contextlib.suppress(Exception):  # a bar whose file is closed, for one
            _clear_tqdm(ends)
            _redirect_to_rich(log, ends)
        yield


def _clear_tqdm(ends: contextlib.ExitStack) -> None:
    """Clear the bars of tqdm, and draw them again at the end."""
    bars: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    if bars is None or not getattr(bars, "_instances", None):
        return
    cleared = bars.external_write_mode(file=sys.stderr, nolock=True)  # a lock may be held in a forked process
    cleared.__enter__()
    ends.callback(_ended, cleared)


def _ended(context: contextlib.AbstractContextManager[None]) -> None:
    with contextlib.suppress(Exception):
        context.__exit__(None, None, None)


def _redirect_to_rich(log: logging.Logger | None, ends: contextlib.ExitStack) -> None:
    """Let the handlers write where rich expects it: they may hold the stream that rich has replaced for its bar."""
    replaced = getattr(sys.stderr, "rich_proxied_file", None)
    if replaced is None:
        return
    while log is not None:
        for handler in log.handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream is replaced:
                handler.setStream(sys.stderr)
                ends.callback(handler.setStream, replaced)
        log = log.parent if log.propagate else None
