"""Which layers are analysed when the budget does not allow all of them: the stalest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ww_callbacks.analysis import LayerSpec

SECONDS_PER_UNIT = 4e-10
"""Of ``LayerSpec.work`` on one core of a server, roughly; used before anything has been measured."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layer that may be chosen.

    Attributes:
        last_step: step at which it was chosen last; None if it never was.
        change: how much it changed per step before its latest result.
        seconds: expected cost of its analysis.
        nbytes: size of its weights.
    """

    last_step: int | None
    change: float
    seconds: float
    nbytes: int


def choose(candidates: Sequence[Candidate], seconds: float, nbytes: int) -> list[int]:
    """The layers for one snapshot: the stalest first, among equally stale ones the most changed first.

    The first one is always taken, otherwise a layer above the allowance would never be analysed. The others are taken
    as long as they fit.

    Args:
        candidates: all layers.
        seconds: limit of the total cost.
        nbytes: limit of the total size.

    Returns:
        Positions of the chosen layers, ascending.

    Example:
        >>> layers = [Candidate(10, 0.0, 5.0, 1), Candidate(20, 0.1, 5.0, 1), Candidate(10, 0.3, 5.0, 1)]
        >>> choose(layers, seconds=5.0, nbytes=10), choose(layers, seconds=10.0, nbytes=10)
        ([2], [0, 2])
    """
    order = sorted(range(len(candidates)), key=lambda position: _turn(candidates[position]))
    chosen: list[int] = []
    for position in order:
        candidate = candidates[position]
        if chosen and (candidate.seconds > seconds or candidate.nbytes > nbytes):
            continue
        chosen.append(position)
        seconds -= candidate.seconds
        nbytes -= candidate.nbytes
    return sorted(chosen)


def _turn(candidate: Candidate) -> tuple[float, float]:
    return (-1.0 if candidate.last_step is None else candidate.last_step, -candidate.change)


class Costs:
    """Expected cost of analysing each layer: as measured last, otherwise scaled by work from the other layers.

    Args:
        specs: the layers.
    """

    def __init__(self, specs: Sequence[LayerSpec]) -> None:
        self._work = [spec.work for spec in specs]
        self._measured: dict[int, float] = {}
        self._done_work, self._done_seconds = 0, 0.0

    def measure(self, index: int, seconds: float) -> None:
        """Record the CPU seconds that the analysis of a layer took."""
        if index not in self._measured:
            self._done_work += self._work[index]
        self._done_seconds += seconds - self._measured.get(index, 0.0)
        self._measured[index] = seconds

    def __getitem__(self, index: int) -> float:
        if index in self._measured:
            return self._measured[index]
        rate = self._done_seconds / self._done_work if self._done_work else SECONDS_PER_UNIT
        return rate * self._work[index]
