"""A report as a few bytes per layer, for event files, and its way back.

Numbers are stored in single precision, counts and steps exactly. Layers that were not analysed at the step of the
report, because layers take turns, keep their texts only: an earlier report has their numbers.
"""

from __future__ import annotations

import contextlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
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
"""Of zlib: level 6 takes twice as long for 2 % fewer bytes."""
MAX_BYTES = 2**28
"""A report that is larger when it is unpacked is refused."""

_NO_FLAG = 2
_TYPES = {"number": "<f4", "count": "<f8", "flag": "u1"}
_BINS = 64

Floats = npt.NDArray[np.float64]


class Packed:
    """A packed report. Its columns and histograms are decoded when they are asked for.

    Args:
        data: what :func:`pack` returned.

    Attributes:
        step: of the report.
        wall_time: when the weights were copied, in seconds since the epoch.
        metrics: the ``ww/…`` metrics of the report.
        names: of all layers.
        rows: indices of the layers whose numbers are included, ascending.
        columns: the columns with a value: texts, then numbers.

    Raises:
        ValueError: the data are not those of a report, or those of a later version. Every method raises it, too.
    """

    def __init__(self, data: bytes) -> None:
        with _refused():
            plain = _inflated(data)
            (length,) = struct.unpack_from("<I", plain)
            header = json.loads(plain[4 : 4 + length].decode())
            if header["version"] != VERSION:
                raise ValueError(f"version {header['version']!r}, expected {VERSION}; a newer ww_callbacks reads it")
            self.step: int | None = header["step"]
            self.wall_time: float = header["wall_time"]
            self.metrics: Mapping[str, float] = header["metrics"]
            self.names: Sequence[str] = header["texts"].pop("name")
            count = len(self.names)
            self.rows: Sequence[int] = list(range(count)) if header["rows"] is None else header["rows"]
            self._texts, self._places = header["texts"], header["places"]
            self._plain, self._offsets = plain, {}
            place = 4 + length
            for name in header["numbers"]:
                self._offsets[name] = place
                place += len(self.rows) * np.dtype(_TYPES[SCHEMA[name].kind]).itemsize
            self.columns = (*self._texts, *self._offsets)
            self._counts, self._shapes = place, header["histograms"]
            self._check(count)

    def _check(self, count: int) -> None:
        if not all(isinstance(name, str) for name in self.names):
            raise ValueError("names that are no texts")
        if not all(is_count(row) and 0 <= row < count for row in self.rows):
            raise ValueError("rows that no layer has")
        if not (self.step is None or is_count(self.step)):
            raise ValueError("a step that is no number")
        if not all(map(is_number, (self.wall_time, *self.metrics.values()))):
            raise ValueError("a time or metrics that are no numbers")

    def texts(self, name: str) -> Sequence[str | None]:
        """A text column, one text per layer; None if a layer has none.

        Args:
            name: of the column.
        """
        if name == "name":
            return self.names
        if name not in self._texts:
            return [None] * len(self.names)
        with _refused():
            words, codes = self._texts[name]["words"], self._texts[name]["codes"]
            if len(codes) != len(self.names) or not all(word is None or isinstance(word, str) for word in words):
                raise ValueError(f"texts of {name!r} that do not fit {len(self.names)} layers")
            return [words[code] for code in codes]

    def numbers(self, name: str) -> Floats:
        """A numeric column, one value per row, NaN if there is none. Flags are 0 and 1.

        Args:
            name: of the column.
        """
        if name not in self._offsets:
            return np.full(len(self.rows), np.nan)
        with _refused():
            kind = SCHEMA[name].kind
            with np.errstate(invalid="ignore"):
                values = _array_at(self._plain, self._offsets[name], _TYPES[kind], len(self.rows)).astype(np.float64)
            values[(values == _NO_FLAG) if kind == "flag" else ~np.isfinite(values)] = np.nan
            return values

    def values(self, index: int) -> dict[str, Any]:
        """The columns of one layer with a value: texts, whole numbers, numbers and flags.

        Args:
            index: of the layer.
        """
        found: dict[str, Any] = {"name": self.names[index]}
        texts, numbers, rows = self._decoded
        found |= {name: text for name, column in texts.items() if (text := column[index])}
        if index in rows:
            for name, column in numbers.items():
                if not np.isnan(value := column[rows[index]]):
                    found[name] = _PLAIN[SCHEMA[name].kind](value)
        return found

    @cached_property
    def _decoded(self) -> tuple[dict[str, Sequence[str | None]], dict[str, Floats], dict[int, int]]:
        """All texts and numbers, and the row of each layer."""
        texts = {name: self.texts(name) for name in self._texts}
        numbers = {name: self.numbers(name) for name in self._offsets}
        return texts, numbers, {index: row for row, index in enumerate(self.rows)}

    def histogram(self, index: int) -> Histogram | None:
        """The histograms of a layer; None if it has none.

        Args:
            index: of the layer.
        """
        with _refused():
            shapes, counts = self._drawn
            if index not in shapes:
                return None
            low, high, bins, control, start = shapes[index]
            if not 0 < bins <= _BINS:
                raise ValueError(f"a histogram of {bins} bins")
            own, shuffled = counts[start : start + bins], counts[start + bins : start + 2 * bins]
            found = Histogram.of(low, high, own, shuffled if control else None)
            if not found.is_valid:
                raise ValueError("a histogram without numbers")
            return found

    @cached_property
    def _drawn(self) -> tuple[dict[int, tuple[float, float, int, bool, int]], list[int]]:
        """For each layer with histograms its edges, bins, whether it has a control, and its place among all counts."""
        shapes, start = {}, 0
        for layer, low, high, bins, control in self._shapes:
            shapes[layer] = low, high, bins, control, start
            start += bins * (1 + control)
        return shapes, _array_at(self._plain, self._counts, "<u4", start).tolist()

    def places(self, index: int) -> tuple[TrapPlace, ...] | None:
        """The ``trap_places`` of a layer; None if it has none.

        Args:
            index: of the layer.
        """
        with _refused():
            if str(index) not in self._places:
                return None
            places = places_of(self._places[str(index)])
            if not are_places(places):
                raise ValueError("places of traps that are no places")
            return places


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
        >>> packed = Packed(pack(Report((layer,), step=10), {"ww/alpha": 2.5}, 1.0))
        >>> packed.step, packed.metrics, packed.values(0)["alpha"], packed.values(0)["M"]
        (10, {'ww/alpha': 2.5}, 2.5, 300)
    """
    layers = report.layers
    rows = [index for index, layer in enumerate(layers) if with_all or layer.step in (None, report.step)]
    chosen = [layers[index] for index in rows]
    texts: dict[str, Any] = {}
    kinds, pieces = [], []
    for position, column in _columns():
        if column.kind == "text":
            values = [layer[position] for layer in layers]
            if column.name == "name":
                texts[column.name] = values
            elif any(values):
                texts[column.name] = _coded(values)
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


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Errors of data of others as one kind of error."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"data: not a packed report: {error}") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, struct.error, zlib.error) as error:
        raise ValueError(f"data: not a packed report: {type(error).__name__}: {error}") from error


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


def _inflated(data: bytes) -> bytes:
    inflater = zlib.decompressobj()
    plain = inflater.decompress(data, MAX_BYTES)
    if inflater.unconsumed_tail:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    if not inflater.eof:
        raise ValueError("it is cut")
    return plain


def _array_at(data: bytes, place: int, dtype: str, count: int) -> npt.NDArray[Any]:
    """The array whose shuffled bytes are at a place."""
    size = np.dtype(dtype).itemsize
    if place + size * count > len(data):
        raise ValueError("it is cut")
    planes = np.frombuffer(data, "u1", size * count, place).reshape(size, count)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(count)
