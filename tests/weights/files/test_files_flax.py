"""Files of flax, written as its documentation says: the arrays in memory bit for bit, and trees that lie."""

from __future__ import annotations

import json
import os
import resource
import struct

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.weights import find_layers
from ww_callbacks.weights.files import flax
from ww_callbacks.weights.files.flax import tensors_of_flax

msgpack = pytest.importorskip("msgpack")
RNG = np.random.default_rng(0)


def packed(value):
    """What ``flax.serialization.msgpack_serialize`` writes."""
    return msgpack.packb(value, default=extension, strict_types=True)


def extension(value):
    if isinstance(value, np.ndarray):
        return msgpack.ExtType(1, array(value.shape, value.dtype.name, value.tobytes()))
    if isinstance(value, np.generic):
        return msgpack.ExtType(3, array((), value.dtype.name, value.tobytes()))
    if isinstance(value, complex):
        return msgpack.ExtType(2, msgpack.packb((value.real, value.imag)))
    raise TypeError(value)


def array(shape, dtype, numbers):
    return msgpack.packb((shape, dtype, numbers), use_bin_type=True)


def chunked(value, size):
    flat = value.reshape(-1)
    chunks = {str(i): flat[start : start + size] for i, start in enumerate(range(0, flat.size, size))}
    shape = {str(i): side for i, side in enumerate(value.shape)}
    return {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks}


def written(path, tree):
    path.write_bytes(packed(tree))
    return path


def layers(source):
    return {layer.name: layer for layer in find_layers(source)}


def described(source):
    """All that says which matrices a source holds."""
    return [(each.name, each.kind, each.reason, each.role, each.spec) for each in find_layers(source)]


PARAMS = {
    "Embed_0": {"embedding": RNG.standard_normal((30, 8)).astype("f4")},
    "Conv_0": {"kernel": RNG.standard_normal((5, 5, 1, 32)).astype("f4"), "bias": np.zeros(32, "f4")},
    "Conv_1": {"kernel": RNG.standard_normal((3, 32, 7)).astype("f4")},
    "LayerNorm_0": {"scale": np.ones(8, "f4"), "bias": np.zeros(8, "f4")},
    "attention": {
        **{part: {"kernel": RNG.standard_normal((8, 2, 4)).astype("f4")} for part in ("query", "key", "value")},
        "out": {"kernel": RNG.standard_normal((2, 4, 6)).astype("f4")},
    },
    "blocks": [{"mlp": {"Dense_0": {"kernel": RNG.standard_normal((8, 16)).astype("f2")}}}, {"mlp": {}}],
    "dense": {"kernel": RNG.standard_normal((4, 3, 5)).astype("f4"), "bias": np.zeros((3, 5), "f4")},
}


def test_kernels_have_the_axes_of_flax(tmp_path):
    found = layers(written(tmp_path / "model.msgpack", PARAMS))
    matrices = {name: layer.reason or layer.spec.matrix_shape for name, layer in found.items()}
    assert matrices == {
        "Embed_0.embedding": (1, 8, 30),
        "Conv_0": (25, 32, 1),
        "Conv_1": (3, 7, 32),
        "LayerNorm_0": "no matrix: fewer than two dimensions",
        "attention.query": (1, 8, 8),
        "attention.key": (1, 8, 8),
        "attention.value": (1, 8, 8),
        "attention.out": (1, 6, 8),
        "blocks.0.mlp.Dense_0": (1, 16, 8),
        "dense": "no rule for a tensor of 3 dimensions in a file without layer classes",
        "dense.bias": "no matrix: a bias",
    }
    for name, layer in found.items():
        if layer.read is not None:
            *path, last = name.split(".")
            inner = PARAMS
            for key in (*path, last):
                inner = inner[int(key)] if isinstance(inner, list) else inner[key]
            expected = inner["kernel"] if isinstance(inner, dict) else inner
            np.testing.assert_array_equal(layer.read(), expected)
            assert layer.read().dtype == expected.dtype


def test_a_tree_means_the_same_in_memory_and_in_a_file(tmp_path):
    state = {"step": 3, "params": PARAMS, "opt_state": {"0": {"mu": PARAMS, "nu": PARAMS, "count": np.int32(3)}}}
    for tree in (PARAMS, {"params": PARAMS}, state, {"params": PARAMS, "ema_params": PARAMS}):
        path = written(tmp_path / "model.msgpack", tree)
        unlike = {} if "ema_params" not in tree else {"ema_params": copied(PARAMS)}
        assert described(path) == described(tree | unlike)


def copied(tree):
    """Arrays with memory of their own, so that they are not tied."""
    if isinstance(tree, list):
        return [copied(inner) for inner in tree]
    return {key: copied(inner) for key, inner in tree.items()} if isinstance(tree, dict) else tree.copy()


def test_the_state_of_an_optimizer_is_no_layer(tmp_path):
    adam = {"mu": {"Dense_0": {"kernel": np.ones((4, 3))}}, "nu": {"Dense_0": {"kernel": np.ones((4, 3))}}}
    params = {"Dense_0": {"kernel": np.ones((4, 3))}}
    states = [
        {"params": params, "opt_state": {"0": adam | {"count": np.int32(1)}}, "step": 1, "none": None, "z": 1j},
        {"params": params, "batch_stats": {"bn": {"mean": np.ones(3)}}, "optimizer": {"0": {"trace": params}}},
        {"params": params, "adam": {"1": adam | {"count": np.int32(1)}}},
        {"params": {"params": params}},
    ]
    for state in states:
        assert list(layers(written(tmp_path / "model.msgpack", state))) == ["Dense_0"]


def test_several_networks_have_the_names_of_their_keys(tmp_path):
    def params():
        return {"Dense_0": {"kernel": RNG.standard_normal((4, 3))}}

    state = {"generator": {"params": params(), "opt_state": params()}, "discriminator": {"params": params()}}
    assert list(layers(written(tmp_path / "gan.msgpack", state))) == ["generator.Dense_0", "discriminator.Dense_0"]
    state = {"params": params(), "ema_params": params(), "step": 3}
    assert list(layers(written(tmp_path / "ema.msgpack", state))) == ["params.Dense_0", "ema_params.Dense_0"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numbers_are_read_bit_for_bit(tmp_path, dtype):
    bits = RNG.integers(0, 256, (30, 20 * np.dtype(dtype).itemsize), dtype=np.uint8)
    path = written(tmp_path / "model.msgpack", {"Dense_0": {"kernel": bits.view(dtype)}})
    assert layers(path)["Dense_0"].read().tobytes() == bits.tobytes()


@pytest.mark.parametrize(
    ("dtype", "expected"), [("bfloat16", "bfloat16"), ("float8_e4m3fn", "float16"), ("float8_e5m2", "float16")]
)
def test_dtypes_that_numpy_lacks_mean_the_same_in_memory_and_in_a_file(tmp_path, dtype, expected):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = RNG.standard_normal((30, 20)).astype(getattr(ml_dtypes, dtype))
    tree = {"Dense_0": {"kernel": values}}
    for source in (written(tmp_path / "model.msgpack", tree), tree, {"Dense_0.kernel": values}):
        layer = layers(source)["Dense_0"]
        assert layer.spec.dtype == expected
        numbers = layer.read()
        if dtype == "bfloat16":
            assert numbers.tobytes() == values.tobytes()
        else:
            np.testing.assert_array_equal(numbers, values.astype("f4"))
    whole = ww.analyze({"w": values.astype("f4")}, randomize=False)["w"]
    assert ww.analyze({"w": values}, randomize=False)["w"].norm == pytest.approx(whole.norm)


def test_other_dtypes_are_listed(tmp_path):
    tree = {
        "a": {"kernel": np.ones((3, 2), complex)},
        "b": {"kernel": np.ones((3, 2), int)},
        "c": {"kernel": np.eye(2)},
    }
    reasons = [layer.reason for layer in find_layers(written(tmp_path / "model.msgpack", tree))]
    assert reasons == ["unsupported dtype complex128", "unsupported dtype int64", ""]


@pytest.mark.parametrize("size", [1, 7, 36, 100, 1000])
def test_arrays_in_parts(tmp_path, size):
    values = RNG.standard_normal((20, 9, 4)).astype("f4")
    path = written(tmp_path / "model.msgpack", {"moe": {"experts": chunked(values, size)}})
    experts = find_layers(path)
    assert [layer.name for layer in experts] == [f"moe.{i}.experts" for i in range(20)]
    for expert, value in zip(experts, values, strict=True):
        np.testing.assert_array_equal(expert.read()[0], value)
    (tensor,) = tensors_of_flax(path)
    np.testing.assert_array_equal(tensor.read(), values)
    np.testing.assert_array_equal(tensor.read.narrow(1, 2, 3)(), values[:, 2:5])


def test_numbers_are_read_when_a_layer_is(tmp_path):
    """The file claims a GiB of numbers, of which it has none on the disk."""
    side, path = 2**14, tmp_path / "model.msgpack"
    inner = b"\x93" + msgpack.packb([side, side]) + msgpack.packb("float32") + b"\xc6" + struct.pack(">I", 4 * side**2)
    head = b"\x81" + msgpack.packb("fc") + b"\x81" + msgpack.packb("kernel")
    head += b"\xc9" + struct.pack(">I", len(inner) + 4 * side**2) + b"\x01" + inner
    path.write_bytes(head)
    os.truncate(path, len(head) + 4 * side**2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (layer,) = find_layers(path)
    assert layer.spec.shape == (side, side)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    os.truncate(path, len(head))
    with pytest.raises(ww.WeightsFileError, match="truncated"):
        layer.read()


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_repository_is_read_from_its_other_weights_first(tmp_path):
    written(tmp_path / "flax_model.msgpack", {"Dense_0": {"kernel": np.ones((4, 3))}})
    assert list(layers(tmp_path)) == ["Dense_0"]
    np.savez(tmp_path / "model.npz", **{"fc.weight": np.ones((4, 3))})
    assert list(layers(tmp_path)) == ["fc", "flax_model.msgpack"]


@pytest.mark.parametrize("with_index", [True, False])
def test_parts_of_a_repository(tmp_path, with_index):
    names = [f"flax_model-0000{i}-of-00002.msgpack" for i in (1, 2)]
    for name, key in zip(names, ("a", "b"), strict=True):
        written(tmp_path / name, {"model": {key: {"kernel": np.ones((4, 3))}}})
    if with_index:
        where = {"model/a/kernel": names[0], "model/b/kernel": names[1]}
        (tmp_path / "flax_model.msgpack.index.json").write_text(json.dumps({"weight_map": where}))
    assert list(layers(tmp_path)) == ["model.a", "model.b"]
    (tmp_path / names[1]).unlink()
    with pytest.raises(ww.WeightsFileError):
        find_layers(tmp_path)


# --- files that lie --------------------------------------------------------------------------------------------------


def tree_with(data: bytes) -> bytes:
    """A tree with one array, whose extension holds the bytes."""
    return msgpack.packb({"fc": {"kernel": msgpack.ExtType(1, data)}})


NUMBERS = np.ones((4, 3), "f4").tobytes()
DEEP = b"\x81\xa1a" * 100 + b"\xc0"


@pytest.mark.parametrize(
    ("data", "cause"),
    {
        "nothing": (b"", "truncated: a value is missing at byte 0"),
        "no tree": (b"\x07", "holds no tree"),
        "no weights": (packed({"step": 3}), "holds no weights but a tree with the keys ['step']"),
        "vectors only": (packed({"step": np.int32(3)}), "holds no weights"),
        "no byte of the format": (b"\x81\xa1a\xc1", "not MessagePack: byte 0xc1 at 3"),
        "more behind": (packed({"a": np.eye(2)}) + b"\xc0", "the tree ends at byte"),
        "cut off": (packed({"a": np.eye(2)})[:-1], "truncated: a value at byte"),
        "cut off in a length": (b"\xdf\xff", "truncated: a value at byte 0 is cut off"),
        "many entries": (b"\xdf\xff\xff\xff\xff\xc0", "claims 4294967295 entries"),
        "long key": (b"\x81" + msgpack.packb("a" * 1001) + b"\xc0", "no text of at most 1000 bytes"),
        "long name": (packed({"a" * 600: {"b" * 600: 1}}), "a name of more than 1000 characters"),
        "number as key": (b"\x81\x01\xc0", "no text"),
        "key that is no text": (b"\x81\xa1\xff\xc0", "utf-8"),
        "key twice": (b"\x82\xa1a\xc0\xa1a\xc0", "'a' occurs twice"),
        "array twice": (packed({"a.b": np.eye(2), "a": {"b": np.eye(2)}}), "'a.b' occurs twice"),
        "deep": (DEEP, "nested more than 64 times"),
        "an array of nothing": (tree_with(b""), "truncated"),
        "not three": (tree_with(msgpack.packb(((4, 3), "float32"))), "not a list of shape, dtype and numbers"),
        "no shape": (tree_with(array(4, "float32", NUMBERS)), "not a list of shape, dtype and numbers"),
        "no dtype": (tree_with(array((4, 3), 7, NUMBERS)), "not a list of shape, dtype and numbers"),
        "long dtype": (tree_with(array((4, 3), "f" * 99, NUMBERS)), "not a list of shape, dtype and numbers"),
        "no numbers": (tree_with(array((4, 3), "float32", "text")), "not a list of shape, dtype and numbers"),
        "negative": (tree_with(array((-4, -3), "float32", NUMBERS)), "its shape is not a list of sizes"),
        "not whole": (tree_with(array((4.0, 3), "float32", NUMBERS)), "its shape is not a list of sizes"),
        "large": (tree_with(array((2**62, 2**62), "float32", NUMBERS)), "does not fit the 48 bytes"),
        "short": (tree_with(array((4, 3), "float32", NUMBERS[1:])), "does not fit the 47 bytes"),
        "more in the array": (tree_with(array((4, 3), "float32", NUMBERS) + b"\xc0"), "ends at byte"),
        "longer than its array": (tree_with(array((4, 3), "float32", NUMBERS)[:-1]), "truncated"),
        "parts without a shape": (packed({"a": {"__msgpack_chunked_array__": True}}), "no shape or no parts"),
        "parts that do not fit": (packed({"a": chunked(np.eye(4), 5) | {"shape": {"0": 9, "1": 2}}}), "does not fit"),
        "parts of several dtypes": (
            packed({"a": chunked(np.eye(2), 4) | {"chunks": {"0": np.ones(2, "f4"), "1": np.ones(2)}}}),
            "does not fit its parts",
        ),
        "parts out of order": (
            packed({"a": chunked(np.eye(2), 4) | {"chunks": {"1": np.ones(2), "0": np.ones(2)}}}),
            "no shape or no parts",
        ),
    }.values(),
)
def test_trees_that_lie(tmp_path, data, cause):
    path = tmp_path / "model.msgpack"
    path.write_bytes(data)
    with pytest.raises(ww.WeightsFileError) as caught:
        find_layers(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert cause in caught.value.cause


def test_a_tree_of_very_many_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(flax, "MAX_VALUES", 100)
    path = written(tmp_path / "model.msgpack", {"a": list(range(200))})
    with pytest.raises(ww.WeightsFileError, match="more than 100 values"):
        find_layers(path)
