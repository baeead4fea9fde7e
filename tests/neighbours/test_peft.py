"""Adapters made by PEFT, as files and in models: the numbers of the dense change and of the merged weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.analysis import as_matrices
from ww_callbacks.weights import find_layers

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
Conv1D = pytest.importorskip("transformers.pytorch_utils").Conv1D

TARGETS = ["emb", "conv", "q_proj", "v_proj", "mlp"]
ADAPTED = {"emb": (90, 40), "conv": (40, 36), "q_proj": (60, 40), "v_proj": (60, 30), "mlp": (50, 30)}
VARIANTS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "patterns": {
        "rank_pattern": {"q_proj": 4, "^v_proj": 3, "block.q_proj": 5},
        "alpha_pattern": {"(q|v)_.*": 1, "conv": 7.5},
    },
    "bias": {"lora_bias": True, "target_modules": ["q_proj", "v_proj"]},
}


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb, self.conv = torch.nn.Embedding(90, 40), torch.nn.Conv2d(4, 40, 3)
        self.q_proj, self.v_proj = torch.nn.Linear(40, 60), torch.nn.Linear(60, 30)
        self.mlp, self.head = Conv1D(50, 30), torch.nn.Linear(50, 30)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mlp(self.v_proj(self.q_proj(self.emb(x)))))


def filled(model: Any) -> Any:
    """The model with random adapters; those of PEFT start with B = 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
            elif "magnitude" in name:
                parameter.mul_(1 + 0.2 * torch.rand_like(parameter))
    return model


def config(**options: Any) -> Any:
    return peft.LoraConfig(**{"r": 8, "lora_alpha": 24, "target_modules": TARGETS} | options)


def net(**options: Any) -> Any:
    torch.manual_seed(0)
    return filled(peft.get_peft_model(Net(), config(**options)))


def base() -> Net:
    torch.manual_seed(0)
    return Net()


def modules(model: Any) -> dict[str, Any]:
    return {name: module for name, module in model.base_model.model.named_modules() if hasattr(module, "lora_A")}


def saved(model: Any, path: Path) -> Path:
    model.save_pretrained(path)
    return path


def dense(module: Any, adapter: str = "default") -> np.ndarray:
    delta = module.get_delta_weight(adapter).detach().double().numpy()
    return delta.reshape(len(delta), -1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_file_has_the_numbers_of_the_dense_change(tmp_path, options):
    model = net(modules_to_save=["head"], **options)
    report = ww.analyze(saved(model, tmp_path), spectrum=True)
    found = modules(model)
    assert {layer.name for layer in report} == {*found, "head"}
    for name, module in found.items():
        layer = report[name]
        expected = np.linalg.svd(dense(module), compute_uv=False)[::-1] ** 2
        assert (layer.kind, layer.role, layer.status) == ("LoRA", "adapter", "ok")
        assert tuple(sorted(ADAPTED[name], reverse=True)) == (layer.N, layer.M)
        assert layer.lora_rank == module.r["default"]
        np.testing.assert_allclose(
            np.sqrt(layer.spectrum), np.sqrt(expected), rtol=1e-6, atol=1e-6 * expected[-1] ** 0.5
        )
    assert report["head"].kind == "matrix (inferred)"
    assert report.counted == {"head"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("as_file", [False, True], ids=["model", "file"])
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_with_a_baseline_the_merged_weights_are_compared(tmp_path, options, as_file):
    model = net(**options)
    folder = saved(model, tmp_path / "adapter")
    names, before = list(modules(model)), base()
    start = before
    if as_file:
        start = tmp_path / "base.pt"
        torch.save(before.state_dict(), start)
    report = ww.analyze(folder, baseline=start)
    alone = ww.analyze(folder)
    merged = model.merge_and_unload()
    if as_file:
        torch.save(merged.state_dict(), tmp_path / "merged.pt")
        merged = tmp_path / "merged.pt"
    expected = ww.analyze(merged, baseline=start)
    assert {layer.name for layer in report} == set(names)
    for name in names:
        layer, wanted = report[name], expected[name]
        assert (layer.kind, layer.role, layer.N, layer.M) == (wanted.kind, wanted.role, wanted.N, wanted.M)
        for column in (
            "alpha_hill",
            "norm",
            "lambda_max",
            "stable_rank",
            "distance",
            "update_norm",
            "update_stable_rank",
        ):
            assert getattr(layer, column) == pytest.approx(getattr(wanted, column), rel=1e-3), (name, column)
        assert layer.lora_rank == alone[name].lora_rank
        assert layer.lora_used == alone[name].lora_used
        assert (layer.update_rank, layer.intruders) == (wanted.update_rank, wanted.intruders), name


@pytest.mark.filterwarnings("ignore")
def test_several_adapters_in_one_folder(tmp_path):
    model = net()
    model.add_adapter("other", config(r=2, target_modules=["q_proj"]))
    filled(model)
    report = ww.analyze(saved(model, tmp_path), baseline=base())
    module = modules(model)["q_proj"]
    assert {layer.name for layer in report} == {*ADAPTED, "other/q_proj"}
    for name, adapter in (("q_proj", "default"), ("other/q_proj", "other")):
        weight = base().q_proj.weight.detach().double().numpy() + dense(module, adapter)
        assert report[name].norm == pytest.approx(np.square(weight).sum(), rel=1e-5)
        assert report[name].lora_rank == module.r[adapter]
    only = ww.analyze(tmp_path / "other" / "adapter_model.safetensors")
    assert [layer.name for layer in only] == ["q_proj"]
    (tmp_path / "adapter_model.safetensors").unlink()


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_torch_and_a_bfloat16_adapter(tmp_path):
    model = net().to(torch.bfloat16)
    model.save_pretrained(tmp_path / "bin", safe_serialization=False)
    model.save_pretrained(tmp_path / "safe")
    left, right = ww.analyze(tmp_path / "bin"), ww.analyze(tmp_path / "safe")
    assert {layer.name: layer.norm for layer in left} == {layer.name: layer.norm for layer in right}
    module = modules(model)["q_proj"]
    B, A = (factor["default"].weight.detach().double().numpy() for factor in (module.lora_B, module.lora_A))
    assert left["q_proj"].norm == pytest.approx(np.square(3 * B @ A).sum(), rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_projections_that_the_baseline_splits(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = transformers.GPT2Config(n_layer=1, n_embd=64, n_head=2, vocab_size=100, n_positions=16)
    gpt = transformers.GPT2Model(size)
    state = {name: value.clone() for name, value in gpt.state_dict().items()}
    model = filled(peft.get_peft_model(gpt, config(target_modules=["c_attn", "c_fc"])))
    folder = saved(model, tmp_path / "adapter")
    start = transformers.GPT2Model(size)
    start.load_state_dict(state)
    report = ww.analyze(folder, baseline=start)
    assert {layer.name for layer in report} == {*(f"h.0.attn.c_attn.{part}" for part in "qkv"), "h.0.mlp.c_fc"}
    expected = ww.analyze(model.merge_and_unload(), baseline=start)
    for layer in report:
        assert layer.norm == pytest.approx(expected[layer.name].norm, rel=1e-5)
        assert layer.update_norm == pytest.approx(expected[layer.name].update_norm, rel=1e-4)
        assert layer.lora_rank == 8


@pytest.mark.filterwarnings("ignore")
def test_other_kinds_of_adapters_say_so(tmp_path):
    model = peft.get_peft_model(Net(), peft.LoHaConfig(r=4, target_modules=["q_proj"]))
    reasons = [layer.reason for layer in ww.analyze(saved(model, tmp_path))]
    assert reasons
    assert all("'LOHA' is not supported" in reason for reason in reasons)


@pytest.mark.filterwarnings("ignore")
def test_the_configuration_is_read_as_peft_reads_it(tmp_path):
    model = net(**VARIANTS["patterns"])
    saved(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["alpha_pattern"]
    layers = {layer.name: layer for layer in find_layers(tmp_path)}
    for name, module in modules(model).items():
        product = as_matrices(layers[name].spec, layers[name].read())[0]
        wanted = dense(module)
        wanted = wanted.T if product.shape != wanted.shape else wanted
        np.testing.assert_allclose(product, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_model_has_the_merged_weights_and_the_adapters(options):
    model = net(**options)
    found = modules(model)
    report, products = ww.analyze(model), {name: dense(module) for name, module in found.items()}
    merged = ww.analyze(model.merge_and_unload())
    for name, product in products.items():
        layer, adapter = (report[f"base_model.model.{name}{suffix}"] for suffix in ("", ".lora_default"))
        assert layer.norm == pytest.approx(merged[name].norm, rel=1e-5)
        assert layer.alpha_hill == pytest.approx(merged[name].alpha_hill, rel=1e-3)
        assert adapter.norm == pytest.approx(np.square(product).sum(), rel=1e-6)
        assert (adapter.lora_rank, adapter.role) == (found[name].r["default"], "adapter")


@pytest.mark.filterwarnings("ignore")
def test_the_forward_pass_of_dora_uses_the_weight_that_we_see():
    model = net(use_dora=True, target_modules=["q_proj", "mlp"])
    layers = {layer.name: layer for layer in find_layers(model)}
    for name, module in modules(model).items():
        x = torch.randn(3, module.in_features)
        layer = layers[f"base_model.model.{name}"]
        weight = torch.from_numpy(as_matrices(layer.spec, layer.read())[0])
        expected = module(x) - module.base_layer.bias
        torch.testing.assert_close(x @ weight.T, expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("executor", ["sync", "process"])
def test_training_of_adapters_is_watched(executor):
    torch.manual_seed(0)
    model = peft.get_peft_model(Net(), config(target_modules=["emb", "q_proj", "v_proj", "mlp"]))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    with ww.Monitor(model, every_n_steps=2, executor=executor, updates=True, deterministic=True) as monitor:
        for step in range(1, 7):
            optimizer.zero_grad()
            model(torch.randint(0, 90, (16,))).square().mean().backward()
            optimizer.step()
            monitor.step(step)
    first, last = monitor.history[0], monitor.history[-1]
    name = "base_model.model.q_proj.lora_default"
    assert (first[name].reason, first[name].lora_used) == ("all weights are zero", 0)
    layer = last[name]
    assert (layer.lora_rank, layer.status, layer.step) == (8, "ok", 6)
    assert 1 <= layer.lora_used <= 8
    assert layer.norm == pytest.approx(np.square(dense(modules(model)["q_proj"])).sum(), rel=1e-5)
    assert (layer.learned_norm, layer.update_rank) == (pytest.approx(1), None)
    assert 0 < layer.update_norm < 1
    assert not any(each.counted for each in last if each.role == "adapter")
    assert last.counted == first.counted
    assert ww.Report.from_dicts(last.to_dicts())[name] == layer
    assert monitor.history.advice()
