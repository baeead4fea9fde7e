"""The columns that the page can show on its map, described for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ww_callbacks.report import SCHEMA
from ww_callbacks.report.columns import Column

PageKind = Literal["number", "count", "flag", "words"]
Scale = Literal["alpha", "log", "linear", "diverging", "none"]

ALPHAS = ("alpha", "alpha_stable", "alpha_hill", "alpha_farms", "rand_alpha", "update_alpha")
RATIOS: Mapping[str, str] = {
    "lr_ratio": "factor for the learning rate of the layer, the common rate being 1",
    "weight_decay_ratio": "factor for the weight decay of the layer, the common one being 1",
}
"""Columns that come from the verdicts of signals: name → text."""
RATIO_OF = {"learning_rate": "lr_ratio", "weight_decay": "weight_decay_ratio"}
"""Name of a verdict → column."""
SHOWN_BY_THE_LAYER = ("name", "kind", "role", "N", "M", "rf", "Q", "dtype", "step", "counted", "reason", "change")
"""Columns that are the same at each step, or no values of the map."""


@dataclass(frozen=True, slots=True)
class PageColumn:
    """A column as the page gets it.

    Attributes:
        name: of the column.
        label: on axes.
        text: what it holds.
        kind: "number", "count", "flag" (0 or 1) or "words" (a code, see ``words``).
        words: of kind "words", the text of each code.
        scale: of the colours.
        centre: of a diverging scale.
    """

    name: str
    label: str
    text: str
    kind: PageKind
    words: tuple[str, ...] = ()
    scale: Scale = "linear"
    centre: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self) | {"words": list(self.words)}


def page_columns() -> Mapping[str, PageColumn]:
    """All columns that a map can show, by name, in the order of the report.

    Example:
        >>> columns = page_columns()
        >>> columns["alpha"].scale, columns["xmax"].scale, columns["delta_alpha"].centre, columns["warning"].words[1]
        ('alpha', 'log', 0.0, 'over-trained')
    """
    return _COLUMNS


def _page_column(column: Column) -> PageColumn:
    if column.kind == "text":
        words = ("", *(each for each in column.choices if each))
        return PageColumn(column.name, column.label, column.text, "words", words, "none")
    scale, centre = _scale(column)
    return PageColumn(column.name, column.label, column.text, column.kind, (), scale, centre)


def _scale(column: Column) -> tuple[Scale, float | None]:
    if column.name in ALPHAS:
        return "alpha", None
    if column.kind == "flag":
        return "none", None
    if column.name.startswith("delta_") or column.signed or column.name == "finger_shift":
        return "diverging", 0.0
    if column.scaling in ("proportional", "inverse") or column.name.endswith("pvalue"):
        return "log", None
    return "linear", None


_COLUMNS: Mapping[str, PageColumn] = {
    column.name: _page_column(column)
    for column in SCHEMA.values()
    if column.name not in SHOWN_BY_THE_LAYER and (column.kind != "text" or column.choices)
} | {name: PageColumn(name, name, text, "number", (), "diverging", 1.0) for name, text in RATIOS.items()}
