"""The controls of a model: layers with shuffled weights, and layers at equal scale."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ww_callbacks.analysis import Axes, LayerSpec, Settings, as_matrices, conv_factor
from ww_callbacks.report import LayerReport
from ww_callbacks.report.scaling import divide_eigenvalues
from ww_callbacks.spectra import shuffle_matrix
from ww_callbacks.weights import Layer


def shuffled_layer(layer: Layer, seed: int) -> Layer:
    """A layer with the shuffled weights of another layer; skipped layers and low-rank adapters are returned unchanged.

    Args:
        layer: a layer of a model.
        seed: seed of the permutation, as in ``analyze``.
    """
    spec, read = layer.spec, layer.read
    if spec is None or read is None or spec.factors:
        return layer
    pooled, rows, columns = spec.matrix_shape
    dtype = "float32" if spec.dtype == "bfloat16" else spec.dtype
    stored = replace(
        spec, shape=(pooled, max(rows, columns), min(rows, columns)), dtype=dtype, axes=Axes((0,), (1,), (2,))
    )

    def shuffled() -> np.ndarray:
        matrices = as_matrices(spec, read())
        if not matrices.size or not np.isfinite(matrices).all():
            return matrices.reshape(stored.shape)
        return np.stack([shuffle_matrix(matrix, seed=seed, position=i) for i, matrix in enumerate(matrices)])

    return replace(layer, spec=stored, read=shuffled)


def rescaled(layer: LayerReport, spec: LayerSpec | None, settings: Settings) -> LayerReport:
    """The report that a layer would have if its weights were scaled to a root mean square of 1.

    Exact: the eigenvalues are divided by the mean square of the weights, and each column follows its declared scaling.

    Args:
        layer: the report of the layer.
        spec: description of the analysed weights; None for a skipped layer.
        settings: settings of the analysis.
    """
    if spec is None or not layer.norm:
        return layer
    square = layer.norm / conv_factor(spec, settings) / math.prod(spec.matrix_shape)
    return divide_eigenvalues(layer, square)
