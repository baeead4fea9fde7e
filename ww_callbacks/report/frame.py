"""Columns as a pandas frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ww_callbacks.report.layer import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

_TEXTS = ("name", "kind", "status", "reason", "warning", "vs_exponential", "vs_lognormal", "vs_truncated", "change")
_FLAGS = ("counted", "reliable", "scale_collapse", "hardly_moved")


def to_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per mapping of columns; what does not exist is NaN.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install ww_callbacks[pandas]") from error
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = [column for column in COLUMNS if column not in _TEXTS + _FLAGS]
    return frame.astype(dict.fromkeys(numbers, float))
