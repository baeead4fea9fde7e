"""Progress bar for long operations: current layer, fraction completed, remaining time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

from ww_callbacks.printable import shown_name

MISSING = "progress needs rich: pip install ww_callbacks[cli]"


class Bar(Protocol):
    """Reports progress."""

    def begin(self, name: str) -> None:
        """Show the name of the current layer."""

    def end(self, amount: float) -> None:
        """Add a completed amount of work."""


class NoBar:
    """A bar that shows nothing."""

    def begin(self, name: str) -> None:
        """Do nothing."""

    def end(self, amount: float) -> None:
        """Do nothing."""


@contextlib.contextmanager
def progress_bar(title: str, total: float, *, shown: bool) -> Iterator[Bar]:
    """A progress bar on standard error, removed when done. Only shown in a terminal or notebook.

    Args:
        title: description of the operation.
        total: total amount of work, in the unit of ``Bar.end``.
        shown: False for no bar; rich is then not required.

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
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    except ImportError as error:
        raise ImportError(MISSING) from error
    console = Console(stderr=True)
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("{task.description}", markup=False))
    visible = console.is_terminal or console.is_jupyter
    with Progress(
        TextColumn("{task.fields[title]}", markup=False), *columns, console=console, transient=True, disable=not visible
    ) as progress:
        task = progress.add_task("", total=total, title=shown_name(title))

        class RichBar:
            def begin(self, name: str) -> None:
                progress.update(task, description=shown_name(name))

            def end(self, amount: float) -> None:
                progress.advance(task, amount)

        yield RichBar()
