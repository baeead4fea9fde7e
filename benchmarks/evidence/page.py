"""Writes the tables of ``docs/early_stopping.md`` from the result files, or checks that they agree.

python benchmarks/evidence/page.py [--check]
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections import defaultdict
from pathlib import Path

from policies import mean_interval
from recording import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "early_stopping.md"
POLICIES = {
    "none": "no stopping",
    "val_loss": "validation loss",
    "default rules": "ours",
    "default rules and val_loss": "ours and `val_loss`",
    "all rules and val_loss": "all rules and `val_loss`",
}


def rows_of(name: str) -> list[dict[str, str]]:
    """Rows of a result file; empty if there is none."""
    with (RESULTS / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def false_alarm_table() -> str:
    """The default settings of each rule, on the seeds used to choose them and on the others."""
    lines = ["| rule | runs | ended | of these still improving | share, 95 % interval |", "|---|---|---|---|---|"]
    for row in rows_of("false_alarms"):
        if row["is_default"] == "True":
            name = f"{row['rule']} ({'chosen on these runs' if row['part'] == 'choosing' else 'fresh runs'})"
            share = (
                f"{100 * float(row['share']):.1f} % ({100 * float(row['low']):.1f} to {100 * float(row['high']):.1f})"
            )
            lines.append(f"| {name} | {row['runs']} | {row['stops']} | {row['false_alarms']} | {share} |")
    return "\n".join(lines)


def settings_table() -> str:
    """False alarms of other settings, in per cent of all runs."""
    false: dict[tuple[str, str], list[int]] = defaultdict(list)
    totals: dict[tuple[str, str], list[int]] = defaultdict(list)
    for row in rows_of("false_alarms"):
        level = f"min_delta {row['min_delta']}" if row["min_delta"] else ""
        level = f"level {row['trap_level']}" if row["trap_level"] else level
        key = f"{row['rule']}{', ' if level else ''}{level}", row["patience"]
        false[key].append(int(row["false_alarms"]))
        totals[key].append(int(row["runs"]))
    patiences = sorted({patience for _, patience in false}, key=int)
    lines = [
        f"| | {' | '.join(f'patience {patience}' for patience in patiences)} |",
        "|---" * (len(patiences) + 1) + "|",
    ]
    for name in dict.fromkeys(name for name, _ in false):
        shares = [100 * sum(false[name, patience]) / sum(totals[name, patience]) for patience in patiences]
        lines.append(f"| {name} | {' | '.join(f'{share:.1f} %' for share in shares)} |")
    return "\n".join(lines)


def stopping_table(task: str) -> str:
    """Per case and policy: number of runs ended, when, by which rule, and the test errors, on the reporting seeds."""
    rows = [row for row in rows_of("stopping") if row["task"] == task and row["part"] == "reporting"]
    lines = ["| case | policy | ended | by | at step | test error at the end | best test error |", "|---" * 7 + "|"]
    for case in dict.fromkeys(row["case"] for row in rows):
        for policy, name in POLICIES.items():
            mine = [row for row in rows if row["case"] == case and row["policy"] == policy]
            ended = [row for row in mine if row["is_stopped"] == "True"]
            rules = ", ".join(sorted({row["rule"] for row in ended if row["rule"]}))
            cells = [
                case if policy == "none" else "",
                name,
                f"{len(ended)} of {len(mine)}" if policy != "none" else "",
                rules,
                _steps([int(row["step"]) for row in mine]),
                _percent([float(row["final_error"]) for row in mine]),
                _percent([float(row["best_error"]) for row in mine]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _steps(steps: list[int]) -> str:
    mean, _ = mean_interval(steps)
    return f"{mean:.0f} ({min(steps)} to {max(steps)})" if min(steps) < max(steps) else f"{mean:.0f}"


def _percent(errors: list[float]) -> str:
    mean, half = mean_interval(errors)
    return f"{100 * mean:.1f} %" if math.isnan(half) else f"{100 * mean:.1f} ± {100 * half:.1f} %"


TABLES = {
    "false alarms": false_alarm_table,
    "settings": settings_table,
    "digits": lambda: stopping_table("digits"),
    "text": lambda: stopping_table("text"),
}


def filled(text: str) -> str:
    """Return the page with each table inserted between its marks."""
    for name, table in TABLES.items():
        mark = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not mark.search(text):
            raise ValueError(f"{PAGE} has no marks for the table {name!r}")
        text = mark.sub(lambda found, table=table: f"{found[1]}\n{table()}\n\n{found[2]}", text)
    return text


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv:
        if filled(text) != text:
            sys.exit(f"{PAGE} does not match {RESULTS}: run {Path(__file__).name}")
    else:
        PAGE.write_text(filled(text), encoding="utf-8")


if __name__ == "__main__":
    main()
