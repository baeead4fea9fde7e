"""An executor whose results come late, as on a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Delayed(ThreadPoolExecutor):
    """One thread that waits before each task.

    Args:
        seconds: to wait.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(1)
        self.seconds = seconds

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def later() -> Any:
            time.sleep(self.seconds)
            return fn(*args, **kwargs)

        return super().submit(later)
