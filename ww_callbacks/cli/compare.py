"""``ww-callbacks compare``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath

from ww_callbacks.cli.options import analysis_arguments
from ww_callbacks.cli.output import Writers, chosen_format, show_progress, status_of, to_csv, write
from ww_callbacks.cli.paths import check_exists
from ww_callbacks.cli.tables import finding_lines, fitted_text
from ww_callbacks.models import compare
from ww_callbacks.page.comparison import comparison_page
from ww_callbacks.printable import quoted, shown_name
from ww_callbacks.report import Comparison
from ww_callbacks.report.comparison import render_comparison
from ww_callbacks.report.table import align
from ww_callbacks.weights.files.urls import is_url, name_in


def run(arguments: argparse.Namespace) -> int:
    """Compare files and write the table."""
    kind = chosen_format(arguments, list(WRITERS))
    models = _models(arguments.models)
    for file in models.values():
        check_exists(file)
    comparison = compare(
        models,
        quality=_quality(arguments.quality or (), models),
        progress=show_progress(arguments),
        **analysis_arguments(arguments),
    )
    if kind == "table" and arguments.output is None:
        print(_text(comparison, fitted_text))
    else:
        write(WRITERS[kind](comparison, ", ".join(models)), arguments.output)
    return status_of(comparison.reports.values())


def _models(words: Sequence[str]) -> dict[str, str]:
    """Name → file; a word that is a URL or the path of a file is not split at its "="."""
    models: dict[str, str] = {}
    for word in words:
        name, equals, file = word.partition("=")
        if not equals or is_url(word) or Path(word).exists():
            name, file = PurePath(name_in(word)).stem or word, word
        if name in models:
            raise ValueError(f"two models are named {quoted(name)}; name them: NAME=FILE")
        models[name] = file
    return models


def _quality(words: Sequence[str], models: dict[str, str]) -> dict[str, float] | None:
    """Name → number; numbers without names belong to the models in order."""
    if not words:
        return None
    if not any("=" in word for word in words):
        if len(words) != len(models):
            raise ValueError(f"--quality: expected a number for each of {len(models)} models, got {len(words)}")
        words = [f"{name}={word}" for name, word in zip(models, words, strict=True)]
    pairs = [word.rpartition("=") for word in words]
    try:
        return {name: float(number) for name, _, number in pairs}
    except ValueError as error:
        raise ValueError(f"--quality: expected NAME=NUMBER, {error}") from error


def _table(comparison: Comparison, title: str) -> str:
    return _text(comparison, align)


def _text(comparison: Comparison, show: Callable[[Sequence[Sequence[str]]], str]) -> str:
    """The tables, the conclusions and the findings of each model.

    Args:
        comparison: of the models.
        show: turns the cells of a table into text.
    """
    lines = [
        f"{shown_name(name)}: {line}"
        for name, report in comparison.reports.items()
        for line in finding_lines(report.findings)
    ]
    return "\n".join([render_comparison(comparison, show), *lines])


def _json(comparison: Comparison, title: str) -> str:
    return json.dumps(
        {
            "models": comparison.to_dicts(),
            "correlations": [asdict(each) for each in comparison.correlations()],
            "conclusions": comparison.conclusions(),
            "findings": {
                name: [finding.to_dict() for finding in report.findings] for name, report in comparison.reports.items()
            },
        },
        allow_nan=False,
    )


def _csv(comparison: Comparison, title: str) -> str:
    rows = comparison.to_dicts()
    return to_csv(list(rows[0]), rows)


WRITERS: Writers[Comparison] = {"table": _table, "json": _json, "csv": _csv, "html": comparison_page}
