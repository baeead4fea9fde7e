"""Rates per layer in Keras, on the backend that KERAS_BACKEND names: at work in the update, and nowhere else."""

from __future__ import annotations

import inspect
import json
import time
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ww_callbacks.keras import LayerwiseLearningRate, SpectralMonitor, layerwise
from ww_callbacks.keras.layers import owners_of, partners_of
from ww_callbacks.keras.layerwise import ratios_in

pytestmark = pytest.mark.timeout(120)

BACKEND = keras.backend.backend()
RATIOS = [0.5, 1.0, 1.5, 0.5]
SHAPES = [(6, 5), (5,), (5, 4), (4, 3)]

OPTIMIZERS = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"weight_decay": 0.02}),
    ("Lion", {"weight_decay": 0.02}),
    ("RMSprop", {"momentum": 0.5}),
    ("Nadam", {}),
    ("Adagrad", {}),
    ("Adadelta", {}),
    ("Adamax", {}),
    ("Adafactor", {"relative_step": False}),
    ("Ftrl", {}),
    ("Lamb", {}),
    ("Muon", {}),
    ("ScheduleFreeAdamW", {}),
]


def made(name: str, rate: float, options: dict[str, Any]) -> Any:
    return getattr(keras.optimizers, name)(rate, **options)


def updated(optimizer: Any, steps: int = 4) -> list[np.ndarray]:
    """Variables after some updates with gradients that are the same in every run."""
    rng = np.random.default_rng(0)
    variables = [keras.Variable(rng.standard_normal(shape), name=f"v{i}") for i, shape in enumerate(SHAPES)]
    optimizer.build(variables)
    for _ in range(steps):
        gradients = [keras.ops.convert_to_tensor(rng.standard_normal(shape), "float32") for shape in SHAPES]
        optimizer.apply(gradients, variables)
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def with_ratios(optimizer: Any, quantity: str = "learning_rate") -> Any:
    """Ratios are set once the variables exist."""
    (ratios,) = ratios_in(layerwise(optimizer))
    build = optimizer.build

    def building(variables: Any) -> None:
        build(variables)
        ratios.set(quantity, RATIOS)

    optimizer.build = building
    return optimizer


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_each_variable_is_updated_at_its_own_rate(name: str, options: dict[str, Any]) -> None:
    if not hasattr(keras.optimizers, name):
        pytest.skip(f"this Keras has no {name}")
    if (name, BACKEND) == ("Muon", "tensorflow"):
        pytest.skip("it fails there by itself outside of a compiled step")
    plain = {ratio: updated(made(name, 0.05 * ratio, options)) for ratio in set(RATIOS)}
    seen = updated(with_ratios(made(name, 0.05, options)))
    for index, ratio in enumerate(RATIOS):
        np.testing.assert_allclose(seen[index], plain[ratio][index], rtol=2e-5, atol=1e-6)
    assert np.abs(plain[0.5][0] - plain[1.0][0]).max() > 1e-4


@pytest.mark.parametrize(
    ("name", "options"), [("SGD", {}), ("AdamW", {}), ("Lion", {}), ("Muon", {"exclude_layers": ["v"]})]
)
def test_each_variable_decays_at_its_own_rate(name: str, options: dict[str, Any]) -> None:
    if not hasattr(keras.optimizers, name):
        pytest.skip(f"this Keras has no {name}")
    if name == "Muon" and "adam_weight_decay" not in inspect.signature(keras.optimizers.Muon).parameters:
        pytest.skip("Muon of this Keras has one weight decay for all its variables")

    def decays(ratio: float) -> dict[str, float]:
        names = ["weight_decay"] + ["adam_weight_decay"] * (name == "Muon")
        return dict.fromkeys(names, 0.4 * ratio)

    plain = {ratio: updated(made(name, 0.05, options | decays(ratio))) for ratio in set(RATIOS)}
    seen = updated(with_ratios(made(name, 0.05, options | decays(1)), "weight_decay"))
    for index, ratio in enumerate(RATIOS):
        np.testing.assert_allclose(seen[index], plain[ratio][index], rtol=2e-5, atol=1e-6)
    assert np.abs(plain[0.5][0] - plain[1.0][0]).max() > 1e-4


def test_what_is_excluded_from_decay_stays_so() -> None:
    def decaying(optimizer: Any) -> Any:
        optimizer.exclude_from_weight_decay(var_names=["v1", "v3"])
        return optimizer

    plain = {ratio: updated(decaying(made("AdamW", 0.05 * ratio, {"weight_decay": 0.4}))) for ratio in set(RATIOS)}
    seen = updated(with_ratios(decaying(made("AdamW", 0.05, {"weight_decay": 0.4}))))
    for index, ratio in enumerate(RATIOS):
        np.testing.assert_allclose(seen[index], plain[ratio][index], rtol=2e-5, atol=1e-6)


# --- in real trainings -----------------------------------------------------------------------------------------------


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((96, 60)).astype("float32"), rng.integers(0, 4, 96)


def network(optimizer: Any, **compiling: Any) -> Any:
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(60, name=f"fc{index}") for index in range(3)]
    parts = [hidden[0], hidden[1], layers.LayerNormalization(name="norm"), hidden[2]]
    model = keras.Sequential([keras.Input((60,)), *parts, layers.Dense(4, name="head", dtype="float32")])
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), **compiling)
    return model


def watching(**options: Any) -> SpectralMonitor:
    return SpectralMonitor(
        **{"every_n_steps": 3, "deterministic": True, "randomize": False, "executor": "thread"} | options
    )


def fit(model: Any, *callbacks: Any, **options: Any) -> Any:
    x, y = data()
    return model.fit(x, y, **{"batch_size": 8, "epochs": 1, "verbose": 0, "callbacks": list(callbacks)} | options)


def weights(model: Any) -> list[np.ndarray]:
    return [np.array(value) for value in model.get_weights()]


def same(first: Any, second: Any) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(weights(first), weights(second), strict=True))


def ratios_of(model: Any) -> np.ndarray:
    variable = ratios_in(model.optimizer)[0].variable  # none before the optimizer is built
    return np.ones((2, 1)) if variable is None else np.array(keras.ops.convert_to_numpy(variable))


class Constant(keras.losses.Loss):
    """Its gradient does not depend on the weights of a linear model."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.sum(y_pred, axis=-1)


def side_by_side(optimizer: Any, **compiling: Any) -> Any:
    """Layers that all see the input: their gradients are the same at every step."""
    keras.utils.set_random_seed(0)
    start = keras.Input((60,))
    outputs = [layers.Dense(60, name=f"fc{index}", dtype="float32")(start) for index in range(5)]
    model = keras.Model(start, layers.Add(dtype="float32")(outputs))
    model.compile(optimizer, Constant(), **compiling)
    return model


class Probe(keras.callbacks.Callback):
    """The last in the list: what is said at each batch, and the rate that users see."""

    def __init__(self, monitor: SpectralMonitor) -> None:
        super().__init__()
        self.monitor, self.ratios, self.rates = monitor, [], []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        verdict = self.monitor.published.verdicts.get("lr_ratio", {})
        self.ratios.append(dict(zip(verdict.get("layers", ()), verdict.get("ratios", ()), strict=True)))
        self.rates.append(float(self.model.optimizer.learning_rate))


CASES = [
    pytest.param({}, {}, "float32", id="plain"),
    pytest.param({}, {"gradient_accumulation_steps": 2}, "float32", id="accumulated"),
    pytest.param({}, {}, "mixed_float16", id="scaled loss"),
]
if BACKEND != "torch":
    CASES += [
        pytest.param({"jit_compile": True}, {}, "float32", id="compiled"),
        pytest.param({"steps_per_execution": 2}, {}, "float32", id="two at once"),
    ]


@pytest.mark.parametrize(("compiling", "options", "policy"), CASES)
@pytest.mark.parametrize("first", ["monitor", "rates"])
def test_a_compiled_step_reads_the_ratios_while_it_runs(
    compiling: dict[str, Any], options: dict[str, Any], policy: str, first: str
) -> None:
    x, _ = data()
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = side_by_side(layerwise(keras.optimizers.SGD(1e-4, **options)), **compiling)
        start = weights(model)
        monitor, rates = watching(every_n_steps=2), LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0)
        probe, callbacks = Probe(monitor), [monitor, rates]
        same_batch = np.repeat(x[:1], 96, axis=0)
        model.fit(
            same_batch,
            np.zeros((96, 60)),
            batch_size=8,
            verbose=0,
            callbacks=[*(callbacks if first == "monitor" else callbacks[::-1]), probe],
        )
    finally:
        keras.config.set_dtype_policy(before)
    per_batch = compiling.get("steps_per_execution", 1)
    every = options.get("gradient_accumulation_steps", 1)
    at_work = [ratios for ratios in probe.ratios for _ in range(per_batch)][every - 1 :: every]
    steps = int(model.optimizer.iterations)
    assert len(at_work) == steps
    for index, (old, new) in enumerate(zip(start[::2], weights(model)[::2], strict=True)):
        expected = sum(ratios.get(f"fc{index}", 1.0) for ratios in at_work)
        np.testing.assert_allclose(old - new, 1e-4 * expected * same_batch[0][:, None] * np.ones(60), atol=2e-6)
    assert len({tuple(ratios.values()) for ratios in at_work}) > 2
    assert (min(at_work[-1].values()), max(at_work[-1].values())) == (0.5, 1.5)
    assert probe.rates == pytest.approx([1e-4] * len(probe.rates))
    assert (ratios_of(model) == 1).all()  # training is over


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(0.05, momentum=0.9),
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.AdamW(0.01),
        lambda: keras.optimizers.Lion(0.001),
    ],
    ids=["SGD", "Adam", "AdamW", "Lion"],
)
def test_hints_and_ratio_one_change_no_bit(make: Any) -> None:
    plain = network(make())
    fit(plain)
    told = network(make())
    fit(told, LayerwiseLearningRate(), watching())
    assert same(plain, told)
    ones = network(layerwise(make()))
    fit(ones, watching(), LayerwiseLearningRate(shrink=False, apply=True, low=1, high=1))
    assert same(plain, ones)
    steered = network(layerwise(make()))
    fit(steered, watching(), LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0))
    assert not same(plain, steered)


def test_what_is_said_is_in_tensorboard_and_norms_follow(tmp_path: Path) -> None:
    monitor = watching(log_dir=str(tmp_path))
    fit(network("sgd"), LayerwiseLearningRate(shrink=False), monitor)
    assert monitor.monitor.lr_ratios() == {"fc0": 1, "fc1": 0.5, "norm": 0.5, "fc2": 1.5, "head": 1} or (
        monitor.monitor.lr_ratios() == {"fc0": 1, "fc1": 1.5, "norm": 1.5, "fc2": 0.5, "head": 1}
    )
    reader = EventAccumulator(str(tmp_path / "ww"), size_guidance={"scalars": 0}).Reload()
    shown = {tag for tag in reader.Tags()["scalars"] if tag.startswith("ww_layer/lr_ratio/")}
    assert shown == {"ww_layer/lr_ratio/001.fc1", "ww_layer/lr_ratio/003.fc2"}
    assert [event.step for event in reader.Scalars("ww_layer/lr_ratio/001.fc1")] == [0, 3, 6, 9, 12]


def test_ratios_move_over_the_ramp_and_end_with_until() -> None:
    class Reading(keras.callbacks.Callback):
        seen: list[float]

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            ratios = ratios_of(self.model)
            self.seen.append(round(float(np.abs(ratios[0] - 1).max()), 6))

    reading = Reading()
    reading.seen = []
    model = network(layerwise(keras.optimizers.SGD(0.0)))  # alphas stay what they are
    fit(
        model,
        watching(every_n_steps=2),
        LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=4, until=10),
        reading,
    )
    assert reading.seen == [0, 0, 0, 0, 0, 0.125, 0.25, 0.375, 0.5, 0.5, 0, 0]


def test_owners_and_partners() -> None:
    inner = keras.Sequential([layers.Conv2D(4, 3, name="conv"), layers.BatchNormalization(name="bn")], name="block")
    model = keras.Sequential([keras.Input((8, 8, 3)), inner, layers.Flatten(), layers.Dense(2, name="head")])
    assert partners_of(model) == {"block.bn": "block.conv"}
    owners = owners_of(model)
    assert [owners[id(variable)] for variable in model.trainable_variables] == [
        *["block.conv"] * 2,
        *["block.bn"] * 2,
        *["head"] * 2,
    ]


# --- saved and loaded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_a_saved_model_is_that_of_the_plain_optimizer(policy: str, tmp_path: Path) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model, plain = network(layerwise(keras.optimizers.Adam(0.01))), network(keras.optimizers.Adam(0.01))
        fit(model, watching(), LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0))
        fit(plain)
        model.save(tmp_path / "model.keras")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # "Skipping variable loading"
            loaded = keras.models.load_model(tmp_path / "model.keras")
    finally:
        keras.config.set_dtype_policy(before)
    saved = [keras.optimizers.serialize(each.optimizer) for each in (model, plain)]
    saved = [json.loads(json.dumps(each).replace(m.optimizer.name, "")) for each, m in zip(saved, (model, plain))]  # noqa: B905
    assert saved[0]["class_name"] == saved[1]["class_name"]
    assert saved[0]["config"].keys() == saved[1]["config"].keys()
    assert type(loaded.optimizer) is type(plain.optimizer)
    assert len(loaded.optimizer.variables) == len(plain.optimizer.variables)
    assert int(loaded.optimizer.iterations) == 12
    ratios = {id(part.variable) for part in ratios_in(model.optimizer)}
    own = [variable for variable in model.optimizer.variables if id(variable) not in ratios]
    for seen, wanted in zip(loaded.optimizer.variables, own, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (seen, wanted)))
    loaded.compile(layerwise(loaded.optimizer), loaded.loss)  # and goes on with ratios
    fit(loaded, watching(), LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0), epochs=2, initial_epoch=1)
    assert int(loaded.optimizer.iterations) == 24


def test_a_multi_optimizer_is_taken_apart() -> None:
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("this Keras has no MultiOptimizer")
    chosen = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1), {".*fc1.*": keras.optimizers.Adam(0.01)})
    optimizer = layerwise(keras.optimizers.MultiOptimizer(chosen))
    assert len(ratios_in(optimizer)) == 2
    with pytest.raises(ValueError, match="finds its optimizers later"):
        layerwise(keras.optimizers.MultiOptimizer(lambda variable: keras.optimizers.SGD()))


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_after_an_exception_in_fit_the_ratios_are_one() -> None:
    class Fail(keras.callbacks.Callback):
        moved = False

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            if batch == 9:
                self.moved = bool((ratios_of(self.model) != 1).any())
                raise KeyError("mine")

    model, fail = network(layerwise(keras.optimizers.SGD(0.05))), Fail()
    with pytest.raises(KeyError, match="mine"):
        fit(model, watching(), LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0), fail)
    assert fail.moved
    end = time.monotonic() + 5
    while (ratios_of(model) != 1).any():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_without_a_monitor_training_does_not_begin() -> None:
    model = network("sgd")
    with pytest.raises(ValueError, match=r"LayerwiseLearningRate needs a SpectralMonitor, which is not among"):
        fit(model, LayerwiseLearningRate())
    monitor = watching()
    fit(model, monitor)
    steps = int(model.optimizer.iterations)
    with pytest.raises(ValueError, match="not among the callbacks"):  # one of an earlier fit is no monitor of this one
        fit(model, LayerwiseLearningRate())
    with pytest.raises(ValueError, match="source: the monitor is not among the callbacks"):
        fit(model, LayerwiseLearningRate(source=monitor))
    assert int(model.optimizer.iterations) == steps


def test_an_optimizer_that_was_not_prepared_is_told_before_the_first_step() -> None:
    model = network("sgd")
    with pytest.raises(ValueError, match=r"apply: the optimizer does not know of ratios; .*layerwise\(keras\.optim"):
        fit(model, watching(), LayerwiseLearningRate(shrink=False, apply=True))
    assert int(model.optimizer.iterations) == 0


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the other backends take it up")
def test_a_step_that_was_compiled_before_is_told() -> None:
    model = network("sgd")
    fit(model)
    layerwise(model.optimizer)
    with pytest.warns(RuntimeWarning, match="compile it again"):
        fit(model, watching(), LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0))


def test_frozen_layers_are_told_once() -> None:
    model = network(layerwise(keras.optimizers.SGD(0.05)))
    model.get_layer("fc1").trainable = False
    model.compile(model.optimizer, model.loss)
    with pytest.warns(RuntimeWarning, match=r"the layers \['fc1'\] are not trained") as caught:
        fit(model, watching(), LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=0))
    assert len([each for each in caught if "not trained" in str(each.message)]) == 1


def test_it_is_said_once_which_layers_take_part_and_warned_where_no_ratio_can_change(caplog: Any) -> None:
    caplog.set_level("INFO", "ww_callbacks")
    fit(network(layerwise(keras.optimizers.SGD(0.05))), watching(), LayerwiseLearningRate(apply=True), epochs=2)
    lines = [each.getMessage() for each in caplog.records if "learning-rate ratios" in each.getMessage()]
    assert lines == [
        "learning-rate ratios: 2 layers take part (fc1, fc2), 2 keep 1: first layer (fc0), last layer (head)"
    ]
    parts = [layers.Dense(60, name=f"fc{index}") for index in range(2)]
    model = keras.Sequential([keras.Input((60,)), *parts, layers.Dense(4, name="head")])
    model.compile(layerwise(keras.optimizers.SGD(0.05)), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.warns(RuntimeWarning, match=r"no ratio can change.*1 layer takes part \(fc1\)"):
        fit(model, watching(), LayerwiseLearningRate(apply=True))


def test_wrong_arguments_are_told_at_construction() -> None:
    for wrong, error, message in [
        ({"low": 2.0}, ValueError, "low, high: expected 0 < low <= high"),
        ({"apply": "yes"}, TypeError, "apply: expected True or False"),
        ({"mapping": "cubic"}, ValueError, "mapping"),
        ({"quantity": "momentum"}, ValueError, "quantity"),
        ({"ramp_steps": -1}, ValueError, "ramp_steps"),
        ({"source": "monitor"}, TypeError, "source: expected a SpectralMonitor"),
    ]:
        with pytest.raises(error, match=message):
            LayerwiseLearningRate(**wrong)
    with pytest.raises(TypeError, match=r"optimizer: expected an optimizer of Keras .* got 'adam'"):
        layerwise("adam")
    model = network("sgd")
    with pytest.raises(ValueError, match="layers: 'nothing' matches no layer"):
        fit(model, watching(), LayerwiseLearningRate(layers=["nothing"]))
    assert int(model.optimizer.iterations) == 0


def test_a_callback_survives_as_a_value_in_a_configuration_file() -> None:
    arguments = {
        "apply": True,
        "mapping": "sigmoid",
        "low": 0.25,
        "high": 4.0,
        "blocks": True,
        "shrink": False,
        "ramp_steps": 7,
        "until": 90,
        "layers": ["fc*"],
        "quantity": "weight_decay",
        "verbose": 0,
    }
    text = json.dumps(keras.saving.serialize_keras_object(LayerwiseLearningRate(**arguments)))
    again = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(again) is LayerwiseLearningRate
    assert again.get_config() == arguments


@pytest.mark.skipif(BACKEND != "jax", reason="only JAX keeps the state of a model elsewhere during training")
def test_the_state_is_fetched_only_where_ratios_move() -> None:
    fetched: list[int] = []

    class Counting(keras.Sequential):
        def jax_state_sync(self) -> None:
            if getattr(self, "_jax_state", None) and not self._jax_state_synced:
                fetched.append(where[0])
            super().jax_state_sync()

    class Where(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            where[0] = batch

    where = [-1]
    model = Counting([keras.Input((60,)), *(layers.Dense(60) for _ in range(4))])
    model.compile(layerwise(keras.optimizers.SGD(0.0)), "mse")
    x, _ = data()
    callbacks = [Where(), watching(every_n_steps=4), LayerwiseLearningRate(shrink=False, apply=True, ramp_steps=2)]
    model.fit(x, x, batch_size=8, verbose=0, callbacks=callbacks)
    assert fetched[:-1] == [4, 8, 9, 10]  # at 8 the result of step 4 is known
