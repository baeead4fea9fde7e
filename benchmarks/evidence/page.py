"""Writes the tables of ``docs/early_stopping.md`` and ``docs/findings.md`` from the result files, or checks them.

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

DOCS = Path(__file__).parents[2] / "docs"
PARTS = {"": "chosen on", "_held_out": "held out", "_fresh": "fresh"}
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
    """How many runs each policy ended, and too early, in each part of the cells."""
    lines = [
        "| policy | runs | ended | of these still improving | share, 95 % interval | worst cell |",
        "|---|---|---|---|---|---|",
    ]
    for part, which in PARTS.items():
        rows = rows_of(f"stops{part}")
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
    """Steps saved and test loss paid on the parts that are held out and fresh, against training to the end."""
    rows = [*rows_of("stops_held_out"), *rows_of("stops_fresh")]
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


def fault_table() -> str:
    """How many faults the findings show, and when, beside a watcher of the losses."""
    lines = [
        "| fault | found (chosen on) | found (held out) | as | right layer first | step, median "
        "| losses notice, median | earlier |",
        "|---" * 8 + "|",
    ]
    halves = [[row for row in rows_of(f"faults_found{half}") if row["fault"] != "none"] for half in list(PARTS)[:2]]
    for fault in dict.fromkeys(row["fault"] for half in halves for row in half):
        mine = [[row for row in half if row["fault"] == fault] for half in halves]
        both = [row for half in mine for row in half]
        found = [row for row in both if row["is_found"] == "True"]
        counts = [f"{sum(row['is_found'] == 'True' for row in half)} of {len(half)}" for half in mine]
        kinds = ", ".join(f"`{kind}`" for kind, _ in Counter(row["kind"] for row in found).most_common(2))
        right = f"{sum(row['is_right'] == 'True' for row in found)} of {len(found)}" if found else ""
        earlier = f"{sum(_step(row, 'step') < _step(row, 'noticed') for row in found)} of {len(found)}" if found else ""
        cells = [fault, *counts, kinds, right, _median(found, "step"), _median(both, "noticed"), earlier]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def healthy_table() -> str:
    """What is found in healthy runs."""
    lines = ["| runs | with an alarm | share, 95 % interval | notices |", "|---|---|---|---|"]
    for part, which in PARTS.items():
        rows = [row for row in rows_of(f"faults_found{part}") if row["fault"] == "none"]
        alarmed = sum(bool(row["alarms"]) for row in rows)
        low, high = binomial_interval(alarmed, len(rows))
        share = f"{100 * alarmed / len(rows):.1f} % ({100 * low:.1f} to {100 * high:.1f})"
        notices = Counter(kind for row in rows for kind in row["notices"].split())
        words = ", ".join(f"`{kind}` in {count}" for kind, count in notices.most_common())
        lines.append(f"| {len(rows)} ({which}) | {alarmed} | {share} | {words} |")
    return "\n".join(lines)


def _step(row: Row, name: str) -> float:
    """Steps since the injection; infinite if there is none."""
    return float(row[name]) - float(row["since"]) if row[name] else math.inf


def _median(rows: list[Row], name: str) -> str:
    middle = statistics.median_low([_step(row, name) for row in rows]) if rows else math.inf
    return "" if not rows else "never" if middle == math.inf else f"{middle:.0f}"


TABLES = {
    DOCS / "early_stopping.md": {"false alarms": false_alarm_table, "cost": cost_table},
    DOCS / "findings.md": {"faults": fault_table, "healthy": healthy_table},
}


def filled(path: Path, text: str) -> str:
    """Return a page with each table inserted between its marks."""
    for name, table in TABLES[path].items():
        mark = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not mark.search(text):
            raise ValueError(f"{path} has no marks for the table {name!r}")
        text = mark.sub(lambda found, table=table: f"{found[1]}\n{table()}\n\n{found[2]}", text)
    return text


def main() -> None:
    for path in TABLES:
        text = path.read_text(encoding="utf-8")
        new = filled(path, text)
        if new != text and "--check" in sys.argv:
            sys.exit(f"{path} does not match {RESULTS}: run {Path(__file__).name}")
        path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
