"""When our rules end a training, when the validation loss does, and the test error at that point.

One recorded run per case and seed, on digits (eight seeds) and on text (five); every policy is evaluated on the same
record. The settings are the defaults. They were chosen on healthy runs (``false_alarms.py``) and on the digits of five
seeds ("choosing"); the page shows the others ("reporting"). Recording takes about ten minutes on one core,
evaluation one:

    OMP_NUM_THREADS=1 python benchmarks/evidence/stopping.py
"""

from __future__ import annotations

import csv
import math

from policies import Stop, spectral_stop, validation_stop
from record import CHOOSING_SEEDS, recordings
from recording import RESULTS, Recording

from ww_callbacks.signals.rules import PATIENCE
from ww_callbacks.signals.stop import StopRules

FILE = RESULTS / "stopping.csv"
EVERY_RULE = ("plateau", "traps", "overtrained")
OURS = {
    "plateau": StopRules(rules=["plateau"]),
    "traps": StopRules(rules=["traps"]),
    "overtrained and val_loss": StopRules(rules=["overtrained"], and_monitor="val_loss"),
    "default rules": StopRules(),
    "default rules and val_loss": StopRules(and_monitor="val_loss"),
    "all rules": StopRules(rules=EVERY_RULE),
    "all rules and val_loss": StopRules(rules=EVERY_RULE, and_monitor="val_loss"),
}


def stops(recording: Recording) -> dict[str, Stop | None]:
    """Where each policy ends a run; None if it does not."""
    ours = {name: spectral_stop(recording, rules) for name, rules in OURS.items()}
    return {"none": None, "val_loss": validation_stop(recording, PATIENCE), **ours}


def row(task: str, recording: Recording, policy: str, stop: Stop | None) -> dict[str, object]:
    """Result of a policy for one run: the step at which it ends, and the test errors there."""
    errors = [math.inf if error is None else error for error in recording.losses["test_error"]]
    position = len(errors) - 1 if stop is None else stop.position
    return {
        "task": task,
        "case": recording.run["case"],
        "seed": recording.run["seed"],
        "part": "choosing" if task == "digits" and recording.run["seed"] in CHOOSING_SEEDS else "reporting",
        "policy": policy,
        "is_stopped": stop is not None,
        "rule": stop.rule if stop is not None else "",
        "step": recording.steps[position],
        "final_error": errors[position],
        "best_error": min(errors[: position + 1]),
    }


def main() -> None:
    rows = [
        row(task, recording, policy, stop)
        for task in ("digits", "text")
        for recording in recordings(task)
        for policy, stop in stops(recording).items()
    ]
    with FILE.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"{FILE}: {len(rows)} rows")


if __name__ == "__main__":
    main()
