"""When to restart a crashed worker: delays, layers to skip, and when to give up."""

from __future__ import annotations

import threading
from collections import Counter

MAX_CRASHES = 3
"""After this many crashes in a row the worker is not restarted."""
MAX_LAYER_CRASHES = 2
"""A layer is skipped after this many crashes on it without a result for it in between."""
MIN_DELAY, MAX_DELAY = 0.1, 10.0


class RestartPolicy:
    """Counts the crashes of all processes of an executor. Thread-safe.

    Example:
        >>> policy = RestartPolicy()
        >>> policy.record_crash("killed by the kernel", "fc1")
        >>> policy.delay, policy.skip_reason("fc1")
        (0.1, '')
        >>> policy.record_result("fc2")
        >>> policy.record_crash("killed by the kernel", "fc1")
        >>> policy.skip_reason("fc1")
        'skipped: the worker crashed on it twice; last error: killed by the kernel'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._crashes = 0
        self._layer_crashes: Counter[str] = Counter()
        self._errors: dict[str, str] = {}
        self.broken = ""

    @property
    def delay(self) -> float:
        """Seconds to wait before the next start."""
        return min(MIN_DELAY * 4 ** (self._crashes - 1), MAX_DELAY) if self._crashes else 0.0

    def record_result(self, layer: str) -> None:
        """Record that the worker returned a result for a layer."""
        with self._lock:
            self._crashes = 0
            self._layer_crashes.pop(layer, None)

    def record_crash(self, error: str, layer: str = "") -> None:
        """Record that a process ended or was killed.

        Args:
            error: description of the crash.
            layer: the layer being analysed; empty if there was none, for example during start-up.
        """
        with self._lock:
            self._crashes += 1
            if layer:
                self._layer_crashes[layer] += 1
                self._errors[layer] = error
            if self._crashes >= MAX_CRASHES:
                self.broken = f"the worker process ended {self._crashes} times in a row; last error: {error}"

    def has_crashed(self, layer: str) -> bool:
        """Whether the worker crashed on a layer and has returned no result for it since."""
        return layer in self._layer_crashes

    def skip_reason(self, layer: str) -> str:
        """Why a layer is skipped; empty if it is not.

        If no other layer has returned a result since, skipping counts as another crash, because no layer is left to
        analyse.
        """
        if self._layer_crashes[layer] < MAX_LAYER_CRASHES:
            return ""
        error = self._errors[layer]
        if self._crashes >= MAX_LAYER_CRASHES:
            self.record_crash(error)
        return f"skipped: the worker crashed on it twice; last error: {error}"
