"""Files of MLX: quantised weights against formulas computed in another way, and kernels with the inputs last."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from ww_callbacks.weights import find_layers

RANDOM = np.random.default_rng(0)
ROWS, INPUTS = 12, 256


def layers(folder, tensors, config=None, metadata=None):
    stored = {name: np.ascontiguousarray(each) for name, each in tensors.items()}
    save_file(stored, folder / "model.safetensors", metadata)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return {layer.name: layer for layer in find_layers(folder / "model.safetensors")}


def words(codes, bits):
    """Each row as one long number, cut into words of 32 bits."""
    rows = [sum(int(code) << (bits * place) for place, code in enumerate(row)) for row in codes]
    count = codes.shape[1] * bits // 32
    return np.array([[(row >> (32 * word)) & 0xFFFFFFFF for word in range(count)] for row in rows], np.uint32)


def affine(bits, size):
    codes = RANDOM.integers(0, 2**bits, (ROWS, INPUTS))
    scales, biases = RANDOM.standard_normal((2, ROWS, INPUTS // size)).astype(np.float16)
    expected = codes * np.repeat(scales.astype(float), size, 1) + np.repeat(biases.astype(float), size, 1)
    return {"fc.weight": words(codes, bits), "fc.scales": scales, "fc.biases": biases}, expected


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("size", [32, 64, 128])
def test_affine(bits, size, tmp_path):
    stored, expected = affine(bits, size)
    found = layers(tmp_path, stored, {"quantization": {"bits": bits, "group_size": size}})
    assert list(found) == ["fc"]
    np.testing.assert_allclose(found["fc"].read(), expected, rtol=1e-6, atol=1e-6)


def test_without_a_configuration_only_unambiguous_shapes_are_read(tmp_path):
    stored, expected = affine(5, 64)
    np.testing.assert_allclose(layers(tmp_path, stored)["fc"].read(), expected, rtol=1e-6, atol=1e-6)
    found = layers(tmp_path, affine(4, 64)[0])
    assert list(found) == ["fc"]
    assert "stored as weight, " in found["fc"].reason
    assert found["fc"].reason.endswith("no config.json beside the file states the group_size and the bits that fit")


def test_a_module_may_have_its_own_configuration(tmp_path):
    stored, expected = affine(2, 128)
    config = {"quantization": {"bits": 4, "group_size": 64, "fc": {"bits": 2, "group_size": 128}}}
    np.testing.assert_allclose(layers(tmp_path, stored, config)["fc"].read(), expected, rtol=1e-6, atol=1e-6)


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def e4m3(codes):
    """Values of codes that are no NaN: 1 sign, 4 exponent and 3 fraction bits."""
    exponent, fraction = (codes >> 3) & 15, (codes & 7) / 8
    size = np.where(exponent == 0, fraction * 2.0**-6, (1 + fraction) * 2.0 ** (exponent - 7.0))
    return np.where(codes & 128, -size, size)


@pytest.mark.parametrize(("mode", "bits", "size"), [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)])
@pytest.mark.parametrize("is_stated", [True, False])
def test_modes_of_floating_point_codes(mode, bits, size, is_stated, tmp_path):
    codes = RANDOM.integers(0, 2**bits, (ROWS, INPUTS))
    codes = np.where(codes & 127 == 127, 0, codes)  # NaN in eight bits
    scales = RANDOM.integers(100, 125, (ROWS, INPUTS // size)).astype(np.uint8)
    values = e4m3(codes) if bits == 8 else E2M1[codes & 7] * np.where(codes & 8, -1, 1)
    factors = e4m3(scales) if mode == "nvfp4" else 2.0 ** (scales.astype(int) - 127)
    config = {"quantization": {"mode": mode, "bits": bits, "group_size": size}} if is_stated else None
    found = layers(tmp_path, {"fc.weight": words(codes, bits), "fc.scales": scales}, config)
    np.testing.assert_array_equal(found["fc"].read(), (values * np.repeat(factors, size, 1)).astype(np.float32))


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"fc.biases": np.ones((ROWS, 2), np.float16)}, "biases of shape (12, 2)"),
        ({"fc.scales": np.ones((ROWS, 3), np.float16), "fc.biases": np.ones((ROWS, 3), np.float16)}, "do not fit"),
        ({"fc.scales": np.ones((ROWS, 0), np.float16)}, "do not fit"),
        ({"fc.scales": np.ones((ROWS, 4), np.int32)}, "fc.scales of dtype int32"),
        ({"fc.global_scale": np.ones(1, np.float32)}, "global_scale, which is not read"),
    ],
)
def test_parts_that_do_not_fit_are_one_skipped_layer(change, cause, tmp_path):
    found = layers(tmp_path, affine(4, 64)[0] | change, {"quantization": {"bits": 4, "group_size": 64}})
    assert list(found) == ["fc"]
    assert cause in found["fc"].reason


@pytest.mark.parametrize("config", [{"bits": 4, "group_size": 32}, {"bits": "4", "group_size": [64]}, {"bits": 4}])
def test_a_configuration_that_does_not_fit(config, tmp_path):
    found = layers(tmp_path, affine(4, 64)[0], {"quantization": config})
    assert found["fc"].skip is not None
    assert found["fc"].skip.reason == "quantized"


def test_experts_are_read_one_by_one(tmp_path):
    each = [affine(4, 64) for _ in range(3)]
    stored = {name.replace("fc", "mlp.switch_mlp.up_proj"): [] for name in each[0][0]}
    for parts, _ in each:
        for name, part in parts.items():
            stored[name.replace("fc", "mlp.switch_mlp.up_proj")].append(part)
    stacked = {name: np.stack(parts) for name, parts in stored.items()}
    found = layers(tmp_path, stacked, {"quantization": {"bits": 4, "group_size": 64}})
    assert list(found) == [f"mlp.switch_mlp.up_proj.{number}" for number in range(3)]
    for layer, (_, expected) in zip(found.values(), each, strict=True):
        np.testing.assert_allclose(layer.read()[0], expected, rtol=1e-6, atol=1e-6)


KERNELS = {
    "conv.weight": RANDOM.standard_normal((16, 5, 5, 8)).astype(np.float32),
    "conv1.weight": RANDOM.standard_normal((6, 3, 4)).astype(np.float32),
    "fc.weight": RANDOM.standard_normal((9, 7)).astype(np.float32),
}


def test_kernels_of_a_file_that_names_mlx_have_the_inputs_last(tmp_path):
    found = layers(tmp_path, KERNELS, metadata={"format": "mlx"})
    assert {name: layer.skip for name, layer in found.items()} == dict.fromkeys(("conv", "conv1", "fc"))
    conv, fc = found["conv"], found["fc"]
    assert (conv.spec.shape, conv.spec.axes.inputs, conv.spec.axes.outputs) == ((16, 8, 5, 5), (1,), (0,))
    np.testing.assert_array_equal(conv.read(), KERNELS["conv.weight"].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(found["conv1"].read(), KERNELS["conv1.weight"].transpose(0, 2, 1))
    np.testing.assert_array_equal(fc.read(), KERNELS["fc.weight"])


def test_kernels_that_look_like_mlx_are_skipped_without_that_name(tmp_path):
    found = layers(tmp_path, KERNELS)
    assert {name for name, layer in found.items() if layer.skip is None} == {"fc"}
    assert "in the order of torch or of MLX" in found["conv"].reason
    in_torch = {"conv.weight": np.zeros((16, 8, 5, 5), np.float32), "wide.weight": np.zeros((9, 3, 3, 8), np.float32)}
    assert all(layer.skip is None for layer in layers(tmp_path, in_torch).values())
