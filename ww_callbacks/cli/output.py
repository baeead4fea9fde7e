"""Output of the results to standard output or a file, in the requested format."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ww_callbacks.cli.status import DONE, FAILED
from ww_callbacks.cli.usage import unknown
from ww_callbacks.printable import escaped, quoted, shown_text
from ww_callbacks.report import Report

Value = TypeVar("Value")

_ENDINGS = {"table": ".txt"}
"""Format → ending of its files, where it is not the name of the format."""

_FORMULAS = ("'", "=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings of cells that spreadsheets evaluate, in full width too (OWASP, *CSV injection*), and the apostrophe."""


def chosen_format(arguments: argparse.Namespace, formats: Sequence[str]) -> str:
    """The requested format, otherwise that of the file name, otherwise a table.

    Raises:
        OSError: the file cannot be written; raised before the analysis.
        ValueError: the ending of the file name is that of no format.
    """
    path: Path | None = arguments.output
    if path is not None:
        check_writable(path)
    if arguments.format is not None or path is None:
        return arguments.format or "table"
    return format_of(path, formats)


def format_of(path: Path, formats: Sequence[str]) -> str:
    """The format that the name of an output file says.

    Args:
        path: of the file.
        formats: those that the command has; the first is that of a name without an ending.

    Raises:
        ValueError: it is none of these.

    Example:
        >>> format_of(Path("a.JSON"), ["table", "json"]), format_of(Path("a.txt"), ["table", "json"])
        ('json', 'table')
        >>> format_of(Path("report.htm"), ["table", "html"])
        Traceback (most recent call last):
        ValueError: report.htm: unknown format '.htm'; did you mean '.html'? Known: .txt, .html
    """
    ending = path.suffix.lower()
    endings = {_ENDINGS.get(name, f".{name}"): name for name in formats}
    if not ending:
        return formats[0]
    if ending not in endings:
        raise ValueError(f"{path}: {unknown('format', ending, list(endings))}")
    return endings[ending]


def check_writable(path: Path) -> None:
    """Check that a file can be written, before the work begins.

    Raises:
        OSError: it is a folder, or it or its folder is not there or not writable.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise OSError(f"{path}: cannot be written: a folder")
    if not folder.is_dir():
        raise OSError(f"{path}: cannot be written: its folder does not exist")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise OSError(f"{path}: cannot be written: permission denied")


def write(text: str, path: Path | None) -> None:
    """Write to the file, or to standard output.

    Raises:
        OSError: the file cannot be written; the text is then on standard output.
    """
    if path is None:
        print(text)
        return
    try:
        path.write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")
    except OSError as error:
        print(text)
        raise OSError(f"{path}: cannot be written, the result is on standard output: {error.strerror}") from error


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    r"""Rows as CSV; missing values are empty.

    Texts are escaped as by :func:`ww_callbacks.printable.escaped`. One that a spreadsheet could take for a formula has
    an apostrophe before it, and so has one that begins with an apostrophe: a reader can remove the first one.

    Example:
        >>> print(to_csv(["name", "alpha"], [{"name": "fc, 1", "alpha": None}]))
        name,alpha
        "fc, 1",
        >>> print(to_csv(["name"], [{"name": "=HYPERLINK(0)"}, {"name": "a\n"}]))
        name
        '=HYPERLINK(0)
        a\n
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _cell(row.get(column)) for column in columns} for row in rows)
    return file.getvalue().rstrip("\n")


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(_FORMULAS) else "") + escaped(value)


def show_progress(arguments: argparse.Namespace) -> bool:
    """Whether to show a progress bar: standard error is a terminal, rich is installed, and it is not ``--quiet``."""
    return not arguments.quiet and sys.stderr.isatty() and importlib.util.find_spec("rich") is not None


def status_of(reports: Iterable[Report]) -> int:
    """0, or 1 if a layer failed or a model has no analysed layer; details go to standard error."""
    status = DONE
    for report in reports:
        failed = [layer for layer in report if layer.status == "failed"]
        for layer in failed:
            print(f"ww-callbacks: layer {quoted(layer.name)} failed: {shown_text(layer.reason)}", file=sys.stderr)
        if not any(layer.status == "ok" for layer in report):
            print("ww-callbacks: no layer could be analysed", file=sys.stderr)
        if failed or not any(layer.status == "ok" for layer in report):
            status = FAILED
    return status


Writers = Mapping[str, Callable[[Value, str], str]]
"""Format → function that turns a result and a title into text."""
