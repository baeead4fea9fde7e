"""The results of a layer in words."""

from __future__ import annotations

from ww_callbacks.printable import shown_text
from ww_callbacks.report.layer import LayerReport, TailWarning
from ww_callbacks.report.traps import trap_words

_WARNINGS: dict[TailWarning, str] = {
    "": "",
    "over-trained": "alpha and its whole interval are below 2 (over-trained, but also seen in healthy networks)",
    "under-trained": "alpha and its whole interval are above 6 (under-trained: almost no tail)",
    "no tail": "no tail: random signs could give this spectrum, so alpha is noise",
    "cannot be told": "whether a tail has formed cannot be told: the signs of the weights have no effect",
}


def in_words(layer: LayerReport) -> str:
    """One sentence about a layer: why it was not analysed, or its findings; empty without findings.

    Example:
        >>> in_words(LayerReport(name="fc", kind="Linear", alpha=2.4, num_traps=1, trap_kind="mean"))
        '1 correlation trap: the mean of the weights is not 0'
    """
    parts = []
    if layer.status != "ok":
        parts.append(f"{layer.status}: {shown_text(layer.reason)}")
    if layer.is_trapped and not layer.new_traps:  # those beyond a baseline are in the change
        parts.append(trap_words(layer))
    parts += filter(None, [_WARNINGS[layer.warning], layer.change])
    return "; ".join(parts)
