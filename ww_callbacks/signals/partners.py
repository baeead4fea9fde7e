"""Which layer a normalisation layer goes with: it gets that layer's learning rate."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial


def find_partners(names: Sequence[str], norms: Collection[str]) -> dict[str, str]:
    """The layer that each normalisation layer goes with.

    Of the layers that share the longest beginning of their dotted name with it, the nearest before it, and where none
    stands before it the nearest after. In a residual block that is the convolution of each batch normalisation; in a
    transformer block that normalises first, the first projection of the block. TempBalance (Zhou et al. 2023) pairs
    batch normalisations with the convolution before them.

    Args:
        names: of the layers that hold a matrix and of the normalisation layers, in model order.
        norms: which of them normalise.

    Returns:
        Name of a normalisation layer → name of its partner; without an entry where there is no layer at all.

    Example:
        >>> find_partners(["0.conv", "0.norm", "1.norm", "1.fc", "head"], {"0.norm", "1.norm"})
        {'0.norm': '0.conv', '1.norm': '1.fc'}
    """
    layers = [(index, name) for index, name in enumerate(names) if name not in norms]
    if not layers:
        return {}
    return {
        name: min(layers, key=partial(_distance, (position, name)))[1]
        for position, name in enumerate(names)
        if name in norms
    }


def _distance(norm: tuple[int, str], layer: tuple[int, str]) -> tuple[int, bool, int]:
    """The smallest is the nearest."""
    return -_shared(norm[1], layer[1]), layer[0] > norm[0], abs(layer[0] - norm[0])


def _shared(first: str, second: str) -> int:
    """How many parts of their path two names have in common, their own names left out."""
    count = 0
    for one, other in zip(first.split(".")[:-1], second.split(".")[:-1], strict=False):
        if one != other:
            break
        count += 1
    return count
