"""Matching of layer names against patterns.

Patterns are shell-style (``*``, ``?``, ``[…]``) and case-sensitive. ``*`` also matches dots.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ww_callbacks.printable import quoted, quoted_list


def matching(names: Sequence[str], patterns: Sequence[str], argument: str) -> set[str]:
    """The names selected by the patterns.

    Args:
        names: names of all layers.
        patterns: patterns of names to include, or ``"!pattern"`` to exclude.
        argument: name of the user's argument, for the error message.

    Raises:
        ValueError: a pattern matches no name.

    Example:
        >>> sorted(matching(["encoder.0", "encoder.1", "head"], ["encoder.*", "!*.1"], "layers"))
        ['encoder.0']
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in names):
            raise ValueError(f"{argument}: {quoted(pattern)} matches no layer; the layers are {quoted_list(names)}")
    return {name for name in names if keeps(patterns, name)}


def keeps(patterns: Sequence[str], name: str) -> bool:
    """Whether the patterns select a name: it matches any pattern, or there is none, and it matches no ``"!pattern"``.

    Example:
        >>> keeps(["encoder.*"], "encoder.0"), keeps(["!head"], "encoder.0"), keeps(["!head"], "head")
        (True, True, False)
    """
    included = [pattern for pattern in patterns if not pattern.startswith("!")]
    excluded = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return (not included or any(fnmatchcase(name, pattern) for pattern in included)) and not any(
        fnmatchcase(name, pattern) for pattern in excluded
    )
