"""The report of a layer whose weights are multiplied by a number."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ww_callbacks.report.columns import Scaling
from ww_callbacks.report.layer import SCHEMA, LayerReport


def divide_eigenvalues(layer: LayerReport, divisor: float) -> LayerReport:
    """The report that a layer would have if all its eigenvalues were divided by a number.

    Exact: each column follows its declared scaling. Histogram and spectrum are left out.

    Args:
        layer: the report as it is.
        divisor: greater than 0; the square of the number by which the weights are divided.

    Example:
        >>> layer = LayerReport(name="fc", kind="Linear", alpha=2.5, lambda_max=8.0)
        >>> divided = divide_eigenvalues(layer, 4.0)
        >>> divided.alpha, divided.lambda_max
        (2.5, 2.0)
    """
    values: dict[str, Any] = {
        name: _divided(getattr(layer, name), column.scaling, divisor, layer.alpha)
        for name, column in SCHEMA.items()
        if column.scaling != "invariant"
    }
    return replace(layer, **values, histogram=None, spectrum=None)


def _divided(value: float | None, scaling: Scaling, divisor: float, alpha: float | None) -> float | None:
    if value is None or scaling == "invariant":
        return value
    if scaling == "proportional":
        return value / divisor
    if scaling == "inverse":
        return value * divisor
    shift = math.log10(divisor)
    return value - (shift if scaling == "log" else shift * (alpha or 0.0))
