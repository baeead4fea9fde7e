"""Which layers are sent to a worker in one message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

MOST_TOGETHER, MOST_BYTES = 32, 2**20
"""Largest number of layers in one message, and size of their weights."""


def sent_together(order: Sequence[int], nbytes: Sequence[int], workers: int) -> Iterator[tuple[int, ...]]:
    """Split layers into messages: several small ones that follow each other, or one layer.

    Args:
        order: indices of the layers, in the order of their analysis.
        nbytes: size of the weights of all layers.
        workers: number of workers, which get equal shares of the small layers.

    Example:
        >>> list(sent_together([0, 1, 2, 3], [2**21, 2**10, 2**10, 2**10], workers=1))
        [(0,), (1, 2, 3)]
    """
    num_small = sum(nbytes[index] <= MOST_BYTES for index in order)
    most = min(MOST_TOGETHER, -(-num_small // workers))
    group: list[int] = []
    size = 0
    for index in order:
        if group and (len(group) >= most or size + nbytes[index] > MOST_BYTES):
            yield tuple(group)
            group, size = [], 0
        group.append(index)
        size += nbytes[index]
    if group:
        yield tuple(group)
