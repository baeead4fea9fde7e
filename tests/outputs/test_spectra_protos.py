"""Verdicts and recorded metrics as bytes, and bytes of others."""

import json
import zlib

import pytest

from ww_callbacks.outputs.output import Signals
from ww_callbacks.outputs.spectra_protos import pack_signals, unpack_signals


def test_verdicts_and_recorded_metrics_come_back():
    signals = Signals(
        10,
        {"stop": {"stop": False, "scores": {"traps": 0.5}}},
        {"val_loss": [(7, 0.6), (8, 0.5)], "other": [(None, 1.0)]},
    )
    assert unpack_signals(pack_signals(signals), 10) == signals


def test_values_that_are_not_plain_become_text():
    packed = pack_signals(Signals(0, {"mine": {"value": {1, 2}.__class__}}, {}))
    assert unpack_signals(packed, 0).verdicts["mine"]["value"] == "<class 'set'>"


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        {"verdicts": 3, "recorded": {}},
        {"verdicts": {"stop": 3}, "recorded": {}},
        {"verdicts": {"learning_rate": {"ratios": ["a"]}}, "recorded": {}},
        {"verdicts": {}, "recorded": {"val_loss": 3}},
        {"verdicts": {}, "recorded": {"val_loss": [3]}},
        {"verdicts": {}, "recorded": {"val_loss": [["soon", 1.0]]}},
        {"verdicts": {}, "recorded": {"val_loss": [[1, "a"]]}},
    ],
)
def test_values_of_a_wrong_type_are_refused(values):
    with pytest.raises(ValueError, match=r"^data: not those of signals: "):
        unpack_signals(zlib.compress(json.dumps(values).encode()), 0)


@pytest.mark.parametrize("data", [b"", b"x", zlib.compress(b"[" * 100_000), zlib.compress(b"\xff")])
def test_what_are_no_signals_is_refused(data):
    with pytest.raises(ValueError, match=r"^data: not those of signals: "):
        unpack_signals(data, 0)
