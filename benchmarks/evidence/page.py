"""Writes the tables of ``docs/early_stopping.md`` from the result files, or checks that they agree.

python benchmarks/evidence/page.py [--check]
"""

from __future__ import annotations

import csv
import math
import re
import statistics
import sys
from collections import Counter
from pathlib import Path

from policies import binomial_interval, mean_interval
from recording import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "early_stopping.md"
HALVES = {"stops": "chosen on", "stops_held_out": "held out"}
POLICIES = {
    "default": "default rules and the validation loss",
    "default, no metric": "default rules, no metric",
    "plateau, no metric": "`plateau` alone",
    "traps, no metric": "`traps` alone",
    "overtrained, no metric": "`overtrained`, with traps",
    "all rules": "all rules and the validation loss",
    "validation loss": "validation loss, patience 5",
    "training loss": "training loss, patience 5",
    "fixed budget": "fixed budget",
}
Row = dict[str, str]


def rows_of(name: str) -> list[Row]:
    """Rows of a result file."""
    with (RESULTS / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def false_alarm_table() -> str:
    """How many runs each policy ended, and too early, in each half of the cells."""
    lines = [
        "| policy | runs | ended | of these still improving | share, 95 % interval | worst cell |",
        "|---|---|---|---|---|---|",
    ]
    for half, which in HALVES.items():
        rows = rows_of(half)
        for policy, name in POLICIES.items():
            mine = [row for row in rows if row["policy"] == policy]
            false = [row for row in mine if row["is_false"] == "True"]
            low, high = binomial_interval(len(false), len(mine))
            ended = sum(row["is_stopped"] == "True" for row in mine)
            share = f"{100 * len(false) / len(mine):.1f} % ({100 * low:.1f} to {100 * high:.1f})"
            lines.append(f"| {name} ({which}) | {len(mine)} | {ended} | {len(false)} | {share} | {_worst(mine)} |")
    return "\n".join(lines)


def _worst(rows: list[Row]) -> str:
    """False alarms in the cell with the most."""
    sizes = Counter((row["kind"], row["cell"]) for row in rows)
    false = Counter((row["kind"], row["cell"]) for row in rows if row["is_false"] == "True")
    if not false:
        return f"0 of {max(sizes.values())}"
    cell = max(false, key=lambda each: (false[each] / sizes[each], false[each]))
    return f"{false[cell]} of {sizes[cell]}"


def cost_table() -> str:
    """Steps saved and test loss paid on the half that is held out, against training to the end."""
    rows = rows_of("stops_held_out")
    lines = ["| policy | runs | ended | steps saved | test loss paid |", "|---|---|---|---|---|"]
    for kind, length in (("short", "600 steps"), ("long", "2,400 steps, constant rate")):
        for policy, name in POLICIES.items():
            mine = [row for row in rows if row["kind"] == kind and row["policy"] == policy]
            ended = sum(row["is_stopped"] == "True" for row in mine)
            saved = _percent(_means(mine, "saved"))
            paid = _percent([math.expm1(each) for each in _means(mine, "paid")], sign="+")
            lines.append(f"| {name}, {length} | {len(mine)} | {ended} | {saved} | {paid} |")
    return "\n".join(lines)


def _means(rows: list[Row], column: str) -> list[float]:
    """The mean of each cell: runs of a cell are alike, so the interval is over cells."""
    cells = dict.fromkeys(row["cell"] for row in rows)
    return [statistics.fmean(float(row[column]) for row in rows if row["cell"] == cell) for cell in cells]


def _percent(shares: list[float], sign: str = "") -> str:
    mean, half = mean_interval(shares)
    return f"{100 * mean:{sign}.1f} ± {100 * half:.1f} %"


TABLES = {"false alarms": false_alarm_table, "cost": cost_table}


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
