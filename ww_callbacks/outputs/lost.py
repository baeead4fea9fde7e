"""Metrics that lose their value because layers failed: NaN takes its place, so that no reader keeps an old number."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from ww_callbacks.outputs.metrics import aggregate_metrics, layer_metrics
from ww_callbacks.report import History, Report
from ww_callbacks.report.keys import AGGREGATES, layer_tag


class LostMetrics:
    """The metrics that a run has had so far, to tell which of them failed layers have taken away.

    A metric without a value is left out. Loggers and frameworks would go on showing the last one, and a stock callback
    that stops at NaN would never see any.

    Example:
        >>> from ww_callbacks import LayerReport
        >>> lost = LostMetrics()
        >>> fine = Report((LayerReport(name="fc", kind="Linear", counted=True, step=0),), 0)
        >>> lost.add(fine, {"ww/alpha": 3.0, "ww_layer/alpha/000.fc": 3.0}, ["fc"])
        {}
        >>> failed = Report((LayerReport(name="fc", kind="Linear", counted=True, step=5, status="failed"),), 5)
        >>> lost.add(failed, {}, ["fc"])
        {'ww/alpha': nan, 'ww_layer/alpha/000.fc': nan}
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    @classmethod
    def of(cls, history: History, metrics: Collection[str]) -> LostMetrics:
        """The state after the reports of a history.

        Args:
            history: of a run, restored from a checkpoint.
            metrics: the keys that were published last.
        """
        lost = cls()
        lost._known.update(metrics)
        for report in history:
            lost._known.update(aggregate_metrics(report, lag_steps=0, skipped=0, over_budget=0))
            lost._known.update(layer_metrics(report, report.column("name")))
        return lost

    def add(self, report: Report, metrics: Mapping[str, float], names: Collection[str]) -> dict[str, float]:
        """NaN for each metric that had a value before and has none now because a layer failed.

        The mean of the model is lost if a layer that counts in it failed, the metric of a layer if that layer was
        analysed at this step and failed.

        Args:
            report: the latest one; reports come in the order of their steps.
            metrics: all of its metrics.
            names: layers with metrics of their own.
        """
        missing = self._known - metrics.keys() if report.column("status").count("failed") else ()
        self._known.update(metrics)
        if not missing:
            return {}
        failed = [(index, layer) for index, layer in enumerate(report.layers) if layer.status == "failed"]
        tags = {
            layer_tag(index, layer.name) for index, layer in failed if layer.name in names and layer.step == report.step
        }
        has_lost_means = any(layer.counted for _, layer in failed)
        return {
            key: math.nan
            for key in sorted(missing)
            if (has_lost_means if key.startswith(AGGREGATES) else key.rsplit("/", 1)[-1] in tags)
        }
