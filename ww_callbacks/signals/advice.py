"""Advice in words after training: the findings, what else stands out, and what is uncertain."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ww_callbacks.printable import shown_name, shown_text
from ww_callbacks.report import MIN_COUNTED, Finding, History, LayerReport, Report
from ww_callbacks.signals.findings import findings_of_history, findings_of_report
from ww_callbacks.signals.learning_rate import LayerRatios
from ww_callbacks.signals.rules import TRAP_LEVEL, RuleOptions, mean_alpha_trend
from ww_callbacks.signals.wording import MAX_NAMES, listed

NOTHING = "Nothing to say: no layer stands out, which does not mean that the network is good."

BEFORE = "These are the weights before the first step of training: they say nothing about it."


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
    return _advise(report, findings_of_report(report))


def advise_history(history: History) -> list[str]:
    """What a training run says, as sentences: the findings that hold at its end, and the trend of alpha.

    Args:
        history: the reports of the run.
    """
    if not len(history):
        return ["No results have come in, so there is nothing to say."]
    said = _advise(history[-1], findings_of_history(history))
    trend = _trend(history)
    return [sentence for sentence in said if sentence != NOTHING or not trend] + trend


def _advise(report: Report, findings: Sequence[Finding]) -> list[str]:
    if not any(layer.status == "ok" for layer in report.layers):
        return ["No layer could be analysed: " + _reasons(report.layers) + "."]
    said = [str(finding) for finding in findings]
    if report.step == 0:
        return [*said, BEFORE]
    said += [sentence for say in (_small_traps, _rates) for sentence in [say(report)] if sentence]
    return [*said, *_uncertain(report)] if said else [NOTHING, *_uncertain(report)]


def _small_traps(report: Report) -> str:
    found = [layer for layer in report.layers if layer.is_trapped and (layer.trap_size or 0.0) < TRAP_LEVEL]
    if not found:
        return ""
    return (
        f"{_names(found, _trap)} {_verb(found, 'has', 'have')} small correlation traps. Healthy networks trained "
        "with Adam have them too; on their own they need no action."
    )


def _rates(report: Report) -> str:
    ratios = LayerRatios().ratios(report)
    pairs = [(ratio, layer.name) for ratio, layer in zip(ratios, report.layers, strict=True) if ratio != 1.0]
    if not pairs:
        return ""
    (low, slow), (high, fast) = min(pairs), max(pairs)
    lowest, highest = f"{low:.2g} ({shown_name(slow)})", f"{high:.2g} ({shown_name(fast)})"
    return f"Suggested learning-rate multipliers range from {lowest} to {highest}."


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
    trend = mean_alpha_trend(history, options)
    if trend is None:
        return [f"These {len(history)} results do not show whether alpha is still falling."]
    if trend.upper < -options.min_delta:
        return [
            f"The mean alpha was still falling at the end, by {-trend.slope:.2g} per doubling of the steps, so the "
            "spectra do not suggest that training was finished."
        ]
    return []


def _width(layer: LayerReport) -> float:
    if layer.alpha_low is None or layer.alpha_high is None:
        return 0.0
    return layer.alpha_high - layer.alpha_low


def _names(layers: Sequence[LayerReport], more: Callable[[LayerReport], str] | None = None) -> str:
    named = [shown_name(layer.name) + (f" ({more(layer)})" if more else "") for layer in layers[:MAX_NAMES]]
    return listed(named, len(layers))


def _trap(layer: LayerReport) -> str:
    size = "" if layer.trap_size is None else f", {layer.trap_size:.2g} times the random edge"
    cause = "" if layer.trap_kind is None else f", {layer.trap_kind}"
    return f"{layer.num_traps}{size}{cause}"


def _verb(layers: Sequence[LayerReport], one: str, many: str) -> str:
    return one if len(layers) == 1 else many


def _reasons(layers: Sequence[LayerReport]) -> str:
    return (
        "; ".join(dict.fromkeys(shown_text(layer.reason) for layer in layers if layer.reason)) or "it holds no weights"
    )
