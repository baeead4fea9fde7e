"""Names of modules that do not depend on wrappers."""

from __future__ import annotations

_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def plain_name(name: str) -> str:
    """The name of a module without the parts that wrappers add.

    Example:
        >>> plain_name("_orig_mod.encoder._checkpoint_wrapped_module.fc")
        'encoder.fc'
    """
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
