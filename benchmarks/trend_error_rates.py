"""Error rates of the tests of ``ww_callbacks.signals.trend`` and of the rule "plateau" on simulated series.

The noise is correlated from result to result, as it is in real runs (0.6 to 0.8). The first part counts how often a
bound or a fall is wrong; the second, how often the whole rule ends a run whose alpha has not levelled off; the third,
at which step it ends the same run if results come every 10 to 160 steps. Takes about five minutes:

    python benchmarks/trend_error_rates.py
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ww_callbacks import LayerReport, Report
from ww_callbacks.signals.rules import RuleOptions, plateau
from ww_callbacks.signals.trend import find_fall, fit_slope

Floats = NDArray[np.float64]
SERIES, RUNS, RESULTS = 1000, 100, 200
CORRELATIONS = (0.0, 0.5, 0.8, 0.9)
GAPS = (1, 2, 4, 8, 16)


def correlated(rng: np.random.Generator, size: int, rho: float) -> Floats:
    """Noise of standard deviation 1; neighbours have the correlation ``rho``."""
    values = rng.standard_normal(size)
    for i in range(1, size):
        values[i] = rho * values[i - 1] + math.sqrt(1 - rho * rho) * values[i]
    return values


def wrong_bounds(rng: np.random.Generator) -> None:
    """Lower 95 % bounds that are above the true slope, and falls that are claimed of noise, in per cent."""
    print("values  correlation  bounds above the slope  claims of a fall")
    for size in (16, 30, 80):
        at = np.log2(np.arange(size, 4 * size, 3))
        for rho in CORRELATIONS:
            noise = [correlated(rng, size, rho) for _ in range(SERIES)]
            bounds = [fit_slope(each, at, range(size)).probability_below(0.0) < 0.05 for each in noise]
            falls = [find_fall(each, np.log2(np.arange(1, size + 1)), range(size)).is_sure for each in noise]
            print(f"{size:6d} {rho:12.1f} {100 * np.mean(bounds):21.1f} % {100 * np.mean(falls):14.2f} %")


def false_alarms(rng: np.random.Generator) -> None:
    """Runs that the rule ends although alpha has not levelled off."""
    at = np.log2(np.arange(1, RESULTS + 1))
    kinds = {
        "constant, noise 0.05": (3 + 0 * at, 0.05),
        "falls by 0.1 per doubling, noise 0.02": (4 - 0.1 * at, 0.02),
        "falls by 0.2 per doubling, noise 0.02": (5 - 0.2 * at, 0.02),
        "falls by 0.3 per doubling, noise 0.05": (6 - 0.3 * at, 0.05),
        "falls by 0.3 per doubling, noise 0.1": (6 - 0.3 * at, 0.1),
    }
    print(f"runs of {RESULTS} results that plateau ends, of {RUNS}: correlation {', '.join(map(str, CORRELATIONS))}")
    for name, (mean, scale) in kinds.items():
        ended = [
            sum(end(mean + scale * correlated(rng, RESULTS, rho)) is not None for _ in range(RUNS))
            for rho in CORRELATIONS
        ]
        print(f"{'  '.join(f'{each:3d}' for each in ended)}  {name}")
    walks = sum(end(6 + np.cumsum(0.02 * rng.standard_normal(RESULTS))) is not None for _ in range(RUNS))
    print(f"{walks:3d}  random walk in steps of 0.02")


def spacings(rng: np.random.Generator) -> None:
    """Steps at which the same run ends if results come every 10, 20, 40, 80 and 160 steps."""
    steps = np.arange(10, 12810, 10)
    mean = 2.5 + 0.5 * np.maximum(math.log2(1000) - np.log2(steps), 0)
    near = 0
    for run in range(RUNS // 10):
        alphas = mean + 0.01 * correlated(rng, len(steps), 0.9)
        ends = [end(alphas[gap - 1 :: gap], steps[gap - 1 :: gap]) for gap in GAPS]
        looks = [math.inf if step is None else math.floor(2 * math.log2(step)) for step in ends]
        near += max(looks) - min(looks) <= 1
        if run < 3:
            print(f"results every 10, 20, 40, 80, 160 steps: ended at {ends}")
    print(f"within one decision of each other: {near} of {RUNS // 10} runs")


def end(alphas: Floats, steps: NDArray[np.int64] | None = None) -> int | None:
    """The step at which the rule ends a run; None if it does not."""
    reports = [
        Report((LayerReport(name="fc", kind="Linear", counted=True, reliable=True, alpha=float(alpha)),), int(step))
        for alpha, step in zip(alphas, range(1, len(alphas) + 1) if steps is None else steps, strict=True)
    ]
    found = (reports[i].step for i in range(len(reports)) if plateau(reports[: i + 1], RuleOptions()).score >= 1)
    return next(found, None)


if __name__ == "__main__":
    wrong_bounds(np.random.default_rng(0))
    false_alarms(np.random.default_rng(1))
    spacings(np.random.default_rng(2))
