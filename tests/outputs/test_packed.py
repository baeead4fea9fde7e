"""Reports as bytes: what comes back, how small they are, and data of others."""

import random
import struct
import zlib

import numpy as np
import pytest
from badnames import BAD_NAMES

import ww_callbacks as ww
from ww_callbacks.outputs.packed import Packed, pack
from ww_callbacks.report import SCHEMA, LayerReport, Report


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(0)
    weights = {f"h.{index}.fc": rng.standard_normal((80, 60)) for index in range(3)}
    weights["h.0.fc"][3, 4] = 50  # a trap, with its place
    weights |= {"h.1.bias": np.zeros(60), "h.2.fc2": np.full((60, 60), np.nan)}
    return Report(tuple(ww.analyze(weights)), step=7).recount(None)


def assert_same(values, layer):
    """All columns of a layer, numbers to single precision."""
    for name, column in SCHEMA.items():
        expected, found = getattr(layer, name), values.get(name)
        if column.kind == "number" and expected is not None:
            assert found == pytest.approx(expected, rel=1e-6), name
        else:
            assert found == (expected or None) if column.kind == "text" else found == expected, name


def test_all_columns_and_histograms_come_back(report):
    packed = Packed(pack(report, {"ww/alpha": 2.5, "ww_layer/alpha/000.h.0.fc": 2.0}, 12.5))
    assert (packed.step, packed.wall_time, dict(packed.metrics)) == (7, 12.5, {"ww/alpha": 2.5})
    assert list(packed.names) == report.column("name")
    for index, layer in enumerate(report.layers):
        assert_same(packed.values(index), layer)
        if layer.histogram is not None:
            found = packed.histogram(index)
            assert (found.counts, found.rand_counts) == (layer.histogram.counts, layer.histogram.rand_counts)
            assert (found.low, found.high) == pytest.approx((layer.histogram.low, layer.histogram.high), abs=1e-4)
    assert packed.places(0)[0][0] == (3, 4)
    assert packed.places(1) is None


def test_layers_that_were_not_analysed_at_this_step_keep_their_numbers_out():
    layers = [LayerReport(name=name, kind="Linear", alpha=2.0, step=step) for name, step in (("a", 10), ("b", 20))]
    packed = Packed(pack(Report(tuple(layers), 20), {}, 0.0))
    assert list(packed.rows) == [1]
    assert "alpha" not in packed.values(0)
    assert packed.values(1)["alpha"] == 2.0


@pytest.mark.parametrize("step", [0, 2**24 + 1, 2**53])
def test_any_name_and_any_step_come_back(step):
    layers = tuple(LayerReport(name=name, kind=name, step=step, learned_since=step) for name in BAD_NAMES)
    packed = Packed(pack(Report(layers, step), {}, 0.0))
    assert list(packed.names) == list(BAD_NAMES)
    assert packed.values(0)["learned_since"] == step


def test_a_layer_takes_a_few_hundred_bytes():
    rng = np.random.default_rng(1)
    weights = {f"layers.{index}.weight": rng.standard_normal((100, 60)) for index in range(20)}
    report = Report(tuple(ww.analyze(weights)), step=0)
    assert len(pack(report, {}, 0.0)) / len(report) < 400


def test_bytes_of_others_are_refused_or_read(report):
    rng = random.Random(0)
    good = zlib.decompress(pack(report, {"ww/alpha": 2.5}, 1.0))
    refused = 0
    for _ in range(500):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data) if rng.random() < 0.3 else 2000)] = rng.randrange(256)
        try:
            packed = Packed(zlib.compress(bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])))
            for index in range(len(packed.names)):
                packed.values(index), packed.histogram(index), packed.places(index)
        except ValueError as error:
            assert str(error).startswith("data: ")  # noqa: PT017 - both ends are right
            refused += 1
    assert refused > 300


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 50,
        zlib.compress(b""),
        zlib.compress(struct.pack("<I", 2**31) + b"{}"),
        zlib.compress(b"x" * 100)[:20],
    ],
    ids=["nothing", "zeros", "empty", "lying length", "cut"],
)
def test_what_is_no_packed_report_is_refused(data):
    with pytest.raises(ValueError, match=r"^data: "):
        Packed(data)


def test_a_bomb_is_refused_without_its_memory(monkeypatch):
    monkeypatch.setattr("ww_callbacks.outputs.packed.MAX_BYTES", 10_000)
    with pytest.raises(ValueError, match="more than 10000 bytes"):
        Packed(zlib.compress(b"\0" * 10_000_000))
