"""ONNX models: the layers are those of the exported module, and the graph decides what the axes count."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.analysis import as_matrices
from ww_callbacks.weights import find_layers

pytest.importorskip("onnx.helper")
import onnx
from onnx import TensorProto, helper, numpy_helper

Arrays = dict[str, np.ndarray]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return rng().standard_normal(shape).astype(np.float32)


def saved(path: Path, nodes: list, tensors: Arrays | list) -> Path:
    """A model of these nodes and initialisers."""
    given = [numpy_helper.from_array(array, name) for name, array in dict(tensors).items()]
    graph = helper.make_graph(nodes, "test", [], [], given)
    onnx.save(helper.make_model(graph), path / "model.onnx")
    return path / "model.onnx"


def node(op: str, inputs: str, output: str = "y", name: str = "n", **attributes):
    return helper.make_node(op, inputs.split(), [output], name, **attributes)


def one(path: Path, nodes: list, tensors: Arrays) -> np.ndarray:
    """The matrix of the only layer that is analysed."""
    (layer,) = (layer for layer in find_layers(saved(path, nodes, tensors)) if layer.spec)
    (matrix,) = as_matrices(layer.spec, layer.read())
    return matrix


def reasons(path: Path, nodes: list, tensors: Arrays) -> dict[str, str]:
    return {layer.name: layer.reason for layer in find_layers(saved(path, nodes, tensors))}


# --- exported modules ------------------------------------------------------------------------------------------------


def exported(path: Path, module, *example) -> Path:
    torch = pytest.importorskip("torch")
    torch.onnx.export(module.eval(), example, str(path / "model.onnx"), dynamo=False)
    return path / "model.onnx"


def assert_same(module, path: Path, names: dict[str, str]) -> None:
    """The layers of a module and of its export: the same matrices and the same numbers."""
    ours = {layer.name: layer for layer in find_layers(path) if layer.spec}
    theirs = {layer.name: layer for layer in find_layers(module) if layer.spec}
    assert {*ours} == {*names}
    assert {*theirs} == {*names.values()}
    for name, other in names.items():
        found, expected = ours[name], theirs[other]
        np.testing.assert_array_equal(*(as_matrices(layer.spec, layer.read()) for layer in (found, expected)))
        assert found.role == expected.role
    report, reference = ww.analyze(path, randomize=False), ww.analyze(module, randomize=False)
    for name, other in names.items():
        for metric in ("alpha", "log_norm", "spectral_norm"):
            assert getattr(report[name], metric) == pytest.approx(getattr(reference[other], metric), rel=1e-9)
        assert report[name].alpha is not None


@pytest.mark.filterwarnings("ignore")
def test_a_convolutional_network_is_that_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    from torch import nn

    torch.manual_seed(0)
    module = nn.Sequential()
    module.add_module("conv1", nn.Conv2d(22, 32, 3, padding=1))
    module.add_module("relu", nn.ReLU())
    module.add_module("grouped", nn.Conv2d(32, 48, 3, groups=2))
    module.add_module("depthwise", nn.Conv2d(48, 48, 3, groups=48))
    module.add_module("up", nn.ConvTranspose2d(48, 24, 2))
    module.add_module("pool", nn.AdaptiveAvgPool2d(1))
    module.add_module("flat", nn.Flatten())
    module.add_module("fc", nn.Linear(24, 40))
    path = exported(tmp_path, module, torch.randn(1, 22, 8, 8))
    assert_same(module, path, {name: name for name in ("conv1", "grouped", "up", "fc")})
    assert ww.analyze(path)["depthwise"].reason == "no matrix: a depthwise kernel does not mix channels"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_recurrent_networks_have_the_gates_of_torch(tmp_path, cell, is_bidirectional):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = getattr(torch.nn, cell)(24, 32, bidirectional=is_bidirectional)

        def forward(self, x):
            return self.rnn(x)[0]

    torch.manual_seed(0)
    module, names = Net(), {}
    gates = {"LSTM": (".i", ".f", ".g", ".o"), "GRU": (".r", ".z", ".n"), "RNN": ("",)}[cell]
    ways = {".forward": "", ".reverse": "_reverse"} if is_bidirectional else {"": ""}
    for part, theirs in (("W", "weight_ih_l0"), ("R", "weight_hh_l0")):
        for way, ending in ways.items():
            names |= {f"/rnn/{cell}.{part}{way}{gate}": f"rnn.{theirs}{ending}{gate}" for gate in gates}
    assert_same(module, exported(tmp_path, module, torch.randn(3, 1, 24)), names)


@pytest.mark.filterwarnings("ignore")
def test_a_language_model_with_tied_embeddings(tmp_path):
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(50, 24)
            self.norm = torch.nn.LayerNorm(24)
            self.fc = torch.nn.Linear(24, 24)
            self.head = torch.nn.Linear(24, 50, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(self.fc(self.norm(self.embed(x))))

    torch.manual_seed(0)
    module = Net().eval()
    torch.onnx.export(
        module, (torch.arange(5)[None],), str(tmp_path / "model.onnx"), dynamo=False, do_constant_folding=False
    )
    report = ww.analyze(tmp_path / "model.onnx", randomize=False)
    assert [(layer.name, layer.kind, layer.reason) for layer in report.layers] == [
        ("embed", "Gather", ""),
        ("norm", "LayerNormalization", "no matrix: normalisation weights"),
        ("fc", "MatMul", ""),
        ("fc.bias", "Add", "no matrix: fewer than two dimensions"),
        ("embed_1", "MatMul", "shares its weight with embed"),
    ]


# --- what the axes count ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_transposed", [0, 1])
def test_the_weight_of_gemm(tmp_path, is_transposed):
    weight = normal(7, 5)
    found = one(tmp_path, [node("Gemm", "x w", transB=is_transposed)], {"w": weight})
    np.testing.assert_array_equal(found, weight if is_transposed else weight.T)


@pytest.mark.parametrize("is_transposed", [0, 1])
def test_a_weight_that_is_the_first_factor_of_gemm(tmp_path, is_transposed):
    weight = normal(7, 5)
    found = one(tmp_path, [node("Gemm", "w x", transA=is_transposed)], {"w": weight})
    np.testing.assert_array_equal(found, weight.T if is_transposed else weight)


@pytest.mark.parametrize(("inputs", "is_second"), [("x w", True), ("w x", False)])
def test_the_weight_of_a_product(tmp_path, inputs, is_second):
    weight = normal(7, 5)
    found = one(tmp_path, [node("MatMul", inputs)], {"w": weight})
    np.testing.assert_array_equal(found, weight.T if is_second else weight)


def test_weights_behind_transpose_identity_and_in_constants(tmp_path):
    weight = normal(7, 5)
    constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(weight))
    nodes = [
        constant,
        node("Identity", "c", "i"),
        node("Transpose", "i", "t", perm=[1, 0]),
        node("Transpose", "t", "u"),
    ]
    np.testing.assert_array_equal(one(tmp_path, [*nodes, node("MatMul", "x t")], {}), weight)
    np.testing.assert_array_equal(one(tmp_path, [*nodes, node("MatMul", "x u")], {}), weight.T)


def test_weights_in_branches(tmp_path):
    inner = helper.make_graph(
        [node("MatMul", "x w", name="inner"), node("MatMul", "x outer", "z", name="captured")],
        "branch", [], [], [numpy_helper.from_array(normal(7, 5), "w")],
    )  # fmt: skip
    outer = helper.make_node("If", ["condition"], ["y"], "if", then_branch=inner)
    layers = find_layers(saved(tmp_path, [outer], {"outer": normal(6, 4)}))
    assert [(layer.name, layer.spec.matrix_shape) for layer in layers] == [
        ("inner", (1, 5, 7)),
        ("captured", (1, 4, 6)),
    ]
    np.testing.assert_array_equal(layers[0].read(), normal(7, 5))


@pytest.mark.parametrize("opset_type", ["INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4"])
@pytest.mark.parametrize("scales", ["per tensor", "per axis", "last axis", "no zero point"])
def test_dequantised_weights_are_those_of_the_reference(tmp_path, opset_type, scales):
    reference = pytest.importorskip("onnx.reference")
    data_type = getattr(TensorProto, opset_type)
    low, high = (0, 16) if opset_type == "UINT4" else (-8, 8) if opset_type == "INT4" else (-100, 100)
    low, high = (low + 100, high + 100) if opset_type in ("UINT8", "UINT16") else (low, high)
    axis = {"per axis": 0, "last axis": -1}.get(scales)
    count = 1 if axis is None else (7, 5)[axis]
    shape = [] if axis is None else [count]
    codes = rng().integers(low, high, (7, 5))
    zeros = rng().integers(max(low, 0), max(low, 0) + 5, count)
    factors = rng().random(count).astype(np.float32)
    tensors = [
        helper.make_tensor("w", data_type, [7, 5], codes.ravel().tolist()),
        helper.make_tensor("s", TensorProto.FLOAT, shape, factors.tolist()),
        helper.make_tensor("z", data_type, shape, zeros.tolist()),
    ]
    inputs = "w s" if scales == "no zero point" else "w s z"
    quantised = node("DequantizeLinear", inputs, "d", **({} if axis is None else {"axis": axis}))
    output = helper.make_tensor_value_info("d", TensorProto.FLOAT, [7, 5])
    graph = helper.make_graph([quantised], "test", [], [output], tensors)
    (expected,) = reference.ReferenceEvaluator(helper.make_model(graph)).run(None, {})
    graph = helper.make_graph([quantised, node("MatMul", "x d", name="fc")], "test", [], [], tensors)
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    (layer,) = find_layers(tmp_path / "model.onnx")
    np.testing.assert_array_equal(layer.read(), expected)
    assert layer.spec.dtype == "float32"
    assert layer.name == "fc"


@pytest.mark.parametrize(
    ("tensors", "attributes", "reason"),
    [
        ({"s": np.float32([[1, 2]])}, {}, "a scale of shape (1, 2) for a weight of shape (4, 6)"),
        ({"s": np.ones((4, 2), np.float32)}, {"block_size": 3}, "a scale per block"),
        ({"s": np.ones(6, np.float32)}, {"axis": 0}, "a scale of shape (6,)"),
        ({"s": np.ones(6, np.float32), "z": np.int8([0])}, {}, "different shapes"),
        ({"s": np.float32(1), "z": np.uint8(0)}, {}, "zero point is not stored in the type"),
        ({"s": np.float32(1)}, {"output_dtype": 10}, "another type than its scale"),
        ({"s": np.float64(1)}, {}, "scale is not stored as float32"),
        ({}, {}, "scale is not stored as float32"),
        ({"w": np.ones((4, 6), np.int32), "s": np.float32(1)}, {}, "its numbers are INT32"),
    ],
)
def test_weights_that_are_not_dequantised(tmp_path, tensors, attributes, reason):
    inputs = "w s z" if "z" in tensors else "w s"
    nodes = [node("DequantizeLinear", inputs, "d", **attributes), node("MatMul", "x d", name="fc")]
    weight = {"w": np.ones((4, 6), np.int8)}
    found = reasons(tmp_path, nodes, {**weight, **{name: np.asarray(value) for name, value in tensors.items()}})
    assert found["fc"].startswith(("quantised weights: ", "unsupported dtype"))
    assert reason in found["fc"] or found["fc"] == "unsupported dtype INT32"


TRANSPOSED = [node("Transpose", f"w{i or ''}", f"w{i + 1}") for i in range(17)]


@pytest.mark.parametrize(
    ("nodes", "shape", "reason"),
    [
        ([node("Add", "x w")], (3, 4), "no rule for a weight of Add"),
        ([node("MatMul", "x w")], (2, 3, 4), "no rule for a weight of MatMul"),
        ([node("Attention", "x w", domain="com.microsoft")], (3, 4), "a weight of com.microsoft::Attention"),
        ([node("MatMul", "x w", domain="my")], (3, 4), "no rule for a weight of my::MatMul"),
        ([node("Gather", "w x", axis=1)], (3, 4), "no rule for a weight of Gather"),
        ([node("Gemm", "x w", alpha=0.5)], (3, 4), "computed weight: Gemm multiplies it by 0.5"),
        ([node("Gemm", "x v w")], (3, 4), "no matrix: a bias"),
        ([node("LayerNormalization", "x w")], (3, 4), "no matrix: normalisation weights"),
        ([node("Conv", "x w", group=2)], (3, 4, 5), "unexpected shape: (3, 4, 5) in 2 groups"),
        ([node("Conv", "x w")], (3, 4), "unexpected shape: (3, 4) in 1 groups"),
        ([node("LSTM", "x w", hidden_size=3)], (1, 8, 4), "unexpected shape: (1, 8, 4) with 1 directions"),
        ([node("LSTM", "x w", hidden_size=2, direction="bidirectional")], (1, 8, 4), "with 2 directions"),
        ([node("LSTM", "x v v w", hidden_size=2)], (1, 16), "no matrix: a bias"),
        ([node("Transpose", "w", "t", perm=[0, 0]), node("MatMul", "x t")], (3, 4), "transposed by (0, 0)"),
        ([*TRANSPOSED, node("MatMul", "x w17")], (3, 4), "computed weight: more than 16 nodes change it"),
        ([], (3, 4), "no rule for a weight that no node uses"),
    ],
)  # fmt: skip
def test_weights_that_are_listed_with_a_reason(tmp_path, nodes, shape, reason):
    (found,) = reasons(tmp_path, nodes, {"w": normal(*shape)}).values()
    assert reason in found


@pytest.mark.parametrize("kind", ["INT64", "BOOL", "COMPLEX64", "STRING"])
def test_types_that_are_no_weights(tmp_path, kind):
    tensor = helper.make_tensor("w", getattr(TensorProto, kind), [2, 2], [b""] * 4 if kind == "STRING" else [1] * 4)
    graph = helper.make_graph([node("MatMul", "x w", name="fc")], "test", [], [], [tensor])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert ww.analyze(tmp_path / "model.onnx")["fc"].reason == f"unsupported dtype {kind}"


def test_sparse_initialisers_are_listed(tmp_path):
    values = numpy_helper.from_array(np.ones(2, np.float32), "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1, 5])), [30, 20])
    graph = helper.make_graph([node("MatMul", "x w", name="fc")], "test", [], [], sparse_initializer=[sparse])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert ww.analyze(tmp_path / "model.onnx")["fc"].reason == "unsupported tensor: a sparse initialiser"


def test_names(tmp_path):
    nodes = [
        node("MatMul", "x encoder.fc.weight", name="/encoder/fc/MatMul"),
        node("MatMul", "x onnx::MatMul_7", name="/head/MatMul"),
        node("MatMul", "x W", name=""),
        node("MatMul", "x a", name="twice"),
        node("MatMul", "x b", name="twice"),
        node("Reshape", "x shape", name="r"),
        node("Mul", "x scalar", name="m"),
    ]
    weights = dict.fromkeys(("encoder.fc.weight", "onnx::MatMul_7", "W", "a", "b"), normal(4, 3))
    tensors = {**weights, "shape": np.array([1, -1]), "scalar": np.float32([2])}
    names = ["encoder.fc", "/head/MatMul", "W", "twice", "twice_1"]
    assert list(reasons(tmp_path, nodes, tensors)) == names


def test_a_weight_is_analysed_where_a_rule_knows_its_use(tmp_path):
    nodes = [node("Shape", "w", "s"), node("MatMul", "x w", name="fc"), node("MatMul", "z w", name="again")]
    assert reasons(tmp_path, nodes, {"w": normal(4, 3)}) == {"fc": "", "again": "shares its weight with fc"}


def test_a_folder_with_a_model(tmp_path):
    saved(tmp_path, [node("MatMul", "x w", name="fc")], {"w": normal(4, 3)})
    (tmp_path / "config.json").write_text("{}")
    assert [layer.name for layer in find_layers(tmp_path)] == ["fc"]


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch):
    path = saved(tmp_path, [node("MatMul", "x w")], {"w": normal(4, 3)})
    for name in [name for name in sys.modules if name.startswith("ww_callbacks.weights.onnx.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ww.WeightsFileError, match=r"reading it needs onnx: pip install 'ww_callbacks\[onnx\]'"):
        find_layers(path)
