"""The layers of a checkpoint in parts, which several processes can analyse at the same time."""

from __future__ import annotations

from collections.abc import Sequence

from ww_callbacks.analysis import LayerSpec

PART_WORK = 10**11
"""Multiplications of a part, about a minute on one core. A layer that needs more is one part."""


def parts_of(specs: Sequence[LayerSpec | None], work: int = PART_WORK) -> list[list[int]]:
    """Positions of the layers of each part, the largest layers first. The same layers always give the same parts.

    Args:
        specs: of the layers; None for a layer that is not analysed, which takes no time.
        work: multiplications of a part.

    Example:
        >>> def spec(rows):
        ...     return LayerSpec("fc", "Linear", (rows, 10), "float32", ((), (0,), (1,)))
        >>> parts_of([spec(10), None, spec(50), spec(20)], work=5000)
        [[2], [3, 0, 1]]
    """
    order = sorted(range(len(specs)), key=lambda position: (-_work(specs[position]), position))
    parts: list[list[int]] = []
    room = 0
    for position in order:
        if not parts or room < _work(specs[position]):
            parts.append([])
            room = work
        parts[-1].append(position)
        room -= _work(specs[position])
    return parts


def _work(spec: LayerSpec | None) -> int:
    return 0 if spec is None else spec.work
