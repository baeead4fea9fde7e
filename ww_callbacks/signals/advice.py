"""Advice in words after training: what the spectra show for each layer, and how certain it is."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from ww_callbacks.report import MIN_COUNTED, History, LayerReport, Report
from ww_callbacks.signals.learning_rate import LayerRatios
from ww_callbacks.signals.rules import FUNCTIONS, TRAP_LEVEL, Finding, RuleOptions, mean_alpha_trend

NOTHING = "Nothing to say: no layer stands out, which does not mean that the network is good."

MIN_OTHERS = 3
"""Smallest number of other layers with which a layer is compared."""

MAX_NAMES = 3
"""Number of layers that a sentence names; it counts the others."""


LEVEL = 0.001
"""A layer has learned if the p-value of its change is at most this."""

LOST = 0.9
"""Share of unchanged elements from which updates are said to be lost."""

ONE_DIRECTION = 0.99
"""Share of the largest direction from which a change is said to have one direction only."""

MIN_SIDE = 3
"""Smallest side of a layer of which it is said that it moves in one direction only."""

MIN_TESTED = 20
"""Smallest number of eigenvalues of a layer of which it is said that it changed as noise does. In smaller ones, such as
a last layer with ten classes, the test has little power."""

HALF = 0.5
"""A low-rank adapter is said to use few directions if these are at most this share of its rank."""

FAST = 10.0
"""A layer moves much more than the others if its update norm is this many times their median."""


def advise_report(report: Report) -> list[str]:
    """What one report says, as sentences; one sentence says so if there are no findings.

    Args:
        report: of a finished model, or of one snapshot of a training run.

    Example:
        >>> from ww_callbacks import LayerReport
        >>> fc = LayerReport(name="fc", kind="Linear", M=100, num_evals=100, alpha=3.1, alpha_low=2.8, alpha_high=3.4)
        >>> advise_report(Report((fc,)))
        ['Nothing to say: no layer stands out, which does not mean that the network is good.']
    """
    if not any(layer.status == "ok" for layer in report.layers):
        return ["No layer could be analysed: " + _reasons(report.layers) + "."]
    if report.step == 0:
        return ["These are the weights before the first step of training: they say nothing about it."]
    said = [sentence for say in _OF_LAYERS for sentence in [say(report)] if sentence]
    return [*said, *_uncertain(report)] if said else [NOTHING, *_uncertain(report)]


def advise_history(history: History) -> list[str]:
    """What a training run says, as sentences: those of its last report, and the trend of alpha.

    Args:
        history: the reports of the run.
    """
    if not len(history):
        return ["No results have come in, so there is nothing to say."]
    said = advise_report(history[-1])
    trend = _trend(history)
    return [sentence for sentence in said if sentence != NOTHING or not trend] + trend


def _failed(report: Report) -> str:
    failed = [layer for layer in report.layers if layer.status == "failed"]
    return f"{_names(failed)} could not be analysed: {_reasons(failed)}." if failed else ""


def _untrained(report: Report) -> str:
    found = [layer for layer in report.layers if layer.warning == "no tail" and not _has_learned(layer)]
    if not found:
        return ""
    return (
        f"{_names(found)} {_verb(found, 'looks', 'look')} untrained: random signs of their elements could give "
        "the same spectrum. This is normal before training; otherwise the learning rate may be too small or the layer "
        "unused."
    )


def _undertrained(report: Report) -> str:
    found = [layer for layer in report.layers if layer.warning == "under-trained" and _has_learned(layer) is not False]
    if not found:
        return ""
    return (
        f"{_names(found, _alpha)} {_verb(found, 'looks', 'look')} under-trained: alpha is above 6. More steps or a "
        "larger learning rate for these layers may help; our experiments have not shown that it does."
    )


def _overtrained(report: Report) -> str:
    found = [layer for layer in report.layers if layer.warning == "over-trained" and _has_learned(layer) is not False]
    if not found:
        return ""
    return (
        f"{_names(found, _alpha)} {_verb(found, 'looks', 'look')} over-trained: alpha is below 2, including its "
        "confidence interval. This happens after fitting wrong labels, but in healthy networks too: only the "
        "validation loss decides."
    )


def _trapped(report: Report) -> str:
    found = [layer for layer in report.layers if layer.is_trapped]
    large = [layer for layer in found if (layer.ww_softrank or 0.0) >= TRAP_LEVEL]
    if large:
        return (
            f"{_names(large, _trap)} {_verb(large, 'has', 'have')} large correlation traps: single large weights, rows "
            "or columns, or a mean that is not 0, make up much of the spectrum. Check the learning rate and the scale "
            "of the inputs."
        )
    if found:
        return (
            f"{_names(found, _trap)} {_verb(found, 'has', 'have')} small correlation traps. Healthy networks trained "
            "with Adam have them too; on their own they need no action."
        )
    return ""


def _rates(report: Report) -> str:
    ratios = LayerRatios().ratios(report)
    pairs = [(ratio, layer.name) for ratio, layer in zip(ratios, report.layers, strict=True) if ratio != 1.0]
    if not pairs:
        return ""
    (low, slow), (high, fast) = min(pairs), max(pairs)
    return f"Suggested learning-rate multipliers range from {low:.2g} ({slow}) to {high:.2g} ({fast})."


def _still(report: Report) -> str:
    found = [layer for layer in report.layers if layer.unchanged_since is not None]
    if not found:
        return ""
    return (
        f"The weights of {_names(found, _since)} have not changed. Either the layer is frozen or unused, it gets no "
        "gradient, or its updates are smaller than the resolution of its weights."
    )


def _lost(report: Report) -> str:
    found = [
        layer
        for layer in report.layers
        if layer.unchanged_since is None and layer.role != "embedding" and (layer.update_unchanged or 0.0) >= LOST
    ]
    if not found:
        return ""
    return (
        f"{_names(found, _share_unchanged)} hardly {_verb(found, 'changes', 'change')}: most elements keep their value "
        "from one snapshot to the next. In 16-bit weights, updates smaller than the resolution are lost."
    )


def _one_direction(report: Report) -> str:
    found = [layer for layer in report.layers if layer.role != "adapter" and _has_one_direction(layer)]
    if not found:
        return ""
    return f"{_names(found)} {_verb(found, 'moves', 'move')} in one direction only."


def _has_one_direction(layer: LayerReport) -> bool:
    """Whether a layer keeps moving in one direction; that of a last layer with two classes has no other one.

    The first change of a run says little: with few samples per step, each step has few directions.
    """
    if layer.unchanged_since is not None or (layer.M or 0) < MIN_SIDE:
        return False
    if layer.learned_since is None:  # a finished model
        return (layer.update_sharpness or 0.0) >= ONE_DIRECTION
    if layer.learned_since == layer.update_since:
        return False
    return min(layer.update_sharpness or 0.0, layer.learned_sharpness or 0.0) >= ONE_DIRECTION


def _fast(report: Report) -> str:
    layers = [layer for layer in report.layers if layer.role != "adapter"]
    norms = {layer.name: layer.update_norm for layer in layers if layer.update_norm}
    found = []
    for layer in layers:
        others = [norm for name, norm in norms.items() if name != layer.name]
        if len(others) >= MIN_OTHERS and norms.get(layer.name, 0.0) >= FAST * statistics.median(others):
            found.append(layer)
    if not found:
        return ""
    return (
        f"{_names(found, _moved)} {_verb(found, 'moves', 'move')} at least {FAST:g} times more than the other layers "
        f"(median {statistics.median(norms.values()):.2g} of the norm)."
    )


def _unlearned(report: Report) -> str:
    found = [
        layer
        for layer in report.layers
        if layer.learned_norm and (layer.learned_pvalue or 0.0) > LEVEL and (layer.num_evals or 0) >= MIN_TESTED
    ]
    if not found:
        return ""
    return (
        f"{_names(found, _moved_since)} changed as noise does: random signs could give the same spectrum of the change."
    )


def _unused(report: Report) -> str:
    found = [
        layer
        for layer in report.layers
        if layer.lora_rank and layer.lora_used and layer.lora_used <= HALF * layer.lora_rank
    ]
    if not found:
        return ""
    return (
        f"{_names(found, _ranks)} {_verb(found, 'uses at most half of its rank', 'use at most half of their rank')}. "
        "Without the other directions, the change differs by at most a tenth of its norm."
    )


_OF_LAYERS: tuple[Callable[[Report], str], ...] = (
    _failed,
    _still,
    _lost,
    _one_direction,
    _fast,
    _unlearned,
    _untrained,
    _undertrained,
    _overtrained,
    _trapped,
    _unused,
    _rates,
)


def _uncertain(report: Report) -> list[str]:
    """What limits the certainty of the results."""
    fitted = [layer for layer in report.layers if layer.is_fitted]
    small = [layer for layer in fitted if (layer.num_evals or 0) < MIN_COUNTED]
    wide = [layer for layer in fitted if layer not in small and _width(layer) > (layer.alpha or 0.0)]
    said = []
    if small:
        said.append(f"Uncertain: {_names(small)} {_verb(small, 'has', 'have')} fewer than {MIN_COUNTED} eigenvalues.")
    if wide:
        said.append(f"Uncertain: the interval of alpha is wider than alpha itself in {_names(wide)}.")
    return said


def _trend(history: History) -> list[str]:
    options = RuleOptions()
    findings = [rule(history, options) for rule in FUNCTIONS.values()]
    said = [_sentence(finding) for finding in findings if finding.score >= 1]
    slope = mean_alpha_trend(history, options)
    if slope is None:
        said.append(f"These {len(history)} results do not show whether alpha is still falling.")
    elif slope.slope + 2 * slope.slope_error < -options.min_delta:
        said.append(
            f"The mean alpha was still falling at the end, by {-slope.slope:.2g} per doubling of the steps, so the "
            "spectra do not suggest that training was finished."
        )
    return said


def _width(layer: LayerReport) -> float:
    if layer.alpha_low is None or layer.alpha_high is None:
        return 0.0
    return layer.alpha_high - layer.alpha_low


def _names(layers: Sequence[LayerReport], more: Callable[[LayerReport], str] | None = None) -> str:
    named = [layer.name + (f" ({more(layer)})" if more else "") for layer in layers[:MAX_NAMES]]
    if len(layers) > MAX_NAMES:
        return f"{', '.join(named)} and {len(layers) - MAX_NAMES} more layers"
    return " and ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]


def _alpha(layer: LayerReport) -> str:
    return f"{layer.alpha:.3g}, 95 %: {layer.alpha_low:.3g} to {layer.alpha_high:.3g}"


def _trap(layer: LayerReport) -> str:
    size = "" if layer.ww_softrank is None else f", {layer.ww_softrank:.2g} of its largest eigenvalue"
    cause = "" if layer.trap_kind is None else f", {layer.trap_kind}"
    return f"{layer.num_traps}{size}{cause}"


def _has_learned(layer: LayerReport) -> bool | None:
    """Whether the layer changed since the first snapshot in a way that noise does not; None if it is not known."""
    return None if layer.learned_pvalue is None else layer.learned_pvalue <= LEVEL


def _since(layer: LayerReport) -> str:
    return f"since step {layer.unchanged_since}"


def _share_unchanged(layer: LayerReport) -> str:
    return f"{100 * (layer.update_unchanged or 0.0):.3g} % of its elements unchanged{_from(layer.update_since)}"


def _from(step: int | None) -> str:
    """A baseline has no step."""
    return "" if step is None else f" since step {step}"


def _moved(layer: LayerReport) -> str:
    return f"{layer.update_norm:.2g} of its norm{_from(layer.update_since)}"


def _moved_since(layer: LayerReport) -> str:
    return f"{layer.learned_norm:.2g} of its norm{_from(layer.learned_since)}"


def _ranks(layer: LayerReport) -> str:
    used = "1 direction is" if layer.lora_used == 1 else f"{layer.lora_used} directions are"
    return f"rank {layer.lora_rank} is paid for, {used} used"


def _verb(layers: Sequence[LayerReport], one: str, many: str) -> str:
    return one if len(layers) == 1 else many


def _reasons(layers: Sequence[LayerReport]) -> str:
    return "; ".join(dict.fromkeys(layer.reason for layer in layers if layer.reason)) or "it holds no weights"


def _sentence(finding: Finding) -> str:
    return f"{finding.text[:1].upper()}{finding.text[1:]} (rule {finding.rule!r})."
