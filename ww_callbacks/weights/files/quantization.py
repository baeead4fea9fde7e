"""What the configuration beside a weights file says about its quantisation."""

from __future__ import annotations

import json
from typing import Any

from ww_callbacks.weights.files.errors import require_regular
from ww_callbacks.weights.files.remote import Location

MAX_CONFIG_BYTES = 16 * 2**20

_MODEL, _GPTQ = "config.json", "quantize_config.json"


def quantization_of(folder: Location) -> dict[str, Any]:
    """The configuration of a quantised model; empty without one.

    It is ``quantization_config`` in ``config.json``, ``quantization`` there (MLX), or ``quantize_config.json`` (GPTQ).

    A file that cannot be read counts as missing: what depends on it is skipped with the reason.

    Args:
        folder: that holds the weights file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> quantization_of(Path(tempfile.mkdtemp()))
        {}
    """
    model = _object(folder / _MODEL)
    for key in ("quantization_config", "quantization"):
        stated = model.get(key)
        if isinstance(stated, dict) and stated:
            return stated
    older = _object(folder / _GPTQ)
    return {"quant_method": "gptq"} | older if "bits" in older else {}


def _object(path: Location) -> dict[str, Any]:
    try:
        require_regular(path)
        if path.stat().st_size > MAX_CONFIG_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
