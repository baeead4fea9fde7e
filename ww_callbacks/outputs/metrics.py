"""A report as flat metrics: the keys that every logger, TensorBoard and the frameworks' own dictionaries get."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ww_callbacks.report import SCHEMA, LayerReport, Report
from ww_callbacks.report.keys import AGGREGATES, layer_key

LAYER_METRICS = tuple(name for name, column in SCHEMA.items() if column.logged)
MAX_LAYERS = 64


def aggregate_metrics(report: Report, *, lag_steps: int, skipped: int) -> dict[str, float]:
    """The summary of a report under the keys ``ww/…``, and the health of the monitoring.

    Args:
        report: one snapshot's results.
        lag_steps: steps between the snapshot and the moment its results were known.
        skipped: snapshots that were skipped so far because the worker was busy.

    Example:
        >>> aggregate_metrics(Report((), step=5), lag_steps=2, skipped=0)["ww/lag_steps"]
        2.0
    """
    metrics = {f"{AGGREGATES}{name}": value for name, value in report.summary().items()}
    return metrics | {"ww/lag_steps": float(lag_steps), "ww/skipped": float(skipped)}


def layer_metrics(report: Report, names: Collection[str]) -> dict[str, float]:
    """The metrics of single layers under the keys ``ww_layer/<metric>/<index>.<name>``.

    Only of layers looked at in this step: an older value was logged at its own.

    Args:
        report: one snapshot's results.
        names: the layers to include.
    """
    return {
        layer_key(metric, index, layer.name): float(value)
        for index, layer in enumerate(report.layers)
        if layer.name in names and layer.step == report.step
        for metric in LAYER_METRICS
        if (value := getattr(layer, metric)) is not None
    }


def spread(layers: Sequence[LayerReport], limit: int = MAX_LAYERS) -> list[str]:
    """Names of at most ``limit`` layers that are analysed, now or later, evenly spread over the depth of the model.

    Example:
        >>> spread([LayerReport(name=str(i), kind="fc", M=1) for i in range(5)], limit=3)
        ['0', '2', '4']
    """
    names = [layer.name for layer in layers if layer.M is not None or layer.is_waiting]
    if len(names) <= limit:
        return names
    return [names[round(i * (len(names) - 1) / (limit - 1))] for i in range(limit)]
