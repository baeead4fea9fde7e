"""A report as flat metrics, as every logger, TensorBoard and the frameworks' own dictionaries get them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from ww_callbacks.report import SCHEMA, Finding, FindingKind, Report
from ww_callbacks.report.experts import blocks_of
from ww_callbacks.report.keys import AGGREGATES, layer_key, logged
from ww_callbacks.report.row import POSITIONS

T = TypeVar("T")

LAYER_METRICS = tuple(name for name, column in SCHEMA.items() if column.logged)
MAX_LAYERS = 16
"""Maximal number of layers that have metrics of their own from the beginning."""
MAX_FOUND = 16
"""Maximal number of layers that get metrics of their own because of a finding."""
MAX_OF_KIND = 3
"""Maximal number of these for one kind of finding."""


def metrics_of(
    report: Report,
    judged: Iterable[Mapping[str, float]],
    names: Collection[str],
    *,
    lag_steps: int,
    skipped: int,
    over_budget: int,
) -> dict[str, float]:
    """All metrics of a report, those of signals included.

    Args:
        report: the results of one snapshot.
        judged: the metrics of each signal.
        names: layers and blocks of experts with metrics of their own.
        lag_steps: see :func:`aggregate_metrics`.
        skipped: see there.
        over_budget: see there.
    """
    metrics = aggregate_metrics(report, lag_steps=lag_steps, skipped=skipped, over_budget=over_budget)
    metrics |= layer_metrics(report, names) | expert_metrics(report, names)
    for each in judged:
        metrics |= logged(each, names)
    return metrics


def aggregate_metrics(report: Report, *, lag_steps: int, skipped: int, over_budget: int) -> dict[str, float]:
    """The summary of a report and the state of the monitor, under the keys ``ww/…``.

    Args:
        report: the results of one snapshot.
        lag_steps: steps between the snapshot and the arrival of its results.
        skipped: snapshots skipped so far because no slot was free.
        over_budget: snapshots not taken so far because the budget was used up.

    Example:
        >>> aggregate_metrics(Report((), step=5), lag_steps=2, skipped=0, over_budget=0)["ww/lag_steps"]
        2.0
    """
    metrics = {f"{AGGREGATES}{name}": value for name, value in report.summary().items()}
    monitor = {"lag_steps": lag_steps, "skipped": skipped, "over_budget": over_budget}
    return metrics | {f"{AGGREGATES}{name}": float(value) for name, value in monitor.items()}


def layer_metrics(report: Report, names: Collection[str]) -> dict[str, float]:
    """The metrics of single layers, under the keys ``ww_layer/<metric>/<index>.<name>``.

    Only layers analysed at this step have metrics; older values were logged at their own step.

    Args:
        report: the results of one snapshot.
        names: the layers to include.
    """
    keys = _keys(tuple(report.column("name")), frozenset(names))
    return {
        key: float(value)
        for index, layer in enumerate(report.layers)
        if index in keys and layer.step == report.step
        for position, key in keys[index]
        if (value := layer[position]) is not None
    }


@lru_cache(maxsize=8)
def _keys(layers: tuple[str, ...], names: frozenset[str]) -> dict[int, list[tuple[int, str]]]:
    """For each layer in ``names``, the position of each logged column in a row, and its key."""
    return {
        index: [(POSITIONS[metric], layer_key(metric, index, name)) for metric in LAYER_METRICS]
        for index, name in enumerate(layers)
        if name in names
    }


def expert_metrics(report: Report, names: Collection[str]) -> dict[str, float]:
    """Smallest, median and largest alpha of blocks of experts, and how many experts are odd.

    The keys are ``ww_layer/experts_<metric>/<index>.<block>`` with the index of the first expert. If no expert has a
    fit and one failed, the values are NaN.

    Args:
        report: the results of one snapshot.
        names: the blocks to include, as :func:`~ww_callbacks.report.experts.summarise_experts` names them.
    """
    layers = tuple(report.column("name"))
    chosen = {name: indices for name, indices in blocks_of(layers).items() if name in names}
    if not chosen or not any(report.layers[index].step == report.step for each in chosen.values() for index in each):
        return {}
    metrics: dict[str, float] = {}
    for block in report.experts():
        if block.name not in chosen:
            continue
        indices = chosen[block.name]
        values: dict[str, float | None] = {
            "experts_alpha_min": block.alpha_min,
            "experts_alpha_median": block.alpha_median,
            "experts_alpha_max": block.alpha_max,
            "experts_odd": len(block.odd),
        }
        missing = math.nan if any(report.layers[index].status == "failed" for index in indices) else None
        for metric, value in values.items():
            shown = missing if value is None else value
            if shown is not None:
                metrics[layer_key(metric, indices[0], block.name)] = float(shown)
    return metrics


def finding_metrics(counts: Mapping[FindingKind, int]) -> dict[str, float]:
    """The number of layers that each kind of finding concerns now, under the keys ``ww/finding/<kind>``.

    Args:
        counts: of the kinds that were ever raised in the run.

    Example:
        >>> finding_metrics({"frozen": 2})
        {'ww/finding/frozen': 2.0}
    """
    return {f"{AGGREGATES}finding/{kind}": float(count) for kind, count in counts.items()}


class LoggedLayers:
    """The layers that have metrics of their own: those chosen at first, and the few that deviate.

    A layer that has got metrics keeps them, so that its curves have no gaps.

    Args:
        names: of the layers and blocks of experts chosen at first.
        grows: whether the worst layers of each finding are added.

    Attributes:
        names: of the layers now.

    Example:
        >>> finding = Finding(
        ...     kind="exploding", layers=("h.7",), since=10, step=10, evidence={}, confidence="likely", text="It grows."
        ... )
        >>> logged = LoggedLayers(["h.0", "h.9"], grows=True)
        >>> logged.add([finding])
        >>> sorted(logged.names)
        ['h.0', 'h.7', 'h.9']
    """

    def __init__(self, names: Collection[str], *, grows: bool) -> None:
        self.names = frozenset(names)
        self._grows = grows
        self._found: Counter[FindingKind] = Counter()

    def add(self, findings: Iterable[Finding]) -> None:
        """Add the worst layers of findings, the most serious findings first.

        Args:
            findings: those that are raised; withdrawn ones change nothing, and no notice of many layers, which do not
                deviate.
        """
        for finding in findings if self._grows else ():
            if finding.until is not None or (len(finding.layers) > MAX_FOUND and not finding.is_alarm):
                continue
            room = min(MAX_OF_KIND - self._found[finding.kind], MAX_FOUND - self._found.total())
            new = [name for name in finding.layers if name not in self.names][:room]
            self.names |= set(new)
            self._found[finding.kind] += len(new)


def spread(values: Sequence[T], limit: int = MAX_LAYERS) -> list[T]:
    """At most ``limit`` of the values, evenly spread: the first, the last, and others between them.

    Args:
        values: such as the names of the analysed layers, in model order.
        limit: how many to take, at least 2.

    Example:
        >>> spread(["0", "1", "2", "3", "4"], limit=3)
        ['0', '2', '4']
    """
    if len(values) <= limit:
        return list(values)
    return [values[round(i * (len(values) - 1) / (limit - 1))] for i in range(limit)]
