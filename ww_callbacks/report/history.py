"""The reports of one run."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ww_callbacks.checks import check_known
from ww_callbacks.report.columns import is_count
from ww_callbacks.report.finding import Finding
from ww_callbacks.report.frame import to_frame
from ww_callbacks.report.layer import FIELDS
from ww_callbacks.report.report import SUMMARY_KEYS, Report

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


CHECKPOINT_ENTRIES = 4000
"""Maximal number of layer entries in a checkpoint: a few megabytes, written in a fraction of a second."""

MEMORY_ENTRIES = 100_000
"""Maximal number of layer entries that a run keeps in memory; each takes less than 2 KiB."""


class History(Sequence[Report]):
    """The reports of one run, ordered by step.

    The means of all reports are taken over the counted layers of the first report in which no layer waits for its first
    analysis, so that a mean never jumps because a layer is added or removed.

    Args:
        reports: ordered by step.
        max_entries: number of layer entries above which older reports are thinned out, to bound the memory of a long
            run: half of the kept reports are the latest ones, the other half are spread over the earlier ones and
            include the first. At least 20 reports are kept. None keeps all.

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
        """Append a report and return it with the counted layers of this run.

        Its layers know how many traps they had at step 0 (``initial_traps``), if the first report is about that step.
        Only the latest report keeps its histograms and spectra, which would fill the memory of a long run.

        Raises:
            TypeError: it is no report.
            ValueError: the step is not larger than the last one.
        """
        if not isinstance(report, Report):
            raise TypeError(f"report: expected a Report, got {type(report).__name__}")
        if self._reports and not _later(report.step, self._reports[-1].step):
            raise ValueError(f"report.step: expected more than {self._reports[-1].step}, got {report.step}")
        report = report.recount(self._counted)
        report = report.after(self._reports[0] if self._reports else report)
        if self._reports:
            self._reports[-1] = self._reports[-1].without_spectra()
        if "waiting" not in report.column("skip_reason"):
            self._counted = self._counted or report.counted or None
        self._reports.append(report)
        self._seen += 1
        if self._max_entries is not None and len(self) > max_reports(self._max_entries, len(report)):
            kept = kept_indices(len(self), self._max_entries * 3 // 4, len(report))  # not at every append
            self._reports = [self._reports[index] for index in kept]
        return report

    @property
    def seen(self) -> int:
        """Number of appended reports; larger than ``len(history)`` if older ones were thinned out."""
        return self._seen

    def record(self, name: str, value: float, step: int | None = None) -> None:
        """Record a value measured by the user, such as a validation loss.

        Args:
            name: of the metric.
            value: of the metric.
            step: number of finished optimizer steps at the measurement.

        Raises:
            TypeError: the name is no string, or the value no number.
        """
        if not isinstance(name, str):
            raise TypeError(f"name: expected a string, got {name!r}")
        try:
            number = float(value)
        except (TypeError, ValueError) as error:
            raise TypeError(f"value: expected a number for {name!r}, got {value!r}") from error
        self._recorded.setdefault(name, []).append((step, number))

    def recorded(self, name: str) -> list[tuple[int | None, float]]:
        """The values recorded under a name, with their steps, in the order of recording; empty if there are none.

        Example:
            >>> history = History()
            >>> history.record("val_loss", 0.5, step=100)
            >>> history.recorded("val_loss"), history.recorded("val_error")
            ([(100, 0.5)], [])
        """
        return list(self._recorded.get(name, ()))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the recorded metrics."""
        return tuple(self._recorded)

    @property
    def steps(self) -> list[int | None]:
        """The step of each report."""
        return [report.step for report in self._reports]

    def series(self, metric: str, layer: str | None = None) -> list[float | None]:
        """One value per report: a key of ``Report.summary()``, or a column of one layer.

        Args:
            metric: such as "alpha" or "stable_rank".
            layer: name of a layer; None for the summary.

        Raises:
            KeyError: there is no such layer.
            ValueError: there is no such metric.
        """
        if layer is None:
            check_known("metric", metric, SUMMARY_KEYS, "metric of the model")
            return [report.summary().get(metric) for report in self._reports]
        check_known("metric", metric, FIELDS, "column")
        return [getattr(report[layer], metric) for report in self._reports]

    def plot(self, metric: str = "alpha", ax: Axes | None = None) -> Axes:
        """Plot a metric over the steps: the median over the counted layers, with a band from minimum to maximum.

        Args:
            metric: a numeric column of LayerReport, or a key of ``Report.summary()``.
            ax: axes to draw into; None for a new figure, the ``.figure`` of the result. No display is needed.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: the history is empty, or the metric is neither.
        """
        from ww_callbacks.outputs import figures

        return figures.draw_history(self, metric, ax)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What holds at the latest report, alarms first, see :mod:`ww_callbacks.signals.findings`.

        Example:
            >>> History().findings
            ()
        """
        from ww_callbacks.signals.findings import findings_of_history

        return findings_of_history(self)

    def advice(self) -> list[str]:
        """Findings about the training as sentences, see :func:`ww_callbacks.signals.advice.advise_history`.

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
        """Plain values for a checkpoint, with the reports as JSON text.

        A long history is thinned out: half of the kept reports are the latest ones, the other half are spread over the
        earlier ones.

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
        """The inverse of :meth:`state_dict`, to resume a run.

        Raises:
            ValueError: the values are not those of a history.
        """
        history = cls(max_entries=MEMORY_ENTRIES)
        try:
            counted, seen = state["counted"], state["seen"]
            history._counted = None if counted is None else frozenset(map(_text, counted))
            for step, layers in json.loads(state["reports"]):
                history.append(Report.from_line({"step": step, "layers": layers}))
            for name, values in state["recorded"].items():
                for step, value in values:
                    history.record(_text(name), value, None if step is None else _count(step))
            history._seen = _count(seen, least=len(history))
        except (AttributeError, KeyError, OverflowError, RecursionError, TypeError) as error:
            raise ValueError(f"state: not that of a history: {type(error).__name__}: {error}") from error
        return history

    def of_layers(self, names: Collection[str], before: int) -> History:
        """The reports before a step, with these layers alone, without the values recorded by the user.

        Args:
            names: of the layers.
            before: number of finished optimizer steps.

        Example:
            >>> from ww_callbacks import LayerReport
            >>> report = Report(tuple(LayerReport(name=name, kind="Linear") for name in ("body", "head")), step=0)
            >>> [layer.name for layer in History([report]).of_layers({"body"}, before=5)[0]]
            ['body']
        """
        history = History(max_entries=self._max_entries)
        history._counted = None if self._counted is None else (self._counted & frozenset(names)) or None
        for report in self:
            if report.step is not None and report.step < before:
                history.append(Report(tuple(layer for layer in report.layers if layer.name in names), report.step))
        history._seen = self._seen - (len(self) - len(history))
        return history

    def _repr_html_(self) -> str | None:
        """The page of the run, in notebooks."""
        from ww_callbacks.page.notebook import history_frame

        return history_frame(self) if self._reports else None

    def __len__(self) -> int:
        return len(self._reports)

    def __getitem__(self, index: Any) -> Any:
        try:
            return self._reports[index]
        except IndexError:
            raise IndexError(_no_report(index, len(self))) from None
        except TypeError:
            raise TypeError(
                f"index: reports are numbered, got {index!r}; history[-1] is the latest one, history[-1][name] a layer"
            ) from None

    def __repr__(self) -> str:
        steps = f", steps {self.steps[0]} to {self.steps[-1]}" if self._reports else ""
        return f"History of {len(self)} reports{steps}"


def _no_report(index: int, count: int) -> str:
    """Why there is no report of that number, and what to do.

    Example:
        >>> _no_report(5, 3)
        'index: there are 3 reports, so there is no number 5'
    """
    if count:
        return f"index: there are {count} reports, so there is no number {index}"
    return (
        "no result has come in yet: they come in while training goes on. monitor.wait_for_first() waits for the first "
        "one, and after finish() all are there. Of several ranks, only the first one has a history"
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {value!r}")
    return value


def _count(value: object, least: int = 0) -> int:
    if not is_count(value) or value < least:
        raise TypeError(f"expected a whole number of at least {least}, got {value!r}")
    return value


def _later(step: int | None, last: int | None) -> bool:
    return step is None or last is None or step > last


def max_reports(entries: int, layers: int) -> int:
    """Maximal number of reports that are kept, at least 20.

    Args:
        entries: maximal number of layer entries.
        layers: number of layers in each report.
    """
    return max(20, entries // max(layers, 1))


def kept_indices(reports: int, entries: int, layers: int) -> list[int]:
    """Indices of the reports of a long history that are kept, ascending: the latest, and some of the earlier ones.

    Args:
        reports: number of reports.
        entries: maximal number of layer entries; at least 20 reports are kept.
        layers: number of layers in each report.

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
