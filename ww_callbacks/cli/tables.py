"""Coloured tables in the width of the terminal."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Literal

from ww_callbacks.cli.output import finding_lines
from ww_callbacks.printable import columns_of
from ww_callbacks.report import Report
from ww_callbacks.report.table import LEFT, layer_table, notes

if TYPE_CHECKING:
    from rich.table import Table

_COLOURS = {"over-trained": "yellow", "under-trained": "magenta", "no tail": "dim", "cannot be told": "dim"}
_LESS_NEEDED = ("kind", "stable rank", "log λmax", "tail", "D", "shuffled", "N x M", "95 % interval", "traps")
"""Columns to drop in a narrow terminal, in this order."""


def can_show() -> bool:
    """Whether standard output is a terminal and rich is installed."""
    return sys.stdout.isatty() and importlib.util.find_spec("rich") is not None


def show_report(report: Report) -> None:
    """Print the table and the skipped and failed layers."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(rich_table(report, console.width))
    for line in [*notes(report.to_dicts(), report.summary()), *finding_lines(report)]:
        console.print(line, markup=False, emoji=False)


def rich_table(report: Report, width: int) -> Table:
    """The fitted layers; less useful columns are dropped in a narrow terminal."""
    from rich.table import Table
    from rich.text import Text

    head, *rows = fitting(layer_table(report.to_dicts()), width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in head:
        side: Literal["left", "right"] = "left" if title in LEFT else "right"
        table.add_column(title, justify=side, no_wrap=title != "layer", overflow="fold")
    for row in rows:
        warning = next((word for word in row if word in _COLOURS), "")
        table.add_row(*(Text(cell) for cell in row), style=_COLOURS.get(warning, ""))
    return table


def fitting(lines: list[list[str]], width: int) -> list[list[str]]:
    """The table without the columns that do not fit the width.

    Example:
        >>> fitting([["layer", "kind", "alpha"], ["fc", "Linear", "2.10"]], 12)
        [['layer', 'alpha'], ['fc', '2.10']]
    """
    columns = [list(column) for column in zip(*lines, strict=True)]
    for title in _LESS_NEEDED:
        if sum(max(map(columns_of, column)) + 2 for column in columns) - 2 <= width:
            break
        columns = [column for column in columns if column[0] != title]
    return [list(line) for line in zip(*columns, strict=True)]
