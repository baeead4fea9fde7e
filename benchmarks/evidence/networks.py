"""Small networks, their data and their optimizers, for the studies of updates.

Digits are flat, standardised images of 784 pixels; texts are windows of character codes, each of which is to be
continued.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from text import CONTEXT, corpus
from torch import Tensor, nn

Make = Callable[[nn.Module], torch.optim.Optimizer]


def dense(*sizes: int, norm: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    """Dense layers with ReLU, and normalisation if given, between them."""
    layers: list[nn.Module] = []
    for rows, columns in pairwise(sizes):
        layers += [nn.Linear(rows, columns), *([norm(columns)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers[: -2 if norm else -1])


def convolutional(norm: bool = True) -> nn.Sequential:
    """Three convolutions, with batch normalisation or not, and two dense layers."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 28, 28))]
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers.append(nn.Conv2d(before, after, 3, stride=2, padding=1))
        layers += [*([nn.BatchNorm2d(after)] if norm else []), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def sgd(rate: float, momentum: float = 0.0, decay: float = 0.0) -> Make:
    return lambda model: torch.optim.SGD(trained(model), lr=rate, momentum=momentum, weight_decay=decay)


def adam(rate: float, decay: float = 0.0) -> Make:
    """AdamW; without decay the same as Adam."""
    return lambda model: torch.optim.AdamW(trained(model), lr=rate, weight_decay=decay)


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def windows(part: str, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Windows of a text that do not overlap, and the next character of each position."""
    characters = corpus()[part]
    begin = int(torch.randint(len(characters) - count * CONTEXT, (1,), generator=generator))
    chosen = characters[begin : begin + count * CONTEXT + 1]
    return chosen[:-1].reshape(count, CONTEXT), chosen[1:].reshape(count, CONTEXT)


def cut_before(module: nn.Module) -> None:
    """Let no gradient pass from a module to what comes before it."""
    module.register_forward_pre_hook(lambda _, args: (args[0].detach(),))


def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(inputs).flatten(0, -2).float(), labels.flatten())


@torch.no_grad()
def tested(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[float, float]:
    """Loss and share of errors."""
    model.eval()
    scores = model(inputs).flatten(0, -2).float()
    model.train()
    wrong = scores.argmax(1) != labels.flatten()
    return float(nn.functional.cross_entropy(scores, labels.flatten())), float(wrong.float().mean())
