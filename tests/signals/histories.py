"""Histories made by hand, for the tests of what is said of them."""

from __future__ import annotations

import math

from ww_callbacks.report import History, LayerReport, Report


def layer(name="fc", alpha=None, **columns):
    """A layer with a reliable tail and an interval of ± 0.3, unless told otherwise."""
    known = {
        "N": 300,
        "M": 100,
        "num_evals": 100,
        "alpha_low": None if alpha is None else alpha - 0.3,
        "alpha_high": None if alpha is None else alpha + 0.3,
        "D": 0.05,
        "num_pl_spikes": 40,
        "reliable": alpha is not None,
        "num_traps": 0,
        "trap_pvalue": 0.5,
        "trap_size": 1.0,
    }
    return LayerReport(name=name, kind="Linear", alpha=alpha, **(known | columns))


def history(every=100, first=0, names=("fc",), **series):
    """One report per value of the series, with one layer per name."""
    size = max(len(values) for values in series.values())
    result = History()
    for position in range(size):
        step = first + every * position
        values = {name: series[name][position] for name in series}
        result.append(Report.of([layer(name, step=step, **values) for name in names], step))
    return result


def falling(count=40, first=6.0, last=2.5, rate=0.15):
    """Alphas on their way down, fast at first."""
    return [last + (first - last) * math.exp(-rate * i) for i in range(count)]
