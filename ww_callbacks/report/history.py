"""The reports of one run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ww_callbacks.report.frame import to_frame
from ww_callbacks.report.report import Report

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


CHECKPOINT_ENTRIES = 4000
"""Entries of layers that a checkpoint keeps: at most some megabytes, written in a fraction of a second."""

MEMORY_ENTRIES = 100_000
"""Entries of layers that a run keeps in memory: each takes less than 2 KiB."""


class History(Sequence[Report]):
    """The reports of one run in the order of their steps.

    The counted layers of the first report in which no layer waits for its first turn stay those of all later ones,
    so that a mean never jumps because a layer entered or left it.

    Args:
        reports: in the order of their steps.
        max_entries: entries of layers after which older reports are thinned out, so that the memory of a long run
            stays bounded: the later half of what is kept are the latest reports, the other half stand for those
            before, the first one among them. At least 20 reports are kept. None to keep all.

    Example:
        >>> history = History()
        >>> history.append(Report((), step=0)).step, len(history), history.steps
        (0, 1, [0])
    """

    def __init__(self, reports: Iterable[Report] = (), *, max_entries: int | None = None) -> None:
        self._reports: list[Report] = []
        self._max_entries = max_entries
        self._seen = 0
        self._counted: frozenset[str] | None = None
        self._recorded: dict[str, list[tuple[int | None, float]]] = {}
        for report in reports:
            self.append(report)

    def append(self, report: Report) -> Report:
        """Add a report and return it with the counted layers of this run.

        Histograms and spectra are kept in the latest report only, for they would fill the memory of a long run.

        Raises:
            ValueError: its step is not larger than the last one.
        """
        if self._reports and not _later(report.step, self._reports[-1].step):
            raise ValueError(f"report.step: expected more than {self._reports[-1].step}, got {report.step}")
        report = report.recount(self._counted)
        if self._reports:
            self._reports[-1] = self._reports[-1].without_spectra()
        if not any(layer.is_waiting for layer in report.layers):
            self._counted = self._counted or report.counted or None
        self._reports.append(report)
        self._seen += 1
        if self._max_entries is not None and len(self) > max_reports(self._max_entries, len(report)):
            kept = kept_indices(len(self), self._max_entries * 3 // 4, len(report))  # not to do it each time
            self._reports = [self._reports[index] for index in kept]
        return report

    @property
    def seen(self) -> int:
        """How many reports have come in; more than ``len(history)`` where older ones were thinned out."""
        return self._seen

    def record(self, name: str, value: float, step: int | None = None) -> None:
        """Note a value that the user measured, such as a validation loss, beside the reports.

        Args:
            name: of the metric.
            value: measured.
            step: finished optimizer steps when it was measured.
        """
        self._recorded.setdefault(name, []).append((step, float(value)))

    def recorded(self, name: str) -> list[tuple[int | None, float]]:
        """The values noted under a name with their steps, in the order in which they came; none where there are none.

        Example:
            >>> history = History()
            >>> history.record("val_loss", 0.5, step=100)
            >>> history.recorded("val_loss"), history.recorded("val_error")
            ([(100, 0.5)], [])
        """
        return list(self._recorded.get(name, ()))

    @property
    def steps(self) -> list[int | None]:
        """The step of each report."""
        return [report.step for report in self._reports]

    def series(self, metric: str, layer: str | None = None) -> list[float | None]:
        """One value per report: a key of ``Report.summary()``, or a column of one layer.

        Args:
            metric: "alpha", "stable_rank" and so on.
            layer: name of a layer; None for the summary.
        """
        if layer is None:
            return [report.summary().get(metric) for report in self._reports]
        return [getattr(report[layer], metric) for report in self._reports]

    def plot(self, metric: str = "alpha", ax: Axes | None = None) -> Axes:
        """One metric over the steps: the median of the counted layers in a band from their smallest to their largest.

        Args:
            metric: a column of numbers of LayerReport, or a key of ``Report.summary()``.
            ax: where to draw; None for a new figure, ``.figure`` of what is returned. No display is needed.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: the history is empty, or the metric is neither.
        """
        from ww_callbacks.outputs import figures

        return figures.draw_history(self, metric, ax)

    def advice(self) -> list[str]:
        """What the training says in words: :func:`ww_callbacks.signals.advice.advise_history`.

        Example:
            >>> History().advice()
            ['No results have come in, so there is nothing to say.']
        """
        from ww_callbacks.signals.advice import advise_history

        return advise_history(self)

    def to_pandas(self) -> pd.DataFrame:
        """One row per step and layer.

        Raises:
            ImportError: pandas is not installed.
        """
        return to_frame([row for report in self._reports for row in report.to_dicts()])

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint, the reports as JSON text.

        Of a long history the later half of what is kept are the latest reports, the other half stand for those before.

        Example:
            >>> state = History([Report((), step=0), Report((), step=10)]).state_dict()
            >>> History.from_state_dict(state).steps
            [0, 10]
        """
        layers = max((len(report) for report in self._reports), default=0)
        kept = [self._reports[index].without_spectra() for index in kept_indices(len(self), CHECKPOINT_ENTRIES, layers)]
        return {
            "reports": json.dumps([[report.step, report.to_dicts()] for report in kept]),
            "seen": self._seen,
            "counted": sorted(self._counted) if self._counted is not None else None,
            "recorded": {name: [list(each) for each in values] for name, values in self._recorded.items()},
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> History:
        """The inverse of :meth:`state_dict`, for a run that goes on.

        Raises:
            ValueError: these are not the values of a history.
        """
        history = cls(max_entries=MEMORY_ENTRIES)
        history._counted = frozenset(state["counted"]) if state["counted"] is not None else None
        for step, layers in json.loads(state["reports"]):
            history.append(Report(Report.from_dicts(layers).layers, step))
        for name, values in state["recorded"].items():
            for step, value in values:
                history.record(name, value, step)
        history._seen = int(state["seen"])
        return history

    def __len__(self) -> int:
        return len(self._reports)

    def __getitem__(self, index: Any) -> Any:
        return self._reports[index]

    def __repr__(self) -> str:
        return f"History of {len(self)} reports, steps {self.steps[:1]} to {self.steps[-1:]}"


def _later(step: int | None, last: int | None) -> bool:
    return step is None or last is None or step > last


def max_reports(entries: int, layers: int) -> int:
    """How many reports are kept, at least 20.

    Args:
        entries: of layers that may be kept.
        layers: in each report.
    """
    return max(20, entries // max(layers, 1))


def kept_indices(reports: int, entries: int, layers: int) -> list[int]:
    """Which reports of a long history are kept, ascending: the latest, and some spread over the others.

    Args:
        reports: how many there are.
        entries: of layers that may be kept; never fewer than 20 reports are.
        layers: in each report.

    Example:
        >>> kept_indices(5, entries=4000, layers=50), len(kept_indices(1000, entries=4000, layers=50))
        ([0, 1, 2, 3, 4], 80)
        >>> kept_indices(1000, entries=4000, layers=400)[:4], kept_indices(1000, entries=4000, layers=400)[-3:]
        ([0, 110, 220, 330], [997, 998, 999])
    """
    limit = max_reports(entries, layers)
    if reports <= limit:
        return list(range(reports))
    latest = limit // 2
    others, left = limit - latest, reports - latest
    return [round(i * (left - 1) / (others - 1)) for i in range(others)] + list(range(left, reports))
