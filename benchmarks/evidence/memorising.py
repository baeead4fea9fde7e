"""Does the change of the weights tell memorising wrong labels from learning right ones?

For each seed and cell, three trainings with the same network, first weights, optimizer, inputs, batches and number of
steps: with the right labels, with 30 % of the labels shuffled among themselves, and with all of them shuffled, so that
each label is as frequent as before. Cells are unlike each other: four networks on 500 digits, and a transformer on
2,048 characters. ``ww.Monitor(updates=True)`` takes 20 snapshots.

For each quantity and layer, the area under the ROC curve (AUC) is the share of pairs, of a run with wrong labels and a
run with right ones, in which the quantity is larger in the first (ties count half). It is averaged over the layers of a
cell, then over the cells. "One threshold" is the AUC over all layers of all cells together. In advance we expected all
quantities to be larger with wrong labels, except sharpness (the inverse of the stable rank, with the same AUC for
"smaller", and not shown) and alpha, for which the share of pairs in which it is smaller is shown. 95 % intervals are
bootstrapped over the seeds, with the same seeds for both labels. Moments at which runs are compared:

    end      after the last step
    early    after a fifth of the steps
    equal    each layer at the snapshot at which its ‖W - W₀‖_F is nearest to that of the run with right labels and the
             same seed at the end; left out if it differs by more than a tenth

Runs already in the table are not repeated. Takes about fifteen minutes on one core:

    OMP_NUM_THREADS=1 python benchmarks/evidence/memorising.py
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from digits import TRAIN, VALIDATION, digits
from networks import Make, adam, convolutional, dense, loss_of, sgd, tested, windows
from tables import Floats, Row, number, resampled, short, with_interval, with_missing
from text import Transformer
from torch import Tensor, nn

import ww_callbacks as ww

RESULTS = Path(__file__).parent / "results" / "memorising.csv"
SEEDS = range(10)
SNAPSHOTS = 20
ARMS = {"right": 0.0, "30 % wrong": 0.3, "all wrong": 1.0}
MOMENTS = ("end", "early", "equal")
TOLERANCE = 1.1
NORM = "distance"
QUANTITIES = {
    "distance": "‖W − W₀‖_F",
    "learned_norm": "`learned_norm`",
    "learned_rank": "`learned_rank`",
    "learned_stable_rank": "`learned_stable_rank`",
    "update_norm": "`update_norm`",
    "update_rank": "`update_rank`",
    "update_stable_rank": "`update_stable_rank`",
    "alpha": "`alpha`, smaller",
}
Data = tuple[Tensor, Tensor, Tensor, Tensor]
Rows = list[dict[str, str]]


def some_digits(generator: torch.Generator) -> Data:
    """500 training digits and 1,000 test digits."""
    images, labels = digits()
    chosen = torch.randperm(TRAIN, generator=generator)[:500]
    test = slice(TRAIN + VALIDATION, None)
    return images[chosen], labels[chosen], images[test], labels[test]


def some_text(generator: torch.Generator) -> Data:
    """2,048 training characters and 3,008 test characters."""
    return *windows("train", 32, generator), *windows("test", 47, generator)


@dataclass(frozen=True)
class Cell:
    """A kind of training."""

    network: Callable[[], nn.Module]
    optimizer: Make
    steps: int
    batch: int
    data: Callable[[torch.Generator], Data] = some_digits


CELLS = {
    "dense, Adam": Cell(lambda: dense(784, 192, 96, 10), adam(1e-3), 800, 64),
    "dense, momentum": Cell(lambda: dense(784, 128, 64, 10), sgd(0.02, 0.9), 1600, 32),
    "deep, LayerNorm, AdamW": Cell(
        lambda: dense(784, 64, 64, 64, 64, 10, norm=nn.LayerNorm), adam(2e-3, 0.05), 1200, 50
    ),
    "convolutional, BatchNorm, momentum": Cell(convolutional, sgd(0.03, 0.9, 5e-4), 600, 50),
    "text, AdamW": Cell(Transformer, adam(3e-3, 0.01), 400, 8, some_text),
}


def shuffled(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Labels of which a share is permuted."""
    result = labels.flatten().clone()
    chosen = torch.randperm(len(result), generator=generator)[: round(share * len(result))]
    result[chosen] = result[chosen[torch.randperm(len(chosen), generator=generator)]]
    return result.reshape(labels.shape)


def train(cell: Cell, share: float, seed: int) -> tuple[ww.History, dict[str, str]]:
    """Train one run; return its reports, and how well it fits."""
    torch.manual_seed(seed)
    inputs, right, test_inputs, test_labels = cell.data(torch.Generator().manual_seed(1000 + seed))
    labels = shuffled(right, share, torch.Generator().manual_seed(2000 + seed))
    model, batches = cell.network(), torch.Generator().manual_seed(3000 + seed)
    optimizer = cell.optimizer(model)
    every = cell.steps // SNAPSHOTS
    with ww.Monitor(model, every_n_steps=every, updates=True, executor="sync", randomize=False) as monitor:
        for step in range(1, cell.steps + 1):
            batch = torch.randint(len(inputs), (cell.batch,), generator=batches)
            optimizer.zero_grad()
            loss_of(model, inputs[batch], labels[batch]).backward()
            optimizer.step()
            monitor.step(step)
    loss, error = tested(model, inputs, labels)
    fit = {"train_loss": loss, "train_error": error, "test_error": tested(model, test_inputs, test_labels)[1]}
    return monitor.history, {name: short(value) for name, value in fit.items()}


def values_of(layer: ww.LayerReport) -> dict[str, float | None]:
    return {name: getattr(layer, name) for name in QUANTITIES} | {"distance": distance(layer)}


def distance(layer: ww.LayerReport) -> float:
    """‖W - W₀‖_F, for convolutions up to a constant factor."""
    return (layer.learned_norm or 0.0) * math.sqrt(layer.norm or 0.0)


def nearest(history: ww.History, name: str, wanted: float) -> ww.LayerReport | None:
    """The layer at the snapshot at which its distance is nearest to the wanted one; None if there is none near."""
    layers = [report[name] for report in history[1:]]
    ratios = [abs(math.log(max(distance(layer), 1e-30) / wanted)) for layer in layers]
    best = int(np.argmin(ratios))
    return layers[best] if ratios[best] <= math.log(TOLERANCE) else None


def run(name: str, seed: int) -> list[Row]:
    """All rows of a cell and a seed."""
    runs = {arm: train(CELLS[name], share, seed) for arm, share in ARMS.items()}
    end = runs["right"][0][-1]
    rows = []
    for (arm, (history, fit)), layer in product(runs.items(), end):
        if layer.M is None or layer.learned_norm is None:
            continue
        at = {
            "end": history[-1][layer.name],
            "early": history[SNAPSHOTS // 5][layer.name],
            "equal": nearest(history, layer.name, distance(layer)),
        }
        for moment, found in at.items():
            if found is not None:
                values = {key: short(value) for key, value in values_of(found).items()}
                rows.append(
                    {"cell": name, "seed": seed, "arm": arm, "moment": moment, "layer": layer.name}
                    | {"step": found.step}
                    | values
                    | fit
                )
    return rows


Column = dict[tuple[str, str, str, int], float]


def column(rows: Rows, quantity: str, moment: str) -> Column:
    """Arm, cell, layer and seed → value, with the sign with which it should be larger if labels are wrong."""
    sign = -1.0 if quantity == "alpha" else 1.0
    return {
        (row["arm"], row["cell"], row["layer"], int(row["seed"])): sign * number(row[quantity])
        for row in rows
        if row["moment"] == moment
    }


def aucs(values: Column, arm: str) -> dict[str, Floats]:
    """Per cell, the AUC averaged over its layers: one for the sample and one for each bootstrap sample."""
    found: dict[str, list[Floats]] = {}
    for (cell, _), wrong, right in pairs_of(values, arm):
        found.setdefault(cell, []).append(auc(wrong, right, resampled(len(SEEDS))))
    return {cell: mean_of(each) for cell, each in found.items()}


def one_threshold(values: Column, arm: str) -> Floats:
    """The AUC over all layers of all cells together."""
    _, wrong, right = zip(*pairs_of(values, arm), strict=True)
    drawn = np.tile(resampled(len(SEEDS)), len(wrong))
    return auc(np.concatenate(wrong), np.concatenate(right), drawn)


def pairs_of(values: Column, arm: str) -> Iterator[tuple[tuple[str, str], Floats, Floats]]:
    """Cell and layer, and the values of each seed with wrong and with right labels."""
    for cell, layer in dict.fromkeys((cell, layer) for _, cell, layer, _ in values):
        wrong, right = (
            np.array([values.get((each, cell, layer, seed), np.nan) for seed in SEEDS]) for each in (arm, "right")
        )
        yield (cell, layer), wrong, right


def auc(wrong: Floats, right: Floats, drawn: Floats) -> Floats:
    """Share of pairs with a larger value in the first, weighted by how often their seeds are drawn."""
    larger = (wrong[:, None] > right) + 0.5 * (wrong[:, None] == right)
    known = np.isfinite(wrong)[:, None] & np.isfinite(right)
    hits, pairs = (((drawn @ part) * drawn).sum(1) for part in (larger * known, known.astype(float)))
    return np.divide(hits, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)


def mean_of(values: list[Floats]) -> Floats:
    """Mean of each bootstrap sample over those that have a value."""
    known = [each for each in values if np.isfinite(each[0])]
    return np.nanmean(known, axis=0) if known else np.full(len(values[0]), np.nan)


def table(rows: Rows, arm: str, moment: str) -> Iterator[str]:
    yield "| quantity | mean AUC | minus that of the norm | one threshold | " + " | ".join(CELLS) + " |"
    yield "|---" * (len(CELLS) + 4) + "|"
    norm = mean_of(list(aucs(column(rows, NORM, moment), arm).values()))
    for quantity, text in QUANTITIES.items():
        values = column(rows, quantity, moment)
        cells = aucs(values, arm)
        mean = mean_of(list(cells.values()))
        difference = "" if quantity == NORM else with_interval(mean - norm)
        each = " | ".join(f"{cells[cell][0]:.2f}" for cell in CELLS)
        shared = with_interval(one_threshold(values, arm))
        yield f"| {text} | {with_interval(mean)} | {difference} | {shared} | {each} |"


def summary(rows: Rows, arm: str) -> Iterator[str]:
    """For each moment the mean AUC, and the smallest and the largest of a cell; for the end also the difference."""
    yield "| quantity | at the end | minus the norm's | at equal ‖W − W₀‖_F | after a fifth of the steps |"
    yield "|---|---|---|---|---|"
    moments = {moment: {name: aucs(column(rows, name, moment), arm) for name in QUANTITIES} for moment in MOMENTS}
    norm = mean_of(list(moments["end"][NORM].values()))
    for quantity, text in QUANTITIES.items():
        spans = {}
        for moment, found in moments.items():
            each = [values[0] for values in found[quantity].values()]
            mean = mean_of(list(found[quantity].values()))
            spans[moment] = f"{with_interval(mean)}; {min(each):.2f} to {max(each):.2f}"
        mean = mean_of(list(moments["end"][quantity].values()))
        difference = "" if quantity == NORM else with_interval(mean - norm)
        yield f"| {text} | {spans['end']} | {difference} | {spans['equal']} | {spans['early']} |"


def fits(rows: Rows) -> Iterator[str]:
    """How well each kind of run fits: means over the seeds."""
    yield "| cell | labels | training loss | training error | test error |\n|---|---|---|---|---|"
    for cell, arm in product(CELLS, ARMS):
        mine = {row["seed"]: row for row in rows if (row["cell"], row["arm"]) == (cell, arm)}.values()
        loss, train_error, test_error = (
            np.mean([float(row[name]) for row in mine]) for name in ("train_loss", "train_error", "test_error")
        )
        yield f"| {cell} | {arm} | {loss:.3g} | {100 * train_error:.1f} % | {100 * test_error:.1f} % |"


def main() -> None:
    torch.set_num_threads(1)
    rows = with_missing(RESULTS, ["cell", "seed"], ((cell, seed) for seed in SEEDS for cell in CELLS), run)
    print("\n".join(fits(rows)))
    for arm in list(ARMS)[1:]:
        print(f"\n{arm}: mean AUC; of the cells\n")
        print("\n".join(summary(rows, arm)))
    loss = aucs(column([row for row in rows if row["moment"] == "end"], "train_loss", "end"), "all wrong")
    print(f"\ntraining loss at the end, all wrong: AUC {with_interval(mean_of(list(loss.values())))}")
    for arm, moment in product(list(ARMS)[1:], MOMENTS):
        matched = sum(row["moment"] == moment and row["arm"] == arm for row in rows)
        print(f"\n{arm}, {moment}: {matched} layers of runs\n")
        print("\n".join(table(rows, arm, moment)))


if __name__ == "__main__":
    main()
