import json
import mmap

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

import ww_callbacks as ww
from ww_callbacks.weights import find_layers
from ww_callbacks.weights.files.safetensors import header_of
from ww_callbacks.weights.files.snapshots import KEY, described
from ww_callbacks.worker.snapshot_buffer import SnapshotBuffer
from ww_callbacks.worker.spool import make_spool_task, run_spooling, snapshot_path


def write(folder, model, split=None, step=400):
    """Write a snapshot as the worker process does; returns its file and the layers."""
    layers = find_layers(model, split=split)
    stored = [layer for layer in layers if layer.spec is not None]
    buffer = SnapshotBuffer([(layer.spec.shape, layer.spec.storage_dtype) for layer in stored], slots=1)
    slot = buffer.take([layer.read for layer in stored])
    offsets = [buffer.offset_of(buffer.array(slot, index)) for index in range(len(stored))]
    task = json.loads(json.dumps(make_spool_task(folder, step, described(layers), offsets)))
    with mmap.mmap(buffer.fd, 0, prot=mmap.PROT_READ) as memory:
        answer = run_spooling(task, memory)
    buffer.close()
    assert "error" not in answer
    return snapshot_path(folder, step), layers


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(90, 60)
        self.qkv = nn.Linear(60, 180)
        self.head = nn.Linear(60, 90, bias=False)
        self.head.weight = self.embed.weight


def adapter():
    """An adapter of PEFT, which is stored as its two factors."""
    return {
        "base_model.model.0.lora_A.weight": torch.ones(4, 60),
        "base_model.model.0.lora_B.weight": torch.ones(80, 4),
    }


def mixed():
    return nn.Sequential(nn.Linear(31, 33).bfloat16(), nn.Linear(33, 35).double(), nn.Linear(5, 7).half())


def arrays():
    return {"fc": np.ones((80, 60), "f2"), "flags": np.eye(60, dtype=bool), "kernel": np.ones((4, 3, 2, 2))}


MODELS = {
    "convolutions": lambda: nn.Sequential(nn.Conv2d(8, 16, 3, groups=2), nn.BatchNorm2d(16), nn.Conv1d(1, 9, 3)),
    "gates": lambda: nn.LSTM(30, 40, 2, proj_size=20, bidirectional=True),
    "tied and split": Tied,
    "mixed dtypes": mixed,
    "too many rows": lambda: nn.Sequential(nn.Embedding(50_001, 2), nn.Linear(60, 60)),
    "arrays": arrays,
    "odd names": lambda: {"__metadata__": np.eye(50), "\udc80": np.eye(40), "α/β \n": np.eye(30)},
}


@pytest.mark.parametrize("name", MODELS)
def test_the_layers_of_the_file_are_those_of_the_model(tmp_path, name):
    path, layers = write(tmp_path, MODELS[name](), {"qkv": 3} if "split" in name else None)
    found = find_layers(path)
    assert [(each.name, each.kind, each.spec, each.skip, each.role, each.is_inferred) for each in found] == [
        (each.name, each.kind, each.spec, each.skip, each.role, each.is_inferred) for each in layers
    ]
    for layer, other in zip(found, layers, strict=True):
        if layer.spec is not None:
            assert layer.read().tobytes() == np.ascontiguousarray(other.read()).tobytes()


def test_an_adapter_stays_two_factors(tmp_path):
    safetensors.torch.save_file(adapter(), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    path, (layer,) = write(tmp_path, tmp_path)
    (found,) = find_layers(path)
    assert (found.spec, found.spec.factors) == (layer.spec, 80)
    assert np.array_equal(found.read(), layer.read())


def test_other_programs_read_the_file(tmp_path):
    model = nn.Sequential(nn.Linear(31, 33).bfloat16(), nn.Linear(33, 35).double(), nn.Linear(5, 7))
    path, _ = write(tmp_path, model)
    read = safetensors.torch.load_file(path)
    assert set(read) == {"0", "1", "2"}
    assert all(torch.equal(read[name], module.weight) for name, module in model.named_children())
    with safetensors.safe_open(path, "np") as file:
        assert json.loads(file.metadata()[KEY])["step"] == 400


def test_numbers_that_the_format_does_not_have_are_a_skipped_layer(tmp_path):
    path, _ = write(tmp_path, {"wide": np.ones((60, 60), np.longdouble), "fc": np.eye(60)})
    wide, fc = find_layers(path)
    assert (wide.name, wide.reason, fc.reason) == ("wide", f"unsupported dtype {np.dtype(np.longdouble)}", "")


def test_split_and_layers_apply_to_the_file_as_to_the_model(tmp_path):
    model = Tied()
    path, _ = write(tmp_path, model)
    options = {"split": {"qkv": 3}, "layers": ["qkv.*"], "randomize": False}
    assert ww.analyze(path, **options).to_dicts() == ww.analyze(model, **options).to_dicts()


GOOD = {"version": 1, "step": 4, "layers": [{"name": "fc", "kind": "Linear", "role": "matrix", "is_inferred": False}]}
WEIGHTS = {"tensor": "fc", "axes": [[], [0], [1]], "factors": 0}
DAMAGED = {
    "not JSON": "{",
    "no object": "[]",
    "another version": {**GOOD, "version": 2},
    "no layers": {"version": 1},
    "a tensor without a layer": {**GOOD, "layers": []},
    "a layer without a tensor": WEIGHTS | {"tensor": "other"},
    "two layers with one tensor": [WEIGHTS, WEIGHTS],
    "an axis twice": WEIGHTS | {"axes": [[], [0], [0]]},
    "too few axes": WEIGHTS | {"axes": [[], [0], []]},
    "two lists of axes": WEIGHTS | {"axes": [[0], [1]]},
    "an axis that is no number": WEIGHTS | {"axes": [[], ["0"], [1]]},
    "an axis that is True": WEIGHTS | {"axes": [[], [False], [True]]},
    "axes and factors": WEIGHTS | {"factors": 4},
    "too many factors": WEIGHTS | {"factors": 6, "axes": [[], [], []]},
    "an unknown role": WEIGHTS | {"role": "king"},
    "a name that is no text": WEIGHTS | {"name": 5},
    "an unknown reason": [WEIGHTS, {"skip": ["bad mood", ""]}],
    "a reason without detail": [WEIGHTS, {"skip": ["tied"]}],
}


def described_as(case):
    """The text of a damaged description; a mapping without a version, or a list, changes the good layer."""
    if isinstance(case, str):
        return case
    if isinstance(case, dict) and "version" in case:
        return json.dumps(case)
    entries = case if isinstance(case, list) else [case]
    return json.dumps({**GOOD, "layers": [GOOD["layers"][0] | entry for entry in entries]})


@pytest.mark.parametrize("case", [*DAMAGED, "good"])
def test_a_damaged_description_is_an_error(tmp_path, case):
    path = tmp_path / "step-4.safetensors"
    text = described_as(DAMAGED.get(case, WEIGHTS))
    path.write_bytes(header_of([("fc", "F32", (4, 6))], {KEY: text}) + bytes(96))
    if case == "good":
        assert find_layers(path)[0].kind == "Linear"
        return
    with pytest.raises(ww.WeightsFileError, match=r"description of its layers|version 2"):
        find_layers(path)


def test_metadata_of_other_programs_are_ignored(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(header_of([("fc.weight", "F32", (4, 6))], {"format": "pt", "layers": "{"}) + bytes(96))
    assert find_layers(path)[0].kind == "matrix (inferred)"
