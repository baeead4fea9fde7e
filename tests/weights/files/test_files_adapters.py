"""Adapters as PEFT saves them, written here without PEFT: numbers, and reasons for those that are damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.report import LayerReport
from ww_callbacks.weights.files.adapters import Config, read_config

save_file = pytest.importorskip("safetensors.numpy").save_file
RNG = np.random.default_rng(0)
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


def factors(module: str, rank: int = 4, sides: tuple[int, int] = (60, 50)) -> dict[str, np.ndarray]:
    return {
        f"base_model.model.{module}.lora_A.weight": RNG.standard_normal((rank, sides[1])).astype(np.float32),
        f"base_model.model.{module}.lora_B.weight": RNG.standard_normal((sides[0], rank)).astype(np.float32),
    }


def product(tensors: dict[str, np.ndarray], module: str) -> np.ndarray:
    A, B = (tensors[f"base_model.model.{module}.lora_{part}.weight"].astype(np.float64) for part in "AB")
    return B @ A


def write(folder: Path, tensors: dict[str, np.ndarray], config: Any = CONFIG) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "adapter_config.json").write_text(text)
    return folder


HEAD = {"base_model.model.head.weight": RNG.standard_normal((60, 50)).astype(np.float32)}


def test_the_folder_and_the_file_are_the_same_adapter(tmp_path):
    tensors = factors("a.fc") | HEAD
    folder = write(tmp_path, tensors)
    report = ww.analyze(folder)
    assert report == ww.analyze(folder / "adapter_model.safetensors") == ww.analyze(folder, workers=2)
    assert report["a.fc"].norm == pytest.approx(np.square(2 * product(tensors, "a.fc")).sum())
    assert (report["a.fc"].lora_rank, report["a.fc"].role, report["head"].role) == (4, "adapter", "matrix")
    assert report.summary()["alpha"] == report["head"].alpha
    assert ww.LayerReport.from_dict(report["a.fc"].to_dict()) == report["a.fc"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"fc.lora_A.weight": (4, 50)}, "lora_A without lora_B"),
        ({"fc.lora_B.weight": (60, 4)}, "lora_B without lora_A"),
        ({"fc.lora_A.weight": (4, 50), "fc.lora_B.weight": (60, 5)}, "do not fit"),
        ({"fc.lora_A.weight": (4,), "fc.lora_B.weight": (60, 4)}, "do not fit"),
        ({"fc.lora_A.weight": (4, 0), "fc.lora_B.weight": (60, 4)}, "do not fit"),
        ({"fc.lora_A.weight": (4, 9, 3, 3), "fc.lora_B.weight": (60, 4, 2, 1)}, "do not fit"),
        ({"fc.lora_A.weight": (5, 50), "fc.lora_B.weight": (60, 5)}, "rank 5, not 4 as adapter_config.json says"),
    ],
)
def test_a_damaged_adapter_says_so_and_the_others_have_numbers(tmp_path, broken, reason):
    tensors = factors("other") | HEAD
    tensors |= {f"base_model.model.{name}": np.ones(shape, np.float32) for name, shape in broken.items()}
    report = ww.analyze(write(tmp_path, tensors))
    assert (report["fc"].status, report["fc"].skip_reason, report["fc"].role) == ("skipped", "adapter", "adapter")
    assert reason in report["fc"].reason
    assert report["other"].lora_rank == 4
    assert report["head"].alpha is not None


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "no such file"),
        ("", "cannot be read"),
        ("[1]", "not an object but list"),
        ("[" * 100_000, "cannot be read"),
        (CONFIG | {"r": 0}, "r: expected a positive integer, got '0'"),
        (CONFIG | {"r": True}, "r: expected"),
        (CONFIG | {"lora_alpha": "8"}, "lora_alpha: expected"),
        ('{"peft_type": "LORA", "r": 4, "lora_alpha": NaN}', "lora_alpha: expected a finite number"),
        (CONFIG | {"use_rslora": "no"}, "use_rslora: expected true or false"),
        (CONFIG | {"rank_pattern": ["fc"]}, "rank_pattern: expected an object"),
        (CONFIG | {"rank_pattern": {"fc": 2.5}}, "rank_pattern['fc']: expected"),
        (CONFIG | {"alpha_pattern": {"(": 1}}, "alpha_pattern: '(' is no pattern"),
        (CONFIG | {"alpha_pattern": {"(a+)+": 1}}, "could take very long"),
        (CONFIG | {"alpha_pattern": {"(a|a)" * 30: 1}}, "could take very long"),
        (CONFIG | {"alpha_pattern": {"a" * 201: 1}}, "could take very long"),
        (CONFIG | {"peft_type": "ADALORA"}, "peft_type 'ADALORA' is not supported"),
        (CONFIG | {"use_qalora": True}, "use_qalora is not supported"),
    ],
)
def test_without_a_usable_configuration_the_scale_is_unknown(tmp_path, config, reason):
    report = ww.analyze(write(tmp_path, factors("fc") | HEAD, config))
    assert report["fc"].skip_reason == "adapter"
    assert reason in report["fc"].reason
    assert report["head"].alpha is not None


def test_a_configuration_that_is_too_long_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("ww_callbacks.weights.files.adapters.MAX_CONFIG_BYTES", 10)
    assert "more than 10 bytes" in ww.analyze(write(tmp_path, factors("fc")))["fc"].reason


def test_a_configuration_that_is_no_file_is_not_opened(tmp_path):
    folder = write(tmp_path, factors("fc"), None)
    os.mkfifo(folder / "adapter_config.json")
    assert "not a file" in ww.analyze(folder)["fc"].reason


def test_the_scale_follows_the_configuration(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(CONFIG | {"use_rslora": True, "rank_pattern": {"q": 9}, "alpha_pattern": {r"layers\.\d+\.q": 3}})
    )
    config = read_config(tmp_path / "config.json")
    assert isinstance(config, Config)
    assert [config.scale_of(name) for name in ("fc", "q", "a.q", "layers.1.q", "xq")] == [4, 8 / 3, 8 / 3, 1, 4]


def test_a_folder_of_adapters(tmp_path):
    write(tmp_path / "first", factors("fc"))
    write(tmp_path / "second", factors("fc"))
    (tmp_path / "README.md").touch()
    assert [layer.name for layer in ww.analyze(tmp_path)] == ["first/fc", "second/fc"]
    assert [layer.name for layer in ww.analyze(tmp_path, layers=["second/*"]) if layer.status == "ok"] == ["second/fc"]
    write(tmp_path, factors("fc"))
    write(tmp_path / "checkpoint-10", factors("fc"))
    assert [layer.name for layer in ww.analyze(tmp_path)] == ["fc", "first/fc", "second/fc", "checkpoint-10/"]


def test_several_adapters_in_one_file(tmp_path):
    tensors = {}
    for name in ("default", "other"):
        tensors |= {key.replace(".weight", f".{name}.weight"): value for key, value in factors("fc").items()}
    assert [layer.name for layer in ww.analyze(write(tmp_path, tensors))] == ["default/fc", "other/fc"]


def test_a_configuration_without_weights_is_an_error(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ww.WeightsFileError, match=r"holds adapter_config\.json, but none of"):
        ww.analyze(tmp_path)


def test_a_folder_with_a_model_is_that_model(tmp_path):
    write(tmp_path / "adapter", factors("fc"))
    np.savez(tmp_path / "model.npz", fc=np.ones((60, 50)))
    assert [layer.kind for layer in ww.analyze(tmp_path)] == ["matrix (inferred)", "folder"]


def compared(layer: LayerReport) -> list[Any]:
    return [layer.norm, layer.distance, layer.update_norm, layer.update_stable_rank, layer.delta_log_lambda_max]


def test_with_a_baseline_the_sum_is_compared(tmp_path):
    tensors = factors("fc") | factors("missing")
    folder = write(tmp_path, tensors)
    start = {"fc": RNG.standard_normal((60, 50)).astype(np.float32)}
    report = ww.analyze(folder, baseline=start)
    dense = ww.analyze({"fc": start["fc"] + 2 * product(tensors, "fc")}, baseline=start)["fc"]
    assert compared(report["fc"]) == pytest.approx(compared(dense), rel=1e-4)
    assert (report["fc"].lora_rank, report["fc"].kind, report["fc"].role) == (4, "matrix", "matrix")
    assert report["missing"].reason == "low-rank adapter: the baseline has no layer of this name"
    turned = ww.analyze(folder, baseline={"fc": start["fc"].T.copy()}, layers=["fc"])["fc"]
    assert compared(turned) == pytest.approx(compared(report["fc"]), rel=1e-4)
    with pytest.raises(ValueError, match="baseline: no layer has the name"):
        ww.analyze(folder, baseline={"model.fc": start["fc"]})


def test_square_weights_are_turned_if_the_configuration_says_so(tmp_path):
    tensors = factors("fc", sides=(60, 60))
    start = {"fc": RNG.standard_normal((60, 60))}
    for turned in (False, True):
        folder = write(tmp_path / str(turned), tensors, CONFIG | {"fan_in_fan_out": turned})
        change = 2 * product(tensors, "fc")
        expected = np.square(start["fc"] + (change.T if turned else change)).sum()
        assert ww.analyze(folder, baseline=start)["fc"].norm == pytest.approx(expected)


def test_a_layer_that_does_not_fit_the_baseline_and_one_that_it_does_not_analyse(tmp_path):
    tensors = factors("a") | factors("b") | factors("c")
    start = {"a": np.ones((50, 40)), "b": np.ones((3, 4, 5)), "c": RNG.standard_normal((60, 50))}
    report = ww.analyze(write(tmp_path, tensors), baseline=start)
    assert "B·A of shape (60, 50) does not fit 50 x 40" in report["a"].reason
    assert "its layer in the baseline: no rule for" in report["b"].reason
    assert report["c"].distance > 0


def test_magnitudes_scale_the_rows_of_the_sum(tmp_path):
    norms = np.linspace(1, 2, 60, dtype=np.float32)
    tensors = factors("fc")
    start = {"fc": RNG.standard_normal((60, 50))}
    total = start["fc"] + 2 * product(tensors, "fc")
    expected = total * (norms / np.linalg.norm(total, axis=1))[:, None]
    folder = write(
        tmp_path, tensors | {"base_model.model.fc.lora_magnitude_vector": norms}, CONFIG | {"use_dora": True}
    )
    report = ww.analyze(folder, baseline=start)
    dense = ww.analyze({"fc": expected}, baseline=start)["fc"]
    assert compared(report["fc"]) == pytest.approx(compared(dense), rel=1e-6)
    assert report["fc"].update_rank == dense.update_rank
    write(tmp_path, tensors, CONFIG | {"use_dora": True})
    assert "DoRA without its magnitudes" in ww.analyze(folder)["fc"].reason


def test_an_adapter_beside_another_one(tmp_path):
    left, right = factors("fc"), factors("fc")
    one, other = write(tmp_path / "one", left), write(tmp_path / "other", right)
    distance = np.linalg.norm(product(left, "fc") - product(right, "fc")) / np.linalg.norm(product(right, "fc"))
    assert ww.analyze(one, baseline=other)["fc"].distance == pytest.approx(distance, rel=1e-5)


def test_a_report_cannot_be_the_baseline_of_an_adapter(tmp_path):
    report = ww.analyze({"fc": RNG.standard_normal((60, 50))})
    with pytest.raises(ValueError, match="baseline: a report holds no weights"):
        ww.analyze(write(tmp_path, factors("fc")), baseline=report)


def test_a_large_embedding_is_added_to_on_request(tmp_path, monkeypatch):
    monkeypatch.setattr("ww_callbacks.weights.kinds.MAX_ROWS", 50)
    tensors = {
        "base_model.model.emb.lora_embedding_A": RNG.standard_normal((4, 60)).astype(np.float32),
        "base_model.model.emb.lora_embedding_B": RNG.standard_normal((40, 4)).astype(np.float32),
    }
    weights = {"emb.weight": np.ones((60, 40), np.float32), "head.weight": np.ones((60, 50), np.float32)}
    save_file(weights, tmp_path / "base.safetensors")
    folder = write(tmp_path / "adapter", tensors | HEAD)
    start = tmp_path / "base.safetensors"
    assert ww.analyze(folder)["emb"].lora_rank == 4
    assert ww.analyze(folder, baseline=start)["emb"].skip_reason == "too_many_rows"
    assert ww.analyze(folder, baseline=start, layers=["emb"])["emb"].distance > 0


def test_the_sentence_about_the_ranks_and_the_table(tmp_path):
    tensors = factors("wide", 40)
    A, B = RNG.standard_normal((3, 50)), RNG.standard_normal((60, 3))
    tensors["base_model.model.wide.lora_A.weight"] = (RNG.standard_normal((40, 3)) @ A).astype(np.float32)
    tensors["base_model.model.narrow.lora_A.weight"] = np.float32(A)
    tensors["base_model.model.narrow.lora_B.weight"] = np.float32(B)
    report = ww.analyze(write(tmp_path, tensors, CONFIG | {"rank_pattern": {"wide": 40, "narrow": 3}}))
    assert report.advice()[0].startswith("wide (rank 40 is paid for, 3 directions are used) uses at most half")
    head = str(report).splitlines()[0].split()
    assert head[-3:] == ["LoRA", "rank", "used"]
    assert "LoRA rank" not in str(ww.analyze(HEAD))
