"""The layers of a checkpoint in parts, which several processes can analyse at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.following.lease import Claims
from ww_callbacks.following.results import Result, Results
from ww_callbacks.models.run import Analysed

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


def add_parts(
    result: Result,
    parts: Sequence[Sequence[int]],
    results: Results,
    claims: Claims,
    run: Callable[[Sequence[int]], Mapping[int, Analysed]],
    *,
    at_once: bool,
) -> None:
    """Add the results of those parts that no other follower has, or works on.

    Args:
        result: what the results are of.
        parts: positions of the layers of each part.
        results: where they are added.
        claims: of this process.
        run: gives the results of the layers at some positions.
        at_once: whether to run all parts together, or one after the other.

    Raises:
        Exception: what ``run`` raises, or ``OSError``.
    """
    for batch in _batches(result, parts, results, claims, at_once=at_once):
        try:
            numbers = [number for number in batch if not results.has(result.key, number, result.count)]
            found = run([position for number in numbers for position in parts[number]]) if numbers else {}
            for number in numbers:
                results.add(result, number, {position: found[position] for position in parts[number]})
        finally:
            for number in batch:
                claims.release(_claim(result, number))


def _batches(
    result: Result, parts: Sequence[Sequence[int]], results: Results, claims: Claims, *, at_once: bool
) -> Iterator[list[int]]:
    """Numbers of parts that this process has claimed."""
    free = (
        number
        for number in range(len(parts))
        if not results.has(result.key, number, result.count) and claims.acquire(_claim(result, number))
    )
    if not at_once:
        yield from ([number] for number in free)
    elif claimed := list(free):
        yield claimed


def _claim(result: Result, part: int) -> str:
    return f"{result.key}.part-{part}"


def _work(spec: LayerSpec | None) -> int:
    return 0 if spec is None else spec.work
