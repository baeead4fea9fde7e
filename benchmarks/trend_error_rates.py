"""Error rates of the tests of ``ww_callbacks.signals.trend`` and of the rule "plateau" on series without a plateau.

The first part computes the quantiles stored in the module, from series of independent noise. The second part counts the
false alarms of the whole rule over runs of 100 results. Takes about a minute:

    python benchmarks/trend_error_rates.py
"""

from __future__ import annotations

import numpy as np

from ww_callbacks import LayerReport, Report
from ww_callbacks.signals.rules import RuleOptions, plateau
from ww_callbacks.signals.trend import FALL_QUANTILES, find_change, fit_line

SERIES = 20_000
RUNS, RESULTS = 200, 60


def fall_quantiles(rng: np.random.Generator) -> None:
    print("n    99.9 % of the statistic   kept    alarms per 1,000 series (false claims of a fall)")
    for size, kept in FALL_QUANTILES.items():
        changes = [find_change(rng.standard_normal(size)) for _ in range(SERIES)]
        quantile = np.quantile([change.statistic for change in changes], 0.999)
        print(f"{size:4d} {quantile:12.2f} {kept:16.2f} {1000 * np.mean([c.is_fall for c in changes]):12.2f}")


def slope_bounds(rng: np.random.Generator) -> None:
    print("n    share of flat series whose slope is below its 5 % bound")
    for size in (4, 6, 11, 21):
        below = [fit_line(rng.standard_normal(size)).slope_bound(0.05) > 0 for _ in range(SERIES)]
        print(f"{size:4d} {np.mean(below):.3f}")


def plateau_alarms(rng: np.random.Generator) -> None:
    """Count the runs without a levelling-off of alpha that the rule ends at any of their results."""
    log_steps = np.log2(np.arange(1, RESULTS + 1))
    kinds = {
        "constant, independent noise": lambda: 3 + 0.05 * rng.standard_normal(RESULTS),
        "constant, noise that lasts (0.8)": lambda: 3 + _lasting(rng, 0.8),
        "random walk": lambda: 6 + np.cumsum(0.02 * rng.standard_normal(RESULTS)),
        "falls by 0.3 per doubling, noise 0.005": lambda: 6 - 0.3 * log_steps + 0.005 * rng.standard_normal(RESULTS),
        "falls by 0.3 per doubling, noise 0.05": lambda: 6 - 0.3 * log_steps + 0.05 * rng.standard_normal(RESULTS),
        "falls by 0.3 per doubling, jumps": lambda: 6 - 0.3 * log_steps + _jumps(rng),
    }
    print(f"false alarms of plateau in {RUNS} runs of {RESULTS} results")
    for name, make in kinds.items():
        print(f"{sum(_is_ended(make()) for _ in range(RUNS)):4d}  {name}")


def _lasting(rng: np.random.Generator, share: float) -> np.ndarray:
    values = [0.0]
    for noise in 0.05 * rng.standard_normal(RESULTS - 1):
        values.append(share * values[-1] + noise)
    return np.array(values)


def _jumps(rng: np.random.Generator) -> np.ndarray:
    """Alpha jumps to another xmin and back, at one result in ten."""
    return 0.2 * (np.cumsum(rng.random(RESULTS) < 0.1) % 2)


def _is_ended(alphas: np.ndarray) -> bool:
    reports = [
        Report((LayerReport(name="fc", kind="Linear", counted=True, reliable=True, alpha=float(alpha)),), step)
        for step, alpha in enumerate(alphas, start=1)
    ]
    return any(plateau(reports[:end], RuleOptions()).score >= 1 for end in range(8, RESULTS + 1))


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    fall_quantiles(generator)
    slope_bounds(generator)
    plateau_alarms(np.random.default_rng(0))
