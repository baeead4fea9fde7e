"""Safetensors files and folders of shards: real saves, read back with every weight accounted for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.analysis import as_matrices
from ww_callbacks.weights import find_layers

ml_dtypes = pytest.importorskip("ml_dtypes")
safetensors_numpy = pytest.importorskip("safetensors.numpy")


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "embed_tokens.weight": rng.standard_normal((70, 32)).astype(np.float32),
        "layers.0.conv.weight": rng.standard_normal((30, 25, 3, 3)).astype(np.float16),
        "layers.0.norm.weight": np.ones(32, np.float32),
        "layers.0.mlp.up.weight": rng.standard_normal((64, 32)),
        "layers.0.mlp.up.bias": np.zeros(64),
        "lm_head.weight": rng.standard_normal((70, 32)).astype(np.float32),
    }


def sharded(folder: Path, tensors: dict[str, np.ndarray], count: int = 2) -> Path:
    """A folder as Hugging Face lays it out."""
    folder.mkdir(exist_ok=True)
    where = {}
    for index in range(count):
        name = f"model-{index + 1:05d}-of-{count:05d}.safetensors"
        part = dict(list(tensors.items())[index::count])
        safetensors_numpy.save_file(part, folder / name)
        where |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": {name: where[name] for name in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    return folder


def numbers(path: Path) -> dict[str, np.ndarray]:
    return {layer.name: as_matrices(layer.spec, layer.read()) for layer in find_layers(path) if layer.spec}


def outcome(path: Path) -> dict[str, str]:
    return {layer.name: layer.reason or layer.kind for layer in find_layers(path)}


def test_every_tensor_is_accounted_for_with_the_kind_it_was_taken_for(tmp_path):
    safetensors_numpy.save_file(weights(), tmp_path / "model.safetensors")
    found = outcome(tmp_path / "model.safetensors")
    assert found == {
        "embed_tokens": "embedding (inferred)",
        "layers.0.conv": "convolution (inferred)",
        "layers.0.norm": "no matrix: fewer than two dimensions",
        "layers.0.mlp.up": "matrix (inferred)",
        "lm_head": "matrix (inferred)",
    }
    read = numbers(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(read["layers.0.mlp.up"][0], weights()["layers.0.mlp.up.weight"])
    np.testing.assert_array_equal(read["embed_tokens"][0], weights()["embed_tokens.weight"].T)
    np.testing.assert_array_equal(read["layers.0.conv"][5], weights()["layers.0.conv.weight"][:, :, 1, 2])


def test_large_embeddings_are_analysed_only_if_their_full_name_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr("ww_callbacks.weights.kinds.MAX_ROWS", 69)
    path = tmp_path / "model.safetensors"
    safetensors_numpy.save_file(weights(), path)
    for layers in (None, ["*"], ["embed*", "lm_head"]):
        report = ww.analyze(path, layers=layers, randomize=False)
        assert report["embed_tokens"].reason == (
            "embedding with 70 rows, more than 69; give its full name in layers= to analyse it"
        )
        assert report["lm_head"].status == "ok"
    assert ww.analyze(path, layers=["embed_tokens"], randomize=False)["embed_tokens"].N == 70
    assert ww.analyze(path, layers=["*", "embed_tokens"], randomize=False)["lm_head"].status == "ok"


@pytest.mark.parametrize("how", ["folder", "index", "shards without their index"])
def test_shards_are_one_model(tmp_path, how):
    folder = sharded(tmp_path / "model", weights())
    single = tmp_path / "single.safetensors"
    safetensors_numpy.save_file(weights(), single)
    path = folder / "model.safetensors.index.json" if how == "index" else folder
    if how == "shards without their index":
        (folder / "model.safetensors.index.json").unlink()
    assert sorted(outcome(path)) == sorted(outcome(single))
    for name, matrices in numbers(path).items():
        np.testing.assert_array_equal(matrices, numbers(single)[name])


def test_layers_of_an_index_come_in_its_order(tmp_path):
    assert list(outcome(sharded(tmp_path / "model", weights(), count=3))) == [
        "embed_tokens", "layers.0.conv", "layers.0.norm", "layers.0.mlp.up", "lm_head",
    ]  # fmt: skip


def test_analysis_from_shards_in_worker_processes_is_the_same(tmp_path):
    folder = sharded(tmp_path / "model", weights())
    here, there = ww.analyze(folder), ww.analyze(folder, workers=2)
    assert [layer.name for layer in there] == [layer.name for layer in here]
    assert [layer.reason for layer in there] == [layer.reason for layer in here]
    alphas = [[layer.alpha for layer in report if layer.status == "ok"] for report in (here, there)]
    assert alphas[1] == pytest.approx(alphas[0], rel=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_every_precision_is_read_exactly(tmp_path, dtype):
    weight = np.random.default_rng(0).standard_normal((40, 30)).astype(getattr(ml_dtypes, dtype, dtype))
    safetensors_numpy.save_file({"fc.weight": weight}, tmp_path / "model.safetensors")
    np.testing.assert_array_equal(numbers(tmp_path / "model.safetensors")["fc"][0].astype("f8"), weight.astype("f8"))


def test_integers_are_listed_with_the_reason(tmp_path):
    safetensors_numpy.save_file({"fc.weight": np.ones((4, 3), np.int8)}, tmp_path / "model.safetensors")
    assert "unsupported dtype int8" in outcome(tmp_path / "model.safetensors")["fc"]


def test_a_file_that_was_saved_from_a_module(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_model

    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 40, bias=False))
    save_model(model, str(tmp_path / "model.safetensors"), metadata={"format": "pt"})
    built = {layer.name: layer for layer in find_layers(model)}
    for name, matrices in numbers(tmp_path / "model.safetensors").items():
        np.testing.assert_array_equal(matrices, as_matrices(built[name].spec, built[name].read()))


def test_a_file_is_measured_without_reading_its_numbers(tmp_path):
    path = tmp_path / "model.safetensors"
    header = json.dumps({"fc.weight": {"dtype": "F32", "shape": [2**20, 2**12], "data_offsets": [0, 2**34]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + 2**34)  # sparse: 16 GiB that take no room
    (layer,) = find_layers(path)
    assert layer.spec.shape == (2**20, 2**12)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_one_weights_file_of_any_format(tmp_path):
    np.savez(tmp_path / "weights.npz", fc=np.ones((30, 20)))
    assert list(outcome(tmp_path)) == ["fc"]


def test_safetensors_come_before_other_files_of_a_folder(tmp_path):
    np.savez(tmp_path / "weights.npz", old=np.ones((30, 20)))
    safetensors_numpy.save_file({"new.weight": np.ones((30, 20))}, tmp_path / "model.safetensors")
    assert list(outcome(tmp_path)) == ["new", "weights.npz"]


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([], "no weights file in this folder"),
        (["a.safetensors", "b.safetensors"], "several files of the same network"),
        (["model-00001-of-00002.safetensors"], "parts are missing"),
        (["a.npz", "b.npz"], "a.npz: not a weights file"),
    ],
)
def test_folders_that_do_not_hold_one_model(tmp_path, names, problem):
    for name in names:
        safetensors_numpy.save_file({"fc.weight": np.ones((3, 2))}, tmp_path / name)
    with pytest.raises(ww.WeightsFileError, match=problem):
        find_layers(tmp_path)


@pytest.mark.parametrize("target", ["../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "..\\x"])
def test_an_index_leads_nowhere_else(tmp_path, target):
    safetensors_numpy.save_file({"fc.weight": np.ones((3, 2))}, tmp_path / "outside.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"fc.weight": target}}))
    with pytest.raises(ww.WeightsFileError, match=r"model\.safetensors\.index\.json: .* leads out of the folder"):
        find_layers(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "none.x"}}']
)
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ww.WeightsFileError):
        find_layers(tmp_path)


def test_an_index_that_names_tensors_which_are_not_there(tmp_path):
    folder = sharded(tmp_path / "model", weights())
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["ghost.weight"] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ww.WeightsFileError, match=r"1 tensors are not in their files, such as 'ghost\.weight'"):
        find_layers(folder)


# --- headers that lie ------------------------------------------------------------------------------------------------

GOOD = {"a.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
OVERLAP = GOOD | {"b.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [12, 36]}}
GAP = GOOD | {"b.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [36, 60]}}


def with_header(path: Path, header: object, body: int = 24, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(body))
    return path


def entry(**changes: object) -> dict[str, object]:
    return {"a.weight": GOOD["a.weight"] | changes}


@pytest.mark.parametrize(
    ("header", "body", "length", "cause"),
    [
        (GOOD, 24, 2**63, "a header of 9223372036854775808 bytes"),
        (GOOD, 24, 2**64 - 1, "truncated"),
        (GOOD, 20, None, "truncated: the header describes 24 bytes, the file holds 20"),
        (GOOD, 28, None, "the header describes 24 bytes, the file holds 28"),
        (OVERLAP, 36, None, "'b.weight' overlaps"),
        (GAP, 60, None, "'b.weight' leaves a gap"),
        (entry(dtype="F99"), 24, None, "unknown dtype 'F99'"),
        (entry(dtype=None), 24, None, "unknown dtype"),
        (entry(shape=[2, -3]), 24, None, "not a list of sizes"),
        (entry(shape=[2.0, 3]), 24, None, "not a list of sizes"),
        (entry(shape=[2**40, 2**40]), 24, None, "does not fit the 24 bytes"),
        (entry(shape=[2**63, 0]), 24, None, "not a list of sizes"),
        (entry(shape="6"), 24, None, "not a list of sizes"),
        (entry(data_offsets=[24, 0]), 24, None, "not begin and end"),
        (entry(data_offsets=[-24, 0]), 24, None, "not begin and end"),
        (entry(data_offsets=[0, 2**70]), 24, None, "not begin and end"),
        (entry(more=1), 24, None, "expected dtype, shape and data_offsets"),
        ({"a.weight": 5}, 24, None, "expected dtype, shape and data_offsets"),
        ([1], 24, None, "the header is not an object"),
        (b"{", 24, None, "cannot be read"),
        (b"\xff\xfe", 24, None, "cannot be read"),
        (b"[" * 100_000, 24, None, "cannot be read"),
        (b'{"a": NaN}', 24, None, "NaN in the header"),
        (b'{"a": 1, "a": 2}', 24, None, "twice"),
        (b'{"a": ' + b"9" * 5000 + b"}", 24, None, "cannot be read"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, (str, bytes)) else "",
)  # fmt: skip
def test_a_header_is_not_believed(tmp_path, header, body, length, cause):
    path = with_header(tmp_path / "model.safetensors", header, body, length)
    with pytest.raises(ww.WeightsFileError) as caught:
        find_layers(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert cause in str(caught.value)


def test_a_header_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((2**33).to_bytes(8, "little"))
    os.truncate(path, 2**34)
    with pytest.raises(ww.WeightsFileError, match="more than 33554432 are not read"):
        find_layers(path)


def test_a_file_that_shrinks_after_it_was_measured(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors_numpy.save_file({"fc.weight": np.ones((30, 20))}, path)
    (layer,) = find_layers(path)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(ww.WeightsFileError, match="truncated"):
        layer.read()


def test_all_networks_of_a_pipeline_are_found(tmp_path):
    files = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
    for folder, name in files.items():
        (tmp_path / folder).mkdir()
        for variant in ("", ".fp16"):
            stored = {"fc.weight": np.ones((4, 3), np.float16 if variant else np.float32)}
            safetensors_numpy.save_file(stored, tmp_path / folder / f"{name}{variant}.safetensors")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    found = {layer.name: layer.spec.dtype for layer in find_layers(tmp_path) if layer.spec}
    assert found == dict.fromkeys(["text_encoder/fc", "unet/fc", "vae/fc"], "float32")


def test_a_pipeline_without_weights_is_told(tmp_path):
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ww.WeightsFileError, match="without folders that hold weights"):
        find_layers(tmp_path)
