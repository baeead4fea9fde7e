"""A progress bar for what takes minutes: the layer at work, the share that is done, the time that is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

MISSING = "progress needs rich: pip install ww_callbacks[cli]"


class Bar(Protocol):
    """What is told of the work."""

    def begin(self, name: str) -> None:
        """Work on this layer begins."""

    def end(self, amount: float) -> None:
        """So much of the work is done."""


class NoBar:
    """Shows nothing."""

    def begin(self, name: str) -> None:
        """Nothing."""

    def end(self, amount: float) -> None:
        """Nothing."""


@contextlib.contextmanager
def progress_bar(title: str, total: float, *, shown: bool) -> Iterator[Bar]:
    """A bar on standard error that vanishes at the end; nothing where that is neither a terminal nor a notebook.

    Args:
        title: what is done.
        total: all of the work, in the unit of ``Bar.end``.
        shown: False for no bar at all; rich is not needed then.

    Raises:
        ImportError: rich is not installed.

    Example:
        >>> with progress_bar("analysing", 10, shown=False) as bar:
        ...     bar.begin("fc1")
        ...     bar.end(10)
    """
    if not shown:
        yield NoBar()
        return
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    except ImportError as error:
        raise ImportError(MISSING) from error
    console = Console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    visible = console.is_terminal or console.is_jupyter
    with Progress(
        TextColumn(escape(title)), *columns, console=console, transient=True, disable=not visible
    ) as progress:
        task = progress.add_task("", total=total)

        class RichBar:
            def begin(self, name: str) -> None:
                progress.update(task, description=escape(name))

            def end(self, amount: float) -> None:
                progress.advance(task, amount)

        yield RichBar()
