"""Weights that torchao quantised, in memory and in files, against its own numbers."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ww_callbacks.weights import find_layers

torchao = pytest.importorskip("torchao.quantization")
support = pytest.importorskip("torchao.prototype.safetensors.safetensors_support")

CONFIGS = {
    "int8": torchao.Int8WeightOnlyConfig(version=2),
    "int8 in groups": torchao.Int8WeightOnlyConfig(version=2, granularity=torchao.PerGroup(32)),
    "int8, dynamic": torchao.Int8DynamicActivationInt8WeightConfig(version=2),
    "fp8": torchao.Float8WeightOnlyConfig(),
    "4 bits": torchao.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=torchao.PerGroup(32)),
    "3 bits in rows": torchao.IntxWeightOnlyConfig(weight_dtype=torch.int3),
    "4 bits, dynamic": torchao.Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4, weight_granularity=torchao.PerGroup(32)
    ),
}


def model(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(128, 96, bias=False), nn.ReLU(), nn.Linear(96, 64)).to(dtype)


def save(state, path):
    tensors, metadata = support.flatten_tensor_state_dict(state)
    save_file(tensors, path, metadata=metadata)
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_every_source_gives_the_numbers_of_torchao(name, tmp_path):
    net = model()
    torchao.quantize_(net, CONFIGS[name])
    expected = {"0": net[0].weight.dequantize().numpy(), "2": net[2].weight.dequantize().numpy()}
    torch.save(net.state_dict(), tmp_path / "model.pt")
    save(net.state_dict(), tmp_path / "model.safetensors")
    for source in (net, net.state_dict(), tmp_path / "model.pt", tmp_path / "model.safetensors"):
        found = {layer.name: layer for layer in find_layers(source)}
        assert found.keys() == expected.keys()
        for layer, numbers in expected.items():
            assert found[layer].reason == ""
            np.testing.assert_array_equal(found[layer].read(), numbers)


@pytest.mark.parametrize("granularity", ["PerTensor", "PerRow"])
def test_eight_bit_floats_of_either_granularity(granularity, tmp_path):
    weight = torchao.Float8Tensor.from_hp(torch.randn(96, 128), granularity=getattr(torchao, granularity)())
    (layer,) = find_layers(save({"fc.weight": weight}, tmp_path / "model.safetensors"))
    np.testing.assert_array_equal(layer.read(), weight.dequantize().numpy())


def test_bfloat16_is_rounded_in_memory_only(tmp_path):
    net = model(torch.bfloat16)
    torchao.quantize_(net, CONFIGS["int8"])
    (first, _), (stored, _) = find_layers(net), find_layers(save(net.state_dict(), tmp_path / "model.safetensors"))
    np.testing.assert_allclose(stored.read(), first.read(), rtol=2**-8)


def test_four_bits_are_within_half_a_step(tmp_path):
    """The kernels of torchao for this class need a GPU; the formula is that of its quantisation."""
    weight, step = torch.randn(96, 128), 32
    blocks = weight.reshape(96, -1, step)
    low, scale = blocks.amin(-1), (blocks.amax(-1) - blocks.amin(-1)) / 15
    codes = ((blocks - low[..., None]) / scale[..., None]).round().to(torch.int8).reshape(96, 128) - 8
    packed = (codes[:, ::2] & 15) | (codes[:, 1::2] << 4)
    parts = (packed, scale.T.contiguous(), (low + 8 * scale).T.contiguous())
    tensor = torchao.Int4Tensor(*parts, block_size=[1, step], shape=weight.shape)
    for source in ({"fc.weight": tensor}, save({"fc.weight": tensor}, tmp_path / "model.safetensors")):
        (layer,) = find_layers(source)
        assert layer.reason == ""
        error = np.abs(layer.read() - weight.numpy()).reshape(96, -1, step)
        assert (error <= 0.5001 * scale.numpy()[..., None]).all()


def test_state_dicts_are_read_where_torchao_is_not_loaded(tmp_path):
    net = model()
    torchao.quantize_(net, CONFIGS["int8, dynamic"])
    torch.save(net.state_dict(), tmp_path / "model.pt")
    lines = [
        "import sys, numpy as np, ww_callbacks.weights as w",
        f"layers = w.find_layers({str(tmp_path / 'model.pt')!r})",
        f"np.savez({str(tmp_path / 'read.npz')!r}, *[layer.read() for layer in layers])",
        "assert 'torchao' not in sys.modules",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)
    read = np.load(tmp_path / "read.npz")
    for found, layer in zip(read.values(), (net[0], net[2]), strict=True):
        np.testing.assert_array_equal(found, layer.weight.dequantize().numpy())
