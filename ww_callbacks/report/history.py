"""The reports of one run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ww_callbacks.report.frame import to_frame
from ww_callbacks.report.report import Report

if TYPE_CHECKING:
    import pandas as pd


class History(Sequence[Report]):
    """The reports of one run in the order of their steps.

    The counted layers of the first report in which no layer waits for its first turn stay those of all later ones,
    so that a mean never jumps because a layer entered or left it.

    Example:
        >>> history = History()
        >>> history.append(Report((), step=0)).step, len(history), history.steps
        (0, 1, [0])
    """

    def __init__(self, reports: Iterable[Report] = ()) -> None:
        self._reports: list[Report] = []
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
        return report

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

    def to_pandas(self) -> pd.DataFrame:
        """One row per step and layer.

        Raises:
            ImportError: pandas is not installed.
        """
        return to_frame([row for report in self._reports for row in report.to_dicts()])

    def __len__(self) -> int:
        return len(self._reports)

    def __getitem__(self, index: Any) -> Any:
        return self._reports[index]

    def __repr__(self) -> str:
        return f"History of {len(self)} reports, steps {self.steps[:1]} to {self.steps[-1:]}"


def _later(step: int | None, last: int | None) -> bool:
    return step is None or last is None or step > last
