"""Which layers take part in layer-wise learning rates, and why the others keep ratio 1."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from ww_callbacks.checks import warn
from ww_callbacks.patterns import keeps
from ww_callbacks.printable import shown_name
from ww_callbacks.report import MIN_COUNTED, LayerReport

LeftOut = Literal[
    "adapter",
    "embedding",
    "excluded",
    "few_eigenvalues",
    "first",
    "last",
    "no_alpha",
    "no_matrix",
    "not_analysed",
    "unlike_shapes",
    "waiting",
]

WORDS: dict[LeftOut, str] = {
    "adapter": "low-rank adapter",
    "embedding": "embedding",
    "excluded": "excluded by layers=",
    "few_eigenvalues": f"fewer than {MIN_COUNTED} eigenvalues",
    "first": "first layer",
    "last": "last layer",
    "no_alpha": "no finite alpha",
    "no_matrix": "no matrix",
    "not_analysed": "not analysed",
    "unlike_shapes": "shapes differ, and there is no alpha_farms to compare them (farms=True)",
    "waiting": "not analysed yet",
}
"""Why a layer keeps ratio 1, in words."""

MAX_NAMES = 3
"""Names in the log line for each reason."""

_log = logging.getLogger("ww_callbacks")


def asks(patterns: Sequence[str] | None) -> bool:
    """Whether patterns select layers and do not only exclude some; the first and the last layer can take part then.

    Example:
        >>> asks(None), asks(["!head"]), asks(["h.*", "!h.0"])
        (False, False, True)
    """
    return patterns is not None and any(not pattern.startswith("!") for pattern in patterns)


def left_out(layers: Sequence[LayerReport], patterns: Sequence[str] | None = None) -> list[LeftOut | None]:
    """Why each layer keeps ratio 1; None for the layers that take part.

    Args:
        layers: of a report, in model order.
        patterns: patterns of the layers that take part, ``"!pattern"`` to exclude; None for all but the first, the
            last and embeddings.

    Example:
        >>> rows = [("conv", 9), ("fc1", 80), ("fc2", 30), ("head", 60)]
        >>> layers = [LayerReport(name=n, kind="Linear", N=99, num_evals=k, alpha_hill=2.0) for n, k in rows]
        >>> left_out(layers)
        ['first', None, 'few_eigenvalues', 'last']
    """
    holders = [index for index, layer in enumerate(layers) if _holds_matrix(layer)]
    ends: dict[int, LeftOut] = {}
    if holders and not asks(patterns):
        ends = {holders[-1]: "last", holders[0]: "first"}
    return [_left_out(layer, ends.get(index), patterns) for index, layer in enumerate(layers)]


def _left_out(layer: LayerReport, end: LeftOut | None, patterns: Sequence[str] | None) -> LeftOut | None:
    if layer.role == "adapter":
        return "adapter"
    if layer.skip_reason == "no_matrix":
        return "no_matrix"
    if layer.role == "embedding" and not asks(patterns):
        return "embedding"
    if patterns is not None and not keeps(patterns, layer.name):
        return "excluded"
    if end is not None:
        return end
    if layer.is_waiting:
        return "waiting"
    if layer.num_evals is None:
        return "not_analysed"
    if layer.num_evals < MIN_COUNTED:
        return "few_eigenvalues"
    if layer.alpha_hill is None or not math.isfinite(layer.alpha_hill):
        return "no_alpha"
    return None


def _holds_matrix(layer: LayerReport) -> bool:
    """Whether a layer holds a matrix. A tied head and an embedding with too many rows do, although not analysed.

    A low-rank adapter is a change of another layer's matrix.
    """
    if layer.role == "adapter":
        return False
    return layer.N is not None or layer.role == "embedding" or layer.skip_reason in ("tied", "waiting")


def line(quantity: str, names: Sequence[str], reasons: Sequence[LeftOut | None]) -> str:
    """Which layers take part and which keep ratio 1, in one line; layers without a matrix are not mentioned.

    Args:
        quantity: "learning_rate" or "weight_decay".
        names: of the layers.
        reasons: of :func:`left_out`, one per layer.

    Example:
        >>> line("learning_rate", ["conv", "fc1", "fc2", "head"], ["first", None, None, "last"])
        'learning-rate ratios: 2 layers take part (fc1, fc2), 2 keep 1: first layer (conv), last layer (head)'
    """
    found: dict[LeftOut | None, list[str]] = {}
    for name, reason in zip(names, reasons, strict=True):
        if reason != "no_matrix":
            found.setdefault(reason, []).append(name)
    members = found.pop(None, [])
    takes = "layer takes" if len(members) == 1 else "layers take"
    which = f" ({_listed(members)})" if members else ""
    said = f"{quantity.replace('_', '-')} ratios: {len(members)} {takes} part{which}"
    kept = sum(map(len, found.values()))
    why = ", ".join(f"{WORDS[reason]} ({_counted(each)})" for reason, each in found.items() if reason is not None)
    return f"{said}, {kept} {'keeps' if kept == 1 else 'keep'} 1: {why}" if kept else said


def announce(quantity: str, verdict: Mapping[str, Any], say: Callable[[str], object] = _log.info) -> bool:
    """Say once which layers take part, and warn if no ratio can change.

    Args:
        quantity: "learning_rate" or "weight_decay".
        verdict: of :class:`~ww_callbacks.signals.learning_rate.LayerRatios`; empty before the first.
        say: says it; by default in the log, at the level INFO.

    Returns:
        Whether it was said; False if the layers cannot be compared before their next analysis.
    """
    reasons = verdict.get("left_out")
    if reasons is None or "unlike_shapes" in reasons:
        return False
    said = line(quantity, verdict["layers"], reasons)
    say(said)
    if verdict["num_compared"] + reasons.count("waiting") < 2:
        warn(f"no ratio can change, because fewer than two layers or blocks can be compared ({said})")
    return True


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*map(shown_name, names[:MAX_NAMES]), *(["…"] if len(names) > MAX_NAMES else [])])


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)}: {_listed(names)}" if len(names) > MAX_NAMES else _listed(names)
