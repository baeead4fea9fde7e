"""Trainings with an injected fault, recorded so that rules that find faults are judged without training again.

Each fault is injected into four architectures, of which two are drawn with a fixed seed for choosing rules. The others
are held out, with other seeds: do not look at them until the rules are fixed. Beside the faults there are controls, the
same recipe without a fault. A recipe is the optimizer, the schedule and the decay of an architecture; the
rate is the one of five with the smallest validation loss, for a seed that is not used otherwise. A run with a
fault and its control have the same seed, so they see the same weights and batches.

    OMP_NUM_THREADS=1 python benchmarks/evidence/faults.py               the runs for choosing, and what faults cost
    OMP_NUM_THREADS=1 python benchmarks/evidence/faults.py --held-out    the others

Runs that are recorded already are not repeated. Takes about half an hour on one core. Needs peft.

Not every fault costs something. Of those for choosing, the validation loss stays within 0.05 of that of the control
in each of five runs with a frozen layer (dense), with a layer initialised x 0.1 (dense and LSTM) and with LoRA scale
x 20 (transformer). In the transformer, a layer initialised x 10, a huge feature and an exploding embedding cost less
than 0.15. The control in bfloat16 loses most of its updates, too, when the rate of its schedule comes near zero.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import digits
import numpy as np
import text
import torch
from cells import (
    COLUMNS,
    EVERY,
    PARTS,
    RATE_SEED,
    RATES,
    USUAL,
    Cell,
    Task,
    Training,
    batch_of,
    fit,
    mean_loss,
    network,
    rate_at,
    task_of,
)
from networks import cut_before, trained
from recording import RESULTS, Recording, record_missing
from tables import Row, short, with_missing
from torch import Tensor, nn

DRAW = 2029
STEPS, PRETRAINING = 400, 100
RATE_FILE = RESULTS / "faults_rates.csv"
RECORDS = {False: RESULTS / "recorded" / "faults.jsonl.gz", True: RESULTS / "recorded" / "faults_held_out.jsonl.gz"}
FOUR_DIGITS = ("alpha", "alpha_stable", "entropy", "log_norm", "log_spectral_norm")
DIGITS = {name: 2 if name.endswith("_pvalue") else 3 for name in COLUMNS if name not in FOUR_DIGITS}
"""Significant digits that are kept, for a file of moderate size; four for the others."""


@dataclass(frozen=True)
class Recipe:
    """How an architecture is trained, and the places of faults.

    Attributes:
        optimizer: one of ``cells.USUAL``.
        schedule: of the rate.
        decay: weight decay, as the optimizer defines it: decoupled in AdamW, part of the gradient in SGD.
        first: the weight that sees the inputs.
        middle: the weight of one layer in the middle.
        cut: the module before which the gradient is cut, behind the middle layer.
        before: the weights before the cut, apart from biases and normalisation.
        adapted: the modules that get low-rank adapters; none where peft has no adapters for the layers.
    """

    optimizer: str
    schedule: str
    decay: float
    first: str
    middle: str
    cut: str
    before: tuple[str, ...]
    adapted: tuple[str, ...] = ()


BLOCK = tuple(f"blocks.0.{name}.weight" for name in ("query", "key", "value", "out", "up", "down"))
RECURRENT = ("lstm.weight_ih_l0", "lstm.weight_hh_l0")
RECIPES = {
    "dense": Recipe(
        *("momentum", "constant", 1e-3, "0.weight", "2.weight", "4", ("0.weight", "2.weight")), adapted=("0", "2")
    ),
    "convolutional": Recipe(
        *("momentum", "cosine", 1e-3, "1.weight", "4.weight", "9", ("1.weight", "4.weight")), adapted=("4", "9")
    ),
    "LSTM": Recipe("AdamW", "constant", 0.1, *RECURRENT, "head", RECURRENT),
    "transformer": Recipe(
        *("AdamW", "warm-up, stable, decay", 0.1, "embed.weight", "blocks.0.up.weight", "blocks.1"),
        before=("embed.weight", *BLOCK),
        adapted=tuple(f"blocks.{block}.{name}" for block in (0, 1) for name in ("query", "value", "up")),
    ),
}
NONE = "none"
FAULTS = (
    *("rate x 30", "rate / 30", "layer frozen", "gradient cut", "layer initialised x 10", "layer initialised x 0.1"),
    *("weight decay x 100", "huge feature", "30 % wrong labels", "100 % wrong labels", "tiny data"),
    *("exploding embedding", "bfloat16 stagnation", "LoRA scale x 20", "NaN gradient"),
)
FORMS = ("float32", "bfloat16", "LoRA")
RATE_TIMES = {"rate x 30": 30.0, "rate / 30": 1 / 30, "bfloat16 stagnation": 1 / 30}
INITIAL_TIMES = {"layer initialised x 10": 10.0, "layer initialised x 0.1": 0.1}
WRONG = {"30 % wrong labels": 0.3, "100 % wrong labels": 1.0}
HUGE, EXPLODING, PIXEL = 1000.0, 1000.0, 14 * 28 + 14
TINY = {"images": 64, "windows": 16}
RANK, SCALE = 8, 2.0


def form_of(fault: str) -> str:
    """The form of the weights in which a fault is injected."""
    return {"bfloat16 stagnation": "bfloat16", "LoRA scale x 20": "LoRA"}.get(fault, "float32")


def possible(form: str) -> list[str]:
    """The architectures whose weights can have a form."""
    return [name for name, recipe in RECIPES.items() if form != "LoRA" or recipe.adapted]


def part(is_held_out: bool) -> list[tuple[str, str]]:
    """The faults and architectures of one half: two architectures of each fault, or one of three.

    Drawn until each half has the architectures equally often, with a difference of at most one.
    """
    rng = np.random.default_rng(DRAW)
    while True:
        halves: list[list[tuple[str, str]]] = [[], []]
        for fault in FAULTS:
            order = list(map(str, rng.permutation(possible(form_of(fault)))))
            middle = (len(order) + int(rng.integers(2))) // 2
            for half, names in zip(halves, (order[:middle], order[middle:]), strict=True):
                half.extend((fault, name) for name in names)
        numbers = [[[name for _, name in half].count(each) for each in RECIPES] for half in halves]
        if all(max(each) - min(each) <= 1 for each in numbers):
            return halves[is_held_out]


def reported(weight: str) -> list[str]:
    """The names of a weight in reports; a recurrent weight is a layer per gate."""
    return [f"{weight}.{gate}" for gate in "ifgo"] if weight in RECURRENT else [weight.removesuffix(".weight")]


def layers_of(fault: str, recipe: Recipe) -> list[str]:
    """The layers into which a fault is injected; none for a fault of the whole training."""
    if fault in ("layer frozen", "NaN gradient", *INITIAL_TIMES):
        return reported(recipe.middle)
    if fault in ("exploding embedding", "huge feature"):
        return reported(recipe.first)
    if fault == "gradient cut":
        return [name for weight in recipe.before for name in reported(weight)]
    return [f"{name}.lora_default" for name in recipe.adapted] if fault == "LoRA scale x 20" else []


def run_of(fault: str, architecture: str, form: str, factor: float, seed: int) -> dict[str, Any]:
    """What identifies a run.

    Returns:
        The values, among them ``layers``, into which the fault is injected, and ``since``, the step of the injection:
        0 if it is there from the start. The step at which a gradient becomes NaN is that of a snapshot for half of the
        seeds, which shows the first layer alone, and ten steps after one for the others.
    """
    recipe = RECIPES[architecture]
    since = None if fault == NONE else 0
    if fault == "NaN gradient":
        since = STEPS // 2 + (EVERY // 2 if seed % 2 else 0)
    how = {"optimizer": recipe.optimizer, "schedule": recipe.schedule, "decay": recipe.decay, "factor": factor}
    where = {"layers": layers_of(fault, recipe), "since": since}
    return {"fault": fault, "architecture": architecture, "form": form, **where, **how, "seed": seed}


def train(run: dict[str, Any], recording: Recording | None = None) -> float:
    """Train a run, and return its last validation loss."""
    recipe, fault, form, seed = RECIPES[run["architecture"]], run["fault"], run["form"], run["seed"]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(1000 + seed)
    cell = Cell(run["architecture"], "standardised", "default", recipe.optimizer, recipe.schedule, "none")
    task, model = task_of(cell, generator), network(cell)
    batch = batch_of(cell.network)
    if form == "bfloat16":
        model.bfloat16()
        task = replace(task, inputs={name: as_bfloat16(each) for name, each in task.inputs.items()})
    if form == "LoRA":
        pretraining = optimizer_of(model, run | {"fault": NONE, "factor": 1.0})
        fit(Training(model, pretraining, task, generator, batch, lambda step: 1.0, PRETRAINING))
        adapt(model, recipe, SCALE * (20 if fault == "LoRA scale x 20" else 1))
    task = spoiled(task, fault, seed)
    break_model(model, run)
    schedule = partial(rate_at, recipe.schedule, steps=STEPS)
    return fit(
        Training(model, optimizer_of(model, run), task, generator, batch, schedule, STEPS), recording, summary, DIGITS
    )


def as_bfloat16(inputs: Tensor) -> Tensor:
    """Images in bfloat16; codes of characters as they are."""
    return inputs.bfloat16() if inputs.is_floating_point() else inputs


def optimizer_of(model: nn.Module, run: dict[str, Any]) -> torch.optim.Optimizer:
    """The optimizer, with the faults of rate and decay."""
    recipe, fault = RECIPES[run["architecture"]], run["fault"]
    make, usual = USUAL[recipe.optimizer]
    rate = run["factor"] * usual * RATE_TIMES.get(fault, 1.0)
    groups: list[dict[str, Any]] = [{"params": trained(model)}]
    if fault == "exploding embedding":
        first = model.get_parameter(recipe.first)
        rest = [parameter for parameter in trained(model) if parameter is not first]
        groups = [{"params": rest}, {"params": [first], "lr": EXPLODING * rate}]
    return make(groups, lr=rate, weight_decay=recipe.decay * (100 if fault == "weight decay x 100" else 1))


def adapt(model: nn.Module, recipe: Recipe, scale: float) -> None:
    """Freeze a network and add low-rank adapters."""
    import peft

    config = peft.LoraConfig(r=RANK, lora_alpha=scale * RANK, target_modules=list(recipe.adapted))
    peft.inject_adapter_in_model(config, model)


def spoiled(task: Task, fault: str, seed: int) -> Task:
    """The data with a fault: a pixel on a huge scale, wrong training labels, or few training samples."""
    train, labels = task.inputs["train"], task.targets["train"]
    is_text = not train.is_floating_point()
    if fault == "huge feature" and not is_text:
        times = torch.ones(train.shape[1])
        times[PIXEL] = HUGE
        return replace(task, inputs={name: each * times for name, each in task.inputs.items()})
    if fault in WRONG:
        generator = torch.Generator().manual_seed(2000 + seed)
        wrong = (text if is_text else digits).spoiled(labels, WRONG[fault], generator)
        return replace(task, targets=task.targets | {"train": wrong})
    if fault == "tiny data":
        size = TINY["windows" if is_text else "images"]
        return replace(
            task, inputs=task.inputs | {"train": train[:size]}, targets=task.targets | {"train": labels[:size]}
        )
    return task


def break_model(model: nn.Module, run: dict[str, Any]) -> None:
    """Inject a fault into the network."""
    recipe, fault = RECIPES[run["architecture"]], run["fault"]
    if fault == "layer frozen":
        for name in (recipe.middle, recipe.middle.replace("weight", "bias")):
            model.get_parameter(name).requires_grad_(False)
    elif fault == "gradient cut":
        cut_before(model.get_submodule(recipe.cut))
    elif fault in INITIAL_TIMES:
        model.get_parameter(recipe.middle).data.mul_(INITIAL_TIMES[fault])
    elif fault == "huge feature" and run["architecture"] == "transformer":
        model.get_parameter(recipe.first).data[text.CHARACTERS.index(" ")] *= HUGE
    elif fault == "NaN gradient":
        steps = count(1)
        model.get_parameter(recipe.middle).register_hook(
            lambda gradient: gradient * math.nan if next(steps) == run["since"] else gradient
        )


def summary(seen: Sequence[float], step: int) -> dict[str, float | None]:
    """The training losses since the last snapshot, as far as a rule that sees only losses needs them.

    Returns:
        Their mean, the first, the last and the largest finite one, and ``non_finite``, the step of the first that is
        not finite.
    """
    finite = [loss for loss in seen if math.isfinite(loss)]
    first, last = (seen[0], seen[-1]) if seen else (None, None)
    bad = next((number for number, loss in enumerate(seen, step - len(seen) + 1) if not math.isfinite(loss)), None)
    values = {"train_first": first, "train_last": last, "train_max": max(finite, default=None), "non_finite": bad}
    return {**mean_loss(seen, step), **values}


def pilot(architecture: str, form: str, factor: float) -> list[Row]:
    """The validation loss that a rate reaches without a fault."""
    loss = train(run_of(NONE, architecture, form, factor, RATE_SEED))
    row = {"architecture": architecture, "form": form, "factor": factor}
    return [{**row, "val_loss": short(loss if math.isfinite(loss) else math.inf)}]


def rates() -> dict[tuple[str, str], float]:
    """The factor of each architecture and form with the smallest loss."""
    recipes = [(name, form) for form in FORMS for name in possible(form)]
    wanted = [(*recipe, factor) for recipe in recipes for factor in RATES]
    rows = with_missing(RATE_FILE, ["architecture", "form", "factor"], wanted, pilot)
    losses = {(row["architecture"], row["form"], float(row["factor"])): float(row["val_loss"]) for row in rows}
    return {recipe: min(RATES, key=lambda factor, recipe=recipe: losses[(*recipe, factor)]) for recipe in recipes}


def runs(is_held_out: bool) -> Iterator[dict[str, Any]]:
    """What identifies each run of one half: the controls, and the faults."""
    factors, pairs = rates(), part(is_held_out)
    recipes = [(name, "float32") for name in RECIPES]
    recipes += [(name, form_of(fault)) for fault, name in pairs if form_of(fault) != "float32"]
    faulty = [(fault, name, form_of(fault)) for fault, name in pairs]
    for fault, name, form in [*((NONE, *recipe) for recipe in recipes), *faulty]:
        for seed in PARTS["held_out" if is_held_out else "choosing"]:
            yield run_of(fault, name, form, factors[name, form], seed)


def record(run: dict[str, Any]) -> Recording:
    """Train one run of :func:`runs`."""
    recording = Recording(run)
    train(run, recording)
    return recording


def table(recordings: Sequence[Recording]) -> Iterator[str]:
    """Each fault: the last losses beside those of its control, as medians over the seeds."""
    yield "| fault | run | training loss | of the control | validation loss | of the control | not finite |"
    yield "|---|---|---|---|---|---|---|"
    groups: dict[tuple[str, str, str], list[Recording]] = {}
    for each in recordings:
        groups.setdefault((each.run["fault"], each.run["architecture"], each.run["form"]), []).append(each)
    for (fault, name, form), mine in groups.items():
        if fault == NONE:
            continue
        pairs = [
            f"{last(group, loss):.3g}"
            for loss in ("train_loss", "val_loss")
            for group in (mine, groups[NONE, name, form])
        ]
        lost = sum(any(step is not None for step in each.losses["non_finite"]) for each in mine)
        yield f"| {fault} | {name}, {form} | {' | '.join(pairs)} | {lost} of {len(mine)} |"


def last(recordings: Sequence[Recording], name: str) -> float:
    """Median of the last values of a loss; one that is not finite counts as infinite."""
    values = [each.losses[name][-1] for each in recordings]
    return float(np.median([math.inf if value is None else value for value in values]))


def recorded(is_held_out: bool) -> list[Recording]:
    """The runs of one half; those that are missing are trained."""
    return record_missing(RECORDS[is_held_out], runs(is_held_out), record)


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held-out", action="store_true", help="record the half that is held out, and show nothing")
    is_held_out = parser.parse_args().held_out
    recordings = recorded(is_held_out)
    print(f"{RECORDS[is_held_out]}: {len(recordings)} runs" if is_held_out else "\n".join(table(recordings)))


if __name__ == "__main__":
    main()
