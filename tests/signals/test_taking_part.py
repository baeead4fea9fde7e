"""Which layers take part in layer-wise learning rates, and what is said about it."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.report import LayerReport, Report
from ww_callbacks.signals.learning_rate import LayerRatios
from ww_callbacks.signals.taking_part import WORDS, announce, left_out, line


def layer(name, **columns):
    given = {"kind": "Linear", "role": "matrix", "N": 900, "num_evals": 900, "alpha_hill": 2.0, "alpha_farms": 2.0}
    return LayerReport(**{"name": name} | given | columns)


NETWORK = (
    layer("wte", role="embedding", N=None, num_evals=None, alpha_hill=None, skip_reason="too_many_rows"),
    layer("h.0.q"),
    layer("h.0.lora", role="adapter"),
    layer("h.0.small", num_evals=49),
    layer("h.0.same", alpha_hill=None, alpha_farms=None),
    layer("h.0.norm", role="norm", N=None, num_evals=None, alpha_hill=None, skip_reason="no_matrix"),
    layer("h.1.q", alpha_farms=4.0),
    layer("h.1.packed", N=None, num_evals=None, alpha_hill=None, skip_reason="quantized"),
    layer("h.1.later", N=None, num_evals=None, alpha_hill=None, skip_reason="waiting"),
    layer("h.2.q"),
    layer("head", N=None, num_evals=None, alpha_hill=None, skip_reason="tied"),
)
REASONS = (
    *("embedding", None, "adapter", "few_eigenvalues", "no_alpha", "no_matrix", None, "not_analysed", "waiting"),
    *(None, "last"),
)


def test_each_reason():
    assert tuple(left_out(NETWORK)) == REASONS
    assert left_out(NETWORK[1:])[0] == "first"
    assert left_out([replace(each, alpha_hill=float("nan")) for each in NETWORK])[1] == "no_alpha"


def test_patterns_exclude_and_select():
    excluded = left_out(NETWORK, ["!h.1.*"])
    assert [i for i, reason in enumerate(excluded) if reason == "excluded"] == [6, 7, 8]
    assert excluded[1] is excluded[9] is None
    asked = left_out(NETWORK[1:], ["h.0.*", "head"])
    assert asked[0] is None  # the first layer, because somebody asks for it
    assert asked[-1] == "not_analysed"
    assert asked[5] == "excluded"


def test_the_layers_that_take_part_are_those_whose_ratio_moves():
    verdict = LayerRatios(layers=["!h.2.*"]).verdict(Report(NETWORK, 10))
    members = [name for name, reason in zip(verdict["layers"], verdict["left_out"], strict=True) if reason is None]
    assert members == ["h.0.q", "h.1.q"]
    moved = [name for name, ratio in zip(verdict["layers"], verdict["ratios"], strict=True) if ratio != 1]
    assert moved == members
    assert verdict["num_compared"] == 2


def test_one_line_with_counts_and_a_few_names():
    many = [*NETWORK[:3], *(layer(f"tiny{i}", num_evals=3) for i in range(9)), NETWORK[-1]]
    assert line("weight_decay", [each.name for each in many], left_out(many)) == (
        "weight-decay ratios: 1 layer takes part (h.0.q), 12 keep 1: embedding (wte), low-rank adapter (h.0.lora), "
        "fewer than 50 eigenvalues (9: tiny0, tiny1, tiny2, …), last layer (head)"
    )
    assert line("learning_rate", ["a", "b"], [None, None]) == "learning-rate ratios: 2 layers take part (a, b)"
    nobody = line("learning_rate", ["a"], ["first"])
    assert nobody == "learning-rate ratios: 0 layers take part, 1 keeps 1: first layer (a)"


def test_every_reason_has_words():
    assert all(WORDS[reason] in line("learning_rate", ["x"], [reason]) for reason in WORDS if reason != "no_matrix")


def heard(caplog, report, **options):
    signal = LayerRatios(**options)
    with caplog.at_level(logging.INFO, "ww_callbacks"):
        said = announce(signal.quantity, signal.verdict(report))
    return said, [record.getMessage() for record in caplog.records]


def test_it_is_said_and_nothing_is_warned_of_where_ratios_can_change(caplog):
    said, lines = heard(caplog, Report(NETWORK, 10))
    assert said
    [text] = lines
    assert text.startswith("learning-rate ratios: 3 layers take part (h.0.q, h.1.q, h.2.q), 7 keep 1: embedding (wte)")


def test_a_net_of_three_layers_is_warned_of(caplog):
    layers = tuple(map(layer, ("in", "middle", "out")))
    with pytest.warns(RuntimeWarning, match=r"no ratio can change.*1 layer takes part \(middle\).*first layer \(in\)"):
        assert heard(caplog, Report(layers, 0))[0]


def test_one_block_is_warned_of_and_layers_that_wait_may_still_come(caplog):
    block = tuple(map(layer, ("in", "h.0.q", "h.0.k", "out")))
    with pytest.warns(RuntimeWarning, match="fewer than two layers or blocks"):
        heard(caplog, Report(block, 5), blocks=True)
    assert heard(caplog, Report(block, 5))[0]
    assert heard(caplog, Report((block[0], block[1], NETWORK[8], block[3]), 5))[0]


def test_it_waits_for_alphas_that_can_be_compared(caplog):
    layers = [layer(name, alpha_farms=None, Q=q) for name, q in zip("abcd", (1.0, 1.0, 4.0, 1.0), strict=True)]
    assert heard(caplog, Report(tuple(layers), 0)) == (False, [])
    assert announce("learning_rate", {}) is False


def test_a_monitor_computes_what_the_ratios_need_from_when_they_are_attached():
    rng = np.random.default_rng(0)
    shapes = [(60, 60), (60, 60), (240, 60), (60, 60)]
    weights = {f"h.{i}": rng.standard_normal(shape) for i, shape in enumerate(shapes)}
    with ww.Monitor(weights, every_n_steps=5, executor="sync", randomize=False) as monitor:
        monitor.attach("lr_ratio", LayerRatios())
        weights["h.1"] *= np.geomspace(1, 300, 60)
        for step in range(1, 6):
            for array in weights.values():
                array *= 1.01
            monitor.step(step)
    before, after = monitor.history[0], monitor.history[1]
    assert [each.alpha_farms for each in before] == [None] * 4
    assert all(each.alpha_farms for each in after)
    ratios = monitor.lr_ratios()
    assert ratios["h.1"] < 0.7 < 1.1 < ratios["h.2"]
    published = ww.Monitor(weights, every_n_steps=5, executor="sync", randomize=False)
    published.attach("lr_ratio", LayerRatios(shrink=False))
    with published:
        published.step(1)
    assert published.history[0]["h.1"].alpha_farms is None
