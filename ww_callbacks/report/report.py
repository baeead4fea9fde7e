"""All layers of a model at one moment."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ww_callbacks.report.change import against
from ww_callbacks.report.flow import CorrelationFlow, ScaleChange, correlation_flow, scale_collapse
from ww_callbacks.report.frame import to_frame
from ww_callbacks.report.layer import SCHEMA, LayerReport
from ww_callbacks.report.table import render_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MIN_COUNTED = 50
"""A layer with fewer eigenvalues does not enter the means while another one has as many."""

_MEANS = tuple(name for name, column in SCHEMA.items() if column.mean)


@dataclass(frozen=True, slots=True)
class Report:
    """All layers of a model that hold weights, at one moment.

    Attributes:
        layers: one entry per layer in model order, analysed or not.
        step: finished optimizer steps, None for a finished model.

    Example:
        >>> import numpy as np
        >>> import ww_callbacks as ww
        >>> report = ww.analyze({"fc": np.random.default_rng(0).standard_normal((100, 60))})
        >>> report["fc"].N, report["fc"].M, report["fc"].status
        (100, 60, 'ok')
    """

    layers: tuple[LayerReport, ...]
    step: int | None = None

    @classmethod
    def of(cls, layers: Iterable[LayerReport], step: int | None = None) -> Report:
        """A report in which the counted layers are chosen: those with a fit and at least 50 eigenvalues.

        Where no layer has that many, all fitted layers count.
        """
        return cls(tuple(layers), step).recount(None)

    def recount(self, names: frozenset[str] | None) -> Report:
        """The same report with the means over the layers in ``names``; None chooses them anew."""
        if names is None:
            names = choose_counted(self.layers)
        layers = tuple(
            layer if layer.counted == (layer.name in names) else replace(layer, counted=layer.name in names)
            for layer in self.layers
        )
        return Report(layers, self.step)

    def without_spectra(self) -> Report:
        """The same report without histograms and spectra."""
        return Report(tuple(replace(layer, histogram=None, spectrum=None) for layer in self.layers), self.step)

    @property
    def counted(self) -> frozenset[str]:
        """Names of the layers over which the means run."""
        return frozenset(layer.name for layer in self.layers if layer.counted)

    def __getitem__(self, name: str) -> LayerReport:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"no layer {name!r}; the layers are {[layer.name for layer in self.layers]}")

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self.layers)

    def __str__(self) -> str:
        return render_table(self.to_dicts(), self.summary(), self.step)

    def summary(self) -> dict[str, float]:
        """Means over the counted layers and counts over all; finite numbers only.

        Keys are those of the logged metrics without their prefix: alpha, alpha_median, alpha_min, alpha_max,
        alpha_hill, alpha_weighted, log_norm, log_spectral_norm, stable_rank, D, num_overtrained,
        num_undertrained, num_no_tail, num_reliable, failed, and with a shuffled control num_traps and
        num_trap_layers. A mean without any value is left out.
        """
        result: dict[str, float] = {}
        for name in _MEANS:
            mean = self.mean(name)
            if mean is not None:
                result[name] = mean
            if name == "alpha" and (values := self._counted_values(name)):
                result["alpha_median"] = statistics.median(values)
                result["alpha_min"], result["alpha_max"] = min(values), max(values)
        result["num_overtrained"] = self._count("warning", "over-trained")
        result["num_undertrained"] = self._count("warning", "under-trained")
        result["num_no_tail"] = self._count("warning", "no tail")
        result["num_reliable"] = self._count("reliable", True)
        result["failed"] = self._count("status", "failed")
        traps = [layer.num_traps for layer in self.layers if layer.num_traps is not None]
        if traps:
            result["num_traps"] = float(sum(traps))
            result["num_trap_layers"] = float(sum(number > 0 for number in traps))
        return result

    def mean(self, metric: str) -> float | None:
        """Mean of a column over the counted layers; None where none of them has a value.

        Args:
            metric: "alpha", "log_norm" and so on.
        """
        values = self._counted_values(metric)
        return math.fsum(values) / len(values) if values else None

    def correlation_flow(self) -> CorrelationFlow:
        """Alpha against depth: :func:`ww_callbacks.report.flow.correlation_flow`."""
        return correlation_flow(self.layers)

    def scale_collapse(self, baseline: Report) -> tuple[ScaleChange, ...]:
        """How far the scale of each layer moved: :func:`ww_callbacks.report.flow.scale_collapse`.

        Args:
            baseline: a report of the same model before; layers are matched by name.

        Returns:
            One entry per layer whose λ_max is known in both, in model order.
        """
        return scale_collapse(self.layers, baseline.layers)

    def against(self, baseline: Report, distances: Mapping[str, float | None] | None = None) -> Report:
        """The same report with how each layer changed: what ``analyze(…, baseline=…)`` gives.

        Args:
            baseline: a report of the model before, such as the first one of a history; layers are matched by name.
            distances: how far the weights of each layer moved, where that is known: reports do not hold weights.
        """
        return Report(against(self.layers, baseline.layers, distances or {}), self.step)

    def plot(self, ax: Axes | None = None) -> Axes:
        """How many layers have which alpha, beside the same for their shuffled weights.

        Args:
            ax: where to draw; None for a new figure, ``.figure`` of what is returned. No display is needed.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from ww_callbacks.outputs import figures

        return figures.draw_alpha_histogram(self, ax)

    def plot_correlation_flow(self, ax: Axes | None = None) -> Axes:
        """Alpha against depth with its intervals, and the alpha of the shuffled weights.

        Args:
            ax: where to draw; None for a new figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from ww_callbacks.outputs import figures

        return figures.draw_correlation_flow(self, ax)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from ww_callbacks.outputs.html import report_fragment

        return report_fragment(self)

    def advice(self) -> list[str]:
        """What the numbers say in words, and what is uncertain; one sentence that says so where they say nothing.

        :func:`ww_callbacks.signals.advice.advise_report` does it.
        """
        from ww_callbacks.signals.advice import advise_report

        return advise_report(self)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary of plain values per layer, ready for JSON."""
        return [layer.to_dict() for layer in self.layers]

    @classmethod
    def from_dicts(cls, layers: Iterable[dict[str, Any]]) -> Report:
        """The inverse of :meth:`to_dicts`; the step is that of the latest layer.

        Raises:
            ValueError: an entry does not hold the columns of a LayerReport.
        """
        read = tuple(LayerReport.from_dict(layer) for layer in layers)
        steps = [layer.step for layer in read if layer.step is not None]
        return cls(read, max(steps, default=None))

    def to_pandas(self) -> pd.DataFrame:
        """One row per layer, one column per metric; what does not exist is NaN.

        Raises:
            ImportError: pandas is not installed.
        """
        return to_frame(self.to_dicts())

    def _counted_values(self, name: str) -> list[float]:
        values = (getattr(layer, name) for layer in self.layers if layer.counted)
        return [value for value in values if value is not None and math.isfinite(value)]

    def _count(self, name: str, value: object) -> float:
        return float(sum(getattr(layer, name) == value for layer in self.layers))


def choose_counted(layers: Iterable[LayerReport]) -> frozenset[str]:
    """Names of the fitted layers with at least 50 eigenvalues; of all fitted layers where none has that many."""
    fitted = [layer for layer in layers if layer.alpha is not None]
    large = [layer for layer in fitted if (layer.num_evals or 0) >= MIN_COUNTED]
    return frozenset(layer.name for layer in large or fitted)
