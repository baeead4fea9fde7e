"""Waits for pending results, with a progress bar if that takes long."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from importlib.util import find_spec
from typing import Any

from ww_callbacks.progress import progress_bar

SILENT = 1.0
"""Seconds of waiting before a bar is shown."""


def wait_for(futures: Collection[Future[Any]], timeout: float, *, bar: bool = False) -> bool:
    """Wait until all futures are done.

    Args:
        futures: to wait for.
        timeout: in seconds.
        bar: show a progress bar after a second if rich is installed and standard error is a terminal.

    Returns:
        Whether all are done.

    Example:
        >>> future = Future()
        >>> wait_for([future], 0.01)
        False
        >>> future.set_result(1)
        >>> wait_for([future], 0.01)
        True
    """
    end = time.monotonic() + timeout
    waiting = wait(futures, timeout=_limited(min(timeout, SILENT) if bar else timeout)).not_done
    if not waiting or not bar:
        return not waiting
    with progress_bar("pending spectra", len(futures), shown=_can_show()) as progress:
        progress.end(len(futures) - len(waiting))
        while waiting and (left := end - time.monotonic()) > 0:
            done, waiting = wait(waiting, timeout=_limited(left), return_when=FIRST_COMPLETED)
            progress.end(len(done))
    return not waiting


def _limited(seconds: float) -> float:
    return min(max(seconds, 0.0), threading.TIMEOUT_MAX)


def _can_show() -> bool:
    return bool(sys.stderr and sys.stderr.isatty()) and find_spec("rich") is not None
