"""The files of the page, built from ``ui/``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

TEXT = "text/plain; charset=utf-8"
FILES: Mapping[str, str] = {
    "index.html": "text/html; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "licenses.txt": TEXT,
}
"""Names and types."""


def static(name: str) -> bytes:
    """A file of the page.

    Args:
        name: one of ``FILES``.
    """
    return resources.files("ww_callbacks.page").joinpath("static", name).read_bytes()
