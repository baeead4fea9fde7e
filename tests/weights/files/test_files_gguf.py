"""GGUF files written by the package gguf: quantised weights as gguf multiplies them out, and headers that lie."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.analysis import as_matrices
from ww_callbacks.weights import find_layers

gguf = pytest.importorskip("gguf")
Type = gguf.GGMLQuantizationType

STEPS = {"BF16": 1 / 256, "Q8_0": 1 / 254, "Q5_0": 1 / 16, "Q5_1": 1 / 31, "Q4_0": 1 / 8, "Q4_1": 1 / 15}
"""Largest error of a number, as a fraction of the largest number in its block: half the distance between two codes.

The formats with an offset (…_1) spread their codes from the smallest to the largest number, so over at most twice the
largest one. Q4_0 and Q5_0 have one code less on one side, so the error there can be the full distance.
"""
ROUNDING = 2**-9
"""What the rounding of scale and offset to float16 adds."""


def written(path: Path, tensors: dict[str, tuple[np.ndarray, Type | None]], **fields: int) -> Path:
    """A file of gguf: name → numbers, or the bytes of a quantised type."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "bc", ""])
    writer.add_array("tokenizer.ggml.scores", [0.5, 1.0])
    writer.add_float64("some.number", 0.5)
    writer.add_bool("some.flag", True)
    if "alignment" in fields:
        writer.add_custom_alignment(fields["alignment"])
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def trained(shape: tuple[int, int] = (96, 512)) -> np.ndarray:
    """A matrix with a few large directions and others of several scales."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(shape) * np.geomspace(0.01, 1, shape[0])[:, None]
    spikes = rng.standard_normal((shape[0], 3)) @ rng.standard_normal((3, shape[1]))
    return (noise + spikes).astype(np.float32)


def read(path: Path) -> dict[str, np.ndarray]:
    return {layer.name: as_matrices(layer.spec, layer.read())[0] for layer in find_layers(path) if layer.spec}


def refusal(path: Path) -> str:
    with pytest.raises(ww.WeightsFileError) as caught:
        find_layers(path)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value.cause


def has(function, kind: Type) -> bool:
    """Whether gguf implements quantize or dequantize for a type."""
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    try:
        function(np.zeros(size, np.uint8) if function is gguf.dequantize else np.zeros(numbers, np.float32), kind)
    except NotImplementedError:
        return False
    return True


QUANTISED = [kind for kind in Type if kind.name not in ("F16", "F32", "F64", "I8", "I16", "I32", "I64")]
BOTH = [kind for kind in QUANTISED if has(gguf.quantize, kind) and has(gguf.dequantize, kind)]
ONE_WAY = [kind for kind in QUANTISED if not has(gguf.quantize, kind) and has(gguf.dequantize, kind)]
NEITHER = [kind for kind in QUANTISED if not has(gguf.dequantize, kind)]


def test_the_types_of_gguf_are_all_tested():
    assert {*STEPS} <= {kind.name for kind in BOTH}
    assert {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ2_XXS", "IQ4_XS"} <= {kind.name for kind in ONE_WAY}
    assert {"Q8_K"} <= {kind.name for kind in NEITHER}


@pytest.mark.parametrize("kind", BOTH, ids=lambda kind: kind.name)
def test_quantised_weights_are_those_of_gguf_and_near_the_source(tmp_path, kind):
    source = trained()
    packed = gguf.quantize(source, kind)
    path = written(tmp_path / "model.gguf", {"blk.0.attn_q.weight": (packed, kind)})
    expected = gguf.dequantize(packed, kind)
    found = read(path)["blk.0.attn_q"]
    np.testing.assert_array_equal(found, expected)
    (layer,) = ww.analyze(path, randomize=False)
    assert (layer.N, layer.M) == (512, 96)
    assert layer.lambda_max == pytest.approx(float(np.linalg.norm(expected.astype(float), 2)) ** 2, rel=1e-9)
    if kind.name in STEPS:
        blocks = np.abs(source).reshape(-1, gguf.GGML_QUANT_SIZES[kind][0])
        limit = np.abs(blocks).max(1, keepdims=True) * (STEPS[kind.name] + ROUNDING)
        assert np.all(np.abs(found - source).reshape(blocks.shape) <= limit)


@pytest.mark.parametrize("kind", ONE_WAY, ids=lambda kind: kind.name)
def test_quantised_weights_that_gguf_can_only_multiply_out(tmp_path, kind):
    rng = np.random.default_rng(1)
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    packed = rng.integers(0, 256, (70, 3 * size), dtype=np.uint8)
    path = written(tmp_path / "model.gguf", {"blk.0.ffn_up.weight": (packed, kind)})
    with np.errstate(all="ignore"):
        expected = gguf.dequantize(packed, kind)
    np.testing.assert_array_equal(read(path)["blk.0.ffn_up"], expected)
    assert expected.shape == (70, 3 * numbers)


@pytest.mark.parametrize("kind", NEITHER, ids=lambda kind: kind.name)
def test_types_that_gguf_cannot_multiply_out_are_listed(tmp_path, kind):
    packed = np.zeros((4, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8)
    tensors = {"blk.0.ffn_up.weight": (packed, kind), "output.weight": (trained(), None)}
    up, output = find_layers(written(tmp_path / "model.gguf", tensors))
    assert up.reason == f"quantised weights: {kind.name}"
    assert output.spec.shape == (96, 512)


def test_many_chunks_are_joined_in_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr("ww_callbacks.weights.files.gguf._CHUNK", 100)
    packed = gguf.quantize(trained(), Type.Q8_0)
    path = written(tmp_path / "model.gguf", {"output.weight": (packed, Type.Q8_0)})
    np.testing.assert_array_equal(read(path)["output"], gguf.dequantize(packed, Type.Q8_0))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_plain_weights_are_read_as_stored(tmp_path, dtype):
    source = trained().astype(dtype)
    path = written(tmp_path / "model.gguf", {"blk.0.attn_q.weight": (source, None)}, alignment=64)
    (layer,) = find_layers(path)
    assert (layer.spec.dtype, layer.spec.shape) == (dtype, source.shape)
    np.testing.assert_array_equal(layer.read(), source)


def test_names_and_roles_of_a_language_model(tmp_path):
    def plain(*shape):
        return np.ones(shape, np.float32), None

    tensors = {
        "token_embd.weight": plain(100, 64),
        "blk.0.attn_norm.weight": plain(64),
        "blk.0.attn_q.weight": plain(64, 64),
        "blk.0.attn_q.bias": plain(64),
        "blk.0.attn_q_norm.weight": plain(2, 32),
        "blk.0.ffn_norm.weight": plain(64),
        "blk.0.ffn_down.weight": plain(64, 128),
        "blk.0.ffn_gate_exps.weight": plain(4, 128, 64),
        "blk.0.ffn_gate_tid2eid.weight": (np.ones((4, 3), np.int32), None),
        "output_norm.weight": plain(64),
        "output.weight": plain(100, 64),
    }
    layers = find_layers(written(tmp_path / "model.gguf", tensors))
    assert {layer.name: (layer.role, layer.spec.matrix_shape if layer.spec else layer.reason) for layer in layers} == {
        "token_embd": ("embedding", (1, 64, 100)),
        "blk.0.attn_norm": ("vector", "no matrix: fewer than two dimensions"),
        "blk.0.attn_q": ("matrix", (1, 64, 64)),
        "blk.0.attn_q_norm": ("norm", "no matrix: normalisation weights"),
        "blk.0.ffn_norm": ("vector", "no matrix: fewer than two dimensions"),
        "blk.0.ffn_down": ("matrix", (1, 64, 128)),
        **{f"blk.0.ffn_gate_exps.{number}": ("matrix", (1, 128, 64)) for number in range(4)},
        "blk.0.ffn_gate_tid2eid": ("matrix", "unsupported dtype I32"),
        "output_norm": ("vector", "no matrix: fewer than two dimensions"),
        "output": ("matrix", (1, 100, 64)),
    }


def test_the_parts_of_a_model_in_a_folder(tmp_path):
    for i in range(3):
        written(tmp_path / f"tiny-0000{i + 1}-of-00003.gguf", {f"blk.{i}.attn_q.weight": (trained() + i, None)})
    assert list(read(tmp_path)) == ["blk.0.attn_q", "blk.1.attn_q", "blk.2.attn_q"]
    (tmp_path / "tiny-00002-of-00003.gguf").unlink()
    assert "parts are missing" in refusal(tmp_path)


def test_an_ending_does_not_matter(tmp_path):
    written(tmp_path / "model", {"output.weight": (trained(), None)})
    assert list(read(tmp_path / "model")) == ["output"]


def test_without_the_package_the_error_names_the_extra(tmp_path, monkeypatch):
    path = written(tmp_path / "model.gguf", {"output.weight": (trained(), None)})
    monkeypatch.delitem(sys.modules, "ww_callbacks.weights.files.gguf", raising=False)
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    assert refusal(path) == "reading it needs gguf: pip install 'ww_callbacks[gguf]'"


# --- files that lie --------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def info(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def by_hand(
    *tensors: bytes,
    values: tuple[bytes, ...] = (),
    numbers: int = 256,
    counts: tuple[int, int] | None = None,
    version: int = 3,
) -> bytes:
    count, pairs = counts or (len(tensors), len(values))
    header = b"GGUF" + struct.pack("<IQQ", version, count, pairs) + b"".join(values) + b"".join(tensors)
    return header + bytes(-len(header) % 32 + numbers)


GOOD = info("a.weight", (8, 4), 0, 0), info("b.weight", (8, 4), 0, 128)
HUGE = 2**62


def test_the_file_by_hand_is_good(tmp_path):
    (tmp_path / "model.gguf").write_bytes(by_hand(*GOOD, values=(text("k") + struct.pack("<Ib", 7, 1),)))
    assert [layer.spec.shape for layer in find_layers(tmp_path / "model.gguf")] == [(4, 8), (4, 8)]


@pytest.mark.parametrize(
    ("content", "cause"),
    {
        "no more": (b"GGUF", "truncated"),
        "version 1": (by_hand(*GOOD, version=1), "version 1 of GGUF"),
        "big-endian": (by_hand(*GOOD, version=3 << 24), "big-endian"),
        "many tensors": (by_hand(*GOOD, counts=(HUGE, 0)), "claims 4611686018427387904 entries"),
        "many values": (by_hand(*GOOD, counts=(2, HUGE)), "claims 4611686018427387904 entries"),
        "more tensors": (by_hand(*GOOD, counts=(4, 0), numbers=0), "truncated"),
        "long key": (by_hand(values=(struct.pack("<Q", HUGE),)), "a name of 4611686018427387904 bytes"),
        "long string": (by_hand(values=(text("k") + struct.pack("<IQ", 8, HUGE),)), "truncated: its header needs"),
        "long array": (by_hand(values=(text("k") + struct.pack("<IIQ", 9, 12, HUGE),)), "entries in a file of"),
        "long strings": (by_hand(values=(text("k") + struct.pack("<IIQ", 9, 8, HUGE),)), "entries in a file of"),
        "deep arrays": (by_hand(values=(text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9,)), "nested"),
        "unknown value": (by_hand(values=(text("k") + struct.pack("<I", 13),)), "type 13 in the metadata"),
        "alignment 0": (by_hand(values=(text("general.alignment") + struct.pack("<II", 4, 0),)), "alignment of 0"),
        "a name that is no text": (by_hand(info("ab", (8,), 0, 0).replace(b"ab", b"\xff\xff")), "utf-8"),
        "a name twice": (by_hand(GOOD[0], info("a.weight", (8, 4), 0, 128)), "occurs twice"),
        "many dimensions": (by_hand(info("a", (1,) * 5, 0, 0)), "5 dimensions"),
        "large": (by_hand(info("a", (HUGE, HUGE, HUGE, HUGE), 0, 0)), "truncated: tensor 'a' ends at"),
        "negative": (by_hand(info("a", (2**63, 0), 0, 0)), "not a list of sizes"),
        "not whole blocks": (by_hand(info("a", (33, 2), int(Type.Q8_0), 0)), "not whole blocks of 32 Q8_0"),
        "overlap": (by_hand(GOOD[0], info("b.weight", (8, 4), 0, 96)), "'b.weight' overlaps"),
        "overlap with an unknown type": (
            by_hand(GOOD[0], info("c", (8, 4), 99, 128), info("b", (8, 4), 0, 96)),
            "overlaps",
        ),
        "gap": (by_hand(GOOD[0], info("b.weight", (8, 4), 0, 160), numbers=999), "'b.weight' leaves a gap"),
        "unaligned": (by_hand(info("a", (8, 4), 0, 4)), "leaves a gap"),
        "offset beyond the end": (by_hand(info("a", (8, 4), 99, 0), info("b", (8, 4), 0, 2**63)), "truncated"),
        "short": (by_hand(*GOOD, numbers=255), "truncated: tensor 'b.weight' ends at byte 256 of 255"),
    }.values(),
)
def test_headers_that_lie(tmp_path, content, cause):
    (tmp_path / "model.gguf").write_bytes(content)
    assert cause in refusal(tmp_path / "model.gguf")


def test_a_type_of_the_future_is_listed_and_the_others_are_read(tmp_path):
    content = by_hand(info("a.weight", (8, 4), 99, 0), info("b.weight", (8, 4), 0, 64))
    (tmp_path / "model.gguf").write_bytes(content)
    a, b = find_layers(tmp_path / "model.gguf")
    assert "type 99 of GGUF" in a.reason
    assert b.spec.shape == (4, 8)


def test_a_file_that_has_become_shorter(tmp_path):
    path = written(tmp_path / "model.gguf", {"output.weight": (gguf.quantize(trained(), Type.Q8_0), Type.Q8_0)})
    (layer,) = find_layers(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ww.WeightsFileError, match="truncated: it has become shorter"):
        layer.read()


BOMBS = """
import os, resource, struct, sys
import ww_callbacks as ww
from ww_callbacks.weights import find_layers
import ww_callbacks.weights.files.gguf
path = sys.argv[1]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for values in (struct.pack("<QIIQ", 0, 9, 8, 2**36), struct.pack("<QIQ", 0, 8, 2**39)):
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 2**34, 2**34) + values)
    os.truncate(path, 2**40)
    try:
        find_layers(path)
    except ww.WeightsFileError as error:
        print(error.cause)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_sparse_file_that_claims_much_costs_little_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(tmp_path / "model.gguf")],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    *causes, grown = done.stdout.splitlines()
    assert causes == ["a header of more than 67108864 bytes is not read"] * 2
    assert int(grown) < 100
