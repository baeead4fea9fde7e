"""Correlation traps in words."""

from __future__ import annotations

from ww_callbacks.report.layer import LayerReport, TrapKind

_KINDS: dict[TrapKind, str] = {
    "mean": "the mean of the weights is not 0",
    "rows": "large rows",
    "columns": "large columns",
    "elements": "very large weights",
    "kurtosis": "weights with heavy tails, or many zeros",
    "mixed": "several causes",
}


def trap_words(layer: LayerReport) -> str:
    """The number of correlation traps with their cause and up to five places, in words.

    Example:
        >>> places = ((3, 4), 40.0), ((7, 1), -38.0)
        >>> trap_words(LayerReport(name="fc", kind="Linear", num_traps=2, trap_kind="elements", trap_places=places))
        '2 correlation traps: very large weights, [3, 4] = 40 and [7, 1] = -38'
    """
    count = f"{layer.num_traps} correlation trap" + ("" if layer.num_traps == 1 else "s")
    if layer.trap_kind is None:
        return count
    places = [_place(layer.trap_kind, *place) for place in layer.trap_places or ()]
    listed = " and ".join(filter(None, [", ".join(places[:-1]), *places[-1:]]))
    return ": ".join([count, ", ".join(filter(None, [_KINDS[layer.trap_kind], listed]))])


def _place(kind: TrapKind, index: tuple[int, ...], value: float) -> str:
    if kind == "elements":
        return f"[{', '.join(map(str, index))}] = {value:.3g}"
    where = f"position {index[0]}, " if len(index) > 1 else ""
    return f"{where}{index[-1]} ({value:.3g} times the median)"
