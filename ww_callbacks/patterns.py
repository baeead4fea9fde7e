"""The patterns of layer names that a user writes.

They are those of the shell (``*``, ``?``, ``[…]``), case matters, and ``*`` matches dots too.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def matching(names: Sequence[str], patterns: Sequence[str], argument: str) -> set[str]:
    """The names that the patterns keep.

    Args:
        names: of all layers.
        patterns: to keep, ``"!pattern"`` to leave out.
        argument: what the user calls the patterns.

    Raises:
        ValueError: a pattern matches no name.

    Example:
        >>> sorted(matching(["encoder.0", "encoder.1", "head"], ["encoder.*", "!*.1"], "layers"))
        ['encoder.0']
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern.removeprefix("!")) for name in names):
            raise ValueError(f"{argument}: {pattern!r} matches no layer; the layers are {list(names)}")
    return {name for name in names if keeps(patterns, name)}


def keeps(patterns: Sequence[str], name: str) -> bool:
    """Whether a name matches any pattern (all do without one) and no ``"!pattern"``.

    Example:
        >>> keeps(["encoder.*"], "encoder.0"), keeps(["!head"], "encoder.0"), keeps(["!head"], "head")
        (True, True, False)
    """
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return (not wanted or any(fnmatchcase(name, pattern) for pattern in wanted)) and not any(
        fnmatchcase(name, pattern) for pattern in unwanted
    )
