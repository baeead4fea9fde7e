"""The results of all layers of a model at one step."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ww_callbacks.checks import check_known
from ww_callbacks.printable import LONGEST_NAME, quoted, quoted_list, shown_text
from ww_callbacks.report.change import against
from ww_callbacks.report.columns import is_count
from ww_callbacks.report.discovery import discoveries
from ww_callbacks.report.experts import Experts, summarise_experts
from ww_callbacks.report.finding import Finding
from ww_callbacks.report.flow import CorrelationFlow, ScaleChange, correlation_flow, scale_collapse
from ww_callbacks.report.frame import to_frame
from ww_callbacks.report.layer import FIELDS, SCHEMA, LayerReport
from ww_callbacks.report.row import POSITIONS, changed
from ww_callbacks.report.table import render_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MIN_COUNTED = 50
"""Layers with fewer eigenvalues are left out of the means if any layer has this many."""

_MEANS = tuple(name for name, column in SCHEMA.items() if column.mean)
SUMMARY_KEYS = (
    *_MEANS,
    *("alpha_median", "alpha_min", "alpha_max"),
    *("num_overtrained", "num_undertrained", "num_no_tail", "num_reliable", "failed"),
    *("num_traps", "num_trap_layers", "num_learned"),
)
"""All keys that a summary may have."""


@dataclass(frozen=True, slots=True)
class Report:
    """All layers of a model that have weights, at one step.

    Attributes:
        layers: one entry per layer, analysed or not, in model order.
        step: number of finished optimizer steps; None for a finished model.
        baseline: the report that this one is compared with; None if it is compared with none.

    Example:
        >>> import numpy as np
        >>> import ww_callbacks as ww
        >>> report = ww.analyze({"fc": np.random.default_rng(0).standard_normal((100, 60))})
        >>> report["fc"].N, report["fc"].M, report["fc"].status
        (100, 60, 'ok')
    """

    layers: tuple[LayerReport, ...]
    step: int | None = None
    baseline: Report | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, layers: Iterable[LayerReport], step: int | None = None) -> Report:
        """A report whose means are taken over the layers with a fit and at least 50 eigenvalues.

        If no layer has that many, the means are taken over all fitted layers.
        """
        return cls(tuple(layers), step).recount(None)

    def column(self, name: str) -> list[Any]:
        """One column of all layers, in model order.

        Args:
            name: a field of LayerReport.

        Example:
            >>> Report((LayerReport(name="fc", kind="Linear", alpha=2.5),)).column("alpha")
            [2.5]

        Raises:
            ValueError: there is no such column.
        """
        position = _position(name)
        return [layer[position] for layer in self.layers]

    def recount(self, names: frozenset[str] | None) -> Report:
        """The same report with means over the layers in ``names``; None chooses the layers again."""
        if names is None:
            names = choose_counted(self.layers)
        layers = tuple(
            layer if layer.counted == (layer.name in names) else changed(layer, counted=layer.name in names)
            for layer in self.layers
        )
        return Report(layers, self.step)

    def after(self, first: Report) -> Report:
        """The same report with the number of traps that each layer had at step 0 of the run.

        Args:
            first: the first report of the run. Only its layers that were analysed at step 0 are used.
        """
        at_start = {layer.name: layer.num_traps for layer in first.layers if layer.step == 0 and layer.num_traps}
        if not at_start:
            return self
        layers = tuple(changed(layer, initial_traps=at_start.get(layer.name)) for layer in self.layers)
        return Report(layers, self.step)

    def without_spectra(self) -> Report:
        """The same report without histograms and spectra."""
        return Report(tuple(changed(layer, histogram=None, spectrum=None) for layer in self.layers), self.step)

    @property
    def counted(self) -> frozenset[str]:
        """Names of the layers included in the means."""
        return frozenset(layer.name for layer in self.layers if layer.counted)

    def __getitem__(self, name: str) -> LayerReport:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {quoted(str(name))}; the layers are {quoted_list(self.column('name'))}")

    def __contains__(self, name: object) -> bool:
        """Whether there is a layer of that name."""
        return any(layer.name == name for layer in self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self.layers)

    def __str__(self) -> str:
        return render_table(self.to_dicts(), self.summary(), self.step)

    def summary(self) -> dict[str, float]:
        """Means over the counted layers and counts over all layers, finite numbers only.

        The keys are those of the logged metrics without the prefix: the columns declared with ``mean=True``, such as
        alpha and stable_rank; alpha_median, alpha_min, alpha_max; num_overtrained, num_undertrained, num_no_tail,
        num_reliable, failed; with a shuffled control num_traps and num_trap_layers, without the traps of step 0; with
        ``updates=True`` num_learned. A mean without values is left out.

        A layer counts as one with a tail, with traps or as one that has learned only if its p-value is a discovery
        among all layers (see :func:`ww_callbacks.report.discovery.discoveries`). In a large model, a layer that is
        "arranged" can therefore be counted under num_no_tail.
        """
        result: dict[str, float] = {}
        counted = [layer for layer in self.layers if layer.counted]
        for name in _MEANS:
            values = _finite_values(counted, name)
            if values:
                result[name] = math.fsum(values) / len(values)
            if name == "alpha" and values:
                result["alpha_median"] = statistics.median(values)
                result["alpha_min"], result["alpha_max"] = min(values), max(values)
        significant = self._significant("null_pvalue")
        warnings, alphas, reliable = self.column("warning"), self.column("alpha"), self.column("reliable")
        tails = Counter(warnings[index] for index in significant)
        others = sum(
            alpha is not None and warning != "cannot be told" and index not in significant
            for index, (alpha, warning) in enumerate(zip(alphas, warnings, strict=True))
        )
        result["num_overtrained"] = float(tails["over-trained"])
        result["num_undertrained"] = float(tails["under-trained"])
        result["num_no_tail"] = float(tails["no tail"] + others)
        result["num_reliable"] = float(sum(reliable[index] is True for index in significant))
        result["failed"] = float(self.column("status").count("failed"))
        traps = self.column("num_traps")
        if any(count is not None for count in traps):
            significant = self._significant("trap_pvalue")
            initial = self.column("initial_traps")
            more = [(traps[index] or 0) - (initial[index] or 0) for index in significant]
            result["num_traps"] = float(sum(count for count in more if count > 0))
            result["num_trap_layers"] = float(sum(count > 0 for count in more))
        learned = {index: value for index, value in enumerate(self.column("learned_pvalue")) if value is not None}
        if learned:
            result["num_learned"] = float(len(discoveries(learned)))
        return result

    def mean(self, metric: str) -> float | None:
        """Mean of a column over the counted layers; None if none of them has a value.

        Args:
            metric: a numeric column, such as "alpha".

        Raises:
            ValueError: there is no such column, or it holds no numbers.
        """
        values = _finite_values([layer for layer in self.layers if layer.counted], metric)
        return math.fsum(values) / len(values) if values else None

    def experts(self) -> tuple[Experts, ...]:
        """The experts of each block of a mixture of experts: smallest, median and largest alpha, and the odd ones.

        See :func:`ww_callbacks.report.experts.summarise_experts`.
        """
        return summarise_experts(zip(self.column("name"), self.column("alpha"), strict=True))

    def correlation_flow(self) -> CorrelationFlow:
        """Alpha as a function of depth, see :func:`ww_callbacks.report.flow.correlation_flow`."""
        return correlation_flow(self.layers)

    def scale_collapse(self, baseline: Report) -> tuple[ScaleChange, ...]:
        """How much the scale of each layer changed, see :func:`ww_callbacks.report.flow.scale_collapse`.

        Args:
            baseline: an earlier report of the same model; layers are matched by name.

        Returns:
            One entry per layer with λ_max in both reports, in model order.

        Raises:
            TypeError: the baseline is no report.
        """
        return scale_collapse(self.layers, _layers_of(baseline))

    def against(self, baseline: Report, changes: Iterable[LayerReport] = ()) -> Report:
        """The same report with the baseline columns, as ``analyze(…, baseline=…)`` returns it.

        Args:
            baseline: an earlier report of the model, such as the first of a history; layers are matched by name.
            changes: the analysis of the changes W - W₀, if known; reports do not contain weights.

        Raises:
            TypeError: the baseline is no report.
        """
        return Report(against(self.layers, _layers_of(baseline), changes), self.step, baseline)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the distribution of alpha over the layers and over their shuffled controls.

        Args:
            ax: axes to draw into; None for a new figure, the ``.figure`` of the result. No display is needed.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from ww_callbacks.outputs import figures

        return figures.draw_alpha_histogram(self, ax)

    def plot_correlation_flow(self, ax: Axes | None = None) -> Axes:
        """Plot alpha as a function of depth, with intervals, and alpha of the shuffled weights.

        Args:
            ax: axes to draw into; None for a new figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from ww_callbacks.outputs import figures

        return figures.draw_correlation_flow(self, ax)

    def _repr_html_(self) -> str:
        """The representation in notebooks."""
        from ww_callbacks.outputs.html import report_fragment

        return report_fragment(self)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What this report shows, alarms first, see :func:`ww_callbacks.signals.findings.findings_of_report`."""
        from ww_callbacks.signals.findings import findings_of_report

        return findings_of_report(self)

    def advice(self) -> list[str]:
        """Findings and uncertainty as sentences, see :func:`ww_callbacks.signals.advice.advise_report`."""
        from ww_callbacks.signals.advice import advise_report

        return advise_report(self)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary of plain values per layer, ready for JSON."""
        return [layer.to_dict() for layer in self.layers]

    @classmethod
    def from_dicts(cls, layers: Iterable[dict[str, Any]]) -> Report:
        """The inverse of :meth:`to_dicts`; the step is the latest step of a layer.

        Raises:
            ValueError: an entry does not have the columns of a LayerReport.
        """
        read = tuple(LayerReport.from_dict(layer) for layer in layers)
        steps = [layer.step for layer in read if layer.step is not None]
        return cls(read, max(steps, default=None))

    @classmethod
    def from_line(cls, values: object) -> Report:
        """The report that a line of a JSON lines file holds, or an entry of a checkpoint.

        Args:
            values: ``{"step": …, "layers": […]}`` as JSON has them; other entries are ignored.

        Raises:
            ValueError: these are not the values of a report.

        Example:
            >>> Report.from_line({"step": 10, "layers": []})
            Report(layers=(), step=10)
        """
        if not isinstance(values, Mapping) or not {"step", "layers"} <= values.keys():
            raise ValueError("expected an object with step and layers")
        step, layers = values["step"], values["layers"]
        if step is not None and not (is_count(step) and step >= 0):
            raise ValueError(f"step: expected a whole number of at least 0, got {shown_text(repr(step), LONGEST_NAME)}")
        if not isinstance(layers, list):
            raise ValueError("layers: expected a list")
        return cls(tuple(map(LayerReport.from_dict, layers)), step)

    def to_pandas(self) -> pd.DataFrame:
        """One row per layer, one column per metric; a number that does not exist is NaN.

        Raises:
            ImportError: pandas is not installed.
        """
        return to_frame(self.to_dicts())

    def _significant(self, name: str) -> frozenset[int]:
        """Indices of the layers whose p-value is a discovery among all layers, and of those without a p-value."""
        pvalues = dict(enumerate(self.column(name)))
        unknown = frozenset(index for index, value in pvalues.items() if value is None)
        return unknown | discoveries({index: value for index, value in pvalues.items() if value is not None})


def _layers_of(baseline: object) -> tuple[LayerReport, ...]:
    if not isinstance(baseline, Report):
        raise TypeError(f"baseline: expected a Report, got {type(baseline).__name__}; analyze(model) makes one")
    return baseline.layers


def _position(name: str) -> int:
    try:
        return POSITIONS[name]
    except KeyError:
        check_known("name", name, FIELDS, "column")
        raise


def _finite_values(layers: Iterable[LayerReport], name: str) -> list[float]:
    position = _position(name)
    values = (layer[position] for layer in layers)
    try:
        return [value for value in values if value is not None and math.isfinite(value)]
    except TypeError as error:
        raise ValueError(f"metric: expected a numeric column such as 'alpha', got {name!r}") from error


def choose_counted(layers: Iterable[LayerReport]) -> frozenset[str]:
    """Names of the fitted layers with at least 50 eigenvalues; of all fitted layers if none has that many.

    Low-rank adapters are never among them.
    """
    fitted = [layer for layer in layers if layer.is_fitted]
    large = [layer for layer in fitted if (layer.num_evals or 0) >= MIN_COUNTED]
    return frozenset(layer.name for layer in large or fitted)
