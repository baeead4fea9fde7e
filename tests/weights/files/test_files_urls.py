"""Weights at URLs: the report is that of the local file, little is sent, and errors show no secrets."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import traceback
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from counted import Counted, counted

import ww_callbacks as ww
from ww_callbacks.cli import main
from ww_callbacks.weights import find_layers
from ww_callbacks.weights.files.remote import RemotePath, located

save_file = pytest.importorskip("safetensors.numpy").save_file
Arrays = dict[str, np.ndarray]
MIB = 2**20


@pytest.fixture
def bucket() -> Counted:
    return counted()


def weights(*, side: int = 60) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "fc1.weight": rng.standard_normal((side + 20, side)).astype(np.float32),
        "fc1.bias": np.zeros(side + 20, np.float32),
        "conv.weight": rng.standard_normal((30, 25, 3, 3)).astype(np.float16),
        "fc2.weight": rng.standard_normal((side, side)).T,
    }


def as_safetensors(folder: Path) -> Path:
    save_file({name: np.ascontiguousarray(array) for name, array in weights().items()}, folder / "model.safetensors")
    return folder / "model.safetensors"


def as_npz(folder: Path) -> Path:
    np.savez(folder / "model.npz", **weights())
    return folder / "model.npz"


def as_packed_npz(folder: Path) -> Path:
    np.savez_compressed(folder / "model.npz", **weights())
    return folder / "model.npz"


def as_folder(folder: Path) -> Path:
    """Two shards, an index and a configuration, as Hugging Face lays them out."""
    folder = folder / "repository"
    folder.mkdir()
    tensors, where = weights(), {}
    for number, names in enumerate((["fc1.weight", "fc1.bias"], ["conv.weight", "fc2.weight"]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: np.ascontiguousarray(tensors[name]) for name in names}, folder / file)
        where |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json").write_text("{}")
    return folder


def as_index(folder: Path) -> Path:
    return as_folder(folder) / "model.safetensors.index.json"


def as_quantised(folder: Path) -> Path:
    """GPTQ, which only the configuration beside the file tells."""
    rng, folder = np.random.default_rng(0), folder / "quantised"
    folder.mkdir()
    tensors = {
        "fc.qweight": rng.integers(0, 2**31, (16, 64), np.int32),
        "fc.qzeros": np.full((1, 8), 0x77777777, np.int32),
        "fc.scales": rng.random((1, 64)).astype(np.float16),
        "fc.g_idx": np.zeros(128, np.int32),
    }
    save_file(tensors, folder / "model.safetensors")
    config = {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": True}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def as_adapters(folder: Path) -> Path:
    rng, config = np.random.default_rng(0), {"peft_type": "LORA", "r": 4, "lora_alpha": 8}
    for name in (".", "second"):
        (folder / "adapters" / name).mkdir(parents=True, exist_ok=True)
        factors = {
            "base_model.model.fc.lora_A.weight": rng.standard_normal((4, 50)).astype(np.float32),
            "base_model.model.fc.lora_B.weight": rng.standard_normal((60, 4)).astype(np.float32),
        }
        save_file(factors, folder / "adapters" / name / "adapter_model.safetensors")
        (folder / "adapters" / name / "adapter_config.json").write_text(json.dumps(config))
    return folder / "adapters"


def as_pipeline(folder: Path) -> Path:
    for name in ("unet", "vae"):
        (folder / "pipeline" / name).mkdir(parents=True)
        as_safetensors(folder / "pipeline" / name)
    (folder / "pipeline" / "model_index.json").write_text("{}")
    return folder / "pipeline"


def as_torch(folder: Path) -> Path:
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(array) for name, array in weights().items()}
    tensors["tied.weight"] = tensors["fc1.weight"].T
    tensors["part.weight"] = tensors["fc1.weight"][10:70]
    tensors["half.weight"] = tensors["fc2.weight"].bfloat16()
    tensors["negated.weight"] = torch._neg_view(tensors["fc1.weight"])
    tensors["empty.weight"] = torch.zeros(0, 10)
    tensors["sparse.weight"] = torch.eye(60).to_sparse()
    torch.save({"model": tensors, "epoch": 3}, folder / "last.pt")
    return folder / "last.pt"


def as_training(folder: Path) -> Path:
    """Members of an optimizer in front, of the sizes of the weights; only their offsets tell them apart."""
    torch = pytest.importorskip("torch")
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights().items()}
    moments = {number: {"exp_avg": tensor + 1} for number, tensor in enumerate(tensors.values())}
    torch.save({"optimizer": {"state": moments}, "model": tensors}, folder / "training.pt")
    return folder / "training.pt"


def as_torch_experts(folder: Path) -> Path:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    torch.save({"layers.0.mlp.experts.down_proj": torch.randn(6, 64, 80)}, folder / "experts.pt")
    return folder / "experts.pt"


def as_checkpoint(folder: Path) -> Path:
    torch = pytest.importorskip("torch")
    from torch.distributed import checkpoint

    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights().items()}
    checkpoint.save({"model": tensors}, checkpoint_id=folder / "checkpoint", no_dist=True)
    return folder / "checkpoint"


def as_gguf(folder: Path) -> Path:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    writer.add_array("tokenizer.ggml.tokens", [f"token {number}" for number in range(150_000)])
    matrix = np.random.default_rng(0).standard_normal((64, 96)).astype(np.float32)
    writer.add_tensor("blk.0.ffn_up.weight", matrix)
    packed = gguf.quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.ffn_down.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "model.gguf"


def as_onnx(folder: Path) -> Path:
    pytest.importorskip("onnx.helper")
    import onnx
    from onnx import helper, numpy_helper

    matrix = np.random.default_rng(0).standard_normal((96, 80)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["y"], "first"),
        helper.make_node("Gemm", ["y", "b"], ["z"], "last"),
    ]
    tensors = [numpy_helper.from_array(matrix, "a"), numpy_helper.from_array(matrix.T.copy(), "b")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "test", [], [], tensors)), folder / "model.onnx")
    return folder / "model.onnx"


def as_onnx_folder(folder: Path) -> Path:
    """The numbers in a file of a folder beside the model."""
    inner = folder / "exported"
    (inner / "data").mkdir(parents=True)
    path = as_onnx(folder)
    import onnx

    onnx.save(
        onnx.load(path), inner / "model.onnx", save_as_external_data=True, location="data/weights", size_threshold=0
    )
    return inner / "model.onnx"


def as_hdf5(folder: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "model.weights.h5", "w") as file:
        for number, (name, array) in enumerate(weights().items()):
            chunks = {"chunks": True, "compression": "gzip"} if number % 2 else {}
            file.create_dataset(f"layers/dense_{number}/vars/0", data=array, **(chunks if array.ndim > 1 else {}))
            file[f"layers/dense_{number}/vars"].attrs["name"] = name
    return folder / "model.weights.h5"


def as_keras(folder: Path) -> Path:
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.write(as_hdf5(folder), "model.weights.h5")
    return path


FORMATS: list[Callable[[Path], Path]] = [
    *(as_safetensors, as_npz, as_packed_npz, as_folder, as_index, as_quantised, as_adapters, as_pipeline),
    *(as_torch, as_training, as_torch_experts, as_checkpoint, as_gguf, as_onnx, as_onnx_folder, as_hdf5, as_keras),
]
each_format = pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)


def in_memory(path: Path, root: Path) -> str:
    """Copy a folder to fsspec's file system in memory, and return the URL of a path in it."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    for file in root.rglob("*"):
        if file.is_file():
            files.pipe_file(f"/bucket/{file.relative_to(root)}", file.read_bytes())
    return f"memory://bucket/{path.relative_to(root)}"


@each_format
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_report_is_that_of_the_file(tmp_path, make):
    path = make(tmp_path)
    local = ww.analyze(path)
    assert any(layer.status == "ok" for layer in local)
    assert ww.analyze(in_memory(path, tmp_path)) == local


@each_format
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_ranges_give_the_same(tmp_path, bucket, make):
    path = make(tmp_path)
    bucket.add(tmp_path)
    url = f"counted://bucket/{tmp_path.name}/{path.relative_to(tmp_path)}"
    assert ww.analyze(url) == ww.analyze(path)
    everything = sum(map(len, bucket.files.values()))
    assert bucket.sent <= 1.2 * everything + 40 * 2**16


@pytest.mark.parametrize("as_given", [str, Path.as_uri], ids=["path", "file://"])
def test_files_of_this_machine_need_no_fsspec(tmp_path, as_given):
    path = as_npz(tmp_path).rename(tmp_path / "a model.npz")
    program = "import sys, ww_callbacks as ww; ww.analyze(sys.argv[1]); print('fsspec' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, as_given(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- what is sent ----------------------------------------------------------------------------------------------------


def large(folder: Path, write: Callable[[Arrays, Path], object], name: str) -> Path:
    """A file of 24 MiB with one small matrix."""
    rng = np.random.default_rng(0)
    tensors = {f"large.{number}.weight": rng.standard_normal((64, 2**15)).astype(np.float32) for number in range(3)}
    write(tensors | {"small.weight": rng.standard_normal((100, 80)).astype(np.float32)}, folder / name)
    return folder / name


def save_torch(tensors: Arrays, path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)


def save_gguf(tensors: Arrays, path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def save_hdf5(tensors: Arrays, path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in tensors.items():
            file.create_dataset(f"{name.removesuffix('.weight').replace('.', '_')}/vars/0", data=array)


LARGE = {
    "model.safetensors": save_file,
    "model.npz": lambda tensors, path: np.savez(path, **tensors),
    "model.pt": save_torch,
    "model.gguf": save_gguf,
    "model.weights.h5": save_hdf5,
}


@pytest.mark.parametrize("name", LARGE)
def test_one_small_layer_of_a_large_file(tmp_path, bucket, name):
    path = large(tmp_path, LARGE[name], name)
    url = bucket.add(path)
    report = ww.analyze(url, layers=["small*"])
    assert report == ww.analyze(path, layers=["small*"])
    assert bucket.sent < 2 * MIB < path.stat().st_size / 10


@pytest.mark.parametrize("name", LARGE)
def test_a_whole_analysis_reads_each_byte_about_once(tmp_path, bucket, name):
    path = large(tmp_path, LARGE[name], name)
    url = bucket.add(path)
    for layer in find_layers(url):
        layer.read()
    assert bucket.sent <= 1.1 * path.stat().st_size


def test_experts_are_read_one_by_one(tmp_path, bucket):
    torch = pytest.importorskip("torch")
    torch.save({"layers.0.mlp.experts.down_proj": torch.randn(16, 128, 512)}, tmp_path / "experts.pt")
    url = bucket.add(tmp_path / "experts.pt")
    layers = find_layers(url)
    assert len(layers) == 16
    for layer in layers:
        layer.read()
    assert bucket.sent <= 1.1 * (tmp_path / "experts.pt").stat().st_size


def test_layers_are_read_when_they_are_analysed(tmp_path, bucket):
    layers = find_layers(bucket.add(large(tmp_path, save_file, "model.safetensors")))
    before = bucket.sent
    layers[-1].read()
    assert before < MIB
    assert bucket.sent < 2 * MIB


def test_kept_blocks_are_bounded(bucket, monkeypatch):
    monkeypatch.setattr("ww_callbacks.weights.files.remote.MAX_BLOCKS", 2)
    bucket.files["bucket/file"] = os.urandom(10 * 2**16 + 5)
    path = located("counted://bucket/file")
    assert isinstance(path, RemotePath)
    with path.open("rb") as file:
        pieces = [file.read(1000) for _ in range(700)]
    assert b"".join(pieces) == bucket.files["bucket/file"]
    assert bucket.sent == len(bucket.files["bucket/file"])
    assert len(path._source.blocks) == 2


# --- baselines, comparisons, the command -----------------------------------------------------------------------------


def test_a_baseline_and_a_comparison(tmp_path):
    path = as_npz(tmp_path)
    url = in_memory(path, tmp_path)
    assert ww.analyze(url, baseline=path) == ww.analyze(path, baseline=url) == ww.analyze(path, baseline=path)
    both = ww.compare({"here": path, "there": url})
    assert both.reports["here"] == both.reports["there"]


def test_adapters_change_a_baseline_at_a_url(tmp_path):
    base = np.random.default_rng(1).standard_normal((60, 50)).astype(np.float32)
    save_file({"fc.weight": base}, tmp_path / "base.safetensors")
    folder = as_adapters(tmp_path)
    url = in_memory(folder, tmp_path)
    here = ww.analyze(folder, baseline=tmp_path / "base.safetensors")
    assert ww.analyze(url, baseline="memory://bucket/base.safetensors") == here


def test_the_command_takes_urls(tmp_path, bucket, capsys):
    bucket.add(as_npz(tmp_path))
    assert main(["analyze", "counted://bucket/model.npz?signature=1", "--format", "json"]) == 2  # another file
    assert "signature" not in capsys.readouterr().err
    assert main(["analyze", "counted://bucket/model.npz", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "model.npz"
    bucket.files["bucket/step=2/last.npz"] = bucket.files["bucket/model.npz"]
    words = ["counted://bucket/model.npz", "counted://bucket/step=2/last.npz", "third=counted://bucket/model.npz"]
    assert main(["compare", *words, "--format", "csv"]) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["model", "last", "third"]


# --- what goes wrong -------------------------------------------------------------------------------------------------


def refusal(url: str) -> str:
    """What the error says, which names the URL."""
    with pytest.raises(ww.WeightsFileError) as caught:
        ww.analyze(url)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.path, again.cause) == (str(caught.value), caught.value.path, caught.value.cause)
    assert str(caught.value) == f"{caught.value.path}: {caught.value.cause}"
    assert str(caught.value.path).startswith(url.partition("://")[0] + "://")
    return caught.value.cause


def test_nothing_at_the_url(bucket):
    assert refusal("counted://bucket/model.safetensors") == "no such file or directory"
    assert refusal("memory://nowhere") == "no such file or directory"


class AnswerError(OSError):
    """As requests raises it: an OSError with the answer of the server."""

    def __init__(self, code: int) -> None:
        super().__init__(f"{code} for url")
        self.response = type("Response", (), {"status_code": code})


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        (None, "no such file or directory"),
        (AnswerError(404), "no such file or directory"),
        (AnswerError(403), "cannot be read: 403 for url"),
        (ConnectionRefusedError("refused"), "cannot be read: refused"),
    ],
)
def test_a_missing_file_is_told_from_one_that_cannot_be_reached(bucket, monkeypatch, cause, told):
    def fail(path: str, **_: object) -> None:
        raise FileNotFoundError(path) from cause

    monkeypatch.setattr(bucket, "info", fail)
    assert refusal("counted://bucket/model.npz") == told


def test_a_truncated_file(tmp_path, bucket):
    url = bucket.add(as_safetensors(tmp_path))
    bucket.files["bucket/model.safetensors"] = bucket.files["bucket/model.safetensors"][:-100]
    assert refusal(url).startswith("truncated: the header describes")


def test_a_file_that_has_become_shorter(tmp_path, bucket):
    url = bucket.add(large(tmp_path, save_file, "model.safetensors"))
    layers = find_layers(url)
    bucket.files["bucket/model.safetensors"] = bucket.files["bucket/model.safetensors"][:-MIB]
    with pytest.raises(ww.WeightsFileError, match=r"^counted://bucket/model.safetensors: "):
        [layer.read() for layer in layers]


@pytest.mark.parametrize("name", LARGE)
def test_a_file_that_is_replaced_by_one_of_the_same_size(tmp_path, bucket, name):
    url = bucket.add(large(tmp_path, LARGE[name], name))
    bucket.tags[f"bucket/{name}"] = 1
    layers = find_layers(url)
    layers[0].read()
    bucket.tags[f"bucket/{name}"] = 2
    with pytest.raises(ww.WeightsFileError, match="was replaced while it was read"):
        layers[1].read()


@pytest.mark.parametrize("name", ["../other.safetensors", "/bucket/other.safetensors", "..", "a\\b", "counted://x/y"])
def test_an_index_that_points_outside_its_folder(tmp_path, bucket, name):
    bucket.add(as_safetensors(tmp_path).rename(tmp_path / "other.safetensors"))
    bucket.files["bucket/in/model.safetensors.index.json"] = json.dumps({"weight_map": {"fc": name}}).encode()
    assert refusal("counted://bucket/in") == f"{name!r} leads out of the folder, refused"
    assert not any("other" in path for path in bucket.requests)


@pytest.mark.parametrize("name", ["..", "a/../b", "/a", "a\\b", "", "\0"])
def test_a_path_does_not_lead_out_of_its_folder(bucket, name):
    with pytest.raises(ww.WeightsFileError, match="leads out of the folder, refused"):
        located("counted://bucket/folder") / name


def test_a_shard_that_is_missing(tmp_path, bucket):
    url = bucket.add(as_folder(tmp_path))
    del bucket.files["bucket/repository/model-00002-of-00002.safetensors"]
    assert refusal(url) == "no such file or directory"


def test_a_view_that_negates_its_numbers_is_listed(tmp_path, bucket):
    path = as_torch(tmp_path)
    for place in (path, bucket.add(path)):
        (layer,) = (layer for layer in find_layers(place) if layer.name == "negated")
        assert (layer.spec, layer.reason) == (None, "unsupported tensor: a view that negates its numbers")


def test_formats_that_are_not_read_in_ranges(tmp_path, bucket):
    torch = pytest.importorskip("torch")
    torch.save({"fc": torch.ones(9, 9)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert refusal(bucket.add(tmp_path / "old.pt")).endswith("download the file and pass its path")
    assert "chained URLs are not read; download the file" in refusal("zip://model.npz::memory://bucket/all.zip")


@pytest.mark.parametrize("ends", ["os.kill(os.getpid(), 11)", "os.read(0, 9); os.kill(os.getpid(), 11)"])
def test_a_file_on_which_the_hdf5_library_crashes(tmp_path, bucket, monkeypatch, ends):
    """The child stands for the library, before and after it reads a range."""
    hdf5_walk = pytest.importorskip("ww_callbacks.weights.files.hdf5_walk")
    url = bucket.add(as_hdf5(tmp_path))
    (tmp_path / "walk.py").write_text(f"import os\nos.write(1, b'0 100000\\n')\n{ends}\n")
    monkeypatch.setattr(hdf5_walk, "__file__", str(tmp_path / "walk.py"))
    assert refusal(url) == "damaged: the HDF5 library hangs or crashes on it (SIGSEGV)"


def test_an_archive_of_the_other_byte_order(tmp_path, bucket):
    path = as_torch(tmp_path)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "big.pt", "w") as new:
        for member in old.infolist():
            is_order = member.filename.endswith("byteorder")
            new.writestr(member.filename, b"big" if is_order else old.read(member))
    assert "byte order is 'big'" in refusal(bucket.add(tmp_path / "big.pt"))


@pytest.mark.parametrize("name", LARGE)
def test_errors_of_the_network(tmp_path, bucket, name):
    url = bucket.add(large(tmp_path, LARGE[name], name))
    layers = find_layers(url)
    bucket.error = TimeoutError("no answer\nfrom anywhere")
    assert refusal(url) == "cannot be read: no answer"
    with pytest.raises(ww.WeightsFileError, match="cannot be read: no answer"):
        layers[0].read()
    bucket.error = None
    assert layers[0].read().shape == (64, 2**15)


def test_protocols_that_fsspec_does_not_know_or_cannot_use(monkeypatch):
    assert refusal("nosuch://bucket/model.pt").startswith("cannot be read: Protocol not known: nosuch")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert refusal("s3://bucket/model.pt") == "cannot be read: Install s3fs to access S3"


def test_without_fsspec_the_error_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "fsspec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert refusal("s3://bucket/model.pt") == "reading it needs fsspec: pip install 'ww_callbacks[urls]'"


@pytest.mark.parametrize(
    "url",
    [
        "counted://user:hidden@bucket/model.npz",
        "counted://hidden@bucket/model.npz",
        "counted://AKIA:hid/hidden@bucket/model.npz",
        "counted://bucket/model.npz?X-Signature=hidden",
        "nosuch://user:hidden@bucket/model.npz?sig=hidden",
    ],
)
def test_secrets_of_a_url_are_not_shown(bucket, url, monkeypatch):
    def fail(path: str, **_: object) -> None:
        raise OSError(f"403 for {path} and {url} and https://other/file?sig=hidden")

    monkeypatch.setattr(bucket, "info", fail)
    with pytest.raises(ww.WeightsFileError) as caught:
        ww.analyze(url)
    assert "hidden" not in "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.path)
    assert "hidden" not in "".join(line for line in traceback.format_exception(caught.value) if "Error" in line)


# --- HTTP ------------------------------------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Sends files, in ranges if ``ranges`` is set; a signature is asked for if ``signature`` is set."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    ranges = True
    signature = ""
    sent = 0

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, with_body: bool) -> None:
        path, _, query = self.path.partition("?")
        body, cls = self.files.get(path), type(self)
        if body is None or query != self.signature:
            self.send_error(404 if body is None else 403)
            return
        wanted = self.headers.get("Range") if self.ranges else None
        status, part = 200, body
        if wanted:
            begin, end = map(int, wanted.removeprefix("bytes=").split("-"))
            status, part = 206, body[begin : end + 1]
        self.send_response(status)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Type", "application/octet-stream")
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end}/{len(body)}")
        self.end_headers()
        if with_body:
            cls.sent += len(part)
            self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Handler]]]:
    pytest.importorskip("aiohttp")
    handler = type("Fresh", (Handler,), {"files": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", handler
        running.shutdown()
        thread.join()


def test_over_http(tmp_path, server):
    host, handler = server
    folder = as_folder(tmp_path)
    handler.files = {f"/{file.name}": file.read_bytes() for file in folder.iterdir()}
    assert ww.analyze(f"{host}/model.safetensors.index.json") == ww.analyze(folder)
    path = large(tmp_path, save_file, "large.safetensors")
    handler.files["/large.safetensors"], handler.sent = path.read_bytes(), 0
    assert ww.analyze(f"{host}/large.safetensors", layers=["small"]) == ww.analyze(path, layers=["small"])
    assert handler.sent < MIB


def test_a_signed_url(tmp_path, server):
    host, handler = server
    path = as_safetensors(tmp_path)
    handler.files, handler.signature = {"/model.safetensors": path.read_bytes()}, "sig=hidden%2Bx"
    assert ww.analyze(f"{host}/model.safetensors?sig=hidden%2Bx") == ww.analyze(path)
    cause = refusal(f"{host}/model.safetensors?sig=hidden%2By")
    assert "403" in cause
    assert "hidden" not in cause


def test_a_server_without_ranges_and_one_that_is_not_there(tmp_path, server):
    host, handler = server
    path = large(tmp_path, save_file, "large.safetensors")
    handler.files, handler.ranges = {"/large.safetensors": path.read_bytes()}, False
    assert refusal(f"{host}/none.safetensors") == "no such file or directory"
    with pytest.raises(ww.WeightsFileError, match="download the file and pass its path"):
        ww.analyze(f"{host}/large.safetensors", layers=["small"])
    assert "Cannot connect" in refusal("http://127.0.0.1:1/model.npz")


def test_names_of_shards_are_names_over_http_too(server):
    host, _ = server
    inner = located(f"{host}/folder/model.index.json").parent / "%2e%2e%2fother?x"
    assert inner._path == f"{host}/folder/%252e%252e%252fother%3Fx"
    assert inner.name == "%2e%2e%2fother?x"
