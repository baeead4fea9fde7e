"""One layer: stored weights and settings in, LayerReport out. This is what the worker runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import chain
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ww_callbacks import spectra
from ww_callbacks.report import Histogram, LayerReport, Warning_
from ww_callbacks.spectra import Precision

ConvScale = Literal["weightwatcher", "paper", "none"]
Interval = Literal["asymptotic", "bootstrap"]
Fit = Literal["PL", "TPL"]
Floats = NDArray[np.float64]

MIN_EVALS = 20
"""Fewer eigenvalues are not fitted."""
MIN_RELIABLE_EVALS = 50
MIN_RELIABLE_TAIL = 10
OVER_TRAINED, UNDER_TRAINED = 2.0, 6.0
MAX_SVD_SIDE = 512
"""Up to this size the rank of a layer that looks deficient comes from singular values."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How layers are analysed; plain values that travel to the worker.

    Attributes:
        conv_scale: factor on the eigenvalues of a convolution with rf kernel positions: "weightwatcher" (½, today's
            default there), "paper" (rf/2, the published figures) or "none". Alpha does not depend on it.
        randomize: compare each layer with a shuffled copy of itself: correlation traps.
        precision: "float64", or "float32" for half the time and a small error of alpha, which is estimated.
        interval: of alpha: "asymptotic", or "bootstrap" with xmin chosen anew in each replicate.
        fit: "PL", a power law, or "TPL", a truncated one (alpha and Lambda) on the tail of the power law.
        seed: of the shuffle and of all resampling, ≥ 0.
        gof: compute the goodness of fit, ``gof_pvalue``; costs 200 fits per layer.
        compare: compare the power law with an exponential, a log-normal and a truncated power law.
        spectrum: keep all eigenvalues in the report.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: an argument has a value that is not allowed.
    """

    conv_scale: ConvScale = "weightwatcher"
    randomize: bool = True
    precision: Precision = "float64"
    interval: Interval = "asymptotic"
    fit: Fit = "PL"
    seed: int = 0
    gof: bool = False
    compare: bool = False
    spectrum: bool = False

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                expected = " or ".join(f'"{choice}"' for choice in allowed)
                raise ValueError(f"{name}: expected {expected}, got {value!r}")
        for name in ("randomize", "gof", "compare", "spectrum"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name}: expected True or False, got {getattr(self, name)!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed: expected an integer, got {self.seed!r}")
        if self.seed < 0:
            raise ValueError(f"seed: expected at least 0, got {self.seed}")
        if (self.interval, self.fit) == ("bootstrap", "TPL"):
            raise ValueError('interval: "bootstrap" goes with fit="PL" only')

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """The inverse of :meth:`to_dict`; what is missing keeps its default.

        Raises:
            ValueError: a name is unknown, or a value is not allowed.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"values: unknown settings {sorted(unknown)}")
        return cls(**values)


_CHOICES: dict[str, tuple[str, ...]] = {
    "conv_scale": get_args(ConvScale),
    "precision": get_args(Precision),
    "interval": get_args(Interval),
    "fit": get_args(Fit),
}


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What is known of a layer's stored weights before they are read.

    Attributes:
        name: full dotted name.
        kind: class of the layer.
        shape: shape as stored.
        dtype: numpy name of the stored dtype, or "bfloat16" (raw 16-bit words).
        axes: the stored axes that count the pooled matrices, those of the rows (outputs) and those of the columns
            (inputs).
        is_conv: whether ``Settings.conv_scale`` applies.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    is_conv: bool = False

    @property
    def storage_dtype(self) -> np.dtype[Any]:
        """The numpy dtype in which the weights are copied."""
        return np.dtype(np.uint16 if self.dtype == "bfloat16" else self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the stored weights."""
        return math.prod(self.shape) * self.storage_dtype.itemsize

    @property
    def matrix_shape(self) -> tuple[int, int, int]:
        """(pooled matrices, rows, columns)."""
        pooled, rows, columns = (math.prod(self.shape[axis] for axis in axes) for axes in self.axes)
        return pooled, rows, columns


def analyze_layer(spec: LayerSpec, stored: NDArray[Any], settings: Settings, step: int | None = None) -> LayerReport:
    """Analyse one layer.

    Args:
        spec: what the weights are.
        stored: the weights, of ``spec.shape`` and ``spec.storage_dtype``. They are not changed.
        settings: how to analyse.
        step: finished optimizer steps, put into the report.

    Returns:
        The report. Weights that cannot be analysed give status "skipped" or "failed" and a reason, never an exception.

    Example:
        >>> import numpy as np
        >>> spec = LayerSpec("fc", "Linear", (100, 60), "float64", ((), (0,), (1,)))
        >>> analyze_layer(spec, np.zeros((100, 60)), Settings()).reason
        'all weights are zero'
    """
    pooled, rows, columns = spec.matrix_shape
    large, small = max(rows, columns), min(rows, columns)
    shape: dict[str, Any] = {
        "name": spec.name,
        "kind": spec.kind,
        "step": step,
        "N": large,
        "M": small,
        "rf": pooled,
        "Q": large / small if small else None,
        "num_evals": small * pooled,
    }
    if min(pooled, small) == 0:
        return LayerReport(**shape, status="skipped", reason="empty weights")
    numbers = _numbers(spec, stored)
    largest = spectra.magnitude(numbers)
    if not math.isfinite(largest):
        return LayerReport(**shape, status="failed", reason="non-finite weights")
    if largest == 0:
        return LayerReport(**shape, status="skipped", reason="all weights are zero")
    with np.errstate(all="ignore"):
        return LayerReport(**shape, **_spectral_columns(spec, _arranged(spec, numbers), settings))


def as_matrices(spec: LayerSpec, stored: NDArray[Any]) -> NDArray[Any]:
    """The matrices of a layer, shape (pooled, rows, columns), as real numbers that numpy can compute with."""
    return _arranged(spec, _numbers(spec, stored))


def _numbers(spec: LayerSpec, stored: NDArray[Any]) -> NDArray[Any]:
    return (stored.astype(np.uint32) << 16).view(np.float32) if spec.dtype == "bfloat16" else stored


def _arranged(spec: LayerSpec, numbers: NDArray[Any]) -> NDArray[Any]:
    return numbers.transpose(list(chain(*spec.axes))).reshape(spec.matrix_shape)


def _conv_factor(spec: LayerSpec, settings: Settings) -> float:
    if not spec.is_conv:
        return 1.0
    return {"weightwatcher": 0.5, "paper": spec.matrix_shape[0] / 2, "none": 1.0}[settings.conv_scale]


def _spectral_columns(spec: LayerSpec, matrices: NDArray[Any], settings: Settings) -> dict[str, Any]:
    _, rows, columns = matrices.shape
    factor = _conv_factor(spec, settings)
    try:
        by_position = [spectra.eigenvalues(matrix, settings.precision) for matrix in matrices]
    except ValueError:
        return {"status": "failed", "reason": "the squares of the weights leave the range of float64"}
    values = np.sort(np.concatenate(by_position)) * factor
    tolerance = _tolerance(float(values[-1]), rows, columns, settings.precision)
    deficient = values[0] <= tolerance and min(rows, columns) <= MAX_SVD_SIDE
    rank = spectra.numerical_rank(matrices) if deficient else None
    result: dict[str, Any] = asdict(spectra.norm_metrics(values, tolerance, rank))
    if settings.spectrum:
        result["spectrum"] = tuple(values.tolist())
    variances = [
        spectra.element_variance(matrix, float(each.sum())) for matrix, each in zip(matrices, by_position, strict=True)
    ]
    result |= _bulk_columns(values, rows, columns)
    control = None
    if settings.randomize:
        control = spectra.shuffled_control(matrices, seed=settings.seed, variances=variances)
        result |= _control_columns(control, values, factor, tolerance)
    positive = values[values > tolerance]
    result["histogram"] = _histogram(positive, None if control is None else control.values * factor, tolerance)
    reason = _no_fit_reason(positive, len(values), _precision(spec.dtype, settings))
    if reason:
        return _plain(result | {"status": "skipped", "reason": reason})
    formed = spectra.tail_formed(by_position, variances, rows, columns)
    return _plain(result | _fit_columns(positive, values, formed, max(rows, columns), settings))


def _tolerance(largest: float, rows: int, columns: int, precision: Precision) -> float:
    """Up to here an eigenvalue is rounding error."""
    if precision == "float32":
        return spectra.float32_error(largest, rows, columns)
    return spectra.rank_tolerance(largest, rows, columns)


def _bulk_columns(values: Floats, rows: int, columns: int) -> dict[str, Any]:
    if len(values) < MIN_EVALS:
        return {}
    try:
        return asdict(spectra.marchenko_pastur(values, rows, columns))
    except ValueError:  # no bulk of that form
        return {}


def _control_columns(
    control: spectra.ShuffledControl, values: Floats, factor: float, tolerance: float
) -> dict[str, Any]:
    shuffled = control.values * factor
    largest = control.max_rand_eval * factor
    positive = shuffled[shuffled > tolerance]
    fitted = len(positive) >= MIN_EVALS and positive[0] < positive[-1]
    return {
        "rand_alpha": spectra.fit_power_law(positive).alpha if fitted else None,
        "max_rand_eval": largest,
        "ww_softrank": largest / float(values[-1]),
        "rand_distance": spectra.spectral_distance(values, shuffled),
        "num_traps": control.num_traps,
        "trap_pvalue": control.trap_pvalue,
    }


def _histogram(positive: Floats, shuffled: Floats | None, tolerance: float) -> Histogram:
    both = positive if shuffled is None else np.concatenate([positive, shuffled[shuffled > tolerance]])
    low, high, counts = spectra.log_histogram(both)
    bins = len(counts)
    return Histogram(
        low,
        high,
        spectra.log_histogram(positive, low, high, bins)[2],
        None if shuffled is None else spectra.log_histogram(shuffled, low, high, bins)[2],
    )


def _no_fit_reason(positive: Floats, total: int, precision: float) -> str:
    if len(positive) < MIN_EVALS:
        zero = f" ({total} with the zero ones)" if total > len(positive) else ""
        return f"{len(positive)} non-zero eigenvalues{zero}, a power-law fit needs {MIN_EVALS}"
    if positive[-1] - positive[0] <= 64 * precision * positive[-1]:
        return "all eigenvalues are equal within the precision of the weights, so there is no tail"
    return ""


def _precision(dtype: str, settings: Settings) -> float:
    """Relative spacing of the numbers, as stored or as computed with, whichever is coarser."""
    if dtype == "bfloat16":
        return 2.0**-7
    stored = np.dtype(dtype)
    kinds = [np.dtype(settings.precision), *([stored] if stored.kind == "f" else [])]
    return max(float(np.finfo(kind).eps) for kind in kinds)


def _fit_columns(positive: Floats, values: Floats, formed: bool, side: int, settings: Settings) -> dict[str, Any]:
    power = spectra.fit_power_law(positive)
    if not math.isfinite(power.alpha):
        return {"status": "skipped", "reason": "hardly two eigenvalues differ, so there is no tail"}
    fit = asdict(power) | _truncated_columns(positive, power, settings)
    sure = _interval(positive, power, settings)
    low, high = sure if settings.fit == "PL" else _truncated_interval(fit, power)
    reliable = formed and len(values) >= MIN_RELIABLE_EVALS and power.num_pl_spikes >= MIN_RELIABLE_TAIL
    detX_num = spectra.det_x_size(values)
    return (
        fit
        | {
            "alpha_low": low,
            "alpha_high": high,
            "alpha_hill": _hill(positive),
            "alpha_weighted": fit["alpha"] * math.log10(positive[-1]),
            "log_alpha_norm": spectra.log_alpha_norm(positive, fit["alpha"]),
            "finger_shift": _finger_shift(positive, power),
            "detX_num": detX_num,
            "ERG_gap": detX_num - power.num_pl_spikes,
            "reliable": reliable,
            "warning": _warning(*sure, reliable, formed, len(values)),
        }
        | _requested_columns(positive, power, side, settings)
    )


def _truncated_columns(positive: Floats, power: spectra.PowerLawFit, settings: Settings) -> dict[str, Any]:
    if settings.fit == "PL":
        return {}
    try:
        fit = spectra.fit_truncated_power_law(positive, power.xmin)
    except ValueError:
        return {}
    return {"alpha": fit.alpha, "Lambda": fit.Lambda, "sigma": fit.sigma, "D": fit.D}


def _interval(positive: Floats, power: spectra.PowerLawFit, settings: Settings) -> tuple[float | None, float | None]:
    """Of the power law, in which the words of the warnings are defined."""
    if settings.interval == "bootstrap":
        try:
            return spectra.bootstrap_interval(positive, power, seed=settings.seed)
        except ValueError:
            return None, None
    low, high = spectra.asymptotic_interval(power.alpha, power.sigma, power.num_pl_spikes)
    return max(low, 1.0), high


def _truncated_interval(fit: dict[str, Any], power: spectra.PowerLawFit) -> tuple[float | None, float | None]:
    if fit["sigma"] is None:
        return None, None
    low, high = spectra.asymptotic_interval(fit["alpha"], fit["sigma"], power.num_pl_spikes)
    return max(low, 0.0), high


def _requested_columns(positive: Floats, power: spectra.PowerLawFit, side: int, settings: Settings) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if settings.precision == "float32":
        bound = spectra.float32_error(power.xmax, side, 1)
        result["alpha_error"] = spectra.rounding_shift(positive, power, bound, seed=settings.seed)
    if settings.gof and power.alpha > 1:
        result["gof_pvalue"] = spectra.goodness_of_fit(positive, power, seed=settings.seed)
    if settings.compare:
        try:
            verdicts = [comparison.verdict for comparison in spectra.compare_alternatives(positive, power)]
        except ValueError:  # too short a tail for any of them
            verdicts = ["undecided"] * 3
        result |= dict(zip(("vs_exponential", "vs_lognormal", "vs_truncated"), verdicts, strict=True))
    return result


def _finger_shift(positive: Floats, power: spectra.PowerLawFit) -> float | None:
    rest = positive[:-1]
    return spectra.fit_power_law(rest).alpha - power.alpha if rest[0] < rest[-1] else None


def _warning(low: float | None, high: float | None, reliable: bool, formed: bool, total: int) -> Warning_:
    if reliable and high is not None and high < OVER_TRAINED:
        return "over-trained"
    if low is not None and low > UNDER_TRAINED and total >= MIN_RELIABLE_EVALS:
        return "under-trained"
    return "" if formed else "no tail"


def _hill(positive: Floats) -> float | None:
    try:
        return spectra.hill_alpha(positive)
    except ValueError:
        return None


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Non-finite numbers become None: a number that does not exist is None everywhere."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
