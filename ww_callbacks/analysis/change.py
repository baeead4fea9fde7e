"""Analysis of the change of one layer from a baseline, as run by the worker."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks import spectra
from ww_callbacks.analysis.layer import analyze_layer
from ww_callbacks.analysis.leading import leading_of, side_by_side
from ww_callbacks.analysis.settings import Settings
from ww_callbacks.analysis.spec import Axes, LayerSpec, as_matrices
from ww_callbacks.analysis.update import share_unchanged
from ww_callbacks.report import LayerReport
from ww_callbacks.spectra import Leading

NUM_INTRUDERS = 10
"""Leading directions of the model that can be intruders, as in arXiv 2410.21228."""
NUM_HELD = 64
"""Leading directions of the baseline of which :attr:`LayerReport.forgetting` is measured, at most."""


def pair_spec(now: LayerSpec, before: LayerSpec) -> LayerSpec:
    """The description of a layer whose stored weights are those of a model and of its baseline.

    They are stored as one array of shape (2, positions, rows, columns), in single precision if both have at most 32
    bits.
    """
    wide = any(spec.storage_dtype.itemsize > 4 for spec in (now, before))
    axes = Axes((0, 1), (2,), (3,))
    return LayerSpec(now.name, now.kind, (2, *now.matrix_shape), "float64" if wide else "float32", axes, now.role)


def analyze_change(spec: LayerSpec, stored: NDArray[Any], settings: Settings) -> LayerReport:
    """Analyse the change W - W₀ of one layer from its baseline.

    Args:
        spec: description from :func:`pair_spec`.
        stored: W and W₀, shape (2, positions, rows, columns).
        settings: settings of the analysis of W - W₀.

    Returns:
        The report of W - W₀, which also has the columns that need both W and W₀: distance, update_norm,
        update_unchanged, update_rotation, intruders and forgetting.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> base, u, v = rng.standard_normal((1, 200, 100)), rng.standard_normal(200), rng.standard_normal(100)
        >>> layer = LayerSpec("fc", "Linear", (200, 100), "float64", Axes((), (0,), (1,)))
        >>> found = analyze_change(pair_spec(layer, layer), np.stack([base + np.outer(u, v), base]), Settings())
        >>> found.num_directions, found.intruders
        (1, 1)
    """
    now, before = as_matrices(spec, stored).reshape(spec.shape)
    with np.errstate(all="ignore"):
        change = now - before
    report = analyze_layer(replace(spec, shape=now.shape, axes=Axes((0,), (1,), (2,))), change, settings)
    return replace(report, **_columns(now, before, change, report))


def _columns(now: NDArray[Any], before: NDArray[Any], change: NDArray[Any], report: LayerReport) -> dict[str, Any]:
    columns: dict[str, Any] = {"distance": spectra.relative_distance(now, before)}
    if report.skip_reason == "zero":
        return columns | {
            "update_norm": 0.0,
            "update_unchanged": 1.0,
            "update_rotation": 0.0,
            "intruders": 0,
            "forgetting": 0.0,
        }
    norm = spectra.frobenius_norm(now)
    if report.norm is None or not 0 < norm < math.inf:
        return columns
    columns["update_norm"] = spectra.frobenius_norm(change) / norm
    columns["update_unchanged"] = share_unchanged(before, change)
    leading, base = leading_of(now, NUM_HELD + 1), leading_of(before, NUM_HELD + 1)
    if leading is not None and base is not None:
        columns["intruders"] = _num_intruders(leading, before, change, report)
        columns["update_rotation"] = spectra.rotation(base, leading)
        columns["forgetting"] = spectra.subspace_loss(base, leading)
    return columns


def _num_intruders(leading: Leading, before: NDArray[Any], change: NDArray[Any], report: LayerReport) -> int | None:
    """None if it cannot be told whether the change could be noise; 0 if it could."""
    if report.null != "arranged":
        return None if report.null == "cannot be told" else 0
    return spectra.num_intruders(leading.vectors[:, :NUM_INTRUDERS], side_by_side(before), side_by_side(change))
