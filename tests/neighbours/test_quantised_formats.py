"""Quantised weights against the packages that define the formats."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ww_callbacks as ww
from ww_callbacks.weights import find_layers

torch.manual_seed(0)
WEIGHT = torch.randn(96, 128)


def check(parts, expected, tmp_path, tolerance=1e-6):
    """The parts, in memory and in a file, give the expected matrix and its largest eigenvalue."""
    stored = {f"fc.{name}": tensor.contiguous() for name, tensor in parts.items()}
    save_file(stored, tmp_path / "model.safetensors")
    expected = expected.detach().float().numpy()
    for source in (stored, tmp_path / "model.safetensors"):
        (layer,) = find_layers(source)
        assert (layer.name, layer.reason) == ("fc", "")
        np.testing.assert_allclose(layer.read(), expected, rtol=0, atol=tolerance * np.abs(expected).max())
    largest = 2 * np.log10(np.linalg.norm(expected.astype(float), 2))
    (row,) = ww.analyze(tmp_path / "model.safetensors", randomize=False)
    assert row.log_spectral_norm == pytest.approx(largest, abs=2 * tolerance)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("nested", [False, True], ids=["plain", "nested"])
def test_four_bits_of_bitsandbytes(kind, nested, tmp_path):
    bnb = pytest.importorskip("bitsandbytes")
    layer = bnb.nn.Linear4bit(128, 96, bias=False, quant_type=kind, compress_statistics=nested)
    weight = bnb.nn.Params4bit(WEIGHT.clone(), requires_grad=False, quant_type=kind, compress_statistics=nested)
    layer.weight = weight._quantize("cpu")
    expected = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    check(layer.state_dict(), expected, tmp_path)
    (found,) = find_layers(nn.Sequential(layer))
    assert (found.name, found.kind) == ("0", "Linear4bit")
    np.testing.assert_allclose(found.read(), expected.float().numpy(), atol=1e-6)


def test_eight_bits_of_bitsandbytes(tmp_path):
    bnb = pytest.importorskip("bitsandbytes")
    codes, scale, _ = bnb.functional.int8_vectorwise_quant(WEIGHT.half())
    parts = {"weight": codes, "SCB": scale, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    check(parts, bnb.functional.int8_vectorwise_dequant(codes, scale), tmp_path)


def scales(group, largest):
    return WEIGHT.reshape(96, -1, group).abs().amax(-1) / largest


def powers(group, largest):
    return 2.0 ** torch.ceil(torch.log2(scales(group, largest)))


INT = {"type": "int"}
FLOAT = {"type": "float", "num_bits": 8}
FORMATS = {
    **{
        f"{bits} bits {name}": ("pack-quantized", INT | {"num_bits": bits} | more, scales(group, 2 ** (bits - 1) - 0.5))
        for bits in (2, 4, 8)
        for name, group, more in [
            ("in groups", 32, {"strategy": "group", "group_size": 32}),
            ("in rows", 128, {"strategy": "channel"}),
            ("with zero points", 32, {"strategy": "group", "group_size": 32, "symmetric": False}),
        ]
    },
    "int8": ("int-quantized", INT | {"num_bits": 8, "strategy": "channel"}, scales(128, 127)),
    "fp8 in rows": ("float-quantized", FLOAT | {"strategy": "channel"}, scales(128, 448)),
    "fp8": ("float-quantized", FLOAT | {"strategy": "tensor"}, (WEIGHT.abs().max() / 448).reshape(1)),
    "mxfp8": (
        "mxfp8-quantized",
        FLOAT | {"strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
        powers(32, 448),
    ),
    "mxfp4": (
        "mxfp4-pack-quantized",
        {"type": "float", "num_bits": 4, "strategy": "group", "group_size": 32, "scale_dtype": torch.uint8},
        powers(32, 6),
    ),
    "nvfp4": (
        "nvfp4-pack-quantized",
        {
            **{"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16},
            "scale_dtype": torch.float8_e4m3fn,
        },
        (100 * scales(16, 6)).to(torch.float8_e4m3fn).float(),
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_compressed_tensors(name, tmp_path):
    compressors = pytest.importorskip("compressed_tensors.compressors")
    quantization = pytest.importorskip("compressed_tensors.quantization")
    kind, arguments, scale = FORMATS[name]
    compressor = compressors.BaseCompressor.get_value_from_registry(kind)
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=quantization.QuantizationArgs(**arguments))
    state = {"weight": WEIGHT.clone(), "weight_scale": scale}
    if arguments.get("symmetric") is False:
        half = 2 ** (arguments["num_bits"] - 1)
        state["weight_zero_point"] = torch.randint(-half, half - 1, scale.shape, dtype=torch.int8)
    if name == "nvfp4":
        state["weight_global_scale"] = torch.tensor([100.0])
    stored = compressor.compress(state, scheme)
    expected = compressor.decompress(dict(stored), scheme)["weight"]
    tolerance = 4e-3 if name == "nvfp4" else 1e-6  # the package computes it in bfloat16
    check(stored, expected, tmp_path, tolerance)


def test_mxfp4_experts_of_transformers(tmp_path):
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    blocks = torch.randint(0, 256, (3, 64, 4, 16), dtype=torch.uint8)
    exponents = torch.randint(120, 130, (3, 64, 4), dtype=torch.uint8)
    stored = {"experts.down_proj_blocks": blocks, "experts.down_proj_scales": exponents}
    save_file(stored, tmp_path / "model.safetensors")
    expected = mxfp4.convert_moe_packed_tensors(blocks, exponents, dtype=torch.float32).transpose(1, 2)
    for number, layer in enumerate(find_layers(tmp_path / "model.safetensors")):
        assert layer.name == f"experts.{number}.down_proj"
        np.testing.assert_array_equal(layer.read()[0], expected[number].numpy())


MODES = [("affine", bits, size) for bits in (1, 2, 3, 4, 5, 6, 8) for size in (32, 64, 128)]
MODES += [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]


@pytest.mark.parametrize(("mode", "bits", "size"), MODES, ids=lambda each: str(each))
def test_mlx(mode, bits, size, tmp_path):
    mx = pytest.importorskip("mlx.core")
    parts = mx.quantize(mx.array(WEIGHT.numpy()), group_size=size, bits=bits, mode=mode)
    expected = mx.dequantize(*parts, group_size=size, bits=bits, mode=mode, dtype=mx.float32)
    names = ("fc.weight", "fc.scales", "fc.biases")
    path = tmp_path / "model.safetensors"
    mx.save_safetensors(str(path), dict(zip(names[: len(parts)], parts, strict=True)), {"format": "mlx"})
    config = {"quantization": {"group_size": size, "bits": bits, "mode": mode}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (layer,) = find_layers(path)
    np.testing.assert_array_equal(layer.read(), np.array(expected))


def test_kernels_of_mlx_give_the_results_of_torch(tmp_path):
    mx, mlx_nn = pytest.importorskip("mlx.core"), pytest.importorskip("mlx.nn")
    model = mlx_nn.Sequential(mlx_nn.Conv2d(8, 16, 3), mlx_nn.Conv2d(16, 24, 5))
    arrays = {f"{number}.weight": model.layers[number].weight for number in (0, 1)}
    mx.save_safetensors(str(tmp_path / "mlx.safetensors"), arrays, {"format": "mlx"})
    in_torch = nn.Sequential(nn.Conv2d(8, 16, 3, bias=False), nn.Conv2d(16, 24, 5, bias=False))
    for number in (0, 1):
        kernel = np.array(arrays[f"{number}.weight"]).transpose(0, 3, 1, 2)
        in_torch[number].weight = nn.Parameter(torch.from_numpy(kernel.copy()))
    found = {row.name: row.alpha for row in ww.analyze(tmp_path / "mlx.safetensors")}
    assert found == {row.name: row.alpha for row in ww.analyze(in_torch)}
