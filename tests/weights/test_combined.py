"""Weights stored as several tensors, against formulas that are computed in another way."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import ww_callbacks as ww
from ww_callbacks.weights import find_layers
from ww_callbacks.weights.combined import combine
from ww_callbacks.weights.tensor import StoredTensor

RANDOM = np.random.default_rng(0)


def layers(tensors, tmp_path=None, config=None):
    """The layers of tensors in memory; with a folder those of a file in it, with a configuration beside it."""
    if tmp_path is None:
        return {layer.name: layer for layer in find_layers(tensors)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps({"quantization_config": config}))
    return {layer.name: layer for layer in find_layers(tmp_path / "model.safetensors")}


def only_weight(found):
    ((name, layer),) = found.items()
    assert layer.skip is None, layer.reason
    return name, layer.read()


def packed(numbers, bits):
    """Columns of small numbers as one long number each, cut into words of 32 bits."""
    words = []
    for column in np.asarray(numbers).T:
        long = sum(int(value) << (bits * position) for position, value in enumerate(column))
        words.append([(long >> (32 * word)) & 0xFFFFFFFF for word in range(len(column) * bits // 32)])
    return torch.from_numpy(np.array(words, np.uint32).T.astype(np.int64).astype(np.uint32).view(np.int32).copy())


def gptq(bits, inputs=64, outputs=32, group=16, *, shift=1, order=None):
    codes = RANDOM.integers(0, 2**bits, (inputs, outputs))
    zeros = RANDOM.integers(1, 2**bits, (inputs // group, outputs))
    scales = RANDOM.uniform(0.5, 1, (inputs // group, outputs)).astype(np.float16)
    which = np.arange(inputs) // group if order is None else order
    expected = scales.astype(np.float64)[which] * (codes - zeros[which])
    stored = {
        "fc.qweight": packed(codes, bits),
        "fc.qzeros": packed((zeros - shift).T, bits).T.contiguous(),
        "fc.scales": torch.from_numpy(scales),
        "fc.g_idx": torch.from_numpy(which.astype(np.int32)),
    }
    return stored, expected.T


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
def test_gptq_is_scale_times_code_minus_zero(bits, form, tmp_path):
    order = RANDOM.permutation(np.arange(64) // 16)
    stored, expected = gptq(bits, shift=form == "gptq", order=order)
    name, weight = only_weight(layers(stored, tmp_path, {"quant_method": "gptq", "checkpoint_format": form}))
    assert name == "fc"
    np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_the_older_configuration_of_gptq_is_found(tmp_path):
    stored, expected = gptq(4)
    (tmp_path / "quantize_config.json").write_text('{"bits": 4, "group_size": 16}')
    np.testing.assert_allclose(only_weight(layers(stored, tmp_path))[1], expected, rtol=1e-6)


def test_zero_points_that_may_be_those_of_either_format_are_not_guessed():
    found = layers(gptq(4)[0])
    assert list(found) == ["fc"]
    assert "stored as qweight, qzeros, scales, g_idx" in found["fc"].reason
    assert "gptq or gptq_v2" in found["fc"].reason


@pytest.mark.parametrize("shift", [0, 1])
def test_symmetric_zero_points_tell_the_format(shift):
    stored, _ = gptq(4)
    zeros = np.full((4, 32), 8)
    stored["fc.qzeros"] = packed((zeros - shift).T, 4).T.contiguous()
    stored["fc.qweight"] = packed(np.full((64, 32), 8), 4)
    np.testing.assert_array_equal(only_weight(layers(stored))[1], 0)


def test_awq_interleaves_the_outputs(tmp_path):
    codes, zeros = RANDOM.integers(0, 16, (64, 32)), RANDOM.integers(0, 16, (4, 32))
    scales = RANDOM.uniform(0.5, 1, (4, 32)).astype(np.float16)

    def words(numbers):
        each = numbers.reshape(len(numbers), -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]
        return torch.stack([packed(row.T, 4)[0] for row in each])

    stored = {"fc.qweight": words(codes), "fc.qzeros": words(zeros), "fc.scales": torch.from_numpy(scales)}
    which = np.arange(64) // 16
    expected = (scales.astype(np.float64)[which] * (codes - zeros[which])).T
    for folder in (None, tmp_path):
        np.testing.assert_allclose(only_weight(layers(stored, folder))[1], expected, rtol=1e-6)


@pytest.mark.parametrize("scale", ["weight_scale", "weight_scale_inv", "scale_weight", "weight.scale", "scale"])
@pytest.mark.parametrize(
    ("shape", "spread"),
    [
        ((), lambda scale: scale),
        ((1,), lambda scale: scale),
        ((256,), lambda scale: scale[:, None]),
        ((256, 1), lambda scale: scale),
        ((2, 3), lambda scale: scale.repeat_interleave(128, 0).repeat_interleave(128, 1)[:, :320]),
        ((256, 10), lambda scale: scale.repeat_interleave(32, 1)),
    ],
    ids=["tensor", "one", "rows", "column", "blocks", "groups"],
)
def test_codes_of_eight_bits_are_multiplied_by_their_scales(scale, shape, spread, tmp_path):
    codes, scales = torch.randn(256, 320).to(torch.float8_e4m3fn), torch.rand(shape) + 0.5
    stored = {f"fc.{scale}": scales, "fc.weight": codes, "fc.input_scale": torch.ones(())}
    for folder in (None, tmp_path):
        found = layers(stored, folder)
        np.testing.assert_array_equal(found.pop("fc").read(), (codes.float() * spread(scales)).numpy())


def test_blocks_are_those_of_the_configuration(tmp_path):
    codes, scales = torch.randn(300, 300).to(torch.float8_e4m3fn), torch.rand(3, 3) + 0.5
    stored = {"fc.weight": codes, "fc.weight_scale_inv": scales}
    assert "do not tell the blocks" in layers(stored)["fc"].reason  # 3 · 100 and 128 + 128 + 44 are both possible
    for side in (100, 128):
        found = layers(stored, tmp_path, {"weight_block_size": [side, side]})
        spread = scales.repeat_interleave(side, 0).repeat_interleave(side, 1)[:300, :300]
        np.testing.assert_array_equal(found["fc"].read(), (codes.float() * spread).numpy())


def test_eight_bit_floats_without_scales_are_weights():
    weight = torch.randn(60, 40).to(torch.float8_e4m3fn)
    np.testing.assert_array_equal(layers({"fc.weight": weight})["fc"].read(), weight.float().numpy())


def test_a_scale_that_is_not_finite_fails_the_layer():
    stored = {"fc.weight": torch.ones(60, 40).to(torch.float8_e4m3fn), "fc.weight_scale": torch.tensor(torch.nan)}
    assert ww.analyze(stored)["fc"].reason == "non-finite weights"


def test_each_expert_of_a_stack_is_read_alone(tmp_path):
    blocks = torch.randint(0, 256, (3, 64, 2, 16), dtype=torch.uint8)
    scales = torch.randint(120, 134, (3, 64, 2), dtype=torch.uint8)
    stored = {"experts.gate_up_proj_blocks": blocks, "experts.gate_up_proj_scales": scales}
    values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    table = torch.tensor(values + [-value for value in values])
    both = torch.stack([table[(blocks & 15).long()], table[(blocks >> 4).long()]], -1).reshape(3, 64, 2, 32)
    expected = (both * 2.0 ** (scales.double() - 127)[..., None]).reshape(3, 64, 64)
    found = layers(stored, tmp_path)
    assert list(found) == [f"experts.{number}.gate_up_proj" for number in range(3)]
    for number, layer in enumerate(found.values()):
        np.testing.assert_array_equal(layer.read()[0], expected[number].numpy())


@pytest.mark.parametrize(
    "make",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        weight_norm,
        spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
    ],
    ids=["pruning", "old weight norm", "old spectral norm", "weight norm", "spectral norm"],
)
@pytest.mark.parametrize("layer", [nn.Linear(50, 40), nn.Conv2d(30, 40, 3), nn.ConvTranspose2d(30, 40, 3)], ids=str)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_state_dict_means_what_its_module_means(make, layer, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(make(type(layer)(*_arguments(layer))))
    model.eval()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    (module,) = find_layers(model)
    for source in (model.state_dict(), tmp_path / "model.pt"):
        (stored,) = find_layers(source)
        assert stored.name == module.name == "0"
        np.testing.assert_allclose(stored.read(), module.read(), rtol=1e-5, atol=1e-7)


def _arguments(layer):
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels, 3


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({"W_q": torch.zeros(60, 40, dtype=torch.uint8), "scale": torch.ones(60), "zero": torch.ones(60)}, "not known"),
        ({"weight._data": torch.zeros(60, 40, dtype=torch.int8), "weight._scale": torch.ones(60, 1)}, "not known"),
        ({"codes": torch.zeros(60, 40, 2, dtype=torch.int16), "codebooks": torch.ones(2, 256, 1, 8)}, "not known"),
        ({"weight": torch.zeros(60, 40, dtype=torch.int8), "weight_scale": torch.ones(7)}, "scales of shape"),
        ({"weight": torch.zeros(60, 40, dtype=torch.int8), "SCB": torch.ones(40)}, "SCB of shape"),
        ({"weight": torch.zeros(60, 40, dtype=torch.int8), "weight_scale": torch.ones(60, 1).int()}, "of dtype int32"),
        (
            {"w_blocks": torch.zeros(9, 2, 16, dtype=torch.uint8), "w_scales": torch.zeros(9, 3, dtype=torch.uint8)},
            "do not fit",
        ),
        (
            {
                "weight_packed": torch.zeros(60, 5, dtype=torch.int32),
                "weight_scale": torch.ones(60, 1),
                "weight_shape": torch.tensor([60, 64]),
            },
            "weight_packed of shape",
        ),
        (
            {
                "weight": torch.zeros(1200, 1, dtype=torch.uint8),
                "weight.absmax": torch.ones(3),
                "weight.quant_map": torch.ones(16),
                "weight.quant_state.bitsandbytes__nf4": torch.frombuffer(
                    bytearray(b'{"shape": [60, 40], "blocksize": 64}'), dtype=torch.uint8
                ),
            },
            "absmax of shape",
        ),
    ],
    ids=["HQQ", "quanto", "AQLM", "scale", "SCB", "integer scale", "MXFP4", "packed", "NF4"],
)
def test_what_is_not_known_or_does_not_fit_is_one_skipped_layer(parts, problem, tmp_path):
    stored = {f"model.fc.{name}": tensor for name, tensor in parts.items()} | {"model.fc.bias": torch.ones(60)}
    for folder in (None, tmp_path):
        ((name, layer),) = layers(stored, folder).items()
        assert name == "model.fc"
        assert layer.reason.startswith("quantised weights: stored as ")
        assert problem in layer.reason
        assert [part for part in parts if part not in layer.reason] == []


def test_a_mask_beside_a_scale_is_no_quantised_weight():
    stored = {
        "attn.bias": torch.ones(1, 1, 32, 32, dtype=torch.uint8),
        "attn.scale": torch.ones(8),
        "attn.proj.weight": torch.randn(60, 40),
    }
    reasons = {name: layer.reason for name, layer in layers(stored).items()}
    assert reasons == {"attn.bias": "no matrix: a bias", "attn.proj": ""}


def test_empty_weights_stop_nothing():
    stored = {"fc.weight": torch.zeros(0, 8).to(torch.float8_e4m3fn), "fc.weight_scale": torch.ones(0)}
    assert ww.analyze(stored)["fc"].reason == "empty weights"


class Scaled(nn.Linear):
    """A layer of eight-bit floats, as fp8 models have them in memory."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)
        self.weight = nn.Parameter(self.weight.detach().to(torch.float8_e4m3fn), requires_grad=False)
        self.weight_scale_inv = nn.Parameter(torch.rand(1, 1) + 0.5, requires_grad=False)


class Packed(nn.Module):
    """A layer of GPTQ in memory: buffers only."""

    def __init__(self, stored):
        super().__init__()
        for name, tensor in stored.items():
            self.register_buffer(name.removeprefix("fc."), tensor)


def test_modules_in_memory_are_multiplied_out_too():
    scaled = Scaled(60, 40)
    stored, _ = gptq(4)
    stored["fc.qzeros"] = packed(np.full((4, 32), 7).T, 4).T.contiguous()
    model = nn.ModuleDict({"a": scaled, "b": Packed(stored)})
    first, second = find_layers(model)
    expected = scaled.weight.float() * scaled.weight_scale_inv
    assert (first.name, first.kind, second.name, second.kind) == ("a", "Scaled", "b", "Packed")
    np.testing.assert_array_equal(first.read(), expected.detach().numpy())
    np.testing.assert_array_equal(second.read(), only_weight(layers(stored))[1])
    report = ww.analyze(model)
    assert [layer.status for layer in report] == ["ok", "ok"]


def test_a_monitor_sees_new_scales():
    model = nn.Sequential(Scaled(60, 40))
    with ww.Monitor(model, every_n_steps=1, deterministic=True, executor="thread") as monitor:
        with torch.no_grad():
            model[0].weight_scale_inv *= 2
        monitor.step(1)
    before, after = (report["0"].norm for report in monitor.history)
    assert after == pytest.approx(4 * before, rel=1e-6)  # squared


NAMES = [
    *("weight", "qweight", "qzeros", "scales", "g_idx", "weight_scale", "weight_scale_inv", "SCB", "weight_packed"),
    *("weight_shape", "weight_zero_point", "weight_g_idx", "weight_global_scale", "weight_scale_2", "x_blocks"),
    *("x_scales", "weight.absmax", "weight.quant_map", "weight.quant_state.bitsandbytes__nf4", "weight_orig"),
    *("weight_mask", "weight_g", "weight_v", "weight_u", "parametrizations.weight.original0", "bias"),
    *("parametrizations.weight.original1", "parametrizations.weight.original", "parametrizations.weight.0._u"),
]
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 16, 32, 64]), max_size=4).map(tuple)
DTYPES = st.sampled_from(["float32", "float16", "int8", "uint8", "int32", "int64", "float64", "complex64"])


@st.composite
def groups(draw):
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    return {name: (draw(SHAPES), draw(DTYPES), draw(st.booleans())) for name in names}


@given(groups())
@settings(max_examples=250, deadline=None)
def test_whatever_the_parts_are_nothing_raises_and_no_part_is_lost(group):
    assert_no_part_is_lost(group)


@pytest.mark.slow
@given(groups())
@settings(max_examples=5000, deadline=None)
def test_of_many_more_parts_none_is_lost(group):
    assert_no_part_is_lost(group)


def assert_no_part_is_lost(group):
    def tensor(name, shape, dtype, is_float8):
        array = np.random.default_rng(0).integers(0, 9, shape).astype(dtype)
        return StoredTensor(f"m.{name}", shape, dtype, lambda: array, is_float8=is_float8 and dtype == "float16")

    tensors = [tensor(name, *each) for name, each in group.items()]
    combined = combine(tensors)
    assert len({each.name for each in combined}) <= len(combined) <= len(tensors)
    for each in combined:
        if each not in tensors and each.skip is None:
            assert each.read().shape == each.shape
