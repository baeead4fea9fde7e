import dataclasses

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.engine import Missed
from ww_callbacks.monitor.publishing import drawn_layers, logged_layers
from ww_callbacks.weights import find_layers

ANALYSED = [f"fc{i}" for i in range(100)]
NAMES = [*(f"norm{i}" for i in range(9)), *ANALYSED]


def test_by_default_only_analysed_layers_are_logged_and_drawn():
    logged = logged_layers(NAMES, ANALYSED, "auto")
    assert len(logged) == 16
    assert {"fc0", "fc99"} <= logged
    assert not any(name.startswith("norm") for name in logged)
    assert drawn_layers(NAMES, ANALYSED, True) == ["fc0", "fc50", "fc99"]


def test_by_default_the_experts_of_a_block_count_as_one_layer():
    experts = {f"blocks.{block}.experts.{number}.w1": np.ones((80, 60)) for block in range(3) for number in range(99)}
    names = [layer.name for layer in find_layers(experts | {"fc": np.ones((80, 60))})]
    blocks = {f"blocks.{block}.experts.*.w1" for block in range(3)}
    assert logged_layers(names, names, "auto") == blocks | {"fc"}
    assert logged_layers(names, names, True) == blocks | {"fc", *experts}


def test_layers_are_logged_and_drawn_as_chosen():
    assert len(logged_layers(NAMES, ANALYSED, True)) == len(NAMES)
    assert logged_layers(NAMES, ANALYSED, False) == frozenset()
    assert logged_layers(NAMES, ANALYSED, ["fc1", "norm*", "!norm8"]) == {"fc1", *(f"norm{i}" for i in range(8))}
    assert drawn_layers(NAMES, ANALYSED, False) == []
    assert drawn_layers(NAMES, ANALYSED, ["fc7", "fc5"]) == ["fc5", "fc7"]
    assert len(drawn_layers(NAMES, ANALYSED, ["fc*"])) == 8
    for choose, name in ((logged_layers, "log_every_layer"), (drawn_layers, "figures")):
        with pytest.raises(ValueError, match=name):
            choose(NAMES, ANALYSED, ["head"])


def test_an_output_needs_write_and_close_only_and_may_show_panels(tmp_path):
    class Plain:
        def __init__(self):
            self.steps, self.closed = [], False

        def write(self, report, metrics, wall_time):
            self.steps.append(report.step)

        def close(self):
            self.closed = True

    class Showing(Plain):
        shown = 0

        def show(self, panels):
            self.shown += 1

    plain, showing = Plain(), Showing()
    weights = {"fc": np.random.default_rng(0).standard_normal((80, 60))}
    with ww.Monitor(weights, every_n_steps=10, executor="sync", outputs=[plain, showing]) as monitor:
        monitor.step(10)
    assert plain.steps == showing.steps == [0, 10]
    assert plain.closed
    assert showing.shown >= 2


def noise(step=0):
    return np.random.default_rng(step).standard_normal((200, 100))


def traps(step):
    """Weights with a correlation trap: the default rules stop after some results."""
    weights = noise(step)
    weights[0, 0] = 60.0
    return weights


def test_should_stop_is_the_same_whether_it_is_read_at_each_step_or_at_the_end():
    runs = []
    for read in (True, False):
        weights = {"fc": noise()}
        with ww.Monitor(weights, every_n_steps=10, executor="sync", outputs=[]) as monitor:
            for step in range(1, 101):
                weights["fc"][:] = traps(step)
                monitor.step(step)
                if read:
                    _ = monitor.should_stop
        runs.append((monitor.should_stop, monitor.stop_reason, monitor.published))
    assert runs[0][0]
    assert runs[0] == runs[1]


def test_the_default_rules_log_no_metrics_and_give_way_to_an_attached_signal():
    weights = {"fc": noise()}
    with ww.Monitor(weights, every_n_steps=10, executor="sync") as monitor:
        monitor.step(10)
        assert not any(key.startswith("ww/stop") for key in monitor.metrics)
        monitor.attach("stop", ww.EarlyStopping(rules=["traps"], patience=2))
        for step in (20, 30, 40):
            weights["fc"][:] = traps(step)
            monitor.step(step)
        assert monitor.should_stop
        assert monitor.metrics["ww/stop/traps"] == 1.0


def test_a_missed_snapshot_is_counted_once_per_step_and_for_its_last_reason():
    missed = Missed().at(5, "skipped").at(5, "over_budget").at(10, "skipped").made_up(10).at(15, "skipped")
    assert dataclasses.astuple(missed)[:2] == (1, 1)
    assert missed.made_up(10) == missed
