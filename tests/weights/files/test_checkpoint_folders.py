"""Folders of torch.distributed.checkpoint."""

import io
import itertools
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed import checkpoint as distributed

import ww_callbacks as ww
from ww_callbacks.weights import find_layers

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(60, 80), nn.Conv2d(30, 40, 3), nn.Linear(80, 30).bfloat16())


def saved(folder, content):
    distributed.save(content, checkpoint_id=folder, no_dist=True)
    return folder


def with_optimizer(model):
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}


@pytest.mark.parametrize("content", [lambda model: model.state_dict(), with_optimizer], ids=["state dict", "training"])
def test_the_report_is_that_of_the_model(tmp_path, content):
    model = network()
    stored = content(model)
    report = ww.analyze(saved(tmp_path / "checkpoint", stored))
    for layer in ww.analyze(model):
        assert report[layer.name].alpha == layer.alpha
        assert report[layer.name].norm == layer.norm
    assert len(report) == 3


def test_several_networks_have_names_that_begin_with_their_keys(tmp_path):
    content = {"model": network().state_dict(), "ema": network(1).state_dict()}
    names = [layer.name for layer in find_layers(saved(tmp_path / "checkpoint", content))]
    assert names == [f"{key}.{number}" for key in ("model", "ema") for number in range(3)]


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def test_nothing_is_executed(tmp_path):
    folder = saved(tmp_path / "checkpoint", network().state_dict())
    content = pickle.loads((folder / ".metadata").read_bytes())
    content.planner_data = {"0.weight": Evil(tmp_path / "ran")}
    (folder / ".metadata").write_bytes(pickle.dumps(content))
    assert [layer.name for layer in find_layers(folder)] == ["0", "1", "2"]
    assert not (tmp_path / "ran").exists()


def changed(folder, change):
    """Change the description, or the shards."""
    content = pickle.loads((folder / ".metadata").read_bytes())
    change(folder, content)
    if (folder / ".metadata").exists():
        (folder / ".metadata").write_bytes(pickle.dumps(content))


def shard(folder):
    return next(folder.glob("*.distcp"))


def lead_outside(folder, content):
    for place in content.storage_data.values():
        place.relative_path = "../" + place.relative_path


def move(folder, content):
    for place in content.storage_data.values():
        place.offset += 10**9


def drop_parts(folder, content):
    content.state_dict_metadata["0.weight"].chunks = []


def repeat_part(folder, content):
    """Two parts of half the size at the same place: they have the right volume and leave a gap."""
    chunk = content.state_dict_metadata["0.weight"].chunks[0]
    chunk.sizes = torch.Size((40, 60))
    content.state_dict_metadata["0.weight"].chunks.append(chunk)


def shift_part(folder, content):
    chunk = content.state_dict_metadata["0.weight"].chunks[0]
    chunk.sizes = torch.Size((100, 60))


def ask_for_memory(folder, content):
    """The product of the sizes would be a list of a billion numbers."""
    content.state_dict_metadata["0.weight"].size = (10**9, (1,))


def ask_for_time(folder, content):
    """A name that would take forever to print: 2⁶⁰ numbers, stored 60 times as pairs."""
    name = (0,)
    for _ in range(60):
        name = (name, name)
    for place in content.storage_data.values():
        place.relative_path = name


def other_run(folder, content):
    other = saved(folder.parent / "other", {**network().state_dict(), "0.weight": torch.ones(50, 70)})
    shutil.copy(shard(other), shard(folder))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda folder, content: shard(folder).unlink(), "is missing"),
        (lambda folder, content: shard(folder).write_bytes(shard(folder).read_bytes()[:5000]), "truncated"),
        (lead_outside, "leads out of the folder"),
        (move, "truncated"),
        (drop_parts, "overlap or leave gaps"),
        (repeat_part, "overlap or leave gaps"),
        (shift_part, r"a part of \(100, 60\)"),
        (ask_for_memory, "a shape that is no list of sizes"),
        (ask_for_time, "a name of type tuple"),
        (other_run, "cannot be read|another tensor|truncated"),
        (lambda folder, content: content.storage_data.clear(), "no shard holds"),
        (lambda folder, content: content.state_dict_metadata.clear(), "describes no weights"),
    ],
    ids=[
        "missing",
        "truncated",
        "outside",
        "offset",
        "gaps",
        "overlap",
        "shape",
        "memory",
        "time",
        "another run",
        "no places",
        "no tensors",
    ],
)
def test_what_does_not_fit_is_told(tmp_path, change, cause):
    folder = saved(tmp_path / "checkpoint", network().state_dict())
    changed(folder, change)
    with pytest.raises(ww.WeightsFileError, match=cause) as caught:
        [layer.read() for layer in find_layers(folder)]
    assert str(folder) in str(caught.value)


def test_eight_bit_floats_are_multiplied_by_their_scales(tmp_path):
    codes, scale = torch.randn(60, 40).to(torch.float8_e4m3fn), torch.tensor(0.5)
    (layer,) = find_layers(saved(tmp_path / "checkpoint", {"fc.weight": codes, "fc.weight_scale": scale}))
    np.testing.assert_array_equal(layer.read(), (codes.float() * scale).numpy())


def bytes_read() -> int:
    """Bytes that this process has read, from files and from memory of the system."""
    (line,) = (line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar"))
    return int(line.split()[1])


def in_one_file(folder, content):
    torch.save(content, folder / "model.pt")
    return folder / "model.pt"


def as_checkpoint(folder, content):
    return saved(folder / "checkpoint", content)


def in_two_parts(folder, content):
    """A checkpoint whose stack was cut in two along each of its axes, which gives eight parts."""
    path = saved(folder / "checkpoint", {"mlp.experts.up_proj": content["mlp.experts.up_proj"].clone()})
    description = pickle.loads((path / ".metadata").read_bytes())
    (name,) = description.state_dict_metadata
    described, ((index, place),) = description.state_dict_metadata[name], description.storage_data.items()
    (chunk,), data, description.storage_data = described.chunks, b"", {}
    described.chunks = []
    halves = [side // 2 for side in described.size]
    for corner in itertools.product((0, 1), repeat=3):
        offsets = torch.Size(half * which for half, which in zip(halves, corner, strict=True))
        place_of_part = tuple(slice(begin, begin + half) for begin, half in zip(offsets, halves, strict=True))
        file = io.BytesIO()
        torch.save(content[name][place_of_part].clone(), file)
        described.chunks.append(replace(chunk, offsets=offsets, sizes=torch.Size(halves)))
        info = replace(place, offset=len(data), length=len(file.getvalue()))
        description.storage_data[replace(index, offset=offsets)] = info
        data += file.getvalue()
    (path / place.relative_path).write_bytes(data)
    (path / ".metadata").write_bytes(pickle.dumps(description))
    return path


@pytest.mark.parametrize("write", [in_one_file, as_checkpoint, in_two_parts])
def test_of_a_stack_only_the_expert_that_is_analysed_is_read(tmp_path, write):
    stack = torch.randn(16, 256, 200)
    layers = find_layers(write(tmp_path, {"mlp.experts.up_proj": stack}))
    assert [layer.name for layer in layers] == [f"mlp.experts.{number}.up_proj" for number in range(16)]
    before = bytes_read()
    for number, layer in enumerate(layers):
        np.testing.assert_array_equal(layer.read()[0], stack[number].numpy())
    assert bytes_read() - before < 2 * stack.nbytes  # reading the stack for each expert takes 16 times as much
