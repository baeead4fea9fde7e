"""What the map of alpha shows: a row for each layer with a matrix, a cell for each step, a mark for each cell."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from ww_callbacks.report import LayerReport, Report
from ww_callbacks.report.experts import blocks_of

Mark = Literal["r", "p", "f", "-"]
"""Of a cell: "r" for a value, "p" for a value that means nothing (pale), "f" for a failed layer, "-" for no result."""

GAP = 1.5
"""Two steps are a gap if they are further apart than this multiple of the median distance."""


@dataclass(frozen=True, slots=True)
class MapColumn:
    """The alpha of one report: a value and a mark for each row, those without a matrix included.

    Attributes:
        step: of the report.
        alphas: of the rows; None for no value.
        marks: one ``Mark`` for each row.
    """

    step: int
    alphas: tuple[float | None, ...]
    marks: str


def mark_of(layer: LayerReport) -> Mark:
    """The mark of the alpha of a layer.

    Example:
        >>> mark_of(LayerReport(name="fc", kind="Linear", alpha=2.5, reliable=False))
        'p'
    """
    if layer.status == "failed":
        return "f"
    if layer.alpha is None:
        return "-"
    return "p" if layer.reliable is False else "r"


def has_row(layer: LayerReport) -> bool:
    """Whether a layer takes a row: it has a matrix, or may turn out to have one."""
    return layer.M is not None or layer.alpha is not None or layer.status == "failed" or layer.is_waiting


def map_column(report: Report) -> MapColumn:
    """The alphas of a report; the experts of a block are one row with the median of those with a reliable tail.

    Example:
        >>> layers = (LayerReport(name="fc", kind="Linear", alpha=2.5), LayerReport(name="bias", kind="Linear"))
        >>> map_column(Report(layers, 10))
        MapColumn(step=10, alphas=(2.5, None), marks='r-')
    """
    cells = [_cell([report.layers[index] for index in indices]) for _, indices in _rows(tuple(report.column("name")))]
    return MapColumn(report.step or 0, tuple(alpha for alpha, _ in cells), "".join(mark for _, mark in cells))


def map_rows(report: Report) -> dict[int, str]:
    """Index → name of the rows that are shown.

    Example:
        >>> map_rows(Report((LayerReport(name="fc", kind="Linear", M=9), LayerReport(name="bias", kind="Linear"))))
        {0: 'fc'}
    """
    rows = _rows(tuple(report.column("name")))
    return {
        row: name for row, (name, indices) in enumerate(rows) if any(has_row(report.layers[index]) for index in indices)
    }


def map_spans(steps: Sequence[float]) -> Iterator[tuple[int | None, float, float]]:
    """The columns of the map from the first step to the last: index of the step (None for a gap), start and end.

    A column reaches half the way to its neighbours. In a gap it is as wide as is usual, and the rest stays empty.

    Args:
        steps: ascending, at least one.

    Example:
        >>> list(map_spans([0, 10, 20, 60]))
        [(0, 0, 5.0), (1, 5.0, 15.0), (2, 15.0, 25.0), (None, 25.0, 55.0), (3, 55.0, 60)]
        >>> list(map_spans([7]))
        [(0, 6.5, 7.5)]
    """
    if len(steps) == 1:
        yield 0, steps[0] - 0.5, steps[0] + 0.5
        return
    usual = statistics.median(after - before for before, after in pairwise(steps))
    start = steps[0]
    for index, (step, after) in enumerate(pairwise(steps)):
        is_gap = after - step > GAP * usual
        end, begin = (step + usual / 2, after - usual / 2) if is_gap else ((step + after) / 2,) * 2
        yield index, start, end
        if is_gap:
            yield None, end, begin
        start = begin
    yield len(steps) - 1, start, steps[-1]


def _cell(layers: Sequence[LayerReport]) -> tuple[float | None, Mark]:
    """Value and mark of a layer, or of the experts of a block."""
    marks = [mark_of(layer) for layer in layers]
    for mark in ("r", "p"):
        alphas = [layer.alpha for layer, each in zip(layers, marks, strict=True) if each == mark and layer.alpha]
        if alphas:
            return round(statistics.median(alphas), 3), mark
    return None, "f" if "f" in marks else "-"


@lru_cache(maxsize=8)
def _rows(names: tuple[str, ...]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Name and indices of the layers of each row."""
    blocks = blocks_of(names)
    first = {indices[0]: name for name, indices in blocks.items()}
    others = {index for indices in blocks.values() for index in indices[1:]}
    return tuple(
        (first[index], blocks[first[index]]) if index in first else (name, (index,))
        for index, name in enumerate(names)
        if index not in others
    )
