"""Which layers a snapshot is about when all of them cost too much: the stalest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ww_callbacks.analysis import LayerSpec

SECONDS_PER_UNIT = 4e-10
"""Of ``LayerSpec.work``, before anything has been measured: what one core of a server needs about."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layer that may be chosen.

    Attributes:
        last_step: step at which it was chosen last; None where it never was.
        change: how much it changed when it was seen last.
        seconds: what its analysis costs.
        nbytes: size of its weights.
    """

    last_step: int | None
    change: float
    seconds: float
    nbytes: int


def choose(candidates: Sequence[Candidate], seconds: float, nbytes: int) -> list[int]:
    """The layers for one snapshot: the stalest first, among equally stale ones the most changed first.

    The first one is taken whatever it costs, for otherwise a layer above the allowance would never be seen; the
    others as long as they fit.

    Args:
        candidates: all layers.
        seconds: what the analysis may cost.
        nbytes: how many bytes can be copied.

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
    """What the analysis of each layer costs: as measured last, else from the others by their work.

    Args:
        specs: the layers.
    """

    def __init__(self, specs: Sequence[LayerSpec]) -> None:
        self._work = [spec.work for spec in specs]
        self._measured: dict[int, float] = {}

    def measure(self, index: int, seconds: float) -> None:
        """A layer has been analysed in so many seconds of CPU time."""
        self._measured[index] = seconds

    def __getitem__(self, index: int) -> float:
        if index in self._measured:
            return self._measured[index]
        done = sum(self._work[known] for known in self._measured)
        rate = sum(self._measured.values()) / done if done else SECONDS_PER_UNIT
        return rate * self._work[index]
