"""How often each rule ends a healthy run while its validation loss is still improving.

Short healthy runs on digits: three widths, four optimizers, 800 steps, a result every 20. The rules and their
settings were chosen on 15 seeds (180 runs), and are reported on five others (60 runs). A stop is a false alarm if the
validation loss later falls by more than 1 % below its minimum so far. Recording takes ten minutes, evaluation one:

    OMP_NUM_THREADS=1 python benchmarks/evidence/false_alarms.py
"""

from __future__ import annotations

import csv

from policies import binomial_interval, first_alarm, is_false_alarm
from record import HEALTHY_CHOOSING_SEEDS, recordings
from recording import RESULTS, Recording

from ww_callbacks import Report
from ww_callbacks.signals.rules import MIN_DELTA, PATIENCE, TRAP_LEVEL, RuleOptions

FILE = RESULTS / "false_alarms.csv"
PATIENCES = (5, 10)
SETTINGS = {
    "plateau": [RuleOptions(patience=p, min_delta=delta) for p in PATIENCES for delta in (0.02, 0.05, 0.1)],
    "traps": [RuleOptions(patience=p, trap_level=level) for p in PATIENCES for level in (0.3, 0.4, 0.5)],
    "overtrained": [RuleOptions(patience=p) for p in PATIENCES],
}


def judge(runs: list[tuple[Recording, list[Report]]], rule: str, options: RuleOptions) -> list[dict[str, object]]:
    """Return one row for the seeds used to choose settings, and one for the others."""
    alarms = [(recording, first_alarm(reports, rule, options)) for recording, reports in runs]
    rows: list[dict[str, object]] = []
    for part in ("choosing", "reporting"):
        mine = [(r, stop) for r, stop in alarms if (r.run["seed"] in HEALTHY_CHOOSING_SEEDS) == (part == "choosing")]
        if not mine:
            continue
        false = sum(stop is not None and is_false_alarm(recording, stop) for recording, stop in mine)
        low, high = binomial_interval(false, len(mine))
        rows.append(
            {
                "part": part,
                "rule": rule,
                "patience": options.patience,
                "min_delta": options.min_delta if rule == "plateau" else "",
                "trap_level": options.trap_level if rule == "traps" else "",
                "is_default": options == RuleOptions(patience=PATIENCE, min_delta=MIN_DELTA, trap_level=TRAP_LEVEL),
                "runs": len(mine),
                "stops": sum(stop is not None for _, stop in mine),
                "false_alarms": false,
                "share": f"{false / len(mine):.4f}",
                "low": f"{low:.4f}",
                "high": f"{high:.4f}",
            }
        )
    return rows


def main() -> None:
    runs = [(recording, list(recording.history())) for recording in recordings("healthy")]
    rows = [row for rule, settings in SETTINGS.items() for options in settings for row in judge(runs, rule, options)]
    with FILE.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(FILE.read_text())


if __name__ == "__main__":
    main()
