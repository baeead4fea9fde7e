"""Which matrices a Keras layer holds: held against what the layer itself does with a random input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import ww_callbacks as ww
from ww_callbacks.analysis import as_matrices
from ww_callbacks.weights import find_layers, select_layers

Array = np.ndarray
Matrices = dict[str, Array]


def matrices_of(model: Any, **arguments: Any) -> Matrices:
    """What we extract: name → (pooled, rows = outputs, columns = inputs)."""
    found = [layer for layer in find_layers(model, **arguments) if layer.spec is not None]
    assert len({layer.name for layer in found}) == len(found)
    return {layer.name: as_matrices(layer.spec, layer.read()) for layer in found}


def reasons_of(model: Any, **arguments: Any) -> dict[str, str]:
    return {layer.name: layer.reason for layer in find_layers(model, **arguments) if layer.spec is None}


def noise(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def to_numpy(value: Any) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(value))


def built(layer: Any, *inputs: Array) -> Any:
    layer(*inputs)
    return layer


def only(matrices: Matrices) -> Array:
    assert len(matrices) == 1, list(matrices)
    return next(iter(matrices.values()))


# --- what layers do, in numpy ----------------------------------------------------------------------------------------


def dense(matrices: Matrices, x: Array) -> Array:
    (matrix,) = only(matrices)
    return x @ matrix.T


def embedding(matrices: Matrices, x: Array) -> Array:
    (matrix,) = only(matrices)
    return np.eye(matrix.shape[1])[x] @ matrix.T


def taps(x: Array, matrices: Array, kernel: tuple[int, ...], groups: int = 1) -> Array:
    """A convolution without padding: each position of the kernel is a matrix (for each group) between channels."""
    sizes = [size - k + 1 for size, k in zip(x.shape[1:-1], kernel, strict=True)]
    assert len(matrices) == np.prod(kernel) * groups
    result = np.zeros(())
    for at, by_group in zip(np.ndindex(*kernel), matrices.reshape(-1, groups, *matrices.shape[1:]), strict=True):
        window = x[(slice(None), *(slice(i, i + size) for i, size in zip(at, sizes, strict=True)))]
        parts = np.split(window, groups, axis=-1)
        parts = [part @ matrix.T for part, matrix in zip(parts, by_group, strict=True)]
        result = result + np.concatenate(parts, axis=-1)
    return result


def convolution(*kernel: int, groups: int = 1) -> Callable[[Matrices, Array], Array]:
    return lambda matrices, x: taps(x, only(matrices), kernel, groups)


def transposed(*kernel: int) -> Callable[[Matrices, Array], Array]:
    def forward(matrices: Matrices, x: Array) -> Array:
        stack, sizes = only(matrices), x.shape[1:-1]
        assert len(stack) == np.prod(kernel)
        result = np.zeros((len(x), *(s + k - 1 for s, k in zip(sizes, kernel, strict=True)), stack.shape[1]))
        for at, matrix in zip(np.ndindex(*kernel), stack, strict=True):
            result[(slice(None), *(slice(i, i + s) for i, s in zip(at, sizes, strict=True)))] += x @ matrix.T
        return result

    return forward


def per_head(matrices: Matrices, x: Array) -> Array:
    stack = only(matrices)
    return np.stack([x[:, head] @ matrix.T for head, matrix in enumerate(stack)], axis=1)


def reshaped(outputs: tuple[int, ...], inputs: int = 1) -> Callable[[Matrices, Array], Array]:
    """One matrix over the last ``inputs`` axes, into axes of the sizes ``outputs``."""

    def forward(matrices: Matrices, x: Array) -> Array:
        (matrix,) = only(matrices)
        kept = x.shape[: x.ndim - inputs]
        return (x.reshape(*kept, -1) @ matrix.T).reshape(*kept, *outputs)

    return forward


def attention(matrices: Matrices, x: Array, heads: int = 4, key_value_heads: int = 4) -> Array:
    split = lambda y, count: y.reshape(*y.shape[:2], count, -1).transpose(0, 2, 1, 3)  # noqa: E731
    query = split(x @ matrices["query"][0].T, heads)
    key, value = (split(x @ matrices[name][0].T, key_value_heads) for name in ("key", "value"))
    key, value = (np.repeat(y, heads // key_value_heads, axis=1) for y in (key, value))
    scores = np.exp(query @ key.transpose(0, 1, 3, 2) / np.sqrt(query.shape[-1]))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ value
    return mixed.transpose(0, 2, 1, 3).reshape(*x.shape[:2], -1) @ matrices["attention_output"][0].T


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def lstm(matrices: Matrices, x: Array) -> Array:
    gate = lambda name, now, h: now @ of[f"kernel.{name}"].T + h @ of[f"recurrent_kernel.{name}"].T  # noqa: E731
    of = {name.partition("lstm_cell.")[2]: matrix for name, (matrix,) in matrices.items()}
    h = c = np.zeros((len(x), len(of["kernel.i"])))
    for now in x.transpose(1, 0, 2):
        i, f, o = (sigmoid(gate(name, now, h)) for name in "ifo")
        c = f * c + i * np.tanh(gate("c", now, h))
        h = o * np.tanh(c)
    return h


def gru(matrices: Matrices, x: Array) -> Array:
    of = {name.partition("gru_cell.")[2]: matrix for name, (matrix,) in matrices.items()}
    h = np.zeros((len(x), len(of["kernel.z"])))
    for now in x.transpose(1, 0, 2):
        z, r = (sigmoid(now @ of[f"kernel.{g}"].T + h @ of[f"recurrent_kernel.{g}"].T) for g in "zr")
        candidate = np.tanh(now @ of["kernel.h"].T + r * (h @ of["recurrent_kernel.h"].T))
        h = z * h + (1 - z) * candidate
    return h


def simple_rnn(matrices: Matrices, x: Array) -> Array:
    of = {name.rpartition(".")[2]: matrix for name, (matrix,) in matrices.items()}
    h = np.zeros((len(x), len(of["kernel"])))
    for now in x.transpose(1, 0, 2):
        h = np.tanh(now @ of["kernel"].T + h @ of["recurrent_kernel"].T)
    return h


def both_ways(matrices: Matrices, x: Array) -> Array:
    forward, backward = (
        {name: matrix for name, matrix in matrices.items() if name.startswith(way)} for way in ("forward", "backward")
    )
    return np.concatenate([simple_rnn(forward, x), simple_rnn(backward, x[:, ::-1])], axis=-1)


def stacked(matrices: Matrices, x: Array) -> Array:
    (first,), (second,) = (matrices[f"stacked_rnn_cells.{name}.kernel"] for name in ("one", "two"))
    (again,), (second_again,) = (matrices[f"stacked_rnn_cells.{name}.recurrent_kernel"] for name in ("one", "two"))
    h = np.zeros((len(x), len(first)))
    g = np.zeros((len(x), len(second)))
    for now in x.transpose(1, 0, 2):
        h = np.tanh(now @ first.T + h @ again.T)
        g = np.tanh(h @ second.T + g @ second_again.T)
    return g


def in_turn(*names: str) -> Callable[[Matrices, Array], Array]:
    """Dense layers one after the other, and no others."""

    def forward(matrices: Matrices, x: Array) -> Array:
        assert list(matrices) == list(names)
        for name in names:
            (matrix,) = matrices[name]
            x = x @ matrix.T
        return x

    return forward


# --- the layers ------------------------------------------------------------------------------------------------------


class Block(layers.Layer):
    """A layer whose parts come into being when it is built, as in many transformers."""

    def build(self, shape: Any) -> None:
        self.inner = [layers.Dense(6, name="up"), keras.Sequential([layers.Dense(shape[-1], name="down")], name="end")]
        for part, size in zip(self.inner, (shape[-1], 6), strict=True):
            part.build((*shape[:-1], size))

    def call(self, x: Any) -> Any:
        for part in self.inner:
            x = part(x)
        return x


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Dense(7, name="first")
        self.blocks = [Block(name=f"block{index}") for index in range(2)]

    def call(self, x: Any) -> Any:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


def nested_functional() -> Any:
    start = keras.Input((5,))
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(7, name="a"), layers.Dense(3, name="b")], name="inner")
    shared = layers.Dense(3, name="shared", use_bias=False)
    x = shared(inner(layers.Dense(6, name="start")(start)))
    return keras.Model(start, layers.Dense(4, name="end")(x))


def with_lora(layer: Any, *inputs: Array) -> Any:
    built(layer, *inputs)
    layer.enable_lora(2, lora_alpha=3)
    which = "embeddings" if isinstance(layer, layers.Embedding) else "kernel"
    up = getattr(layer, f"lora_{which}_b")
    up.assign(noise(*up.shape))
    return layer


def quantized(layer: Any, *inputs: Array, mode: str = "int8") -> Any:
    built(layer, *inputs)
    layer.quantize(mode)
    return layer


@dataclass
class Case:
    """A layer, an input, and what the layer makes of the input, computed with our matrices."""

    layer: Callable[[Array], Any]
    x: Array
    forward: Callable[[Matrices, Array], Array]
    call: Callable[[Any, Array], Any] = lambda layer, x: layer(x)


VECTORS, SERIES, IDS = noise(3, 5), noise(3, 6, 5), np.array([[0, 3], [8, 3]])

CASES = {
    "Dense": Case(lambda x: built(layers.Dense(4), x), VECTORS, dense),
    "Dense on a series": Case(lambda x: built(layers.Dense(4), x), SERIES, dense),
    "Conv1D": Case(lambda x: built(layers.Conv1D(4, 3), x), SERIES, convolution(3)),
    "Conv2D": Case(lambda x: built(layers.Conv2D(4, (3, 2)), x), noise(2, 6, 5, 3), convolution(3, 2)),
    "Conv3D": Case(lambda x: built(layers.Conv3D(4, (3, 2, 1)), x), noise(2, 4, 5, 3, 2), convolution(3, 2, 1)),
    "Conv1D, groups": Case(lambda x: built(layers.Conv1D(9, 2, groups=3), x), noise(2, 5, 6), convolution(2, groups=3)),
    "Conv2D, groups": Case(
        lambda x: built(layers.Conv2D(6, (3, 2), groups=2), x), noise(2, 6, 5, 8), convolution(3, 2, groups=2)
    ),
    "Conv1DTranspose": Case(lambda x: built(layers.Conv1DTranspose(4, 3), x), SERIES, transposed(3)),
    "Conv2DTranspose": Case(lambda x: built(layers.Conv2DTranspose(4, (3, 2)), x), noise(2, 4, 5, 3), transposed(3, 2)),
    "Conv3DTranspose": Case(
        lambda x: built(layers.Conv3DTranspose(4, (3, 2, 1)), x), noise(2, 3, 4, 3, 2), transposed(3, 2, 1)
    ),
    "Embedding": Case(lambda x: built(layers.Embedding(9, 4), x), IDS, embedding),
    "...x,xy->...y": Case(lambda x: built(layers.EinsumDense("...x,xy->...y", 4), x), SERIES, dense),
    "ab,cb->ac": Case(lambda x: built(layers.EinsumDense("ab,cb->ac", 4), x), VECTORS, dense),
    "abc,cde->abde": Case(
        lambda x: built(layers.EinsumDense("abc,cde->abde", (None, 4, 2)), x), SERIES, reshaped((4, 2))
    ),
    "abcd,cde->abe": Case(
        lambda x: built(layers.EinsumDense("abcd,cde->abe", (None, 7)), x), noise(2, 3, 4, 5), reshaped((7,), 2)
    ),
    "bhd,hde->bhe": Case(lambda x: built(layers.EinsumDense("bhd,hde->bhe", (3, 4)), x), noise(2, 3, 5), per_head),
    "bhd,ehd->bhe": Case(lambda x: built(layers.EinsumDense("bhd,ehd->bhe", (3, 4)), x), noise(2, 3, 5), per_head),
    "MultiHeadAttention": Case(
        lambda x: built(layers.MultiHeadAttention(4, 6), x, x), noise(2, 3, 8), attention, lambda layer, x: layer(x, x)
    ),
    "GroupQueryAttention": Case(
        lambda x: built(layers.GroupQueryAttention(6, 4, 2), x, x),
        noise(2, 3, 8),
        lambda matrices, x: attention(matrices, x, key_value_heads=2),
        lambda layer, x: layer(x, x),
    ),
    "LSTM": Case(lambda x: built(layers.LSTM(4, unit_forget_bias=False), x), SERIES, lstm),
    "GRU": Case(lambda x: built(layers.GRU(4), x), SERIES, gru),
    "SimpleRNN": Case(lambda x: built(layers.SimpleRNN(4), x), SERIES, simple_rnn),
    "stacked cells": Case(
        lambda x: built(layers.RNN([layers.SimpleRNNCell(4, name="one"), layers.SimpleRNNCell(3, name="two")]), x),
        SERIES,
        stacked,
    ),
    "Bidirectional": Case(lambda x: built(layers.Bidirectional(layers.SimpleRNN(4)), x), SERIES, both_ways),
    "TimeDistributed": Case(lambda x: built(layers.TimeDistributed(layers.Dense(4)), x), SERIES, dense),
    "SpectralNormalization": Case(lambda x: built(layers.SpectralNormalization(layers.Dense(4)), x), VECTORS, dense),
    "Sequential in functional": Case(
        lambda _: nested_functional(), VECTORS, in_turn("start", "inner.a", "inner.b", "shared", "end")
    ),
    "subclassed": Case(
        lambda x: built(Subclassed(), x),
        VECTORS,
        in_turn("first", "block0.up", "block0.end.down", "block1.up", "block1.end.down"),
    ),
    "Dense with LoRA": Case(lambda x: with_lora(layers.Dense(4), x), VECTORS, dense),
    "Embedding with LoRA": Case(lambda x: with_lora(layers.Embedding(9, 4), x), IDS, embedding),
    "EinsumDense with LoRA": Case(
        lambda x: with_lora(layers.EinsumDense("abc,cde->abde", (None, 4, 2)), x), SERIES, reshaped((4, 2))
    ),
    "Conv1D with LoRA": Case(lambda x: with_lora(layers.Conv1D(4, 3), x), SERIES, convolution(3)),
    "Conv2D with LoRA": Case(lambda x: with_lora(layers.Conv2D(4, (3, 2)), x), noise(2, 6, 5, 3), convolution(3, 2)),
    "Conv3D with LoRA": Case(
        lambda x: with_lora(layers.Conv3D(4, (2, 2, 1)), x), noise(2, 4, 5, 3, 2), convolution(2, 2, 1)
    ),
    # An input of ones and zeros: int8 layers round their inputs as well.
    "Dense in int8": Case(lambda x: quantized(layers.Dense(4), x), np.eye(5, dtype="float32"), dense),
    "Dense in int8 with LoRA": Case(
        lambda x: quantized(with_lora(layers.Dense(4), x), x), np.eye(5, dtype="float32"), dense
    ),
    "Embedding in int8": Case(lambda x: quantized(layers.Embedding(9, 4), x), IDS, embedding),
}


@pytest.mark.parametrize("name", CASES)
def test_a_layer_does_what_our_matrices_do(name: str) -> None:
    case = CASES[name]
    layer = case.layer(case.x)
    expected = to_numpy(case.call(layer, case.x))
    seen = case.forward(matrices_of(layer), case.x)
    assert seen.shape == expected.shape
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(seen, expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "rank", "kernel"), [(layers.SeparableConv1D, 1, (3,)), (layers.SeparableConv2D, 2, (3, 2))]
)
def test_separable_convolutions_hold_the_pointwise_matrix(kind: Any, rank: int, kernel: tuple[int, ...]) -> None:
    x = noise(2, *(6, 5)[:rank], 3)
    layer = built(kind(5, kernel if rank > 1 else kernel[0], depth_multiplier=2), x)
    depthwise = to_numpy(layer.depthwise_kernel)
    diagonal = np.zeros((*kernel, 6, 3))  # output c·2 + m reads input c alone
    for channel in range(3):
        for multiple in range(2):
            diagonal[..., 2 * channel + multiple, channel] = depthwise[..., channel, multiple]
    spread = taps(x, diagonal.reshape(-1, 6, 3), kernel)
    (pointwise,) = only(matrices_of(layer))
    np.testing.assert_allclose(spread @ pointwise.T, to_numpy(layer(x)), rtol=1e-3, atol=2e-5)
    assert "does not mix channels" in reasons_of(layer)[f"{layer.name}.depthwise_kernel"]


# --- what is listed and not analysed ---------------------------------------------------------------------------------


class Own(layers.Layer):
    """A layer of a user's own, with a weight that no rule knows."""

    def build(self, shape: Any) -> None:
        self.mixer = self.add_weight(shape=(shape[-1], 3), name="mixer")
        self.fixed = self.add_weight(shape=(4, 3), name="fixed", trainable=False)

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, self.mixer)


SKIPPED = {
    "DepthwiseConv1D": (lambda: built(layers.DepthwiseConv1D(3, name="it"), SERIES), {"it": "does not mix channels"}),
    "DepthwiseConv2D": (
        lambda: built(layers.DepthwiseConv2D(3, name="it"), noise(2, 6, 5, 3)),
        {"it": "does not mix channels"},
    ),
    "Conv2D, one channel per group": (
        lambda: built(layers.Conv2D(6, 3, groups=3, name="it"), noise(2, 6, 5, 3)),
        {"it": "does not mix channels"},
    ),
    "EinsumDense that scales": (
        lambda: built(layers.EinsumDense("abc,bc->abc", (6, 5), name="it"), SERIES),
        {"it": "no matrix"},
    ),
    "BatchNormalization": (
        lambda: built(layers.BatchNormalization(name="it"), VECTORS),
        {"it": "fewer than two dimensions"},
    ),
    "LayerNormalization": (
        lambda: built(layers.LayerNormalization(name="it"), VECTORS),
        {"it": "fewer than two dimensions"},
    ),
    "PReLU": (
        lambda: built(layers.PReLU(name="it"), SERIES),
        {"it.alpha": "register_layer(PReLU, ...)"},
    ),
    "ConvLSTM1D": (
        lambda: built(layers.ConvLSTM1D(4, 2), noise(2, 3, 7, 5)),
        {"conv_lstm_cell.kernel": "no rule", "conv_lstm_cell.recurrent_kernel": "no rule"},
    ),
    "a layer of a user's own": (
        lambda: built(Own(name="it"), VECTORS),
        {"it.mixer": "register_layer(Own, ...)", "it.fixed": "register_layer(Own, ...)"},
    ),
}


@pytest.mark.parametrize("name", SKIPPED)
def test_what_holds_no_known_matrix_is_listed_with_the_reason(name: str) -> None:
    make, expected = SKIPPED[name]
    model = make()
    reasons = reasons_of(model)
    assert matrices_of(model) == {}
    assert list(reasons) == list(expected)
    for entry, reason in expected.items():
        assert reason in reasons[entry]


def test_large_embeddings_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built(keras.Sequential([layers.Embedding(30, 4, name="tokens"), layers.Dense(2, name="head")]), IDS)
    monkeypatch.setattr("ww_callbacks.weights.kinds.MAX_ROWS", 30)
    assert list(matrices_of(model)) == ["tokens", "head"]
    monkeypatch.setattr("ww_callbacks.weights.kinds.MAX_ROWS", 29)
    assert list(matrices_of(model)) == ["head"]
    assert "30 rows, more than 29;" in reasons_of(model)["tokens"]
    assert [layer.spec is not None for layer in select_layers(find_layers(model), ["tokens"])] == [True, False]


def test_a_layer_called_twice_is_one_layer() -> None:
    x = keras.Input((5,))
    twice = layers.Dense(5, name="twice")
    inner = keras.Sequential([twice], name="inner")
    model = keras.Model(x, inner(twice(twice(x))))
    assert list(matrices_of(model)) == ["twice"]


def test_a_weight_of_two_layers_is_analysed_once() -> None:
    class Tied(layers.Dense):
        def build(self, shape: Any) -> None:
            self._kernel, self.bias, self.built = lender._kernel, None, True

    lender = built(layers.Dense(5, name="lender"), VECTORS)
    model = built(keras.Sequential([lender, Tied(5, name="tied", use_bias=False)]), VECTORS)
    assert list(matrices_of(model)) == ["lender"]
    assert reasons_of(model) == {"tied": "shares its weight with lender"}


def test_the_kernel_that_spectral_normalization_shares_with_its_layer_is_not_called_unknown() -> None:
    layer = built(layers.SpectralNormalization(layers.Dense(4, name="it"), name="wrapper"), VECTORS)
    assert list(matrices_of(layer)) == ["it"]
    assert not [reason for name, reason in reasons_of(layer).items() if "kernel" in name and "no rule" in reason]


@pytest.mark.timeout(60)
def test_layers_of_one_name_have_results_of_their_own() -> None:
    """A subclassed model may give one name to several layers."""

    class Twins(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = layers.Dense(50, name="twin"), layers.Dense(50, name="twin")

        def call(self, x: Any) -> Any:
            return self.second(self.first(x))

    model = built(Twins(), noise(2, 50))
    with ww.Monitor(model) as monitor:
        monitor.wait_for_first()
    seen, expected = monitor.history[0], ww.analyze(model)
    assert [layer.name for layer in seen] == [layer.name for layer in expected]
    assert [layer.norm for layer in seen] == pytest.approx([layer.norm for layer in expected])
    assert expected.layers[0].norm != expected.layers[1].norm


def more_models() -> dict[str, Callable[[], Any]]:
    return {
        "ReversibleEmbedding": lambda: built(layers.ReversibleEmbedding(9, 4, tie_weights=False), IDS),
        "Dense in int4": lambda: quantized(layers.Dense(4), VECTORS, mode="int4"),
        "Dense in float8": lambda: quantized(layers.Dense(32), noise(3, 16), mode="float8"),
        "EinsumDense in int4": lambda: quantized(layers.EinsumDense("ab,bc->ac", 4), VECTORS, mode="int4"),
        "Embedding in int4": lambda: quantized(layers.Embedding(9, 4), IDS, mode="int4"),
        "SeparableConv2D": lambda: built(layers.SeparableConv2D(5, 3), noise(2, 6, 5, 3)),
        "own weights of a model": lambda: built(WithOwnWeight(), VECTORS),
    }


class WithOwnWeight(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.projection = self.add_weight(shape=(5, 3), name="projection")
        self.nested = {"a": [layers.Dense(3, name="deep")], "b": (layers.Dense(3, name="deeper"),)}

    def call(self, x: Any) -> Any:
        return self.nested["a"][0](x) + self.nested["b"][0](x) + keras.ops.matmul(x, self.projection)


EVERY_MODEL: dict[str, Callable[[], Any]] = {
    **{name: (lambda case=case: case.layer(case.x)) for name, case in CASES.items()},
    **{name: make for name, (make, _) in SKIPPED.items()},
    **more_models(),
}


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_no_variable_of_two_dimensions_is_missing(name: str) -> None:
    """Each is among the numbers of an entry, or an entry in the layer that holds it says why not."""
    model = EVERY_MODEL[name]()
    listed = find_layers(model)
    numbers = [set(np.ravel(entry.read()).tolist()) for entry in listed if entry.spec is not None]
    read = set().union(*numbers)
    holders = list(model._flatten_layers())
    for variable in (v for v in model.variables if len(v.shape) >= 2):
        own = lambda layer: [*layer._trainable_variables, *layer._non_trainable_variables]  # noqa: E731
        owners = {holder.name for holder in holders if any(v is variable for v in own(holder))}
        assert owners, variable.path
        said = {entry.name.split(".")[-1] for entry in listed if entry.spec is None}
        merged = name.endswith(("LoRA", "int8", "int4")) and variable.name.startswith(("lora_", "kernel", "embeddings"))
        part = set(np.ravel(to_numpy(variable)).tolist()) <= read
        assert merged or part or said & (owners | {variable.name}), variable.path


# --- late layers, dtypes, names, side effects ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.Dense(4, name="it"),
        lambda: layers.Conv2D(4, 3, name="it"),
        lambda: layers.LSTM(4, name="it"),
        lambda: layers.Embedding(9, 4, name="it"),
        lambda: layers.EinsumDense("ab,bc->ac", 4, name="it"),
    ],
)
def test_layers_that_are_not_built_are_looked_at_again(make: Callable[[], Any]) -> None:
    reasons = reasons_of(keras.Sequential([make()]))
    assert len(reasons) == 1
    assert all(reason == "not built yet; will be retried at the next snapshot" for reason in reasons.values())


def test_layers_that_come_into_being_when_their_layer_is_built_are_looked_at_again() -> None:
    """Otherwise a monitor that starts before the first call warns that there is nothing to analyse."""
    entries = find_layers(keras.Sequential([Block(name="block")]))
    assert any(entry.is_late for entry in entries)
    built_later = built(keras.Sequential([Block(name="block")]), VECTORS)
    assert list(matrices_of(built_later)) == ["block.up", "block.end.down"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "mixed_bfloat16", "mixed_float16"])
def test_numbers_are_exact_in_every_dtype(dtype: str) -> None:
    model = keras.Sequential([keras.Input((5, 5)), layers.Conv1D(6, 3, dtype=dtype), layers.Dense(4, dtype=dtype)])
    convolution_, dense_ = matrices_of(model).values()
    exact = [to_numpy(keras.ops.cast(layer.kernel, "float32")) for layer in model.layers]
    np.testing.assert_array_equal(convolution_, exact[0].transpose(0, 2, 1))
    np.testing.assert_array_equal(dense_[0], exact[1].T)
    specs = [entry.spec.dtype for entry in find_layers(model)]
    assert specs == [dtype if not dtype.startswith("mixed") else "float32"] * 2
    assert np.abs(exact[0]).max() > 0


def test_names_stay_the_same_and_have_dots() -> None:
    model = nested_functional()
    names = [entry.name for entry in find_layers(model)]
    model.compile(optimizer="sgd", loss="mse")
    model.fit(VECTORS, noise(3, 4), verbose=0)
    assert [entry.name for entry in find_layers(model)] == names == ["start", "inner.a", "inner.b", "shared", "end"]
    assert [entry.name for entry in find_layers(keras.models.clone_model(model))] == names


def test_reads_see_the_weights_of_now() -> None:
    layer = built(layers.Dense(4), VECTORS)
    (entry,) = find_layers(layer)
    layer.kernel.assign(noise(5, 4))
    np.testing.assert_array_equal(entry.read(), noise(5, 4))


@pytest.mark.parametrize(
    "name",
    ["SpectralNormalization", "Dense with LoRA", "Dense in int8 with LoRA", "Embedding in int8", "LSTM", "Conv2D"],
)
def test_reading_changes_nothing(name: str) -> None:
    case = CASES[name]
    layer = case.layer(case.x)
    before = [to_numpy(variable).copy() for variable in layer.variables]
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    for matrix in matrices_of(layer).values():
        assert np.isfinite(matrix).all()
    ww.analyze(layer)
    for variable, value in zip(layer.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


# --- the same numbers from Keras and from anywhere else --------------------------------------------------------------


def test_keras_gives_the_report_of_the_same_weights_in_torch_order() -> None:
    model = keras.Sequential(
        [
            keras.Input((9, 9, 30)),
            layers.Conv2D(25, 3, name="conv"),
            layers.Flatten(),
            layers.Dense(60, name="fc"),
            layers.Dense(4, name="head"),
        ]
    )
    conv, _, fc, head = model.layers
    mapping = {
        "conv": to_numpy(conv.kernel).transpose(3, 2, 0, 1).copy(),
        "fc": to_numpy(fc.kernel).T.copy(),
        "head": to_numpy(head.kernel).T.copy(),
    }
    for seen, expected in zip(ww.analyze(model), ww.analyze(mapping), strict=True):
        values = {key: value for key, value in expected.to_dict().items() if key not in ("kind", "histogram")}
        for key, value in values.items():
            approximate = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
            assert getattr(seen, key) == approximate, key
    assert [layer.alpha is None for layer in ww.analyze(model)] == [False, False, True]


def test_layer_patterns_and_their_errors() -> None:
    model = nested_functional()
    report = ww.analyze(model, layers=["inner.*"])
    assert [layer.name for layer in report if layer.N is not None] == ["inner.a", "inner.b"]
    with pytest.raises(ValueError, match=r"layers: 'iner\.\*' matches no layer; the layers are \['start', 'inner\.a'"):
        ww.analyze(model, layers=["iner.*"])


# --- layers that a user knows ----------------------------------------------------------------------------------------


class Experts(layers.Layer):
    """Stacked matrices (experts, inputs, outputs)."""

    def build(self, shape: Any) -> None:
        self.stack = self.add_weight(shape=(2, 60, 80), name="stack")

    def call(self, x: Any) -> Any:
        return keras.ops.einsum("bi,eio->bo", x, self.stack)


def test_a_class_that_was_registered_gives_what_was_registered() -> None:
    experts = built(Experts(), noise(3, 60))
    assert "add one with register_layer(Experts, ...)" in next(iter(reasons_of(experts).values()))
    ww.register_layer(Experts, lambda layer: {str(i): keras.ops.transpose(layer.stack[i]) for i in range(2)})
    try:
        matrices = matrices_of(experts)
        assert [name.rpartition(".")[2] for name in matrices] == ["0", "1"]
        x = noise(3, 60)
        seen = sum(x @ matrix.T for (matrix,) in matrices.values())
        np.testing.assert_allclose(seen, to_numpy(experts(x)), rtol=1e-3, atol=1e-4)
        ww.register_layer(Experts, {"stack": "expert in out"})
        in_words = matrices_of(experts)
        assert [name.partition(".")[2] for name in in_words] == ["0.stack", "1.stack"]
        np.testing.assert_array_equal(list(in_words.values()), list(matrices.values()))
        ww.register_layer(Experts, {"stak": "expert in out"})
        assert "the registered rule failed: no parameter 'stak'" in next(iter(reasons_of(experts).values()))
        ww.register_layer(Experts, lambda layer: layer.nothing)
        assert "the registered rule failed: AttributeError" in next(iter(reasons_of(experts).values()))
    finally:
        ww.register_layer(Experts, None)
