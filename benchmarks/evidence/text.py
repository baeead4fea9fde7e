"""A small character transformer on the source code of Python's standard library.

The corpus is the installed library of the running Python, with files sorted by name; the page states the version.
"""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

TRAIN, HELD_OUT = 1_000_000, 3_072
WIDTH, HEADS, BLOCKS, CONTEXT = 64, 4, 2, 64
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))


@cache
def corpus() -> dict[str, Tensor]:
    """Encoded characters in three parts, train, val and test, from different files."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    codes = {character: code for code, character in enumerate(CHARACTERS)}
    numbers = [codes[c] for file in files for c in file.read_text(encoding="utf-8", errors="ignore") if c in codes]
    everything = torch.tensor(numbers)
    ends = {"train": TRAIN, "val": TRAIN + HELD_OUT, "test": TRAIN + 2 * HELD_OUT}
    starts = [0, *ends.values()]
    return {name: everything[start:end] for start, (name, end) in zip(starts, ends.items(), strict=False)}


class Block(nn.Module):
    """Attention and two dense layers, each with pre-normalisation and a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map activations of shape batch × context × width."""
        size = (*x.shape[:2], HEADS, WIDTH // HEADS)
        inner = self.norm1(x)
        q, k, v = (part(inner).view(size).transpose(1, 2) for part in (self.query, self.key, self.value))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Predicts each next character."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(len(CHARACTERS), WIDTH)
        self.position = nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.02)
        self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(CHARACTERS))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores of shape batch × context × characters."""
        return self.head(self.norm(self.blocks(self.embed(x) + self.position)))


def spoiled(text: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """The text, a share of whose characters is drawn at random."""
    drawn = torch.randint(len(CHARACTERS), text.shape, generator=generator)
    return torch.where(torch.rand(text.shape, generator=generator) < share, drawn, text)
