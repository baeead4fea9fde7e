"""A series of models side by side, with or without what is known of their quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

from ww_callbacks.analysis import ConvScale, Settings
from ww_callbacks.checks import check_count, check_flag, check_patterns
from ww_callbacks.models.controls import rescaled, shuffled_layer
from ww_callbacks.models.run import run_layers
from ww_callbacks.report import Comparison, Report
from ww_callbacks.spectra import Precision
from ww_callbacks.weights import Layer, find_layers, select_layers


def compare(
    models: Mapping[str, Any],
    *,
    quality: Mapping[str, float] | None = None,
    layers: Sequence[str] | None = None,
    conv_scale: ConvScale = "weightwatcher",
    randomize: bool = True,
    precision: Precision = "float64",
    seed: int = 0,
    workers: int = 0,
    progress: bool = False,
) -> Comparison:
    """Analyse several models and put their means side by side.

    With a quality, every metric is correlated with it, and beside each correlation stand two more: of the same models
    with all weights of each matrix shuffled (scale and depth are left, nothing that was learned) and with each layer
    scaled to root mean square 1 (shape and depth are left). A metric that follows the quality only as far as the
    shuffled weights do says nothing about the shape of the spectra, and the printed conclusion says so.

    Args:
        models: name → torch module, Keras model, mapping name → array, or the path of a weights file.
        quality: name → test accuracy, error or any other number; models without one are left out of the correlations.
        layers: patterns of layers to keep, ``"!pattern"`` to leave out; each has to match in every model.
        conv_scale: factor on the eigenvalues of convolutions, as in :func:`ww_callbacks.analyze`.
        randomize: compare each layer with a shuffled copy of itself in the reports; the correlations of the shuffled
            weights do not depend on it.
        precision: "float64", or "float32" for about two thirds of the time.
        seed: of the shuffle.
        workers: processes to analyse in; 0 for this process.
        progress: show a bar for each model on standard error, where that is a terminal or a notebook.

    Raises:
        TypeError: an argument, or a model, is of the wrong kind.
        ValueError: a pattern matches no layer, an argument has a value that is not allowed, or ``quality`` names a
            model that is not there.
        MemoryError: there is not enough memory for ``workers`` copies of the largest layer.
        ImportError: ``progress`` is wanted and rich is not installed.

    Example:
        >>> import numpy as np
        >>> import ww_callbacks as ww
        >>> def model(seed):
        ...     return {"fc": np.random.default_rng(seed).standard_normal((100, 60))}
        >>> comparison = ww.compare({"a": model(0), "b": model(1)})
        >>> [(row["model"], row["layers"]) for row in comparison.to_dicts()]
        [('a', 1), ('b', 1)]
    """
    _check_mapping("models", models)
    if not models:
        raise ValueError("models: expected at least one model, got none")
    quality = {} if quality is None else _checked(quality, models)
    check_patterns("layers", layers)
    check_count("workers", workers, least=0)
    check_flag("progress", progress)
    settings = Settings(conv_scale=conv_scale, randomize=randomize, precision=precision, seed=seed)
    reports, shuffled, scaled = {}, {}, {}
    for name, model in models.items():
        chosen = select_layers(find_layers(model), layers)
        reports[name] = Report.of(run_layers(chosen, settings, workers=workers, progress=progress, title=name))
        if name in quality:
            alone = replace(settings, randomize=False)
            bare: list[Layer] = [shuffled_layer(layer, seed) for layer in chosen]
            control = run_layers(bare, alone, workers=workers, progress=progress, title=f"{name}, shuffled")
            shuffled[name] = Report(tuple(control)).recount(reports[name].counted)
            pairs = zip(reports[name].layers, chosen, strict=True)
            scaled[name] = Report(tuple(rescaled(report, layer.spec, settings) for report, layer in pairs))
    return Comparison(reports, quality, shuffled, scaled)


def _check_mapping(name: str, value: object) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name}: expected a mapping of names, got {value!r}")


def _checked(quality: Mapping[str, Any], models: Mapping[str, Any]) -> dict[str, float]:
    _check_mapping("quality", quality)
    for name, value in quality.items():
        if name not in models:
            raise ValueError(f"quality: there is no model {name!r}; the models are {list(models)}")
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"quality: expected a finite number for {name!r}, got {value!r}")
    return {name: float(value) for name, value in quality.items()}
