"""The command-line options of the analysis."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_args

from ww_callbacks.analysis import ConvScale, Fit, Interval, Settings
from ww_callbacks.spectra import Precision


def add_analysis(parser: argparse.ArgumentParser, workers: int = 0) -> None:
    """Add the options of the analysis that several commands share.

    Their names and defaults are those of :class:`~ww_callbacks.analysis.Settings`.

    Args:
        parser: of the command.
        workers: default number of worker processes.
    """
    layers = parser.add_argument_group("layers")
    layers.add_argument(
        "--layers",
        metavar="PATTERN",
        nargs="+",
        action="extend",
        help="layers to analyse, '!PATTERN' to exclude (after the file)",
    )
    layers.add_argument(
        "--split",
        metavar="PATTERN=PARTS",
        nargs="+",
        action="extend",
        help="split fused projections: number of equal parts, or their sizes, such as '*.qkv=3' or '*.kv=64,32'",
    )
    analysis = parser.add_argument_group("analysis")
    analysis.add_argument(
        "--no-randomize", dest="randomize", action="store_false", help="no shuffled control: about half the time"
    )
    _add_choice(analysis, "conv_scale", ConvScale, "scale of convolution eigenvalues")
    _add_choice(analysis, "precision", Precision, "float32 takes three quarters of the time, with a small error")
    _add_choice(analysis, "interval", Interval, "95 %% confidence interval of alpha")
    _add_choice(analysis, "fit", Fit, "power law or truncated power law")
    analysis.add_argument(
        "--seed", metavar="N", type=int, default=Settings().seed, help="seed of the shuffle (default: 0)"
    )
    default = "0, this process" if workers == 0 else str(workers)
    analysis.add_argument(
        "--workers", metavar="N", type=int, default=workers, help=f"number of worker processes (default: {default})"
    )


def _add_choice(group: argparse._ArgumentGroup, name: str, choices: object, text: str) -> None:
    default = getattr(Settings(), name)
    option = f"--{name.replace('_', '-')}"
    group.add_argument(option, choices=get_args(choices), default=default, help=f"{text} (default: {default})")


def analysis_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of ``analyze`` and ``compare`` from the options that both commands have.

    Raises:
        ValueError: an option of ``--split`` is not of the form PATTERN=PARTS.
    """
    names = ["layers", "workers", *(field.name for field in fields(Settings) if hasattr(arguments, field.name))]
    return {name: getattr(arguments, name) for name in names} | {"split": _split(arguments.split)}


def _split(words: Sequence[str] | None) -> dict[str, int | list[int]] | None:
    """Pattern → number of parts, or list of sizes."""
    pairs = [word.rpartition("=") for word in words or ()]
    try:
        sizes = {pattern: [int(size) for size in text.split(",")] for pattern, _, text in pairs}
    except ValueError as error:
        raise ValueError(f"--split: expected PATTERN=NUMBER or PATTERN=SIZE,SIZE, {error}") from error
    return {pattern: each if len(each) > 1 else each[0] for pattern, each in sizes.items()} or None
