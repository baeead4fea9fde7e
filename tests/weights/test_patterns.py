from dataclasses import replace

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.patterns import matching
from ww_callbacks.weights import find_layers, select_layers

NAMES = ["encoder.0.fc", "encoder.1.fc", "encoder.1.norm", "decoder.fc", "Head"]


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        (["*"], NAMES),
        (["Head"], ["Head"]),
        (["encoder.*"], NAMES[:3]),
        (["*fc"], ["encoder.0.fc", "encoder.1.fc", "decoder.fc"]),
        (["encoder.?.fc"], NAMES[:2]),
        (["encoder.[1-9]*"], NAMES[1:3]),
        (["encoder.*", "Head"], [*NAMES[:3], "Head"]),
        (["!Head"], NAMES[:4]),
        (["!encoder.*", "!Head"], ["decoder.fc"]),
        (["encoder.*", "!*.norm"], NAMES[:2]),
        (["!*.norm", "encoder.*"], NAMES[:2]),
        (["encoder.*", "!encoder.*"], []),
    ],
)
def test_patterns_keep_what_the_shell_would_and_leave_out_what_stands_behind_an_exclamation_mark(patterns, kept):
    assert matching(NAMES, patterns, "layers") == set(kept)


@pytest.mark.parametrize("pattern", ["head", "encoder", "fc", "!head", "encoder.2.*", "! Head"])
def test_a_pattern_that_matches_nothing_is_an_error_that_names_argument_pattern_and_layers(pattern):
    with pytest.raises(ValueError, match="matches no layer") as caught:
        matching(NAMES, ["*", pattern], "log_every_layer")
    message = str(caught.value)
    assert message.startswith("log_every_layer: ")
    assert repr(pattern) in message
    assert all(name in message for name in NAMES)


def weights():
    rng = np.random.default_rng(0)
    return {"a": rng.standard_normal((60, 40)), "b": rng.standard_normal((60, 40)), "bias": np.ones(60)}


def test_layers_left_out_stay_listed_in_model_order_with_the_reason():
    chosen = select_layers(find_layers(weights()), ["b"])
    assert [layer.name for layer in chosen] == ["a", "b", "bias"]
    assert [layer.spec is None for layer in chosen] == [True, False, True]
    assert chosen[0].read is None
    assert chosen[0].reason == "excluded by layers="


def test_an_excluded_layer_on_a_device_is_not_copied():
    layers = [
        replace(layer, send=layer.read) for layer in find_layers({"a": np.ones((80, 60)), "b": np.ones((70, 60))})
    ]
    excluded, kept = select_layers(layers, ["b"])
    assert excluded.source is None
    assert kept.source is layers[1].send


def test_without_patterns_every_layer_stays_as_it_is():
    layers = find_layers(weights())
    assert select_layers(layers, None) == layers


def test_a_kept_layer_that_cannot_be_analysed_keeps_its_own_reason():
    chosen = select_layers(find_layers(weights()), ["bias"])
    assert "fewer than two dimensions" in chosen[2].reason


def test_analyze_reports_layers_left_out_as_skipped():
    report = ww.analyze(weights(), layers=["!b"])
    assert [(layer.name, layer.status) for layer in report] == [("a", "ok"), ("b", "skipped"), ("bias", "skipped")]
    assert report["b"].reason == "excluded by layers="


def test_analyze_refuses_a_misspelt_pattern():
    with pytest.raises(ValueError, match=r"layers: 'c\*' matches no layer; the layers are \['a', 'b', 'bias'\]"):
        ww.analyze(weights(), layers=["c*"])
