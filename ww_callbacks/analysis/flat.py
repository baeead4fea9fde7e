"""Results as dictionaries."""

from __future__ import annotations

from typing import Any


def flat(result: Any) -> dict[str, Any]:
    """The fields of a dataclass with slots, by name. Values are not copied, as ``dataclasses.asdict`` does.

    Example:
        >>> from ww_callbacks.spectra import Norms
        >>> flat(Norms(1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1, 0, 0.0))["matrix_rank"]
        1
    """
    return {name: getattr(result, name) for name in result.__slots__}
