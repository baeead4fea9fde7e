"""One monitor in the loops of Fabric and Accelerate, in one process; several ranks are in tests/integration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import ww_callbacks as ww  # noqa: E402
from ww_callbacks.signals.signal import Judgement  # noqa: E402
from ww_callbacks.torch import DistributedMonitor  # noqa: E402
from ww_callbacks.torch.layers import owners_of  # noqa: E402
from ww_callbacks.torch.ranks import Ranks  # noqa: E402


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 60))


def train(
    model: nn.Module, optimizer: Any, backward: Callable[[Any], object], monitor: Any, steps: range = range(1, 13)
) -> None:
    generator = torch.Generator().manual_seed(0)
    for step in steps:
        backward(model(torch.randn(8, 64, generator=generator)).square().mean())
        optimizer.step()
        optimizer.zero_grad()
        if monitor is not None:
            monitor.step(step)


def prepared(kind: str) -> tuple[nn.Module, Any, Callable[[Any], object]]:
    """A model, its optimizer and how to go backward, as the framework hands them out."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if kind == "Fabric":
        fabric = pytest.importorskip("lightning.fabric").Fabric(accelerator="cpu", devices=1)
        fabric.launch()
        return *fabric.setup(model, optimizer), fabric.backward
    if kind == "Accelerate":
        accelerator = pytest.importorskip("accelerate").Accelerator(cpu=True)
        return *accelerator.prepare(model, optimizer), accelerator.backward
    return model, optimizer, lambda loss: loss.backward()


@pytest.mark.parametrize("kind", ["torch", "Fabric", "Accelerate"])
def test_a_loop_is_watched_under_the_names_of_the_bare_model_and_is_not_changed(kind: str) -> None:
    alone, *rest = prepared(kind)
    train(alone, *rest, None)
    model, optimizer, backward = prepared(kind)
    with DistributedMonitor(model, every_n_steps=5, deterministic=True) as monitor:
        train(model, optimizer, backward, monitor)
    assert monitor.history.steps == [0, 5, 10, 12]
    assert [layer.name for layer in monitor.history[-1]] == ["0", "2"]
    bare = network()
    bare.load_state_dict(
        {
            key.removeprefix("_forward_module.").removeprefix("module."): value
            for key, value in model.state_dict().items()
        }
    )
    assert monitor.history[-1].summary()["alpha"] == pytest.approx(ww.analyze(bare).summary()["alpha"], rel=1e-6)
    assert monitor.metrics["ww/alpha"] == monitor.history[-1].summary()["alpha"]
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), model.parameters(), strict=True))
    assert not monitor.should_stop
    assert set(owners_of(model).values()) == {"0", "2"}


def test_a_loop_goes_on_from_a_checkpoint() -> None:
    model, optimizer, backward = prepared("torch")
    with DistributedMonitor(model, every_n_steps=5, deterministic=True) as first:
        train(model, optimizer, backward, first)
    second = DistributedMonitor(model, every_n_steps=5, deterministic=True)
    second.load_state_dict(first.state_dict())
    with second:
        assert second.published == first.published
        train(model, optimizer, backward, second, range(13, 21))
    assert second.history.steps == [0, 5, 10, 12, 15, 20]


class Third:
    """Ends training with the third report."""

    def judge(self, history: ww.History) -> Judgement:
        return Judgement(verdict={"stop": len(history) >= 3})


def test_a_rule_of_ones_own_ends_the_loop() -> None:
    model, optimizer, backward = prepared("torch")
    monitor = DistributedMonitor(model, every_n_steps=5, deterministic=True, randomize=False)
    monitor.attach("stop", Third())
    with monitor:
        for step in range(1, 60):
            train(model, optimizer, backward, monitor, range(step, step + 1))
            if monitor.should_stop:
                break
    assert step == 15  # where the results of steps 0, 5 and 10 are known


def test_arguments_and_models_are_checked() -> None:
    with pytest.raises(TypeError, match="model: expected a torch module, got dict"):
        DistributedMonitor({})
    with pytest.raises(ValueError, match="layers: 'nett' matches no layer"):
        DistributedMonitor(network(), layers=["nett"])


def test_the_status_and_the_recorded_values_are_those_of_the_monitor() -> None:
    model, optimizer, backward = prepared("torch")
    with DistributedMonitor(model, every_n_steps=5, deterministic=True) as monitor:
        train(model, optimizer, backward, monitor)
        monitor.record("val_loss", 0.5)
    assert str(monitor.status()).startswith("4 of 4 snapshots analysed, 0 skipped")
    assert monitor.history.recorded("val_loss") == [(12, 0.5)]
    assert monitor.stop_reason == ""


def test_another_rank_has_a_status_of_zeros() -> None:
    ranks = Ranks(2, False, lambda message: (None, ""))
    monitor = DistributedMonitor(network(), ranks=ranks)
    assert (monitor.status().snapshots, monitor.status().staleness) == (0, {})
    monitor.record("val_loss", 0.5)
    with pytest.raises(TypeError, match="signal: expected an object with judge"):
        monitor.attach("stop", 3)


def test_ranks_that_cannot_be_reached_end_the_monitoring_and_not_the_training() -> None:
    def broadcast(message: Any) -> Any:
        if monitor is not None:
            raise RuntimeError("connection closed by peer")
        return message

    monitor = None
    monitor = DistributedMonitor(network(), ranks=Ranks(2, True, broadcast))
    with pytest.warns(RuntimeWarning, match="another rank cannot be reached: connection closed by peer") as caught:
        monitor.start()
    for step in range(1, 400):
        monitor.step(step)
    monitor.finish()
    assert len(caught) == 1
    monitor = None
    strict = DistributedMonitor(network(), ranks=Ranks(2, True, broadcast), on_error="raise")
    monitor = strict
    with pytest.raises(RuntimeError, match="connection closed by peer"):
        strict.start()
    assert strict.monitor is not None
    assert strict.monitor.closed
