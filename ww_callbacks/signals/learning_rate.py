"""Learning-rate and weight-decay ratios per layer, from the alphas of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ww_callbacks.checks import check_choice, check_count, check_flag, check_patterns, check_range
from ww_callbacks.patterns import matching
from ww_callbacks.report import History, LayerReport, Report
from ww_callbacks.report.columns import is_count, is_number
from ww_callbacks.report.keys import layer_key
from ww_callbacks.signals.mappings import (
    MAPPINGS,
    MappingName,
    averaged,
    block_means,
    block_of,
    ratios_of,
    share_beyond_noise,
)
from ww_callbacks.signals.ramp import Ramp
from ww_callbacks.signals.signal import Judgement
from ww_callbacks.signals.taking_part import WORDS, LeftOut, asks, left_out

Quantity = Literal["learning_rate", "weight_decay"]
QUANTITIES: tuple[str, ...] = get_args(Quantity)

Estimate = Literal["alpha_farms", "alpha_hill"]

_ELEMENTS = 3.5
_POPULATION = 0.3
_LEAST = 1e-9

VERDICTS: dict[str, str] = {"learning_rate": "lr_ratio", "weight_decay": "weight_decay_ratio"}
"""Name of the verdict of each quantity, also used in the keys of the metrics."""


@dataclass(kw_only=True, eq=False)
class RatioOptions:
    """The arguments of the layer ratios.

    :class:`LayerRatios` and the ``LayerwiseLearningRate`` of every framework inherit from this class, so each argument
    is also an attribute.

    Args:
        mapping: mapping from alpha to ratio: "linear", "sqrt", "log2", "rank" or "sigmoid", see
            :func:`~ww_callbacks.signals.mappings.ratios_of`.
        low: smallest ratio.
        high: largest ratio.
        layers: patterns of the layers that take part, ``"!pattern"`` to exclude; None for all but the first, the last
            and embeddings.
        blocks: give all layers of a block the same ratio, from their mean alpha.
        shrink: compare the layers by ``alpha_farms``, which their shapes do not bias, and move the ratios towards 1 as
            far as it differs by chance. False for the mapping of ``alpha_hill`` as published.
        until: all ratios are 1 from this optimizer step on; None for never.
        quantity: "learning_rate" or "weight_decay".

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed, such as ``low`` > ``high``.
    """

    mapping: MappingName = "linear"
    low: float = 0.5
    high: float = 1.5
    layers: Sequence[str] | None = None
    blocks: bool = False
    shrink: bool = True
    until: int | None = None
    quantity: Quantity = "learning_rate"

    def __post_init__(self) -> None:
        check_choice("mapping", self.mapping, MAPPINGS)
        check_choice("quantity", self.quantity, QUANTITIES)
        check_range("low", self.low, "high", self.high)
        check_flag("blocks", self.blocks)
        check_flag("shrink", self.shrink)
        check_patterns("layers", self.layers)
        if self.until is not None:
            check_count("until", self.until)


@dataclass(kw_only=True, eq=False)
class LayerwiseOptions(RatioOptions):
    """The arguments of a callback that sets the ratios.

    Args:
        apply: use the ratios instead of only logging them.
        ramp_steps: number of optimizer steps over which the ratios move to new values.

    All other arguments are those of :class:`RatioOptions`.
    """

    apply: bool = False
    ramp_steps: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("apply", self.apply)
        check_count("ramp_steps", self.ramp_steps, least=0)


@dataclass(kw_only=True)
class LayerRatios(RatioOptions):
    """A signal: the ratio of each layer's learning rate, or weight decay, to the common one.

    A larger alpha gives a larger ratio. The alpha is ``alpha_farms``, the Hill estimate from square windows; a monitor
    computes it while this signal is attached. In a report without it, ``alpha_hill`` is used if all layers have the
    same aspect ratio Q; otherwise all ratios are 1. The mapping is applied, each ratio is averaged over the layers that
    cannot be told from it (:func:`~ww_callbacks.signals.mappings.averaged`), and all are moved towards 1 unless the
    alphas differ beyond chance (:func:`~ww_callbacks.signals.mappings.share_beyond_noise`, with the errors of
    :func:`null_error`). With ``shrink=False`` the ratios are those of the mapping of ``alpha_hill``.

    The ratio is 1 for the first and the last layer and for embeddings (unless ``layers`` names them), for layers with
    fewer than 50 eigenvalues or without a finite alpha (:func:`~ww_callbacks.signals.taking_part.left_out`), and for
    all layers if the alphas are equal or differ by chance. Before the first optimizer step all ratios are 1, because
    nothing has been learned.

    The verdict is ``{"step": the judged step, "layers": names, "ratios": numbers, "left_out": reasons, "num_compared":
    number}``, with one entry per layer of the report in each list, in its order. A reason is None for a layer that
    takes part; ``num_compared`` counts these layers, or their blocks. The metrics are
    ``ww_layer/lr_ratio/<index>.<name>`` (``ww_layer/weight_decay_ratio/…``) of the layers that take part.

    Sources: Zhou et al., *Temperature Balancing, Layer-wise Weight Analysis, and Neural Network Training* (2023); for
    the weight decay AlphaDecay (2025), which uses the range 2/3 … 5; see :func:`ratios_of` for the mappings. ``shrink``
    is ours.

    Args:
        partners: name of a normalisation layer → name of the layer whose ratio it gets.

    All other arguments are those of :class:`RatioOptions`.

    Example:
        >>> from ww_callbacks import LayerReport, Report
        >>> rows = [("conv", 2.0), ("fc1", 2.2), ("fc2", 2.6), ("fc3", 3.0), ("head", 4.0)]
        >>> shape = {"N": 900, "num_evals": 900}
        >>> layers = [LayerReport(name=name, kind="Linear", alpha_hill=alpha, **shape) for name, alpha in rows]
        >>> LayerRatios().ratios(Report(tuple(layers)))
        [1.0, 0.5, 1.0, 1.5, 1.0]
    """

    partners: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name to attach the signal under, also part of the metric keys."""
        return VERDICTS[self.quantity]

    @property
    def needs(self) -> tuple[str, ...]:
        """Settings of the analysis that a monitor turns on while the signal is attached."""
        return ("farms",) if self.shrink else ()

    def judge(self, history: History) -> Judgement:
        """The ratios after the latest report."""
        report = history[-1]
        verdict = self.verdict(report)
        metrics = {
            layer_key(self.name, index, layer.name): verdict["ratios"][index]
            for index, layer in enumerate(report.layers)
            if verdict["left_out"][index] is None
        }
        return Judgement(metrics, verdict)

    def verdict(self, report: Report) -> dict[str, Any]:
        """The verdict after a report, as plain values."""
        over = self.until is not None and report.step is not None and report.step >= self.until
        reasons = self.left_out(report)
        members = [layer.name for layer, reason in zip(report.layers, reasons, strict=True) if reason is None]
        return {
            "step": report.step,
            "layers": [layer.name for layer in report.layers],
            "ratios": [1.0] * len(report.layers) if over or report.step == 0 else self.ratios(report),
            "left_out": reasons,
            "num_compared": len(set(map(block_of, members))) if self.blocks else len(members),
        }

    def left_out(self, report: Report) -> list[LeftOut | None]:
        """Why each layer of a report keeps ratio 1; None for those that take part."""
        reasons = left_out(report.layers, self.layers)
        estimate = self._estimate(report, reasons)
        for index, layer in enumerate(report.layers):
            if reasons[index] is None and (estimate is None or not _is_finite(getattr(layer, estimate))):
                reasons[index] = "unlike_shapes" if estimate is None else "no_alpha"
        return reasons

    def ratios(self, report: Report) -> list[float]:
        """One ratio per layer of a report, in its order, regardless of its step."""
        reasons = self.left_out(report)
        members = [index for index, reason in enumerate(reasons) if reason is None]
        ratios = [1.0] * len(reasons)
        estimate = self._estimate(report, reasons)
        if estimate is not None:
            found = self._mapped([report.layers[index] for index in members], estimate)
            for index, ratio in zip(members, found, strict=True):
                ratios[index] = ratio
        first = ratios_by_name({"layers": [layer.name for layer in report.layers], "ratios": ratios})
        leaders = (self.partners.get(layer.name) for layer in report.layers)
        return [
            ratio if leader is None else first.get(leader, 1.0) for ratio, leader in zip(ratios, leaders, strict=True)
        ]

    def _estimate(self, report: Report, reasons: Sequence[LeftOut | None]) -> Estimate | None:
        """The column by which the layers can be compared; None if there is none."""
        if not self.shrink:
            return "alpha_hill"
        members = [layer for layer, reason in zip(report.layers, reasons, strict=True) if reason is None]
        if any(_is_finite(layer.alpha_farms) for layer in members):
            return "alpha_farms"
        return "alpha_hill" if len({layer.Q for layer in members}) == 1 else None

    def _mapped(self, layers: Sequence[LayerReport], estimate: Estimate) -> list[float]:
        """The ratios of the layers that take part."""
        names, alphas = [layer.name for layer in layers], [getattr(layer, estimate) for layer in layers]
        errors = [null_error(layer, estimate) for layer in layers]
        units: Sequence[object] = [block_of(name) for name in names] if self.blocks else range(len(layers))
        if self.blocks:
            alphas, errors = block_means(names, alphas, errors)
        ratios = ratios_of(alphas, self.mapping, self.low, self.high)
        if not self.shrink:
            return ratios
        once = {unit: (alpha, error) for unit, alpha, error in zip(units, alphas, errors, strict=True)}
        share = share_beyond_noise([alpha for alpha, _ in once.values()], [error for _, error in once.values()])
        return [1 + share * (ratio - 1) for ratio in averaged(ratios, alphas, errors)]

    def choose(self, names: Sequence[str]) -> list[str]:
        """The layers of a model that can take part: selected by the patterns, without the first and the last.

        Args:
            names: names of the layers that hold a matrix, in model order.

        Raises:
            ValueError: a pattern of ``layers`` matches no layer.
        """
        kept = set(names) if self.layers is None else matching(names, self.layers, "layers")
        return [name for name in (names if asks(self.layers) else names[1:-1]) if name in kept]


def null_error(layer: LayerReport, estimate: Estimate = "alpha_farms") -> float:
    """Standard deviation of an estimate of alpha over layers that do not differ, of any shape.

    With a the estimate and n = N·M·rf the number of weights, it is (a - 1) √(3.5²/n + 0.3²/M) for ``alpha_farms``, and
    with n = M²·rf for ``alpha_hill``. The first term is the chance of the elements. It falls as 1/√n, because the
    eigenvalues of one matrix repel each other: over Gaussian matrices with M from 6 to 1024, Q from 1 to 16 and rf up
    to 25, the factor is 2.3 to 4.2. The second term is the chance of the population, such as rows whose sizes are drawn
    for each layer, and covers the bias of small matrices. Measured with
    ``pytest -m slow -s tests/signals/test_learning_rate.py``.

    Args:
        layer: with N, rf, num_evals = M·rf and the estimate.
        estimate: "alpha_farms" or "alpha_hill".

    Example:
        >>> layer = LayerReport(name="fc", kind="Linear", N=400, rf=1, num_evals=100, alpha_farms=3.0)
        >>> round(null_error(layer), 3)
        0.069
    """
    positions, pooled = layer.rf or 1, layer.num_evals or 1
    smaller = pooled / positions
    weights = pooled * (layer.N or smaller) if estimate == "alpha_farms" else pooled * smaller
    above = max((getattr(layer, estimate) or 1.0) - 1, _LEAST)
    return above * math.sqrt(_ELEMENTS**2 / weights + _POPULATION**2 / smaller)


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def are_ratios(verdict: Mapping[str, Any]) -> bool:
    """Whether a verdict, such as one from a checkpoint, is of a :class:`LayerRatios`, or empty.

    Example:
        >>> verdict = {"layers": ["fc"], "ratios": [1.5], "left_out": [None], "num_compared": 1}
        >>> are_ratios({}), are_ratios(verdict), are_ratios(verdict | {"ratios": [float("nan")]})
        (True, True, False)
    """
    if not verdict:
        return True
    layers, ratios, reasons = (verdict.get(name) for name in ("layers", "ratios", "left_out"))
    return (
        isinstance(layers, list)
        and isinstance(ratios, list)
        and isinstance(reasons, list)
        and len(layers) == len(ratios) == len(reasons)
        and all(isinstance(name, str) for name in layers)
        and all(is_number(ratio) and ratio > 0 for ratio in ratios)
        and all(reason is None or reason in WORDS for reason in reasons)
        and is_count(verdict.get("num_compared"))
    )


def ratios_by_name(verdict: Mapping[str, Any]) -> dict[str, float]:
    """The ratios of a verdict by layer name; if layers share a name, the first one counts.

    Args:
        verdict: verdict of a :class:`LayerRatios`; empty before the first.

    Example:
        >>> ratios_by_name({"step": 1, "layers": ["fc1", "fc2"], "ratios": [0.5, 1.5]})
        {'fc1': 0.5, 'fc2': 1.5}
    """
    result: dict[str, float] = {}
    for name, ratio in zip(verdict.get("layers", ()), verdict.get("ratios", ()), strict=True):
        result.setdefault(name, ratio)
    return result


def ratios_at(
    step: int, signal: LayerRatios, ramp: Ramp, verdicts: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """The ratios of the next update by layer name; a layer without an entry has ratio 1.

    Args:
        step: number of finished optimizer steps.
        signal: the signal.
        ramp: the ramp of the ratios; a new verdict becomes its target.
        verdicts: the published verdicts, by name of the signal.

    Example:
        >>> verdicts = {"lr_ratio": {"step": 8, "layers": ["fc"], "ratios": [1.5]}}
        >>> signal, ramp = LayerRatios(until=100), Ramp(10)
        >>> [ratios_at(step, signal, ramp, verdicts) for step in (10, 15, 100)]
        [{'fc': 1.0}, {'fc': 1.25}, {}]
    """
    verdict = verdicts.get(signal.name)
    if verdict:
        ramp.aim(ratios_by_name(verdict), step)
    over = signal.until is not None and step >= signal.until
    return {} if over else ramp.at(step)
