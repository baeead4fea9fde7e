"""The rules of early stopping: each gives a score from 0 to 1 and a reason, from the reports so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from ww_callbacks.patterns import keeps
from ww_callbacks.printable import shown_name
from ww_callbacks.report import LayerReport, Report, TrapKind
from ww_callbacks.signals.trend import MIN_SLOPE, Fall, find_fall, fit_slope

RuleName = Literal["plateau", "traps", "overtrained"]
RULES: tuple[str, ...] = get_args(RuleName)

PATIENCE = 5
"""Default number of results in a row that have to support a stop."""

MIN_DELTA = 0.05
"""Default smallest fall of the mean alpha per doubling of the steps that still counts as a fall."""

MIN_FALL = 0.2
"""Smallest fall of the mean alpha before a plateau; drifts of a network that learns nothing are smaller."""

TRAP_LEVEL = 4.0
"""Smallest ratio of the largest shuffled eigenvalue to the random edge (``trap_size``) at which a trap counts."""

HARMLESS_TRAPS: frozenset[TrapKind] = frozenset({"mean", "kurtosis"})
"""Causes of traps of any size in healthy networks: a mean that is not 0, and heavy tails."""

TRAP_GROWTH = 2.0
"""A trap counts if ``trap_size`` is at least this many times that of the layer's first result."""

SUSTAINED = 0.2
"""What supports a stop has to last for this share of the steps, and for ``patience`` results."""

OVERTRAINED_ALPHA = 2.0
"""A layer is over-trained if the upper bound of the 95 % interval of its alpha is below this."""

GOOD_FIT = 0.1
"""Largest Kolmogorov-Smirnov distance of a fit that "overtrained" accepts."""

GOOD_TAIL = 20
"""Smallest number of eigenvalues in the tail of a fit that "overtrained" accepts."""

LOOKS_PER_DOUBLING = 2
"""Plateau decides this many times while the number of steps doubles, at the same steps for every ``every_n_steps``."""

WINDOW = 2.0
"""The trend of alpha is measured over this many doublings of the steps: the last three quarters of a run."""

LOOK_LEVEL = 0.005
"""Error of a single look; over ten looks (32 times as many steps) they add up to at most 5 %."""

MOST_REPORTS = 256
"""The trend of alpha of a longer run uses this many reports, spread over the run."""

_HUGE = 1e100  # its square is still finite


@dataclass(frozen=True, slots=True)
class RuleScore:
    """What a rule says after the latest report.

    Attributes:
        score: 0 to 1; 1 is a stop.
        rule: the rule.
        text: the reason in words, with layer, value, interval and step; empty if the score is 0.
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
        trap_level: a trap counts if the largest eigenvalue of the shuffled weights is at least this many times the
            random edge.
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


def plateau(reports: Sequence[Report], options: RuleOptions) -> RuleScore:
    """The mean alpha has fallen and has stopped falling.

    The mean is over the counted layers with a reliable tail in the latest report, of ``alpha_stable`` where there is
    one, otherwise of ``alpha``. Earlier reports count if all these layers had a reliable tail.

    The decision is made at fixed steps, twice while the number of steps doubles (8, 11.3, 16, 22.6, …), from the first
    report at or after such a step, so that it hardly depends on the number of steps between two reports.

    The mean has fallen if a line that becomes flat excludes that there was no fall
    (:func:`~ww_callbacks.signals.trend.find_fall`) and the fall is at least 0.2. It has stopped falling if the lower
    bound of its slope over the last three quarters of the steps (:func:`~ww_callbacks.signals.trend.fit_slope`) is
    above -``min_delta`` per doubling. The error of a single decision is 0.5 %; over ten decisions it adds up to at most
    5 %. Both tests expect noise that is correlated from report to report.

    A constant alpha is not a plateau, nor is one that is too noisy. A rise is a plateau.

    Args:
        reports: in the order of their steps, such as a History.
        options: patience, min_delta, start_after, layers.

    Returns:
        The score is ``min_delta`` over the largest fall that is not excluded, at most 1; lower with too few results.
    """
    series = _mean_alphas(reports, options)
    trend = _trend(series, options)
    if trend is None or trend.fall is None:
        return RuleScore()
    near = 1.0 if trend.bound >= -options.min_delta else options.min_delta / -trend.bound
    usable = sum(map(options.is_late_enough, series.steps[trend.first :]))
    score = near * min(1.0, usable / options.patience)
    if score <= 0:
        return RuleScore()
    return RuleScore(score, "plateau", _plateau_words(series, trend))


@dataclass(frozen=True, slots=True)
class MeanAlphaTrend:
    """The trend of the mean alpha at the latest decision.

    Attributes:
        slope: change per doubling of the steps, over the last three quarters of the steps.
        bound: the slope is above this with 99.5 % probability.
        upper: the slope is below this with 97.5 % probability.
        fall: the fall before, None if noise explains it or it is smaller than 0.2.
        first: index of the first value of the last three quarters.
    """

    slope: float
    bound: float
    upper: float
    fall: Fall | None
    first: int


def mean_alpha_trend(reports: Sequence[Report], options: RuleOptions) -> MeanAlphaTrend | None:
    """The trend of the mean alpha per doubling of the steps, as "plateau" computes it; None with too few results.

    Args:
        reports: in the order of their steps, such as a History.
        options: patience, layers.
    """
    return _trend(_mean_alphas(reports, options), options)


class _Series(NamedTuple):
    """The mean alpha over time: names of its layers, values, steps as reported, and as numbers."""

    names: list[str]
    values: list[float]
    steps: list[int | None]
    times: list[float]


def _trend(series: _Series, options: RuleOptions) -> MeanAlphaTrend | None:
    if len(series.values) < MIN_SLOPE:
        return None
    return _measured(tuple(series.values), tuple(series.times), options.patience + 1)


@lru_cache(maxsize=8)  # between two decisions, every report asks for the same one
def _measured(values: tuple[float, ...], times: tuple[float, ...], least: int) -> MeanAlphaTrend:
    places = [math.log2(time) for time in times]
    recent = sum(place >= places[-1] - WINDOW for place in places)
    first = max(0, len(values) - max(recent, least, MIN_SLOPE))
    slope = fit_slope(values[first:], places[first:], times[first:])
    fall = find_fall(values, places, times)
    has_fallen = fall.is_sure and max(values) - values[fall.position] >= MIN_FALL
    return MeanAlphaTrend(slope.mean, slope.bound(LOOK_LEVEL), slope.bound(0.975), fall if has_fallen else None, first)


def _until_last_look(reports: Sequence[Report]) -> Sequence[Report]:
    """The reports up to the latest decision: the first report at or after a step of the grid."""
    looks = [math.floor(LOOKS_PER_DOUBLING * math.log2(max(time, 1)) + 1e-9) for time in _times(reports)]
    end = next((i + 1 for i in range(len(looks) - 1, 0, -1) if looks[i] > looks[i - 1]), 0)
    return reports if end == len(reports) else reports[:end]


def _times(reports: Sequence[Report]) -> list[int]:
    """The steps of the reports; their positions, from 1, if they have none."""
    return [i + 1 if report.step is None else report.step for i, report in enumerate(reports)]


def _plateau_words(series: _Series, trend: MeanAlphaTrend) -> str:
    names, values, steps = [shown_name(name) for name in series.names], series.values, series.steps
    whose = names[0] if len(names) == 1 else f"{len(names)} layers ({names[0]} to {names[-1]})"
    position, last = trend.fall.position if trend.fall else 0, -1
    return (
        f"the mean alpha of {whose}, {values[last]:.3g} at step {steps[last]}, came down from {max(values):.3g} "
        f"to {values[position]:.3g} by step {steps[position]}; since step {steps[trend.first]} it moved by "
        f"{trend.slope:+.2g} per doubling of the steps (99.5 %: above {trend.bound:+.2g})"
    )


def traps(reports: Sequence[Report], options: RuleOptions) -> RuleScore:
    """A layer has large correlation traps in several results in a row.

    A result counts if the layer has traps (``num_traps``) and the largest eigenvalue of the shuffled weights is at
    least four times the random edge (``trap_size``), and twice what it was at the layer's first result. Smaller ones
    occur in healthy networks, and so do large ones whose cause is a mean that is not 0 or heavy tails (``trap_kind``
    "mean" or "kurtosis"), which do not count. Nor do results of weights that do not change. The traps must have lasted
    for a fifth of the steps.

    Args:
        reports: in the order of their steps, such as a History.
        options: patience, start_after, layers, trap_level.
    """

    def words(layer: LayerReport, count: int) -> str:
        cause = "" if layer.trap_kind is None else f" (cause: {layer.trap_kind})"
        return (
            f"{shown_name(layer.name)} has {layer.num_traps} correlation trap{'s' if layer.num_traps != 1 else ''} "
            f"at step {_step(layer, reports)}{cause}, the largest at {layer.trap_size:.3g} times the random edge; "
            f"above {options.trap_level:g} in each of the last {count} results"
        )

    first = _first_results(reports)

    def counts(layer: LayerReport) -> bool:
        return layer.trap_kind not in HARMLESS_TRAPS and is_trapped(layer, first[layer.name], options.trap_level)

    return _sustained(reports, options, counts, "traps", words)


def overtrained(reports: Sequence[Report], options: RuleOptions) -> RuleScore:
    """The alpha of a layer and its whole interval are below 2 in several results in a row.

    A result counts if the layer is reliable, the upper bound of the 95 % interval of alpha is below 2, D is at most
    0.1 and the tail holds at least 20 eigenvalues. Healthy networks show this too, so it never stops a run alone.

    Args:
        reports: in the order of their steps, such as a History.
        options: patience, start_after, layers.
    """

    def words(layer: LayerReport, count: int) -> str:
        return (
            f"the alpha of {shown_name(layer.name)} is {layer.alpha:.3g} (95 %: {layer.alpha_low:.3g} to "
            f"{layer.alpha_high:.3g}) at step {_step(layer, reports)}; its interval was below {OVERTRAINED_ALPHA:g} in "
            f"each of the last {count} results"
        )

    return _sustained(reports, options, _is_overtrained, "overtrained", words)


FUNCTIONS: dict[str, Callable[[Sequence[Report], RuleOptions], RuleScore]] = {
    "plateau": plateau,
    "traps": traps,
    "overtrained": overtrained,
}
"""The rules by name. A further rule needs a name in ``RuleName`` and an entry here."""

NEEDS_SUPPORT: frozenset[RuleName] = frozenset({"overtrained"})
"""Rules that stop a run only together with persistent traps or a stalled metric."""

NEEDS_RATE: frozenset[RuleName] = frozenset({"plateau"})
"""Rules that stop a run only if its learning rate, where it is known, has not decayed."""


def has_traps(reports: Sequence[Report], options: RuleOptions) -> bool:
    """Whether any layer has more traps than at its start, of any size, in each of the last ``patience`` results."""
    first = _first_results(reports)

    def counts(layer: LayerReport) -> bool:
        return layer.trap_kind not in HARMLESS_TRAPS and _has_more_traps(layer, first[layer.name])

    return _longest(reports, options, counts)[0].share(options.patience) >= 1


def _sustained(
    reports: Sequence[Report],
    options: RuleOptions,
    counts: Callable[[LayerReport], bool],
    rule: RuleName,
    words: Callable[[LayerReport, int], str],
) -> RuleScore:
    """The score of the layer with the longest streak."""
    longest, worst = _longest(reports, options, counts)
    score = longest.share(options.patience)
    if worst is None or score <= 0:
        return RuleScore()
    return RuleScore(score, rule, words(worst, longest.length))


class _Streak(NamedTuple):
    """Results in a row that count: how many, the first and the last step; the steps are None if there is none."""

    length: int = 0
    since: int | None = None
    until: int | None = None

    def share(self, patience: int) -> float:
        """How much of what supports a stop has been reached, 0 to 1."""
        share = min(1.0, self.length / patience)
        if self.since is None or self.until is None or self.until <= 0:
            return share
        return min(share, (self.until - self.since) / (SUSTAINED * self.until))


def _longest(
    reports: Sequence[Report], options: RuleOptions, counts: Callable[[LayerReport], bool]
) -> tuple[_Streak, LayerReport | None]:
    """The longest streak up to the latest result, and its layer."""
    longest, worst = _Streak(), None
    for layer in reports[-1].layers if len(reports) else ():
        if options.keeps(layer.name) and counts(layer):
            streak = _streak(reports, layer.name, options, counts)
            if streak.length > longest.length:
                longest, worst = streak, layer
    return longest, worst


def _streak(
    reports: Sequence[Report], name: str, options: RuleOptions, counts: Callable[[LayerReport], bool]
) -> _Streak:
    """The latest results in a row that count for a layer; repeated results of a rotation count once."""
    streak, last = _Streak(), object()
    for report in reversed(reports):
        layer = next((layer for layer in report.layers if layer.name == name), None)
        step = report.step if layer is None or layer.step is None else layer.step
        if layer is None or not options.is_late_enough(step) or not counts(layer):
            break
        if step is None or step != last:
            until = step if streak.until is None else streak.until
            streak, last = _Streak(streak.length + 1, step, until), step
        if streak.length >= options.patience and streak.share(options.patience) >= 1:
            break
    return streak


def _first_results(reports: Sequence[Report]) -> dict[str, LayerReport]:
    """The first result of each layer in which its traps were counted; its latest one if there is none."""
    found = {layer.name: layer for layer in reports[-1].layers} if len(reports) else {}
    missing = set(found)
    for report in reports:
        for layer in report.layers if missing else ():
            if layer.name in missing and layer.num_traps is not None:
                found[layer.name] = layer
                missing.discard(layer.name)
    return found


def _has_more_traps(layer: LayerReport, first: LayerReport) -> bool:
    return layer.unchanged_since is None and layer.is_trapped and (layer.num_traps or 0) > (first.num_traps or 0)


def is_trapped(layer: LayerReport, first: LayerReport, level: float = TRAP_LEVEL) -> bool:
    """Whether training gave a layer large correlation traps.

    Args:
        layer: the latest result.
        first: its first result of the run; one without a ``trap_size`` if that is not known.
        level: smallest ``trap_size``.

    Example:
        >>> first = LayerReport(name="fc", kind="Linear", num_traps=0, trap_size=1.0)
        >>> is_trapped(LayerReport(name="fc", kind="Linear", num_traps=1, trap_size=6.0), first)
        True
    """
    if layer.unchanged_since is not None or not layer.num_traps or not _finite(layer.trap_size):
        return False
    start = first.trap_size if first.trap_size is not None and _finite(first.trap_size) else 0.0
    return (layer.trap_size or 0.0) >= max(level, TRAP_GROWTH * start)


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
    reports = _until_last_look(reports)
    latest = [layer for layer in (reports[-1].layers if len(reports) else ()) if layer.counted and _fits(layer)]
    kept = [layer for layer in latest if options.keeps(layer.name)]
    names = [layer.name for layer in kept]
    column = "alpha_stable" if all(_finite(layer.alpha_stable) for layer in kept) else "alpha"
    series = _Series(names, [], [], [])
    times = _times(reports)
    for position in looked_at(len(reports), options.patience + 1) if names else ():
        report = reports[position]
        found = {layer.name: getattr(layer, column) for layer in report.layers if _fits(layer)}
        if times[position] > 0 and all(_finite(found.get(name)) for name in names):
            series.values.append(math.fsum(found[name] for name in names) / len(names))
            series.steps.append(report.step)
            series.times.append(float(times[position]))
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
