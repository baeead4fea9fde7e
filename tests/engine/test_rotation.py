"""A budget: layers take turns, and what was seen when is in the report."""

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.engine.rotation import Candidate, choose

pytestmark = pytest.mark.timeout(60)


def layers(count=20, size=40):
    rng = np.random.default_rng(0)
    return {f"fc{i}": rng.standard_normal((size + 20, size)) for i in range(count)}


class Recorder:
    def __init__(self):
        self.written = []

    def write(self, report, metrics, wall_time):
        keys = [key for key in metrics if key.startswith("ww_layer/stable_rank/")]
        self.written.append((report.step, {key.rsplit(".", 1)[1] for key in keys}))

    def close(self):
        pass


def rotate(model, steps, **arguments):
    recorder = Recorder()
    arguments = {"every_n_steps": 1, "executor": "sync", "log_every_layer": True} | arguments
    with ww.Monitor(model, outputs=[recorder], **arguments) as monitor:
        for step in range(1, steps + 1):
            for weights in model.values():
                weights *= 1.01
            monitor.step(step)
        staleness = monitor.status().staleness
    return monitor, recorder, staleness


def test_a_budget_of_almost_nothing_looks_at_one_layer_per_snapshot_in_turn():
    model = layers()
    monitor, recorder, staleness = rotate(model, 39, budget="0.0000001s")
    looked = [names for _, names in recorder.written[:40]]
    assert all(len(names) == 1 for names in looked)
    assert set().union(*looked[:20]) == set().union(*looked[20:40]) == set(model)
    assert sorted(staleness.values()) == list(range(20))
    for report in monitor.history:
        assert len(report) == 20
        assert all(layer.step is None or layer.step <= report.step for layer in report)
    waiting = [sum(layer.is_waiting for layer in report) for report in monitor.history]
    assert waiting[:21] == [19 - step for step in range(20)] + [0]


def test_each_value_is_that_of_the_weights_at_the_step_it_belongs_to():
    model = layers(3)
    norms = {name: float((weights**2).sum()) for name, weights in model.items()}
    monitor, recorder, _ = rotate(model, 8, budget="0.0000001s")
    for report, (step, names) in zip(monitor.history, recorder.written, strict=True):
        assert report.step == step
        assert {layer.name for layer in report if layer.step == step} == names
        for layer in report:
            if layer.step is not None:
                assert layer.norm == pytest.approx(norms[layer.name] * 1.01 ** (2 * layer.step))


def test_a_budget_in_which_everything_fits_changes_nothing():
    free, _, _ = rotate(layers(4), 5)
    limited, _, staleness = rotate(layers(4), 5, budget="1000s")
    assert list(limited.history) == list(free.history)
    assert set(staleness.values()) == {0}


def test_snapshots_that_a_used_up_share_refuses_are_counted_as_over_budget(monkeypatch):
    monkeypatch.setattr("ww_callbacks.engine.budget.HEAD_START", 0.001)
    monitor, _, _ = rotate(layers(20, 200), 30, budget=0.0001)
    status = monitor.status()
    assert 1 <= status.snapshots == len(monitor.history) < 5
    assert monitor.skipped == status.skipped == 0
    assert status.snapshots + status.over_budget == 31  # of step 0 and of each of the 30 steps
    assert f"{status.over_budget} over budget" in str(status)
    assert monitor.metrics["ww/over_budget"] <= status.over_budget


def test_the_means_are_fixed_when_every_layer_has_been_seen():
    monitor, _, _ = rotate(layers(6, 60), 12, budget="0.0000001s")
    counted = [len(report.counted) for report in monitor.history]
    assert counted == [1, 2, 3, 4, 5, 6] + [6] * 7


def test_the_stalest_comes_first_and_among_equals_the_most_changed():
    layers = [Candidate(5, 0.1, 1.0, 1), Candidate(None, 0.0, 1.0, 1), Candidate(5, 0.9, 1.0, 1), Candidate(2, 0, 1, 1)]
    assert [choose(layers, seconds=float(n), nbytes=9) for n in (1, 2, 3, 4)] == [[1], [1, 3], [1, 2, 3], [0, 1, 2, 3]]


def test_a_layer_above_the_budget_has_its_turn_and_smaller_ones_fill_what_is_left():
    layers = [Candidate(None, 0.0, 100.0, 1), Candidate(0, 0.0, 1.0, 1), Candidate(1, 0.0, 100.0, 1)]
    assert choose(layers, seconds=5.0, nbytes=9) == [0]
    assert choose(layers[1:], seconds=5.0, nbytes=9) == [0]
    assert choose([Candidate(0, 0, 4.0, 1), Candidate(1, 0, 9.0, 1), Candidate(2, 0, 1.0, 1)], 5.0, 9) == [0, 2]


def test_what_cannot_be_copied_waits():
    assert choose([Candidate(0, 0, 1.0, 6), Candidate(1, 0, 1.0, 6), Candidate(2, 0, 1.0, 4)], 9.0, 10) == [0, 2]
