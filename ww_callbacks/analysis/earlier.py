"""One layer of a checkpoint compared with the same layer of earlier ones, whose weights are stored beside its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ww_callbacks.analysis.spec import Axes, LayerSpec, Snapshot
from ww_callbacks.analysis.update import unchanged_columns, update_columns
from ww_callbacks.spectra import Leading


def stacked_spec(spec: LayerSpec, count: int) -> LayerSpec:
    """The description of the weights of a layer at several checkpoints as one array, one row for each.

    Args:
        spec: of the weights at one checkpoint.
        count: number of checkpoints.
    """
    others = tuple(range(2, 1 + len(spec.shape)))
    return replace(spec, shape=(count, *spec.shape), axes=Axes((0,), (1,), others), factors=0)


def earlier_columns(
    spec: LayerSpec,
    rows: Sequence[Snapshot],
    digests: Sequence[str],
    leading: Callable[[Snapshot], Leading | None] | None = None,
) -> dict[str, Any]:
    """The columns of a report about changes, from the weights at a checkpoint, at the previous and at the first one.

    Weights whose digest is not the stated one are not those that were analysed: the checkpoint is gone, or was
    replaced. They are not compared.

    Args:
        spec: description of the weights at one checkpoint.
        rows: the weights at the checkpoint, at the previous one and at the first one, if this is another.
        digests: of the weights that were analysed, in the same order.
        leading: see :func:`ww_callbacks.analysis.update.update_columns`.

    Example:
        >>> import numpy as np
        >>> spec = LayerSpec("fc", "Linear", (100, 60), "float64", ((), (0,), (1,)))
        >>> before = np.random.default_rng(0).standard_normal((100, 60))
        >>> rows = [Snapshot(20, 1.25 * before, "b"), Snapshot(10, before, "a")]
        >>> round(earlier_columns(spec, rows, ["b", "a"])["update_norm"], 6)
        0.2
        >>> earlier_columns(spec, rows, ["b", "other"])
        {}
    """
    now, *others = [row if row.digest == digest else None for row, digest in zip(rows, digests, strict=True)]
    if now is None or not others:
        return {}
    previous, start = others[0], others[-1]
    columns = update_columns(spec, now, start, previous, leading)
    if previous is not None and previous.digest == now.digest:
        columns |= unchanged_columns(now, start, previous)
    return columns
