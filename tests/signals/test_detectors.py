"""Each detector on a planted truth: real weights, real analysis."""

from __future__ import annotations

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.signals.detectors import DETECTORS
from ww_callbacks.signals.scales import medians_of_others

NAMES = ("a", "b", "c", "d")


def weights(seed=0, scale=0.1):
    rng = np.random.default_rng(seed)
    return {name: scale * rng.standard_normal((80, 60)) for name in NAMES}


def trained(change, *, model=None, results=6, updates=False, noise=0.003, every=10):
    """The history of a run in which every layer learns a little, and ``change(model, result)`` does more."""
    model = weights() if model is None else model
    rng = np.random.default_rng(1)
    target = {
        name: np.outer(rng.standard_normal(each.shape[0]), rng.standard_normal(each.shape[1]))
        for name, each in model.items()
    }
    with ww.Monitor(model, every_n_steps=every, executor="sync", updates=updates) as monitor:
        for result in range(1, results + 1):
            before = {name: each.copy() for name, each in model.items()}
            for name, each in model.items():
                each += noise * rng.standard_normal(each.shape).astype(each.dtype)
                each += (0.02 / result * target[name]).astype(each.dtype) / 5
            change(model, before, result)
            monitor.step(every * result)
    return monitor.history


def nothing(model, before, result):
    pass


def found(history):
    return {finding.kind: finding for finding in history.findings}


@pytest.mark.parametrize("updates", [False, True])
def test_a_healthy_run_raises_no_alarm(updates):
    assert not [str(each) for each in trained(nothing, updates=updates, results=8).findings if each.is_alarm]


def test_nan_in_one_layer():
    def change(model, before, result):
        if result >= 3:
            model["b"][0, 0] = np.nan

    finding = found(trained(change))["non_finite"]
    assert (finding.layers, finding.since, finding.confidence) == (("b",), 30, "certain")


def test_a_frozen_layer():
    def change(model, before, result):
        model["c"][:] = before["c"]

    finding = found(trained(change))["frozen"]
    assert (finding.layers, finding.since, finding.is_alarm) == (("c",), 0, False)


@pytest.mark.parametrize("updates", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_layer_that_only_decays(updates, dtype):
    def change(model, before, result):
        model["b"][:] = before["b"] * np.asarray(0.999, dtype)

    model = {name: each.astype(dtype) for name, each in weights().items()}
    told = found(trained(change, model=model, updates=updates))
    assert told["decay_only"].layers == ("b",)
    assert "frozen" not in told
    assert "b" not in told["not_learning"].layers if "not_learning" in told else True


def test_a_layer_that_decays_and_learns_does_not_only_decay():
    def change(model, before, result):
        for each in model.values():
            each *= 0.99

    assert "decay_only" not in found(trained(change))


@pytest.mark.parametrize("kind", ["elements", "mean"])
def test_traps_that_come_up_in_the_run(kind):
    def change(model, before, result):
        if result == 2:
            if kind == "elements":
                model["d"][3, 4] = 20.0
            else:
                model["d"] += 0.4

    told = found(trained(change))
    (trap,) = (each for name, each in told.items() if name.startswith("trap_"))
    assert (trap.kind, trap.layers, trap.since, trap.is_alarm) == (f"trap_{kind}", ("d",), 20, kind != "mean")


def test_traps_of_the_initialisation_are_no_fault():
    model = weights()
    model["a"] += 0.4
    assert not [name for name in found(trained(nothing, model=model)) if name.startswith("trap_")]


@pytest.mark.parametrize(("factor", "kind"), [(10, "exploding"), (0.1, "collapsing")])
def test_one_layer_of_another_scale_since_the_first_snapshot(factor, kind):
    model = weights()
    model["b"] *= factor
    told = found(trained(nothing, model=model, noise=0.0003))
    assert told[kind].layers == ("b",)
    assert "since step 0" in told[kind].text


def test_one_layer_that_explodes_and_one_that_collapses():
    def change(model, before, result):
        model["b"] *= 1.5
        model["c"] *= 0.6

    told = found(trained(change))
    assert (told["exploding"].layers, told["collapsing"].layers) == (("b",), ("c",))
    assert told["exploding"].since > 0


def test_a_small_last_layer_is_small_on_purpose():
    model = weights()
    model["d"] *= 0.05
    assert "collapsing" not in found(trained(nothing, model=model, noise=0.0001))


@pytest.mark.parametrize("updates", [False, True])
def test_weight_decay_that_wins(updates):
    def change(model, before, result):
        for each in model.values():
            each *= 0.8

    assert set(found(trained(change, updates=updates))["weight_decay"].layers) == set(NAMES)


def test_a_rank_that_collapses():
    def change(model, before, result):
        if result >= 2:
            left, values, right = np.linalg.svd(model["a"], full_matrices=False)
            values[2:] *= 0.01
            model["a"][:] = (left * values) @ right

    assert found(trained(change))["rank_collapse"].layers == ("a",)


def test_a_rate_that_is_far_too_large():
    rng = np.random.default_rng(2)

    def change(model, before, result):
        for each in model.values():
            each[:] = 0.1 * rng.standard_normal(each.shape)

    finding = found(trained(change, updates=True))["rate_too_large"]
    assert set(finding.layers) == set(NAMES)
    assert finding.is_alarm


def test_a_rate_that_is_far_too_small():
    directions = weights(seed=3)

    def change(model, before, result):
        for name, each in model.items():
            each[:] = before[name] + 1e-4 * directions[name]

    told = found(trained(change, updates=True, results=14, every=20))
    assert set(told["rate_too_small"].layers) == set(NAMES)
    assert "rate_too_small" not in found(trained(nothing, updates=True, results=14, every=20, noise=0.0003))


def test_bfloat16_loses_updates_and_sparse_gradients_do_not():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(80, 60), torch.nn.Linear(60, 60)).bfloat16()
    sparse = {"rows": 0.1 * np.random.default_rng(0).standard_normal((80, 60))}
    with (
        ww.Monitor(model, every_n_steps=10, executor="sync", updates=True) as monitor,
        ww.Monitor(sparse, every_n_steps=10, executor="sync", updates=True) as other,
    ):
        for step in range(1, 41):
            with torch.no_grad():
                for layer in model:
                    layer.weight += 3e-6 * torch.randn_like(layer.weight).sign()
            sparse["rows"][:, :4] += 0.01
            monitor.step(step)
            other.step(step)
    assert set(found(monitor.history)["lost_updates"].layers) == {"0", "1"}
    assert "lost_updates" not in found(other.history)


def test_a_layer_that_moves_most():
    def change(model, before, result):
        model["b"] += 0.05 * np.random.default_rng(result).standard_normal(model["b"].shape)

    assert found(trained(change, updates=True, noise=0.0003))["moves_most"].layers == ("b",)


def test_one_direction_and_noise():
    left, right = np.random.default_rng(4).standard_normal((2, 80))

    def change(model, before, result):
        model["a"][:] = before["a"] + 0.001 * np.outer(left, right[:60])
        model["b"][:] = before["b"] + 0.001 * np.random.default_rng(result).standard_normal((80, 60))

    told = found(trained(change, updates=True))
    assert told["one_direction"].layers == ("a",)
    assert told["not_learning"].layers == ("b",)


def test_the_patience_of_facts_is_one():
    assert all((each.patience == 1) == (each.confidence == "certain") for each in DETECTORS if each.kind != "plateau")


@pytest.mark.parametrize("size", range(3, 9))
def test_medians_of_others(size):
    values = dict(enumerate(np.random.default_rng(size).integers(0, 5, size).astype(float)))
    expected = {key: np.median([each for other, each in values.items() if other != key]) for key in values}
    assert medians_of_others(values, 2) == pytest.approx(expected)
    assert medians_of_others(values, size) == {}
