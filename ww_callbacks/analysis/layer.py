"""Analysis of one layer, as run by the worker: from stored weights and settings to a LayerReport."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks import spectra
from ww_callbacks.analysis.flat import flat
from ww_callbacks.analysis.null import null_columns, positions
from ww_callbacks.analysis.settings import Settings
from ww_callbacks.analysis.spec import LayerSpec, arranged, as_numbers, factors_of
from ww_callbacks.analysis.tail import tail_columns, tail_of
from ww_callbacks.report import Histogram, LayerReport, Skip
from ww_callbacks.spectra import Precision
from ww_callbacks.spectra.eigen import MAX_UNRESOLVED
from ww_callbacks.spectra.power_law import Tails
from ww_callbacks.spectra.short import SHORT
from ww_callbacks.spectra.types import Floats

MAX_SVD_SIZE = 2**21
"""Up to this number of elements per matrix, eigenvalues that the Gram matrix does not resolve are computed from
singular values, which needs a float64 copy of the matrix."""


def analyze_layer(spec: LayerSpec, stored: NDArray[Any], settings: Settings, step: int | None = None) -> LayerReport:
    """Analyse one layer.

    Args:
        spec: description of the weights.
        stored: the weights, of ``spec.shape`` and ``spec.storage_dtype``. They are not modified.
        settings: analysis settings.
        step: number of finished optimizer steps, recorded in the report.

    Returns:
        The report. If the weights cannot be analysed, its status is "skipped" or "failed" and it has a reason. No
        exception is raised.

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
        "role": spec.role,
        "step": step,
        "N": large,
        "M": small,
        "rf": pooled,
        "Q": large / small if small else None,
        "num_evals": small * pooled,
        "dtype": spec.dtype,
        "lora_rank": spec.shape[0] if spec.factors else None,
    }
    if 0 in (pooled, small, *spec.shape):
        return LayerReport(**shape, **Skip("empty").columns)
    numbers = as_numbers(spec, stored)
    largest = spectra.magnitude(numbers)
    if not math.isfinite(largest):
        return LayerReport(**shape, **Skip("non_finite").columns)
    with np.errstate(all="ignore"):
        if spec.factors:
            return LayerReport(**shape, **_low_rank_columns(spec, numbers, settings))
        if largest == 0:
            return LayerReport(**shape, **Skip("zero").columns)
        matrices = arranged(spec, numbers)
        return LayerReport(**shape, **_spectral_columns(spec, matrices, largest, settings))


def conv_factor(spec: LayerSpec, settings: Settings) -> float:
    """Factor on the eigenvalues of a layer: 1 except for convolutions."""
    if spec.role != "convolution":
        return 1.0
    return {"weightwatcher": 0.5, "paper": spec.matrix_shape[0] / 2, "none": 1.0}[settings.conv_scale]


def _spectral_columns(spec: LayerSpec, matrices: NDArray[Any], largest: float, settings: Settings) -> dict[str, Any]:
    _, rows, columns = matrices.shape
    factor = conv_factor(spec, settings)
    try:
        by_position, variances = positions(matrices, largest, settings.precision)
    except ValueError:
        return Skip("out_of_range").columns
    values = np.sort(np.concatenate(by_position)) * factor
    tolerance = _tolerance(float(values[-1]), rows, columns, settings.precision)
    unresolved = int(np.count_nonzero(values <= tolerance))
    if settings.precision == "float32" and (len(values) < SHORT or unresolved > MAX_UNRESOLVED * len(values)):
        return _spectral_columns(spec, matrices, largest, replace(settings, precision="float64"))
    rank = None
    if unresolved and settings.precision == "float64" and rows * columns <= MAX_SVD_SIZE:
        singular = spectra.singular_values(matrices)
        rank = spectra.numerical_rank(singular, rows, columns)
        by_position = list(singular**2)
        values = np.sort(np.concatenate(by_position)) * factor
        stored = spectra.storage_error(largest, rows, columns, _precision(spec.dtype, settings)) * factor
        exact = _tolerance(math.sqrt(float(values[-1])), rows, columns, "float64") ** 2
        tolerance = max(exact, min(stored, tolerance))
    result: dict[str, Any] = flat(spectra.norm_metrics(values, tolerance, rank))
    if unresolved and settings.precision == "float32":
        result |= dict.fromkeys(("matrix_rank", "rank_loss", "entropy"))
    if settings.spectrum:
        result["spectrum"] = tuple(values.tolist())
    result |= _bulk_columns(values, rows, columns)
    result |= null_columns(matrices, by_position)
    if result["null"] != "arranged" and "num_spikes" in result:  # uneven weights alone may exceed the edge of the bulk
        result["num_spikes"] = None if result["null"] == "cannot be told" else 0
    control = None
    if settings.randomize:
        control = spectra.shuffled_control(matrices, seed=settings.seed, variances=variances, largest=largest)
        result |= _control_columns(control, values, factor, tolerance, settings.min_evals)
    positive = values[values > tolerance]
    result["histogram"] = _histogram(positive, None if control is None else control.values * factor, tolerance)
    skip = _no_fit(positive, len(values), _precision(spec.dtype, settings), settings.min_evals)
    if skip is not None:
        return _plain(result | skip.columns)
    if settings.farms and len(values) >= SHORT:
        result["alpha_farms"] = _farms(matrices, by_position, settings.seed)
    return _plain(result | tail_columns(positive, values, result["null"], max(rows, columns), settings))


def _low_rank_columns(spec: LayerSpec, numbers: NDArray[Any], settings: Settings) -> dict[str, Any]:
    """The metrics of weights B·A that follow from their eigenvalues; controls and tests would need the product.

    Too few eigenvalues for a fit are normal here, so such a layer is not skipped.
    """
    _, rows, columns = spec.matrix_shape
    singular = spectra.factor_singular_values(*factors_of(spec, numbers))
    if not singular.any():
        return Skip("zero").columns | {"lora_used": 0}
    values = np.concatenate([np.zeros(min(rows, columns) - len(singular)), singular**2])
    if not 0 < values[-1] < math.inf:
        return Skip("out_of_range").columns
    rank = spectra.numerical_rank(singular, rows, columns)
    positive = values[len(values) - rank :]
    positive = positive[positive > 0]
    result: dict[str, Any] = flat(spectra.norm_metrics(values, 0.0, rank))
    result |= {"lora_used": spectra.rank_used(values), "histogram": _histogram(positive, None, 0.0)}
    if settings.spectrum:
        result["spectrum"] = tuple(values.tolist())
    if _no_fit(positive, len(values), _precision(spec.dtype, settings), settings.min_evals) is None:
        fit = tail_columns(
            positive, positive, "cannot be told", max(rows, columns), replace(settings, precision="float64")
        )
        if "skip_reason" not in fit:
            result |= fit | {"warning": "", "reliable": None}
    return _plain(result)


def _tolerance(largest: float, rows: int, columns: int, precision: Precision) -> float:
    """Upper bound of eigenvalues that are rounding errors."""
    if precision == "float32":
        return spectra.float32_error(largest, rows, columns)
    return spectra.rank_tolerance(largest, rows, columns)


def _bulk_columns(values: Floats, rows: int, columns: int) -> dict[str, Any]:
    if len(values) < SHORT:
        return {}
    try:
        return flat(spectra.marchenko_pastur(values, rows, columns))
    except ValueError:  # there is no Marchenko-Pastur bulk
        return {}


def _farms(matrices: NDArray[Any], by_position: list[Floats], seed: int) -> float | None:
    _, rows, columns = matrices.shape
    try:
        return spectra.pooled_alpha(by_position) if rows == columns else spectra.farms_alpha(matrices, seed=seed)
    except ValueError:  # the upper half of the eigenvalues is constant
        return None


def _control_columns(
    control: spectra.ShuffledControl, values: Floats, factor: float, tolerance: float, min_evals: int
) -> dict[str, Any]:
    shuffled = control.values * factor
    largest = control.max_rand_eval * factor
    positive = shuffled[shuffled > tolerance]
    fitted = len(positive) >= min_evals and positive[0] < positive[-1]
    return {
        "rand_alpha": tail_of(Tails(positive)).alpha if fitted else None,
        "max_rand_eval": largest,
        "ww_softrank": largest / float(values[-1]),
        "rand_distance": spectra.spectral_distance(values, shuffled),
        "num_traps": control.num_traps,
        "trap_pvalue": control.trap_pvalue,
        "trap_size": control.trap_size,
        "trap_kind": control.trap_kind,
        "trap_places": control.trap_places or None,
    }


def _histogram(positive: Floats, shuffled: Floats | None, tolerance: float) -> Histogram:
    if shuffled is None:
        return Histogram(*spectra.log_histogram(positive))
    low, high, counts = spectra.log_histogram(np.concatenate([positive, shuffled[shuffled > tolerance]]))
    bins = len(counts)
    return Histogram(
        low,
        high,
        spectra.log_histogram(positive, low, high, bins)[2],
        spectra.log_histogram(shuffled, low, high, bins)[2],
    )


def _no_fit(positive: Floats, total: int, precision: float, min_evals: int) -> Skip | None:
    """Why no power law can be fitted."""
    if len(positive) < min_evals:
        found = "non-zero eigenvalues"
        if total > len(positive):
            found = f"of {total} eigenvalues above the rounding error"
        return Skip("too_few_eigenvalues", f"{len(positive)} {found}, a power-law fit needs {min_evals}")
    if positive[-1] - positive[0] <= 64 * precision * positive[-1]:
        return Skip("equal_eigenvalues", "all eigenvalues are equal within the precision of the weights")
    return None


def _precision(dtype: str, settings: Settings) -> float:
    """Machine epsilon of the stored dtype or of the computation, whichever is larger."""
    if dtype == "bfloat16":
        return 2.0**-7
    stored = np.dtype(dtype)
    dtypes = [np.dtype(settings.precision), *([stored] if stored.kind == "f" else [])]
    return max(float(np.finfo(dtype).eps) for dtype in dtypes)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Replace non-finite numbers by None, which marks an undefined value in all reports."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
