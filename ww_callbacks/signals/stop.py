"""The early-stopping signal: combines the rules and keeps the first verdict that stops."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from ww_callbacks.checks import check_choice, check_count, check_patterns
from ww_callbacks.patterns import matching
from ww_callbacks.report import History
from ww_callbacks.report.columns import is_number
from ww_callbacks.report.keys import AGGREGATES
from ww_callbacks.signals.rates import LEARNING_RATE, decay_words
from ww_callbacks.signals.rules import (
    FUNCTIONS,
    MIN_DELTA,
    NEEDS_RATE,
    NEEDS_SUPPORT,
    PATIENCE,
    RULES,
    RuleName,
    RuleOptions,
    RuleScore,
    has_traps,
)
from ww_callbacks.signals.signal import Judgement
from ww_callbacks.signals.stalled import MODES, Mode, is_stalled

Action = Literal["stop", "warn"]
ACTIONS: tuple[str, ...] = get_args(Action)
"""What a callback does when the verdict is to stop: stop training, or only warn."""

VERDICT = "stop"
"""Name of the verdict, also part of the metric keys."""

DEFAULT_RULES: tuple[RuleName, ...] = ("plateau", "traps")

AUTO = "auto"
"""Value of ``and_monitor`` for the first of ``AUTO_METRICS`` that is recorded."""

AUTO_METRICS = ("val_loss", "eval_loss")
"""Validation losses as Lightning, Keras and transformers name them by habit."""


class Metric(NamedTuple):
    """A metric of the user: its name, and its values in order of time."""

    name: str
    values: Sequence[float]


@dataclass(kw_only=True, eq=False)
class StopRules:
    """The arguments of early stopping, and the verdict on the reports so far.

    :class:`ww_callbacks.EarlyStopping` and the ``SpectralEarlyStopping`` of every framework inherit from this class, so
    each argument is also an attribute.

    Args:
        rules: any of "plateau" (the mean alpha has fallen and no longer falls), "traps" (a layer has large, persistent
            correlation traps) and "overtrained" (the alpha of a layer stays below 2). "overtrained" stops only together
            with persistent traps or with a stalled ``and_monitor``. See :mod:`ww_callbacks.signals.rules`.
        patience: number of consecutive results that must support a stop, and of values of ``and_monitor`` without a new
            best.
        and_monitor: name of a metric that must have stalled too; "auto" for "val_loss" (or "eval_loss") if it is
            recorded; None for none.
        and_mode: "min" if small values of that metric are good, "max" if large ones are.
        min_delta: alpha counts as no longer falling if it falls by less than this while the number of steps doubles.
        start_after: results up to this optimizer step are ignored.
        layers: patterns of the layers to check, ``"!pattern"`` to exclude; None for all.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed, such as an unknown rule.

    Example:
        >>> from ww_callbacks import LayerReport, Report
        >>> def report(step, traps):
        ...     return Report((LayerReport(name="fc", kind="Linear", num_traps=traps, trap_size=1 + 5 * traps),), step)
        >>> verdict = StopRules(patience=2).verdict([report(0, 0), report(100, 1), report(200, 1)])
        >>> verdict["stop"], verdict["rule"], verdict["step"]
        (True, 'traps', 200)
        >>> verdict["reason"].partition(";")[0]
        'traps: fc has 1 correlation trap at step 200, the largest at 6 times the random edge'
    """

    rules: Sequence[RuleName] = DEFAULT_RULES
    patience: int = PATIENCE
    and_monitor: str | None = AUTO
    and_mode: Mode = "min"
    min_delta: float = MIN_DELTA
    start_after: int = 0
    layers: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.rules, str) or not isinstance(self.rules, (list, tuple)):
            raise TypeError(f'rules: expected a list such as ["plateau", "traps"], got {self.rules!r}')
        if not self.rules:
            raise ValueError(f"rules: expected at least one of {', '.join(map(repr, RULES))}")
        for rule in self.rules:
            check_choice("rules", rule, RULES)
        check_count("patience", self.patience)
        check_count("start_after", self.start_after, least=0)
        if isinstance(self.min_delta, bool) or not isinstance(self.min_delta, (int, float)):
            raise TypeError(f"min_delta: expected a number, got {self.min_delta!r}")
        if not 0 <= self.min_delta < float("inf"):
            raise ValueError(f"min_delta: expected a finite number of at least 0, got {self.min_delta}")
        check_patterns("layers", self.layers)
        _check_metric("and_monitor", self.and_monitor)
        check_choice("and_mode", self.and_mode, MODES)

    def check_layers(self, names: Sequence[str]) -> None:
        """Check that the patterns match layers of a model.

        Args:
            names: names of the analysed layers.

        Raises:
            ValueError: a pattern of ``layers`` matches no layer.
        """
        if self.layers is not None:
            matching(names, self.layers, "layers")

    def verdict(
        self, reports: Sequence[Any], metric: Metric | None = None, rates: Sequence[tuple[int | None, float]] = ()
    ) -> dict[str, Any]:
        """The verdict after the latest report.

        Args:
            reports: the reports in step order, such as a History.
            metric: the metric that must have stalled, as :meth:`metric_of` finds it; None if none must.
            rates: steps and learning rates so far, if they are known. Alpha that no longer falls does not stop a run
                whose learning rate has fallen to less than half.

        Returns:
            Plain values: "stop", the "rule" that stops, its "reason", the judged "step", and "scores" and "texts" by
            rule. If nothing stops, "rule" is None, and "reason" is that of a rule at full score that must wait for
            another signal, or empty. The text of such a rule names that signal.
        """
        options = RuleOptions(
            patience=self.patience, min_delta=self.min_delta, start_after=self.start_after, layers=self.layers
        )
        scores: dict[str, RuleScore] = {rule: FUNCTIONS[rule](reports, options) for rule in self.rules}
        is_stalled_too = metric is not None and is_stalled(metric.values, self.patience, self.and_mode)
        decay = decay_words(rates)
        full = [rule for rule, score in scores.items() if score.score >= 1]
        waits = {rule: self._waits_for(rule, reports, options, metric, is_stalled_too, decay) for rule in full}
        stops = [rule for rule in full if not waits[rule]]
        texts = {rule: score.text + waits.get(rule, "") for rule, score in scores.items()}
        if metric is not None and is_stalled_too:
            for rule in stops:
                texts[rule] += f"; and {metric.name} has not improved in its last {self.patience} values"
        first = next(iter(stops or full), None)
        return {
            "stop": bool(stops),
            "rule": stops[0] if stops else None,
            "reason": "" if first is None else f"{first}: {texts[first]}",
            "step": reports[-1].step if len(reports) else None,
            "scores": {rule: score.score for rule, score in scores.items()},
            "texts": texts,
        }

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that may have to stall, the preferred one first; empty if none must."""
        return AUTO_METRICS if self.and_monitor == AUTO else () if self.and_monitor is None else (self.and_monitor,)

    def metric_of(self, history: History) -> Metric | None:
        """The metric that must have stalled: ``and_monitor``, or the one that "auto" finds in a history.

        Args:
            history: of the run, with the recorded metrics.

        Example:
            >>> history = History()
            >>> StopRules().metric_of(history)
            >>> history.record("val_loss", 0.5, step=10)
            >>> StopRules().metric_of(history)
            Metric(name='val_loss', values=(0.5,))
        """
        for name in self.metric_names:
            values = tuple(value for _, value in history.recorded(name))
            if values or self.and_monitor != AUTO:
                return Metric(name, values)
        return None

    def _waits_for(
        self,
        rule: str,
        reports: Sequence[Any],
        options: RuleOptions,
        metric: Metric | None,
        is_stalled_too: bool,
        decay: str,
    ) -> str:
        """What a rule at full score waits for, to be added to its text; empty if it stops the run."""
        if rule in NEEDS_RATE and decay:
            return f"; but {decay}, which explains it"
        if metric is not None and not is_stalled_too:
            count = len(metric.values)
            if count <= self.patience:
                return (
                    f"; it waits for {metric.name}: {count} values so far, a stall needs at least {self.patience + 1}"
                )
            return f"; it waits for {metric.name}, which has improved in its last {self.patience} values"
        if rule in NEEDS_SUPPORT and metric is None and not has_traps(reports, options):
            return "; it ends training only together with persistent traps or a stalled and_monitor"
        return ""


def _check_metric(name: str, value: object) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise TypeError(f'{name}: expected the name of a metric such as "val_loss", or None, got {value!r}')


@dataclass(kw_only=True, eq=False)
class EarlyStopping(StopRules):
    """A signal that decides whether training should stop. Attach it to a monitor as "stop".

    The metrics are ``ww/stop/<rule>``, the progress of each rule towards a stop (0 to 1). The verdict is that of
    :meth:`StopRules.verdict`; the first verdict that stops is kept for the rest of the run. Values for ``and_monitor``
    come from :meth:`ww_callbacks.Monitor.record`, as do learning rates under the name "learning_rate".

    Attributes:
        awaits_metric: whether a first value for ``and_monitor="auto"`` may still come; nothing stops until then.

    All arguments are those of :class:`StopRules`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed, such as an unknown rule.

    Example:
        >>> import numpy as np
        >>> import ww_callbacks as ww
        >>> weights = {"fc": np.random.default_rng(0).standard_normal((100, 60))}
        >>> monitor = ww.Monitor(weights, every_n_steps=10, executor="sync")
        >>> monitor.attach("stop", ww.EarlyStopping(rules=["traps"], patience=3))
        >>> with monitor:
        ...     for step in range(1, 101):
        ...         weights["fc"][3, 4] = step  # one very large weight
        ...         monitor.step(step)
        ...         if monitor.should_stop:
        ...             break
        >>> step, monitor.stop_reason.partition(":")[0]
        (60, 'traps at step 60 (stopped at 60)')
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.awaits_metric = False
        self._history: weakref.ref[History] | None = None
        self._first_stop: dict[str, Any] | None = None

    def judge(self, history: History) -> Judgement:
        """The scores after the latest report, and the first verdict of this history that stops, or the latest one."""
        if self._history is None or self._history() is not history:  # another run
            self._history, self._first_stop = weakref.ref(history), None
        metric = self.metric_of(history) or (Metric(AUTO_METRICS[0], ()) if self.awaits_metric else None)
        verdict = self.verdict(history, metric, history.recorded(LEARNING_RATE))
        if verdict["stop"] and self._first_stop is None:
            self._first_stop = verdict
        metrics = {f"{AGGREGATES}{VERDICT}/{rule}": score for rule, score in verdict["scores"].items()}
        return Judgement(metrics, self._first_stop or verdict)

    def __getstate__(self) -> dict[str, Any]:
        """Launchers pickle or copy a Trainer before training: the state of a run is left out."""
        return self.__dict__ | {"_history": None, "_first_stop": None}


def is_verdict(verdict: Mapping[str, Any]) -> bool:
    """Whether a verdict, such as one from a checkpoint, has what training and :func:`stop_message` read.

    Example:
        >>> is_verdict({}), is_verdict(StopRules().verdict([])), is_verdict({"stop": True})
        (True, True, False)
    """
    if not verdict:
        return True
    scores, texts = verdict.get("scores", {}), verdict.get("texts", {})
    return (
        isinstance(verdict.get("stop"), bool)
        and isinstance(verdict.get("reason"), str)
        and verdict.keys() >= {"rule", "step"}
        and isinstance(scores, Mapping)
        and all(map(is_number, scores.values()))
        and isinstance(texts, Mapping)
        and all(isinstance(text, str) for text in texts.values())
    )


def stop_message(verdict: Mapping[str, Any], reported_at_step: int | None, action: Action = "stop") -> str:
    """A verdict that stops as a sentence: rule, judged step and step at which the verdict took effect, then details.

    Args:
        verdict: verdict of an :class:`EarlyStopping`.
        reported_at_step: step at which it took effect.
        action: what was done then.

    Example:
        >>> verdict = {"rule": "traps", "reason": "traps: fc has 1 correlation trap at step 200", "step": 200}
        >>> stop_message(verdict, 400)
        'traps at step 200 (stopped at 400): fc has 1 correlation trap at step 200'
    """
    done = {"stop": "stopped", "warn": "warned"}[action]
    details = verdict["reason"].removeprefix(f"{verdict['rule']}: ")
    return f"{verdict['rule']} at step {verdict['step']} ({done} at {reported_at_step}): {details}"


def progress_message(verdict: Mapping[str, Any]) -> str:
    """How near each rule is to a stop: its score, rounded down, and what it says.

    Args:
        verdict: verdict of an :class:`EarlyStopping`; empty before the first.

    Example:
        >>> progress_message({"scores": {"plateau": 0.628, "traps": 0.0}, "texts": {"plateau": "alpha falls by 0.08"}})
        'plateau 0.62 (alpha falls by 0.08), traps 0'
    """
    if not verdict:
        return "No results came in."
    texts = {rule: f" ({text})" if text else "" for rule, text in verdict["texts"].items()}
    return ", ".join(
        f"{rule} {int(100 * score) / 100:g}{texts.get(rule, '')}" for rule, score in verdict["scores"].items()
    )
