"""What a layer's numbers say, in sentences."""

from __future__ import annotations

from ww_callbacks.report.layer import LayerReport

_WARNINGS = {
    "": "",
    "over-trained": "alpha and its whole interval lie below 2 (over-trained; healthy networks show it too)",
    "under-trained": "alpha and its whole interval lie above 6 (under-trained: hardly any tail)",
    "no tail": "no eigenvalue above the random edge: it cannot be told from random weights, alpha is noise",
}


def in_words(layer: LayerReport) -> str:
    """One sentence on a layer: why it was not analysed, or what is noticeable; empty where nothing is.

    Example:
        >>> in_words(LayerReport(name="fc", kind="Linear", alpha=2.4, num_traps=2))
        '2 correlation traps: a few very large weights, or a shifted mean'
    """
    parts = []
    if layer.status != "ok":
        parts.append(f"{layer.status}: {layer.reason}")
    if layer.num_traps and "correlation trap" not in layer.change:
        traps = "1 correlation trap" if layer.num_traps == 1 else f"{layer.num_traps} correlation traps"
        parts.append(f"{traps}: a few very large weights, or a shifted mean")
    parts += filter(None, [_WARNINGS[layer.warning], layer.change])
    return "; ".join(parts)
