"""Learning-rate and weight-decay ratios per layer, from the alphas of a report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ww_callbacks.checks import check_choice, check_count, check_flag, check_patterns, check_range
from ww_callbacks.patterns import keeps, matching
from ww_callbacks.report import MIN_COUNTED, History, LayerReport, Report
from ww_callbacks.report.keys import layer_key
from ww_callbacks.signals.mappings import (
    MAPPINGS,
    MappingName,
    block_means,
    block_of,
    ratios_of,
    share_beyond_noise,
)
from ww_callbacks.signals.ramp import Ramp
from ww_callbacks.signals.signal import Judgement

Quantity = Literal["learning_rate", "weight_decay"]
QUANTITIES: tuple[str, ...] = get_args(Quantity)

_CHANCE = 4.0

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
        shrink: move the ratios towards 1 as far as the alphas differ by chance, see
            :func:`~ww_callbacks.signals.mappings.share_beyond_noise`. False for the mapping as published.
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

    The input is ``alpha_hill``, the Hill estimate from the upper half of the spectrum, which changes smoothly over
    time. A larger alpha gives a larger ratio. The ratio is 1 for the first and the last layer and for embeddings
    (unless ``layers`` names them), for layers with fewer than 50 eigenvalues or without a finite alpha, and for all
    layers if the alphas are equal, or if they differ by chance only and ``shrink`` is True. Before the first optimizer
    step all ratios are 1, because an untrained spectrum depends only on the shape of the layer.

    The verdict is ``{"step": the judged step, "layers": names, "ratios": numbers}`` with one entry per layer of the
    report, in its order. The metrics are ``ww_layer/lr_ratio/<index>.<name>`` (``ww_layer/weight_decay_ratio/…``) of
    the layers that take part.

    Sources: Zhou et al., *Temperature Balancing, Layer-wise Weight Analysis, and Neural Network Training* (2023); for
    the weight decay AlphaDecay (2025), which uses the range 2/3 … 5; see :func:`ratios_of` for the mappings. ``shrink``
    is ours.

    Args:
        partners: name of a normalisation layer → name of the layer whose ratio it gets.

    All other arguments are those of :class:`RatioOptions`.

    Example:
        >>> from ww_callbacks import LayerReport, Report
        >>> rows = [("conv", 2.0), ("fc1", 2.2), ("fc2", 2.6), ("fc3", 3.0), ("head", 4.0)]
        >>> layers = [
        ...     LayerReport(name=name, kind="Linear", N=90, num_evals=90, alpha_hill=alpha) for name, alpha in rows
        ... ]
        >>> LayerRatios().ratios(Report(tuple(layers)))
        [1.0, 0.5, 1.0, 1.5, 1.0]
    """

    partners: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name to attach the signal under, also part of the metric keys."""
        return VERDICTS[self.quantity]

    def judge(self, history: History) -> Judgement:
        """The ratios after the latest report."""
        report = history[-1]
        verdict = self.verdict(report)
        members = sorted(self._members(report))
        metrics = {layer_key(self.name, i, report.layers[i].name): verdict["ratios"][i] for i in members}
        return Judgement(metrics, verdict)

    def verdict(self, report: Report) -> dict[str, Any]:
        """The verdict after a report, as plain values."""
        over = self.until is not None and report.step is not None and report.step >= self.until
        ratios = [1.0] * len(report.layers) if over or report.step == 0 else self.ratios(report)
        return {"step": report.step, "layers": [layer.name for layer in report.layers], "ratios": ratios}

    def ratios(self, report: Report) -> list[float]:
        """One ratio per layer of a report, in its order, regardless of its step."""
        members = self._members(report)
        alphas = [layer.alpha_hill if i in members else None for i, layer in enumerate(report.layers)]
        if self.blocks:
            means = block_means([layer.name for layer in report.layers], alphas)
            alphas = [mean if i in members else None for i, mean in enumerate(means)]
        ratios = ratios_of(alphas, self.mapping, self.low, self.high)
        share = self._share([report.layers[i] for i in sorted(members)]) if self.shrink else 1.0
        if share < 1:
            ratios = [1 + share * (ratio - 1) for ratio in ratios]
        first = ratios_by_name({"layers": [layer.name for layer in report.layers], "ratios": ratios})
        leaders = (self.partners.get(layer.name) for layer in report.layers)
        return [
            ratio if leader is None else first.get(leader, 1.0) for ratio, leader in zip(ratios, leaders, strict=True)
        ]

    def _share(self, members: Sequence[LayerReport]) -> float:
        """How much the alphas of the layers, or of the blocks, differ beyond noise."""
        blocks: dict[object, list[tuple[float, float]]] = {}
        for i, layer in enumerate(members):
            if layer.alpha_hill is not None and math.isfinite(layer.alpha_hill):
                pair = layer.alpha_hill, chance_error(layer)
                blocks.setdefault(block_of(layer.name) if self.blocks else i, []).append(pair)
        means = [statistics.fmean(alpha for alpha, _ in pairs) for pairs in blocks.values()]
        errors = [math.hypot(*(error for _, error in pairs)) / len(pairs) for pairs in blocks.values()]
        return share_beyond_noise(means, errors)

    def choose(self, names: Sequence[str]) -> list[str]:
        """The layers of a model that can take part: selected by the patterns, without the first and the last.

        Args:
            names: names of the layers that hold a matrix, in model order.

        Raises:
            ValueError: a pattern of ``layers`` matches no layer.
        """
        kept = set(names) if self.layers is None else matching(names, self.layers, "layers")
        return [name for name in (names if self._asks else names[1:-1]) if name in kept]

    @property
    def _asks(self) -> bool:
        """Whether ``layers`` selects layers and does not only exclude some."""
        return self.layers is not None and any(not pattern.startswith("!") for pattern in self.layers)

    def _members(self, report: Report) -> set[int]:
        """Positions of the layers whose alpha counts."""
        positions = range(len(report.layers)) if self._asks else _inner(report)
        return {
            i
            for i in positions
            if report.layers[i].role != "adapter"
            and (report.layers[i].num_evals or 0) >= MIN_COUNTED
            and (self.layers is None or keeps(self.layers, report.layers[i].name))
        }


def chance_error(layer: LayerReport) -> float:
    """Standard deviation of alpha_hill over random matrices of the shape of a layer: 4 (alpha_hill - 1)/(M √rf).

    Eigenvalues of one matrix repel each other, so it falls as 1/M, not as 1/√M. On Gaussian matrices the
    factor is 2.6 to 3.6 for M from 32 to 256, Q from 1 to 8 and 3 x 3 kernels of 16 channels, and 4.1 for 512 x 512
    (``pytest -m slow -s tests/signals/test_learning_rate.py``).

    Args:
        layer: with num_evals = M·rf and alpha_hill.

    Example:
        >>> chance_error(LayerReport(name="fc", kind="Linear", rf=1, num_evals=80, alpha_hill=3.0))
        0.1
    """
    return _CHANCE * abs((layer.alpha_hill or 1.0) - 1) * math.sqrt(layer.rf or 1) / (layer.num_evals or 1)


def _inner(report: Report) -> list[int]:
    """Positions of the layers that hold a matrix, without the first, the last and embeddings."""
    holders = [i for i, layer in enumerate(report.layers) if _holds_matrix(layer)]
    return [i for i in holders[1:-1] if report.layers[i].role != "embedding"]


def _holds_matrix(layer: LayerReport) -> bool:
    """Whether a layer holds a matrix. A tied head and an embedding with too many rows do, although not analysed.

    A low-rank adapter is a change of another layer's matrix.
    """
    if layer.role == "adapter":
        return False
    return layer.N is not None or layer.role == "embedding" or layer.skip_reason == "tied"


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
