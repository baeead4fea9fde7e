"""Weights of torchao in files that are written byte by byte, without torchao."""

import json
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch

from ww_callbacks.weights import find_layers

RANDOM = np.random.default_rng(0)
NAMES = {"int8": "I8", "uint8": "U8", "int32": "I32", "float32": "F32", "bfloat16": "BF16"}


def write(path, parts, cls, data, dtypes=None, metadata=True):
    """A safetensors file with the parts of one weight, as torchao describes it."""
    header, blob = {}, b""
    for name, array in parts.items():
        dtype = (dtypes or {}).get(name) or NAMES[array.dtype.name]
        begin, blob = len(blob), blob + array.tobytes()
        shape = list(array.shape)
        header[f"model.fc._weight_{name}"] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, len(blob)]}
    described = {"_type": cls, "_data": data, "_tensor_data_names": list(parts)}
    if metadata:
        header["__metadata__"] = {
            "model.fc.weight": json.dumps(described),
            "tensor_names": json.dumps(["model.fc.weight"]),
        }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + blob)
    return path


def only(path):
    (layer,) = find_layers(path)
    assert layer.name == "model.fc"
    return layer


def integers(rows, columns, count, zeros=True):
    codes = RANDOM.integers(-128, 128, (rows, columns)).astype(np.int8)
    scale = RANDOM.uniform(0.5, 1, (rows, count)).astype(np.float32)
    zero = RANDOM.integers(-9, 9, (rows, count)).astype(np.int8) if zeros else np.zeros((rows, count), np.int8)
    size = columns // count
    expected = [
        [(int(codes[i, j]) - int(zero[i, j // size])) * float(scale[i, j // size]) for j in range(columns)]
        for i in range(rows)
    ]
    return {"qdata": codes, "scale": scale} | ({"zero_point": zero} if zeros else {}), np.array(expected), [1, size]


@pytest.mark.parametrize("cls", ["Int8Tensor", "IntxUnpackedToInt8Tensor"])
@pytest.mark.parametrize(("count", "zeros"), [(1, False), (1, True), (4, True)])
def test_integers(cls, count, zeros, tmp_path):
    parts, expected, block = integers(12, 32, count, zeros)
    layer = only(write(tmp_path / "a.safetensors", parts, cls, {"block_size": block}))
    np.testing.assert_allclose(layer.read(), expected, rtol=1e-6)


@pytest.mark.parametrize("scales", [(1, 1), (), (12, 1), (3, 4)], ids=["tensor", "scalar", "rows", "blocks"])
def test_eight_bit_floats(scales, tmp_path):
    codes = RANDOM.integers(0, 127, (12, 32)).astype(np.uint8)
    scale = RANDOM.uniform(0.5, 1, scales).astype(np.float32)
    exponent, fraction = codes.astype(int) >> 3, codes.astype(int) & 7
    values = np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) / 8 * 2.0 ** (exponent - 7))
    whole = scale if scale.size == 1 else np.kron(scale, np.ones((12 // scales[0], 32 // scales[1])))
    block = [12, 32] if scale.size == 1 else [12 // scales[0], 32 // scales[1]]
    parts, types_ = {"qdata": codes, "scale": scale}, {"qdata": "F8_E4M3"}
    layer = only(write(tmp_path / "a.safetensors", parts, "Float8Tensor", {"block_size": block}, types_))
    np.testing.assert_allclose(layer.read(), values * whole, rtol=1e-6)


def four_bits():
    values = RANDOM.integers(-8, 8, (12, 32))
    scale, zero = (RANDOM.uniform(0.5, 1, (4, 12)).astype(np.float32) for _ in range(2))
    pairs = values & 15
    parts = {"qdata": (pairs[:, ::2] + 16 * pairs[:, 1::2]).astype(np.uint8).view(np.int8), "scale": scale}
    expected = values * np.repeat(scale.T.astype(float), 8, 1) + np.repeat(zero.T.astype(float), 8, 1)
    return parts | {"zero_point": zero}, expected


@pytest.mark.parametrize("scaled", [False, True], ids=["alone", "scaled inputs"])
def test_four_bits(scaled, tmp_path):
    parts, expected = four_bits()
    if scaled:
        parts["act_pre_scale"] = RANDOM.uniform(0.5, 2, (1, 32)).astype(np.float32)
        expected = expected * parts["act_pre_scale"]
    layer = only(write(tmp_path / "a.safetensors", parts, "Int4Tensor", {"block_size": [1, 8], "shape": [12, 32]}))
    np.testing.assert_allclose(layer.read(), expected, rtol=1e-6)


PARTS = {"qdata": np.zeros((12, 32), np.int8), "scale": np.ones((12, 4), np.float32)}


@pytest.mark.parametrize(
    ("cls", "change", "problem"),
    [
        ("Int4TilePackedTo4dTensor", {}, "torchao's Int4TilePackedTo4dTensor is not known"),
        ("Int8Tensor", {"scale": np.ones((12, 5), np.float32)}, "scale of shape (12, 5)"),
        ("Int8Tensor", {"scale": np.ones((12, 2), np.float32)}, "block_size [1, 8], but scale has shape (12, 2)"),
        ("Int8Tensor", {"scale": np.ones((12, 4), np.int32)}, "of dtype int32"),
        ("Int8Tensor", {"zero_point": np.ones((12, 1), np.int8)}, "zero_point of shape (12, 1)"),
        ("Int8Tensor", {"qdata": np.zeros((12, 32), np.uint8)}, "qdata of dtype uint8"),
        ("Int8Tensor", {"act_pre_scale": np.ones(5, np.float32)}, "act_pre_scale of shape (5,)"),
        ("Int8Tensor", {"sparsity": np.ones((12, 32), np.float32)}, "Int8Tensor has no sparsity"),
        ("Int4Tensor", {"scale": np.ones((8, 12), np.float32)}, "no zero_point"),
    ],
)
def test_what_does_not_fit_is_one_skipped_layer(cls, change, problem, tmp_path):
    layer = only(write(tmp_path / "a.safetensors", PARTS | change, cls, {"block_size": [1, 8]}))
    assert layer.reason.startswith("quantised weights: stored as _weight_qdata, _weight_scale")
    assert problem in layer.reason


def test_without_its_description_a_weight_is_skipped(tmp_path):
    parts, _ = four_bits()
    layer = only(write(tmp_path / "a.safetensors", parts, "", {}, metadata=False))
    assert layer.reason.endswith("_weight_qdata, _weight_scale, _weight_zero_point; this format is not known")


# --- torch.save ------------------------------------------------------------------------------------------------------


class Package:
    """Tensor classes in a module that is called torchao while a file is written, and is gone when it is read."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        for name in ("torchao", "torchao.quantization"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    def cls(self, name):
        def new(cls, shape, parts):
            return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32)

        def init(self, shape, parts):
            vars(self).update(parts)

        def dispatch(cls, func, types, args=(), kwargs=None):
            assert func is torch.ops.aten.detach.default  # what nn.Parameter calls
            return type(args[0])(args[0].shape, dict(vars(args[0])))

        body = {"__new__": new, "__init__": init, "__torch_dispatch__": classmethod(dispatch)}
        made = type(name, (torch.Tensor,), body | {"__module__": "torchao.quantization"})
        setattr(sys.modules["torchao.quantization"], name, made)
        return made

    def gone(self):
        for name in ("torchao", "torchao.quantization"):
            self.monkeypatch.delitem(sys.modules, name)


class Reduced:
    """Pickled as a call of a function."""

    def __init__(self, function):
        self.function = function

    def __reduce__(self):
        return self.function, ("touch executed",)


@pytest.fixture
def package(monkeypatch):
    if "torchao" in sys.modules or not hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        pytest.skip("torchao is loaded, or this version of torch takes no stand-ins")
    return Package(monkeypatch)


def test_state_dicts_are_read_without_torchao(package, tmp_path):
    parts, expected, block = integers(12, 32, 4)
    tensors = {name: torch.from_numpy(array) for name, array in parts.items()}
    weight = package.cls("Int8Tensor")((12, 32), tensors | {"block_size": block, "act_quant_kwargs": None})
    state = {"model.fc.weight": weight, "model.fc.bias": torch.ones(12), "model.head.weight": torch.ones(5, 12)}
    torch.save({"state_dict": state}, tmp_path / "a.pt")
    package.gone()
    fc, head = find_layers(tmp_path / "a.pt")
    assert (fc.name, head.name, head.reason) == ("model.fc", "model.head", "")
    np.testing.assert_allclose(fc.read(), expected, rtol=1e-6)
    assert "torchao" not in sys.modules


def test_unknown_classes_are_one_skipped_layer(package, tmp_path):
    inner = package.cls("PlainAQTTensorImpl")((12, 32), {"int_data": torch.zeros(12, 32), "scale": torch.ones(12)})
    outer = package.cls("AffineQuantizedTensor")((12, 32), {"tensor_impl": inner, "block_size": (1, 32)})
    empty = package.cls("EmptyTensor")((12, 32), {})
    torch.save({"model.fc.weight": outer, "model.head.weight": empty}, tmp_path / "a.pt")
    package.gone()
    fc, head = find_layers(tmp_path / "a.pt")
    assert fc.reason == (
        "quantised weights: stored as _weight_tensor_impl_int_data, _weight_tensor_impl_scale; "
        "torchao's AffineQuantizedTensor is not known"
    )
    assert "class EmptyTensor" in head.reason


@pytest.mark.parametrize("where", ["torchao", "elsewhere"])
def test_nothing_of_a_file_is_executed(where, package, tmp_path, monkeypatch):
    def run(command):
        (tmp_path / "executed").touch()

    run.__module__, run.__qualname__ = "torchao.quantization", "run"
    sys.modules["torchao.quantization"].run = run
    weight = package.cls("Int8Tensor")((2, 2), {"qdata": torch.ones(2, 2)})
    call = Reduced(run if where == "torchao" else os.mkdir)
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": weight, "call": call}, tmp_path / "a.pt", pickle_module=pickle)
    package.gone()
    assert "without qdata or scale" in find_layers(tmp_path / "a.pt")[0].reason
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_in_memory_four_bits_are_multiplied_out(package):
    parts, expected = four_bits()
    tensors = {name: torch.from_numpy(array) for name, array in parts.items()}
    weight = package.cls("Int4Tensor")((12, 32), tensors | {"block_size": [1, 8], "act_pre_scale": None})
    model = torch.nn.ModuleDict({"fc": torch.nn.Linear(32, 12)})
    model["fc"].weight = torch.nn.Parameter(weight, requires_grad=False)
    for source in (model, model.state_dict()):
        (layer,) = find_layers(source)
        assert (layer.name, layer.reason) == ("fc", "")
        np.testing.assert_allclose(layer.read(), expected, rtol=1e-6)
