"""Order of the layers, worst first."""

from __future__ import annotations

from collections.abc import Iterable

from ww_callbacks.report.layer import LayerReport

_WARNING_ORDER = ("over-trained", "under-trained", "no tail", "cannot be told", "")


def worst_first(layers: Iterable[LayerReport]) -> list[LayerReport]:
    """Sort layers, worst first.

    Failed layers come first, then layers with correlation traps, with the warnings over-trained, under-trained, no
    tail and cannot be told, then the others, each group by decreasing alpha; skipped layers come last.

    Example:
        >>> layers = [
        ...     LayerReport(name="good", kind="Linear", alpha=2.5),
        ...     LayerReport(name="trap", kind="Linear", alpha=2.1, num_traps=1),
        ...     LayerReport(name="large", kind="Linear", alpha=7.5, warning="under-trained"),
        ...     LayerReport(name="bias", kind="Linear", status="skipped"),
        ... ]
        >>> [layer.name for layer in worst_first(layers)]
        ['trap', 'large', 'good', 'bias']
    """
    return sorted(layers, key=_place)


def _place(layer: LayerReport) -> tuple[float, ...]:
    return (
        layer.status == "skipped",
        layer.status != "failed",
        -(layer.num_traps or 0),
        _WARNING_ORDER.index(layer.warning),
        -(layer.alpha or 0.0),
    )
