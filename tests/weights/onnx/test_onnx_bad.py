"""ONNX files that lie: about sizes, about where their numbers are, or about what they are; and external data."""

from __future__ import annotations

import os
import subprocess
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

WEIGHT = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)


def model(path: Path, *tensors: TensorProto) -> Path:
    """A model with one product for each tensor."""
    nodes = [helper.make_node("MatMul", ["x", tensor.name], ["y"], f"n.{tensor.name}") for tensor in tensors]
    graph = helper.make_graph(nodes, "test", [], [], tensors)
    (path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    return path / "model.onnx"


def external(**entries: object) -> TensorProto:
    """A tensor like ``WEIGHT`` whose numbers are elsewhere."""
    tensor = numpy_helper.from_array(WEIGHT, "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def refusal(path: Path) -> str:
    with pytest.raises(ww.WeightsFileError) as caught:
        find_layers(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def matrix(path: Path) -> np.ndarray:
    (layer,) = find_layers(path)
    return as_matrices(layer.spec, layer.read())[0].T


# --- external data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [{}, {"offset": 64}, {"offset": 64, "length": 140}, {"checksum": "x"}])
@pytest.mark.parametrize("location", ["model.onnx.data", "parts/0.bin", "./model.onnx.data"])
def test_numbers_in_a_file_of_the_folder(tmp_path, location, entries):
    (tmp_path / "parts").mkdir()
    (tmp_path / location).write_bytes(bytes(entries.get("offset", 0)) + WEIGHT.tobytes() + b"more")
    np.testing.assert_array_equal(matrix(model(tmp_path, external(location=location, **entries))), WEIGHT)


def test_a_model_that_onnx_saved_with_external_data(tmp_path):
    path = model(tmp_path, numpy_helper.from_array(WEIGHT, "w"))
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=0)
    assert (tmp_path / "weights").stat().st_size >= WEIGHT.nbytes
    np.testing.assert_array_equal(matrix(path), WEIGHT)


@pytest.mark.parametrize(
    ("location", "cause"),
    {
        "../secret": "leads out of the folder, refused",
        "parts/../../secret": "leads out of the folder, refused",
        "/etc/hostname": "leads out of the folder, refused",
        "..\\secret": "leads out of the folder, refused",
        "C:\\secret": "leads out of the folder, refused",
        "a\0b": "leads out of the folder, refused",
        "": "leads out of the folder, refused",
        ".": "leads out of the folder, refused",
        "missing": "does not exist",
        "folder": "is not a file",
        "pipe": "is not a file",
    }.items(),
)
def test_files_that_are_not_read(tmp_path, location, cause):
    inside = tmp_path / "inside"
    (inside / "folder").mkdir(parents=True)
    os.mkfifo(inside / "pipe")
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    assert cause in refusal(model(inside, external(location=location)))


@pytest.mark.parametrize(
    ("entries", "cause"),
    [
        ({"offset": -1}, "has 140 bytes, not 140 from byte -1"),
        ({"offset": 1}, "has 140 bytes, not 140 from byte 1"),
        ({"offset": 2**70}, "has 140 bytes"),
        ({"length": -140}, "has 140 bytes"),
        ({"length": 2**70}, "has 140 bytes"),
        ({"length": 136}, "FLOAT(7, 5) does not fit the 136 bytes it holds"),
        ({"offset": "zero"}, "cannot be read"),
        ({"offset": "9" * 5000}, "cannot be read"),
    ],
)
def test_places_that_lie(tmp_path, entries, cause):
    (tmp_path / "data").write_bytes(WEIGHT.tobytes())
    assert cause in refusal(model(tmp_path, external(location="data", **entries)))


def test_external_data_that_has_become_shorter(tmp_path):
    (tmp_path / "data").write_bytes(WEIGHT.tobytes())
    (layer,) = find_layers(model(tmp_path, external(location="data")))
    os.truncate(tmp_path / "data", 100)
    with pytest.raises(ww.WeightsFileError, match="has become shorter"):
        layer.read()


# --- tensors in the file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE", "FLOAT16", "BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E5M2"])
def test_floats_are_read_as_stored(tmp_path, kind, is_raw):
    """The reference is ml_dtypes, whose numbers are those of onnx."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    dtype = {
        "FLOAT": np.float32, "DOUBLE": np.float64, "FLOAT16": np.float16, "BFLOAT16": ml_dtypes.bfloat16,
        "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn, "FLOAT8E5M2": ml_dtypes.float8_e5m2,
    }[kind]  # fmt: skip
    stored = WEIGHT.astype(dtype)
    numbers = stored.tobytes() if is_raw else stored.astype(float).ravel().tolist()
    path = model(tmp_path, helper.make_tensor("w", getattr(TensorProto, kind), [7, 5], numbers, raw=is_raw))
    np.testing.assert_array_equal(matrix(path).astype(float), stored.astype(float))


@pytest.mark.parametrize("sides", [[7, 6], [2**62, 2**62], [0, 5], [-7, -5], [7]])
@pytest.mark.parametrize("is_raw", [True, False])
def test_shapes_that_do_not_fit_the_numbers(tmp_path, is_raw, sides):
    numbers = WEIGHT.tobytes() if is_raw else WEIGHT.ravel().tolist()
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [7, 5], numbers, raw=is_raw)
    del tensor.dims[:]
    tensor.dims.extend(sides)
    assert any(
        cause in refusal(model(tmp_path, tensor)) for cause in ("does not fit the 140 bytes", "not a list of sizes")
    )


def test_a_tensor_without_numbers(tmp_path):
    tensor = numpy_helper.from_array(WEIGHT, "w")
    tensor.ClearField("raw_data")
    assert "does not fit the 0 bytes" in refusal(model(tmp_path, tensor))


@pytest.mark.parametrize("name", [b"fc_w", b"n.fc_w", b"MatMul"])
def test_names_that_are_no_text(tmp_path, name):
    path = model(tmp_path, numpy_helper.from_array(WEIGHT, "fc_w"))
    path.write_bytes(path.read_bytes().replace(name, b"\xff" * len(name)))
    assert "utf-8" in refusal(path).lower()


def test_a_type_of_the_future_is_listed(tmp_path):
    tensor = numpy_helper.from_array(WEIGHT, "w")
    tensor.data_type = 99
    (layer,) = find_layers(model(tmp_path, tensor))
    assert layer.reason == "unsupported dtype type 99"


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 20, 0.3, 0.9, 0.999])
def test_truncated_files(tmp_path, keep):
    path = model(tmp_path, numpy_helper.from_array(WEIGHT, "w"))
    os.truncate(path, int(keep * path.stat().st_size) if isinstance(keep, float) else keep)
    assert "not an ONNX model" in refusal(path)


def test_a_file_with_very_many_fields(tmp_path, monkeypatch):
    monkeypatch.setattr("ww_callbacks.weights.onnx.wire.MAX_FIELDS", 10)
    path = model(tmp_path, *(numpy_helper.from_array(WEIGHT, f"w{i}") for i in range(6)))
    assert "more than 10 fields" in refusal(path)


def test_a_graph_that_uses_its_own_output(tmp_path):
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in (("a", "b"), ("b", "a"))]
    graph = helper.make_graph([*nodes, helper.make_node("MatMul", ["x", "a"], ["y"])], "test", [], [])
    (tmp_path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert find_layers(tmp_path / "model.onnx") == ()


def test_of_a_model_one_layer_at_a_time_is_in_memory(tmp_path):
    """24 matrices of 8 MiB each, read by a process that may not hold them all."""
    one = np.random.default_rng(0).standard_normal((65_536, 32)).astype(np.float32)
    model(tmp_path, *(numpy_helper.from_array(one, f"fc{i}") for i in range(24)))
    program = (
        "import sys, resource; from ww_callbacks.weights import find_layers; import ww_callbacks.weights.onnx.layers\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "sizes = [layer.read().size for layer in find_layers(sys.argv[1])]\n"
        "assert sizes == [2**21] * 24, sizes\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.onnx")],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 64
