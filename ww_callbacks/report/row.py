"""The columns of a layer as one tuple, which takes less time to make, change and send than an object."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from ww_callbacks.report.layer import FIELDS, Histogram, LayerReport, places_of

Row = tuple[Any, ...]
"""The values of a LayerReport, in the order of its fields."""

POSITIONS = {name: position for position, name in enumerate(FIELDS)}
"""Position of each field in a row."""

_values_of = attrgetter(*FIELDS)
_setters = tuple(getattr(LayerReport, name).__set__ for name in FIELDS)
_HISTOGRAM, _SPECTRUM, _PLACES = (POSITIONS[name] for name in ("histogram", "spectrum", "trap_places"))


def row_of(layer: LayerReport) -> Row:
    """The row of a layer.

    Example:
        >>> layer_of(row_of(LayerReport(name="fc", kind="Linear", alpha=2.5))).alpha
        2.5
    """
    row: Row = _values_of(layer)
    return row


def layer_of(row: Row) -> LayerReport:
    """The layer of a row. It sets the fields without the checks of a constructor, in half the time."""
    layer = object.__new__(LayerReport)
    for set_value, value in zip(_setters, row, strict=True):
        set_value(layer, value)
    return layer


def changed(row: Row, **values: Any) -> Row:
    """The same row with other values in some columns.

    Example:
        >>> layer_of(changed(row_of(LayerReport(name="fc", kind="Linear")), step=10)).step
        10
    """
    new = list(row)
    for name, value in values.items():
        new[POSITIONS[name]] = value
    return tuple(new)


def plain(row: Row) -> list[Any]:
    """A row of values that JSON can hold.

    Example:
        >>> row = row_of(LayerReport(name="fc", kind="Linear", histogram=Histogram(0.0, 1.0, (5, 15))))
        >>> from_plain(plain(row)) == row
        True
    """
    values = list(row)
    if (counts := row[_HISTOGRAM]) is not None:
        values[_HISTOGRAM] = [counts.low, counts.high, counts.counts, counts.rand_counts]
    return values


def from_plain(values: list[Any]) -> Row:
    """The inverse of :func:`plain`, also after a round trip through JSON.

    Raises:
        ValueError: these are not the values of a row.
    """
    if len(values) != len(FIELDS):
        raise ValueError(f"values: expected the {len(FIELDS)} fields of a LayerReport")
    row = list(values)
    try:
        if row[_HISTOGRAM] is not None:
            row[_HISTOGRAM] = Histogram.of(*row[_HISTOGRAM])
        if row[_SPECTRUM] is not None:
            row[_SPECTRUM] = tuple(row[_SPECTRUM])
        if row[_PLACES] is not None:
            row[_PLACES] = places_of(row[_PLACES])
    except (TypeError, ValueError) as error:
        raise ValueError(f"values: not the fields of a LayerReport: {error}") from error
    return tuple(row)
