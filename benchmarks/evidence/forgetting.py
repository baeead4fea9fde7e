"""Does ``forgetting`` rank fine-tunings by how much of the old task they forget, better than the distance does?

For each seed and network, a base is trained on the digits from 0 to 4. From it start 16 fine-tunings: four new tasks
(the digits from 5 to 9; the old digits with permuted pixels; with inverted pixels; unchanged, which should forget
nothing), with momentum and with Adam, at two rates each. After 10, 30 and 100 steps,
``ww.analyze(tuned, baseline=base)`` gives the columns below, averaged over the layers that have them, and the loss on
held-out digits of the old task is measured. That is 48 results per seed and network, and ten seeds of each of three
networks.

Printed is Spearman's rank correlation of each quantity with the increase of the old loss:

    within        over the 48 results of a seed, averaged over the seeds
    pooled        over the results of all seeds
    same task     over the 12 results of a seed and a new task, averaged
    same distance as within, the partial correlation for ranks, given the mean distance

95 % intervals are bootstrapped over the seeds, those of differences with the same seeds for both. Runs already in the
table are not repeated. Takes about eight minutes on one core:

    OMP_NUM_THREADS=1 python benchmarks/evidence/forgetting.py

With the argument ``statistics``, it measures how much of a loss is due to the statistics of batch normalisation.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from digits import TRAIN, digits
from networks import Make, adam, convolutional, dense, loss_of, sgd, tested
from numpy.typing import NDArray
from scipy.stats import rankdata
from tables import RESAMPLES, Floats, Row, number, short, with_interval, with_missing
from torch import Tensor, nn

import ww_callbacks as ww

RESULTS = Path(__file__).parent / "results" / "forgetting.csv"
SEEDS = range(10)
BATCH = 50
LENGTHS = (10, 30, 100)
COLUMNS = ("forgetting", "intruders", "distance", "update_rank", "update_stable_rank")
CONTROL = "distance"
QUANTITIES = {
    "forgetting": "`forgetting`",
    "intruders": "`intruders`",
    "distance": "`distance`",
    "global_distance": "‖W − W₀‖_F of the network",
    "update_rank": "`update_rank`",
    "update_stable_rank": "`update_stable_rank`",
}


@dataclass(frozen=True)
class Base:
    """A network, and how it is trained on the old task."""

    network: Callable[[], nn.Module]
    optimizer: Make
    steps: int


BASES = {
    "dense": Base(lambda: dense(784, 128, 64, 10), adam(1e-3), 400),
    "deep, LayerNorm": Base(lambda: dense(784, 64, 64, 64, 64, 10, norm=nn.LayerNorm), adam(2e-3, 0.05), 400),
    "convolutional, BatchNorm": Base(convolutional, sgd(0.03, 0.9, 5e-4), 300),
}
OPTIMIZERS = {("momentum", rate): sgd(rate, 0.9) for rate in (0.003, 0.03)}
OPTIMIZERS |= {("Adam", rate): adam(rate) for rate in (3e-4, 3e-3)}


@cache
def small_digits(part: str) -> tuple[Tensor, Tensor]:
    """The digits from 0 to 4 in the training or the held-out part."""
    images, labels = digits()
    chosen = torch.nonzero((labels < 5) & ((torch.arange(len(labels)) < TRAIN) == (part == "train"))).flatten()
    return images[chosen], labels[chosen]


def large_digits() -> tuple[Tensor, Tensor]:
    images, labels = digits()
    chosen = torch.nonzero(labels[:TRAIN] >= 5).flatten()
    return images[chosen], labels[chosen]


def permuted() -> tuple[Tensor, Tensor]:
    images, labels = small_digits("train")
    return images[:, torch.randperm(images.shape[1], generator=torch.Generator().manual_seed(0))], labels


def inverted() -> tuple[Tensor, Tensor]:
    """Black on white; the standardised values of black and white are exchanged."""
    images, labels = small_digits("train")
    return images.max() + images.min() - images, labels


TASKS = {"5 to 9": large_digits, "permuted": permuted, "inverted": inverted, "the same": lambda: small_digits("train")}


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[Tensor, Tensor],
    steps: int,
    batches: torch.Generator,
) -> None:
    inputs, labels = data
    for _ in range(steps):
        batch = torch.randint(len(inputs), (BATCH,), generator=batches)
        optimizer.zero_grad()
        loss_of(model, inputs[batch], labels[batch]).backward()
        optimizer.step()


@torch.no_grad()
def measured(model: nn.Module, base: nn.Module) -> dict[str, float | None]:
    """The columns, averaged over the layers that have them, and the distance of all weights."""
    report = ww.analyze(model, baseline=base, randomize=False)
    values: dict[str, float | None] = {}
    for name in COLUMNS:
        known = [value for layer in report if (value := getattr(layer, name)) is not None]
        values[name] = math.fsum(known) / len(known) if known else None
    pairs = zip(model.parameters(), base.parameters(), strict=True)
    squares = [float((now - before).square().sum()) for now, before in pairs if now.ndim > 1]
    return values | {"global_distance": math.sqrt(math.fsum(squares))}


def trained_base(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    base = BASES[name].network()
    batches = torch.Generator().manual_seed(1000 + seed)
    train(base, BASES[name].optimizer(base), small_digits("train"), BASES[name].steps, batches)
    return base


def run(name: str, seed: int) -> list[Row]:
    """Train a base and all its fine-tunings."""
    base = trained_base(name, seed)
    before, error_before = tested(base, *small_digits("held out"))
    rows = []
    for task, (optimizer, rate) in product(TASKS, OPTIMIZERS):
        model, batches = copy.deepcopy(base), torch.Generator().manual_seed(2000 + seed)
        stepping, done = OPTIMIZERS[optimizer, rate](model), 0
        for steps in LENGTHS:
            train(model, stepping, TASKS[task](), steps - done, batches)
            done = steps
            after, error_after = tested(model, *small_digits("held out"))
            row: Row = {"network": name, "seed": seed, "task": task, "optimizer": optimizer, "rate": rate}
            row |= {"steps": steps, "loss_before": short(before), "loss_after": short(after)}
            row |= {"error_before": short(error_before), "error_after": short(error_after)}
            rows.append(row | {key: short(value) for key, value in measured(model, base).items()})
    return rows


def statistics() -> None:
    """The old loss after 10 steps of Adam (3e-4) on inverted pixels, and that of the same weights with the statistics
    of batch normalisation that the base had: medians over the seeds."""
    found = []
    for seed in SEEDS:
        base = trained_base("convolutional, BatchNorm", seed)
        model = copy.deepcopy(base)
        train(model, OPTIMIZERS["Adam", 3e-4](model), inverted(), 10, torch.Generator().manual_seed(2000 + seed))
        losses = [tested(each, *small_digits("held out"))[0] for each in (base, model)]
        model.load_state_dict(dict(base.named_buffers()), strict=False)
        found.append([*losses, tested(model, *small_digits("held out"))[0]])
    before, after, restored = np.median(found, axis=0)
    print(f"old loss before {before:.2g}, after {after:.2g}, after with the statistics of the base {restored:.2g}")


Rows = list[dict[str, str]]
Correlate = Callable[[Rows, str], float]


def increase(rows: Rows) -> Floats:
    return np.array([number(row["loss_after"]) - number(row["loss_before"]) for row in rows])


def ranks(rows: Rows, quantity: str) -> tuple[Floats, Floats, Floats]:
    """Ranks of the quantity, of the increase of the loss and of the control, of the results that have the quantity."""
    known = [row for row in rows if row[quantity]]
    columns = ([number(row[name]) for row in known] for name in (quantity, CONTROL))
    own, control = (np.asarray(rankdata(each), float) for each in columns)
    return own, np.asarray(rankdata(increase(known)), float), control


def spearman(rows: Rows, quantity: str) -> float:
    own, loss, _ = ranks(rows, quantity)
    return float(np.corrcoef(own, loss)[0, 1]) if len(set(own)) > 1 else math.nan


def partial(rows: Rows, quantity: str) -> float:
    """The correlation of the ranks that is left at the same distance."""
    own, loss, control = ranks(rows, quantity)
    with_loss, with_control, between = np.corrcoef([own, loss, control])[[0, 0, 1], [1, 2, 2]]
    return float((with_loss - with_control * between) / math.sqrt((1 - with_control**2) * (1 - between**2)))


def same_task(rows: Rows, quantity: str) -> float:
    return float(np.nanmean([spearman([row for row in rows if row["task"] == task], quantity) for task in TASKS]))


@cache
def samples() -> NDArray[np.int64]:
    """Drawn seeds, one row per sample: first each of them once, then the bootstrap samples."""
    generator = np.random.default_rng(0)
    return np.array([SEEDS, *(generator.choice(SEEDS, len(SEEDS)) for _ in range(RESAMPLES))])


def of_seeds(groups: list[Rows], quantity: str, correlate: Correlate) -> Floats:
    """Mean correlation over the drawn seeds, one for each bootstrap sample."""
    each = np.array([correlate(rows, quantity) for rows in groups])
    return np.asarray(np.nanmean(each[samples()], axis=1))


def pooled(groups: list[Rows], quantity: str) -> Floats:
    """Correlation over the results of all drawn seeds, one for each bootstrap sample."""
    return np.array([spearman([row for seed in drawn for row in groups[seed]], quantity) for drawn in samples()])


def groups_of(rows: Rows, network: str) -> list[Rows]:
    """The results of each seed."""
    return [[row for row in rows if (row["network"], row["seed"]) == (network, str(seed))] for seed in SEEDS]


def kinds_of(quantity: str) -> list[Correlate]:
    return [spearman, same_task, *([partial] if quantity != CONTROL else [])]


def summary(rows: Rows) -> Iterator[str]:
    """Correlations averaged over the networks, and the smallest and the largest of a network."""
    yield "| quantity | within | same task | same distance | within, minus the distance's |\n|---|---|---|---|---|"
    groups = [groups_of(rows, network) for network in BASES]
    control = np.mean([of_seeds(each, CONTROL, spearman) for each in groups], axis=0)
    for quantity, text in QUANTITIES.items():
        cells = []
        for kind in kinds_of(quantity):
            each = [of_seeds(group, quantity, kind) for group in groups]
            firsts = [values[0] for values in each]
            cells.append(f"{with_interval(np.mean(each, axis=0))}; {min(firsts):.2f} to {max(firsts):.2f}")
        within = np.mean([of_seeds(group, quantity, spearman) for group in groups], axis=0)
        cells += ["", ""] if quantity == CONTROL else [with_interval(within - control)]
        yield f"| {text} | {' | '.join(cells)} |"


def table(rows: Rows, network: str) -> Iterator[str]:
    yield f"\n{network}\n\n| quantity | within | same task | same distance | within, minus the distance's | pooled |"
    yield "|---|---|---|---|---|---|"
    groups = groups_of(rows, network)
    control = of_seeds(groups, CONTROL, spearman)
    for quantity, text in QUANTITIES.items():
        cells = [with_interval(of_seeds(groups, quantity, kind)) for kind in kinds_of(quantity)]
        difference = of_seeds(groups, quantity, spearman) - control
        cells += ["", ""] if quantity == CONTROL else [with_interval(difference)]
        yield f"| {text} | {' | '.join(cells)} | {with_interval(pooled(groups, quantity))} |"


def losses(rows: Rows) -> Iterator[str]:
    """How much is forgotten, from the smallest to the largest of a task: median over the seeds of each setting."""
    yield "| network | new task | old loss before | after, smallest to largest | old error after | `forgetting` |"
    yield "|---|---|---|---|---|---|"
    for network, task in product(BASES, TASKS):
        mine = [row for row in rows if (row["network"], row["task"]) == (network, task)]
        before = np.median([number(row["loss_before"]) for row in mine])
        spans = []
        for name, unit in (("loss_after", ""), ("error_after", " %"), ("forgetting", "")):
            settings: dict[tuple[str, ...], list[float]] = {}
            for row in mine:
                settings.setdefault((row["optimizer"], row["rate"], row["steps"]), []).append(number(row[name]))
            medians = [np.nanmedian(each) * (100 if unit else 1) for each in settings.values()]
            spans.append(f"{min(medians):.3g} to {max(medians):.3g}{unit}")
        yield f"| {network} | {task} | {before:.2g} | {' | '.join(spans)} |"


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:] == ["statistics"]:
        statistics()
        return
    rows = with_missing(RESULTS, ["network", "seed"], ((name, seed) for seed in SEEDS for name in BASES), run)
    print("\n".join(losses(rows)) + "\n")
    print("\n".join(summary(rows)))
    for network in BASES:
        print("\n".join(table(rows, network)))


if __name__ == "__main__":
    main()
