"""A comparison as one self-contained HTML file, and a report in a notebook."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from ww_callbacks.printable import shown_text
from ww_callbacks.report import Comparison, Report
from ww_callbacks.report.table import LEFT, layer_table, notes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 12px }
th, td { padding: .2rem .5rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th.text, td.text { text-align: left }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 9rem }
th button { all: unset; cursor: pointer; font-weight: 600 }
th button:focus-visible { outline: 2px solid #0072B2 }
th[aria-sort=ascending] button::after { content: " \\2191" }
th[aria-sort=descending] button::after { content: " \\2193" }
.scroll { overflow-x: auto }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)); gap: 1rem }
figure { margin: 0 } img { max-width: 100% } figcaption { overflow-wrap: anywhere; font-size: 13px }
dl { display: flex; flex-wrap: wrap; gap: .3rem 2rem }
dt { color: #666; font-size: 13px } dd { margin: 0; font-size: 20px }
"""
_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentElement, table = head.closest("table"), column = head.cellIndex;
  const down = head.ariaSort === "ascending", number = row => parseFloat(row.cells[column].textContent);
  for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const text = head.classList.contains("text");
  const order = (a, b) => text ? a.cells[column].textContent.localeCompare(b.cells[column].textContent)
    : (isNaN(number(a)) - isNaN(number(b))) || (down ? -1 : 1) * (number(a) - number(b));
  const rows = [...table.tBodies[0].rows].sort(order);
  table.tBodies[0].append(...(text && down ? rows.reverse() : rows));
};
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def comparison_page(comparison: Comparison, title: str = "Models side by side") -> str:
    """A comparison as a page: table, correlations with controls and conclusions, flows of alpha.

    Args:
        comparison: of several models.
        title: heading of the page.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from ww_callbacks.outputs import figures

    parts = [_table(comparison.table())]
    correlations = comparison.correlation_table()
    if correlations:
        parts += ["<h2>Correlation with quality</h2>", _table(correlations)]
        parts.append(_list(map(escape, comparison.conclusions())))
    parts.append('<h2>Alpha against depth</h2><div class="pictures">')
    parts.append(_picture(partial(figures.draw_correlation_flows, comparison.reports), "Correlation flow"))
    return page(title, "\n".join([*parts, "</div>"]))


def report_fragment(report: Report) -> str:
    """A report as an HTML fragment for notebooks: the table and the lines below it."""
    rows = report.to_dicts()
    lines = "".join(f"<p>{escape(line)}</p>" for line in notes(rows, report.summary()))
    return _table(layer_table(rows)) + lines


def page(title: str, body: str) -> str:
    """A complete HTML file; ``title`` is text, ``body`` is HTML."""
    title = shown_text(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n'
        f"<body><h1>{escape(title)}</h1>\n{body}\n<script>{_SCRIPT}</script></body></html>\n"
    )


def _list(items: Any) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = lines
    words = [' class="text"' if title in LEFT else "" for title in head]
    titles = (
        f"<th{word}><button>{escape(title) or 'note'}</button></th>" for title, word in zip(head, words, strict=True)
    )
    body = (
        "<tr>" + "".join(f"<td{word}>{escape(cell)}</td>" for cell, word in zip(row, words, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{"".join(titles)}</tr></thead>\n'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _picture(draw: Callable[[Axes], object], says: str, caption: str = "") -> str:
    from ww_callbacks.outputs import figures

    data = base64.b64encode(figures.render(draw, size=(5.6, 3.6), dpi=90)).decode()
    return (
        f'<figure><img loading="lazy" alt="{escape(says)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
