"""Metrics whose layers failed: which turn NaN, which are left out."""

import math
from dataclasses import replace

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.outputs.lost import LostMetrics
from ww_callbacks.outputs.metrics import aggregate_metrics, layer_metrics
from ww_callbacks.report import History, Report

RNG = np.random.default_rng(0)
FINE = {"a": RNG.standard_normal((90, 60)), "b": RNG.standard_t(3, (80, 70))}


def spoilt(**weights):
    """The weights with other values in some layers."""
    return FINE | {name: np.full_like(FINE[name], value) for name, value in weights.items()}


class Run:
    """The metrics of one report after the other, with those that were lost."""

    def __init__(self, names=("a", "b")):
        self.names, self.history, self.lost, self.step = names, History(), LostMetrics(), 0

    def metrics(self, weights):
        layers = (replace(layer, step=self.step) for layer in ww.analyze(weights))
        report = self.history.append(Report.of(layers, self.step))
        self.step += 10
        found = aggregate_metrics(report, lag_steps=0, skipped=0, over_budget=0) | layer_metrics(report, self.names)
        return found | self.lost.add(report, found, self.names)


def nan_keys(metrics):
    return {key for key, value in metrics.items() if math.isnan(value)}


def test_all_metrics_of_failed_layers_are_nan_for_as_long_as_they_fail():
    run = Run()
    first = run.metrics(FINE)
    assert nan_keys(first) == set()
    for _ in range(2):
        lost = run.metrics(spoilt(a=np.nan, b=np.inf))
        assert lost.keys() == first.keys()
        assert {"ww/alpha", "ww/alpha_max", "ww/log_norm", "ww_layer/alpha/000.a", "ww_layer/D/001.b"} < nan_keys(lost)
        assert not any(math.isnan(lost[key]) for key in ("ww/failed", "ww/lag_steps", "ww/num_reliable"))
    assert nan_keys(run.metrics(FINE)) == set()


def test_a_mean_over_the_remaining_layers_stays_a_number():
    run = Run()
    run.metrics(FINE)
    lost = run.metrics(spoilt(a=np.nan))
    assert lost["ww/alpha"] == lost["ww_layer/alpha/001.b"]
    assert all(key.endswith("/000.a") for key in nan_keys(lost))


def test_metrics_without_a_value_for_another_reason_are_left_out():
    run = Run()
    run.metrics(FINE)
    lost = run.metrics(spoilt(a=0.0, b=0.0))
    assert nan_keys(lost) == set()
    assert "ww/alpha" not in lost
    assert "ww_layer/alpha/000.a" not in lost


def test_what_never_had_a_value_stays_left_out():
    run = Run()
    lost = run.metrics(spoilt(a=np.nan, b=np.nan))
    assert nan_keys(lost) == set()
    assert "ww/alpha" not in run.metrics(spoilt(a=np.nan, b=np.nan))


@pytest.mark.parametrize("names", [(), ("b",)])
def test_layers_that_are_not_logged_have_no_key(names):
    run = Run(names)
    run.metrics(FINE)
    keys = nan_keys(run.metrics(spoilt(a=np.nan, b=np.nan)))
    assert {key.rsplit(".", 1)[-1] for key in keys if key.startswith("ww_layer/")} == set(names)


def test_a_layer_that_was_not_analysed_at_this_step_is_not_told_again():
    run = Run()
    run.metrics(FINE)
    run.metrics(spoilt(a=np.nan))
    report = run.history[-1]
    later = Report(report.layers, report.step + 10)
    assert run.lost.add(later, {"ww/alpha": 3.0}, ["a", "b"]).keys().isdisjoint({"ww_layer/alpha/000.a"})


def test_a_resumed_run_knows_what_had_a_value():
    run = Run()
    keys = run.metrics(FINE).keys()
    run.lost = LostMetrics.of(History.from_state_dict(run.history.state_dict()), {"ww/mine"})
    lost = run.metrics(spoilt(a=np.nan, b=np.nan))
    assert lost.keys() == keys | {"ww/mine"}
    assert math.isnan(lost["ww/mine"])
