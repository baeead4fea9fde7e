"""A model compared with a baseline: what changed in each layer, as numbers, as flags and in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from ww_callbacks.report.flow import scale_collapse
from ww_callbacks.report.layer import LayerReport
from ww_callbacks.report.traps import trap_words

FORGOTTEN = 0.5
"""From this share on, the loss of the leading subspace is mentioned."""
NOISY = 0.1
"""From this share of the norm on, a change that could be noise is mentioned."""
HARDLY = 0.1
"""A layer moved little if its distance is at most this share of the median distance."""

_OF_CHANGE = ("distance", "update_norm", "update_unchanged", "intruders")
_OF_SUBSPACE = ("update_rotation", "forgetting")
_GONE = {
    "over-trained": "no longer over-trained",
    "under-trained": "no longer under-trained",
    "no tail": "a tail has formed",
    "cannot be told": "a tail has formed",
}
"""What it means that a warning of the baseline is gone."""


def against(
    layers: Iterable[LayerReport], baseline: Iterable[LayerReport], changes: Iterable[LayerReport] = ()
) -> tuple[LayerReport, ...]:
    """The layers with the columns about the baseline.

    A scale collapse is a change of log10 λ_max unlike those of the other layers, see
    :func:`~ww_callbacks.report.flow.scale_collapse`. A layer has moved little if its distance is at most a tenth of the
    median distance.

    Args:
        layers: the model now, in model order.
        baseline: what it is compared with; layers are matched by name.
        changes: the analysis of the changes W - W₀, matched by name, see
            :func:`ww_callbacks.analysis.change.analyze_change`.

    Example:
        >>> def model(**alphas):
        ...     return [LayerReport(name=name, kind="Linear", M=60, alpha=alpha) for name, alpha in alphas.items()]
        >>> change = LayerReport(name="fc1", kind="Linear", distance=0.5)
        >>> now = against(model(fc1=3.0, new=2.0), model(fc1=5.0), [change])
        >>> [(layer.delta_alpha, layer.distance, layer.change) for layer in now]
        [(-2.0, 0.5, ''), (None, None, 'not in the baseline')]
    """
    layers, before = list(layers), {layer.name: layer for layer in baseline}
    changed = {layer.name: layer for layer in changes}
    scores = {change.name: change for change in scale_collapse(layers, before.values())}
    usual = statistics.median(change.change for change in scores.values()) if scores else 0.0
    known = [change.distance for change in changed.values() if change.distance is not None]
    median = statistics.median(known) if known else 0.0
    result = []
    for layer in layers:
        old, score = before.get(layer.name), scores.get(layer.name)
        update = {} if old is None or layer.name not in changed else _update(changed[layer.name], old)
        distance = update.get("distance")
        compared = replace(
            layer,
            delta_alpha=_difference(layer.alpha, old.alpha if old else None),
            delta_log_lambda_max=score.change if score else None,
            scale_collapse=score.collapsed if score else None,
            hardly_moved=distance <= HARDLY * median if distance is not None else None,
            new_traps=_has_new_traps(layer, old),
            **update,
        )
        result.append(replace(compared, change="; ".join(_sentences(compared, old, usual, median))))
    return tuple(result)


def _update(change: LayerReport, old: LayerReport) -> dict[str, Any]:
    """The columns about the change. A baseline without a tail has no leading subspace to lose."""
    held = _OF_SUBSPACE if old.null == "arranged" else ()
    columns = {name: getattr(change, name) for name in (*_OF_CHANGE, *held)}
    if change.skip_reason == "zero":
        return columns | {"update_rank": 0}
    return columns | {
        "update_alpha": change.alpha,
        "update_stable_rank": change.stable_rank,
        "update_sharpness": 1 / change.stable_rank if change.stable_rank else None,
        "update_rank": change.num_directions,
        "update_pvalue": change.null_pvalue,
    }


def _sentences(layer: LayerReport, old: LayerReport | None, usual: float, median: float) -> list[str]:
    """The notable differences, the most serious first."""
    if old is None:
        return ["not in the baseline"] if layer.M is not None else []
    if layer.M is None or old.M is None:
        return []
    if (layer.N, layer.M, layer.rf) != (old.N, old.M, old.rf):
        return [f"size differs from the baseline ({old.N} x {old.M}, {old.rf} of them)", *_tail(layer, old)]
    if layer.norm is None and old.norm is not None:
        return [f"{layer.reason}, the baseline has values"]
    return [
        *_scale(layer, usual),
        *_rank(layer, old),
        *_tail(layer, old),
        *_overwritten(layer),
        *_noise(layer),
        *_distance(layer, median),
    ]


def _scale(layer: LayerReport, usual: float) -> list[str]:
    if not layer.scale_collapse or layer.delta_log_lambda_max is None:
        return []
    word = "fell" if layer.delta_log_lambda_max < usual else "rose"
    factor, others = (_factor(change) for change in (layer.delta_log_lambda_max, usual))
    return [f"scale collapse: λ_max {word} to {factor} times the baseline's (median layer: {others} times)"]


def _rank(layer: LayerReport, old: LayerReport) -> list[str]:
    rank, before = layer.matrix_rank, old.matrix_rank
    return [f"rank {rank}, was {before}"] if rank is not None and before is not None and rank < before else []


def _tail(layer: LayerReport, old: LayerReport) -> list[str]:
    """Changes of alpha beyond both intervals, of the warning and of the number of traps."""
    found = []
    rose, fell = _beyond(old.alpha_high, layer.alpha_low), _beyond(layer.alpha_high, old.alpha_low)
    if (rose or fell) and layer.alpha is not None and old.alpha is not None:
        word = "rose" if rose else "fell"
        found.append(f"alpha {word} from {old.alpha:.2f} to {layer.alpha:.2f}, beyond both 95 % intervals")
    if layer.alpha is not None and old.alpha is not None and layer.warning != old.warning:
        found.append(f"now {layer.warning}" if layer.warning else _GONE[old.warning])
    if layer.alpha is None and old.alpha is not None and layer.norm is not None:
        found.append(f"no fit: {layer.reason}")
    if layer.new_traps:
        found.append(f"{trap_words(layer)}; the baseline has {old.num_traps or 'none'}")
    return found


def _overwritten(layer: LayerReport) -> list[str]:
    found = []
    if layer.intruders:
        found.append(f"{layer.intruders} intruder {'dimension' if layer.intruders == 1 else 'dimensions'}")
    if layer.forgetting is not None and layer.forgetting >= FORGOTTEN:
        found.append(f"holds only {_percent(1 - layer.forgetting)} of the baseline's leading subspace")
    return found


def _noise(layer: LayerReport) -> list[str]:
    """A large change without direction, as rounding to few bits makes."""
    if layer.update_rank != 0 or layer.distance is None or layer.distance < NOISY:
        return []
    return [f"changed by {_percent(layer.distance)} of its norm, as noise does"]


def _has_new_traps(layer: LayerReport, old: LayerReport | None) -> bool | None:
    """Whether the layer has more traps than before; None if that is unknown."""
    if old is None or old.num_traps is None:
        return None
    return (layer.num_traps or 0) > old.num_traps


def _distance(layer: LayerReport, median: float) -> list[str]:
    if not layer.hardly_moved or layer.distance is None:
        return []
    if layer.distance == 0:
        return ["has not moved"]
    return [f"moved little: by {_percent(layer.distance)} of its norm, the median layer by {_percent(median)}"]


def _beyond(high: float | None, low: float | None) -> bool:
    return high is not None and low is not None and high < low


def _difference(now: float | None, before: float | None) -> float | None:
    return now - before if now is not None and before is not None else None


def _factor(change: float) -> str:
    return f"{10**change:.3g}" if abs(change) < 300 else f"1e{math.floor(change):+d}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
