"""Tables on standard output: coloured and in the width of a terminal, complete in a pipe or a file."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ww_callbacks.printable import columns_of
from ww_callbacks.report import Finding, Report
from ww_callbacks.report.table import LEFT, align, layer_table, notes, render_table

if TYPE_CHECKING:
    from rich.table import Table

Lines = Sequence[Sequence[str]]
"""The cells of a table, header first."""

_COLOURS = {"over-trained": "yellow", "under-trained": "magenta", "no tail": "dim", "cannot be told": "dim"}
_LESS_NEEDED = (
    *("kind", "stable rank", "log λmax", "tail", "D", "shuffled", "N x M", "95 % interval", "traps"),
    *("τ rms 1", "τ shuffled", "τ"),
)
"""Columns that a narrow terminal leaves out first, in this order; then others, from the right."""
_KEPT = ("alpha", "quality", "r", "")
"""Columns that are never left out, and neither is the first."""
_UNLIMITED = 100_000
"""Width of what is no terminal."""


def is_styled() -> bool:
    """Whether to use colours: rich is installed, and standard output is a terminal or FORCE_COLOR is set.

    rich itself leaves colours out if NO_COLOR is set.
    """
    return importlib.util.find_spec("rich") is not None and (sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR")))


def print_report(report: Report, findings: Iterable[Finding]) -> None:
    """Print the table of a report, the layers that are not in it, and findings."""
    if not is_styled():
        print(report_text(report, findings, fitted_text))
        return
    from rich.console import Console

    width = _width()
    console = Console(highlight=False, width=width)
    table = fitting(layer_table(report.to_dicts()), width)
    if report.step is not None:
        console.print(f"step {report.step}")
    if len(table.lines) > 1:
        console.print(rich_table(table.lines))
    for line in [*table.note, *notes(report.to_dicts(), report.summary()), *finding_lines(findings)]:
        console.print(line, markup=False, emoji=False)


def report_text(report: Report, findings: Iterable[Finding], show: Callable[[Lines], str] = align) -> str:
    """A report and findings as text.

    Args:
        report: of a model.
        findings: shown below it.
        show: turns the cells of a table into text.
    """
    return "\n".join([render_table(report.to_dicts(), report.summary(), report.step, show), *finding_lines(findings)])


def finding_lines(findings: Iterable[Finding]) -> list[str]:
    """Findings, one line each; alarms are marked.

    Example:
        >>> finding_lines(Report(()).findings)
        []
    """
    return [f"{'ALARM: ' if finding.is_alarm else ''}{finding}" for finding in findings]


def fitted_text(lines: Lines) -> str:
    """A table as text that fits the terminal, with a line about what is left out; all of it in a pipe or a file."""
    fitted = fitting(lines, _width())
    return "\n".join([align(fitted.lines), *fitted.note])


def rich_table(lines: Lines) -> Table:
    """The fitted layers, with a colour for each warning."""
    from rich.table import Table
    from rich.text import Text

    head, *rows = lines
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in head:
        side: Literal["left", "right"] = "left" if title in LEFT else "right"
        table.add_column(title, justify=side, no_wrap=title != "layer", overflow="fold")
    for row in rows:
        warning = next((word for word in row if word in _COLOURS), "")
        table.add_row(*(Text(cell) for cell in row), style=_COLOURS.get(warning, ""))
    return table


@dataclass(frozen=True, slots=True)
class Fitted:
    """A table that fits a width.

    Attributes:
        lines: its cells, header first.
        left_out: titles of the columns that are left out.
        num_empty: number of columns without any value that are left out.
    """

    lines: Lines
    left_out: tuple[str, ...]
    num_empty: int

    @property
    def note(self) -> list[str]:
        """A line that says what is left out, if anything is."""
        parts = [", ".join(self.left_out)] if self.left_out else []
        if self.num_empty:
            parts.append(f"{self.num_empty} column{'s'[: self.num_empty - 1]} without values")
        return [f"left out: {' and '.join(parts)}; a wider terminal or '| less -S' shows them"] if parts else []


def fitting(lines: Lines, width: int) -> Fitted:
    """The table without the columns that do not fit the width.

    Args:
        lines: its cells, header first.
        width: in columns of a terminal.

    Example:
        >>> fitted = fitting([["layer", "kind", "alpha", "D"], ["fc", "Linear", "2.10", "-"]], 12)
        >>> fitted.lines, fitted.left_out, fitted.num_empty
        ([['layer', 'alpha'], ['fc', '2.10']], ('kind',), 1)
    """
    columns = [list(column) for column in zip(*lines, strict=True)]
    by_title = {column[0]: column for column in columns[1:] if column[0] not in _KEPT}
    empty = [title for title, column in by_title.items() if len(column) > 1 and set(column[1:]) == {"-"}]
    order = dict.fromkeys([*empty, *(each for each in _LESS_NEEDED if each in by_title), *reversed(by_title)])
    left_out: list[str] = []
    for title in order:
        if sum(max(map(columns_of, column)) + 2 for column in columns) - 2 <= width:
            break
        columns.remove(by_title[title])
        left_out.append(title)
    named = tuple(title for title in by_title if title in left_out and title not in empty)
    return Fitted([list(line) for line in zip(*columns, strict=True)], named, len(left_out) - len(named))


def _width() -> int:
    """Columns of the terminal; a pipe or a file takes all of a table."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNLIMITED
