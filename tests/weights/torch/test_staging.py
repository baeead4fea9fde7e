"""Weights on a device that works later than it is asked: what a snapshot holds, and when it is handed over."""

import dataclasses

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.weights import find_layers
from ww_callbacks.weights.torch.staging import Staging
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer


class LateDevice:
    """Does what it is asked in that order, but only when `work` is called: a stream."""

    def __init__(self):
        self.queue, self.log, self.made = [], [], 0

    def work(self):
        while self.queue:
            self.queue.pop(0)()

    def update(self, weights, factor):
        """Training's own work goes the same way."""
        self.queue.append(lambda: np.multiply(weights, factor, out=weights))

    def clone(self, weights):
        made = np.full_like(weights, np.nan)
        self.queue.append(lambda: np.copyto(made, weights))
        return made

    def pinned(self, clone):
        self.made += 1
        return np.full_like(clone, np.nan)

    def begin(self, clone, pinned):
        event = Done(self)
        self.queue.append(lambda: (np.copyto(pinned, clone), event.set()))
        return event

    def numbers(self, pinned):
        return pinned


class Done:
    def __init__(self, device):
        self.device, self.done = device, False

    def set(self):
        self.done = True

    def query(self):
        return self.done

    def synchronize(self):
        self.device.work()


@pytest.fixture
def device():
    return LateDevice()


@pytest.fixture
def weights():
    return np.random.default_rng(0).standard_normal((80, 60))


def test_what_arrives_are_the_weights_of_the_moment_of_the_snapshot(device, weights):
    expected = 2 * weights
    buffer = SnapshotBuffer([(weights.shape, weights.dtype)], slots=1)
    device.update(weights, 2.0)  # asked for before the snapshot
    slot = buffer.take([lambda: Staging(device).send(weights)])
    device.update(weights, 3.0)  # and after it
    assert not buffer.arrived(slot)
    device.work()
    assert buffer.arrived(slot)
    np.testing.assert_array_equal(buffer.array(slot, 0), expected)
    np.testing.assert_array_equal(weights, 3 * expected)
    buffer.close()


def test_waiting_brings_them_and_asking_again_copies_nothing(device, weights):
    buffer = SnapshotBuffer([(weights.shape, weights.dtype)], slots=1)
    slot = buffer.take([lambda: Staging(device).send(weights)])
    assert buffer.arrived(slot, wait=True)
    weights[:] = 0.0
    assert buffer.arrived(slot)
    assert buffer.array(slot, 0).any()
    buffer.close()


def test_memory_is_used_again_and_not_before_it_was_copied(device, weights):
    staging, target = Staging(device), np.empty_like(weights)
    for _ in range(5):
        staged = staging.send(weights)
        staged.wait()
        staged.copy_to(target)
    assert device.made == 1
    first, second = staging.send(weights), staging.send(weights)
    assert device.made == 2
    device.work()
    first.copy_to(target)
    second.copy_to(target)
    np.testing.assert_array_equal(target, weights)
    staged = staging.send(weights)
    staged.wait()
    with pytest.raises(ValueError, match="expected float64"):
        staged.copy_to(np.empty((3, 3)))


class Watched:
    """A monitor of a mapping whose array is on the device."""

    def __init__(self, device, weights, monkeypatch, **arguments):
        staging = Staging(device)

        def on_device(model, split=None):
            return tuple(
                dataclasses.replace(layer, send=lambda: staging.send(weights))
                for layer in find_layers(model, split=split)
            )

        monkeypatch.setattr("ww_callbacks.weights.finder.find_layers", on_device)
        self.monitor = ww.Monitor({"fc": weights}, executor="sync", every_n_steps=2, **arguments)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_snapshot_is_handed_over_at_a_later_step_and_its_report_is_of_its_own_step(
    device, weights, monkeypatch, deterministic
):
    monitor = Watched(device, weights, monkeypatch, deterministic=deterministic).monitor
    expected = [ww.analyze({"fc": weights * 2.0**power})["fc"].norm for power in range(3)]
    monitor.start()
    for step in range(1, 5):
        device.update(weights, 2.0 if step % 2 == 0 else 1.0)
        if step % 2 == 1:
            device.work()  # it is behind: a snapshot arrives during the step after it
        monitor.step(step)
        under_way = monitor._engine._pending
        assert all((pending.awaited is None) == (step == pending.step) for pending in under_way)
    monitor.finish()
    assert monitor.history.steps == [0, 2, 4]
    assert [report["fc"].norm for report in monitor.history] == pytest.approx(expected, rel=1e-12)


def test_the_end_of_training_waits_for_what_is_on_its_way(device, weights, monkeypatch):
    monitor = Watched(device, weights, monkeypatch).monitor
    monitor.start()
    monitor.step(1)
    assert len(monitor.history) == 0
    monitor.finish(2)
    assert monitor.history.steps == [0, 2]


def test_closing_drops_what_is_on_its_way(device, weights, monkeypatch):
    monitor = Watched(device, weights, monkeypatch).monitor
    monitor.start()
    monitor.close()
    device.work()
    assert len(monitor.history) == 0
