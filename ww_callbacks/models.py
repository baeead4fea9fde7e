"""Finished models: every layer analysed, here and now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ww_callbacks.analysis import ConvScale, Settings, analyze_layer
from ww_callbacks.arguments import check_patterns
from ww_callbacks.report import LayerReport, Report
from ww_callbacks.weights import Layer, find_layers, select_layers


def analyze(model: Any, *, layers: Sequence[str] | None = None, conv_scale: ConvScale = "weightwatcher") -> Report:
    """Analyse the weights of a model.

    The model is only read. A layer that cannot be analysed is listed with the reason and stops nothing.

    Args:
        model: a torch module, or a mapping name → array (two-dimensional a matrix, four-dimensional a convolution
            kernel in torch's order).
        layers: patterns of layers to keep, ``"!pattern"`` to leave out; None for all.
        conv_scale: factor on the eigenvalues of convolutions: "weightwatcher" (½), "paper" (number of kernel
            positions / 2) or "none".

    Raises:
        TypeError: the model or an argument is of the wrong kind.
        ValueError: a pattern matches no layer, or ``conv_scale`` is unknown.

    Example:
        >>> import numpy as np
        >>> import ww_callbacks as ww
        >>> rng = np.random.default_rng(0)
        >>> report = ww.analyze({"fc1": rng.standard_normal((300, 100)), "fc2": rng.standard_normal((100, 10))})
        >>> [layer.status for layer in report.layers]
        ['ok', 'skipped']
    """
    check_patterns("layers", layers)
    settings = Settings(conv_scale=conv_scale)
    chosen = select_layers(find_layers(model), layers)
    return Report.of(_analyze(layer, settings) for layer in chosen)


def _analyze(layer: Layer, settings: Settings) -> LayerReport:
    if layer.spec is None or layer.read is None:
        return layer.skip_report(None)
    return analyze_layer(layer.spec, layer.read(), settings)
