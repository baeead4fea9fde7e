"""Rates per layer in torch loops: at work in the update, and nowhere else."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import ww_callbacks as ww
from ww_callbacks.monitor.publishing import Published
from ww_callbacks.signals.learning_rate import LayerRatios
from ww_callbacks.signals.ramp import Ramp
from ww_callbacks.torch import Layerwise, layerwise
from ww_callbacks.torch.layers import owners_of, parameter_ratios, partners_of
from ww_callbacks.torch.update import scale_updates

RATIOS = {"0": 0.5, "2": 1.0, "4": 1.5}

OPTIMIZERS = [
    (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}),
    (torch.optim.SGD, {"foreach": False}),
    (torch.optim.Adam, {"foreach": True}),
    (torch.optim.Adam, {"fused": True}),
    (torch.optim.Adam, {"fused": True, "lr": torch.tensor(0.05)}),
    (torch.optim.AdamW, {"amsgrad": True}),
    (torch.optim.RMSprop, {}),
    (torch.optim.Adagrad, {}),
    (torch.optim.NAdam, {}),
    (torch.optim.RAdam, {"decoupled_weight_decay": True}),
    (torch.optim.Adamax, {}),
    (torch.optim.Adadelta, {}),
    (torch.optim.Adafactor, {}),
    (torch.optim.ASGD, {}),
]

SCHEDULERS = {
    "step": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 8),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=12),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))


def train(model, optimizer, steps=10, scheduler=None, closure=False):
    """Rates that user code saw, and the weights in the end."""
    generator = torch.Generator().manual_seed(1)
    seen = []
    for _ in range(steps):
        batch = torch.randn(16, 8, generator=generator)

        def loss(batch=batch):
            seen.append([float(group["lr"]) for group in optimizer.param_groups])
            optimizer.zero_grad()
            result = model(batch).square().mean()
            result.backward()
            return result

        if closure:
            value = optimizer.step(loss)
        else:
            value = loss()
            optimizer.step()
        if scheduler is not None:
            scheduler.step(*([value.detach()] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        seen.append([float(group["lr"]) for group in optimizer.param_groups])
    return seen, [parameter.detach().clone() for parameter in model.parameters()]


def equal(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def by_parameter(model, ratios=RATIOS):
    return lambda: parameter_ratios(owners_of(model), ratios)


@pytest.mark.parametrize("closure", [False, True])
@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_the_update_is_that_of_groups_with_their_own_rates(kind, options, closure):
    base = float(options.get("lr", 0.05))
    rate = lambda ratio: torch.tensor(base * ratio) if "lr" in options else base * ratio  # noqa: E731
    expected = network()
    groups = [{"params": expected[int(i)].parameters(), "lr": rate(ratio)} for i, ratio in RATIOS.items()]
    rest = {key: value for key, value in options.items() if key != "lr"}
    _, wanted = train(expected, kind(groups, **rest), closure=closure)
    model = network()
    optimizer = kind(model.parameters(), lr=rate(1), **rest)
    scale_updates(optimizer, "lr", by_parameter(model))
    seen, got = train(model, optimizer, closure=closure)
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-7)
    assert seen == [[pytest.approx(base)]] * 20


@pytest.mark.parametrize(("kind", "options"), OPTIMIZERS)
def test_ratio_one_for_everything_changes_no_bit(kind, options):
    options = {"lr": 0.05} | options
    plain = network()
    _, wanted = train(plain, kind(plain.parameters(), **copy.deepcopy(options)))
    model = network()
    optimizer = kind(model.parameters(), **copy.deepcopy(options))
    scale_updates(optimizer, "lr", by_parameter(model, dict.fromkeys(RATIOS, 1.0)))
    assert equal(train(model, optimizer)[1], wanted)


@pytest.mark.parametrize("created", ["before", "after"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_see_and_set_the_common_rate(name, created):
    plain = network()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    wanted, _ = train(plain, optimizer, scheduler=SCHEDULERS[name](optimizer))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = SCHEDULERS[name](optimizer) if created == "before" else None
    scale_updates(optimizer, "lr", by_parameter(model, dict.fromkeys(RATIOS, 0.5)))
    scheduler = scheduler or SCHEDULERS[name](optimizer)
    seen, _ = train(model, optimizer, scheduler=scheduler)
    if name == "plateau":  # it follows the loss, which differs, and divides by 10 only
        assert all(rate == pytest.approx(10.0 ** round(math.log10(rate)), rel=1e-9) for [rate] in seen)
    else:
        assert seen == wanted


def test_half_the_ratio_is_half_the_rate_under_a_schedule():
    plain = network()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05)
    _, wanted = train(plain, optimizer, scheduler=SCHEDULERS["step"](optimizer))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scale_updates(optimizer, "lr", by_parameter(model, dict.fromkeys(RATIOS, 0.5)))
    assert equal(train(model, optimizer, scheduler=SCHEDULERS["step"](optimizer))[1], wanted)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", ["closure", "update"])
def test_after_an_exception_the_groups_are_the_users(error, where):
    model = network()

    class Failing(torch.optim.SGD):
        def _init_group(self, *args, **kwargs):
            if where == "update":
                raise error
            return super()._init_group(*args, **kwargs)

    optimizer = Failing(model.parameters(), lr=0.1)
    groups, before = optimizer.param_groups, copy.deepcopy(optimizer.state_dict())
    scale_updates(optimizer, "lr", by_parameter(model))
    scale_updates(optimizer, "weight_decay", by_parameter(model))

    def closure():
        assert optimizer.param_groups is groups
        if where == "closure":
            raise error
        return model(torch.ones(2, 8)).sum()

    with pytest.raises(error):
        optimizer.step(closure)
    assert optimizer.param_groups is groups
    assert optimizer.state_dict() == before


def test_rate_and_decay_together():
    expected = network()
    groups = [
        {"params": expected[int(i)].parameters(), "lr": 0.1 * r, "weight_decay": 0.2 * r} for i, r in RATIOS.items()
    ]
    _, wanted = train(expected, torch.optim.SGD(groups), closure=True)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.2)
    ends = [scale_updates(optimizer, key, by_parameter(model)) for key in ("lr", "weight_decay")]
    torch.testing.assert_close(train(model, optimizer, closure=True)[1], wanted, rtol=1e-6, atol=1e-7)
    assert len(optimizer.param_groups) == 1
    for end in reversed(ends):
        end()
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_after_the_end_the_optimizer_is_as_it_was(order):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = dict(optimizer.__dict__)
    ends = [scale_updates(optimizer, key, by_parameter(model)) for key in ("lr", "weight_decay")]
    train(model, optimizer, steps=2)
    for i in order:
        ends[i]()
    assert optimizer.__dict__.keys() == before.keys()
    assert optimizer.param_groups is before["param_groups"]
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("made", ["before", "between"])
def test_a_scheduler_outlives_the_end(made):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = SCHEDULERS["step"](optimizer) if made == "before" else None
    end = scale_updates(optimizer, "lr", by_parameter(model))
    scheduler = scheduler or SCHEDULERS["step"](optimizer)
    end()
    again = scale_updates(optimizer, "lr", by_parameter(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of steps in the wrong order
        seen, _ = train(model, optimizer, steps=3, scheduler=scheduler)
    assert seen[-1] == [pytest.approx(0.05)]
    again()
    assert not optimizer._optimizer_step_pre_hooks


def test_hooks_of_the_user_see_the_users_groups_whenever_they_came():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    groups, seen = optimizer.param_groups, []
    look = lambda *_: seen.append(optimizer.param_groups is groups)  # noqa: E731
    optimizer.register_step_pre_hook(look)
    optimizer.register_step_post_hook(look)
    ends = [scale_updates(optimizer, key, by_parameter(model)) for key in ("lr", "weight_decay")]
    optimizer.register_step_pre_hook(look)
    optimizer.register_step_post_hook(look)
    train(model, optimizer, steps=2)
    train(model, optimizer, steps=2, closure=True)
    assert seen == [True] * 16
    for end in ends:
        end()


def test_an_optimizer_is_freed_and_copied_as_ever():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scale_updates(optimizer, "lr", by_parameter(model))
    train(model, optimizer, steps=2)
    twin = pickle.loads(pickle.dumps(optimizer))
    assert "step" not in twin.__dict__
    assert twin.param_groups[0]["lr"] == 0.1
    alive = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert alive() is None


def test_what_an_optimizer_writes_into_its_groups_stays():
    class Counting(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure=None):
            super().step(closure)
            for group in self.param_groups:
                group["k"] = group.get("k", 0) + 1

    model = network()
    optimizer = Counting(model.parameters(), lr=0.1)
    scale_updates(optimizer, "lr", by_parameter(model))
    train(model, optimizer, steps=4)
    assert optimizer.param_groups[0]["k"] == 4
    assert optimizer.param_groups[0]["lr"] == 0.1


def test_a_grad_scaler_steps_and_skips():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    groups, used = optimizer.param_groups, []
    scale_updates(optimizer, "lr", by_parameter(model))
    optimizer.register_step_post_hook(lambda *_: used.append(True))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(2, 8)).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        assert optimizer.param_groups is groups
    assert len(used) == 2


def test_a_checkpoint_is_that_of_the_plain_optimizer():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scale_updates(optimizer, "lr", by_parameter(model))
    train(model, optimizer)
    state = optimizer.state_dict()
    assert len(state["param_groups"]) == 1
    assert state["param_groups"][0]["lr"] == 0.1
    torch.optim.AdamW(network().parameters()).load_state_dict(state)


def test_biases_gates_and_norms_go_with_their_layer():
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 8, 3))
    model.add_module("bn", nn.BatchNorm2d(8))
    model.add_module("attn", nn.MultiheadAttention(8, 2))
    assert partners_of(model) == {"bn": "conv"}
    ratios = {"conv": 0.5, "bn": 0.5, "attn.q": 1.0, "attn.k": 1.5, "attn.out_proj": 0.75}
    found = parameter_ratios(owners_of(model), ratios)
    assert found[model.conv.bias] == found[model.bn.weight] == 0.5
    assert found[model.attn.in_proj_weight] == 1.25
    assert found[model.attn.out_proj.weight] == 0.75


class Said:
    """A source whose verdict the test writes."""

    def __init__(self):
        self.published = Published()

    def say(self, **ratios):
        verdict = {"step": 1, "layers": list(ratios), "ratios": list(ratios.values())}
        self.published = Published(verdicts={"lr_ratio": verdict})


def test_ramp_until_and_resume():
    model, source = network(), Said()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = Layerwise(model, [optimizer], LayerRatios(until=9), source, Ramp(4))
    assert handle.ratios() == {}
    source.say(**{"2": 2.0})
    ratios = [handle.ratios()["2"]]
    for _ in range(2):
        optimizer.step()
        ratios.append(handle.ratios()["2"])
    assert ratios == [1.0, 1.25, 1.5]
    resumed = Layerwise(model, [optimizer], LayerRatios(until=9), Said(), Ramp(4))
    before = resumed.state_dict()
    for state in ({}, {"steps": 3, "ramp": {}}, {"steps": "3", "ramp": handle.state_dict()["ramp"]}):
        with pytest.warns(RuntimeWarning, match="the state is left out, all ratios begin at 1"):
            resumed.load_state_dict(state)
    assert resumed.state_dict() == before
    resumed.load_state_dict(handle.state_dict())
    assert resumed.ratios() == handle.ratios() == {"2": 1.5}
    for _ in range(7):
        optimizer.step()
    assert handle.ratios() == {}
    handle.remove()
    resumed.remove()


def test_a_run_with_a_monitor():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(60, 60) for _ in range(4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = ww.Monitor(model, every_n_steps=3, deterministic=True, randomize=False)
    handle = layerwise(optimizer, source=monitor, ramp_steps=0, shrink=False)
    used = []
    with monitor, handle:
        for step in range(1, 10):
            model(torch.randn(8, 60)).square().mean().backward()
            optimizer.step()
            used.append(handle.ratios())
            monitor.step(step)
    assert all(set(ratios.values()) <= {1.0} for ratios in used[:6])  # the baseline says nothing
    assert sorted(used[-1].values()) == [0.5, 1.0, 1.0, 1.5]
    assert monitor.lr_ratios().keys() == {"0", "1", "2", "3"}


class Wrapper(torch.optim.Optimizer):
    """As libraries wrap one: an Optimizer by class only."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


def test_what_cannot_work_is_told_at_once():
    model = network()
    monitor = ww.Monitor(model, randomize=False)
    with pytest.raises(ValueError, match="optimizer: it holds none of the layers"):
        layerwise(torch.optim.SGD(network().parameters(), lr=0.1), source=monitor)
    with pytest.raises(ValueError, match="optimizer: LBFGS"):
        layerwise(torch.optim.LBFGS(model.parameters()), source=monitor)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for wrong, message in [
        ({"low": 2.0, "high": 1.0}, "low, high"),
        ({"mapping": "cubic"}, "mapping"),
        ({"layers": ["nothing"]}, "layers: 'nothing' matches no layer"),
        ({"ramp_steps": -1}, "ramp_steps"),
    ]:
        with pytest.raises(ValueError, match=message):
            layerwise(optimizer, source=monitor, **wrong)
    with pytest.raises(TypeError, match="optimizer: Wrapper wraps an optimizer of torch, give that one"):
        layerwise(Wrapper(optimizer), source=monitor)
    with pytest.raises(TypeError, match="optimizer: expected"):
        layerwise("SGD", source=monitor)
    assert "step" not in optimizer.__dict__
    with pytest.warns(RuntimeWarning, match=r"the layers \['0', '4'\] are in no optimizer"):
        layerwise(torch.optim.SGD(model[2].parameters(), lr=0.1), source=monitor, layers=["*"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the first and the last layer take no part, so nobody misses them
        layerwise(torch.optim.SGD(model[2].parameters(), lr=0.1), source=ww.Monitor(model, randomize=False))


def test_a_loop_is_told_once_which_layers_take_part(caplog):
    caplog.set_level("INFO", "ww_callbacks")
    model = nn.Sequential(*(nn.Linear(60, 60) for _ in range(4)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    monitor = ww.Monitor(model, every_n_steps=1, executor="sync", randomize=False)
    with monitor, layerwise(optimizer, source=monitor):
        for step in range(1, 5):
            model(torch.randn(8, 60)).square().mean().backward()
            optimizer.step()
            monitor.step(step)
    assert [each.getMessage() for each in caplog.records if "ratios" in each.getMessage()] == [
        "learning-rate ratios: 2 layers take part (1, 2), 2 keep 1: first layer (0), last layer (3)"
    ]
    assert all(layer.alpha_farms for layer in monitor.history[-1])
