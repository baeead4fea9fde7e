"""How often the tests of ``ww_callbacks.signals.trend`` and the rule "plateau" err where nothing happens.

The first part finds the quantiles that the module keeps, from series of independent noise; the second one counts wrong
alarms of the whole rule over runs of 100 results. About a minute:

    python benchmarks/trend_error_rates.py
"""

from __future__ import annotations

import numpy as np

from ww_callbacks.signals.trend import FALL_QUANTILES, find_change, fit_line

SERIES = 20_000


def fall_quantiles(rng: np.random.Generator) -> None:
    print("n    99.9 % of the statistic   kept    alarms per 1,000 series (a fall is claimed)")
    for size, kept in FALL_QUANTILES.items():
        changes = [find_change(rng.standard_normal(size)) for _ in range(SERIES)]
        quantile = np.quantile([change.statistic for change in changes], 0.999)
        print(f"{size:4d} {quantile:12.2f} {kept:16.2f} {1000 * np.mean([c.is_fall for c in changes]):12.2f}")


def slope_bounds(rng: np.random.Generator) -> None:
    print("n    share of flat series whose slope lies below its bound of 5 %")
    for size in (4, 6, 11, 21):
        below = [fit_line(rng.standard_normal(size)).slope_bound(0.05) > 0 for _ in range(SERIES)]
        print(f"{size:4d} {np.mean(below):.3f}")


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    fall_quantiles(generator)
    slope_bounds(generator)
