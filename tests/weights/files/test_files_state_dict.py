"""What the tensors of a state dict are taken for: the rules of docs/models.md, held against modules that are built."""

from __future__ import annotations

import numpy as np
import pytest

from ww_callbacks.weights import find_layers
from ww_callbacks.weights.state_dict import layers_of_tensors
from ww_callbacks.weights.tensor import StoredTensor


def inferred(*tensors: tuple[str, tuple[int, ...]]) -> dict[str, str]:
    """Name → matrix shape where analysed, else the reason."""
    stored = [StoredTensor(name, shape, "float32", lambda s=shape: np.zeros(s, "f4")) for name, shape in tensors]
    return {
        layer.name: layer.reason or "×".join(map(str, layer.spec.matrix_shape)) for layer in layers_of_tensors(stored)
    }


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("fc.weight", (10, 64), "1×10×64"),
        ("model.layers.0.self_attn.q_proj.weight", (32, 32), "1×32×32"),
        ("conv.weight", (16, 8, 3, 3), "9×16×8"),
        ("conv.weight", (16, 8, 3), "3×16×8"),
        ("conv.weight", (16, 8, 3, 3, 3), "27×16×8"),
        ("stem.weight", (16, 8, 3), "3×16×8"),
        ("fc.kernel", (64, 10), "1×10×64"),
        ("conv.kernel", (3, 3, 8, 16), "9×16×8"),
        ("conv.kernel", (5, 5, 1, 16), "25×16×1"),
        ("patches.kernel", (64, 64, 3, 16), "4096×16×3"),
        ("embed_tokens.weight", (100, 8), "1×8×100"),
        ("transformer.wte.weight", (100, 8), "1×8×100"),
        ("encoder.word_embeddings.weight", (100, 8), "1×8×100"),
        ("pos_embed", (100, 8), "1×8×100"),
    ],
)
def test_tensors_that_are_matrices(name, shape, expected):
    assert list(inferred((name, shape)).values()) == [expected]


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("bn.weight", (16,), "fewer than two dimensions"),
        ("norm.weight", (16, 8), "normalisation"),
        ("layer_norm.weight", (16, 8), "normalisation"),
        ("ln_1.weight", (16, 8), "normalisation"),
        ("attn.relative_position_bias_table", (49, 4), "a bias"),
        ("fc.bias", (2, 3), "a bias"),
        ("stack.weight", (8, 16, 32), "no rule for a tensor of 3 dimensions in a file without layer classes"),
        ("q.kernel", (65, 2, 8, 16), "no rule for a tensor of 4 dimensions in a file without layer classes"),
        ("attn.kv_einsum.w", (2, 4, 16, 8), "no rule for a tensor of 4 dimensions in a file without layer classes"),
        ("conv.kernel", (5, 5, 1, 3), "one input channel"),
        ("attn.causal_mask", (32, 32), "a table that is not trained"),
        ("rotary.inv_freq", (32, 2), "a table that is not trained"),
        ("pos_encoder.pe", (500, 64), "a table that is not trained"),
        ("mixer.A_log", (64, 16), "the dynamics of a state-space model"),
        ("x.weight", (2, 2, 2, 2, 2, 2), "6 dimensions"),
        ("embed.weight", (50_001, 8), "embedding with 50001 rows, more than 50000"),
        ("fc.lora_A.default.weight", (4, 64), "low-rank adapter"),
        ("fc.parametrizations.weight.original0", (10, 64), "computed weight: the file stores its parts"),
        ("fc.weight_orig", (10, 64), "computed weight: the file stores its parts"),
        ("fc.weight_v", (10, 64), "computed weight: the file stores its parts"),
        ("fc.weight_mask", (10, 64), "computed weight: the file stores its parts"),
    ],
)
def test_tensors_that_are_listed_with_the_reason(name, shape, reason):
    (found,) = inferred((name, shape)).values()
    assert reason in found


def test_the_heads_of_an_attention_are_outputs_of_the_first_projections_and_inputs_of_the_last():
    shapes = {"query": (16, 4, 8), "key": (16, 2, 8), "value": (16, 2, 6), "out": (4, 6, 10)}
    found = inferred(*((f"attention.{part}.kernel", shape) for part, shape in shapes.items()))
    expected = {"query": "1×32×16", "key": "1×16×16", "value": "1×12×16", "out": "1×10×24"}
    assert found == {f"attention.{part}": shape for part, shape in expected.items()}


@pytest.mark.parametrize(
    ("out", "stacked", "reason"),
    [
        ((4, 6, 10), 1, "a kernel of an attention with 4 dimensions"),
        ((3, 6, 10), 0, "a tensor of 3 dimensions"),
        ((4, 7, 10), 0, "a tensor of 3 dimensions"),
    ],
    ids=["layers of a scan", "other heads", "other features"],
)
def test_kernels_that_are_not_those_of_one_attention_are_listed(out, stacked, reason):
    shapes = {"query": (16, 4, 8), "key": (16, 2, 8), "value": (16, 2, 6), "out": out}
    found = inferred(*((f"{part}.kernel", (12,) * stacked + shape) for part, shape in shapes.items()))
    assert all(reason in each for each in found.values())


def test_a_single_input_channel_is_that_of_grey_images_in_the_first_kernel_only():
    first, second = ("conv1.weight", (16, 1, 3, 3)), ("conv2.weight", (32, 1, 3, 3))
    assert inferred(first, second) == {
        "conv1": "9×16×1",
        "conv2": "no matrix: one input channel (depthwise, or grey images)",
    }
    assert "one input channel" in inferred(("rgb.weight", (3, 1, 3, 3)))["rgb"]


@pytest.mark.parametrize(
    ("fused", "down"), [((3, 96, 64), (3, 64, 48)), ((3, 64, 96), (3, 48, 64))], ids=["outputs first", "inputs first"]
)
def test_experts_are_taken_apart_into_their_matrices(fused, down):
    found = inferred(
        ("mlp.experts.gate_up_proj", fused), ("mlp.experts.down_proj", down), ("mlp.router.weight", (3, 64))
    )
    assert found == {
        **{f"mlp.experts.{i}.{part}_proj": "1×48×64" for i in range(3) for part in ("gate", "up")},
        **{f"mlp.experts.{i}.down_proj": "1×64×48" for i in range(3)},
        "mlp.router": "1×3×64",
    }


def test_experts_that_may_be_interleaved_stay_whole():
    found = inferred(
        ("experts.gate_up_proj", (3, 64, 96)),
        ("experts.down_proj", (3, 48, 64)),
        ("experts.gate_up_proj_bias", (3, 96)),
    )
    assert [name for name in found if "gate" in name] == [
        *(f"experts.{i}.gate_up_proj" for i in range(3)),
        "experts.gate_up_proj_bias",
    ]


def test_gates_and_projections_are_taken_apart():
    assert inferred(
        ("rnn.weight_ih_l0", (24, 5)), ("rnn.weight_hh_l0", (24, 6)),
        ("gru.weight_ih_l0_reverse", (18, 5)), ("gru.weight_hh_l0_reverse", (18, 6)),
        ("plain.weight_ih_l0", (6, 5)), ("plain.weight_hh_l0", (6, 6)),
        ("attn.in_proj_weight", (24, 8)), ("attn.out_proj.weight", (8, 8)),
    ) == {
        **{f"rnn.weight_ih_l0.{gate}": "1×6×5" for gate in "ifgo"},
        **{f"rnn.weight_hh_l0.{gate}": "1×6×6" for gate in "ifgo"},
        **{f"gru.weight_ih_l0_reverse.{gate}": "1×6×5" for gate in "rzn"},
        **{f"gru.weight_hh_l0_reverse.{gate}": "1×6×6" for gate in "rzn"},
        "plain.weight_ih_l0": "1×6×5", "plain.weight_hh_l0": "1×6×6",
        **{f"attn.{projection}": "1×8×8" for projection in "qkv"},
        "attn.out_proj": "1×8×8",
    }  # fmt: skip


def test_a_fused_projection_is_never_guessed_from_its_name():
    assert inferred(("block.qkv.weight", (24, 8))) == {"block.qkv": "1×24×8"}
    assert inferred(("h.0.attn.c_attn.weight", (8, 24))) == {"h.0.attn.c_attn": "1×8×24"}


@pytest.mark.parametrize("key", ["h.0.attn.c_attn.weight", "block.qkv.weight"])
def test_a_split_in_a_file_is_along_the_longer_side(tmp_path, key):
    weight = np.random.default_rng(0).standard_normal((8, 24) if "c_attn" in key else (24, 8))
    np.savez(tmp_path / "model.npz", **{key: weight})
    name = key.removesuffix(".weight")
    layers = find_layers(tmp_path / "model.npz", split={name: 3})
    assert [layer.name for layer in layers] == [f"{name}.{part}" for part in range(3)]
    parts = [layer.read() for layer in layers]
    np.testing.assert_array_equal(np.concatenate(parts, axis=weight.shape.index(24)), weight)


def test_a_rule_that_fits_nothing_is_an_error(tmp_path):
    np.savez(tmp_path / "model.npz", fc=np.ones((24, 8)))
    with pytest.raises(ValueError, match=r"split: .*'\*\.qkv'"):
        find_layers(tmp_path / "model.npz", split={"*.qkv": 3})
    with pytest.raises(ValueError, match="split: 'fc' has 24 outputs, which 5 does not divide"):
        find_layers(tmp_path / "model.npz", split={"fc": 5})


def test_every_tensor_of_two_dimensions_makes_at_least_one_layer():
    names = [f"{module}.{parameter}" for module in ("norm", "fc", "embed") for parameter in ("weight", "bias", "x")]
    found = inferred(*((name, (6, 4)) for name in names), ("scale", (3, 3)), ("vector", (3,)))
    assert len(found) == 11
