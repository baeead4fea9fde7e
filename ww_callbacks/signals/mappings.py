"""Mappings from the alphas of the layers to the ratios of their learning rates to the common one.

Every published rule raises the rate with alpha: a larger alpha is a lighter tail, a layer that has learned less.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Literal, get_args

MappingName = Literal["linear", "sqrt", "log2", "rank", "sigmoid"]
MAPPINGS: tuple[str, ...] = get_args(MappingName)

TEMPERATURE = 10.0
"""τ of Model Balancing's sigmoid."""

CERTAIN = 2.0
"""The mapping applies in full if the squared differences of the alphas are this many times what noise can reach."""

_EQUAL = 1e-9
_NORMAL = 2.326  # 99 % quantile
_APART = 4.0  # standard deviations from which on two alphas are told apart


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

    Cochran's Q is Σ w_i (a_i - m)², with w_i = 1/e_i² and m = Σ w_i a_i/Σ w_i. If the L alphas differ by chance only,
    it is a χ² variable with L - 1 degrees of freedom. With q its 99 % quantile, the share is 0 up to Q = q, 1 from
    Q = 2 q on, and linear in Q between them. So layers that differ by chance have a share of 0 in 99 % of cases.

    Sources: Cochran, *The combination of estimates from different experiments* (1954); the quantile is that of Wilson
    and Hilferty, *The distribution of chi-square* (1931). The rest is ours.

    Args:
        alphas: finite, shape (L,).
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
    smallest = min(errors)
    weights = [(smallest / error) ** 2 for error in errors]
    mean = math.fsum(w * alpha for w, alpha in zip(weights, alphas, strict=True)) / math.fsum(weights)
    scores = [(alpha - mean) / error for alpha, error in zip(alphas, errors, strict=True)]
    ninth = 2 / (9 * (len(alphas) - 1))
    quantile = (len(alphas) - 1) * (1 - ninth + _NORMAL * math.sqrt(ninth)) ** 3
    excess = math.fsum(score * score for score in scores) / quantile - 1
    return min(max(excess / (CERTAIN - 1), 0.0), 1.0)


def averaged(ratios: Sequence[float], alphas: Sequence[float], errors: Sequence[float]) -> list[float]:
    """Each ratio averaged over the layers whose alphas cannot be told apart.

    Beside one layer that differs, a mapping still spreads the others by their noise: "rank" over most of its range. The
    weight of layer j in the average of layer i is (1 - z²/16)², with z = (a_i - a_j)/√(e_i² + e_j²), and 0 from four
    standard deviations on (Tukey's biweight). Its use here is ours.

    Args:
        ratios: one per layer, shape (L,).
        alphas: finite, shape (L,).
        errors: standard deviation of each alpha, > 0.

    Example:
        >>> averaged([0.5, 0.8, 1.5], [2.0, 2.0, 4.0], [0.1, 0.1, 0.1])
        [0.65, 0.65, 1.5]
    """

    def weight(i: int, j: int) -> float:
        score = (alphas[i] - alphas[j]) / math.hypot(errors[i], errors[j])
        return (1 - (score / _APART) ** 2) ** 2 if abs(score) < _APART else 0.0

    result = []
    least, most = min(ratios, default=1.0), max(ratios, default=1.0)
    for i in range(len(ratios)):
        weights = [weight(i, j) for j in range(len(ratios))]
        total = math.fsum(w * ratio for w, ratio in zip(weights, ratios, strict=True))
        result.append(min(max(total / math.fsum(weights), least), most))  # rounding may leave the range
    return result


def block_means(
    names: Sequence[str], alphas: Sequence[float], errors: Sequence[float]
) -> tuple[list[float], list[float]]:
    """The mean alpha of the block of each layer, and its error.

    Source: Model Balancing (2024), which gives all layers of a transformer block the same rate.

    Args:
        names: full dotted names of the layers, see :func:`block_of`.
        alphas: one per layer.
        errors: standard deviation of each alpha.

    Example:
        >>> block_means(["h.0.q", "h.0.k", "h.1.q"], [2.0, 3.0, 4.0], [0.6, 0.8, 0.1])
        ([2.5, 2.5, 4.0], [0.5, 0.5, 0.1])
    """
    blocks: dict[str, list[tuple[float, float]]] = {}
    for name, alpha, error in zip(names, alphas, errors, strict=True):
        blocks.setdefault(block_of(name), []).append((alpha, error))
    means = {block: math.fsum(alpha for alpha, _ in pairs) / len(pairs) for block, pairs in blocks.items()}
    mean_errors = {block: math.hypot(*(error for _, error in pairs)) / len(pairs) for block, pairs in blocks.items()}
    return [means[block_of(name)] for name in names], [mean_errors[block_of(name)] for name in names]


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
