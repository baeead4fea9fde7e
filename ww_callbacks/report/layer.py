"""The results of one layer at one step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from ww_callbacks.printable import LONGEST_NAME, shown_text
from ww_callbacks.report.columns import Record, column, columns_of, documented, is_count, is_number, record
from ww_callbacks.report.skip import Role, Skip, SkipReason, Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TailWarning = Literal["", "over-trained", "under-trained", "no tail", "cannot be told"]

NullVerdict = Literal["random", "scales", "arranged", "cannot be told"]

TrapKind = Literal["mean", "rows", "columns", "elements", "kurtosis", "mixed"]

TrapPlace = tuple[tuple[int, ...], float]
"""Index and value: (row, column) and the weight, or (row,) or (column,) and its scale divided by the median scale. Rows
are outputs. With several kernel positions the position comes first."""

BetterFit = Literal["power law", "exponential", "log-normal", "truncated power law", "undecided"]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Histograms of a spectrum and of the shuffled control, with the same equal bins of log10 λ.

    Attributes:
        low: log10 of the lower edge.
        high: log10 of the upper edge.
        counts: number of eigenvalues in each bin, at most 64 bins.
        rand_counts: the same for the shuffled weights; None without a control.
    """

    low: float
    high: float
    counts: tuple[int, ...]
    rand_counts: tuple[int, ...] | None = None

    @classmethod
    def of(cls, low: float, high: float, counts: Iterable[int], rand_counts: Iterable[int] | None) -> Histogram:
        """Histograms from any sequences, such as the lists of JSON."""
        return cls(low, high, tuple(counts), None if rand_counts is None else tuple(rand_counts))

    @property
    def is_valid(self) -> bool:
        """Whether the values, which may come from a file, have the types of histograms."""
        return (
            is_number(self.low)
            and is_number(self.high)
            and all(map(is_count, (*self.counts, *(self.rand_counts or ()))))
        )


@record
@documented
@dataclass(frozen=True, kw_only=True)
class LayerReport(Record):
    """One layer at one step. A number that does not exist is None.

    The columns have WeightWatcher's names if the meaning is the same. Columns about changes, from ``delta_alpha`` to
    ``change``, are in :meth:`to_dict` only if they have a value.
    """

    __slots__ = ()

    name: str = field(metadata={"text": "full dotted name, without prefixes of wrappers"})
    kind: str = field(metadata={"text": "class name of the layer"})
    role: Role = column(
        'what its weights are used for: "matrix", "convolution", "embedding", "recurrent" (one gate), "adapter" '
        '(low-rank), "norm", "bias", "vector" or "other"',
        default="other",
    )
    N: int | None = column("larger side of each matrix")
    M: int | None = column("smaller side of each matrix")
    rf: int | None = column("number of pooled matrices (kernel positions); 1 for dense layers")
    Q: float | None = column("N/M")
    num_evals: int | None = column("number of eigenvalues, M·rf")
    dtype: str | None = column('stored dtype, such as "float32" or "bfloat16"')
    status: Status = column('"ok"; "skipped" (nothing to fit) or "failed", both with a reason', default="ok")
    skip_reason: SkipReason | None = column(
        'why the layer was not analysed, one of ``SkipReason``; None if the status is "ok"'
    )
    reason: str = column('skip_reason as a sentence; empty if the status is "ok"', default="")
    warning: TailWarning = column('"over-trained", "under-trained", "no tail", "cannot be told" or ""', default="")
    counted: bool = column("whether the layer is included in the means of the report", default=False)
    step: int | None = column("finished optimizer steps when the weights were copied")
    alpha: float | None = column(
        "exponent of the power-law tail", label="alpha (power-law exponent)", mean=True, logged=True
    )
    sigma: float | None = column("asymptotic standard error of alpha")
    alpha_low: float | None = column("lower bound of the 95 % interval of alpha")
    alpha_high: float | None = column("upper bound of the 95 % interval of alpha")
    alpha_stable: float | None = column(
        'mean of alpha over the xmin that fit well, which does not jump (fit "PL")',
        label="alpha_stable (mean over xmin)",
        mean=True,
        logged=True,
    )
    alpha_hill: float | None = column(
        "Hill estimate of the exponent from the upper half of the spectrum; not comparable with alpha",
        label="alpha_hill (Hill estimate)",
        mean=True,
        logged=True,
    )
    alpha_farms: float | None = column("Hill estimate from square windows, not biased by the shape (on request)")
    D: float | None = column(
        "Kolmogorov-Smirnov distance of the fit", label="D (Kolmogorov-Smirnov distance)", mean=True, logged=True
    )
    xmin: float | None = column("smallest eigenvalue of the fitted tail", scaling="proportional")
    xmax: float | None = column("largest eigenvalue", scaling="proportional")
    num_pl_spikes: int | None = column("number of eigenvalues in the tail")
    finger_shift: float | None = column("change of alpha when the largest eigenvalue is left out")
    null: NullVerdict | None = column(
        'what the spectrum shows: "arranged" (not possible with random signs); "scales" (only the sizes of rows or '
        'columns are uneven); "random"; "cannot be told" (signs have no effect, as in a diagonal matrix)'
    )
    null_pvalue: float | None = column("p-value of the spectrum if the signs of the weights are random")
    reliable: bool | None = column("whether a tail has formed, with at least 50 eigenvalues and 10 of them in the tail")
    norm: float | None = column("squared Frobenius norm, Σλ", scaling="proportional")
    log_norm: float | None = column(
        "log10 of norm", label="log_norm (log10 of the squared Frobenius norm)", scaling="log", mean=True, logged=True
    )
    spectral_norm: float | None = column("squared spectral norm, λ_max", scaling="proportional")
    log_spectral_norm: float | None = column(
        "log10 of spectral_norm", label="log_spectral_norm (log10 λ_max)", scaling="log", mean=True, logged=True
    )
    lambda_max: float | None = column("largest eigenvalue λ_max, the same as spectral_norm", scaling="proportional")
    alpha_weighted: float | None = column(
        "alpha · log10 λ_max", label="alpha_weighted (alpha · log10 λ_max)", scaling="alpha log", mean=True, logged=True
    )
    log_alpha_norm: float | None = column(
        "log10 Σ λ^alpha", label="log_alpha_norm (log10 Σ λ^alpha)", scaling="alpha log", compared=True
    )
    stable_rank: float | None = column("Σλ/λ_max", label="stable rank", mean=True, logged=True)
    matrix_rank: int | None = column("number of eigenvalues above the rounding error; None if it is undecided")
    rank_loss: int | None = column("number of eigenvalues that are numerically zero")
    entropy: float | None = column("entropy of λ/Σλ relative to its maximum")
    sigma_mp: float | None = column("σ of the Marchenko-Pastur law fitted to the bulk, at a mean eigenvalue of 1")
    bulk_min: float | None = column("lower edge of the fitted bulk", scaling="proportional")
    bulk_max: float | None = column("upper edge of the fitted bulk", scaling="proportional")
    num_spikes: int | None = column(
        "number of eigenvalues above bulk_max by more than its fluctuation; 0 if no tail has formed"
    )
    num_directions: int | None = column(
        "number of directions larger than any of a noise matrix of the same norm; 0 if no tail has formed"
    )
    mp_softrank: float | None = column("bulk_max/λ_max")
    rand_alpha: float | None = column("alpha of the shuffled weights", logged=True)
    max_rand_eval: float | None = column("largest eigenvalue of the shuffled weights", scaling="proportional")
    ww_softrank: float | None = column(
        "max_rand_eval/λ_max", label="ww_softrank (largest shuffled λ / λ_max)", logged=True
    )
    rand_distance: float | None = column(
        "Jensen-Shannon distance between the spectrum and that of the shuffled weights"
    )
    num_traps: int | None = column(
        "number of correlation traps: eigenvalues of the shuffled weights that uneven or heavy-tailed weights do not "
        "explain",
        label="correlation traps (count)",
        logged=True,
    )
    trap_pvalue: float | None = column("p-value of max_rand_eval without traps; 1 if scales or a diagonal explain it")
    trap_size: float | None = column(
        "largest eigenvalue of the shuffled weights divided by the random edge; about 1 without traps",
        label="trap size (largest shuffled λ / random edge)",
        logged=True,
    )
    trap_kind: TrapKind | None = column(
        'what lifts max_rand_eval above the random edge of even weights: "mean", "rows", "columns", "elements", '
        '"kurtosis" or "mixed"; None if it is not above it. Not each of these is a trap'
    )
    initial_traps: int | None = column(
        "num_traps at step 0 of the run if there were any; only more traps than that count", optional=True
    )
    detX_num: int | None = column("number of the largest eigenvalues whose product is 1 at mean 1")
    ERG_gap: int | None = column("detX_num - num_pl_spikes", signed=True)
    Lambda: float | None = column('rate of the exponential cut-off (fit "TPL")', scaling="inverse")
    alpha_error: float | None = column('estimated error of alpha from single precision (precision "float32")')
    gof_pvalue: float | None = column("goodness of fit of the power law (on request); small values reject it")
    vs_exponential: BetterFit | None = column('the better of power law and exponential, or "undecided" (on request)')
    vs_lognormal: BetterFit | None = column('the better of power law and log-normal, or "undecided" (on request)')
    vs_truncated: BetterFit | None = column('the better of power law and truncated one, or "undecided" (on request)')
    delta_alpha: float | None = column("alpha minus alpha of the baseline", optional=True)
    delta_log_lambda_max: float | None = column("log10 λ_max minus log10 λ_max of the baseline", optional=True)
    distance: float | None = column("``‖W - W₀‖_F/‖W₀‖_F``, with W₀ the baseline", optional=True)
    unchanged_since: int | None = column(
        "step since which the weights have not changed; None if they have", optional=True
    )
    update_since: int | None = column("step from which the change is measured; None for a baseline", optional=True)
    update_norm: float | None = column(
        "``‖ΔW‖_F/‖W‖_F``, with ΔW the change from the previous snapshot, or from the baseline",
        label="update norm (‖ΔW‖/‖W‖)",
        mean=True,
        logged=True,
        optional=True,
    )
    update_norm_per_step: float | None = column("update_norm divided by the number of steps", optional=True)
    update_unchanged: float | None = column(
        "share of the elements that have the same value as before, of those that were not 0", optional=True
    )
    update_alpha: float | None = column("alpha of ΔW (with a baseline)", optional=True)
    update_stable_rank: float | None = column("stable rank of ΔW", mean=True, logged=True, optional=True)
    update_sharpness: float | None = column("λ_max/Σλ of ΔW, the share of its largest direction", optional=True)
    update_rank: int | None = column(
        "number of directions in ΔW that stand out from noise of the same norm",
        label="update rank (directions of ΔW)",
        mean=True,
        logged=True,
        optional=True,
    )
    update_pvalue: float | None = column("p-value of the spectrum of ΔW if its signs are random", optional=True)
    update_rotation: float | None = column(
        "largest principal angle between the leading left singular subspaces of W before and after, in degrees; None "
        "if no direction stands out and is separate",
        label="rotation of leading directions (degrees)",
        mean=True,
        logged=True,
        optional=True,
    )
    learned_since: int | None = column("step of the first snapshot, from which learned_* are measured", optional=True)
    learned_norm: float | None = column(
        "update_norm of the change since the first snapshot",
        label="learned norm (‖W - W₀‖/‖W‖)",
        mean=True,
        logged=True,
        optional=True,
    )
    learned_stable_rank: float | None = column(
        "stable rank of the change since the first snapshot", mean=True, logged=True, optional=True
    )
    learned_sharpness: float | None = column(
        "share of the largest direction in the change since the first snapshot", optional=True
    )
    learned_rank: int | None = column(
        "update_rank of the change since the first snapshot",
        label="learned rank (directions of W - W₀)",
        mean=True,
        logged=True,
        optional=True,
    )
    learned_pvalue: float | None = column(
        "p-value of the change since the first snapshot if its signs are random", optional=True
    )
    learned_rotation: float | None = column(
        "update_rotation since the first snapshot; None if no direction stood out then",
        label="rotation since the start (degrees)",
        mean=True,
        logged=True,
        optional=True,
    )
    intruders: int | None = column(
        "number of the ten leading directions of W that the baseline does not have and noise of the size of the change "
        "does not explain",
        label="intruder dimensions (count)",
        mean=True,
        logged=True,
        optional=True,
    )
    forgetting: float | None = column(
        "share of the leading subspace of the baseline that the leading subspace of the same size no longer holds",
        label="forgetting (share of the leading subspace)",
        mean=True,
        logged=True,
        optional=True,
    )
    lora_rank: int | None = column("rank r of a low-rank adapter B·A, the rank paid for", optional=True)
    lora_used: int | None = column(
        "rank used: number of directions of B·A that hold 99 % of its squared Frobenius norm",
        label="rank used (directions of B·A)",
        logged=True,
        optional=True,
    )
    scale_collapse: bool | None = column("whether λ_max changed far more than in the other layers", optional=True)
    hardly_moved: bool | None = column(
        "whether distance is at most a tenth of the median over the layers", optional=True
    )
    new_traps: bool | None = column("whether there are more correlation traps than in the baseline", optional=True)
    change: str = column("notable differences from the baseline, in words", default="", optional=True)
    trap_places: tuple[TrapPlace, ...] | None = column(
        "up to five rows, columns or weights that cause trap_kind, largest first; not a column"
    )
    histogram: Histogram | None = column("counts for figures; not a column")
    spectrum: tuple[float, ...] | None = column("all eigenvalues, ascending (on request); not a column")

    @classmethod
    def waiting(cls, name: str, kind: str, role: Role) -> LayerReport:
        """The entry of a layer that waits for its first turn in the rotation."""
        return cls(name=name, kind=kind, role=role, **Skip("waiting").columns)

    @property
    def is_trapped(self) -> bool:
        """Whether the layer has correlation traps, and more than at step 0 of the run."""
        return (self.num_traps or 0) > (self.initial_traps or 0)

    @property
    def is_fitted(self) -> bool:
        """Whether there is an alpha of weights of the model itself. An adapter is a change of such weights."""
        return self.alpha is not None and self.role != "adapter"

    @property
    def is_waiting(self) -> bool:
        """Whether the layer waits for its first turn in the rotation."""
        return self.skip_reason == "waiting"

    def plot_esd(self, ax: Axes | None = None) -> Axes:
        """Plot the spectrum and that of the shuffled weights, see :func:`ww_callbacks.outputs.figures.draw_esd`.

        Args:
            ax: axes to draw into; None for a new figure, the ``.figure`` of the result. No display is needed.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: the layer has no histogram.
        """
        from ww_callbacks.outputs import figures

        return figures.draw_esd(self, ax)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; columns about changes, trap_places, histogram, spectrum only with a value."""
        values = dict(zip(FIELDS, self, strict=True))
        if self.histogram is not None:
            names = ("low", "high", "counts", "rand_counts")
            values["histogram"] = {name: getattr(self.histogram, name) for name in names}
        return {name: value for name, value in values.items() if name in _ALWAYS or value not in (None, "")}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LayerReport:
        """The inverse of :meth:`to_dict`, also after a round trip through JSON.

        Raises:
            ValueError: a column is missing or unknown, or has a value of another type or one that is not finite.
        """
        try:
            beside: dict[str, Any] = {}
            if values.get("histogram") is not None:
                beside["histogram"] = Histogram.of(**values["histogram"])
            if values.get("spectrum") is not None:
                beside["spectrum"] = tuple(values["spectrum"])
            if values.get("trap_places") is not None:
                beside["trap_places"] = places_of(values["trap_places"])
            layer = cls(**(values | beside))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"values: not the columns of a LayerReport: {shown_text(str(error))}") from error
        if odd := _wrong_field(layer):
            value = shown_text(repr(getattr(layer, odd)), LONGEST_NAME)
            raise ValueError(f"values: not the columns of a LayerReport: {odd} cannot be {value}")
        return layer


def _wrong_field(layer: LayerReport) -> str:
    """The first field that cannot have its value; empty if there is none."""
    for name, each in SCHEMA.items():
        if not each.accepts(getattr(layer, name)):
            return name
    if layer.histogram is not None and not layer.histogram.is_valid:
        return "histogram"
    if not all(map(is_number, layer.spectrum or ())):
        return "spectrum"
    return "" if are_places(layer.trap_places or ()) else "trap_places"


def places_of(places: Iterable[tuple[Iterable[int], float]]) -> tuple[TrapPlace, ...]:
    """Places of traps as tuples, which a round trip through JSON makes lists."""
    return tuple((tuple(index), value) for index, value in places)


def are_places(places: Iterable[TrapPlace]) -> bool:
    """Whether places of traps, which may come from a file, consist of whole indices and numbers."""
    return all(is_number(value) and all(map(is_count, index)) for index, value in places)


FIELDS = tuple(each.name for each in fields(LayerReport))
"""Names of all fields of LayerReport, in order."""
SCHEMA = columns_of(LayerReport)
"""Name → column of LayerReport, in order."""
COLUMNS = tuple(SCHEMA)
OPTIONAL_COLUMNS = tuple(name for name, each in SCHEMA.items() if each.optional)
_ALWAYS = frozenset(COLUMNS) - frozenset(OPTIONAL_COLUMNS)


def label_of(metric: str) -> str:
    """The label of a metric on the axes of figures.

    Args:
        metric: a column, or a key of ``Report.summary()``, which is its own label.

    Example:
        >>> label_of("D"), label_of("num_reliable")
        ('D (Kolmogorov-Smirnov distance)', 'num_reliable')
    """
    return SCHEMA[metric].label if metric in SCHEMA else metric
