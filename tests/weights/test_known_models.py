"""Models that people use: every weight is analysed or listed with the reason, from the model as from a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from shipped import shipped, tensors

import ww_callbacks as ww
from ww_callbacks.analysis import as_matrices
from ww_callbacks.weights import Layer, find_layers

torch = pytest.importorskip("torch")
nn = torch.nn


def elements(layers: tuple[Layer, ...]) -> int:
    """Numbers in all matrices."""
    return sum(int(np.prod(layer.spec.shape)) for layer in layers if layer.spec is not None)


def held(model: Any) -> int:
    """Numbers in all weights of two or more dimensions, each once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.ndim >= 2)


def assert_same(first: tuple[Layer, ...], second: tuple[Layer, ...]) -> None:
    """The same analysed layers, in order, with the same numbers."""
    ours, theirs = ([layer for layer in layers if layer.spec is not None] for layers in (first, second))
    assert [layer.name for layer in ours] == [layer.name for layer in theirs]
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(as_matrices(one.spec, one.read()), as_matrices(other.spec, other.read()))


# --- language models -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gpt2() -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_embd=64, n_head=4, vocab_size=500, n_positions=80)
    return transformers.GPT2LMHeadModel(config)


def test_every_weight_of_gpt2(gpt2):
    layers = find_layers(gpt2)
    assert elements(layers) == held(gpt2)
    skipped = {layer.name: layer.reason for layer in layers if layer.spec is None}
    assert skipped.pop("lm_head") == "shares its weight with transformer.wte"
    assert set(skipped.values()) == {"no matrix: fewer than two dimensions"}
    assert all(name.rpartition(".")[2].startswith("ln_") for name in skipped)
    block = [layer.name.removeprefix("transformer.h.0.") for layer in layers if layer.spec and ".h.0." in layer.name]
    assert block == ["attn.c_attn.q", "attn.c_attn.k", "attn.c_attn.v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]


def test_the_projections_of_gpt2_are_those_of_its_attention(gpt2):
    attention = gpt2.transformer.h[0].attn
    x = torch.randn(3, 64)
    with torch.no_grad():
        expected = (attention.c_attn(x) - attention.c_attn.bias).split(64, dim=-1)
    of = {layer.name.rpartition(".")[2]: layer for layer in find_layers(gpt2) if ".h.0.attn.c_attn" in layer.name}
    for part, projected in zip("qkv", expected, strict=True):
        (matrix,) = as_matrices(of[part].spec, of[part].read())
        np.testing.assert_allclose(x.numpy() @ matrix.T, projected.numpy(), atol=1e-5)


def test_gpt2_from_the_files_that_transformers_writes(gpt2, tmp_path):
    gpt2.save_pretrained(tmp_path, max_shard_size="200KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    rule = {"*.c_attn": 3}
    stored = find_layers(tmp_path, split=rule)
    assert elements(stored) == held(gpt2)
    assert {layer.name for layer in stored if layer.spec and "c_attn" in layer.name} == {
        f"transformer.h.{block}.attn.c_attn.{part}" for block in range(2) for part in range(3)
    }
    built = {layer.name: layer for layer in find_layers(gpt2) if layer.spec}
    for layer in stored:
        if layer.spec is not None and layer.name in built:
            np.testing.assert_array_equal(
                np.sort(layer.read().ravel()), np.sort(built[layer.name].read().ravel()), err_msg=layer.name
            )


@pytest.mark.parametrize("name", ["Bert", "Llama", "ViT"])
def test_every_weight_of_other_transformers(name):
    transformers = pytest.importorskip("transformers")
    size = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**size))
    layers = [layer.on_request or layer for layer in find_layers(model)]
    listed = [layer for layer in layers if layer.spec is None and "two dimensions" not in layer.reason]
    extra = sum(p.numel() for n, p in model.named_parameters() if any(n == layer.name for layer in listed))
    assert elements(layers) + extra == held(model)
    for layer in listed:
        assert layer.skip.reason == "no_rule"


# --- residual networks -----------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two convolutions and a shortcut, named as torchvision names them."""

    expansion = 1

    def __init__(self, inputs: int, outputs: int, stride: int = 1, projects: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if projects:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class Bottleneck(nn.Module):
    """Three convolutions, the middle one in groups, as in torchvision's ResNet-50 and ResNeXt."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1, projects: bool = False, groups: int = 2) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        if projects:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False),
                                            nn.BatchNorm2d(4 * width))  # fmt: skip


class ResNet(nn.Module):
    """Of torchvision's form: a stem, stages of blocks, a linear head."""

    def __init__(self, block: Any, counts: list[int], widths: list[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 7, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for stage, (count, width) in enumerate(zip(counts, widths, strict=True), start=1):
            blocks = []
            for index in range(count):
                changes = index == 0 and (stage > 1 or block.expansion > 1)
                blocks.append(block(inputs, width, 1 + (index == 0 and stage > 1), changes))
                inputs = width * block.expansion
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 10)


@pytest.mark.parametrize(("block", "convolutions"), [(Block, 20), (Bottleneck, 29)])
def test_every_weight_of_residual_networks(block, convolutions, tmp_path):
    model = ResNet(block, [2, 2, 2, 2], [8, 16, 24, 32])
    layers = find_layers(model)
    assert elements(layers) == held(model)
    assert sum(layer.spec is not None and layer.spec.role == "convolution" for layer in layers) == convolutions
    torch.save(model.state_dict(), tmp_path / "model.pt")
    stored = find_layers(tmp_path / "model.pt")
    assert elements(stored) == held(model)
    assert [layer.name for layer in stored] == [layer.name for layer in layers]
    if block is Block:  # how many groups a convolution has does not stand in a state dict
        assert_same(stored, layers)


# --- trained weights -------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """The bidirectional LSTM of alphaPredict."""

    def __init__(self, hidden: int, depth: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(20, hidden, depth, bidirectional=True)
        self.fc = nn.Linear(2 * hidden, 1)


class Speech(nn.Module):
    """Silero's detector of speech: convolutions of one dimension and an LSTM cell."""

    def __init__(self) -> None:
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 258, 256, bias=False)
        for index, (inputs, outputs) in enumerate([(129, 128), (128, 64), (64, 64), (64, 128)], start=1):
            self.add_module(f"conv{index}", nn.Conv1d(inputs, outputs, 3))
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, 1)


class Inverted(nn.Module):
    """A block of EfficientNet without squeeze and excitation: wide, depthwise, narrow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, factor: int) -> None:
        super().__init__()
        width = factor * inputs
        if factor > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self._depthwise_conv, self._bn1 = (
            nn.Conv2d(width, width, kernel, groups=width, bias=False),
            nn.BatchNorm2d(width),
        )
        self._project_conv, self._bn2 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)


class EfficientNetLite0(nn.Module):
    """Sixteen inverted blocks in seven stages: repeats, outputs, kernel, factor of the width."""

    STAGES = (
        (1, 16, 3, 1),
        (2, 24, 3, 6),
        (2, 40, 5, 6),
        (3, 80, 3, 6),
        (3, 112, 5, 6),
        (4, 192, 5, 6),
        (1, 320, 3, 6),
    )

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(3, 32, 3, bias=False), nn.BatchNorm2d(32)
        blocks, inputs = [], 32
        for repeats, outputs, kernel, factor in self.STAGES:
            for _ in range(repeats):
                blocks.append(Inverted(inputs, outputs, kernel, factor))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280)
        self._fc = nn.Linear(1280, 1000)


NETWORKS = {
    "alphapredict-v2.pt": lambda: Recurrent(20, 2),
    "alphapredict-v7.pt": lambda: Recurrent(100, 2),
    "efficientnet-lite0.pth": EfficientNetLite0,
    "silero-vad.safetensors": Speech,
}


def built(file: str) -> Any:
    """The network with the weights of the file loaded."""
    model = NETWORKS[file]()
    model.load_state_dict({name: torch.tensor(value) for name, value in tensors(file).items()})
    return model


@pytest.mark.parametrize("file", NETWORKS)
def test_trained_networks_are_the_same_from_the_file_and_built(file):
    model = built(file)
    stored, layers = find_layers(shipped(file)), find_layers(model)
    assert [layer.name for layer in stored] == [layer.name for layer in layers]
    assert_same(stored, layers)
    depthwise = sum(layer.weight.numel() for name, layer in model.named_modules() if name.endswith("_depthwise_conv"))
    assert elements(stored) == elements(layers) == held(model) - depthwise


def figures(report: ww.Report) -> Iterator[tuple[Any, ...]]:
    for layer in report:
        yield layer.name, layer.status, layer.alpha, layer.lambda_max, layer.max_rand_eval, layer.num_traps


@pytest.mark.parametrize("file", ["alphapredict-v7.pt", "silero-vad.safetensors"])
def test_the_reports_are_the_same_too(file):
    assert list(figures(ww.analyze(shipped(file)))) == list(figures(ww.analyze(built(file))))


def test_of_a_network_with_five_zeroed_layers_five_are_skipped_with_the_reason(tmp_path):
    model = built("efficientnet-lite0.pth")
    zeroed = {f"_blocks.{index}.{name}" for index in (4, 9) for name in ("_expand_conv", "_project_conv")} | {"_fc"}
    with torch.no_grad():
        for name in zeroed:
            model.get_submodule(name).weight.zero_()
    torch.save(model.state_dict(), tmp_path / "zeroed.pth")
    report = ww.analyze(tmp_path / "zeroed.pth", randomize=False)
    assert {layer.name for layer in report if layer.reason == "all weights are zero"} == zeroed
    assert all(report[name].status == "skipped" for name in zeroed)
    summary = report.summary()
    assert summary
    assert all(np.isfinite(value) for value in summary.values())
