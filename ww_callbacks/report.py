"""The results as values: one layer, one snapshot of a model, and the history of a run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from ww_callbacks.table import render_table

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["ok", "skipped", "failed"]
Warning_ = Literal["", "over-trained", "under-trained", "no tail"]

Verdict = Literal["power law", "exponential", "log-normal", "truncated power law", "undecided"]

MIN_COUNTED = 50
"""A layer with fewer eigenvalues does not enter the means while another one has as many."""

_MEANS = (
    "alpha",
    "alpha_hill",
    "alpha_weighted",
    "log_norm",
    "log_spectral_norm",
    "stable_rank",
    "D",
)


@dataclass(frozen=True, slots=True)
class Histogram:
    """A spectrum, and that of the shuffled weights, in equal bins of log10 λ.

    Attributes:
        low: log10 of the lower end.
        high: log10 of the upper end.
        counts: eigenvalues in each bin, at most 64 bins.
        rand_counts: eigenvalues of the shuffled matrices in the same bins; None without them.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    rand_counts: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """One layer at one step. A number that does not exist is None.

    The columns keep WeightWatcher's names where the meaning is the same.

    Attributes:
        name: full dotted name, without the prefixes of wrappers.
        kind: class of the layer.
        N: larger side of each matrix.
        M: smaller side of each matrix.
        rf: number of matrices pooled (kernel positions); 1 for dense layers.
        Q: N/M.
        num_evals: number of eigenvalues, M·rf.
        status: "ok"; "skipped" (nothing to fit) or "failed", both with a reason.
        reason: a sentence, empty when the status is "ok".
        warning: "over-trained", "under-trained", "no tail" or "".
        counted: whether the layer enters the means of the report.
        step: finished optimizer steps when the weights were copied.
        alpha: exponent of the power-law tail.
        sigma: asymptotic standard error of alpha.
        alpha_low: lower end of the 95 % interval of alpha.
        alpha_high: upper end of it.
        alpha_hill: Hill estimate from the upper half of the spectrum; a scale of its own.
        D: Kolmogorov-Smirnov distance of the fit.
        xmin: smallest eigenvalue of the fitted tail.
        xmax: largest eigenvalue.
        num_pl_spikes: number of eigenvalues in the tail.
        finger_shift: how far alpha moves when the largest eigenvalue is left out.
        reliable: tail formed, at least 50 eigenvalues and 10 of them in the tail.
        norm: squared Frobenius norm, Σλ.
        log_norm: log10 of it.
        spectral_norm: squared spectral norm, λ_max.
        log_spectral_norm: log10 of it.
        lambda_max: λ_max.
        alpha_weighted: alpha · log10 λ_max.
        log_alpha_norm: log10 Σ λ^alpha.
        stable_rank: Σλ/λ_max.
        matrix_rank: eigenvalues above the rounding error.
        rank_loss: eigenvalues that are numerically zero.
        entropy: entropy of λ/Σλ relative to its maximum.
        sigma_mp: σ of the Marchenko-Pastur law fitted to the bulk, where the mean eigenvalue is 1.
        bulk_min: lower edge of that bulk.
        bulk_max: upper edge of it.
        num_spikes: eigenvalues above the edge by more than its fluctuation.
        mp_softrank: bulk_max/λ_max.
        rand_alpha: alpha of the shuffled weights.
        max_rand_eval: largest eigenvalue of the shuffled weights.
        ww_softrank: max_rand_eval/λ_max.
        rand_distance: Jensen-Shannon distance of the spectrum from that of the shuffled weights.
        num_traps: eigenvalues of the shuffled weights above the random edge: correlation traps.
        trap_pvalue: how probable as large a max_rand_eval is without traps; an upper bound for small or thin layers.
        detX_num: number of the largest eigenvalues whose product is 1 at mean 1.
        ERG_gap: detX_num - num_pl_spikes.
        Lambda: rate of the exponential cut-off (fit "TPL").
        alpha_error: estimated error of alpha from single precision (precision "float32").
        gof_pvalue: goodness of fit of the power law (on request); small speaks against it.
        vs_exponential: the better of power law and exponential, or "undecided" (on request).
        vs_lognormal: the same for the log-normal.
        vs_truncated: the same for the truncated power law.
        histogram: counts for a picture; not a column.
        spectrum: all eigenvalues, ascending (on request); not a column.
    """

    name: str
    kind: str
    N: int | None = None
    M: int | None = None
    rf: int | None = None
    Q: float | None = None
    num_evals: int | None = None
    status: Status = "ok"
    reason: str = ""
    warning: Warning_ = ""
    counted: bool = False
    step: int | None = None
    alpha: float | None = None
    sigma: float | None = None
    alpha_low: float | None = None
    alpha_high: float | None = None
    alpha_hill: float | None = None
    D: float | None = None
    xmin: float | None = None
    xmax: float | None = None
    num_pl_spikes: int | None = None
    finger_shift: float | None = None
    reliable: bool | None = None
    norm: float | None = None
    log_norm: float | None = None
    spectral_norm: float | None = None
    log_spectral_norm: float | None = None
    lambda_max: float | None = None
    alpha_weighted: float | None = None
    log_alpha_norm: float | None = None
    stable_rank: float | None = None
    matrix_rank: int | None = None
    rank_loss: int | None = None
    entropy: float | None = None
    sigma_mp: float | None = None
    bulk_min: float | None = None
    bulk_max: float | None = None
    num_spikes: int | None = None
    mp_softrank: float | None = None
    rand_alpha: float | None = None
    max_rand_eval: float | None = None
    ww_softrank: float | None = None
    rand_distance: float | None = None
    num_traps: int | None = None
    trap_pvalue: float | None = None
    detX_num: int | None = None
    ERG_gap: int | None = None
    Lambda: float | None = None
    alpha_error: float | None = None
    gof_pvalue: float | None = None
    vs_exponential: Verdict | None = None
    vs_lognormal: Verdict | None = None
    vs_truncated: Verdict | None = None
    histogram: Histogram | None = None
    spectrum: tuple[float, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The columns as plain values, ready for JSON; histogram and spectrum only where there is one."""
        values = asdict(self)
        return {key: value for key, value in values.items() if key in COLUMNS or value is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LayerReport:
        """The inverse of :meth:`to_dict`, also after a way through JSON.

        Raises:
            ValueError: a column is missing or unknown.
        """
        try:
            beside: dict[str, Any] = {}
            if values.get("histogram") is not None:
                beside["histogram"] = _histogram(**values["histogram"])
            if values.get("spectrum") is not None:
                beside["spectrum"] = tuple(values["spectrum"])
            return cls(**(values | beside))
        except (AttributeError, TypeError) as error:
            raise ValueError(f"values: not the columns of a LayerReport: {error}") from error


def _histogram(low: float, high: float, counts: Iterable[int], rand_counts: Iterable[int] | None) -> Histogram:
    return Histogram(low, high, tuple(counts), None if rand_counts is None else tuple(rand_counts))


_BESIDE = ("histogram", "spectrum")
COLUMNS = tuple(field.name for field in fields(LayerReport) if field.name not in _BESIDE)
_TEXTS = ("name", "kind", "status", "reason", "warning", "vs_exponential", "vs_lognormal", "vs_truncated")
_FLAGS = ("counted", "reliable")


@dataclass(frozen=True, slots=True)
class CorrelationFlow:
    """Alpha against depth: how information flows from layer to layer.

    Attributes:
        names: the fitted layers in model order.
        alpha: their alpha.
        mean: mean of it.
        std: standard deviation over the layers; None for fewer than two.
        slope: change of alpha from the first to the last layer, by least squares; None for fewer than two.
    """

    names: tuple[str, ...]
    alpha: tuple[float, ...]
    mean: float | None
    std: float | None
    slope: float | None


@dataclass(frozen=True, slots=True)
class ScaleChange:
    """How the scale of one layer moved against a baseline.

    Attributes:
        name: of the layer.
        change: Δ log10 λ_max.
        z: distance of the change from the median change in robust standard deviations; beyond ±3.5 the layer has
            changed its scale while the others have not.
    """

    name: str
    change: float
    z: float


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
            values = self._counted_values(name)
            if values:
                result[name] = math.fsum(values) / len(values)
            if name == "alpha" and values:
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

    def correlation_flow(self) -> CorrelationFlow:
        """Alpha against depth, over the fitted layers in model order.

        A small and flat alpha is what well-trained networks show (Martin, Peng and Mahoney 2021).

        Example:
            >>> layers = [LayerReport(name=n, kind="Linear", alpha=a) for n, a in [("fc1", 2.0), ("fc2", 3.0)]]
            >>> flow = Report(tuple(layers)).correlation_flow()
            >>> flow.names, flow.mean, flow.slope
            (('fc1', 'fc2'), 2.5, 1.0)
        """
        fitted = [(layer.name, layer.alpha) for layer in self.layers if layer.alpha is not None]
        alpha = tuple(value for _, value in fitted)
        many = len(alpha) > 1
        depth = [index / (len(alpha) - 1) for index in range(len(alpha))] if many else []
        return CorrelationFlow(
            names=tuple(name for name, _ in fitted),
            alpha=alpha,
            mean=statistics.fmean(alpha) if alpha else None,
            std=statistics.stdev(alpha) if many else None,
            slope=statistics.linear_regression(depth, alpha).slope if many else None,
        )

    def scale_collapse(self, baseline: Report) -> tuple[ScaleChange, ...]:
        """How far the scale of each layer moved from a baseline, beside the other layers.

        z = (Δ - median Δ)/(1.4826 · median |Δ - median Δ|) with Δ the change of log10 λ_max. Where more than half of
        the layers moved alike, the mean absolute deviation takes the place of the median one (Iglewicz and Hoaglin
        1993). Published scale collapses go both ways: look at |z|.

        Args:
            baseline: a report of the same model before; layers are matched by name.

        Returns:
            One entry per layer whose λ_max is known in both, in model order.
        """
        before = {layer.name: layer.log_spectral_norm for layer in baseline.layers}
        changes = {
            layer.name: layer.log_spectral_norm - old
            for layer in self.layers
            if layer.log_spectral_norm is not None and (old := before.get(layer.name)) is not None
        }
        if not changes:
            return ()
        median = statistics.median(changes.values())
        deviations = [abs(change - median) for change in changes.values()]
        spread = 1.4826 * statistics.median(deviations) or 1.2533 * statistics.fmean(deviations)
        return tuple(
            ScaleChange(name, change, (change - median) / spread if spread else 0.0) for name, change in changes.items()
        )

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
        return _frame(self.to_dicts())

    def _counted_values(self, name: str) -> list[float]:
        values = (getattr(layer, name) for layer in self.layers if layer.counted)
        return [value for value in values if value is not None and math.isfinite(value)]

    def _count(self, name: str, value: object) -> float:
        return float(sum(getattr(layer, name) == value for layer in self.layers))


class History(Sequence[Report]):
    """The reports of one run in the order of their steps.

    The counted layers of the first report stay those of all later ones, so that a mean never jumps because a layer
    entered or left it.

    Example:
        >>> history = History()
        >>> history.append(Report((), step=0)).step, len(history), history.steps
        (0, 1, [0])
    """

    def __init__(self, reports: Iterable[Report] = ()) -> None:
        self._reports: list[Report] = []
        self._counted: frozenset[str] | None = None
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
        self._counted = self._counted or report.counted or None
        self._reports.append(report)
        return report

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
        return _frame([row for report in self._reports for row in report.to_dicts()])

    def __len__(self) -> int:
        return len(self._reports)

    def __getitem__(self, index: Any) -> Any:
        return self._reports[index]

    def __repr__(self) -> str:
        return f"History of {len(self)} reports, steps {self.steps[:1]} to {self.steps[-1:]}"


def choose_counted(layers: Iterable[LayerReport]) -> frozenset[str]:
    """Names of the fitted layers with at least 50 eigenvalues; of all fitted layers where none has that many."""
    fitted = [layer for layer in layers if layer.alpha is not None]
    large = [layer for layer in fitted if (layer.num_evals or 0) >= MIN_COUNTED]
    return frozenset(layer.name for layer in large or fitted)


def _later(step: int | None, last: int | None) -> bool:
    return step is None or last is None or step > last


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_pandas needs pandas: pip install ww_callbacks[pandas]") from error
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = [column for column in COLUMNS if column not in _TEXTS + _FLAGS]
    return frame.astype(dict.fromkeys(numbers, float))
