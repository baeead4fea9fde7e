"""Folders with anything in them: layers, or one error of ours that names the folder or a file in it."""

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from badnames import BAD_NAMES

from ww_callbacks.weights import find_layers

QUICK, FULL = 150, 10_000
SUFFIXES = (".safetensors", ".pt", ".bin", ".npz", ".gguf", ".onnx", ".msgpack", ".keras", ".h5", ".json", ".txt", "")
KNOWN = (
    *("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *("adapter_config.json", "adapter_model.safetensors", "config.json", ".metadata", "__0_0.distcp", "_METADATA"),
    *("manifest.ocdbt", ".zarray", "model.weights.h5", "quantize_config.json", "checkpoint", "d"),
)
MAPS = ({}, {"a": 3}, {"a": "../x"}, {"a": None}, {"fc.weight": "model.safetensors"}, [], {"a": "missing.safetensors"})


def safetensors() -> bytes:
    array = np.ones((6, 5), np.float32)
    entry = {"fc.weight": {"dtype": "F32", "shape": [6, 5], "data_offsets": [0, array.nbytes]}}
    header = json.dumps(entry).encode()
    return len(header).to_bytes(8, "little") + header + array.tobytes()


def name_of(choose: random.Random) -> str:
    if choose.random() < 0.6:
        return choose.choice(KNOWN)
    odd = choose.choice(BAD_NAMES)[:40].replace("/", "_").replace("\0", "_")
    return odd.encode("utf-8", "replace").decode() + choose.choice(SUFFIXES)


def fill(folder: Path, choose: random.Random, depth: int = 0) -> None:
    """Files, folders and links, with names that readers look for and names that act."""
    folder.mkdir()
    for _ in range(choose.choice([0, 1, 1, 2, 3, 5])):
        path = folder / name_of(choose)
        if os.path.lexists(path):
            continue
        match choose.randrange(8):
            case 0 if depth < 3:
                fill(path, choose, depth + 1)
            case 1:
                path.symlink_to(choose.choice([".", "..", path.name, "missing", "/dev/zero"]))
            case 2:
                path.write_bytes(choose.randbytes(choose.choice([0, 1, 9, 300])))
            case 3:
                path.write_text(
                    json.dumps({"weight_map": choose.choice(MAPS), "peft_type": choose.choice(["LORA", 3])})
                )
            case 4:
                path.write_text(choose.choice(["[" * 100_000, "null", "{}", "\ufeff{}", '{"weight_map": 3}', "[1]"]))
            case 5:
                os.mkfifo(path)
            case _:
                path.write_bytes(safetensors())


def refusal(folder: Path) -> str:
    """What the refusal of a folder says; empty if it was read."""
    try:
        for layer in find_layers(folder):
            if layer.read is not None:
                layer.read()
    except (ValueError, OSError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("number", [QUICK, pytest.param(FULL, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_any_folder_is_read_or_refused(tmp_path, number):
    found = {"read": 0, "refused": 0}
    for index in range(number):
        folder = tmp_path / "folder"
        fill(folder, random.Random(f"folder {index}"))
        says = refusal(folder)
        assert not says or str(folder) in says, f"input {index}: {says}"
        assert len(says) < 2000, f"input {index}"
        found["refused" if says else "read"] += 1
        shutil.rmtree(folder)
    print(found)
    assert min(found.values()) > number / 50
