"""The rules of early stopping: each gives a score from 0 to 1 and a reason, from the reports so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from ww_callbacks.patterns import keeps
from ww_callbacks.report import LayerReport, Report
from ww_callbacks.signals.trend import MIN_HINGE, MIN_LINE, Line, find_change, fit_line, middle_slope

RuleName = Literal["plateau", "traps", "overtrained"]
RULES: tuple[str, ...] = get_args(RuleName)

PATIENCE = 5
"""Default number of results in a row that have to support a stop."""

MIN_DELTA = 0.05
"""Default smallest fall of the mean alpha per doubling of the steps that still counts as a fall."""

MIN_FALL = 0.2
"""Smallest fall of the mean alpha before a plateau; drifts of a network that learns nothing are smaller."""

TRAP_LEVEL = 0.5
"""Smallest share of the largest eigenvalue at which a trap counts; docs/early_stopping.md explains the choice."""

OVERTRAINED_ALPHA = 2.0
"""A layer is over-trained if the upper bound of the 95 % interval of its alpha is below this."""

GOOD_FIT = 0.1
"""Largest Kolmogorov-Smirnov distance of a fit that "overtrained" accepts."""

GOOD_TAIL = 20
"""Smallest number of eigenvalues in the tail of a fit that "overtrained" accepts."""

RECENT = 0.7
"""The trend of alpha starts at this share of the steps, or earlier if ``patience`` needs more results."""

MOST_REPORTS = 256
"""The trend of alpha of a longer run uses this many reports, spread over the run."""

_SURE = 0.05
_HUGE = 1e100  # its square is still finite


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule says after the latest report.

    Attributes:
        score: 0 to 1; 1 is a stop.
        rule: the rule.
        text: the finding in words, with layer, value, interval and step; empty if the score is 0.
    """

    score: float = 0.0
    rule: RuleName | None = None
    text: str = ""

    @property
    def reason(self) -> str:
        """Rule and text; empty if the score is 0."""
        return f"{self.rule}: {self.text}" if self.text else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleOptions:
    """Options of all rules.

    Attributes:
        patience: results in a row that have to support a stop.
        min_delta: a fall of the mean alpha by less than this while the number of steps doubles counts as none.
        start_after: results of this step and earlier ones support nothing.
        layers: patterns of the layers to use; None for all.
        trap_level: a trap counts if the largest eigenvalue of the shuffled weights is at least this share of the
            real one.
    """

    patience: int = PATIENCE
    min_delta: float = MIN_DELTA
    start_after: int = 0
    layers: Sequence[str] | None = None
    trap_level: float = TRAP_LEVEL

    def keeps(self, name: str) -> bool:
        """Whether the rules use a layer."""
        return self.layers is None or keeps(self.layers, name)

    def is_late_enough(self, step: int | None) -> bool:
        """Whether a result of that step may support a stop."""
        return step is None or step > self.start_after


def plateau(reports: Sequence[Report], options: RuleOptions) -> Finding:
    """The mean alpha has fallen and has stopped falling.

    The mean is over the counted layers with a reliable tail in the latest report. Earlier reports count if all these
    layers had a reliable tail.

    The mean has fallen if a line that becomes flat fits better than a constant
    (:func:`~ww_callbacks.signals.trend.find_change`) and the fall is at least 0.2.

    The mean has stopped falling if two slopes against the logarithm of the step are above -``min_delta`` per doubling
    of the steps: the lower 95 % bound of the slope of a fitted line, and the median slope between consecutive values,
    which a jump of xmin does not change. The line is fitted to the last ``patience`` + 1 values, or to all values
    since 70 % of the steps if these are more.

    A constant alpha is not a plateau, nor is one that is too noisy. A rise is a plateau.

    Args:
        reports: in the order of their steps, such as a History.
        options: patience, min_delta, start_after, layers.

    Returns:
        The score is ``min_delta`` over the largest fall that is not excluded, at most 1; lower with too few results.
    """
    series = _mean_alphas(reports, options)
    usable = sum(options.is_late_enough(step) for step in series.steps)
    if len(series.values) < MIN_HINGE or not usable:
        return Finding()
    change = find_change(series.values)
    if not change.is_fall or max(series.values) - series.values[change.position] < MIN_FALL:
        return Finding()
    window = _recent(series, options)
    line = fit_line(series.values[window], series.places[window])
    bound = line.slope_bound(_SURE)
    slope = min(bound, middle_slope(series.values[window], series.places[window]))
    near = 1.0 if slope >= -options.min_delta else options.min_delta / -slope
    score = near * min(1.0, usable / options.patience)
    return Finding(score, "plateau", _plateau_words(series, change.position, line, bound)) if score > 0 else Finding()


def mean_alpha_trend(reports: Sequence[Report], options: RuleOptions) -> Line | None:
    """The trend of the mean alpha per doubling of the steps, as "plateau" computes it; None with too few results.

    Args:
        reports: in the order of their steps, such as a History.
        options: patience, layers.
    """
    series = _mean_alphas(reports, options)
    if len(series.values) < MIN_HINGE:
        return None
    window = _recent(series, options)
    return fit_line(series.values[window], series.places[window])


class _Series(NamedTuple):
    """The mean alpha over time: names of its layers, values, their steps and base-2 logarithms of the steps."""

    names: list[str]
    values: list[float]
    steps: list[int | None]
    places: list[float]


def _recent(series: _Series, options: RuleOptions) -> slice:
    since = series.places[-1] + math.log2(RECENT)
    return slice(-max(options.patience + 1, MIN_LINE, sum(place >= since for place in series.places)), None)


def _plateau_words(series: _Series, position: int, line: Line, bound: float) -> str:
    names, values, steps = series.names, series.values, series.steps
    whose = names[0] if len(names) == 1 else f"{len(names)} layers ({names[0]} to {names[-1]})"
    return (
        f"the mean alpha of {whose}, {values[-1]:.3g} at step {steps[-1]}, came down from {max(values):.3g} "
        f"to {values[position]:.3g} by step {steps[position]}; over the last {line.size - 1} results it moved by "
        f"{line.slope:+.2g} per doubling of the steps (95 %: above {bound:+.2g})"
    )


def traps(reports: Sequence[Report], options: RuleOptions) -> Finding:
    """A layer has large correlation traps in several results in a row.

    A result counts if the shuffled weights have an eigenvalue above their random edge (``num_traps``) that is at least
    half the largest eigenvalue of the real weights (``ww_softrank``). Smaller ones occur in healthy networks. Traps
    that the layer had at step 0, such as those of an initialisation with a mean that is not 0, do not count.

    Args:
        reports: in the order of their steps, such as a History.
        options: patience, start_after, layers, trap_level.
    """

    def words(layer: LayerReport, count: int) -> str:
        level = "" if layer.trap_pvalue is None else f", p = {layer.trap_pvalue:.1g} without traps"
        return (
            f"{layer.name} has {layer.num_traps} correlation trap{'s' if layer.num_traps != 1 else ''} at step "
            f"{_step(layer, reports)}, the largest at {layer.ww_softrank:.3g} of its largest eigenvalue{level}; "
            f"above {options.trap_level:g} in each of the last {count} results"
        )

    return _sustained(reports, options, lambda layer: _is_trapped(layer, options.trap_level), "traps", words)


def overtrained(reports: Sequence[Report], options: RuleOptions) -> Finding:
    """The alpha of a layer and its whole interval are below 2 in several results in a row.

    A result counts if the layer is reliable, the upper bound of the 95 % interval of alpha is below 2, D is at most
    0.1 and the tail holds at least 20 eigenvalues. Healthy networks show this too, so it never stops a run alone.

    Args:
        reports: in the order of their steps, such as a History.
        options: patience, start_after, layers.
    """

    def words(layer: LayerReport, count: int) -> str:
        return (
            f"the alpha of {layer.name} is {layer.alpha:.3g} (95 %: {layer.alpha_low:.3g} to "
            f"{layer.alpha_high:.3g}) at step {_step(layer, reports)}; its interval was below {OVERTRAINED_ALPHA:g} in "
            f"each of the last {count} results"
        )

    return _sustained(reports, options, _is_overtrained, "overtrained", words)


FUNCTIONS: dict[str, Callable[[Sequence[Report], RuleOptions], Finding]] = {
    "plateau": plateau,
    "traps": traps,
    "overtrained": overtrained,
}
"""The rules by name. A further rule needs a name in ``RuleName`` and an entry here."""

NEEDS_SUPPORT: frozenset[RuleName] = frozenset({"overtrained"})
"""Rules that stop a run only together with persistent traps or a stalled metric."""


def has_traps(reports: Sequence[Report], options: RuleOptions) -> bool:
    """Whether any layer has more traps than at step 0, of any size, in each of the last ``patience`` results."""
    return _longest(reports, options, lambda layer: layer.is_trapped)[0] >= options.patience


def _sustained(
    reports: Sequence[Report],
    options: RuleOptions,
    counts: Callable[[LayerReport], bool],
    rule: RuleName,
    words: Callable[[LayerReport, int], str],
) -> Finding:
    """The finding about the layer with the longest streak."""
    longest, worst = _longest(reports, options, counts)
    return Finding() if worst is None else Finding(min(1.0, longest / options.patience), rule, words(worst, longest))


def _longest(
    reports: Sequence[Report], options: RuleOptions, counts: Callable[[LayerReport], bool]
) -> tuple[int, LayerReport | None]:
    """The longest streak up to the latest result, and its layer."""
    longest, worst = 0, None
    for layer in reports[-1].layers if len(reports) else ():
        if options.keeps(layer.name) and counts(layer):
            streak = _streak(reports, layer.name, options, counts)
            if streak > longest:
                longest, worst = streak, layer
    return longest, worst


def _streak(reports: Sequence[Report], name: str, options: RuleOptions, counts: Callable[[LayerReport], bool]) -> int:
    """The number of latest results in a row that count for a layer; repeated results of a rotation count once."""
    streak, last = 0, object()
    for report in reversed(reports):
        layer = next((layer for layer in report.layers if layer.name == name), None)
        step = report.step if layer is None or layer.step is None else layer.step
        if layer is None or not options.is_late_enough(step) or not counts(layer):
            break
        if step is None or step != last:
            streak, last = streak + 1, step
        if streak >= options.patience:
            break
    return streak


def _is_trapped(layer: LayerReport, level: float) -> bool:
    return layer.is_trapped and _finite(layer.ww_softrank) and (layer.ww_softrank or 0.0) >= level


def _is_overtrained(layer: LayerReport) -> bool:
    return (
        bool(layer.reliable)
        and all(map(_finite, (layer.alpha, layer.alpha_low, layer.alpha_high, layer.D)))
        and (layer.alpha_high or 0.0) < OVERTRAINED_ALPHA
        and (layer.D or 0.0) <= GOOD_FIT
        and (layer.num_pl_spikes or 0) >= GOOD_TAIL
    )


def _mean_alphas(reports: Sequence[Report], options: RuleOptions) -> _Series:
    """The mean alpha of the reports after step 0 in which all layers are reliable that are reliable in the latest."""
    latest = reports[-1].layers if len(reports) else ()
    names = [layer.name for layer in latest if layer.counted and options.keeps(layer.name) and _fits(layer)]
    series = _Series(names, [], [], [])
    for position in looked_at(len(reports), options.patience + 1) if names else ():
        report = reports[position]
        found = {layer.name: layer.alpha for layer in report.layers if _fits(layer) and layer.alpha is not None}
        place = position + 1 if report.step is None else report.step
        if place > 0 and all(name in found for name in names):
            series.values.append(math.fsum(found[name] for name in names) / len(names))
            series.steps.append(report.step)
            series.places.append(math.log2(place))
    return series


def looked_at(size: int, recent: int) -> list[int]:
    """Positions of at most ``MOST_REPORTS`` reports spread over a long run, and of the recent ones.

    This bounds the time of a judgement in the training process.

    Args:
        size: number of reports.
        recent: number of latest reports that are all used.

    Example:
        >>> looked_at(4, 2), len(looked_at(100_000, 6)), looked_at(100_000, 6)[-3:]
        ([0, 1, 2, 3], 261, [99997, 99998, 99999])
    """
    if size <= MOST_REPORTS:
        return list(range(size))
    spread = {round(i * (size - 1) / (MOST_REPORTS - 1)) for i in range(MOST_REPORTS)}
    return sorted(spread | set(range(size - recent, size)))


def _fits(layer: LayerReport) -> bool:
    return bool(layer.reliable) and _finite(layer.alpha)


def _finite(value: float | None) -> bool:
    return value is not None and abs(value) < _HUGE


def _step(layer: LayerReport, reports: Sequence[Report]) -> int | None:
    return layer.step if layer.step is not None else reports[-1].step
