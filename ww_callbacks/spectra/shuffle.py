"""A pseudorandom permutation of the elements of a matrix, computed in pieces that fit the cache.

A stored permutation is as large as the matrix, and its gather reads memory in random order. Here the elements are moved
in two steps that use only small tables of random indices:

1. The rows are divided into chunks. Each chunk is permuted, and each part of the result gets an equal share of it.
2. Each part, whose elements come from all chunks, is permuted twice.

All chunks use the same table, and all parts use the same two. A chunk starts at a random place of its table, and a part
starts at a random place of each of its tables, so two parts are hardly ever permuted in the same way. There are between
√(NM)/16 and √(NM)/8 chunks and as many parts. A matrix of at most 2¹⁶ elements is a single part, so over all seeds each
of its permutations is equally likely. The steps are those of a bucket shuffle, with equal instead of random buckets
(Rao, *Generation of random permutations of given number of elements using random sampling numbers*, 1961). The tests
compare the largest eigenvalues of shuffled structures with those after an exactly uniform permutation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.eigen import block_rows

Table = NDArray[np.intp]

_WHOLE = 2**16
"""Up to this number of elements, the matrix is a single part."""
_ROWS = 16
"""Smallest number of rows per chunk. In transposed weights, that many elements are adjacent in memory."""
_SHARE = 64
"""Smallest average number of elements that a chunk gives to a part. They are copied together."""
_TOGETHER = 4
"""Chunks of transposed weights that are copied together, because pieces of 64 bytes are read slowly."""
_BUFFER_BYTES = 32 * 2**20
"""Size of the buffer between the steps. It is filled several times for a larger matrix."""


def shuffled_blocks(tall: NDArray[Any], *, seed: int, position: int) -> Iterator[NDArray[Any]]:
    """Blocks of rows of the shuffled matrix. Each is overwritten when the next one is requested.

    The permutation depends on (seed, N, M, position) only, not on the memory layout. Memory in addition to the block is
    the buffer of at most 32 MiB, and tables of about 1 KiB · √(NM), of which the most recent are kept.

    Args:
        tall: matrix with N ≥ M rows, C- or Fortran-contiguous.
        seed: seed of the permutation.
        position: index of the kernel position.

    Example:
        >>> import numpy as np
        >>> blocks = shuffled_blocks(np.arange(6.0).reshape(3, 2), seed=0, position=0)
        >>> sum(float(block.sum()) for block in blocks)
        15.0
    """
    rows, columns = tall.shape
    rng = np.random.Generator(np.random.SFC64([seed, rows, columns, position]))
    if tall.size <= _WHOLE:
        shuffled = np.empty_like(tall, order="C")
        _permute(np.ascontiguousarray(tall).reshape(-1), seed, rng.integers(tall.size, size=2), shuffled.reshape(-1))
        return iter([shuffled])
    return _blocks(tall, seed, rng)


def _blocks(tall: NDArray[Any], seed: int, rng: np.random.Generator) -> Iterator[NDArray[Any]]:
    """Blocks of rows of a matrix of several chunks. There are as many parts as whole chunks."""
    rows, columns = tall.shape
    height = max(_ROWS, math.ceil(math.sqrt(_SHARE * rows / columns)))
    count, left = divmod(rows, height)  # the last chunk has fewer rows
    size, rest = height * columns, left * columns
    shares, rests = ([part * total // count for part in range(count + 1)] for total in (size, rest))
    starts, turns = rng.integers(size, size=count), rng.integers(2**31, size=(count, 2))
    table = np.tile(_stored_order(_table(seed, 0, size), tall, height), 2)  # a part may pass its end
    last = _stored(tall, rows - left, rows).take(_stored_order(_table(seed, 0, rest), tall, left), mode="clip")
    step = block_rows(rows, columns) * columns
    longest = count * (size // count + 1) + rest // count + 1
    elements = np.empty(longest, tall.dtype)
    shuffled, filled = np.empty(step + longest, tall.dtype), 0
    together = min(count, max(1, _BUFFER_BYTES // (longest * tall.itemsize)))
    buffer = np.empty((count, together * (size // count + 1)), tall.dtype)
    for first in range(0, count, together):
        end = min(first + together, count)
        width = shares[end] - shares[first]
        for share, chunk, start in zip(
            buffer, _chunks(tall, height, count), (starts + shares[first]) % size, strict=True
        ):
            chunk.take(table[start : start + width], out=share[:width], mode="clip")
        for part in range(first, end):
            share = buffer[:, shares[part] - shares[first] : shares[part + 1] - shares[first]]
            extra = last[rests[part] : rests[part + 1]]
            length = share.size + extra.size
            elements[: share.size].reshape(share.shape)[:] = share
            elements[share.size : length] = extra
            _permute(elements[:length], seed, turns[part] % length, shuffled[filled : filled + length])
            filled += length
            if filled >= step or part == count - 1:
                full = filled // columns * columns
                yield shuffled[:full].reshape(-1, columns)
                filled -= full
                shuffled[:filled] = shuffled[full : full + filled]


def _chunks(tall: NDArray[Any], height: int, count: int) -> Iterator[NDArray[Any]]:
    """The elements of each chunk, as stored. They are copied, because copies read memory in order."""
    if tall.flags.c_contiguous:
        for number in range(count):
            yield _stored(tall, number * height, (number + 1) * height).copy()
        return
    for first in range(0, count, _TOGETHER):
        several = np.ascontiguousarray(tall[first * height : min(first + _TOGETHER, count) * height].T).T
        for start in range(0, len(several), height):
            yield _stored(several, start, start + height)


def _stored(tall: NDArray[Any], start: int, stop: int) -> NDArray[Any]:
    """The elements of some rows, in the order in which they are stored."""
    return (tall[start:stop] if tall.flags.c_contiguous else np.ascontiguousarray(tall.T[:, start:stop])).reshape(-1)


def _stored_order(table: Table, tall: NDArray[Any], height: int) -> Table:
    """Indices into the stored elements of a chunk, from indices into its elements row by row."""
    return table if tall.flags.c_contiguous else table % tall.shape[1] * height + table // tall.shape[1]


def _permute(elements: NDArray[Any], seed: int, turns: NDArray[np.int64], out: NDArray[Any]) -> None:
    """Permute by both tables of this length, each rotated."""
    between = np.empty_like(elements)
    for number, source, target in ((1, elements, between), (2, between, out)):
        table, turn = _table(seed, number, len(elements)), turns[number - 1]
        split = len(table) - turn
        source.take(table[turn:], out=target[:split], mode="clip")
        source.take(table[:turn], out=target[split:], mode="clip")


@lru_cache(maxsize=16)
def _table(seed: int, number: int, length: int) -> Table:
    """A permutation of the given length, the smaller indices of a longer one."""
    longer = _power_of_two_table(seed, number, max(length - 1, 0).bit_length())
    return longer[longer < length].astype(np.intp)


@lru_cache(maxsize=16)
def _power_of_two_table(seed: int, number: int, bits: int) -> NDArray[np.int32]:
    return np.random.Generator(np.random.SFC64([seed, number, bits])).permutation(2**bits).astype(np.int32)
