"""Files that are no weights, damaged or malicious: an error that names file and cause, and nothing executed."""

from __future__ import annotations

import json
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.weights import find_layers

torch = pytest.importorskip("torch")


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def refusal(path: Path) -> str:
    with pytest.raises(ww.WeightsFileError) as caught:
        find_layers(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


ENDINGS = (
    "safetensors",
    "pt",
    "npz",
    "gguf",
    "onnx",
    "msgpack",
    "keras",
    "h5",
    "ckpt",
    "bin",
    "unknown",
    "safetensors.index.json",
)


@pytest.mark.parametrize("ending", ENDINGS)
def test_missing_files(tmp_path, ending):
    assert refusal(tmp_path / f"model.{ending}") == "no such file or directory"


@pytest.mark.parametrize("ending", ENDINGS)
def test_empty_files(tmp_path, ending):
    (tmp_path / f"model.{ending}").touch()
    assert refusal(tmp_path / f"model.{ending}")


@pytest.mark.parametrize("content", [b"not weights", b"\x00" * 100, b"PK\x03\x04", b"\x80\x02.", b"<html></html>"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_files_that_are_no_weights(tmp_path, ending, content):
    (tmp_path / f"model.{ending}").write_bytes(content * 3)
    assert refusal(tmp_path / f"model.{ending}")


@pytest.mark.parametrize("keep", [1, 100, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("is_new", [True, False])
def test_truncated_torch_files(tmp_path, is_new, keep):
    path = tmp_path / "model.pt"
    torch.save({"fc.weight": torch.randn(60, 50)}, path, _use_new_zipfile_serialization=is_new)
    os.truncate(path, int(keep * path.stat().st_size) if isinstance(keep, float) else keep)
    assert refusal(path)


@pytest.mark.parametrize("keep", [1, 100, 0.3, 0.9, 0.999])
def test_truncated_archives_of_numpy(tmp_path, keep):
    path = tmp_path / "model.npz"
    np.savez(path, fc=np.ones((60, 50)))
    os.truncate(path, int(keep * path.stat().st_size) if isinstance(keep, float) else keep)
    assert refusal(path)


def test_what_is_neither_file_nor_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    assert refusal(tmp_path / "pipe.pt") == "neither a file nor a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_that_must_not_be_read(tmp_path):
    (tmp_path / "model.pt").touch(mode=0o000)
    assert "Permission denied" in refusal(tmp_path / "model.pt")


def test_names_that_no_file_can_have():
    assert refusal(Path("a\0b"))


def test_a_name_that_is_not_unicode(tmp_path):
    path = safetensors_file(tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes().replace(b"fc.weight", b"\\ud800.we"))
    assert refusal(path) == r"a name that is not valid Unicode: '\ud800.we'"


# --- folders and indexes ---------------------------------------------------------------------------------------------


def safetensors_file(path: Path, shape=(60, 50)) -> Path:
    count = 4 * shape[0] * min(shape[1], 1000) if 0 not in shape else 0
    header = json.dumps({"fc.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, count]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(count))
    return path


def index_of(path: Path, name: str) -> Path:
    path.write_text(json.dumps({"weight_map": {"fc.weight": name}}))
    return path


def test_a_pipe_in_the_place_of_a_shard_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(ww.WeightsFileError, match=r"a\.safetensors: not a regular file"):
        find_layers(index_of(tmp_path / "model.safetensors.index.json", "a.safetensors"))


def test_a_pipe_in_the_place_of_a_configuration_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    (layer,) = find_layers(safetensors_file(tmp_path / "model.safetensors"))
    assert layer.skip is None


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "other.SAFETENSORS.INDEX.JSON"])
def test_an_index_that_names_an_index(tmp_path, name):
    assert "names another index" in refusal(index_of(tmp_path / "model.safetensors.index.json", name))


def test_the_plain_variant_of_a_folder_is_read(tmp_path):
    for variant in ("", ".fp16"):
        part = f"model{variant}-00001-of-00001.safetensors"
        safetensors_file(tmp_path / part, (60, 50) if variant else (70, 50))
        index_of(tmp_path / f"model{variant}.safetensors.index.json", part)
    layer, *left_out = find_layers(tmp_path)
    assert layer.spec.shape == (70, 50)
    assert {each.skip.reason for each in left_out} == {"left_out"}


def test_a_folder_of_checkpoints_says_what_it_holds(tmp_path):
    (tmp_path / "checkpoint-500").mkdir()
    safetensors_file(tmp_path / "checkpoint-500" / "model.safetensors")
    assert refusal(tmp_path) == "no weights file in this folder, which holds ['checkpoint-500/']"


def test_a_shape_that_no_array_can_have_is_listed_as_empty(tmp_path):
    (layer,) = ww.analyze(safetensors_file(tmp_path / "model.safetensors", (0, 2**62)))
    assert layer.reason == "empty weights"


# --- pickles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["state dict", "key", "module"])
@pytest.mark.parametrize("is_new", [True, False])
def test_pickles_that_would_run_code(tmp_path, is_new, place):
    evil, weight = Evil(tmp_path / "ran"), torch.randn(60, 50)
    content = {
        "state dict": {"fc.weight": evil},
        "key": {("a", evil): weight},
        "module": torch.nn.Linear(3, 4),
    }[place]
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=is_new)
    assert "they are not unpickled, because that could run code" in refusal(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("is_new", [True, False])
def test_objects_beside_the_weights_are_not_made(tmp_path, is_new):
    evil, weight = Evil(tmp_path / "ran"), torch.randn(60, 50)
    content = {"state_dict": {"fc.weight": weight, "head.weight": evil}, "epoch": evil, "config": torch.nn.ReLU()}
    torch.save(content | {"ema": torch.nn.Linear(60, 50)}, tmp_path / "model.pt", _use_new_zipfile_serialization=is_new)
    layers = {layer.name: layer for layer in find_layers(tmp_path / "model.pt")}
    np.testing.assert_array_equal(layers["fc"].read(), weight.numpy())
    assert "a Python object (posix.system)" in layers["head"].reason
    assert "a Python object (torch.nn.modules.linear.Linear)" in layers["ema"].reason
    assert list(layers) == ["fc", "ema", "head"]
    assert not (tmp_path / "ran").exists()


BOMB_BYTES = 6 * 2**30


class Bomb:
    """Asks for memory where it is unpickled."""

    def __reduce__(self):
        return bytearray, (BOMB_BYTES,)


def test_a_pickle_that_asks_for_memory_gets_none(tmp_path):
    weight = torch.randn(60, 50)
    torch.save({"state_dict": {"fc.weight": weight}, "junk": Bomb()}, tmp_path / "model.pt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (layer,) = find_layers(tmp_path / "model.pt")
    np.testing.assert_array_equal(layer.read(), weight.numpy())
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 2**10 < 2**26


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\x80\x02}" + b")" + b"2\x86" * 60 + b"K\x01s.", "a key of type tuple"),  # its hash takes forever
        (b"\x80\x02]r\xff\xff\xff\x7f.", "no weights but a list"),  # a memo of 2³¹ entries
        (b"\x96" + b"\xff" * 6 + b"\x0f\x00.", "damaged, or no file of torch.save"),  # 2⁵² bytes
        (b"\x82\x01.", "needs something outside of the file"),
        (b"}" + b"(" * 1000 + b"u.", "damaged, or no file of torch.save"),
        (b"\x80\x02]q\x00h\x00a.", "no weights but a list"),  # a list that holds itself
    ],
    ids=["hash", "memo", "bytes", "extension", "marks", "cycle"],
)
def test_pickles_that_ask_for_time_or_memory(tmp_path, data, cause):
    assert cause in refusal(torch_archive(tmp_path, lambda members: members.update({"model/data.pkl": data})))


def test_files_that_hold_programs_say_what_they_are(tmp_path):
    torch.save(torch.nn.Linear(3, 4), tmp_path / "module.pt")
    assert "torch.nn.modules.linear.Linear" in refusal(tmp_path / "module.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 4)), tmp_path / "script.pt")
    assert "a TorchScript archive, which holds code" in refusal(tmp_path / "script.pt")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("ending", ENDINGS)
def test_plain_pickles(tmp_path, ending, protocol):
    path = tmp_path / f"model.{ending}"
    path.write_bytes(pickle.dumps({"fc.weight": Evil(tmp_path / "ran")}, protocol))
    assert refusal(path)
    assert not (tmp_path / "ran").exists()


def test_a_user_who_allowed_unsafe_loading_is_safe_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"fc.weight": Evil(tmp_path / "ran")}, tmp_path / "model.pt")
    assert refusal(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


def torch_archive(folder: Path, change, compression: int = zipfile.ZIP_STORED) -> Path:
    """A file of torch with its members changed."""
    path = folder / "model.pt"
    torch.save({"fc.weight": torch.randn(6, 5)}, path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("change", "compression", "cause"),
    [
        (lambda members: members.update({"model/data/0": members["model/data/0"][:-4]}), 0, ""),
        (lambda members: members.pop("model/data/0"), 0, ""),
        (lambda members: members.pop("model/data.pkl"), 0, ""),
        (lambda members: members.update({"model/data.pkl": b"\x80\x02]q\x00."}), 0, "holds no weights but a list"),
        (lambda members: members.update({"model/data.pkl": b"cos\nsystem\n(S'true'\ntR."}), 0, "not unpickled"),
        (lambda members: members.update({"../model/data/1": b""}), 0, "leads out of the archive"),
        (lambda members: members.update({"model/data/1": bytes(2**28 + 2**20)}), zipfile.ZIP_DEFLATED, "would grow"),
        (lambda members: None, zipfile.ZIP_DEFLATED, "is compressed"),
    ],
    ids=["short", "no data", "no pickle", "list", "system", "../", "bomb", "compressed"],
)
def test_archives_of_torch_that_lie(tmp_path, change, compression, cause):
    assert cause in refusal(torch_archive(tmp_path, change, compression))


def test_a_tensor_that_claims_more_than_the_file_holds(tmp_path):
    torch.save({"fc.weight": torch.zeros(1).expand(2**20, 2**20), "ok.weight": torch.ones(3, 4)}, tmp_path / "model.pt")
    fc, ok = find_layers(tmp_path / "model.pt")
    assert (fc.spec, fc.reason) == (None, "cannot be read: claims more numbers than the file holds")
    assert ok.spec is not None


# --- memory ----------------------------------------------------------------------------------------------------------

BOMBS = """
import os, sys, zipfile, resource
from pathlib import Path
import ww_callbacks as ww
from ww_callbacks.weights import find_layers
import ww_callbacks.weights.files.hdf5
folder = Path(sys.argv[1])
header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
(folder / "a.safetensors").write_bytes((2**63).to_bytes(8, "little") + header)
(folder / "b.safetensors").write_bytes((2**40).to_bytes(8, "little") + header)
os.truncate(folder / "b.safetensors", 2**41)
with zipfile.ZipFile(folder / "c.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
    with file.open("fc.npy", "w") as out:
        for _ in range(300):
            out.write(bytes(2**20))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in ("a.safetensors", "b.safetensors", "c.npz"):
    try:
        find_layers(folder / name)
    except ww.WeightsFileError as error:
        print(error.cause)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_files_that_claim_much_cost_little_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(tmp_path)], capture_output=True, text=True, timeout=100, check=True
    )
    *causes, grown = done.stdout.splitlines()
    assert len(causes) == 3
    assert int(grown) < 100


def test_of_a_file_one_layer_at_a_time_is_in_memory(tmp_path):
    """24 matrices of 8 MiB each, analysed by a process that may not hold them all."""
    rng = np.random.default_rng(0)
    one = rng.standard_normal((32_768, 32))
    np.savez(tmp_path / "model.npz", **{f"fc{i}": one for i in range(24)})
    program = (
        "import sys, resource; import ww_callbacks as ww; import numpy as np\n"
        "ww.analyze({'warm': np.random.default_rng(0).standard_normal((32768, 32))}, randomize=False)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "report = ww.analyze(sys.argv[1], randomize=False)\n"
        "assert len(report.layers) == 24, len(report.layers)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "model.npz")],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    assert int(done.stdout) < 64


@pytest.mark.parametrize("ending", ["safetensors", "npz", "pt"])
def test_very_many_tensors_without_numbers_are_refused(tmp_path, monkeypatch, ending):
    monkeypatch.setattr("ww_callbacks.weights.files.errors.MAX_EMPTY", 100)
    path, tensors = tmp_path / f"empty.{ending}", {f"{number}.weight": np.ones((0, 4)) for number in range(101)}
    if ending == "npz":
        np.savez(path, **tensors)
    elif ending == "pt":
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)
    else:
        entry = {"dtype": "F32", "shape": [0, 4], "data_offsets": [0, 0]}
        header = json.dumps(dict.fromkeys(tensors, entry)).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert "more than 100 tensors without numbers" in refusal(path)


def test_an_archive_of_numpy_reads_its_directory_once(tmp_path):
    """Read again for each array, it takes a time that grows with the square of their number."""
    count, io = 800, Path("/proc/self/io")
    np.savez(tmp_path / "many.npz", **{f"{number}.weight": np.ones((2, 2)) for number in range(count)})
    layers = find_layers(tmp_path / "many.npz")
    before = int(io.read_text().split()[1])
    assert all((layer.read() == 1).all() for layer in layers)
    assert int(io.read_text().split()[1]) - before < 32_000 * count
