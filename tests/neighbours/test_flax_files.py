"""Files of flax written by flax, and the axes of its kernels held against its own layers."""

import numpy as np
import pytest

from ww_callbacks.analysis import as_matrices
from ww_callbacks.weights import find_layers

jax = pytest.importorskip("jax")
nn = pytest.importorskip("flax.linen")
optax = pytest.importorskip("optax")
jnp = jax.numpy


class Model(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(11, 8, name="embed")(tokens)
        x = nn.LayerNorm(name="norm")(nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(x, x))
        return nn.Dense(3, name="head", param_dtype=jnp.bfloat16)(nn.Conv(5, (3,), name="conv")(x))


@pytest.fixture(scope="module")
def variables():
    return Model().init(jax.random.key(0), jnp.zeros((1, 4), int))


def listed(source):
    return [(layer.name, layer.kind, layer.reason, layer.spec) for layer in find_layers(source)]


def bits(source):
    return {layer.name: layer.read().tobytes() for layer in find_layers(source) if layer.read is not None}


def test_a_file_gives_the_layers_of_the_tree_in_memory(tmp_path, variables):
    from flax import serialization

    (tmp_path / "flax_model.msgpack").write_bytes(serialization.to_bytes(variables))
    analysed = {layer.name for layer in find_layers(tmp_path) if layer.spec is not None}
    parts = {f"attention.{part}" for part in ("query", "key", "value", "out")}
    assert analysed == {"embed.embedding", "conv", "head", *parts}
    for tree in (variables, variables["params"]):
        assert sorted(map(str, listed(tree))) == sorted(map(str, listed(tmp_path)))
        assert bits(tree) == bits(tmp_path)


def test_a_train_state_is_its_parameters(tmp_path, variables):
    from flax import serialization
    from flax.training.train_state import TrainState

    transform = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = TrainState.create(apply_fn=None, params=variables["params"], tx=transform)
    (tmp_path / "state.msgpack").write_bytes(serialization.to_bytes(state))
    assert bits(tmp_path / "state.msgpack") == bits(variables)


def test_arrays_that_flax_stores_in_parts(tmp_path, variables, monkeypatch):
    from flax import serialization

    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 100)
    (tmp_path / "model.msgpack").write_bytes(serialization.to_bytes(variables))
    assert b"__msgpack_chunked_array__" in (tmp_path / "model.msgpack").read_bytes()
    assert bits(tmp_path / "model.msgpack") == bits(variables)


def matrix(params, name):
    (layer,) = (layer for layer in find_layers(params) if layer.name == name)
    return np.asarray(as_matrices(layer.spec, layer.read()))


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("dense", nn.Dense(5, use_bias=False), (8,)),
        ("a.query", nn.DenseGeneral((2, 4), use_bias=False), (8,)),
        ("a.out", nn.DenseGeneral(6, axis=(-2, -1), use_bias=False), (2, 4)),
        ("conv", nn.Conv(5, (1,), use_bias=False), (1, 8)),
        ("conv_up", nn.ConvTranspose(5, (1,), use_bias=False), (1, 8)),
    ],
)
def test_a_kernel_times_an_input_is_what_the_layer_gives(name, layer, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype("f4")
    kernel = layer.init(jax.random.key(0), x)["params"]["kernel"]
    tree = {name: {"kernel": kernel}}
    if "." in name:
        heads = {part: {"kernel": np.ones((8, 2, 4), "f4")} for part in ("query", "key", "value")}
        part = name.removeprefix("a.")
        tree = {"a": heads | {"out": {"kernel": np.ones((2, 4, 6), "f4")}} | {part: {"kernel": kernel}}}
    (weights,) = matrix(tree, name)
    expected = np.asarray(layer.apply({"params": {"kernel": kernel}}, x)).ravel()
    np.testing.assert_allclose(weights @ x.ravel(), expected, rtol=1e-4, atol=1e-5)
