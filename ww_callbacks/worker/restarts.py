"""What went wrong with the worker so far: when to wait, which layer to leave out, when to give up."""

from __future__ import annotations

import threading
from collections import Counter

MAX_DEATHS = 3
"""After so many deaths without a result in between the worker is not started again."""
MAX_KILLS = 2
"""A layer in which the worker died so often, without a result of it in between, is left out."""
FIRST_DELAY, LONGEST_DELAY = 0.1, 10.0


class Faults:
    """The deaths of all processes of one executor. Safe to use from several threads.

    Example:
        >>> faults = Faults()
        >>> faults.died("killed by the kernel", "fc1")
        >>> faults.delay, faults.left_out("fc1")
        (0.1, '')
        >>> faults.answered("fc2")
        >>> faults.died("killed by the kernel", "fc1")
        >>> faults.left_out("fc1")
        'left out: the worker ended in it 2 times, the last time: killed by the kernel'
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deaths = 0
        self._kills: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}
        self.broken = ""

    @property
    def delay(self) -> float:
        """Seconds to wait before the next start."""
        return min(FIRST_DELAY * 4 ** (self._deaths - 1), LONGEST_DELAY) if self._deaths else 0.0

    def answered(self, layer: str) -> None:
        """A layer came back."""
        with self._lock:
            self._deaths = 0
            self._kills.pop(layer, None)

    def died(self, reason: str, layer: str = "") -> None:
        """A process ended or was ended.

        Args:
            reason: a sentence.
            layer: at work; empty where none was, as while starting.
        """
        with self._lock:
            self._deaths += 1
            if layer:
                self._kills[layer] += 1
                self._reasons[layer] = reason
            if self._deaths >= MAX_DEATHS:
                self.broken = f"the worker process ended {self._deaths} times in a row, the last time: {reason}"

    def left_out(self, layer: str) -> str:
        """Why a layer is not analysed any more; empty where it is.

        Where nothing else has come back since, asking counts as one more death: then there is nothing left to do.
        """
        if self._kills[layer] < MAX_KILLS:
            return ""
        last = self._reasons[layer]
        if self._deaths >= MAX_KILLS:
            self.died(last)
        return f"left out: the worker ended in it {MAX_KILLS} times, the last time: {last}"
