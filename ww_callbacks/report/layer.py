"""One layer at one step, as values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Status = Literal["ok", "skipped", "failed"]
Warning_ = Literal["", "over-trained", "under-trained", "no tail"]

Verdict = Literal["power law", "exponential", "log-normal", "truncated power law", "undecided"]


_WAITING = "not looked at yet: layers take turns, within the budget"


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
        control_step: step of the weights that were shuffled for these: an earlier one where a control is used again.
        detX_num: number of the largest eigenvalues whose product is 1 at mean 1.
        ERG_gap: detX_num - num_pl_spikes.
        Lambda: rate of the exponential cut-off (fit "TPL").
        alpha_error: estimated error of alpha from single precision (precision "float32").
        gof_pvalue: goodness of fit of the power law (on request); small speaks against it.
        vs_exponential: the better of power law and exponential, or "undecided" (on request).
        vs_lognormal: the same for the log-normal.
        vs_truncated: the same for the truncated power law.
        delta_alpha: alpha minus that of the baseline (with a baseline, as all columns up to ``change``).
        delta_log_lambda_max: log10 λ_max minus that of the baseline.
        distance: ``‖W - W₀‖_F/‖W₀‖_F``, W₀ the baseline.
        scale_collapse: λ_max moved far while those of the other layers did not.
        hardly_moved: the weights moved less than a tenth of what the median layer did.
        change: what is noticeable against the baseline, in words.
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
    control_step: int | None = None
    detX_num: int | None = None
    ERG_gap: int | None = None
    Lambda: float | None = None
    alpha_error: float | None = None
    gof_pvalue: float | None = None
    vs_exponential: Verdict | None = None
    vs_lognormal: Verdict | None = None
    vs_truncated: Verdict | None = None
    delta_alpha: float | None = None
    delta_log_lambda_max: float | None = None
    distance: float | None = None
    scale_collapse: bool | None = None
    hardly_moved: bool | None = None
    change: str = ""
    histogram: Histogram | None = None
    spectrum: tuple[float, ...] | None = None

    @classmethod
    def waiting(cls, name: str, kind: str) -> LayerReport:
        """The entry of a layer that is analysed in rotation and has not had its first turn."""
        return cls(name=name, kind=kind, status="skipped", reason=_WAITING)

    @property
    def is_waiting(self) -> bool:
        """Whether the layer is analysed in rotation and has not had its first turn."""
        return self.reason == _WAITING

    def plot_esd(self, ax: Axes | None = None) -> Axes:
        """The spectrum beside that of the shuffled weights: :func:`ww_callbacks.outputs.figures.draw_esd`.

        Args:
            ax: where to draw; None for a new figure, ``.figure`` of what is returned. No display is needed.

        Raises:
            ImportError: matplotlib is not installed.
            ValueError: the layer has no histogram.
        """
        from ww_callbacks.outputs import figures

        return figures.draw_esd(self, ax)

    def to_dict(self) -> dict[str, Any]:
        """The columns as plain values, ready for JSON; histogram, spectrum and changes only where there are any."""
        values = asdict(self)
        return {key: value for key, value in values.items() if key in _ALWAYS or value not in (None, "")}

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
BASELINE_COLUMNS = COLUMNS[COLUMNS.index("delta_alpha") : COLUMNS.index("change") + 1]
_ALWAYS = frozenset(COLUMNS) - frozenset(BASELINE_COLUMNS)
