"""The charts of TensorBoard's tab "Custom scalars": those for which a run has metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ww_callbacks.report import Report
from ww_callbacks.report.keys import AGGREGATES, PREFIX, with_prefix


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        title: of the chart.
        tags: regular expressions of the tags of its lines; for a band, the tags of its middle, lower and upper edge.
        is_band: whether it is a band.
    """

    title: str
    tags: tuple[str, ...]
    is_band: bool = False


_BAND = Chart(
    "alpha: median, smallest to largest", tuple(f"{AGGREGATES}alpha_{name}" for name in ("median", "min", "max")), True
)
_LAYERS = {
    "alpha": "alpha by layer",
    "learned_rank": "directions learned by layer",
    "update_norm": "update norm by layer",
    "lr_ratio": "learning-rate ratio by layer",
}
"""Metric of layers → title."""
_MODEL = {
    "correlation traps": ("ww/num_traps", "ww/num_trap_layers"),
    "layers with findings": ("ww/finding/.*",),
    "towards a stop": ("ww/stop/.*",),
    "lag and missed snapshots": ("ww/lag_steps", "ww/skipped", "ww/over_budget"),
}
"""Title → patterns of metrics of the model."""


class Charts:
    """The charts of a run, which follow from the metrics that it has had so far.

    A callback that is not attached has no metrics, and so no chart.

    Args:
        prefix: of the metrics.

    Example:
        >>> from ww_callbacks import LayerReport
        >>> report = Report(tuple(LayerReport(name=name, kind="Linear", M=60) for name in ("fc1", "fc2")), 0)
        >>> charts = Charts()
        >>> metrics = {"ww_layer/alpha/000.fc1": 3.0, "ww/lag_steps": 0.0}
        >>> [chart.title for chart in charts.add(report, metrics)]
        ['alpha by layer: 1 of 2', 'lag and missed snapshots']
        >>> charts.add(report, metrics)
        ()
    """

    def __init__(self, prefix: str = PREFIX) -> None:
        self._prefix = prefix
        self._known: set[str] = set()
        self._total = 0
        self.now: tuple[Chart, ...] = ()

    def add(self, report: Report, metrics: Mapping[str, float]) -> tuple[Chart, ...]:
        """Take the metrics of a report; returns all charts if they are not those of before, otherwise none.

        Args:
            report: the latest one.
            metrics: those that are written.
        """
        new = with_prefix(metrics, PREFIX, now=self._prefix).keys() - self._known
        if not new:
            return ()
        self._known |= new
        self._total = max(self._total, sum(size is not None for size in report.column("M")))
        before, self.now = self.now, tuple(map(self._named, self._charts()))
        return () if self.now == before else self.now

    def _named(self, chart: Chart) -> Chart:
        """A chart with the prefix in its tags, and in its title if it is another one than ``ww``."""
        if self._prefix == PREFIX:
            return chart
        written = self._prefix if chart.is_band else self._prefix.replace(".", r"\.")
        tags = tuple(tag.replace(PREFIX, written, 1) for tag in chart.tags)
        return replace(chart, title=f"{self._prefix}: {chart.title}", tags=tags)

    def _charts(self) -> tuple[Chart, ...]:
        shown: dict[str, int] = {}
        for tag in self._known:
            kind, _, rest = tag.partition("/")
            if kind == "ww_layer":
                metric = rest.partition("/")[0]
                shown[metric] = shown.get(metric, 0) + 1
        layers = [
            Chart(f"{title}: {shown[metric]} of {max(self._total, shown[metric])}", (rf"^ww_layer/{metric}/.*$",))
            for metric, title in _LAYERS.items()
            if metric in shown
        ]
        tags = [tag for tag in self._known if tag.startswith(AGGREGATES)]
        model = [
            Chart(title, tuple(f"^{pattern}$" for pattern in patterns))
            for title, patterns in _MODEL.items()
            if any(re.fullmatch(pattern, tag) for pattern in patterns for tag in tags)
        ]
        return (*[_BAND] * (_BAND.tags[0] in self._known), *layers, *model)
