"""Updates the tables of docs/learning_rates.md from the results of learning_rates.py and frozen.py:

python benchmarks/evidence/learning_rate_tables.py
"""

from __future__ import annotations

import csv
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from scipy.stats import t as student

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "learning_rates.md"
PUBLISHED, SHRUNK = "learning_rates.csv", "learning_rates_shrunk.csv"
TASKS = {
    "little": "200 digits, dense",
    "fine-tuning": "fine-tuning on 100 digits, dense",
    "digits": "digits, convolutional",
    "python": "Python's sources, transformer",
}
ARMS = ("linear", "sigmoid", "shrunk linear")
NEAR = 0.15
MEASURES = {"loss": ("loss", 1, 4), "error": ("error, %", 100, 2)}

Row = dict[str, str]


def rows_of(name: str) -> list[Row]:
    with (HERE / "results" / name).open() as file:
        return list(csv.DictReader(file))


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean of paired differences and its 95 % interval (Student's t)."""
    mean, n = statistics.fmean(differences), len(differences)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / n**0.5
    return mean, mean - half, mean + half


def paired(rows: list[Row], task: str, arm: str, measure: str) -> dict[int, float]:
    _, factor, _ = MEASURES[measure]
    return {int(row["seed"]): factor * float(row[measure]) for row in rows if (row["task"], row["arm"]) == (task, arm)}


def compared(rows: list[Row], task: str, arm: str, other: str, measure: str) -> tuple[float, float, float]:
    one, two = paired(rows, task, arm, measure), paired(rows, task, other, measure)
    return interval([one[seed] - two[seed] for seed in sorted(one.keys() & two.keys())])


def told(found: tuple[float, float, float], digits: int) -> str:
    mean, low, high = (f"{value:+.{digits}f}" for value in found)
    text = f"{mean} ({low} … {high})"
    return text if found[1] <= 0 <= found[2] else f"**{text}**"


def tasks_in(rows: list[Row]) -> list[str]:
    return [task for task in TASKS if any(row["task"] == task for row in rows)]


def pairs_in(rows: list[Row], task: str) -> list[tuple[str, str]]:
    """The arms that are compared with plain, and those compared with their mean for all layers."""
    arms = [arm for arm in ARMS if any((row["task"], row["arm"]) == (task, arm) for row in rows)]
    means = [f"same mean as {arm}" for arm in arms]
    against_plain = [(each, "plain") for both in zip(arms, means, strict=True) for each in both]
    return against_plain + list(zip(arms, means, strict=True))


def tuning(results: str, measure: str = "loss") -> str:
    rows, body = [row for row in rows_of(results) if row["arm"] == "tuning"], []
    for task in tasks_in(rows):
        rates = sorted({float(row["rate"]) for row in rows if row["task"] == task})
        means = {
            rate: statistics.fmean(float(r[measure]) for r in rows if r["task"] == task and float(r["rate"]) == rate)
            for rate in rates
        }
        best = min(means, key=means.__getitem__)
        told = ", ".join(
            f"**{rate:g}: {mean:.3f}**" if rate == best else f"{rate:g}: {mean:.3f}" for rate, mean in means.items()
        )
        body.append([TASKS[task], told])
    return table(["training", f"common rate: mean test {measure} of two seeds"], body)


def levels(results: str) -> str:
    rows, body = rows_of(results), []
    for task in tasks_in(rows):
        for arm in ("plain", *(first for first, second in pairs_in(rows, task) if second == "plain")):
            own = [row for row in rows if (row["task"], row["arm"]) == (task, arm)]
            mean = lambda column, own=own: statistics.fmean(float(row[column]) for row in own)  # noqa: E731
            body.append(
                [
                    TASKS[task],
                    arm,
                    str(len(own)),
                    f"{mean('mean_ratio'):.3f}",
                    f"{mean('loss'):.4f}",
                    f"{100 * mean('error'):.2f}",
                    f"{mean('alpha_spread'):.3f}",
                    f"{mean('seconds'):.1f}",
                ]
            )
    return table(
        ["training", "rates", "seeds", "mean ratio", "test loss", "error, %", "spread of alpha", "CPU, s"], body
    )


def differences(results: str) -> str:
    rows = rows_of(results)
    body = [
        [
            TASKS[task],
            f"{arm} − {other}",
            *(told(compared(rows, task, arm, other, measure), digits) for measure, (_, _, digits) in MEASURES.items()),
        ]
        for task in tasks_in(rows)
        for arm, other in pairs_in(rows, task)
    ]
    return table(["training", "difference", *(title for title, _, _ in MEASURES.values())], body)


def frozen() -> str:
    rows, body = rows_of("frozen.csv"), []
    steps = sorted({int(row["step"]) for row in rows})
    for trained in ("fc1", "fc2"):
        runs: dict[str, list[Row]] = {}
        for row in rows:
            if row["trained"] == trained:
                runs.setdefault(f"{int(row['digits']):,} digits, seed {row['seed']}", []).append(row)
        published = [float(row["published_alpha"]) for row in next(iter(runs.values()))]
        body.append([trained.upper(), "published, 60,000 digits", *(f"{alpha:.3f}" for alpha in published), ""])
        for name, own in runs.items():
            alphas = zip((float(row[f"{trained}_alpha"]) for row in own), published, strict=True)
            cells = [f"{alpha:.3f}" if abs(alpha - wanted) <= NEAR else f"**{alpha:.3f}**" for alpha, wanted in alphas]
            body.append([trained.upper(), name, *cells, str(max(float(row["frozen_change"]) for row in own))])
    return table(["trained", "run", *(f"{step:,}" for step in steps), "largest change of a frozen weight"], body)


TABLES: dict[str, Callable[[], str]] = {
    "tuning": lambda: tuning(PUBLISHED),
    "levels": lambda: levels(PUBLISHED),
    "differences": lambda: differences(PUBLISHED),
    "tuning of little data": lambda: tuning(SHRUNK, "error"),
    "levels of shrunk ratios": lambda: levels(SHRUNK),
    "differences of shrunk ratios": lambda: differences(SHRUNK),
    "frozen": frozen,
}


def renewed(text: str) -> str:
    """Return the page with updated tables; each table is between two comments."""
    for name, make in TABLES.items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end of table -->)"
        text, count = re.subn(pattern, lambda m, make=make: f"{m[1]}\n{make()}\n\n{m[2]}", text, flags=re.DOTALL)
        if count != 1:
            raise ValueError(f"{PAGE.name}: expected one place for the table {name!r}, found {count}")
    return text


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
