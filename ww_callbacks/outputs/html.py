"""A report in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ww_callbacks.report import Report
from ww_callbacks.report.table import LEFT, layer_table, notes


def report_fragment(report: Report) -> str:
    """A report as an HTML fragment: the table and the lines below it."""
    rows = report.to_dicts()
    lines = "".join(f"<p>{escape(line)}</p>" for line in notes(rows, report.summary()))
    return _table(layer_table(rows)) + lines


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = lines
    words = [' style="text-align: left"' if title in LEFT else "" for title in head]
    titles = "".join(f"<th{word}>{escape(title) or 'note'}</th>" for title, word in zip(head, words, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{word}>{escape(cell)}</td>" for cell, word in zip(row, words, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead>\n<tbody>{body}</tbody></table>"
