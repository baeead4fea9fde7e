"""What the user gives the monitor to call: a function or signal that raises is not called again, the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ww_callbacks.checks import warn_disabled

T = TypeVar("T")


class Guarded(Generic[T]):
    """Calls a function until it raises; a warning then names it, once.

    Args:
        name: of the function, in the warning.
        function: of the user's; None does nothing.
        strict: raise its error instead.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     divide = Guarded("divide", lambda number: 6 / number, strict=False)
        ...     [divide(3), divide(0), divide(3)]
        [2.0, None, None]
        >>> [str(each.message) for each in caught]
        ['ww_callbacks: divide is disabled: ZeroDivisionError: division by zero']
    """

    def __init__(self, name: str, function: Callable[..., T] | None, *, strict: bool) -> None:
        self._name, self._function, self._strict = name, function, strict

    def __call__(self, *arguments: Any) -> T | None:
        """What the function returns; None once it has raised."""
        if self._function is None:
            return None
        try:
            return self._function(*arguments)
        except Exception as error:
            if self._strict:
                raise
            self._function = None
            warn_disabled(self._name, error)
            return None
