"""Which of many tests are significant together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def discoveries(pvalues: Mapping[Name, float], level: float = 0.001) -> frozenset[Name]:
    """The tests that are significant at a false-discovery rate of ``level``.

    These are the k tests with the smallest p-values, for the largest k whose k-th p-value is at most level · k/n. If no
    test has an effect, the probability of any discovery is ``level``.

    Source: Benjamini and Hochberg, *Controlling the false discovery rate* (1995), for independent tests.

    Args:
        pvalues: p-value of each test, by its name. May be empty.
        level: upper bound of the expected share of wrong discoveries.

    Example:
        >>> sorted(discoveries({"fc1": 1e-9, "fc2": 0.0009, "fc3": 0.4}))
        ['fc1']
        >>> sorted(discoveries({"fc1": 1e-9, "fc2": 0.0009}))
        ['fc1', 'fc2']
    """
    ordered = sorted(pvalues, key=lambda name: pvalues[name])
    found = (k for k, name in enumerate(ordered, 1) if pvalues[name] <= level * k / len(ordered))
    return frozenset(ordered[: max(found, default=0)])
