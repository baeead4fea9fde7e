"""Kinds of healthy runs that are unlike each other, for rules that are judged on runs nothing was chosen on.

A cell is a combination of network, scaling of the inputs, initialisation, optimizer, schedule of the rate and mask.
Three parts of 24 cells are drawn with a fixed seed, such that the values of each factor occur equally often in each.
Each part has its own seeds. Do not look at a part that is held out until the rules are fixed. A part that was looked at
and led to a change is no longer held out, which is why there is a third part. The rate of a cell is the one of five
with the smallest validation loss, for a seed that is not used otherwise.

    OMP_NUM_THREADS=1 python benchmarks/evidence/cells.py                    the runs for choosing
    OMP_NUM_THREADS=1 python benchmarks/evidence/cells.py --part held_out    the others; fresh is the third part

With ``--long``, half of the cells of each part, drawn in the same way, train four times as long at a constant rate: in
short runs, alpha rarely levels off. Runs that are recorded already are not repeated. Everything takes about two hours
on one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from digits import TRAIN, VALIDATION, digits
from networks import windows
from recording import RESULTS, Recording, record_missing
from tables import Row, short, with_missing
from text import Transformer
from torch import Tensor, nn
from torch.nn.utils import prune

import ww_callbacks as ww

NETWORKS = ("dense", "convolutional", "LSTM", "transformer", "autoencoder")
SCALINGS = ("0 to 1", "standardised", "raw")
INITIALISATIONS = ("default", "orthogonal", "identity", "sparse", "mu-P")
OPTIMIZERS = ("SGD", "momentum", "Adam", "AdamW", "RMSprop", "Muon", "Lion")
SCHEDULES = ("constant", "cosine", "step", "warm-up, stable, decay")
MASKS = ("none", "none", "none", "80 % of the hidden weights")

SIZE, DRAW = 24, 2028
PARTS = {"choosing": range(5), "held_out": range(5, 10), "fresh": range(10, 15)}
"""Part → its seeds. The seeds of the first two are also those of the study of faults."""

STEPS, EVERY, BATCH = 600, 20, 64
RATE_SEED = 777
RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
"""Factors on the usual rate of an optimizer."""

RATE_FILE = RESULTS / "cells_rates.csv"
LONG_STEPS, LONG_CELLS, LONG_SEEDS = 2400, 12, 2
RECORDS = RESULTS / "recorded"
COLUMNS = (
    *("status", "skip_reason", "reason", "alpha", "alpha_low", "alpha_high", "alpha_stable", "alpha_hill", "D"),
    *("num_pl_spikes", "reliable", "warning", "counted", "matrix_rank", "rank_loss", "entropy"),
    *("null", "null_pvalue", "num_directions", "num_traps", "initial_traps", "trap_pvalue", "trap_size", "trap_kind"),
    *("ww_softrank", "log_norm", "log_spectral_norm", "stable_rank", "unchanged_since", "update_norm", "update_rank"),
    *("update_stable_rank", "update_unchanged", "update_rotation", "learned_norm", "learned_rank", "learned_pvalue"),
    *("learned_stable_rank", "learned_sharpness", "update_sharpness", "update_since", "learned_since"),
)


@dataclass(frozen=True)
class Cell:
    """One kind of training."""

    network: str
    scaling: str
    initialisation: str
    optimizer: str
    schedule: str
    mask: str


def cells() -> list[Cell]:
    """The cells, in the order in which they were drawn: those of each part in turn."""
    rng = np.random.default_rng(DRAW)
    factors = (NETWORKS, SCALINGS, INITIALISATIONS, OPTIMIZERS, SCHEDULES, MASKS)
    parts = [[rng.permutation(np.resize(rng.permutation(each), SIZE)) for each in factors] for _ in PARTS]
    return [Cell(*map(str, row)) for one in parts for row in zip(*one, strict=True)]


def numbers(part: str) -> list[int]:
    """The numbers of the cells of one part."""
    start = SIZE * list(PARTS).index(part)
    return list(range(start, start + SIZE))


class Rows(nn.Module):
    """A recurrent network that reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(28, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.unflatten(1, (28, 28)))[0][:, -1])


def network(cell: Cell) -> nn.Module:
    """A network with its initialisation and its mask."""
    model: nn.Module
    if cell.network == "dense":
        model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    elif cell.network == "convolutional":
        model = nn.Sequential(
            *(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU()),
            *(nn.Conv2d(24, 48, 3, 2, 1), nn.BatchNorm2d(48), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()),
            *(nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 10)),
        )
    elif cell.network == "LSTM":
        model = Rows()
    elif cell.network == "transformer":
        model = Transformer()
    else:
        model = nn.Sequential(
            *(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU()),
            *(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 784)),
        )
    matrices = [(module, name) for module in model.modules() for name in _matrices(module)]
    with torch.no_grad():
        for position, (module, name) in enumerate(matrices):
            initialise(getattr(module, name), cell.initialisation, is_last=position == len(matrices) - 1)
    if cell.mask != "none":
        for module, name in matrices[1:-1]:
            prune.random_unstructured(module, name, amount=0.8)
    return model


def _matrices(module: nn.Module) -> list[str]:
    """Names of the weight matrices of a layer; embeddings keep their initialisation and their elements."""
    if isinstance(module, nn.Embedding):
        return []
    own = module.named_parameters(recurse=False)
    return [name for name, parameter in own if parameter.ndim >= 2 and "weight" in name]


def initialise(weight: Tensor, kind: str, is_last: bool) -> None:
    """Set the first values of a weight, of shape (outputs, inputs, positions…)."""
    flat = weight.flatten(1)
    inputs = flat.shape[1]
    if kind == "orthogonal":
        nn.init.orthogonal_(weight)
    elif kind == "identity":
        weight.copy_((torch.eye(*flat.shape) + 0.02 * torch.randn(flat.shape)).view_as(weight))
    elif kind == "sparse":
        values = torch.randn(flat.shape) * math.sqrt(2 / (0.2 * inputs))
        weight.copy_((values * (torch.rand(flat.shape) < 0.2)).view_as(weight))
    elif kind == "mu-P":
        weight.normal_(0.0, 1 / inputs if is_last else 1 / math.sqrt(inputs))


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is made orthogonal (Jordan et al., 2024); other parameters get the sign of it."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Make one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 0.05)
                if parameter.ndim < 2:
                    parameter.sub_(0.05 * group["lr"] * momentum.sign())
                else:
                    flat = momentum.flatten(1)
                    step = orthogonalised(flat) * math.sqrt(max(1.0, len(flat) / flat.shape[1]))
                    parameter.sub_(group["lr"] * step.view_as(parameter))


def orthogonalised(matrix: Tensor) -> Tensor:
    """Five Newton-Schulz steps towards the orthogonal factor of the polar decomposition."""
    is_tall = len(matrix) > matrix.shape[1]
    x = (matrix.T if is_tall else matrix) / (matrix.norm() + 1e-7)
    for _ in range(5):
        product = x @ x.T
        x = 3.4445 * x + (-4.7750 * product + 2.0315 * product @ product) @ x
    return x.T if is_tall else x


class Lion(torch.optim.Optimizer):
    """Sign of an interpolated momentum (Chen et al., 2023)."""

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Make one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                    parameter.sub_(group["lr"] * torch.lerp(momentum, parameter.grad, 0.1).sign())
                    momentum.lerp_(parameter.grad, 0.01)


USUAL: dict[str, tuple[Callable[..., torch.optim.Optimizer], float]] = {
    "SGD": (torch.optim.SGD, 0.1),
    "momentum": (partial(torch.optim.SGD, momentum=0.9), 0.02),
    "Adam": (torch.optim.Adam, 1e-3),
    "AdamW": (partial(torch.optim.AdamW, weight_decay=0.05), 1e-3),
    "RMSprop": (torch.optim.RMSprop, 1e-3),
    "Muon": (Muon, 0.02),
    "Lion": (Lion, 2e-4),
}


def rate_at(schedule: str, step: int, steps: int = STEPS) -> float:
    """Factor on the rate."""
    share = step / steps
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * share))
    if schedule == "step":
        return 1.0 if share < 0.5 else 0.1 if share < 0.75 else 0.01
    if schedule == "warm-up, stable, decay":
        return min(1.0, (step + 1) / (0.05 * steps), (1 - share) / 0.2)
    return 1.0


@dataclass(frozen=True)
class Task:
    """Inputs and targets in three parts, and the loss of a network on them."""

    inputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]


def images(scaling: str) -> Tensor:
    """The digits in the order of their split."""
    standardised, _ = digits()
    if scaling == "standardised":
        return standardised
    return (standardised * 0.3081 + 0.1307) * (1.0 if scaling == "0 to 1" else 255.0)


def task_of(cell: Cell, generator: torch.Generator) -> Task:
    """Digits to classify or to reconstruct, or text to continue."""
    if cell.network == "transformer":
        pieces = {
            name: windows(source, count, generator)
            for name, source, count in (("train", "train", 2000), ("val", "val", 47), ("test", "test", 47))
        }
        parts: tuple[dict[str, Tensor], ...] = tuple({k: v[i] for k, v in pieces.items()} for i in (0, 1))
        return Task(*parts, _cross_entropy)
    pixels, (_, labels) = images(cell.scaling), digits()
    places = {"train": slice(TRAIN), "val": slice(TRAIN, TRAIN + VALIDATION), "test": slice(TRAIN + VALIDATION, None)}
    inputs = {name: pixels[place] for name, place in places.items()}
    if cell.network == "autoencoder":
        clean = images("0 to 1")
        return Task(inputs, {name: clean[place] for name, place in places.items()}, nn.functional.mse_loss)
    return Task(inputs, {name: labels[place] for name, place in places.items()}, _cross_entropy)


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(scores.flatten(0, -2).float(), labels.flatten())


def embedding_scale(cell: Cell) -> float:
    """Text has no pixels: the embedding is scaled instead."""
    return {"0 to 1": 0.1, "standardised": 1.0, "raw": 10.0}[cell.scaling]


def train(
    cell: Cell, seed: int, factor: float, run: dict[str, Any] | None = None, steps: int = STEPS
) -> tuple[float, Recording]:
    """Train a run, and record its spectra if it is one of the study.

    Args:
        cell: the kind of run.
        seed: of the weights and batches.
        factor: on the usual rate.
        run: what identifies the run; None to record nothing.
        steps: number of steps.

    Returns:
        The last validation loss, and the record.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    task, model = task_of(cell, generator), network(cell)
    if isinstance(model, Transformer):
        with torch.no_grad():
            model.embed.weight.mul_(embedding_scale(cell))
    make, usual = USUAL[cell.optimizer]
    optimizer = make([each for each in model.parameters() if each.requires_grad], lr=factor * usual)
    rate = partial(rate_at, cell.schedule, steps=steps)
    training = Training(model, optimizer, task, generator, batch_of(cell.network), rate, steps)
    recording = Recording(run or {})
    return fit(training, None if run is None else recording), recording


def batch_of(network: str) -> int:
    """Samples of a batch: images, or windows of text."""
    return 8 if network == "transformer" else BATCH


@dataclass(frozen=True)
class Training:
    """A training that has not begun.

    Attributes:
        model: the network.
        optimizer: of its parameters.
        task: the data and the loss.
        generator: draws the batches.
        batch: number of samples of a batch.
        rate_at: the factor on the rates of the optimizer at a step.
        steps: number of steps.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    task: Task
    generator: torch.Generator
    batch: int
    rate_at: Callable[[int], float]
    steps: int


def mean_loss(seen: Sequence[float], step: int) -> dict[str, float]:
    """What is noted of the training losses since the last snapshot."""
    return {"train_loss": math.fsum(seen) / len(seen) if seen else math.nan}


def fit(
    training: Training,
    recording: Recording | None = None,
    summary: Callable[[Sequence[float], int], Mapping[str, float | None]] = mean_loss,
    digits: Mapping[str, int] | None = None,
) -> float:
    """Carry a training out, also beyond a loss that is not finite.

    Args:
        training: what is trained.
        recording: where spectra and losses are noted every :data:`EVERY` steps; None for nowhere.
        summary: what is noted of the training losses since the last snapshot, given them and the step of the snapshot.
        digits: the significant digits of columns, see :meth:`recording.Recording.note`.

    Returns:
        The last validation loss.
    """
    model, optimizer, task = training.model, training.optimizer, training.task
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, training.rate_at)
    seen: list[float] = []
    monitor = None if recording is None else ww.Monitor(model, every_n_steps=EVERY, updates=True, executor="sync")
    with monitor or nullcontext():
        for step in range(training.steps + 1):
            if monitor is not None and step:
                monitor.step(step)
            if monitor is not None and recording is not None and step % EVERY == 0:
                losses = {**summary(seen, step), "rate": schedule.get_last_lr()[0], **evaluated(model, task)}
                recording.note(monitor.history[-1], step, losses, COLUMNS, digits)
                seen.clear()
            if step == training.steps:
                break
            chosen = torch.randint(len(task.inputs["train"]), (training.batch,), generator=training.generator)
            optimizer.zero_grad()
            loss = task.loss(model(task.inputs["train"][chosen]), task.targets["train"][chosen])
            loss.backward()
            optimizer.step()
            schedule.step()
            seen.append(float(loss.detach()))
    return evaluated(model, task)["val_loss"]


@torch.no_grad()
def evaluated(model: nn.Module, task: Task) -> dict[str, float]:
    """Loss on both held-out parts."""
    model.eval()
    found = {f"{name}_loss": float(task.loss(model(task.inputs[name]), task.targets[name])) for name in ("val", "test")}
    model.train()
    return found


def pilot(number: int, factor: float) -> list[Row]:
    """The validation loss that a rate reaches in a cell."""
    loss, _ = train(cells()[number], RATE_SEED, factor)
    return [{"cell": number, "factor": factor, "val_loss": short(loss if math.isfinite(loss) else math.inf)}]


def rates(part: str) -> dict[int, float]:
    """The factor of each cell of a part with the smallest loss."""
    wanted = [(number, factor) for number in numbers(part) for factor in RATES]
    rows = with_missing(RATE_FILE, ["cell", "factor"], wanted, pilot)
    losses = {(int(row["cell"]), float(row["factor"])): float(row["val_loss"]) for row in rows}
    return {n: min(RATES, key=lambda factor, n=n: losses[n, factor]) for n in numbers(part)}


def runs(part: str) -> Iterator[dict[str, Any]]:
    """What identifies each run of one part."""
    factors, everything = rates(part), cells()
    for number in numbers(part):
        for seed in PARTS[part]:
            yield {"number": number, **asdict(everything[number]), "factor": factors[number], "seed": seed}


def long_runs(part: str) -> Iterator[dict[str, Any]]:
    """What identifies each long run of one part."""
    factors, everything = rates(part), cells()
    drawn = np.random.default_rng([DRAW, list(PARTS).index(part)]).choice(numbers(part), LONG_CELLS, replace=False)
    for number in sorted(map(int, drawn)):
        cell = replace(everything[number], schedule="constant")
        for seed in PARTS[part][:LONG_SEEDS]:
            yield {"number": number, **asdict(cell), "factor": factors[number], "seed": seed, "steps": LONG_STEPS}


def record(run: dict[str, Any]) -> Recording:
    """Train one run of :func:`runs` or :func:`long_runs`."""
    cell = Cell(**{name: run[name] for name in asdict(cells()[0])})
    return train(cell, run["seed"], run["factor"], run, run.get("steps", STEPS))[1]


def recorded(part: str, is_long: bool) -> list[Recording]:
    """The runs of one part; those that are missing are trained."""
    name = f"{'long' if is_long else 'cells'}{suffix(part)}.jsonl.gz"
    return record_missing(RECORDS / name, (long_runs if is_long else runs)(part), record)


def suffix(part: str) -> str:
    """What the names of files of a part end in."""
    return "" if part == "choosing" else f"_{part}"


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, default="choosing", help="which cells")
    parser.add_argument("--long", action="store_true", help="record the long runs")
    arguments = parser.parse_args()
    print(f"{len(recorded(arguments.part, arguments.long))} runs are recorded")


if __name__ == "__main__":
    main()
