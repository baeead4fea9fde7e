"""Are broken layers named by findings about changes, and how often do healthy runs show them?

Trains small networks on digits and text under ``ww.Monitor(updates=True)`` and reads the findings of each report about
changes, of five kinds. Kinds of runs are unlike each other; ten seeds of each:

    healthy    runs of which some are likely to mislead: two classes, a new head with a larger rate, a rate that falls
               to 0, one-hot inputs, training far past convergence, a snapshot after each step
    faulty     one layer frozen; the gradient cut by ``detach``, so that no layer before the cut gets any; the gradient
               of one layer multiplied by 0, so that its optimizer still applies momentum and weight decay. A run is
               found at the first snapshot whose findings name a broken layer, and ends there
    lost       the same runs in bfloat16 and float32 at three rates of Adam

A false alarm is such a finding in a healthy run, at any of its snapshots. Two limits of the findings were
chosen after seeds 0 to 9 of all but the last five healthy kinds: how often a layer has to move in one direction, and
the size of a layer that changed as noise does. The seeds in the table are others. Runs already in the table are not
repeated. Takes about ten minutes on one core:

    OMP_NUM_THREADS=1 python benchmarks/evidence/updates_found.py
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from digits import TRAIN, digits
from networks import Make, adam, convolutional, cut_before, dense, loss_of, sgd, tested, trained, windows
from policies import binomial_interval
from tables import Row, short, with_missing
from text import CHARACTERS, Transformer, corpus
from torch import Tensor, nn

import ww_callbacks as ww
from ww_callbacks.report.finding import FindingKind

RESULTS = Path(__file__).parent / "results" / "updates_found.csv"
SEEDS = range(10, 20)
KINDS_FOUND: dict[str, FindingKind] = {
    "still": "frozen",
    "lost": "lost_updates",
    "one direction": "one_direction",
    "fast": "moves_most",
    "noise": "not_learning",
}
Data = tuple[Tensor, Tensor]


def all_digits(generator: torch.Generator) -> Data:
    """3,000 training and 2,000 test digits."""
    return digits()


def few_digits(generator: torch.Generator) -> Data:
    """300 of the training digits, ten times, and the test digits."""
    images, labels = digits()
    chosen = torch.randperm(TRAIN, generator=generator)[:300].repeat(10)
    order = torch.cat([chosen, torch.arange(TRAIN, len(labels))])
    return images[order], labels[order]


def halves(generator: torch.Generator) -> Data:
    """Two classes: below 5 or not."""
    images, labels = digits()
    return images, (labels >= 5).long()


def thirds(generator: torch.Generator) -> Data:
    """Three classes: the remainder of the digit."""
    images, labels = digits()
    return images, labels % 3


def large_digits(generator: torch.Generator) -> Data:
    """The digits from 5 to 9, with labels from 0, repeated to the number of all."""
    images, labels = digits()
    chosen = torch.nonzero(labels >= 5).flatten().repeat(3)[: len(labels)]
    return images[chosen], labels[chosen] - 5


def texts(generator: torch.Generator) -> Data:
    """3,000 training and 47 test windows."""
    train, test = windows("train", TRAIN, generator), windows("test", 47, generator)
    return torch.cat([train[0], test[0]]), torch.cat([train[1], test[1]])


def contexts(generator: torch.Generator) -> Data:
    """Eight characters, and the one that follows them."""
    pieces = corpus()["train"][:200_000].unfold(0, 9, 1)
    pieces = pieces[torch.randint(len(pieces), (5000,), generator=generator)]
    return pieces[:, :8], pieces[:, 8]


def linear(*sizes: int) -> nn.Sequential:
    """Dense layers without activations."""
    return nn.Sequential(*(layer for layer in dense(*sizes) if isinstance(layer, nn.Linear)))


class OneHot(nn.Module):
    """A dense layer that sees one-hot characters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = dense(8 * len(CHARACTERS), 64, len(CHARACTERS))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(nn.functional.one_hot(x, len(CHARACTERS)).float().flatten(1))


class Recurrent(nn.Module):
    """A recurrent network that predicts each next character."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru = nn.Embedding(len(CHARACTERS), 48), nn.GRU(48, 96, batch_first=True)
        self.head = nn.Linear(96, len(CHARACTERS))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(x))[0])


def pretrained() -> nn.Sequential:
    """A network trained for 300 steps on the digits from 0 to 4, with a new head."""
    model = dense(784, 128, 64, 5)
    images, labels = digits()
    small = torch.nonzero(labels[:TRAIN] < 5).flatten()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(300):
        batch = small[torch.randint(len(small), (64,))]
        optimizer.zero_grad()
        loss_of(model, images[batch], labels[batch]).backward()
        optimizer.step()
    model[-1] = nn.Linear(64, 5)
    return model


def faster_head(model: nn.Module) -> torch.optim.Optimizer:
    """Ten times the rate for the last layer."""
    parameters = trained(model)
    groups = [{"params": parameters[:-2]}, {"params": parameters[-2:], "lr": 1e-3}]
    return torch.optim.AdamW(groups, lr=1e-4, weight_decay=0.01)


@dataclass(frozen=True)
class Kind:
    """A kind of training; ``broken`` is the layer that is broken, ``cut`` the layer before which the cut is made."""

    network: Callable[[], nn.Module]
    optimizer: Make
    steps: int
    every: int
    batch: int = 64
    data: Callable[[torch.Generator], Data] = all_digits
    dtype: torch.dtype = torch.float32
    cosine: bool = False
    broken: str = ""
    cut: str = ""


HEALTHY = {
    "dense, Adam": Kind(lambda: dense(784, 256, 128, 10), adam(1e-3), 300, 30, broken="net.2", cut="net.4"),
    "dense, SGD, batch 16": Kind(lambda: dense(784, 64, 64, 10), sgd(0.03), 400, 50, 16),
    "dense, momentum, batch 256": Kind(lambda: dense(784, 128, 64, 10), sgd(0.005, 0.9), 200, 10, 256),
    "deep, LayerNorm, AdamW": Kind(
        *(lambda: dense(784, 64, 64, 64, 64, 64, 10, norm=nn.LayerNorm), adam(2e-3, 0.05), 300, 25, 50),
        broken="net.6",
        cut="net.9",
    ),
    "deep, BatchNorm, SGD with decay": Kind(
        *(lambda: dense(784, 100, 100, 100, 10, norm=nn.BatchNorm1d), sgd(0.1, decay=3e-3), 300, 50, 32),
        broken="net.3",
        cut="net.6",
    ),
    "convolutional, BatchNorm, momentum, decay": Kind(
        *(convolutional, sgd(0.03, 0.9, 5e-4), 150, 15, 50), broken="net.7", cut="net.12"
    ),
    "convolutional, Adam": Kind(lambda: convolutional(norm=False), adam(1e-3), 200, 40, 32),
    "transformer, AdamW": Kind(
        *(Transformer, adam(3e-3, 0.01), 90, 15, 8, texts), broken="net.blocks.0.up", cut="net.blocks.1.norm1"
    ),
    "GRU, RMSprop": Kind(Recurrent, lambda model: torch.optim.RMSprop(trained(model), lr=2e-3), 80, 20, 16, texts),
    "one-hot text, SGD": Kind(OneHot, sgd(0.3), 400, 40, 32, contexts),
    "bfloat16, momentum": Kind(lambda: dense(784, 128, 64, 10), sgd(0.03, 0.9), 300, 50, 64, dtype=torch.bfloat16),
    "float64, Adagrad": Kind(
        *(lambda: dense(784, 128, 64, 10), lambda model: torch.optim.Adagrad(trained(model), lr=0.01), 300, 30),
        dtype=torch.float64,
    ),
    "rate falls to 0": Kind(lambda: dense(784, 128, 64, 10), adam(1e-3, 0.01), 300, 30, cosine=True),
    "two classes": Kind(lambda: dense(784, 128, 64, 2), adam(1e-3), 300, 30, data=halves),
    "fine-tuning, head at ten times the rate": Kind(
        *(pretrained, faster_head, 200, 20), data=large_digits, broken="net.2", cut="net.4"
    ),
    "far past convergence": Kind(lambda: dense(784, 64, 64, 10), adam(1e-3), 1500, 150, data=few_digits),
    "a snapshot after each step, batch 2": Kind(lambda: dense(784, 64, 64, 10), sgd(0.01), 40, 1, 2),
    "a snapshot after each step, batch 1, momentum": Kind(lambda: dense(784, 48, 48, 10), sgd(0.003, 0.9), 40, 1, 1),
    "a snapshot after two steps, batch 4, Adam": Kind(lambda: dense(784, 96, 32, 10), adam(1e-3), 60, 2, 4),
    "three classes": Kind(lambda: dense(784, 64, 64, 3), adam(1e-3), 300, 30, data=thirds),
    "two classes, four layers": Kind(lambda: dense(784, 64, 48, 32, 2), sgd(0.05, 0.9), 300, 30, data=halves),
    "linear": Kind(lambda: linear(784, 64, 32, 10), sgd(0.01, 0.9), 300, 30),
}
LOST = {
    f"{name}, Adam {rate:g}, {str(dtype).split('.')[1]}": replace(kind, optimizer=adam(rate), dtype=dtype)
    for name, kind in {
        "dense": Kind(lambda: dense(784, 128, 64, 10), adam(0), 300, 30),
        "transformer": Kind(Transformer, adam(0), 60, 20, 8, texts),
    }.items()
    for rate, dtype in product((1e-3, 1e-4, 1e-5), (torch.float32, torch.bfloat16))
}
KINDS = HEALTHY | LOST
FAULTS = ("frozen", "cut", "multiplied by 0")
RUNS = [
    *((kind, "", seed) for kind in HEALTHY for seed in SEEDS),
    *((kind, fault, seed) for kind in HEALTHY if HEALTHY[kind].broken for fault in FAULTS for seed in SEEDS),
    *((kind, "", seed) for kind in LOST for seed in SEEDS),
]


def break_layer(model: nn.Module, kind: Kind, fault: str) -> None:
    layer = model.get_submodule(kind.broken)
    if fault == "frozen":
        layer.requires_grad_(False)
    elif fault == "cut":
        place = kind.cut.removesuffix(".norm1")  # the residual connection of a block is cut too
        cut_before(model.get_submodule(place))
    else:
        for parameter in layer.parameters():
            parameter.register_hook(torch.zeros_like)


def broken_layers(report: ww.Report, kind: Kind, fault: str) -> set[str]:
    """The broken layer; all before the cut if there is one."""
    names = [layer.name for layer in report]
    return set(names[: names.index(kind.cut)]) if fault == "cut" else {kind.broken}


def named(report: ww.Report) -> dict[str, set[str]]:
    """The layers that each finding about changes names."""
    layers = {finding.kind: set(finding.layers) for finding in report.findings}
    return {text: layers[kind] for text, kind in KINDS_FOUND.items() if kind in layers}


def run(name: str, fault: str, seed: int) -> list[Row]:
    """Train one run; with a fault only until it is found."""
    torch.manual_seed(seed)
    kind, generator = KINDS[name], torch.Generator().manual_seed(1000 + seed)
    inputs, labels = kind.data(generator)
    model = nn.Sequential()
    model.add_module("net", kind.network())
    model.to(kind.dtype)
    inputs = inputs.to(kind.dtype) if inputs.is_floating_point() else inputs
    if fault:
        break_layer(model, kind, fault)
    optimizer = kind.optimizer(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, kind.steps) if kind.cosine else None
    start, _ = tested(model, inputs[TRAIN:], labels[TRAIN:])
    said: list[tuple[int, dict[str, set[str]]]] = []
    broken: set[str] = set()
    with ww.Monitor(model, every_n_steps=kind.every, updates=True, executor="sync", randomize=False) as monitor:
        for step in range(1, kind.steps + 1):
            batch = torch.randint(TRAIN, (kind.batch,), generator=generator)
            optimizer.zero_grad()
            loss_of(model, inputs[batch], labels[batch]).backward()
            optimizer.step()
            if schedule:
                schedule.step()
            monitor.step(step)
            if step % kind.every == 0:
                said.append((step, named(monitor.history[-1])))
                broken = broken_layers(monitor.history[-1], kind, fault) if fault else set()
                if any(broken & layers for layers in said[-1][1].values()):
                    break
    loss, error = tested(model, inputs[TRAIN:], labels[TRAIN:])
    moved = [layer.learned_norm for layer in monitor.history[-1] if layer.learned_norm is not None]
    row = {"kind": name, "fault": fault, "seed": seed, "snapshots": len(said), "start_loss": short(start)}
    row |= {"loss": short(loss), "error": short(error), "learned_norm": short(float(np.mean(moved)))}
    return [row | {key: value for text in KINDS_FOUND for key, value in said_of(text, said, broken).items()}]


def said_of(text: str, said: list[tuple[int, dict[str, set[str]]]], broken: set[str]) -> Row:
    """When a finding names the broken layer first, in how many reports it is shown, and of which layers."""
    reports = [(step, found[text]) for step, found in said if text in found]
    layers = Counter(name for _, names in reports for name in sorted(names))
    return {
        f"{text}: broken layer at": next((step for step, names in reports if broken & names), ""),
        f"{text}: first": reports[0][0] if reports else "",
        f"{text}: reports": len(reports),
        f"{text}: at the end": int(bool(said) and text in said[-1][1]),
        f"{text}: layers": " ".join(f"{name} {count}" for name, count in layers.items()),
    }


Rows = list[dict[str, str]]


def is_said(row: dict[str, str], text: str) -> bool:
    return int(row[f"{text}: reports"]) > 0


def healthy_rows(rows: Rows) -> Rows:
    """Healthy runs; those that lose updates in bfloat16 are not among them."""
    kinds = {*HEALTHY, *(kind for kind in LOST if kind.endswith("float32"))}
    return [row for row in rows if row["kind"] in kinds and not row["fault"]]


def false_alarms(rows: Rows) -> Iterator[str]:
    """Healthy runs with each finding at any snapshot, and in brackets at the last one; worst kinds first."""
    yield "| healthy runs | " + " | ".join(KINDS_FOUND) + " | any |"
    yield "|---" * (len(KINDS_FOUND) + 2) + "|"
    kinds: dict[str, Rows] = {}
    for row in healthy_rows(rows):
        kinds.setdefault(row["kind"], []).append(row)
    silent = [row for mine in kinds.values() if not alarms(mine) for row in mine]
    for name, mine in sorted(kinds.items(), key=lambda each: -alarms(each[1])):
        if alarms(mine):
            yield f"| {name} | {' | '.join(counts(mine))} |"
    yield f"| {len({row['kind'] for row in silent})} kinds without any | {' | '.join(counts(silent))} |"
    yield f"| all {len(healthy_rows(rows))} | {' | '.join(counts(healthy_rows(rows)))} |"


def alarms(rows: Rows) -> int:
    """Number of runs with any finding about changes."""
    return sum(any(is_said(row, text) for text in KINDS_FOUND) for row in rows)


def interval(rows: Rows) -> str:
    healthy = healthy_rows(rows)
    low, high = binomial_interval(alarms(healthy), len(healthy))
    share = f"{100 * alarms(healthy) / len(healthy):.0f} %"
    return f"any finding: {share}, 95 % interval {100 * low:.0f} to {100 * high:.0f} % of such runs"


def losses(rows: Rows) -> Iterator[str]:
    """Loss on held-out data of the healthy runs before the first and after the last step: means over the seeds."""
    yield "| healthy runs | loss before | loss after |\n|---|---|---|"
    for name in dict.fromkeys(row["kind"] for row in healthy_rows(rows)):
        mine = [row for row in healthy_rows(rows) if row["kind"] == name]
        before, after = (np.mean([float(row[key]) for row in mine]) for key in ("start_loss", "loss"))
        yield f"| {name} | {before:.2f} | {after:.2f} |"


def counts(rows: Rows) -> Iterator[str]:
    for text in KINDS_FOUND:
        yield f"{sum(is_said(row, text) for row in rows)} ({sum(int(row[f'{text}: at the end']) for row in rows)})"
    yield str(alarms(rows))


def found(rows: Rows) -> Iterator[str]:
    """Faulty runs found, at which step, by which sentences, and how many say something of other layers before."""
    yield "| fault | run | found | at step | first possible | by |\n|---|---|---|---|---|---|"
    for fault, name in product(FAULTS, HEALTHY):
        mine = [row for row in rows if (row["fault"], row["kind"]) == (fault, name)]
        steps = [[row[f"{text}: broken layer at"] for text in KINDS_FOUND] for row in mine]
        first = [min(int(step) for step in each if step) for each in steps if any(each)]
        by = [text for position, text in enumerate(KINDS_FOUND) if any(each[position] for each in steps)]
        span = f"{min(first)} to {max(first)}" if len(set(first)) > 1 else "".join(map(str, set(first)))
        if mine:
            yield (
                f"| {fault} | {name} | {len(first)} of {len(mine)} | {span} | {HEALTHY[name].every} | {', '.join(by)} |"
            )


def lost(rows: Rows) -> Iterator[str]:
    """Runs that say that updates are lost, how far the layers moved, and the test loss, in both dtypes."""
    yield "| run | said | at step | `learned_norm` | test loss, first to last |\n|---|---|---|---|---|"
    for name in LOST:
        mine = [row for row in rows if row["kind"] == name]
        steps = [min(int(row[f"{text}: first"] or 10**9) for text in ("still", "lost")) for row in mine]
        known = [step for step in steps if step < 10**9]
        moved, start, loss = (
            np.mean([float(row[key]) for row in mine]) for key in ("learned_norm", "start_loss", "loss")
        )
        span = f"{min(known)} to {max(known)}" if known else ""
        yield f"| {name} | {len(known)} of {len(mine)} | {span} | {moved:.3g} | {start:.2f} to {loss:.2f} |"


def main() -> None:
    torch.set_num_threads(1)
    rows = with_missing(RESULTS, ["kind", "fault", "seed"], RUNS, run)
    for table in (losses(rows), false_alarms(rows), [interval(rows)], found(rows), lost(rows)):
        print("\n".join(table), end="\n\n")


if __name__ == "__main__":
    main()
