"""Where results go: standard output or a file, in the format that was asked for."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ww_callbacks.report import Report

Value = TypeVar("Value")


def chosen_format(arguments: argparse.Namespace, formats: Iterable[str]) -> str:
    """The format that was asked for, else the one that the name of the file tells, else a table.

    Raises:
        OSError: the file cannot be written; said before anything is analysed.
    """
    path: Path | None = arguments.output
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise OSError(f"{path}: cannot be written: {'a folder' if path.is_dir() else 'its folder does not exist'}")
    suffix = path.suffix.lstrip(".").lower() if path is not None else ""
    return arguments.format or (suffix if suffix in formats else "table")


def write(text: str, path: Path | None) -> None:
    """To the file, or to standard output."""
    if path is None:
        print(text)
    else:
        path.write_text(text if text.endswith("\n") else f"{text}\n", encoding="utf-8")


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV; what does not exist is empty.

    Example:
        >>> print(to_csv(["name", "alpha"], [{"name": "fc, 1", "alpha": None}]))
        name,alpha
        "fc, 1",
    """
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: row.get(column) for column in columns} for row in rows)
    return file.getvalue().rstrip("\n")


def show_progress() -> bool:
    """Whether a bar is of use: somebody looks, and rich is there."""
    return sys.stderr.isatty() and importlib.util.find_spec("rich") is not None


def status_of(reports: Iterable[Report]) -> int:
    """0, or 1 where a layer failed or a model has none that could be analysed; standard error says which."""
    status = 0
    for report in reports:
        failed = [layer for layer in report if layer.status == "failed"]
        for layer in failed:
            print(f"ww-callbacks: layer {layer.name!r} failed: {layer.reason}", file=sys.stderr)
        if not any(layer.status == "ok" for layer in report):
            print("ww-callbacks: no layer could be analysed", file=sys.stderr)
        if failed or not any(layer.status == "ok" for layer in report):
            status = 1
    return status


Writers = Mapping[str, Callable[[Value, str], str]]
"""Format → function of a result and a title that gives the text."""
