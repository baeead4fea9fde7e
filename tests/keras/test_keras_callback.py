"""The Keras callback in real trainings, on the backend that KERAS_BACKEND names."""

from __future__ import annotations

import csv
import gc
import json
import math
import random
import subprocess
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import psutil
import pytest
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from without_tensorflow import fit_without_tensorflow

import ww_callbacks as ww
from ww_callbacks.keras import (
    LayerwiseLearningRate,
    SpectralEarlyStopping,
    SpectralMonitor,
    layerwise,
    monitor_of,
)

pytestmark = pytest.mark.timeout(120)

BACKEND = keras.backend.backend()
BATCHES = 12
ROOT = Path(__file__).resolve().parents[2]

not_on_torch = pytest.mark.skipif(BACKEND == "torch", reason="Keras does not offer it on the torch backend")


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((BATCHES * 8, 80)).astype("float32"), rng.integers(0, 4, BATCHES * 8)


def network(*, optimizer: Any = "sgd", cls: Any = keras.Sequential, **compile_arguments: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = cls(
        [
            keras.Input((80,)),
            layers.Dense(60, activation="relu", name="first"),
            layers.Dropout(0.2),
            layers.Dense(55, activation="relu", name="second"),
            layers.Dense(4, dtype="float32", name="head"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, **compile_arguments)
    return model


def fit(model: Any, *callbacks: Any, epochs: int = 2, **arguments: Any) -> Any:
    x, y = data()
    return model.fit(x, y, batch_size=8, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments)


def watching(**options: Any) -> SpectralMonitor:
    """Analyse in a thread and draw nothing, unless a test is about the worker process or the figures."""
    return SpectralMonitor(**{"executor": "thread", "figures": False} | options)


def iterations(model: Any) -> int:
    return int(model.optimizer.iterations)


def scalars(folder: Path) -> dict[str, list[Any]]:
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    return {tag: reader.Scalars(tag) for tag in reader.Tags()["scalars"]}


def ww_keys(values: Any) -> set[str]:
    return {key for key in values if key.startswith("ww/")}


# --- when ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "compiling", "expected"),
    [
        pytest.param(10, {"jit_compile": "auto"}, [0, 10, 20, 24], id="plain"),
        pytest.param(5, {"steps_per_execution": 3}, [0, 6, 12, 15, 21, 24], id="three at once", marks=not_on_torch),
        pytest.param(10, {"jit_compile": True}, [0, 10, 20, 24], id="compiled", marks=not_on_torch),
    ],
)
def test_snapshots_are_taken_where_a_multiple_of_the_steps_is_reached_or_passed(
    every: int, compiling: dict[str, Any], expected: list[int]
) -> None:
    monitor = watching(every_n_steps=every, deterministic=True)
    fit(network(**compiling), monitor)
    assert monitor.history.steps == expected


def test_steps_are_those_of_the_optimizer_with_gradient_accumulation() -> None:
    model = network(optimizer=keras.optimizers.SGD(gradient_accumulation_steps=2))
    monitor = watching(every_n_steps=5, deterministic=True)
    fit(model, monitor)
    assert iterations(model) == 12
    assert monitor.history.steps == [0, 5, 10, 12]


@pytest.mark.parametrize(
    ("policy", "accumulated", "expected"),
    [
        ("mixed_bfloat16", None, [0, 10, 20, 24]),
        ("mixed_float16", None, [0, 10, 20, 24]),  # Keras wraps the optimizer
        ("mixed_float16", 2, [0, 10, 12]),
    ],
)
def test_mixed_precision(policy: str, accumulated: int | None, expected: list[int]) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = network(optimizer=keras.optimizers.SGD(gradient_accumulation_steps=accumulated))
        monitor = watching(every_n_steps=10, deterministic=True)
        history = fit(model, monitor)
    finally:
        keras.config.set_dtype_policy(before)
    assert iterations(model) == expected[-1]
    assert monitor.history.steps == expected
    assert [math.isfinite(value) for value in history.history["ww/alpha"]] == [True, True]
    assert monitor.history[-1]["first"].lambda_max == pytest.approx(ww.analyze(model)["first"].lambda_max)


def test_snapshots_by_epochs() -> None:
    monitor = watching(every_n_epochs=2, deterministic=True)
    fit(network(), monitor, epochs=3, validation_data=data())
    assert monitor.history.steps == [0, 24, 36]


def test_a_second_fit_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    monitor = watching(every_n_steps=10, deterministic=True, log_dir=str(tmp_path))
    model = network()
    fit(model, monitor, epochs=1)
    assert monitor.history.steps == [0, 10, 12]
    fit(model, monitor, epochs=2, initial_epoch=1)
    assert monitor.history.steps == [20, 24]
    for tag, events in scalars(tmp_path / "ww").items():
        assert [event.step for event in events] == [0, 10, 12, 20, 24], tag


def test_a_second_fit_has_the_metrics_in_every_epoch_too() -> None:
    """Even where no snapshot is due before the end of its first epochs."""
    monitor, model = watching(), network()
    first = fit(model, monitor)
    second = fit(model, monitor, epochs=3)
    assert ww_keys(first.history) == ww_keys(second.history)
    assert len(second.history["ww/alpha"]) == 3


def test_backup_and_restore_goes_on_with_the_step(tmp_path: Path) -> None:
    class PowerError(Exception):
        pass

    class Power(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise PowerError

    backup = lambda: keras.callbacks.BackupAndRestore(str(tmp_path))  # noqa: E731
    with pytest.raises(PowerError):
        fit(network(), backup(), watching(every_n_steps=10), Power())
    monitor = watching(every_n_steps=10, deterministic=True)
    history = fit(network(), monitor, backup())
    assert monitor.history.steps == [12, 20, 24]
    assert history.epoch == [1]


def test_a_loop_of_train_on_batch() -> None:
    model, (x, y) = network(), data()
    with ww.Monitor(model, every_n_steps=5, deterministic=True) as monitor:
        for start in range(0, len(x), 8):
            model.train_on_batch(x[start : start + 8], y[start : start + 8])
            monitor.step(iterations(model))
    assert monitor.history.steps == [0, 5, 10, 12]
    assert monitor.history[-1]["first"].alpha == pytest.approx(ww.analyze(model)["first"].alpha)
    assert monitor.history[0]["first"].norm != monitor.history[1]["first"].norm


# --- what ------------------------------------------------------------------------------------------------------------


def test_the_last_report_is_that_of_the_trained_weights(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    start = keras.Input((8, 8, 22))
    x = layers.Conv2D(24, 3, name="conv", activation="relu")(start)
    x = layers.SeparableConv2D(30, 3, name="separable", activation="relu")(x)
    x = layers.Reshape((16, 30))(x)
    x = layers.MultiHeadAttention(2, 12, name="attention")(x, x)
    x = layers.LSTM(25, name="lstm")(x)
    model = keras.Model(start, layers.Dense(21, name="dense")(x))
    model.compile(optimizer="adam", loss="mse")
    rng = np.random.default_rng(0)
    before = ww.analyze(model)
    monitor = watching(every_n_steps=2, deterministic=True, log_dir=str(tmp_path))
    model.fit(
        rng.standard_normal((40, 8, 8, 22)), rng.standard_normal((40, 21)), batch_size=8, verbose=0, callbacks=[monitor]
    )
    expected, shown = ww.analyze(model), scalars(tmp_path / "ww")
    assert monitor.history.steps == [0, 2, 4, 5]
    assert len(expected) == len(monitor.history[-1]) > 15
    for index, (seen, wanted) in enumerate(zip(monitor.history[-1], expected, strict=True)):
        assert (seen.name, seen.kind, seen.status, seen.reason) == (
            wanted.name,
            wanted.kind,
            wanted.status,
            wanted.reason,
        )
        assert (seen.lambda_max is None) == (wanted.lambda_max is None)
        for metric in ("lambda_max", "alpha", "stable_rank"):
            if getattr(wanted, metric) is not None:
                assert getattr(seen, metric) == pytest.approx(getattr(wanted, metric), rel=1e-5), (seen.name, metric)
        if wanted.alpha is not None:
            assert shown[f"ww_layer/alpha/{index:03d}.{wanted.name}"][-1].value == pytest.approx(wanted.alpha, rel=1e-5)
            assert wanted.norm != before[wanted.name].norm
    kinds = {layer.kind for layer in expected if layer.alpha is not None}
    assert kinds == {"Conv2D", "SeparableConv2D", "EinsumDense", "LSTMCell", "Dense"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One training with everything that reads logs placed after our callback."""
    folder = tmp_path_factory.mktemp("watched")
    reports: list[ww.Report] = []
    monitor = SpectralMonitor(every_n_steps=5, deterministic=True, log_dir=str(folder), on_result=reports.append)
    csv_logger = keras.callbacks.CSVLogger(str(folder / "log.csv"))
    checkpoint = keras.callbacks.ModelCheckpoint(
        str(folder / "best.weights.h5"), monitor="ww/alpha", mode="min", save_best_only=True, save_weights_only=True
    )
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="ww/alpha", mode="min", patience=1, min_delta=100.0)
    model = network()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(model, monitor, csv_logger, checkpoint, plateau, epochs=3, validation_data=data())
    return SimpleNamespace(
        folder=folder,
        reports=reports,
        monitor=monitor,
        model=model,
        logs=history.history,
        checkpoint=checkpoint,
        warnings=[str(each.message) for each in caught],
    )


def test_history_has_finite_metrics_in_every_epoch(watched: SimpleNamespace) -> None:
    means = {f"ww/{key}" for key in watched.monitor.history[-1].summary()}
    assert means | {"ww/lag_steps", "ww/skipped", "ww/over_budget"} == ww_keys(watched.logs)
    for key in ww_keys(watched.logs):
        assert len(watched.logs[key]) == 3, key
        assert all(math.isfinite(value) for value in watched.logs[key]), key


def test_the_metrics_of_an_epoch_are_those_of_its_last_snapshot_step(watched: SimpleNamespace) -> None:
    """Each snapshot first collects the result of the one before, so at step 10 that of step 5 is known."""
    alphas = dict(zip(watched.monitor.history.steps, watched.monitor.history.series("alpha"), strict=True))
    assert watched.logs["ww/alpha"] == pytest.approx([alphas[5], alphas[15], alphas[30]])


def test_csv_logger_writes_them(watched: SimpleNamespace) -> None:
    with (watched.folder / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["ww/alpha"]) for row in rows] == pytest.approx(watched.logs["ww/alpha"])


def test_stock_checkpoint_and_plateau_find_them_from_the_first_epoch(watched: SimpleNamespace) -> None:
    assert watched.checkpoint.best == pytest.approx(min(watched.logs["ww/alpha"]))
    assert (watched.folder / "best.weights.h5").exists()
    assert float(watched.model.optimizer.learning_rate) < 0.01  # no epoch was better than the first by 100
    assert [message for message in watched.warnings if "ww" in message] == []


def test_every_report_is_given_to_on_result(watched: SimpleNamespace) -> None:
    assert [report.step for report in watched.reports] == watched.monitor.history.steps == [*range(0, 36, 5), 36]
    assert [report.summary() for report in watched.reports] == [r.summary() for r in watched.monitor.history]


def test_tensorboard_has_a_run_of_its_own_beside_those_of_keras(watched: SimpleNamespace) -> None:
    shown = scalars(watched.folder / "ww")
    assert list(watched.folder.glob("events*")) == []
    assert [event.step for event in shown["ww/alpha"]] == watched.monitor.history.steps
    assert [event.value for event in shown["ww/alpha"]] == pytest.approx(watched.monitor.history.series("alpha"))
    assert [event.value for event in shown["ww_layer/alpha/001.second"]] == pytest.approx(
        watched.monitor.history.series("alpha", "second")
    )


def test_stock_early_stopping_stops_by_alpha() -> None:
    stopping = keras.callbacks.EarlyStopping(monitor="ww/alpha", mode="min", patience=1, min_delta=100.0)
    monitor = watching()
    history = fit(network(), monitor, stopping, epochs=9)
    assert history.epoch == [0, 1]
    assert stopping.best == pytest.approx(monitor.history[0].summary()["alpha"])
    assert monitor.history.steps == [0, 24]


@pytest.mark.parametrize("verbose", [1, 2])
def test_the_progress_bar_shows_alpha_on_request_and_none_of_the_other_means(
    verbose: int, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = data()

    def slow_step(batch: int, logs: Any = None) -> None:
        time.sleep(0.06)  # Keras draws the bar again after 0.05 s, not before

    def shown(**options: Any) -> str:
        monitor = watching(every_n_steps=2, deterministic=True, **options)
        slow = keras.callbacks.LambdaCallback(on_train_batch_begin=slow_step)
        history = network().fit(x, y, batch_size=8, verbose=verbose, callbacks=[slow, monitor])
        assert "ww/alpha_median" in history.history
        return capsys.readouterr().out

    assert "ww/" not in shown()
    out = shown(prog_bar=True)
    assert "ww/alpha:" in out.splitlines()[-1]
    assert out.count("ww/") == out.count("ww/alpha:")
    if verbose == 1:
        assert out.count("ww/alpha:") > 1  # during the epoch too


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras's TensorBoard callback needs TensorFlow")
def test_beside_the_tensorboard_callback_of_keras(tmp_path: Path) -> None:
    stock = keras.callbacks.TensorBoard(log_dir=str(tmp_path), update_freq=5)
    fit(network(), stock, watching(every_n_steps=5, log_dir=str(tmp_path)), validation_data=data())
    runs = {path.parent.name for path in tmp_path.rglob("events*")}
    assert runs == {"train", "validation", "ww"}
    reader = EventAccumulator(str(tmp_path / "train")).Reload()
    assert "batch_loss" in reader.Tags()["tensors"]
    assert {event.step for event in scalars(tmp_path / "ww")["ww/alpha"]} >= {0, 24}


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow is the backend")
def test_tensorflow_is_not_needed(tmp_path: Path) -> None:
    """With TensorFlow out of reach, and so that nobody tries to load it where it is."""
    if "tensorflow" not in sys.modules:
        assert fit_without_tensorflow(tmp_path) == []
    else:  # another package has loaded it: a new process, which takes long to import Keras
        code = f"""
import sys
sys.path[:0] = {sys.path!r}
from without_tensorflow import fit_without_tensorflow
print("tried", fit_without_tensorflow(sys.argv[1]))
"""
        command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["tried", "[]"]
    assert "ww/alpha" in scalars(tmp_path / "ww")


# --- how: training does not notice -----------------------------------------------------------------------------------


def test_training_is_bit_identical_with_and_without_the_callback() -> None:
    def run(*callbacks: Any) -> tuple[list[float], list[np.ndarray], Any]:
        model = network(optimizer="adam")
        history = fit(model, *callbacks, epochs=3)
        state = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
        return history.history["loss"], [np.array(value) for value in model.get_weights()], state

    losses, weights, state = run()
    monitor = SpectralMonitor(every_n_steps=3)
    seen_losses, seen_weights, seen_state = run(monitor)
    assert monitor.history.steps[0] == 0
    assert losses == seen_losses
    assert losses[-1] < losses[0]
    for value, seen in zip(weights, seen_weights, strict=True):
        np.testing.assert_array_equal(value, seen)
    assert state == seen_state


@pytest.mark.filterwarnings("ignore:.*no ratio can change")
def test_batches_are_still_dispatched_asynchronously() -> None:
    """Keras then calls what observes the end of a batch in other threads, and goes on with the next batch."""

    class Where(keras.callbacks.Callback):
        async_safe = True
        threads: set[int]

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.threads.add(threading.get_ident())

    def is_synchronous(*callbacks: Any) -> bool:
        where = Where()
        where.threads = set()
        fit(network(optimizer=layerwise(keras.optimizers.SGD())), where, *callbacks, epochs=1)
        return threading.get_ident() in where.threads

    monitor = watching(every_n_steps=5, prog_bar=True)
    assert is_synchronous(monitor, SpectralEarlyStopping(), LayerwiseLearningRate(apply=True)) is (
        BACKEND == "tensorflow"
    )
    slow = type("Slow", (SpectralMonitor,), {"on_train_batch_end": lambda *_, **__: None})  # this is what would be seen
    assert is_synchronous(slow(executor="thread"))


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX keeps the state of a model elsewhere during training")
def test_the_state_is_fetched_once_per_snapshot_and_on_no_other_batch() -> None:
    where: list[tuple[int, int] | None] = [None]
    fetched: list[tuple[int, int]] = []

    class Counting(keras.Sequential):
        def jax_state_sync(self) -> None:
            if where[-1] is not None and getattr(self, "_jax_state", None) and not self._jax_state_synced:
                fetched.append(where[-1])
            super().jax_state_sync()

    class Before(keras.callbacks.Callback):
        epoch = 0

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            where.append((self.epoch, batch))

    class After(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            where.append(None)

    monitor = watching(every_n_steps=5)
    fit(network(cls=Counting), Before(), monitor, After())
    # Between epochs Keras has fetched it itself, so the baseline and the last snapshot cost nothing.
    assert fetched == [(0, 5), (0, 10), (1, 3), (1, 8)]


def test_evaluation_starts_nothing() -> None:
    monitor, model = SpectralMonitor(every_n_steps=1), network()
    x, y = data()
    model.evaluate(x, y, verbose=0, callbacks=[monitor])
    model.predict(x, verbose=0, callbacks=[monitor])
    assert monitor.monitor is None
    assert len(monitor.history) == 0


def test_evaluation_inside_of_fit_is_ignored() -> None:
    """With validation data, and by a callback that evaluates with the same callbacks again."""

    class Evaluate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            workers.append([p.pid for p in psutil.Process().children() if "ww_callbacks.worker" in p.cmdline()])
            self.model.evaluate(*data(), verbose=0, callbacks=[monitor])
            gc.collect()

    workers: list[list[int]] = []
    monitor = SpectralMonitor(every_n_steps=10, deterministic=True)
    fit(network(), Evaluate(), monitor, validation_data=data())
    assert monitor.history.steps == [0, 10, 20, 24]
    assert len(workers[0]) == 1
    assert workers[0] == workers[1]


# --- the registry ----------------------------------------------------------------------------------------------------


class Seeker(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.found.append(monitor_of(self.model))


def test_other_callbacks_find_the_monitor_in_any_order_and_it_keeps_nothing_alive() -> None:
    first, last, monitor = Seeker(), Seeker(), SpectralMonitor()
    model = network()
    assert monitor_of(model) is None
    fit(model, first, monitor, last, epochs=1)
    assert first.found == last.found == [monitor]
    assert monitor_of(network()) is None

    seen_model, seen_monitor = weakref.ref(model), weakref.ref(monitor)
    model.history = None
    del monitor, first, last
    gc.collect()
    assert seen_monitor() is None
    assert monitor_of(model) is None
    del model
    keras.utils.clear_session()
    gc.collect()
    assert seen_model() is None


# --- arguments and configuration -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"every_n_steps": 0}, ValueError, r"every_n_steps: expected at least 1, got 0"),
        ({"every_n_steps": 1.5}, TypeError, r"every_n_steps: expected a whole number, got 1\.5"),
        ({"every_n_epochs": 0}, ValueError, r"every_n_epochs: expected at least 1, got 0"),
        ({"every_n_steps": 5, "every_n_epochs": 1}, ValueError, r"every_n_steps, every_n_epochs: give one of them"),
        ({"layers": "dense"}, TypeError, r"layers: expected a list of patterns"),
        ({"layers": []}, ValueError, r"layers: expected at least one pattern"),
        ({"log_every_layer": "all"}, TypeError, r"log_every_layer: expected a list of patterns"),
        ({"log_dir": 5}, TypeError, r"log_dir: expected a path or None, got 5"),
        ({"jsonl": 5}, TypeError, r"jsonl: expected a path, True, False or None, got 5"),
        ({"prog_bar": "yes"}, TypeError, r"prog_bar: expected True or False, got 'yes'"),
        ({"on_result": "print"}, TypeError, r"on_result: expected a function or None, got 'print'"),
        ({"conv_scale": "half"}, ValueError, r"conv_scale: expected"),
        ({"deterministic": "wait"}, TypeError, r"deterministic: expected True, False or None, got 'wait'"),
        ({"workers": 0}, ValueError, r"workers: expected at least 1, got 0"),
        ({"timeout": "1"}, TypeError, r"timeout: expected a number of seconds"),
        ({"on_error": "ignore"}, ValueError, r"on_error: expected one of 'warn', 'raise'"),
        ({"jsonl": True}, ValueError, r"jsonl: True writes into log_dir, which is None"),
        ({"every": 5}, TypeError, r"unexpected keyword argument 'every'"),
    ],
)
def test_wrong_arguments_are_told_at_construction(arguments: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        SpectralMonitor(**arguments)


def test_a_callback_survives_as_a_value_in_a_configuration_file() -> None:
    arguments = {
        "every_n_steps": None,
        "every_n_epochs": 3,
        "layers": ["*", "!head"],
        "log_every_layer": ["first"],
        "log_dir": "runs/a",
        "jsonl": True,
        "prog_bar": True,
        "conv_scale": "paper",
        "deterministic": True,
        "timeout": 6.0,
        "on_error": "raise",
    }
    original = SpectralMonitor(**arguments, on_result=print)
    text = json.dumps(keras.saving.serialize_keras_object(original))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is SpectralMonitor
    assert again.get_config() == original.get_config()
    assert arguments.items() <= again.get_config().items()
    assert SpectralMonitor.from_config(SpectralMonitor().get_config()).get_config() == SpectralMonitor().get_config()


def test_a_folder_given_as_a_path_survives_too(tmp_path: Path) -> None:
    text = json.dumps(keras.saving.serialize_keras_object(SpectralMonitor(log_dir=tmp_path)))  # type: ignore[arg-type]
    assert str(keras.saving.deserialize_keras_object(json.loads(text)).get_config()["log_dir"]) == str(tmp_path)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_a_misspelt_pattern_ends_before_the_first_step() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"layers: 'firts' matches no layer; the layers are \['first'"):
        fit(model, SpectralMonitor(layers=["firts"]))
    assert iterations(model) == 0


def test_a_folder_that_cannot_be_written_is_told_and_training_goes_on(tmp_path: Path) -> None:
    model = network()
    (tmp_path / "file").write_text("")
    monitor = watching(every_n_steps=1000, log_dir=str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="results are not written") as caught:
        history = fit(model, monitor)
    assert len(our_warnings(caught)) == 1
    assert iterations(model) == 24
    assert len(history.history["ww/alpha"]) == 2


def our_warnings(caught: Any) -> list[str]:
    return [str(each.message) for each in caught if "ww_callbacks" in str(each.message)]


class Scale(layers.Layer):
    def build(self, shape: Any) -> None:
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")

    def call(self, x: Any) -> Any:
        return x * self.factor


def bare() -> Iterator[Any]:
    yield layers.DepthwiseConv1D(2, name="depthwise")
    yield Scale(name="scale")


def test_a_model_without_an_analysable_layer_trains_with_one_warning() -> None:
    model = keras.Sequential([keras.Input((6, 5)), *bare()])
    model.compile(optimizer="sgd", loss="mse")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x = np.ones((32, 6, 5))
        monitor = SpectralMonitor(every_n_steps=2)
        history = model.fit(x, x[:, :5], batch_size=8, epochs=2, verbose=0, callbacks=[monitor])
    (message,) = our_warnings(caught)
    assert "nothing to analyse" in message
    assert "depthwise: no matrix: a depthwise kernel does not mix channels" in message
    assert "scale: no matrix" in message
    assert iterations(model) == 8
    assert len(history.history["loss"]) == 2
    assert len(monitor.history) == 0


def test_frozen_layers_are_analysed_too() -> None:
    model = network()
    model.get_layer("first").trainable = False
    monitor = watching(every_n_steps=12, deterministic=True)
    fit(model, monitor, epochs=1)
    assert monitor.history.steps == [0, 12]
    norms, others = monitor.history.series("norm", "first"), monitor.history.series("norm", "second")
    assert norms[0] == norms[1]
    assert others[0] != others[1]


def test_a_frozen_model_is_analysed_as_far_as_its_optimizer_goes() -> None:
    model = network()
    model.trainable = False
    monitor = watching(every_n_steps=5, deterministic=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(model, monitor)
    assert our_warnings(caught) == []
    assert monitor.history.steps[0] == 0
    assert monitor.history.steps[-1] == iterations(model)
    assert len(history.history["ww/alpha"]) == 2
    assert len(set(monitor.history.series("norm", "first"))) == 1


def built_late() -> Any:
    class Block(layers.Layer):
        def build(self, shape: Any) -> None:
            self.dense = layers.Dense(60, name="dense")
            self.dense.build(shape)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block(name="block")
            self.head = layers.Dense(4, name="head")

        def call(self, x: Any) -> Any:
            return self.head(self.block(x))

    keras.utils.set_random_seed(0)
    model = Model()
    model.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_a_model_that_is_built_by_its_first_batch() -> None:
    monitor = watching(every_n_steps=10, deterministic=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(built_late(), monitor)
    assert our_warnings(caught) == []
    assert monitor.history.steps[0] in (0, 1)
    assert monitor.history.steps[1:] == [10, 20, 24]
    assert len(history.history["ww/alpha"]) == 2
    assert monitor.history[-1]["block.dense"].status == "ok"


def test_weights_that_become_nan_do_not_disturb_training() -> None:
    class Breaker(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                kernel = self.model.get_layer("second").kernel
                kernel.assign(np.full(kernel.shape, np.nan, "float32"))

    monitor = watching(every_n_steps=8, deterministic=True)
    history = fit(network(), Breaker(), monitor, epochs=3)
    assert monitor.history.steps == [0, 8, 16, 24, 32, 36]
    last = monitor.history[-1]
    assert (last["second"].status, last["second"].reason) == ("failed", "non-finite weights")
    for key in ww_keys(history.history):
        assert len(history.history[key]) == 3, key
        assert math.isfinite(history.history[key][0]), key
    assert math.isnan(history.history["ww/alpha"][-1])
    assert history.history["ww/failed"][-1] >= 1


def test_an_on_result_that_raises_ends_neither_monitoring_nor_training() -> None:
    def broken(report: ww.Report) -> None:
        raise KeyError("mine")

    model, monitor = network(), watching(every_n_steps=5, on_result=broken)
    with pytest.warns(RuntimeWarning, match="on_result is disabled: KeyError: 'mine'"):
        fit(model, monitor)
    assert iterations(model) == monitor.history.steps[-1] == 24


def test_an_exception_in_fit_leaves_no_worker_and_the_callback_can_be_used_again() -> None:
    class Fail(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 3:
                raise KeyError("mine")

    monitor, model = SpectralMonitor(every_n_steps=1), network()
    with pytest.raises(KeyError, match="mine"):
        fit(model, monitor, Fail())
    workers = [p for p in psutil.Process().children() if "ww_callbacks.worker" in p.cmdline()]
    assert not psutil.wait_procs(workers, timeout=2)[1]
    other = network()
    fit(other, monitor, epochs=1)
    assert monitor.history.steps[0] == 0
    assert monitor.history.steps[-1] == iterations(other) == 12
    assert monitor_of(other) is monitor


def test_an_exception_that_is_kept_leaves_no_worker_either() -> None:
    """Notebooks keep the last exception, with all frames of fit in its traceback."""

    class Fail(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 3:
                raise KeyError("mine")

    kept = None
    try:
        fit(network(), SpectralMonitor(every_n_steps=1), Fail())
    except KeyError as error:
        kept = error
    workers = [p for p in psutil.Process().children() if "ww_callbacks.worker" in p.cmdline()]
    _, alive = psutil.wait_procs(workers, timeout=3)
    del kept
    gc.collect()
    assert alive == []
