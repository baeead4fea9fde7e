"""The page as one HTML file that opens from disk and asks for nothing."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import numpy as np

from ww_callbacks.page.files import static
from ww_callbacks.page.grid import Floats
from ww_callbacks.page.run import Run
from ww_callbacks.printable import shown_text

MAX_BYTES = 6 * 2**20
"""Bytes that the columns of all runs take in a file, in their order below, and that their spectra take: those of the
latest report, of the first one, then of evenly spread ones."""
FIRST_COLUMNS = (
    *("alpha", "reliable", "num_traps", "warning", "rand_alpha", "alpha_low", "alpha_high", "learned_rank"),
    *("update_norm", "update_rank", "learned_norm", "stable_rank", "lr_ratio", "trap_size", "status", "null"),
)
_KEPT_BITS = 12
"""Of the 23 bits of a number: four digits, which the page shows, and half the bytes."""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"


def page_file(
    runs: Mapping[str, Run], title: str, most: int = MAX_BYTES, comparison: Mapping[str, Any] | None = None
) -> str:
    """The page with its data as one HTML file.

    Of a long run, the columns and spectra that fit into a few megabytes are included; the page says which.

    Args:
        runs: id → run, at least one.
        title: of the page. All text, including the names of layers, is escaped.
        most: bytes that all columns take, and that all spectra take.
        comparison: what is said of all runs together, if they are models side by side.

    Raises:
        OSError: a file of a run cannot be read.
        ValueError: a file of a run holds something else by now.
    """
    title = shown_text(title)
    share = most // max(len(runs), 1)
    data: dict[str, Any] = {"runs": {"title": title, "live": False, "runs": [], "problems": []}}
    data |= {"run": {}, "columns": {}, "cells": {}}
    if comparison is not None:
        data["runs"]["comparison"] = comparison
    for identity, run in runs.items():
        answer = run.answer() | {"id": identity}
        columns = _columns(run, [column["name"] for column in answer["columns"]], share)
        cells = _cells(run, share)
        answer["columns"] = [column for column in answer["columns"] if column["name"] in columns]
        answer["cells"] = sorted(cells)
        data["runs"]["runs"].append(run.info() | {"id": identity})
        data["run"][identity] = answer
        data["columns"][identity] = columns
        data["cells"][identity] = {str(report): cell for report, cell in cells.items()}
    return _html(title, json.dumps(data, allow_nan=False, separators=(",", ":")))


def _html(title: str, data: str) -> str:
    """One file from those of the page."""
    style, script = (static(name).decode() for name in ("page.css", "page.js"))
    # In a script element, "</script" ends it and "<!--" changes how it is read; "<" is the same in a string of JSON.
    safe = data.replace("<", "\\u003c")
    parts = {
        '<link rel="stylesheet" href="page.css">': f"<style>{style}</style>",
        '<script src="page.js" defer></script>': f'<script type="application/json" id="ww-data">{safe}</script>',
        "<head>": f'<head><meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        "</body>": f"<script>{script}</script></body>",
    }
    page = static("index.html").decode()
    before, _, after = page.partition("<title>")
    page = f"{before}<title>{escape(title)}{after[after.index('</title>') :]}"
    for tag, content in parts.items():
        before, found, after = page.partition(tag)
        if not found:
            raise ValueError(f"index.html of the page has no {tag}")
        page = before + content + after
    return page


def _columns(run: Run, names: list[str], most: int) -> dict[str, str]:
    """The columns that fit, compressed."""
    found: dict[str, str] = {}
    for name in sorted(names, key=lambda name: FIRST_COLUMNS.index(name) if name in FIRST_COLUMNS else len(names) + 99):
        data = _deflated(_rounded(run.column(name)).tobytes())
        most -= len(data)
        if most < 0 and found:
            break
        found[name] = data
    return found


def _cells(run: Run, most: int) -> dict[int, str]:
    """The spectra of the reports that fit, compressed."""
    found: dict[int, str] = {}
    for report in spread_out(len(run.entries)):
        data = _deflated(json.dumps(run.cells(report), allow_nan=False, separators=(",", ":")).encode())
        most -= len(data)
        if most < 0 and found:
            break
        found[report] = data
    return found


def spread_out(count: int) -> Iterator[int]:
    """The numbers below a limit, of which the first ones are spread evenly: the last, the first, the middle.

    Args:
        count: the limit.

    Example:
        >>> list(spread_out(9))
        [8, 0, 4, 2, 6, 1, 3, 5, 7]
    """
    if count:
        yield count - 1
    seen = {count - 1}
    gap = 1 << max(count - 1, 1).bit_length()
    while gap:
        for number in range(0, count, gap):
            if number not in seen:
                seen.add(number)
                yield number
        gap //= 2


def _rounded(values: Floats) -> Floats:
    """Values with four digits, of which the other bits are 0 and compress well."""
    bits = values.astype("<f4").view("<u4")
    drop = 23 - _KEPT_BITS
    rounded = ((bits + np.uint32(1 << (drop - 1))) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)).view("<f4")
    return np.where(np.isfinite(values), rounded, values).astype("<f4")


def _deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data)).decode()
