"""What each layer learned: changes since the first and since the previous snapshot, in a monitored run."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.analysis import LayerSpec
from ww_callbacks.engine.resources import kept_layers

SHAPE = (100, 60)


class Run:
    """Weights that change at each step: noise only, two new directions per ten steps, or not at all."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.weights = {name: self.noise() for name in ("noisy", "learning", "frozen")}

    def noise(self, scale=1.0):
        return (scale * self.rng.standard_normal(SHAPE)).astype("f4")

    def step(self, step):
        self.weights["noisy"] += self.noise(1e-3)
        self.weights["learning"] += self.noise(1e-3)
        if step % 5 == 0:
            left, right = self.rng.standard_normal((2, 100, 1)), self.rng.standard_normal((2, 1, 60))
            self.weights["learning"] += (2e-3 * (left[0] @ right[0])).astype("f4")


def watch(steps=30, **options):
    run = Run()
    with ww.Monitor(run.weights, every_n_steps=10, updates=True, **{"deterministic": True, **options}) as monitor:
        for step in range(1, steps + 1):
            run.step(step)
            monitor.step(step)
    return monitor.history


@pytest.mark.timeout(60)
@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"executor": "thread"}, {"executor": "sync"}], ids=str)
def test_the_learned_directions_are_counted_and_noise_has_none(options):
    history = watch(**options)
    assert history.series("update_rank", "learning") == [None, 2, 2, 2]
    assert history.series("learned_rank", "learning") == [None, 2, 4, 6]
    assert history.series("update_rank", "noisy") == history.series("learned_rank", "noisy") == [None, 0, 0, 0]
    assert history.series("update_norm", "frozen") == [None, 0.0, 0.0, 0.0]
    assert history.series("unchanged_since", "frozen") == [None, 0, 0, 0]
    assert history.series("learned_rank", "frozen") == [None, 0, 0, 0]
    assert history.series("update_since", "learning") == [None, 0, 10, 20]
    assert history.series("learned_since", "learning") == [None, 0, 0, 0]
    last = history[-1]["noisy"]
    assert last.update_norm == pytest.approx(1e-3 * 10**0.5, rel=0.05)
    assert last.update_norm_per_step == pytest.approx(last.update_norm / 10)
    assert last.learned_norm == pytest.approx(1e-3 * 30**0.5, rel=0.05)
    assert history[-1].summary()["num_learned"] == 1.0


def test_a_run_without_updates_has_none_of_their_columns():
    run = Run()
    with ww.Monitor(run.weights, every_n_steps=10, executor="sync") as monitor:
        run.step(5)
        monitor.step(10)
    assert not {key for key in monitor.history[-1]["noisy"].to_dict() if key.startswith(("update_", "learned_"))}
    assert not {key for key in monitor.history[-1].summary() if "learned" in key or "update" in key}


@pytest.mark.timeout(60)
def test_under_a_budget_a_layer_is_compared_with_its_own_last_turn(monkeypatch):
    monkeypatch.setattr("ww_callbacks.engine.resources.ROTATION_BYTES", 1)  # one layer per turn
    history = watch(steps=60, budget="10s", executor="sync")
    turns = {layer.step: layer for report in history for layer in report if layer.name == "learning" and layer.counted}
    for step, layer in list(turns.items())[1:]:
        assert layer.update_since is not None
        assert step - layer.update_since == 30
        assert layer.update_rank == 6
        assert layer.update_norm_per_step == pytest.approx(layer.update_norm / 30)
    assert len(turns) >= 2


@pytest.mark.timeout(60)
def test_a_worker_that_is_killed_loses_one_result_and_no_copy():
    run = Run()
    with ww.Monitor(run.weights, every_n_steps=10, updates=True, deterministic=True) as monitor:
        for step in range(1, 41):
            run.step(step)
            monitor.step(step)
            if step == 15:
                assert monitor.wait_for_first()
                os.kill(monitor.status().worker_pids[0], signal.SIGKILL)
    last = monitor.history[-1]["learning"]
    assert (last.learned_since, last.update_since, last.update_rank) == (0, 30, 2)


def test_a_layer_that_is_replaced_starts_anew():
    run = Run()
    with ww.Monitor(run.weights, every_n_steps=10, updates=True, executor="sync") as monitor:
        for step in range(1, 31):
            run.step(step)
            if step == 15:
                run.weights["frozen"] = np.ones((70, 50))
            monitor.step(step)
    last = monitor.history[-1]["learning"]
    assert (last.learned_since, last.update_since) == (20, 20)
    assert monitor.history[-1]["noisy"].update_rank == 0


def test_a_layer_with_values_that_are_not_finite_has_no_numbers_and_the_others_have_theirs():
    run = Run()
    with ww.Monitor(run.weights, every_n_steps=10, updates=True, executor="sync") as monitor:
        for step in range(1, 21):
            run.step(step)
            if step == 15:
                run.weights["frozen"][3, 3] = np.nan
            monitor.step(step)
    broken, learning = monitor.history[-1]["frozen"], monitor.history[-1]["learning"]
    assert broken.status == "failed"
    assert (broken.update_norm, broken.update_rank, broken.learned_rank) == (None, None, None)
    assert learning.learned_rank == 4


def test_weights_are_not_touched():
    run, alone = Run(), Run()
    with ww.Monitor(run.weights, every_n_steps=10, updates=True, executor="sync") as monitor:
        for step in range(1, 21):
            run.step(step)
            alone.step(step)
            monitor.step(step)
    assert all(np.array_equal(run.weights[name], alone.weights[name]) for name in run.weights)


def test_an_executor_of_the_user_cannot_keep_weights():
    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="updates: requires executor"):
        ww.Monitor(Run().weights, executor=pool, updates=True)


def test_layers_that_do_not_fit_into_half_of_the_memory_have_no_copies(caplog):
    specs = [
        LayerSpec(f"fc{size}", "Linear", (1000, size), "float32", ((), (0,), (1,))) for size in (1000, 10, 200, 100)
    ]
    assert kept_layers(specs, 2**40) == kept_layers(specs, None) == [0, 1, 2, 3]
    assert not caplog.records
    assert kept_layers(specs, 2 * 2**21) == [1, 3]
    assert "no columns about changes for fc1000, fc200" in caplog.text


def test_the_traps_of_an_initialisation_do_not_count_until_there_are_more():
    rng = np.random.default_rng(0)
    weights = {"fc": rng.standard_normal((300, 100)) + 1.0}
    with ww.Monitor(weights, every_n_steps=1, executor="sync") as monitor:
        monitor.step(1)
        weights["fc"][:, 3] *= 30
        weights["fc"][7, 9] = 5000
        weights["fc"][8, 10] = -4000
        monitor.step(2)
    start, later, last = (report["fc"] for report in monitor.history)
    assert start.num_traps == later.num_traps == later.initial_traps == 1
    assert not start.is_trapped
    assert not later.is_trapped
    assert monitor.history[1].summary()["num_traps"] == 0
    assert last.num_traps > 1
    assert last.is_trapped
    assert monitor.history[2].summary()["num_traps"] == last.num_traps - 1


class Turning:
    """A layer whose leading direction turns by ten degrees per ten steps, a fixed one, and noise."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.rng, self.base = rng, rng.standard_normal(SHAPE)
        self.left = np.linalg.qr(rng.standard_normal((100, 2)))[0]
        self.right = np.linalg.qr(rng.standard_normal((60, 1)))[0]
        self.weights = {"turning": self.at(0), "fixed": self.at(0), "noise": self.base.astype("f4")}

    def at(self, degrees):
        angle = np.radians(degrees)
        direction = self.left @ [np.cos(angle), np.sin(angle)]
        return (self.base + 500 * np.outer(direction, self.right)).astype("f4")

    def step(self, step):
        self.weights["turning"][:] = self.at(step)
        self.weights["noise"] += (0.01 * self.rng.standard_normal(SHAPE)).astype("f4")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("options", [{"deterministic": True}, {"executor": "thread", "deterministic": True}], ids=str)
def test_the_rotation_of_the_leading_direction_is_measured_from_both_snapshots(options):
    run = Turning()
    with ww.Monitor(run.weights, every_n_steps=10, updates=True, **options) as monitor:
        for step in range(1, 31):
            run.step(step)
            monitor.step(step)
    history = monitor.history
    assert history.series("update_rotation", "turning") == [None, *(pytest.approx(10, abs=0.5) for _ in range(3))]
    assert history.series("learned_rotation", "turning") == [
        None,
        *(pytest.approx(10 * number, abs=0.5) for number in (1, 2, 3)),
    ]
    assert history.series("update_rotation", "fixed") == [None, 0.0, 0.0, 0.0]
    assert history.series("update_rotation", "noise") == [None] * 4
    assert history[-1].summary()["update_rotation"] == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize("start", [0.0, np.nan], ids=["zeros", "NaN"])
def test_a_layer_that_starts_without_values_has_its_numbers_later(start, capfd):
    weights = {"fc": np.full(SHAPE, start, "f4")}
    with ww.Monitor(weights, every_n_steps=1, updates=True, executor="sync") as monitor:
        weights["fc"][:] = Turning().at(0)
        monitor.step(1)
        weights["fc"][:] = Turning().at(10)
        monitor.step(2)
    last = monitor.history[-1]["fc"]
    assert last.status == "ok"
    assert last.update_rotation == pytest.approx(10, abs=0.5)
    assert last.learned_rotation is None
    assert capfd.readouterr().err == ""
