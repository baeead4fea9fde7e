"""Folders with several weights files: all are read, or what is left out is listed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.cli import main
from ww_callbacks.weights import find_layers

save_file = pytest.importorskip("safetensors.numpy").save_file


def save(path: Path, *names: str, side: int = 3, dtype: type = np.float32) -> None:
    """A file in the format of its ending, with a matrix of ``side`` rows for each name."""
    path.parent.mkdir(exist_ok=True)
    tensors = {f"{name}.weight": np.full((side, 2), index, dtype) for index, name in enumerate(names)}
    if path.suffix == ".npz":
        np.savez(path, **tensors)
    elif path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, path)


def read(folder: Path) -> dict[str, tuple[int, ...] | None]:
    """The layers that are read, with their shapes."""
    return {layer.name: layer.spec.shape for layer in find_layers(folder) if layer.spec}


def not_read(folder: Path) -> list[str]:
    return [layer.name for layer in find_layers(folder) if layer.skip and layer.skip.reason == "left_out"]


def test_one_of_several_formats_and_variants_is_read_and_the_others_are_named(tmp_path):
    save(tmp_path / "model.safetensors", "fc")
    save(tmp_path / "model.fp16.safetensors", "fc", side=4, dtype=np.float16)
    save(tmp_path / "pytorch_model.bin", "fc", side=5)
    save(tmp_path / "onnx" / "other.safetensors", "fc", side=6)
    (tmp_path / "tf_model.h5").write_bytes(b"")
    (tmp_path / "logs").mkdir()
    assert read(tmp_path) == {"fc": (3, 2)}
    assert not_read(tmp_path) == ["model.fp16.safetensors", "pytorch_model.bin", "tf_model.h5", "onnx/"]
    reason = ww.analyze(tmp_path)["pytorch_model.bin"].reason
    assert reason == "not read: the folder is read as model.safetensors; give its own path to analyse it"


def test_the_command_line_names_what_is_left_out(tmp_path, capsys):
    save_file({"fc.weight": np.random.default_rng(0).standard_normal((60, 40))}, tmp_path / "model.safetensors")
    save(tmp_path / "x.safetensors", "fc")
    assert main(["analyze", str(tmp_path)]) == 0
    assert "skipped: x.safetensors (not read: the folder is read as model.safetensors;" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model", "llama"])
def test_parts_without_an_index_are_all_read(tmp_path, name):
    for number in (1, 2, 3):
        save(tmp_path / f"{name}-{number:05d}-of-00003.safetensors", f"layers.{number}")
    assert list(read(tmp_path)) == ["layers.1", "layers.2", "layers.3"]
    assert not_read(tmp_path) == []
    (tmp_path / f"{name}-00002-of-00003.safetensors").unlink()
    with pytest.raises(ww.WeightsFileError, match="parts are missing or too many: 2 of 3 are there"):
        find_layers(tmp_path)


def test_a_part_that_the_index_does_not_name_is_listed(tmp_path):
    for number in (1, 2):
        save(tmp_path / f"model-{number:05d}-of-00002.safetensors", f"layers.{number}")
    index = {"weight_map": {"layers.1.weight": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert list(read(tmp_path)) == ["layers.1"]
    assert not_read(tmp_path) == ["model-00002-of-00002.safetensors"]


def test_all_networks_of_a_folder_are_read(tmp_path):
    save(tmp_path / "a.pt", "encoder")
    save(tmp_path / "b.safetensors", "decoder")
    assert read(tmp_path) == {"encoder": (3, 2), "decoder": (3, 2)}
    save(tmp_path / "c.npz", "encoder", side=5)
    assert read(tmp_path) == {"a/encoder": (3, 2), "b/decoder": (3, 2), "c/encoder": (5, 2)}


def test_a_name_with_another_ending_is_another_format(tmp_path):
    save(tmp_path / "unet.pt", "fc", side=4)
    save(tmp_path / "unet.safetensors", "fc")
    save(tmp_path / "vae.safetensors", "conv")
    assert read(tmp_path) == {"fc": (3, 2), "conv": (3, 2)}
    assert not_read(tmp_path) == ["unet.pt"]


def test_a_file_that_cannot_be_read_is_listed_beside_those_that_can(tmp_path):
    save(tmp_path / "a.safetensors", "fc")
    (tmp_path / "dataset.bin").write_bytes(b"no weights")
    reasons = {layer.name: layer.reason for layer in find_layers(tmp_path)}
    assert list(reasons) == ["fc", "dataset.bin"]
    assert reasons["dataset.bin"].startswith("cannot be read: not a weights file")
    (tmp_path / "a.safetensors").write_bytes(b"")
    with pytest.raises(ww.WeightsFileError, match=r"a\.safetensors: truncated"):
        find_layers(tmp_path)


def test_checkpoints_of_a_run_are_not_averaged(tmp_path):
    for name in ("epoch=1.ckpt", "epoch=2.ckpt", "last.ckpt"):
        save(tmp_path / name, "fc")
    with pytest.raises(ww.WeightsFileError, match=r"same network, give the path of one: \['epoch=1.ckpt', 'epoch=2"):
        find_layers(tmp_path)


def test_what_a_trainer_saves_beside_the_weights_is_no_network(tmp_path):
    save(tmp_path / "policy.pt", "fc")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "scaler.pt"):
        (tmp_path / name).write_bytes(b"")
    assert [layer.name for layer in find_layers(tmp_path)] == ["fc"]


def test_what_is_beside_the_networks_of_a_pipeline_is_listed(tmp_path):
    for name in ("unet", "vae"):
        save(tmp_path / name / "diffusion_pytorch_model.safetensors", "fc")
    save(tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors", "fc")
    save(tmp_path / "v1-5-pruned.safetensors", "fc")
    (tmp_path / "model_index.json").write_text("{}")
    assert list(read(tmp_path)) == ["unet/fc", "vae/fc"]
    assert not_read(tmp_path) == ["unet/diffusion_pytorch_model.fp16.safetensors", "v1-5-pruned.safetensors"]


def test_what_is_beside_an_adapter_is_listed(tmp_path):
    factors = {
        f"base_model.model.fc.lora_{part}.weight": np.ones(shape) for part, shape in (("A", (2, 5)), ("B", (6, 2)))
    }
    save_file(factors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2}))
    save(tmp_path / "value_head.bin", "summary")
    assert list(read(tmp_path)) == ["fc"]
    assert not_read(tmp_path) == ["value_head.bin"]
