"""Output of the results to standard output or a file, in the requested format."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ww_callbacks.printable import escaped, quoted, shown_text
from ww_callbacks.report import Report

Value = TypeVar("Value")

_FORMULAS = ("'", "=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings of cells that spreadsheets evaluate, in full width too (OWASP, *CSV injection*), and the apostrophe."""


def chosen_format(arguments: argparse.Namespace, formats: Iterable[str]) -> str:
    """The requested format, otherwise that of the file name, otherwise a table.

    Raises:
        OSError: the file cannot be written; raised before the analysis.
    """
    path: Path | None = arguments.output
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise OSError(f"{path}: cannot be written: {'a folder' if path.is_dir() else 'its folder does not exist'}")
    suffix = path.suffix.lstrip(".").lower() if path is not None else ""
    return arguments.format or (suffix if suffix in formats else "table")


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


def finding_lines(report: Report) -> list[str]:
    """The findings of a report, one line each; alarms are marked.

    Example:
        >>> finding_lines(Report(()))
        []
    """
    return [f"{'ALARM: ' if finding.is_alarm else ''}{finding}" for finding in report.findings]


def show_progress() -> bool:
    """Whether to show a progress bar: standard error is a terminal and rich is installed."""
    return sys.stderr.isatty() and importlib.util.find_spec("rich") is not None


def status_of(reports: Iterable[Report]) -> int:
    """0, or 1 if a layer failed or a model has no analysed layer; details go to standard error."""
    status = 0
    for report in reports:
        failed = [layer for layer in report if layer.status == "failed"]
        for layer in failed:
            print(f"ww-callbacks: layer {quoted(layer.name)} failed: {shown_text(layer.reason)}", file=sys.stderr)
        if not any(layer.status == "ok" for layer in report):
            print("ww-callbacks: no layer could be analysed", file=sys.stderr)
        if failed or not any(layer.status == "ok" for layer in report):
            status = 1
    return status


Writers = Mapping[str, Callable[[Value, str], str]]
"""Format → function that turns a result and a title into text."""
