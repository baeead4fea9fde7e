"""Result tables of studies with paired seeds: files to which missing runs are added, and bootstrap intervals."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
Row = dict[str, Any]
Floats = NDArray[np.float64]


def with_missing(
    path: Path, keys: Sequence[str], wanted: Iterable[tuple[Any, ...]], run: Callable[..., list[Row]]
) -> list[dict[str, str]]:
    """Return the rows of a result file, after appending those of the runs that it lacks.

    Args:
        path: the file.
        keys: columns that identify a run.
        wanted: the values of these columns for each run.
        run: makes one run of these values; all its rows have the same columns.
    """
    path.parent.mkdir(exist_ok=True)
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    done = {tuple(row[key] for key in keys) for row in rows}
    for values in wanted:
        if tuple(map(str, values)) in done:
            continue
        new = run(*values)
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(new[0]), lineterminator="\n")
            if not file.tell():
                writer.writeheader()
            writer.writerows(new)
    return list(csv.DictReader(path.open()))


def short(value: float | None) -> str:
    """Four significant digits; empty if there is none."""
    return "" if value is None else f"{value:.4g}"


def number(text: str) -> float:
    """The inverse of :func:`short`; nan for an empty text."""
    return float(text) if text else np.nan


@cache
def resampled(size: int) -> Floats:
    """How often each of some seeds is drawn, one row per bootstrap sample; the first row draws each once."""
    drawn = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), RESAMPLES)
    return np.vstack([np.ones(size), drawn]).astype(float)


def with_interval(values: Floats, digits: int = 2) -> str:
    """The value of the sample, which comes first, and the 95 % interval of the resampled ones."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return f"{values[0]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
