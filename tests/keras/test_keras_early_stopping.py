"""Trainings in Keras that the spectra end, on the backend that KERAS_BACKEND names."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest
from delayed import Delayed
from keras import layers

from ww_callbacks.keras import SpectralEarlyStopping, SpectralMonitor

pytestmark = pytest.mark.timeout(120)


class Trap(keras.callbacks.Callback):
    """One very large weight in the first layer, which is a trap, at step 20; and the weights at each batch."""

    def __init__(self, *, springs: bool = True, step: int = 20, place: tuple[int, int] = (3, 4)) -> None:
        super().__init__()
        self.springs, self.step, self.place, self.seen = springs, step, place, []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        step = int(self.model.optimizer.iterations)
        if self.springs and step == self.step:
            kernel = self.model.get_layer("first").kernel
            values = np.array(kernel)
            values[self.place] = self.step / 4
            kernel.assign(values)
        self.seen.append([np.array(weight) for weight in self.model.get_weights()])


class Validation(keras.callbacks.Callback):
    """Puts a validation loss that is known into the logs."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["val_error"] = self.values[min(epoch, len(self.values) - 1)]


class Losses(Validation):
    """Puts a validation loss that is known into the logs, under Keras's name."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["val_loss"] = self.values[min(epoch, len(self.values) - 1)]


def network() -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((60,)), layers.Dense(60, name="first"), layers.Dense(4, name="head")])
    model.compile(keras.optimizers.SGD(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def fit(model: Any, *callbacks: Any, epochs: int = 10, **options: Any) -> Any:
    x = np.random.default_rng(0).standard_normal((64, 60)).astype("float32")
    options = {"batch_size": 8, "verbose": 0, "shuffle": False} | options
    return model.fit(x, np.arange(64) % 4, epochs=epochs, callbacks=list(callbacks), **options)


def watching(**options: Any) -> SpectralMonitor:
    return SpectralMonitor(**{"every_n_steps": 4, "executor": "sync"} | options)


def stopping(**options: Any) -> SpectralEarlyStopping:
    return SpectralEarlyStopping(**{"rules": ["traps"], "patience": 3} | options)


@pytest.mark.parametrize("order", [1, -1])
def test_a_training_is_ended_and_says_why_once(order: int, capsys: pytest.CaptureFixture[str]) -> None:
    stop, model = stopping(), network()
    history = fit(model, Trap(), *[watching(), stop][::order], verbose=2)
    assert int(model.optimizer.iterations) == 29  # results of steps 20, 24 and 28; one more batch is trained
    assert stop.stopped_step == 28
    assert stop.stopped_reason.startswith("traps at step 28 (stopped at 28): first has")
    assert (
        capsys.readouterr().out.count("SpectralEarlyStopping ends the training. traps at step 28 (stopped at 28)") == 1
    )
    assert len(history.history["ww/alpha"]) == 4


@pytest.mark.parametrize("order", [1, -1])
def test_where_epochs_are_counted_the_epoch_is_the_last(order: int) -> None:
    stop, model = stopping(), network()
    fit(model, Trap(), *[watching(every_n_steps=None, every_n_epochs=1), stop][::order])
    assert int(model.optimizer.iterations) == stop.stopped_step == 40


def test_a_warning_ends_nothing() -> None:
    stop, model = stopping(mode="warn"), network()
    with pytest.warns(
        RuntimeWarning, match=r"training could end: traps at step 28 .warned at 28.: first has"
    ) as caught:
        fit(model, Trap(), watching(), stop, epochs=5)
    assert len([each for each in caught if "could end" in str(each.message)]) == 1
    assert int(model.optimizer.iterations) == 40


def test_how_far_the_rules_are_is_in_the_logs_and_nothing_happens_without_a_trap(
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop, model = stopping(), network()
    history = fit(model, Trap(springs=False), watching(), stop, epochs=4, verbose=2)
    assert capsys.readouterr().out.count("SpectralEarlyStopping did not end this training. traps 0\n") == 1
    assert history.history["ww/stop/traps"] == [0, 0, 0, 0]
    assert (stop.stopped_reason, stop.stopped_step) == ("", None)


def test_a_slow_analysis_ends_training_at_the_same_step() -> None:
    steps = []
    for seconds in (0.0, 0.1):
        stop = stopping()
        with Delayed(seconds) as executor:
            fit(network(), Trap(), watching(executor=executor), stop)
        steps.append(stop.stopped_step)
    assert steps == [32, 32]  # results of steps 20, 24 and 28


def test_with_warnings_only_a_slow_analysis_does_not_delay_training() -> None:
    monitor = watching()
    fit(network(), monitor, stopping(mode="warn"), epochs=1)
    assert monitor.monitor is not None
    assert not monitor.monitor.waits


def test_the_same_callbacks_begin_anew_with_a_second_fit() -> None:
    monitor, stop, model = watching(), stopping(), network()
    fit(model, Trap(), monitor, stop)
    second = Trap(step=60, place=(20, 30))  # what the first result of the second fit shows does not count
    fit(model, second, monitor, stop, initial_epoch=0)
    assert int(model.optimizer.iterations) > 68
    assert stop.stopped_step == int(model.optimizer.iterations) - 1


@pytest.mark.parametrize("order", [1, -1])
def test_weights_of_the_last_result_before_the_streak_are_restored(order: int) -> None:
    trap, stop, model = Trap(), stopping(restore_best_weights=True), network()
    fit(model, *[watching(), stop][::order], trap)
    assert (stop.stopped_step, stop.restored_step) == (32, 20)  # the trap was set after the snapshot of step 20
    before = trap.seen[20]  # what it shows is the kernel after the trap
    kernel = model.get_weights()[0]
    assert abs(kernel[3, 4]) < 1
    np.testing.assert_array_equal(np.delete(kernel.ravel(), 3 * 60 + 4), np.delete(before[0].ravel(), 3 * 60 + 4))
    np.testing.assert_array_equal(model.get_weights()[2], before[2])


def test_where_the_copy_is_gone_the_oldest_is_restored_and_that_is_told() -> None:
    trap, stop, model = Trap(), stopping(restore_best_weights=True, keep=2), network()
    with pytest.warns(RuntimeWarning, match="weights of step 16 are not kept any more, those of step 24 were restored"):
        fit(model, trap, watching(), stop)
    for weight, seen in zip(model.get_weights(), trap.seen[24], strict=True):
        np.testing.assert_array_equal(weight, seen)


def test_another_metric_has_to_stall_too_and_its_best_weights_are_restored() -> None:
    trap, model = Trap(), network()
    stop = stopping(and_monitor="val_error", restore_best_weights=True)
    fit(model, trap, Validation(0.9, 0.8, 0.7, 0.6, 0.5, 0.6, 0.7, 0.8), watching(), stop)
    assert stop.restored_step == 40
    assert stop.stopped_step == 68
    assert "val_error has not improved in its last 3 values" in stop.stopped_reason
    for weight, seen in zip(model.get_weights(), trap.seen[40], strict=True):
        np.testing.assert_array_equal(weight, seen)


def test_a_validation_loss_is_asked_by_default_and_the_rate_is_known() -> None:
    model, stop, monitor = network(), stopping(restore_best_weights=True), watching()
    fit(model, Trap(), Losses(0.9, 0.8, 0.7, 0.6, 0.5, 0.6, 0.7, 0.8), monitor, stop)
    assert (stop.restored_step, stop.stopped_step) == (40, 68)
    assert "val_loss has not improved in its last 3 values" in stop.stopped_reason
    rates = monitor.history.recorded("learning_rate")
    assert [step for step, _ in rates][:3] == [0, 4, 8]
    assert rates[0][1] == pytest.approx(1e-3)


def test_a_metric_that_is_not_in_the_logs_is_told_once() -> None:
    model = network()
    with pytest.warns(
        RuntimeWarning, match=r"and_monitor: 'val_loss' is not in the logs of epoch 1; .*\['loss'\]"
    ) as w:
        fit(model, watching(), stopping(and_monitor="val_loss"), epochs=3)
    assert len([each for each in w if "and_monitor" in str(each.message)]) == 1


def test_wrong_arguments_are_told_at_once() -> None:
    for wrong, error, message in [
        ({"rules": ["plato"]}, ValueError, "rules"),
        ({"rules": "traps"}, TypeError, "rules: expected a list"),
        ({"patience": 0}, ValueError, "patience: expected at least 1"),
        ({"mode": "end"}, ValueError, "mode: expected one of 'stop', 'warn'"),
        ({"keep": 0}, ValueError, "keep: expected at least 1"),
        ({"restore_best_weights": 1}, TypeError, "restore_best_weights: expected True or False"),
        ({"restore_best_weights": True, "mode": "warn"}, ValueError, "restore_best_weights: mode="),
        ({"source": "monitor"}, TypeError, "source: expected a SpectralMonitor"),
    ]:
        with pytest.raises(error, match=message):
            SpectralEarlyStopping(**wrong)
    model = network()
    with pytest.raises(ValueError, match="layers: 'nothing' matches no layer"):
        fit(model, watching(), stopping(layers=["nothing"]))
    with pytest.raises(ValueError, match="SpectralEarlyStopping needs a SpectralMonitor, which is not among"):
        fit(model, stopping())
    assert int(model.optimizer.iterations) == 0


def test_a_callback_survives_as_a_value_in_a_configuration_file() -> None:
    arguments = {
        "rules": ["plateau", "overtrained"],
        "patience": 7,
        "min_delta": 0.1,
        "start_after": 100,
        "layers": ["first"],
        "mode": "stop",
        "and_monitor": "val_loss",
        "and_mode": "max",
        "restore_best_weights": True,
        "keep": 4,
        "verbose": 0,
    }
    text = json.dumps(keras.saving.serialize_keras_object(SpectralEarlyStopping(**arguments)))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is SpectralEarlyStopping
    assert again.get_config() == arguments
