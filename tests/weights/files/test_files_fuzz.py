"""Mutated files of every format: an error that names file and cause, or success. Nothing else, in bounded memory."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.weights import find_layers

QUICK, FULL = 60, 2_000
MORE = dict.fromkeys(
    (
        *("torch_zip", "torch_legacy", "checkpoint", "shard", "gguf", "onnx", "flax", "quantised"),
        *("orbax", "orbax_array", "orbax_database"),
    ),
    10_000,
)
"""Formats that are read fast enough for more mutations."""
LIMIT_BYTES = 2**31
"""What reading a small file may add to the address space of the process."""


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "embed.weight": rng.standard_normal((12, 6)).astype(np.float32),
        "conv.weight": rng.standard_normal((5, 4, 3, 3)).astype(np.float32),
        "conv.bias": np.zeros(5, np.float32),
        "fc.weight": rng.standard_normal((8, 6)),
    }


def safetensors(path: Path) -> Path:
    pytest.importorskip("safetensors.numpy").save_file(weights(), path / "model.safetensors")
    return path / "model.safetensors"


def adapter(path: Path) -> Path:
    shapes = {
        "fc.lora_A.weight": (4, 6),
        "fc.lora_B.weight": (8, 4),
        "fc.lora_magnitude_vector": (8,),
        "head.weight": (5, 6),
    }
    tensors = {f"base_model.model.{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    pytest.importorskip("safetensors.numpy").save_file(tensors, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": True, "rank_pattern": {"fc": 4}}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path / "adapter_model.safetensors"


def torch_zip(path: Path, is_new: bool = True) -> Path:
    torch = pytest.importorskip("torch")
    content = {"state_dict": {name: torch.from_numpy(array) for name, array in weights().items()}, "epoch": 3}
    torch.save(content, path / "model.pt", _use_new_zipfile_serialization=is_new)
    return path / "model.pt"


def torch_legacy(path: Path) -> Path:
    return torch_zip(path, is_new=False)


def npz(path: Path) -> Path:
    np.savez(path / "model.npz", **weights())
    return path / "model.npz"


def npz_compressed(path: Path) -> Path:
    np.savez_compressed(path / "model.npz", **weights())
    return path / "model.npz"


def hdf5(path: Path) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path / "model.h5", "w") as file:
        for name, array in weights().items():
            file[f"layers/{name.replace('.weight', '/vars/0').replace('.bias', '/vars/1')}"] = array
        file["layers/fc"].attrs["name"] = "fc"
        file["layers/packed/vars/0"] = np.ones((40, 30))
        file.create_dataset("layers/chunked/vars/0", data=np.ones((40, 30)), chunks=(10, 10), compression=1)
    return path / "model.h5"


def keras_archive(path: Path) -> Path:
    import zipfile

    inner = hdf5(path)
    layer = {"class_name": "Dense", "config": {"name": "fc"}}
    config = {"class_name": "Functional", "config": {"name": "model", "layers": [layer]}}
    with zipfile.ZipFile(path / "model.keras", "w") as file:
        for name, text in (("metadata.json", b"{}"), ("config.json", json.dumps(config).encode())):
            file.writestr(zipfile.ZipInfo(name), text)
        file.writestr(zipfile.ZipInfo("model.weights.h5"), inner.read_bytes())
    return path / "model.keras"


def index(path: Path) -> Path:
    safetensors(path)
    where = dict.fromkeys(weights(), "model.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return path / "model.safetensors.index.json"


def gguf(path: Path) -> Path:
    package = pytest.importorskip("gguf")
    writer = package.GGUFWriter(path / "model.gguf", "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", "def"])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.0, 2.0])
    writer.add_custom_alignment(32)
    for name, array in weights().items():
        writer.add_tensor(name, array)
    kinds = package.GGMLQuantizationType
    for kind in (kinds.Q8_0, kinds.Q4_0, kinds.BF16):
        packed = package.quantize(np.ones((2, 64), np.float32), kind)
        writer.add_tensor(f"blk.0.{kind.name}.weight", packed, raw_dtype=kind)
    size = package.GGML_QUANT_SIZES[kinds.Q4_K][1]
    writer.add_tensor("blk.0.ffn_up.weight", np.ones((2, size), np.uint8), raw_dtype=kinds.Q4_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path / "model.gguf"


def checkpoint(path: Path) -> Path:
    """The description of a checkpoint of torch.distributed."""
    torch = pytest.importorskip("torch")
    from torch.distributed import checkpoint as distributed

    state = {"model": {name: torch.from_numpy(array) for name, array in weights().items()}, "epoch": 3}
    distributed.save(state, checkpoint_id=path / "checkpoint", no_dist=True)
    return path / "checkpoint" / ".metadata"


def shard(path: Path) -> Path:
    """A shard of a checkpoint of torch.distributed."""
    return checkpoint(path).parent / "__0_0.distcp"


def quantised(path: Path) -> Path:
    """A layer in each of the formats that consist of several tensors."""
    torch = pytest.importorskip("torch")
    save_file = pytest.importorskip("safetensors.torch").save_file
    rng = np.random.default_rng(0)

    def integers(*shape: int, dtype: str = "int32") -> Any:
        limits = np.iinfo(dtype)
        return torch.from_numpy(rng.integers(limits.min, limits.max, shape, dtype))

    ones, octets = torch.ones, partial(integers, dtype="uint8")
    state = torch.frombuffer(bytearray(b'{"shape": [16, 32], "blocksize": 64}'), dtype=torch.uint8)
    groups = {
        "fp8": {"weight": torch.randn(16, 32).to(torch.float8_e4m3fn), "weight_scale_inv": ones(16, 1)},
        "gptq": {"qweight": integers(4, 16), "qzeros": torch.full((2, 2), 0x77777777), "scales": ones(2, 16)},
        "awq": {"qweight": integers(32, 2), "qzeros": integers(2, 2), "scales": ones(2, 16)},
        "ct": {"weight_packed": integers(16, 4), "weight_scale": ones(16, 2), "weight_shape": torch.tensor([16, 32])},
        "nf4": {
            **{"weight": octets(256, 1), "weight.absmax": ones(8), "weight.quant_map": ones(16)},
            "weight.quant_state.bitsandbytes__nf4": state,
        },
        "mlp.experts": {"up_proj_blocks": octets(2, 16, 1, 16), "up_proj_scales": octets(2, 16, 1)},
        "ao": {"_weight_qdata": integers(16, 16, dtype="int8"), "_weight_scale": ones(4, 16)},
    }
    groups["gptq"] |= {"g_idx": (torch.arange(32) // 16).int()}
    groups["gptq"]["qzeros"] = groups["gptq"]["qzeros"].int()
    groups["ao"] |= {"_weight_zero_point": ones(4, 16)}
    described = {"_type": "Int4Tensor", "_data": {"block_size": [1, 8]}, "_tensor_data_names": []}
    described["_tensor_data_names"] = ["qdata", "scale", "zero_point"]
    metadata = {"ao.weight": json.dumps(described), "tensor_names": '["ao.weight"]'}
    tensors = {f"{module}.{name}": tensor for module, group in groups.items() for name, tensor in group.items()}
    save_file(tensors, path / "model.safetensors", metadata)
    return path / "model.safetensors"


def onnx(path: Path) -> Path:
    pytest.importorskip("onnx.helper")
    import onnx as package

    node, tensor, arrays = package.helper.make_node, package.numpy_helper.from_array, weights()
    constant = node("Constant", [], ["c"], value=tensor(arrays["fc.weight"]))
    branch = package.helper.make_graph([node("MatMul", ["x", "b"], ["y"])], "b", [], [], [tensor(np.eye(3), "b")])
    nodes = [
        constant,
        node("Gather", ["embed.weight", "i"], ["e"]),
        node("Conv", ["e", "conv.weight", "conv.bias"], ["f"], group=1),
        node("LSTM", ["f", "w"], ["g"], hidden_size=2, direction="forward"),
        node("Transpose", ["c"], ["t"], perm=[1, 0]),
        node("MatMul", ["g", "t"], ["h"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"], axis=0),
        node("Gemm", ["h", "d"], ["j"], transB=1, alpha=1.0),
        node("MatMul", ["j", "outside"], ["k"]),
        node("If", ["k"], ["l"], then_branch=branch),
    ]
    arrays |= {"w": np.ones((1, 8, 4), np.float16), "q": np.ones((3, 4), np.int8)}
    arrays |= {"s": np.ones(3, np.float32), "z": np.ones(3, np.int8)}
    outside = package.helper.make_tensor("outside", 1, [4, 4], bytes(64), raw=True)
    package.external_data_helper.set_external_data(outside, "weights.data", offset=16, length=64)
    outside.ClearField("raw_data")
    (path / "weights.data").write_bytes(bytes(80))
    plain = package.helper.make_tensor("embed2", 10, [2, 2], [1.0, 2.0, 3.0, 4.0])
    stored = [outside, plain, *(tensor(array, name) for name, array in arrays.items())]
    package.save(package.helper.make_model(package.helper.make_graph(nodes, "g", [], [], stored)), path / "model.onnx")
    return path / "model.onnx"


def flax(path: Path) -> Path:
    msgpack = pytest.importorskip("msgpack")

    def array(value: np.ndarray) -> object:
        return msgpack.ExtType(1, msgpack.packb((value.shape, value.dtype.name, value.tobytes())))

    tree: dict[str, object] = {"chunked": {"kernel": {"__msgpack_chunked_array__": True, "shape": {"0": 4, "1": 6}}}}
    tree["chunked"]["kernel"]["chunks"] = {"0": array(np.ones(15, np.float32)), "1": array(np.ones(9, np.float32))}
    tree |= {name.removesuffix(".weight"): {"kernel": array(value)} for name, value in weights().items()}
    tree["list"] = [{"kernel": msgpack.ExtType(1, msgpack.packb(((2, 3), "bfloat16", bytes(12))))}, 1.5, None, True]
    state = {"mu": tree, "nu": tree, "count": msgpack.ExtType(3, msgpack.packb(((), "int32", bytes(4))))}
    (path / "model.msgpack").write_bytes(msgpack.packb({"params": tree, "opt_state": {"0": state}, "step": 1000}))
    return path / "model.msgpack"


def orbax(path: Path, is_database: bool = False) -> Path:
    """The description of a checkpoint of Orbax with one array."""
    tensorstore = pytest.importorskip("tensorstore")
    key = {"key": "fc", "key_type": 2}, {"key": "kernel", "key_type": 2}
    entry = {"key_metadata": key, "value_metadata": {"value_type": "jax.Array", "skip_deserialize": False}}
    tree = {"tree_metadata": {"('fc', 'kernel')": entry}, "store_array_data_equal_to_fill_value": True}
    (path / "model").mkdir()
    (path / "model" / "_METADATA").write_text(json.dumps(tree))
    base = {"driver": "file", "path": f"{path}/model/"}
    store = (
        {"driver": "ocdbt", "base": base, "path": "fc.kernel/"} if is_database else f"file://{path}/model/fc.kernel/"
    )
    metadata = {"shape": [8, 6], "chunks": [4, 6], "dtype": "<f4", "compressor": {"id": "zstd", "level": 1}}
    spec = {"driver": "zarr", "kvstore": store, "metadata": metadata}
    tensorstore.open(spec, create=True).result()[...] = np.ones((8, 6), np.float32)
    return path / "model" / "_METADATA"


def orbax_array(path: Path) -> Path:
    return orbax(path).parent / "fc.kernel" / ".zarray"


def orbax_database(path: Path) -> Path:
    return orbax(path, is_database=True).parent / "manifest.ocdbt"


FORMATS: dict[str, Callable[[Path], Path]] = {
    "safetensors": safetensors,
    "torch": torch_zip,
    "torch, before 1.6": torch_legacy,
    "npz": npz,
    "npz, compressed": npz_compressed,
    "gguf": gguf,
    "onnx": onnx,
    "hdf5": hdf5,
    "keras": keras_archive,
    "index": index,
    "checkpoint": checkpoint,
    "shard": shard,
    "quantised": quantised,
    "adapter": adapter,
    "flax": flax,
    "orbax": orbax,
    "orbax, array": orbax_array,
    "orbax, database": orbax_database,
}


def mutated(content: bytes, choose: random.Random, header: int) -> bytes:
    """One to a few changes, most of them where a format keeps what it says about itself."""
    data = bytearray(content)
    for _ in range(choose.choice([1, 1, 1, 2, 4, 8])):
        if not data:
            break
        end = min(len(data), header) if choose.random() < 0.6 else len(data)
        at = choose.randrange(end)
        match choose.randrange(8):
            case 0:
                data[at] ^= 1 << choose.randrange(8)
            case 1:
                data[at] = choose.randrange(256)
            case 2:
                size = choose.choice([2, 4, 8])
                value = choose.choice([0, 1, 2**31, 2**63, -1, choose.getrandbits(64)]) % 2 ** (8 * size)
                data[at : at + size] = value.to_bytes(size, "little")
            case 3:
                del data[at:]
            case 4:
                del data[at : at + choose.randrange(1, 64)]
            case 5:
                data[at:at] = choose.randbytes(choose.randrange(1, 64))
            case 6:
                source = choose.randrange(len(data))
                data[at : at + 16] = data[source : source + 16]
            case _:
                digits = [i for i, byte in enumerate(data[:end]) if 48 <= byte < 58]
                if digits:
                    data[choose.choice(digits)] = choose.choice(b'0123456789-.eE"[]{}')
    return bytes(data)


def rearranged(content: bytes, choose: random.Random) -> bytes:
    """A safetensors file with other names, shapes and dtypes, which still fit their bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    metadata = header.pop("__metadata__")
    for _ in range(choose.choice([1, 1, 2, 4])):
        name = choose.choice(list(header))
        entry, other = header[name], choose.choice(list(header))
        match choose.randrange(5):
            case 0:
                choose.shuffle(entry["shape"])
            case 1:
                size = math.prod(entry["shape"])
                first = choose.choice([side for side in range(1, size + 1) if size % side == 0])
                entry["shape"] = choose.choice([[first, size // first], [size], [first, 1, size // first]])
            case 2:
                alike = next(kinds for kinds in WIDTHS if entry["dtype"] in kinds)
                entry["dtype"] = choose.choice(alike)
            case 3:
                header[other] = header.pop(name)
                header[name] = header.pop(other) if other in header and choose.random() < 0.5 else entry
            case _:
                text = metadata["ao.weight"]
                at = choose.randrange(len(text))
                metadata["ao.weight"] = text[:at] + choose.choice('0123456789-.eE"[]{}') + text[at + 1 :]
    blob, entries = b"", {}
    for name, entry in header.items():
        begin, stop = entry["data_offsets"]
        part = content[end + begin : end + stop]
        entries[name] = {**entry, "data_offsets": [len(blob), len(blob) + len(part)]}
        blob += part
    text = json.dumps({"__metadata__": metadata} | entries).encode()
    return len(text).to_bytes(8, "little") + text + blob


WIDTHS = [
    ("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "U8", "BOOL"),
    ("F16", "BF16", "I16"),
    ("F32", "I32", "U32"),
    ("I64", "F64"),
]


def tails(content: bytes) -> int:
    """Bytes from the start that hold a header."""
    if content[:4] == b"PK\x03\x04":
        return len(content)
    return min(len(content), 2048)


@pytest.fixture
def bounded_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def here(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def at_url(path: Path, content: bytes) -> str:
    beside = {each.name: each.read_bytes() for each in path.parent.iterdir() if each.is_file()}
    for name, data in (beside | {path.name: content}).items():
        fsspec.filesystem("memory").pipe_file(f"/fuzz/{name}", data)
    return f"memory://fuzz/{path.name}"


def outcomes(
    path: Path,
    number: int,
    seed: str,
    put: Callable[[Path, bytes], Path | str] = here,
    mutate: Callable[..., bytes] | None = None,
) -> dict[str, int]:
    """Read ``number`` mutations of a file whole; how many were read and how many refused."""
    content, found = path.read_bytes(), {"read": 0, "refused": 0}
    change = mutate or partial(mutated, header=tails(content))
    for index in range(number):
        choose = random.Random(f"{seed} {index}")
        place = put(path, change(content, choose))
        target = read_with(place) if isinstance(place, Path) else place
        refusal = read_whole(target)
        folder = str(target).rpartition("/")[0]
        assert not refusal or refusal.startswith(folder), f"mutation {index} of {path.name}: {refusal}"
        assert len(refusal) < 2000
        found["refused" if refusal else "read"] += 1
    return found


def read_with(path: Path) -> Path:
    """What is read to read a file: the file, or the checkpoint that it belongs to."""
    if path.suffix == ".distcp":
        return path.parent
    return {"_METADATA": path.parent, "manifest.ocdbt": path.parent, ".zarray": path.parents[1]}.get(path.name, path)


def read_whole(path: Path | str) -> str:
    """Every layer of a file; what the refusal says, "" where it was read."""
    try:
        for layer in find_layers(path):
            if layer.read is not None:
                layer.read()
    except ww.WeightsFileError as error:
        return str(error)
    except Exception as error:
        return repr(error)
    return ""


@pytest.fixture
def quick_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5 files are tried in a child all the same; a fork is a hundred times as fast as a new interpreter."""
    hdf5_module = pytest.importorskip("ww_callbacks.weights.files.hdf5")
    walk = hdf5_module.hdf5_walk

    def forked(path: str, start: int, size: int) -> int:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            walk.visit(path, start, size)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    monkeypatch.setattr(hdf5_module, "try_alone", forked)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quick_trials", "bounded_memory")
@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_mutated_files(tmp_path, make):
    found = outcomes(make(tmp_path), QUICK, make.__name__)
    assert found["refused"] > QUICK / 10


AT_URLS = [safetensors, torch_zip, npz, gguf, onnx]
"""Formats that are read differently at a URL, or of which ranges are read there."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("bounded_memory")
@pytest.mark.parametrize("make", AT_URLS)
def test_mutated_files_at_urls(tmp_path, make):
    found = outcomes(make(tmp_path), QUICK, make.__name__, at_url)
    assert found == outcomes(make(tmp_path), QUICK, make.__name__)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("bounded_memory")
@pytest.mark.parametrize("make", AT_URLS)
def test_many_mutated_files_at_urls(tmp_path, make):
    found = outcomes(make(tmp_path), FULL, f"full {make.__name__}", at_url)
    print(make.__name__, found)
    assert sum(found.values()) == FULL


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quick_trials", "bounded_memory")
@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
def test_many_mutated_files(tmp_path, make):
    number = MORE.get(make.__name__, FULL)
    found = outcomes(make(tmp_path), number, f"full {make.__name__}")
    print(make.__name__, found)
    assert sum(found.values()) == number
    assert found["refused"] > number / 10


@pytest.mark.filterwarnings("error")
@pytest.mark.usefixtures("bounded_memory")
@pytest.mark.parametrize("number", [QUICK, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_quantised_parts_of_other_shapes_and_dtypes(tmp_path, number):
    path = quantised(tmp_path)
    skipped = {layer.name: layer.reason for layer in find_layers(path) if layer.skip is not None}
    assert skipped == {}
    found = outcomes(path, number, "rearranged", mutate=rearranged)
    print(found)
    assert found["read"] > 0.9 * number
