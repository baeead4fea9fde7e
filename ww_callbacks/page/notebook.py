"""The page inside a notebook: a frame that holds all of it, so that exported notebooks show it too."""

from __future__ import annotations

from html import escape

from ww_callbacks.page.known import run_of_history
from ww_callbacks.page.single import page_file
from ww_callbacks.report import History

HEIGHT = 720
"""Pixels."""
MAX_BYTES = 2 * 2**20
"""Compressed bytes of the columns and of the spectra; a notebook keeps every output."""


def history_frame(history: History, title: str = "history") -> str:
    """A history as a frame with the page.

    The frame may run the scripts of the page and nothing else: it has no access to the notebook.

    Args:
        history: with at least one report.
        title: of the page.
    """
    page = page_file({title: run_of_history(history, title)}, title, most=MAX_BYTES)
    return (
        f'<iframe title="{escape(title)}" sandbox="allow-scripts" srcdoc="{escape(page)}" '
        f'style="width:100%;height:{HEIGHT}px;border:0"></iframe>'
    )
