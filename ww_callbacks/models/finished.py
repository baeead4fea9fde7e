"""Analysis of a finished model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ww_callbacks.analysis import ConvScale, Fit, Interval, Settings
from ww_callbacks.checks import check_count, check_flag, check_patterns, check_sizes
from ww_callbacks.models.adapters import merge, with_ranks
from ww_callbacks.models.baseline import layers_in_both, pairs
from ww_callbacks.models.run import run_layers
from ww_callbacks.report import Report
from ww_callbacks.spectra import Precision
from ww_callbacks.weights import Split, find_layers, select_layers


def analyze(
    model: Any,
    *,
    layers: Sequence[str] | None = None,
    split: Split | None = None,
    conv_scale: ConvScale = "weightwatcher",
    randomize: bool = True,
    precision: Precision = "float64",
    interval: Interval = "asymptotic",
    fit: Fit = "PL",
    seed: int = 0,
    gof: bool = False,
    farms: bool = False,
    compare: bool = False,
    spectrum: bool = False,
    min_evals: int = 20,
    workers: int = 0,
    progress: bool = False,
    baseline: Any = None,
) -> Report:
    """Analyse the weights of a model.

    The model is only read. A layer that cannot be analysed is listed with the reason.

    Args:
        model: a torch module, a Keras model, a mapping name → array (two-dimensional: a matrix, four-dimensional: a
            convolution kernel in torch's order), or the path or URL of a weights file or of a folder
            with one.
        layers: patterns of the layers to analyse, ``"!pattern"`` to exclude; None for all. An embedding of more than
            50,000 rows is skipped unless its full name is among them.
        split: how to split fused projections: pattern → number of equal parts or list of sizes, such as
            ``{"*.qkv": 3}``.
        conv_scale: scale of convolution eigenvalues: "weightwatcher" (½), "paper" (number of kernel positions / 2) or
            "none".
        randomize: compare each layer with a shuffled copy of itself (rand_alpha, num_traps and so on).
        precision: "float64", or "float32", which takes about three quarters of the time; ``alpha_error`` is the error
            of alpha.
        interval: 95 % confidence interval of alpha: "asymptotic", or "bootstrap" (xmin is chosen anew in 40 resampled
            spectra).
        fit: "PL" (power law) or "TPL" (truncated power law; alpha and Lambda).
        seed: seed of the shuffle and of all resampling; the same seed gives the same report.
        gof: compute the goodness of fit of the power law, ``gof_pvalue`` (200 fits per layer).
        farms: compute ``alpha_farms``, a Hill estimate that the shape of a layer does not bias; for a matrix of N x M
            it takes as long as ⌈N/M⌉ matrices of M x M.
        compare: compare the power law with an exponential, a log-normal and a truncated power law.
        spectrum: keep all eigenvalues of each layer in ``LayerReport.spectrum``.
        min_evals: minimum number of eigenvalues that are not 0 for a fit. At least 8; alpha of fewer than 20 has a wide
            interval and is not ``reliable``.
        workers: number of worker processes, each with one thread and one layer in memory; 0 to analyse in this process.
        progress: show a progress bar on standard error, in a terminal or a notebook.
        baseline: a second model or file to compare the model with, layer by layer, such as the base of a fine-tuned
            model or the original of a compressed one. Each layer then reports how far it moved (``delta_alpha``,
            ``delta_log_lambda_max``, ``distance``), the spectrum of the change (``update_…``), new and lost leading
            directions (``intruders``, ``forgetting``), whether its scale collapsed, and the findings in words
            (``change``). A :class:`~ww_callbacks.Report` works too, but without the columns that need weights. If
            ``model`` is a folder with low-rank adapters, they are added to the weights of the baseline.

    Raises:
        TypeError: the model or an argument has the wrong type.
        WeightsFileError: a path or URL cannot be read as weights; this is a ValueError too.
        ValueError: a pattern matches no layer, an argument has a value that is not allowed, or no layer of the baseline
            has the name of a layer of the model.
        MemoryError: there is not enough memory for ``workers`` copies of the largest layer.
        ImportError: ``progress`` is True and rich is not installed.

    Example:
        >>> import numpy as np
        >>> import ww_callbacks as ww
        >>> rng = np.random.default_rng(0)
        >>> report = ww.analyze({"fc1": rng.standard_normal((300, 100)), "fc2": rng.standard_normal((100, 10))})
        >>> [layer.status for layer in report.layers]
        ['ok', 'skipped']
    """
    check_patterns("layers", layers)
    check_sizes("split", split)
    settings = Settings(conv_scale, randomize, precision, interval, fit, seed, gof, farms, compare, spectrum, min_evals)
    check_count("workers", workers, least=0)
    check_flag("progress", progress)
    run = partial(run_layers, settings=settings, workers=workers, progress=progress)
    found = find_layers(model, split=split)
    if isinstance(baseline, Report) and any(layer.adapter is not None for layer in found):
        raise ValueError("baseline: a report holds no weights to add an adapter to; pass the model or its file")
    if baseline is None or isinstance(baseline, Report):
        report = Report.of(run(select_layers(found, layers)))
        return report if baseline is None else report.against(baseline)
    merged, base, adapters = merge(found, find_layers(baseline, split=split))
    chosen = select_layers(merged, layers)
    before = layers_in_both(chosen, base)
    both = pairs(chosen, before)
    plain = replace(settings, randomize=False, gof=False, farms=False, compare=False, spectrum=False)
    compared = {layer.name for layer in both}
    ranks = run([layer for layer in adapters if layer.name in compared], settings=plain, title="adapters")
    changes = run(both, settings=plain, title="changes", analysis="change")
    return Report.of(with_ranks(run(chosen), ranks)).against(Report.of(run(before, title="baseline")), changes)
