"""Rows of columns as a pandas frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ww_callbacks.report.layer import COLUMNS, SCHEMA

if TYPE_CHECKING:
    import pandas as pd

_NUMBERS = tuple(name for name, column in SCHEMA.items() if column.kind in ("count", "number"))


def to_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per mapping of columns; a number that does not exist is NaN.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install ww_callbacks[pandas]") from error
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(_NUMBERS, float))
