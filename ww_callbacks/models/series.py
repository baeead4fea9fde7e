"""Comparison of a series of models, with or without their quality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, TypeGuard

from ww_callbacks.analysis import ConvScale, Fit, Interval, Settings
from ww_callbacks.checks import check_count, check_flag, check_patterns, check_sizes
from ww_callbacks.models.controls import rescaled, shuffled_layer
from ww_callbacks.models.run import run_layers
from ww_callbacks.printable import quoted, quoted_list
from ww_callbacks.report import Comparison, Report
from ww_callbacks.spectra import Precision
from ww_callbacks.weights import Layer, Split, find_layers, select_layers


def compare(
    models: Mapping[str, Any],
    *others: object,
    quality: Mapping[str, float] | None = None,
    layers: Sequence[str] | None = None,
    split: Split | None = None,
    conv_scale: ConvScale = "weightwatcher",
    randomize: bool = True,
    precision: Precision = "float64",
    interval: Interval = "asymptotic",
    fit: Fit = "PL",
    seed: int = 0,
    min_evals: int = 20,
    workers: int = 0,
    progress: bool = False,
) -> Comparison:
    """Analyse several models and compare their means.

    With a quality, every metric is correlated with it. Two controls are shown beside each correlation: the same models
    with the weights of each matrix shuffled (this keeps scale and depth, but nothing that was learned), and with each
    layer scaled to a root mean square of 1 (this keeps shape and depth). A metric that follows the quality no better
    than the shuffled weights do says nothing about the shape of the spectra, and the printed conclusion says so.

    Args:
        models: name → torch module, Keras model, mapping name → array, or path or URL of a weights file.
        *others: none; several models are one mapping.
        quality: name → test accuracy, error or any other number; models without one are left out of the correlations.
        layers: patterns of the layers to analyse, as in :func:`ww_callbacks.analyze`; each must match in every model.
        split: how to split fused projections, as in :func:`ww_callbacks.analyze`; each pattern must match in every
            model.
        conv_scale: scale of convolution eigenvalues, as in :func:`ww_callbacks.analyze`.
        randomize: compare each layer with a shuffled copy of itself in the reports. The correlations of the shuffled
            weights do not depend on it.
        precision: "float64" or "float32", as in :func:`ww_callbacks.analyze`.
        interval: 95 % confidence interval of alpha in the reports: "asymptotic" or "bootstrap".
        fit: "PL" (power law) or "TPL" (truncated power law).
        seed: seed of the shuffle and of all resampling.
        min_evals: minimum number of eigenvalues for a fit, as in :func:`ww_callbacks.analyze`.
        workers: number of worker processes; 0 to analyse in this process.
        progress: show a progress bar for each model on standard error, in a terminal or a notebook.

    Raises:
        TypeError: an argument, or a model, has the wrong type.
        ValueError: a pattern matches no layer, an argument has a value that is not allowed, or ``quality`` names an
            unknown model.
        MemoryError: there is not enough memory for ``workers`` copies of the largest layer.
        ImportError: ``progress`` is True and rich is not installed.

    Example:
        >>> import numpy as np
        >>> import ww_callbacks as ww
        >>> def model(seed):
        ...     return {"fc": np.random.default_rng(seed).standard_normal((100, 60))}
        >>> comparison = ww.compare({"a": model(0), "b": model(1)})
        >>> [(row["model"], row["layers"]) for row in comparison.to_dicts()]
        [('a', 1), ('b', 1)]
    """
    _check_models(models, others)
    quality = {} if quality is None else _checked(quality, models)
    check_patterns("layers", layers)
    check_sizes("split", split)
    check_count("workers", workers, least=0)
    check_flag("progress", progress)
    settings = Settings(
        conv_scale=conv_scale,
        randomize=randomize,
        precision=precision,
        interval=interval,
        fit=fit,
        seed=seed,
        min_evals=min_evals,
    )
    reports, shuffled, scaled = {}, {}, {}
    for name, model in models.items():
        chosen = select_layers(find_layers(model, split=split), layers)
        reports[name] = Report.of(run_layers(chosen, settings, workers=workers, progress=progress, title=name))
        if name in quality:
            alone = replace(settings, randomize=False, interval="asymptotic")
            bare: list[Layer] = [shuffled_layer(layer, seed) for layer in chosen]
            control = run_layers(bare, alone, workers=workers, progress=progress, title=f"{name}, shuffled")
            shuffled[name] = Report(tuple(control)).recount(reports[name].counted)
            pairs = zip(reports[name].layers, chosen, strict=True)
            scaled[name] = Report(tuple(rescaled(report, layer.spec, settings) for report, layer in pairs))
    return Comparison(reports, quality, shuffled, scaled)


def _check_models(models: object, others: Sequence[object]) -> None:
    """Check that the models have names.

    Raises:
        TypeError: they have none, or something is no model.
        ValueError: there is none.
    """
    how = 'compare({"a": model, "b": other}); analyze(model, baseline=other) says how a model differs from another'
    if others:
        raise TypeError(f"models: expected one mapping name -> model, got {1 + len(others)} arguments: {how}")
    if not _has_names(models):
        raise TypeError(f"models: expected a mapping name -> model, got {_short(models)}: {how}")
    if not models:
        raise ValueError("models: expected at least one model, got none")
    for name, model in models.items():
        if isinstance(model, Report):
            raise TypeError(f"models: {name!r} is a Report already; Comparison({{name: report, …}}) compares reports")
        if hasattr(model, "__array__"):
            raise TypeError(f"models: {name!r} is an array, expected a model; is this mapping one model? {how}")


def _has_names(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _short(value: object) -> str:
    """A value as a message can show it, without the numbers in it."""
    return f"names such as {next(iter(value))!r}" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _checked(quality: Mapping[str, Any], models: Mapping[str, Any]) -> dict[str, float]:
    if not _has_names(quality):
        raise TypeError(f"quality: expected a mapping name of a model -> number, got {_short(quality)}")
    for name, value in quality.items():
        if name not in models:
            raise ValueError(f"quality: there is no model {quoted(name)}; the models are {quoted_list(list(models))}")
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise ValueError(f"quality: expected a finite number for {quoted(name)}, got {value!r}")
    return {name: float(value) for name, value in quality.items()}
