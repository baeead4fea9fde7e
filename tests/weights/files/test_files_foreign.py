"""Formats that are recognised but not read: the message says what they are and what to do."""

from __future__ import annotations

import numpy as np
import pytest

import ww_callbacks as ww


def refusal(path):
    with pytest.raises(ww.WeightsFileError) as caught:
        ww.analyze(path)
    return caught.value.cause


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("model.tflite", b"\x20\x00\x00\x00TFL3 and more", "a model of TensorFlow Lite, compiled for devices. Analyse"),
        ("model.bin", b"\x20\x00\x00\x00TFL3 and more", "a model of TensorFlow Lite"),
        ("saved_model.pb", b"\x08\x01\x12", "which only TensorFlow reads. Load it there and save its variables"),
        ("model.mlmodel", b"\x08\x05\x12", "a model of Core ML, compiled for devices. Analyse the model that it was"),
        ("model.xyz", b"\x08\x05\x12", "not a weights file, or a damaged one"),
    ],
)
def test_files(tmp_path, name, content, cause):
    (tmp_path / name).write_bytes(content * 10)
    assert cause in refusal(tmp_path / name)


def test_folders(tmp_path):
    saved = tmp_path / "saved"
    (saved / "variables").mkdir(parents=True)
    (saved / "saved_model.pb").write_bytes(b"\x08\x01\x12")
    for name in ("variables.index", "variables.data-00000-of-00001"):
        (saved / "variables" / name).write_bytes(b"content")
    assert "a SavedModel of TensorFlow, which only TensorFlow reads" in refusal(saved)
    assert "a checkpoint of TensorFlow, which only TensorFlow reads" in refusal(saved / "variables")
    package = tmp_path / "model.mlpackage"
    package.mkdir()
    (package / "Manifest.json").write_text("{}")
    assert "a model of Core ML" in refusal(package)


def test_weights_beside_a_saved_model_are_read(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01\x12")
    np.savez(tmp_path / "model.npz", **{"fc.weight": np.eye(4)})
    assert [layer.name for layer in ww.analyze(tmp_path)] == ["fc"]


def test_parts_of_matrices_that_each_rank_wrote_are_never_layers(tmp_path):
    torch = pytest.importorskip("torch")

    def save(name):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"module": {"fc.weight": torch.ones(60, 70)}}, tmp_path / name)

    for rank in (0, 1):
        save(f"zero3/bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        save(f"zero3/zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
        save(f"zero1/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        save(f"tensor/mp_rank_0{rank}_model_states.pt")
        save(f"megatron/mp_rank_0{rank}/model_optim_rng.pt")
        save(f"pipeline/layer_0{rank}-model_00-model_states.pt")
    save("zero1/mp_rank_00_model_states.pt")
    save("pipeline/mp_rank_00_model_states.pt")
    flattened = [
        "zero3",
        "zero3/zero_pp_rank_0_mp_rank_00_model_states.pt",
        "zero1/zero_pp_rank_0_mp_rank_00_optim_states.pt",
    ]
    for name in flattened:
        assert "Run zero_to_fp32.py" in refusal(tmp_path / name), name
    of_ranks = [
        "tensor",
        "tensor/mp_rank_00_model_states.pt",
        "megatron",
        "megatron/mp_rank_01",
        "megatron/mp_rank_01/model_optim_rng.pt",
    ]
    for name in of_ranks:
        assert "each rank wrote a part of the matrices" in refusal(tmp_path / name), name
    assert "a file for each layer" in refusal(tmp_path / "pipeline")
    assert [layer.name for layer in ww.analyze(tmp_path / "zero1")] == ["fc"]
