"""Comparison of a series of models: their means, and the correlation with their quality."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ww_callbacks.printable import shown_name
from ww_callbacks.report.correlation import Cause, Correlation, correlate
from ww_callbacks.report.layer import SCHEMA
from ww_callbacks.report.report import Report
from ww_callbacks.report.table import align

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

METRICS = tuple(name for name, column in SCHEMA.items() if column.compared)
_SAYS: dict[Cause, str] = {
    "scale and depth": (
        "the shuffled weights, which keep nothing that was learned except the scale, correlate as well: scale and "
        "depth explain it, and it says nothing about the shape of the tails"
    ),
    "scale": "vanishes if all layers have the same scale: scale explains it, not the shape of the tails",
    "shape": "neither shuffled nor rescaled weights explain it: the shape of the spectra correlates with quality",
    "chance": "indistinguishable from chance",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Several models side by side.

    Attributes:
        reports: name → report of each model.
        quality: name → quality; empty if none was given.
        shuffled: name → report of the model with the weights of each matrix shuffled; only with a quality.
        rescaled: name → report of the model with each layer scaled to rms 1; only with a quality.
    """

    reports: Mapping[str, Report]
    quality: Mapping[str, float] = field(default_factory=dict)
    shuffled: Mapping[str, Report] = field(default_factory=dict)
    rescaled: Mapping[str, Report] = field(default_factory=dict)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One row per model: name, quality, number of counted layers, and the mean of each metric over them."""
        return [
            {"model": name, "quality": self.quality.get(name), "layers": len(report.counted)}
            | {metric: report.mean(metric) for metric in METRICS}
            for name, report in self.reports.items()
        ]

    def to_pandas(self) -> pd.DataFrame:
        """The rows of :meth:`to_dicts` as a frame.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install ww_callbacks[pandas]") from error
        return pd.DataFrame(self.to_dicts(), columns=["model", "quality", "layers", *METRICS]).set_index("model")

    def correlations(self) -> tuple[Correlation, ...]:
        """Correlation of each metric with the quality, with both controls; empty without a quality.

        Metrics of which no model has a value, such as those of changes, are not tested.
        """
        names = [name for name in self.reports if name in self.quality]
        if not names:
            return ()
        metrics = [metric for metric in METRICS if any(self.reports[name].mean(metric) is not None for name in names)]
        values = [
            {metric: [reports[name].mean(metric) for name in names] for metric in metrics}
            for reports in (self.reports, self.shuffled, self.rescaled)
        ]
        return correlate([self.quality[name] for name in names], *values)

    def conclusions(self) -> list[str]:
        """The conclusions from the correlations, and their limits, as sentences."""
        correlations = self.correlations()
        if not correlations:
            return []
        n = max(each.n for each in correlations)
        if n < 3:
            return [f"n = {n}: a correlation needs at least three models."]
        chance = 2 / math.factorial(n)
        lines = [
            f"n = {n} models: each metric puts them in the right or the reverse order by chance with probability "
            f"{chance:.2g}, and {len(correlations)} metrics are tested."
        ]
        for cause, says in _SAYS.items():
            found = [each for each in correlations if each.cause == cause]
            if found:
                lines.append(f"{', '.join(map(_with_controls, found))}: {says}.")
        return lines

    def plot(self, metric: str = "alpha_weighted", ax: Axes | None = None) -> Axes:
        """Plot a metric of the models and of their shuffled weights against the quality.

        Args:
            metric: a mean in the table.
            ax: axes to draw into; None for a new figure, the ``.figure`` of the result. No display is needed.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: there is no quality, or no such metric.
        """
        from ww_callbacks.outputs.scatter import draw_quality

        return draw_quality(self, metric, ax)

    def table(self) -> list[list[str]]:
        """The models as cells, header first."""
        rows = self.to_dicts()
        columns = [column for column in rows[0] if column != "quality" or self.quality] if rows else ["model"]
        return [columns, *([_cell(row[column]) for column in columns] for row in rows)]

    def correlation_table(self) -> list[list[str]]:
        """The correlations as cells, header first; empty without a quality."""
        lines = [
            [
                each.metric,
                *map(_signed, (each.pearson, each.shuffled_pearson, each.rescaled_pearson)),
                *map(_signed, (each.kendall, each.shuffled_kendall, each.rescaled_kendall)),
                "-" if each.p_value is None else f"{each.p_value:.2g}",
                each.cause,
            ]
            for each in self.correlations()
        ]
        head = ["metric", "r", "r shuffled", "r rms 1", "τ", "τ shuffled", "τ rms 1", "p", ""]
        return [head, *lines] if lines else []

    def __str__(self) -> str:
        return render_comparison(self)


def render_comparison(comparison: Comparison, show: Callable[[Sequence[Sequence[str]]], str] = align) -> str:
    """The table of the models, that of the correlations, and the conclusions, as text.

    Args:
        comparison: of several models.
        show: turns the cells of a table, header first, into text.
    """
    parts, correlations = [show(comparison.table())], comparison.correlation_table()
    if correlations:
        number = sum(name in comparison.quality for name in comparison.reports)
        parts += ["", f"correlation with quality, n = {number}", show(correlations), ""]
    return "\n".join([*parts, *comparison.conclusions()])


def _with_controls(each: Correlation) -> str:
    return (
        f"{each.metric} (r = {_signed(each.pearson)}, shuffled {_signed(each.shuffled_pearson)}, "
        f"rms 1 {_signed(each.rescaled_pearson)})"
    )


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1e5 else f"{value:.2e}"
    return "-" if value is None else shown_name(str(value))
