"""Checks of the paths that a user gives, before the work begins."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from ww_callbacks.printable import quoted
from ww_callbacks.weights.files.urls import is_url

MOST_NEAR = 3
"""Most names that a message proposes."""


def check_exists(path: str | os.PathLike[str], hint: str = "", likely: Sequence[Path] = ()) -> None:
    """Check that there is a file or a folder of this name, unless it is a URL.

    Args:
        path: of the file or the folder.
        hint: said if there is none.
        likely: files that may be meant.

    Raises:
        OSError: there is none; the message proposes those of similar names in the folder, and likely ones.
    """
    if not is_url(path) and not os.path.lexists(path):
        said = ["no such file or directory", hint, _proposal(Path(path), likely)]
        raise FileNotFoundError(f"{os.fspath(path)}: {'; '.join(each for each in said if each)}")


def _proposal(path: Path, likely: Sequence[Path]) -> str:
    """A question that names other files; empty if there are none."""
    if not path.parent.is_dir():
        return f"there is no folder {quoted(str(path.parent))}"
    similar = difflib.get_close_matches(path.name, os.listdir(path.parent), MOST_NEAR)
    near = list(dict.fromkeys([*(path.parent / name for name in similar), *likely]))[:MOST_NEAR]
    return f"did you mean {' or '.join(quoted(str(each)) for each in near)}?" if near else ""
