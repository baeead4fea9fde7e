"""Which injected faults the findings show, in which layer first, and when a watcher of the losses notices.

The runs are those of ``faults.py`` (with a fault, and controls without one) and the healthy ones of ``cells.py``. Takes
a minute:

    OMP_NUM_THREADS=1 python benchmarks/evidence/faults_found.py [choosing] [held_out] [fresh]

The part "fresh" has healthy runs only.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import cells
import faults
from policies import known
from recording import RESULTS, Recording

from ww_callbacks import Report
from ww_callbacks.report.finding import Finding, FindingKind
from ww_callbacks.signals.findings import Tracker
from ww_callbacks.signals.rates import decay_words
from ww_callbacks.signals.stalled import is_stalled

PATIENCE = 5
LARGE: frozenset[FindingKind] = frozenset({"rate_too_large", "exploding", "non_finite"})
EXPECTED: Mapping[str, frozenset[FindingKind]] = {
    "rate x 30": LARGE,
    "rate / 30": frozenset({"rate_too_small"}),
    "layer frozen": frozenset({"frozen"}),
    "gradient cut": frozenset({"frozen", "decay_only"}),
    "layer initialised x 10": frozenset({"exploding"}),
    "layer initialised x 0.1": frozenset({"collapsing"}),
    "weight decay x 100": frozenset({"weight_decay"}),
    "huge feature": LARGE | {"one_direction"},
    "30 % wrong labels": frozenset(),
    "100 % wrong labels": frozenset(),
    "tiny data": frozenset(),
    "exploding embedding": LARGE | {"moves_most"},
    "bfloat16 stagnation": frozenset({"lost_updates"}),
    "LoRA scale x 20": LARGE,
    "NaN gradient": frozenset({"non_finite"}),
}
"""Fault → the findings that describe it; none for faults of the data, which weights do not show."""


def reports_of(recording: Recording) -> Iterator[Report]:
    """The reports, with columns that follow from the recorded ones."""
    dtype = "bfloat16" if recording.run.get("form") == "bfloat16" else "float32"
    for report in recording.history():
        layers = [
            replace(layer, dtype=dtype, norm=None if layer.log_norm is None else 10**layer.log_norm)
            for layer in report.layers
        ]
        yield Report.of(layers, report.step)


def raised(recording: Recording) -> list[tuple[int, Finding]]:
    """The findings of a run, with the step of the result that raised each."""
    tracker, found = Tracker(), []
    rates = list(zip(recording.steps, known(recording.losses["rate"]), strict=True))
    for position, report in enumerate(reports_of(recording)):
        decayed = bool(decay_words(rates[: position + 1]))
        events = tracker.add(report, has_decayed=decayed)
        found += [(recording.steps[position], event) for event in events if event.until is None]
    return found


def noticed(recording: Recording) -> int | None:
    """Step at which a watcher of the losses notices something; None if it does not.

    It notices a loss that is not finite, a mean training loss above the first one, and a training or validation loss
    without a new smallest value in five results.
    """
    means, validation = known(recording.losses["train_loss"])[1:], known(recording.losses["val_loss"])
    for end in range(1, len(recording.steps)):
        lost = recording.losses.get("non_finite", [None] * (end + 1))[end] is not None
        rises = means[end - 1] > means[0]
        stalls = is_stalled(means[:end], PATIENCE) or is_stalled(validation[: end + 1], PATIENCE)
        if lost or rises or stalls:
            return recording.steps[end]
    return None


def is_right(finding: Finding, layers: Sequence[str]) -> bool:
    """Whether the first layer is one of the fault; an adapter belongs to the layer that it changes."""
    return not layers or finding.layers[0] in {*layers, *(name.removesuffix(".lora_default") for name in layers)}


def fault_row(recording: Recording) -> dict[str, object]:
    """What was found of one fault."""
    run = recording.run
    events = [each for each in raised(recording) if each[0] >= run["since"]]
    hits = [(step, finding) for step, finding in events if finding.kind in EXPECTED[run["fault"]]]
    step, finding = hits[0] if hits else (None, None)
    return {
        "fault": run["fault"],
        "architecture": run["architecture"],
        "seed": run["seed"],
        "is_found": finding is not None,
        "kind": "" if finding is None else finding.kind,
        "is_right": finding is not None and is_right(finding, run["layers"]),
        "step": "" if step is None else step,
        "noticed": "" if (watched := noticed(recording)) is None else watched,
        "since": run["since"],
        "alarms": " ".join(dict.fromkeys(each.kind for _, each in events if each.is_alarm)),
    }


def healthy_row(recording: Recording, name: str) -> dict[str, object]:
    """What was found in one healthy run."""
    found = [finding for _, finding in raised(recording)]
    return {
        "fault": faults.NONE,
        "architecture": name,
        "seed": recording.run["seed"],
        "noticed": "" if (watched := noticed(recording)) is None else watched,
        "alarms": " ".join(dict.fromkeys(each.kind for each in found if each.is_alarm)),
        "notices": " ".join(dict.fromkeys(each.kind for each in found if not each.is_alarm)),
    }


def rows(part: str) -> list[dict[str, object]]:
    """One row per run of one part."""
    injected = [] if part == "fresh" else faults.recorded(part == "held_out")
    healthy = [
        (each, f"{'long' if is_long else 'short'} {each.run['number']}")
        for is_long in (False, True)
        for each in cells.recorded(part, is_long)
    ]
    controls = [(each, f"control {each.run['architecture']}") for each in injected if each.run["fault"] == faults.NONE]
    found = [fault_row(each) for each in injected if each.run["fault"] != faults.NONE]
    return [*found, *(healthy_row(each, name) for each, name in [*healthy, *controls])]


def main() -> None:
    for part in sys.argv[1:]:
        found = rows(part)
        path = RESULTS / f"faults_found{cells.suffix(part)}.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(
                file, list(dict.fromkeys(name for row in found for name in row)), lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows(found)
        print(f"{path}: {len(found)} rows")


if __name__ == "__main__":
    main()
