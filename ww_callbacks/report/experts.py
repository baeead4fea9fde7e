"""The experts of a mixture of experts, summarised over each block: a model has thousands of them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

MIN_EXPERTS = 4
"""Smallest number of experts that are summarised."""

MIN_COMPARED = 8
"""Smallest number of experts with a fit among which one can be said to be odd."""

ODD = 4.0
"""An expert is odd if its alpha is this many standard deviations from the median. Of 1,000 normal values 0.06 are,
and more where the standard deviation is estimated from few experts."""

_NORMAL = 1.4826
"""Standard deviation of normal values, divided by their median absolute deviation."""
_NAME = re.compile(r"(.*?(?:experts?|_exps|switch_mlp(?:\.\w+)?))\.(\d+)((?:\..*)?)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Experts:
    """The same matrix of all experts of a block.

    Attributes:
        name: of the layers, with ``*`` for the number of the expert, such as ``mlp.experts.*.down_proj``.
        layers: names of the layers.
        fitted: number of experts with a fit.
        alpha_min: smallest alpha; None without a fit.
        alpha_median: median alpha; None without a fit.
        alpha_max: largest alpha; None without a fit.
        odd: layers whose alpha is far from that of the others, and those without a fit where most have one.
    """

    name: str
    layers: tuple[str, ...]
    fitted: int
    alpha_min: float | None
    alpha_median: float | None
    alpha_max: float | None
    odd: tuple[str, ...]


def summarise_experts(alphas: Iterable[tuple[str, float | None]]) -> tuple[Experts, ...]:
    """The experts of each block that has at least four, in model order.

    An expert is odd if its alpha is more than four standard deviations from the median of at least eight, with the
    standard deviation from the median absolute deviation (Rousseeuw & Croux, 1993), or if it has no fit while more
    than half of them have one.

    Args:
        alphas: name and alpha of each layer; None without a fit.

    Example:
        >>> layers = [(f"mlp.experts.{number}.down_proj", 3 + number / 100) for number in range(9)]
        >>> (found,) = summarise_experts([*layers, ("mlp.experts.9.down_proj", 6.0), ("mlp.router", 2.5)])
        >>> found.name, found.alpha_min, found.alpha_max, found.odd
        ('mlp.experts.*.down_proj', 3.0, 6.0, ('mlp.experts.9.down_proj',))
    """
    layers = tuple(alphas)
    blocks = blocks_of(tuple(name for name, _ in layers))
    return tuple(_experts(name, [layers[index] for index in indices]) for name, indices in blocks.items())


@lru_cache(maxsize=8)
def blocks_of(names: tuple[str, ...]) -> Mapping[str, tuple[int, ...]]:
    """The blocks that have at least four experts: the name of each, and the indices of its layers.

    Args:
        names: of layers.

    Example:
        >>> blocks_of(("router", *(f"experts.{number}.w1" for number in range(4))))
        {'experts.*.w1': (1, 2, 3, 4)}
    """
    blocks: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        match = _NAME.fullmatch(name)
        if match is not None:
            blocks.setdefault(f"{match[1]}.*{match[3]}", []).append(index)
    return {name: tuple(indices) for name, indices in blocks.items() if len(indices) >= MIN_EXPERTS}


def _experts(name: str, layers: Sequence[tuple[str, float | None]]) -> Experts:
    known = [alpha for _, alpha in layers if alpha is not None]
    return Experts(
        name=name,
        layers=tuple(layer for layer, _ in layers),
        fitted=len(known),
        alpha_min=min(known, default=None),
        alpha_median=statistics.median(known) if known else None,
        alpha_max=max(known, default=None),
        odd=tuple(layer for layer, alpha in layers if _is_odd(alpha, known, len(layers))),
    )


def _is_odd(alpha: float | None, known: Sequence[float], count: int) -> bool:
    if alpha is None:
        return len(known) > count / 2
    if len(known) < MIN_COMPARED:
        return False
    middle = statistics.median(known)
    deviation = _NORMAL * statistics.median(abs(each - middle) for each in known)
    return abs(alpha - middle) > ODD * deviation
