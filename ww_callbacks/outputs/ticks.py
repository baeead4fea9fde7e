"""Which names label the layers along an axis: a few, by block, so that they can be read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile
from statistics import median

_TO_NUMBER = re.compile(r"(?:[^./]*[./])*?[^./]*\d(?=[./]|$)")
_PART = re.compile(r"[^./]*[./]")
_LAST_TWO = re.compile(r"(?:[^./]*[./])?[^./]*$")


def layer_ticks(names: Sequence[str], most: int) -> list[tuple[int, str]]:
    """Index and label of the layers to name, at most ``most`` of them, evenly apart.

    Few layers have their own names. Of many, those at which a block begins are named, by the block.

    Args:
        names: of the layers, in model order.
        most: how many labels fit on the axis, at least one.

    Example:
        >>> names = ["model.wte", *(f"model.h.{block}.{part}" for block in range(9) for part in ("attn", "mlp"))]
        >>> layer_ticks(names, 4)
        [(1, 'h.0'), (7, 'h.3'), (13, 'h.6')]
        >>> layer_ticks(["net.fc1", "net.fc2"], 4)
        [(0, 'fc1'), (1, 'fc2')]
    """
    start = _shared(names)
    if len(names) <= most:
        return [(index, _label(name, start)) for index, name in enumerate(names)]
    gap = len(names) / most
    blocks = list(_blocks(names, start))
    large = [(index, _end(name), count) for index, name, count in blocks if count > 1]
    single = [(index, _label(name, start), count) for index, name, count in blocks if count == 1]
    every = math.ceil(gap / median(count for *_, count in large)) if large else 1
    chosen: list[tuple[int, str]] = []
    for index, label, _ in [*large[::every], *single]:
        if all(abs(index - other) >= gap for other, _ in chosen):
            chosen.append((index, label))
    return sorted(chosen)


def _blocks(names: Sequence[str], start: int) -> Iterator[tuple[int, str, int]]:
    """Index of the first layer, name and number of layers of each run of layers of one block."""
    index = 0
    for block, run in groupby(names, lambda name: _block(name, start)):
        count = len(list(run))
        yield index, block if count > 1 else names[index], count
        index += count


def _block(name: str, start: int) -> str:
    """The name up to its first number after the start; the whole name if it has none."""
    found = _TO_NUMBER.match(name, start)
    return name if found is None else name[: found.end()]


def _label(name: str, start: int) -> str:
    """The name from the start on; a number keeps the part before it."""
    rest = name[start:]
    return _end(name) if rest.isdigit() else rest


def _end(name: str) -> str:
    """The last two parts of a name, such as ``h.3``."""
    found = _LAST_TWO.search(name)
    return name if found is None else found[0]


def _shared(names: Sequence[str]) -> int:
    """Length of the parts with which all of several names begin, such as ``model.``."""
    if len(names) < 2:
        return 0
    first, last = (_PART.findall(name) for name in (min(names), max(names)))  # the names between them share the same
    shared = takewhile(lambda parts: parts[0] == parts[1], zip(first, last, strict=False))
    return sum(len(part) for part, _ in shared)
