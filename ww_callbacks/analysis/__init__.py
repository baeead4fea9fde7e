"""Analysis of one layer: from stored weights and settings to a LayerReport."""

from ww_callbacks.analysis.layer import analyze_layer, conv_factor
from ww_callbacks.analysis.settings import ConvScale, Fit, Interval, Settings
from ww_callbacks.analysis.spec import Axes, LayerSpec, as_matrices, decoded, factors_of, joined_factors

__all__ = [
    "Axes",
    "ConvScale",
    "Fit",
    "Interval",
    "LayerSpec",
    "Settings",
    "analyze_layer",
    "as_matrices",
    "conv_factor",
    "decoded",
    "factors_of",
    "joined_factors",
]
