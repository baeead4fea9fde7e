"""When each policy ends the runs of the cells, and what that costs: false alarms, steps saved, error paid.

All policies are evaluated on the same recorded runs (``cells.py``). The settings of the rules were chosen on one part
of the cells; the others are judged when the rules are fixed. A stop is a false alarm if the validation loss later falls
by more than 1 % below its minimum so far. Takes a few minutes:

    OMP_NUM_THREADS=1 python benchmarks/evidence/stops.py [choosing] [held_out] [fresh]
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
from collections.abc import Sequence

from cells import recorded, suffix
from policies import Stop, is_false_alarm, loss_stop, spectral_stop
from recording import RESULTS, Recording

from ww_callbacks.signals.rules import PATIENCE, RULES
from ww_callbacks.signals.stop import StopRules

OURS = {
    "default": (StopRules(), True),
    "default, no metric": (StopRules(), False),
    **{f"{rule}, no metric": (StopRules(rules=[rule]), False) for rule in RULES},
    "all rules": (StopRules(rules=RULES), True),
}
BUDGET = "fixed budget"
"""Every run of a kind ends after as many steps as stopping on the validation loss takes on average."""


def stops(recording: Recording) -> dict[str, Stop | None]:
    """Where each policy ends a run; None if it does not."""
    ours = {name: spectral_stop(recording, rules, has_metric) for name, (rules, has_metric) in OURS.items()}
    losses = {name: loss_stop(recording, f"{name}_loss", PATIENCE) for name in ("val", "train")}
    return ours | {"validation loss": losses["val"], "training loss": losses["train"]}


def row(recording: Recording, policy: str, stop: Stop | None) -> dict[str, object]:
    """What a policy does to one run."""
    last = len(recording.steps) - 1
    position = last if stop is None else stop.position
    return {
        "kind": "long" if "steps" in recording.run else "short",
        "cell": recording.run["number"],
        "seed": recording.run["seed"],
        "policy": policy,
        "is_stopped": stop is not None,
        "rule": "" if stop is None else stop.rule,
        "step": recording.steps[position],
        "is_false": stop is not None and is_false_alarm(recording, position),
        "saved": f"{1 - recording.steps[position] / recording.steps[last]:.4f}",
        "paid": f"{paid(recording.losses['test_loss'], position):.4f}",
    }


def paid(losses: Sequence[float | None], position: int) -> float:
    """Logarithm of the test loss at a stop relative to the end of the run; nan if it is not known."""
    at, end = losses[position], losses[-1]
    return math.log(at / end) if at and end else math.nan


def rows_of(recordings: Sequence[Recording]) -> list[dict[str, object]]:
    """One row per run and policy."""
    found = [(recording, stops(recording)) for recording in recordings]
    rows = [row(recording, policy, stop) for recording, all_stops in found for policy, stop in all_stops.items()]
    ends = [
        len(recording.steps) - 1 if all_stops["validation loss"] is None else all_stops["validation loss"].position
        for recording, all_stops in found
    ]
    budget = round(statistics.fmean(ends))
    return rows + [row(recording, BUDGET, Stop(budget)) for recording, _ in found]


def main() -> None:
    for part in sys.argv[1:]:
        rows = [each for is_long in (False, True) for each in rows_of(recorded(part, is_long))]
        path = RESULTS / f"stops{suffix(part)}.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"{path}: {len(rows)} rows")


if __name__ == "__main__":
    main()
