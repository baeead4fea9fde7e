"""Waits for pending results, which says so if that takes long."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from importlib.util import find_spec
from typing import Any

from ww_callbacks.progress import progress_bar

SILENT = 1.0
"""Seconds of waiting before it is said."""

_log = logging.getLogger("ww_callbacks")


def wait_for(futures: Collection[Future[Any]], timeout: float, *, what: str = "") -> bool:
    """Wait until all futures are done.

    Args:
        futures: to wait for.
        timeout: in seconds.
        what: what is waited for, and how to avoid it. After a second one line says so, and if rich is installed and
            standard error is a terminal, a progress bar is shown. Empty for a silent wait.

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
    waiting = wait(futures, timeout=_limited(min(timeout, SILENT) if what else timeout)).not_done
    left = end - time.monotonic()
    if not waiting or not what or left <= 0:
        return not waiting
    _log.warning("waiting at most %.0f s for %s", left, what)
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
