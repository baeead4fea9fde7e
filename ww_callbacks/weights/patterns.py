"""Choosing layers by the patterns that a user writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from ww_callbacks.weights.matrix import Layer

LEFT_OUT = "left out by layers="


def matching(names: Sequence[str], patterns: Sequence[str], argument: str) -> set[str]:
    """The names that the patterns keep: those of any pattern (all without one), less those of a "!pattern".

    Patterns are those of the shell (``*``, ``?``, ``[…]``), case matters, and ``*`` matches dots too.

    Raises:
        ValueError: a pattern matches no name.

    Example:
        >>> sorted(matching(["encoder.0", "encoder.1", "head"], ["encoder.*", "!*.1"], "layers"))
        ['encoder.0']
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in names):
            raise ValueError(f"{argument}: {pattern!r} matches no layer; the layers are {list(names)}")
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return {
        name
        for name in names
        if (not wanted or any(fnmatchcase(name, pattern) for pattern in wanted))
        and not any(fnmatchcase(name, pattern) for pattern in unwanted)
    }


def select_layers(layers: Sequence[Layer], patterns: Sequence[str] | None) -> tuple[Layer, ...]:
    """The same layers; those that the patterns do not keep stay listed as skipped.

    Raises:
        ValueError: a pattern matches no layer.
    """
    if patterns is None:
        return tuple(layers)
    kept = matching([layer.name for layer in layers], patterns, "layers")
    return tuple(
        layer if layer.name in kept else replace(layer, spec=None, read=None, reason=LEFT_OUT) for layer in layers
    )
