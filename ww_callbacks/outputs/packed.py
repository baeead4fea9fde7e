"""A report as a few bytes per layer, for event files, and its way back.

Numbers are stored in single precision, counts and steps exactly. Layers that were not analysed at the step of the
report, because layers take turns, keep their texts only: an earlier report has their numbers.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ww_callbacks.report import SCHEMA, Histogram, Report, TrapPlace
from ww_callbacks.report.columns import Column, is_count, is_number
from ww_callbacks.report.keys import aggregates
from ww_callbacks.report.layer import are_places, places_of
from ww_callbacks.report.row import POSITIONS

VERSION = 1
LEVEL = 3
"""Of zlib: level 6 takes three times as long for 4 % fewer bytes."""
MAX_BYTES = 2**28
"""A report that is larger when it is unpacked is refused."""

_NO_FLAG = 2
_TYPES = {"number": "<f4", "count": "<f8", "flag": "u1"}
_BINS = 64

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Packed:
    """A report that was unpacked.

    Attributes:
        step: of the report.
        wall_time: when the weights were copied, in seconds since the epoch.
        metrics: the ``ww/…`` metrics of the report.
        texts: text column → one text per layer; None if it has none. Columns without any text are left out.
        rows: indices of the layers whose numbers are included, ascending.
        numbers: numeric column → one value per row, NaN if there is none. Flags are 0 and 1. Columns without any value
            are left out.
        histograms: index of a layer → its histograms.
        places: index of a layer → its ``trap_places``.
    """

    step: int | None
    wall_time: float
    metrics: Mapping[str, float]
    texts: Mapping[str, Sequence[str | None]]
    rows: Sequence[int]
    numbers: Mapping[str, Floats]
    histograms: Mapping[int, Histogram]
    places: Mapping[int, tuple[TrapPlace, ...]]

    @property
    def names(self) -> Sequence[str]:
        """The names of all layers."""
        return [name or "" for name in self.texts["name"]]

    def values(self, index: int) -> dict[str, Any]:
        """The columns of one layer with a value: texts, whole numbers, numbers and flags.

        Args:
            index: of the layer.
        """
        found: dict[str, Any] = {name: texts[index] for name, texts in self.texts.items() if texts[index]}
        if index in self.rows:
            row = self.rows.index(index)
            for name, column in self.numbers.items():
                if not np.isnan(column[row]):
                    found[name] = _PLAIN[SCHEMA[name].kind](column[row])
        return found


_PLAIN: Mapping[str, Any] = {"number": lambda value: float(np.float32(value)), "count": int, "flag": bool}


def pack(report: Report, metrics: Mapping[str, float], wall_time: float, *, with_all: bool = False) -> bytes:
    """A report and its metrics as bytes, without its full spectra.

    Args:
        report: the results of one snapshot.
        metrics: of the report; those of single layers are left out.
        wall_time: when the weights were copied, in seconds since the epoch.
        with_all: include the numbers of layers that were not analysed at this step.

    Example:
        >>> from ww_callbacks import LayerReport
        >>> layer = LayerReport(name="fc", kind="Linear", alpha=2.5, M=300, reliable=True, step=10)
        >>> packed = unpack(pack(Report((layer,), step=10), {"ww/alpha": 2.5}, 1.0))
        >>> packed.step, packed.metrics, packed.values(0)["alpha"], packed.values(0)["M"]
        (10, {'ww/alpha': 2.5}, 2.5, 300)
    """
    layers = report.layers
    rows = [index for index, layer in enumerate(layers) if with_all or layer.step in (None, report.step)]
    chosen = [layers[index] for index in rows]
    texts, kinds, pieces = {}, [], []
    for position, column in _columns():
        if column.kind == "text":
            values = [layer[position] for layer in layers]
            if any(values):
                texts[column.name] = values if column.name == "name" else _coded(values)
            continue
        values = [layer[position] for layer in chosen]
        if any(value is not None for value in values):
            kinds.append(column.name)
            pieces.append(_shuffled(_array(values, column.kind)))
    drawn = [(index, layers[index].histogram) for index in rows]
    histograms = {index: each for index, each in drawn if each is not None and 0 < len(each.counts) <= _BINS}
    header = {
        "version": VERSION,
        "step": report.step,
        "wall_time": wall_time,
        "metrics": {name: value for name, value in aggregates(metrics).items() if np.isfinite(value)},
        "rows": None if len(rows) == len(layers) else rows,
        "texts": texts,
        "numbers": kinds,
        "places": {str(index): layers[index].trap_places for index in rows if layers[index].trap_places},
        "histograms": [
            [index, round(each.low, 4), round(each.high, 4), len(each.counts), each.rand_counts is not None]
            for index, each in histograms.items()
        ],
    }
    counts = [count for each in histograms.values() for count in (*each.counts, *(each.rand_counts or ()))]
    pieces.append(_shuffled(np.array(counts, "<u4")))
    head = json.dumps(header, separators=(",", ":")).encode()
    return zlib.compress(b"".join([struct.pack("<I", len(head)), head, *pieces]), LEVEL)


def unpack(data: bytes) -> Packed:
    """The inverse of :func:`pack`.

    Args:
        data: from a file.

    Raises:
        ValueError: the data are not those of a report, or those of a later version.
    """
    try:
        return _unpack(data)
    except ValueError as error:
        raise ValueError(f"data: not a packed report: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, struct.error, zlib.error) as error:
        raise ValueError(f"data: not a packed report: {type(error).__name__}: {error}") from error


def _unpack(data: bytes) -> Packed:
    plain = _inflated(data)
    (length,) = struct.unpack_from("<I", plain)
    header = json.loads(plain[4 : 4 + length].decode())
    if header["version"] != VERSION:
        raise ValueError(f"version {header['version']!r}, expected {VERSION}; a newer ww_callbacks reads it")
    count = len(header["texts"]["name"])
    rows = list(range(count)) if header["rows"] is None else header["rows"]
    if not all(is_count(row) and 0 <= row < count for row in rows):
        raise ValueError("rows that no layer has")
    texts = {name: values if name == "name" else _decoded(values) for name, values in header["texts"].items()}
    if any(len(values) != count or not all(_is_text(each) for each in values) for values in texts.values()):
        raise ValueError(f"texts that do not fit its {count} layers")
    reader = _Reader(plain, 4 + length)
    numbers = {}
    for name in header["numbers"]:
        kind = SCHEMA[name].kind
        with np.errstate(invalid="ignore"):
            values = reader.take(_TYPES[kind], len(rows)).astype(np.float64)
        values[(values == _NO_FLAG) if kind == "flag" else ~np.isfinite(values)] = np.nan
        numbers[name] = values
    shapes = header["histograms"]
    if not all(0 < bins <= _BINS and 0 <= index < count for index, _, _, bins, _ in shapes):
        raise ValueError("histograms with too many bins or without a layer")
    counts = reader.take("<u4", sum(bins * (2 if control else 1) for _, _, _, bins, control in shapes)).tolist()
    histograms = {}
    place = 0
    for index, low, high, bins, control in shapes:
        own, place = counts[place : place + bins], place + bins
        shuffled = counts[place : place + bins] if control else None
        place += bins if control else 0
        histograms[index] = Histogram.of(low, high, own, shuffled)
    if not all(each.is_valid for each in histograms.values()):
        raise ValueError("histograms without numbers")
    step, wall_time = header["step"], header["wall_time"]
    metrics = header["metrics"]
    if not (step is None or is_count(step)) or not all(map(is_number, (wall_time, *metrics.values()))):
        raise ValueError("step, time or metrics that are no numbers")
    places = {int(index): places_of(value) for index, value in header["places"].items()}
    if not all(are_places(each) for each in places.values()):
        raise ValueError("places of traps that are no places")
    return Packed(step, wall_time, metrics, texts, rows, numbers, histograms, places)


def _columns() -> list[tuple[int, Column]]:
    return [(POSITIONS[name], column) for name, column in SCHEMA.items()]


def _array(values: Sequence[Any], kind: str) -> npt.NDArray[Any]:
    if kind == "flag":
        return np.array([_NO_FLAG if value is None else value for value in values], "u1")
    with np.errstate(over="ignore"):
        return np.array(values, np.float64).astype(_TYPES[kind])


def _shuffled(values: npt.NDArray[Any]) -> bytes:
    """The first bytes of all values, then the second ones, and so on, which compress better."""
    return np.ascontiguousarray(values.view("u1").reshape(len(values), values.itemsize).T).tobytes()


def _coded(values: Sequence[str | None]) -> dict[str, list[Any]]:
    words = {word: code for code, word in enumerate(dict.fromkeys(values))}
    return {"words": list(words), "codes": [words[value] for value in values]}


def _decoded(coded: Mapping[str, list[Any]]) -> list[str | None]:
    words = coded["words"]
    return [words[code] for code in coded["codes"]]


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    plain = inflater.decompress(data, MAX_BYTES)
    if inflater.unconsumed_tail:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    if not inflater.eof:
        raise ValueError("it is cut")
    return plain


class _Reader:
    """Takes one array after the other."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._place = data, start

    def take(self, dtype: str, count: int) -> npt.NDArray[Any]:
        size = np.dtype(dtype).itemsize
        end = self._place + size * count
        if end > len(self._data):
            raise ValueError("it is cut")
        planes = np.frombuffer(self._data, "u1", size * count, self._place).reshape(size, count)
        self._place = end
        return np.ascontiguousarray(planes.T).view(dtype).reshape(count)
