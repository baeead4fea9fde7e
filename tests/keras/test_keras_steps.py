"""Keras models whose training step does not use the optimizer that they were compiled with."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from ww_callbacks.keras import SpectralEarlyStopping, SpectralMonitor

pytestmark = pytest.mark.timeout(120)

BACKEND = keras.backend.backend()
BATCHES = 12
SAID = "finished batches are counted as steps"


class Own(keras.Model):
    """Two networks; the training step updates their weights by hand, at every n-th batch."""

    every = 1

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = layers.Dense(64, name="first"), layers.Dense(60, name="second")
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")
        self.build((None, 64))

    def build(self, shape: Any) -> None:
        self.first.build(shape)
        self.second.build(shape)
        self.built = True

    def call(self, x: Any) -> Any:
        return self.second(self.first(x))

    def rate(self, seen: Any) -> Any:
        return ops.where(ops.equal(ops.mod(seen, self.every), 0), 0.05, 0.0)

    if BACKEND == "torch":

        def train_step(self, data: Any) -> Any:
            import torch

            self.seen.assign_add(1.0)
            loss = ops.mean(self(data) ** 2)
            self.zero_grad()
            loss.backward()
            with torch.no_grad():
                for weight in self.trainable_weights:
                    weight.value.sub_(self.rate(self.seen.value) * weight.value.grad)
            return {"loss": loss}

    elif BACKEND == "tensorflow":

        def train_step(self, data: Any) -> Any:
            import tensorflow as tf

            self.seen.assign_add(1.0)
            with tf.GradientTape() as tape:
                loss = ops.mean(self(data) ** 2)
            weights = self.trainable_weights
            for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
                weight.assign_sub(self.rate(self.seen) * gradient)
            return {"loss": loss}

    else:

        def train_step(self, state: Any, data: Any) -> Any:
            import jax

            trained, others, optimizer, metrics = state
            others = [value + 1.0 if value.shape == () else value for value in others]

            def loss_of(values: Any) -> Any:
                return ops.mean(self.stateless_call(values, others, data)[0] ** 2)

            loss, gradients = jax.value_and_grad(loss_of)(trained)
            rate = self.rate(others[0])
            trained = [value - rate * gradient for value, gradient in zip(trained, gradients, strict=True)]
            return {"loss": loss}, (trained, others, optimizer, metrics)


def own(every: int = 1, **compile_arguments: Any) -> Own:
    keras.utils.set_random_seed(0)
    model = Own()
    model.every = every
    model.compile(**compile_arguments)
    return model


def fit(model: Any, *callbacks: Any, epochs: int = 2, **arguments: Any) -> Any:
    x = np.random.default_rng(0).standard_normal((BATCHES * 8, 64)).astype("float32")
    arguments = {"batch_size": 8, "verbose": 0} | arguments
    return model.fit(x, epochs=epochs, callbacks=list(callbacks), **arguments)


def watching(**options: Any) -> SpectralMonitor:
    return SpectralMonitor(**{"executor": "thread", "figures": False, "deterministic": True} | options)


# --- the optimizer does not count ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"every_n_steps": 5}, [0, 5, 10, 15, 20, 24]),
        ({"every_n_steps": 7}, [0, 7, 14, 21, 24]),
        ({"every_n_epochs": 1}, [0, 12, 24]),
        ({"every_n_epochs": 2}, [0, 24]),
        ({"every_n_steps": 1000}, [0, 24]),
    ],
)
def test_batches_are_counted_where_the_optimizer_does_not_move(
    schedule: dict[str, int], expected: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    model, monitor = own(), watching(**schedule)
    fit(model, monitor)
    assert int(model.optimizer.iterations) == 0
    assert monitor.history.steps == expected
    assert len(set(monitor.history.series("norm", "first"))) == len(expected)
    assert monitor.step == 24
    assert [record.levelname for record in caplog.records if SAID in record.message] == ["WARNING"]


def test_the_logs_of_each_epoch_are_those_of_its_last_snapshot_step() -> None:
    monitor = watching(every_n_steps=5)
    history = fit(own(), monitor, epochs=3)
    alphas = dict(zip(monitor.history.steps, monitor.history.series("alpha"), strict=True))
    assert history.history["ww/alpha"] == pytest.approx([alphas[5], alphas[15], alphas[30]])


@pytest.mark.skipif(BACKEND == "torch", reason="Keras does not offer it on the torch backend")
@pytest.mark.parametrize(
    ("at_once", "every", "expected"),
    [(5, 5, [0, 5, 10, 17, 22, 24]), (3, 5, [0, 6, 12, 15, 21, 24]), (50, 5, [0, 12, 24])],
)
def test_several_batches_in_one_execution(at_once: int, every: int, expected: list[int]) -> None:
    monitor = watching(every_n_steps=every)
    fit(own(steps_per_execution=at_once), monitor)
    assert monitor.history.steps == expected


def test_a_training_of_one_batch_has_a_last_snapshot() -> None:
    monitor = watching(every_n_steps=200)
    fit(own(), monitor, epochs=1, batch_size=BATCHES * 8)
    assert monitor.history.steps == [0, 1]


def test_data_of_unknown_length() -> None:
    def batches() -> Any:
        rng = np.random.default_rng(0)
        for _ in range(BATCHES):
            yield (rng.standard_normal((8, 64)).astype("float32"),)

    class Unpacking(Own):
        def train_step(self, *arguments: Any) -> Any:
            return super().train_step(*arguments[:-1], arguments[-1][0])

    model, monitor = Unpacking(), watching(every_n_steps=5)
    model.compile()
    model.fit(batches(), epochs=1, verbose=0, callbacks=[monitor])
    assert monitor.history.steps == [0, 5, 10, 12]


def test_a_second_fit_goes_on_where_the_first_ended(caplog: pytest.LogCaptureFixture) -> None:
    model, monitor = own(), watching(every_n_steps=5)
    fit(model, monitor, epochs=1)
    assert monitor.history.steps == [0, 5, 10, 12]
    fit(model, monitor, epochs=2, initial_epoch=1)
    assert monitor.history.steps == [15, 20, 24]
    fit(model, monitor, epochs=1)
    assert monitor.history.steps == [25, 30, 35, 36]
    assert caplog.text.count(SAID) == 1


def test_a_resumed_training_begins_with_the_batches_of_the_epochs_before() -> None:
    monitor = watching(every_n_steps=5)
    fit(own(), monitor, epochs=3, initial_epoch=1)
    assert monitor.history.steps == [12, 15, 20, 25, 30, 35, 36]


def test_updates_at_every_fourth_batch_are_noticed_too() -> None:
    """Before the first one the weights are those of step 0, of which there is a snapshot."""
    monitor = watching(every_n_steps=2)
    fit(own(every=4), monitor, epochs=1)
    assert monitor.history.steps == [0, 4, 6, 8, 10, 12]


def test_the_rate_of_the_optimizer_that_is_not_used_is_not_recorded() -> None:
    model, monitor = own(), watching(every_n_steps=5)
    fit(model, monitor)
    assert monitor.history.recorded("learning_rate") == []

    model, monitor = own(), watching(every_n_steps=5)
    model.main, model.other = keras.optimizers.SGD(0.02), keras.optimizers.Adam(1e-4)
    fit(model, monitor)
    assert {round(rate, 6) for _, rate in monitor.history.recorded("learning_rate")} == {0.02}


@pytest.mark.skipif(BACKEND == "jax", reason="on JAX, Keras asks for the optimizer's variables")
def test_a_model_without_an_optimizer() -> None:
    monitor = watching(every_n_steps=10)
    fit(own(optimizer=None), monitor)
    assert monitor.history.steps == [0, 10, 20, 24]


def test_early_stopping_restores_weights_of_counted_batches() -> None:
    stopping = SpectralEarlyStopping(rules=["plateau"], restore_best_weights=True)
    monitor = watching(every_n_steps=5)
    fit(own(), stopping, monitor, epochs=1)
    assert stopping.stopped_step is None
    assert monitor.history.steps == [0, 5, 10, 12]


# --- it counts -------------------------------------------------------------------------------------------------------


class Counted(Own):
    """Trains with the optimizer of the model in its own training step, which steps twice if ``every`` is negative."""

    if BACKEND != "jax":

        def train_step(self, data: Any) -> Any:
            self.seen.assign_add(1.0)
            if BACKEND == "torch":
                loss = ops.mean(self(data) ** 2)
                self.zero_grad()
                loss.backward()
                gradients = [weight.value.grad for weight in self.trainable_weights]
            else:
                import tensorflow as tf

                with tf.GradientTape() as tape:
                    loss = ops.mean(self(data) ** 2)
                gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply(gradients, self.trainable_weights)
            if self.every < 0:  # a second step
                self.optimizer.apply(gradients, self.trainable_weights)
            return {"loss": loss}

    else:

        def train_step(self, state: Any, data: Any) -> Any:
            import jax

            trained, others, optimizer, metrics = state

            def loss_of(values: Any) -> Any:
                return ops.mean(self.stateless_call(values, others, data)[0] ** 2)

            loss, gradients = jax.value_and_grad(loss_of)(trained)
            trained, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trained)
            if self.every < 0:
                trained, optimizer = self.optimizer.stateless_apply(optimizer, gradients, trained)
            return {"loss": loss}, (trained, others, optimizer, metrics)


def counted(every: int = 1, accumulation: int | None = None) -> Counted:
    keras.utils.set_random_seed(0)
    model = Counted()
    model.every = every
    model.compile(keras.optimizers.SGD(0.01, gradient_accumulation_steps=accumulation))
    return model


@pytest.mark.parametrize(
    ("every", "accumulation", "expected"),
    [
        pytest.param(1, None, [0, 5, 10, 15, 20, 24], id="one step"),
        pytest.param(1, 4, [0, 5, 6], id="accumulated"),
        pytest.param(-2, None, [0, 10, 16, 20, 26, 30, 36, 40, 46, 48], id="two steps"),
    ],
)
def test_a_training_step_of_its_own_with_the_optimizer_of_the_model(
    every: int, accumulation: int | None, expected: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """After the first snapshot it is known that each batch has two steps."""
    model, monitor = counted(every, accumulation), watching(every_n_steps=5)
    fit(model, monitor)
    assert int(model.optimizer.iterations) == expected[-1]
    assert monitor.history.steps == expected
    assert SAID not in caplog.text
    rates = monitor.history.recorded("learning_rate")
    assert {round(rate, 6) for _, rate in rates} == {0.01}


def test_weights_that_do_not_change_are_not_counted() -> None:
    model, monitor = own(every=10**6), watching(every_n_steps=2)
    fit(model, monitor)
    assert monitor.history.steps == [0]


# --- weights that turn NaN -------------------------------------------------------------------------------------------


class Fill(keras.callbacks.Callback):
    """Sets the weights to a value before an epoch."""

    def __init__(self, epoch: int, value: float) -> None:
        super().__init__()
        self.epoch, self.value = epoch, value

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch:
            for variable in self.model.trainable_variables:
                variable.assign(np.full(variable.shape, self.value, "float32"))


def test_stock_callbacks_see_that_weights_became_nan(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Alpha falls no more, so early stopping counts the epochs without it, and ends the training."""
    stopping = keras.callbacks.EarlyStopping(monitor="ww/alpha", mode="min", patience=2)
    monitor = watching(every_n_steps=4)
    table = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    history = fit(counted(), Fill(1, math.nan), monitor, stopping, table, epochs=20)
    alphas = history.history["ww/alpha"]
    assert [math.isnan(alpha) for alpha in alphas] == [False, True, True]
    assert stopping.best == alphas[0]
    assert [math.isnan(value) for value in history.history["ww/log_norm"]] == [False, True, True]
    assert history.history["ww/failed"] == [0, 2, 2]
    assert (tmp_path / "log.csv").read_text().count("nan") > 0
    assert "first and second hold NaN or infinite weights since step 16" in caplog.text


def test_a_mean_that_no_layer_has_any_more_is_nan_in_the_logs() -> None:
    """``History`` has no epochs, only lists: a value that is left out would move the later ones."""
    monitor = watching(every_n_steps=4)
    history = fit(own(), Fill(1, 0.0), monitor, epochs=3)
    assert monitor.history[-1]["first"].skip_reason == "zero"
    assert "ww/alpha" not in monitor.published.metrics
    assert [math.isnan(alpha) for alpha in history.history["ww/alpha"]] == [False, True, True]
    assert history.history["ww/failed"] == [0, 0, 0]
