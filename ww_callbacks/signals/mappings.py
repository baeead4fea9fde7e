"""Mappings from the alphas of the layers to the ratios of their learning rates to the common one.

Every published rule raises the rate with alpha: a larger alpha is a lighter tail, a layer that has learned less.
"""

from __future__ import annotations

import math
import re
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Literal, get_args

MappingName = Literal["linear", "sqrt", "log2", "rank", "sigmoid"]
MAPPINGS: tuple[str, ...] = get_args(MappingName)

TEMPERATURE = 10.0
"""τ of Model Balancing's sigmoid."""

CERTAIN = 4.0
"""The mapping applies in full if the variance of the alphas is this many times what noise can reach."""

_EQUAL = 1e-9
_NORMAL = 1.645  # 95 % quantile


def ratios_of(alphas: Sequence[float | None], mapping: MappingName, low: float, high: float) -> list[float]:
    """One ratio per layer, in the order of the layers.

    With a_i the L finite alphas and [s1, s2] = [low, high]::

        linear    s1 + (s2 - s1) (a_i - min a)/(max a - min a)
        sqrt      L √a_i / Σ √a_j
        log2      L log2 a_i / Σ log2 a_j
        rank      s1 + (s2 - s1) r_i/L,  r_i = 0 … L - 1 the rank of a_i from below, equal ones share their mean rank
        sigmoid   s1 (s2/s1)^σ_i,  σ_i = 1/(1 + exp(-τ (a_i - mean a))),  τ = 10

    and what sqrt and log2 give beyond the range is cut off at its ends. The mean ratio is 1 for sqrt and log2 only.
    Sources: the first four TempBalance (Zhou et al. 2023), with 0.5 and 1.5; sigmoid Model Balancing (2024), which
    writes 10^(s (σ_i - ½)): low = 10^(-s/2), high = 10^(s/2).

    Args:
        alphas: one per layer; None and values that are not finite are ignored and get ratio 1.
        mapping: one of the mappings above.
        low: smallest ratio, > 0.
        high: largest ratio.

    Returns:
        The ratios; all are 1 if the alphas are equal (within 1 in 10⁹) or fewer than two.

    Example:
        >>> ratios_of([2.0, 3.0, None, 4.0], "linear", 0.5, 1.5)
        [0.5, 1.0, 1.0, 1.5]
    """
    known = [alpha for alpha in alphas if alpha is not None and math.isfinite(alpha)]
    if not known or max(known) - min(known) <= _EQUAL * abs(max(known)):
        return [1.0] * len(alphas)
    mapped = iter(min(max(ratio, low), high) for ratio in _MAPPINGS[mapping](known, low, high))
    return [next(mapped) if alpha is not None and math.isfinite(alpha) else 1.0 for alpha in alphas]


def share_beyond_noise(alphas: Sequence[float], errors: Sequence[float]) -> float:
    """How much the alphas of the layers differ beyond their errors, from 0 (not at all) to 1.

    If the layers differ by chance only, the variance V of L alphas, divided by the mean S of their squared errors, is a
    χ² variable divided by its L - 1 degrees of freedom. With q its 95 % quantile, the share is 0 up to V = q S, 1 from
    V = 4 q S on, and linear in V between them. So layers that differ by chance have a share of 0 in 95 % of cases.

    The quantile is that of Wilson and Hilferty, *The distribution of chi-square* (1931). The rest is ours.

    Args:
        alphas: finite.
        errors: standard deviation of each alpha, > 0.

    Returns:
        The share; 0 for fewer than two alphas.

    Example:
        >>> share_beyond_noise([2.0, 2.05, 1.95], [0.05, 0.05, 0.05])
        0.0
        >>> share_beyond_noise([2.0, 3.0, 4.0], [0.05, 0.05, 0.05])
        1.0
    """
    if len(alphas) < 2:
        return 0.0
    unit = max(*alphas, *errors)
    variance = statistics.variance([alpha / unit for alpha in alphas])
    noise = statistics.fmean([(error / unit) ** 2 for error in errors])
    ninth = 2 / (9 * (len(alphas) - 1))
    excess = variance / (noise * (1 - ninth + _NORMAL * math.sqrt(ninth)) ** 3) - 1 if noise else math.inf
    return min(max(excess / (CERTAIN - 1), 0.0), 1.0)


def block_means(names: Sequence[str], alphas: Sequence[float | None]) -> list[float | None]:
    """The mean alpha of the block of each layer, over the layers of the block with a finite alpha.

    Source: Model Balancing (2024), which gives all layers of a transformer block the same rate.

    Args:
        names: full dotted names of the layers, see :func:`block_of`.
        alphas: one per layer.

    Example:
        >>> block_means(["h.0.q", "h.0.k", "h.1.q"], [2.0, 3.0, 4.0])
        [2.5, 2.5, 4.0]
    """
    blocks: dict[str, list[float]] = {}
    for name, alpha in zip(names, alphas, strict=True):
        if alpha is not None and math.isfinite(alpha):
            blocks.setdefault(block_of(name), []).append(alpha)
    means = {block: math.fsum(values) / len(values) for block, values in blocks.items()}
    return [means.get(block_of(name)) for name in names]


def block_of(name: str) -> str:
    """The block of a layer: its name up to the first number that is not the last part.

    If no part of the name is a number, the first part that ends in one counts. Otherwise the layer is its own block.

    Example:
        >>> [block_of(name) for name in ("h.3.attn.q", "block_2.mlp.up", "features.0", "head")]
        ['h.3', 'block_2', 'features.0', 'head']
    """
    parts = name.split(".")
    for pattern in (r"\d+", r".*\d"):
        for index, part in enumerate(parts[:-1], start=1):
            if re.fullmatch(pattern, part):
                return ".".join(parts[:index])
    return name


def _linear(alphas: list[float], low: float, high: float) -> list[float]:
    smallest, largest = min(alphas), max(alphas)
    return [low + (high - low) * (alpha - smallest) / (largest - smallest) for alpha in alphas]


def _sqrt(alphas: list[float], low: float, high: float) -> list[float]:
    return _shares([math.sqrt(max(alpha, 0.0)) for alpha in alphas])


def _log2(alphas: list[float], low: float, high: float) -> list[float]:
    return _shares([math.log2(max(alpha, 1.0)) for alpha in alphas])


def _shares(values: list[float]) -> list[float]:
    total = math.fsum(values)
    return [len(values) * value / total if total else 1.0 for value in values]


def _rank(alphas: list[float], low: float, high: float) -> list[float]:
    order = sorted(alphas)
    ranks = [(bisect_left(order, alpha) + bisect_right(order, alpha) - 1) / 2 for alpha in alphas]
    return [low + (high - low) * rank / len(alphas) for rank in ranks]


def _sigmoid(alphas: list[float], low: float, high: float) -> list[float]:
    mean = math.fsum(alphas) / len(alphas)
    shares = [(1 + math.tanh(TEMPERATURE * (alpha - mean) / 2)) / 2 for alpha in alphas]
    return [low * (high / low) ** share for share in shares]


_MAPPINGS: dict[str, Callable[[list[float], float, float], list[float]]] = {
    "linear": _linear,
    "sqrt": _sqrt,
    "log2": _log2,
    "rank": _rank,
    "sigmoid": _sigmoid,
}
