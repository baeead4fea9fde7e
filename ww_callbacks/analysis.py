"""One layer: stored weights and settings in, LayerReport out. This is what the worker runs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ww_callbacks import spectra
from ww_callbacks.report import LayerReport, Warning_

ConvScale = Literal["weightwatcher", "paper", "none"]

MIN_EVALS = 20
"""Fewer eigenvalues are not fitted."""
MIN_RELIABLE_EVALS = 50
MIN_RELIABLE_TAIL = 10
OVER_TRAINED, UNDER_TRAINED = 2.0, 6.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How layers are analysed; plain values that travel to the worker.

    Attributes:
        conv_scale: factor on the eigenvalues of a convolution with rf kernel positions: "weightwatcher" (½, today's
            default there), "paper" (rf/2, the published figures) or "none". Alpha does not depend on it.
    """

    conv_scale: ConvScale = "weightwatcher"

    def __post_init__(self) -> None:
        if self.conv_scale not in ("weightwatcher", "paper", "none"):
            raise ValueError(f'conv_scale: expected "weightwatcher", "paper" or "none", got {self.conv_scale!r}')

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values, ready for JSON."""
        return asdict(self)


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
    matrices = as_matrices(spec, stored)
    if not np.isfinite(matrices).all():
        return LayerReport(**shape, status="failed", reason="non-finite weights")
    if not matrices.any():
        return LayerReport(**shape, status="skipped", reason="all weights are zero")
    with np.errstate(all="ignore"):
        return LayerReport(**shape, **_spectral_columns(matrices, _conv_factor(spec, settings), spec.dtype))


def as_matrices(spec: LayerSpec, stored: NDArray[Any]) -> NDArray[Any]:
    """The matrices of a layer, shape (pooled, rows, columns), as real numbers that numpy can compute with."""
    if spec.dtype == "bfloat16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.transpose(list(chain(*spec.axes))).reshape(spec.matrix_shape)


def _conv_factor(spec: LayerSpec, settings: Settings) -> float:
    if not spec.is_conv:
        return 1.0
    return {"weightwatcher": 0.5, "paper": spec.matrix_shape[0] / 2, "none": 1.0}[settings.conv_scale]


def _spectral_columns(matrices: NDArray[Any], factor: float, dtype: str) -> dict[str, Any]:
    _, rows, columns = matrices.shape
    by_position = [factor * spectra.eigenvalues(matrix) for matrix in matrices]
    values = np.sort(np.concatenate(by_position))
    if not (np.isfinite(values).all() and values[-1] > 0):
        return {"status": "failed", "reason": "the squares of the weights leave the range of float64"}
    tolerance = spectra.rank_tolerance(float(values[-1]), rows, columns)
    result: dict[str, Any] = _plain(asdict(spectra.norm_metrics(values, tolerance)))
    positive = values[values > tolerance]
    reason = _no_fit_reason(positive, len(values), dtype)
    if reason:
        return result | {"status": "skipped", "reason": reason}
    variances = [_variance(matrix, each, factor) for matrix, each in zip(matrices, by_position, strict=True)]
    formed = spectra.tail_formed(by_position, variances, rows, columns)
    return result | _fit_columns(positive, len(values), formed)


def _variance(matrix: NDArray[Any], values: NDArray[np.float64], factor: float) -> float:
    """Element variance in the scale of the eigenvalues, from their sum: no copy of the matrix is made."""
    mean = float(np.mean(matrix, dtype=np.float64))
    return max(float(values.sum()) / matrix.size - factor * mean**2, 0.0)


def _no_fit_reason(positive: NDArray[np.float64], total: int, dtype: str) -> str:
    if len(positive) < MIN_EVALS:
        zero = f" ({total} with the zero ones)" if total > len(positive) else ""
        return f"{len(positive)} non-zero eigenvalues{zero}, a power-law fit needs {MIN_EVALS}"
    precision = _storage_eps(dtype)
    if positive[-1] - positive[0] <= 64 * precision * positive[-1]:
        return "all eigenvalues are equal within the precision of the weights, so there is no tail"
    return ""


def _storage_eps(dtype: str) -> float:
    if dtype == "bfloat16":
        return 2.0**-7
    kind = np.dtype(dtype)
    return float(np.finfo(kind).eps) if kind.kind == "f" else float(np.finfo(np.float64).eps)


def _fit_columns(positive: NDArray[np.float64], total: int, formed: bool) -> dict[str, Any]:
    fit = spectra.fit_power_law(positive)
    low, high = fit.alpha - 1.96 * fit.sigma, fit.alpha + 1.96 * fit.sigma
    reliable = formed and total >= MIN_RELIABLE_EVALS and fit.num_pl_spikes >= MIN_RELIABLE_TAIL
    return _plain(
        asdict(fit)
        | {
            "alpha_low": low,
            "alpha_high": high,
            "alpha_hill": _hill(positive),
            "alpha_weighted": fit.alpha * math.log10(positive[-1]),
            "log_alpha_norm": spectra.log_alpha_norm(positive, fit.alpha),
        }
    ) | {"reliable": reliable, "warning": _warning(low, high, reliable, formed, total)}


def _warning(low: float, high: float, reliable: bool, formed: bool, total: int) -> Warning_:
    if reliable and high < OVER_TRAINED:
        return "over-trained"
    if low > UNDER_TRAINED and total >= MIN_RELIABLE_EVALS:
        return "under-trained"
    return "" if formed else "no tail"


def _hill(positive: NDArray[np.float64]) -> float | None:
    try:
        return spectra.hill_alpha(positive)
    except ValueError:
        return None


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Non-finite numbers become None: a number that does not exist is None everywhere."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
