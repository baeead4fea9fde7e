"""Whether training waits at snapshots for results, and how long it has waited."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from concurrent.futures import Future
from typing import Any

from ww_callbacks.checks import warn
from ww_callbacks.engine import wait_for

WAITED_SHARE = 0.1
"""Share of the wall time above which a warning says that training has waited."""

WAITED_LEAST = 5.0
"""Seconds of waiting below which there is no such warning."""

_log = logging.getLogger("ww_callbacks")


class Waiting:
    """Whether training waits at each snapshot for the results of the one before, and how long it has waited.

    The first wait that is longer than ``timeout`` is the last one: a worker that hangs delays training once.

    Args:
        deterministic: whether to wait; None for yes once training acts on a verdict.
        timeout: seconds that one wait may take.

    Attributes:
        acts: whether training acts on a verdict.
        seconds: waited so far.

    Example:
        >>> waiting = Waiting(None, timeout=60.0)
        >>> before, waiting.acts = waiting.is_on, True
        >>> before, waiting.is_on
        (False, True)
    """

    def __init__(self, deterministic: bool | None, timeout: float) -> None:
        self._deterministic, self._timeout = deterministic, timeout
        self._start = time.monotonic()
        self._has_given_up = self._has_warned = False
        self.acts = False
        self.seconds = 0.0

    @property
    def is_on(self) -> bool:
        """Whether to wait at the next snapshot."""
        return not self._has_given_up and (self.acts if self._deterministic is None else self._deterministic)

    def wait(self, futures: Collection[Future[Any]]) -> None:
        """Wait for results. A warning says once that this takes a large share of the time, or too long.

        Args:
            futures: of the pending snapshots.
        """
        start = time.monotonic()
        has_all = wait_for(futures, self._timeout)
        now = time.monotonic()
        self.seconds += now - start
        if not has_all:
            self._has_given_up = True
            warn(
                f"the analysis of a snapshot took longer than timeout={self._timeout:g} s; training does not wait at "
                "snapshots any more, so what is known at a step, and when a rule ends training, now depends on the "
                "speed of the machine. Raise timeout or every_n_steps, or analyse fewer layers (layers=)"
            )
        elif self._is_much(self.seconds / max(now - self._start, 1e-9)):
            self._has_warned = True
            _log.warning(
                "training has waited %.0f s (%.0f %%) for analyses, so that what acts on their results does the same "
                "on every machine: raise every_n_steps, analyse fewer layers (layers=), omit the control "
                "(randomize=False), or pass deterministic=False to train without waiting",
                self.seconds,
                100 * self.seconds / (now - self._start),
            )

    def _is_much(self, share: float) -> bool:
        """Whether to say that training waits; who asked for it with ``deterministic=True`` knows."""
        has_waited = self.seconds >= WAITED_LEAST and share > WAITED_SHARE
        return has_waited and self._deterministic is None and not self._has_warned
