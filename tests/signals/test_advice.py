"""Histories and reports, and the sentences that are said of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from histories import falling, history, layer

import ww_callbacks as ww
from ww_callbacks.report import History, LayerReport, Report
from ww_callbacks.signals.advice import NOTHING


def moved(update, learned, since=50):
    """Shares of the largest direction in the last change and since step 0."""
    columns = {"update_sharpness": update, "learned_sharpness": learned}
    return columns | {"update_since": since, "learned_since": 0}


LEVEL = np.full(30, 2.5)
FALLEN = [*falling(30, rate=0.3), *LEVEL]


def after(step, *layers):
    return Report.of(layers, step)


NO_TAIL = {"warning": "no tail", "reliable": False}
STUCK = {"dtype": "bfloat16", "update_unchanged": 0.97, "update_since": 50}
SPARSE = {"role": "embedding", "update_unchanged": 0.99, "update_since": 50}
NORMS = (0.01, 0.01, 0.01, 0.2)
REPORTS = {
    "healthy": (after(100, layer("fc1", 3.0), layer("fc2", 3.0)), [NOTHING]),
    "before training": (
        after(0, layer("fc", 9.0, **NO_TAIL)),
        ["These are the weights before the first step of training: they say nothing about it."],
    ),
    "untrained": (
        after(None, layer("fc1", 9.0, **NO_TAIL), layer("fc2", 9.0, **NO_TAIL)),
        ["fc1 and fc2 look untrained: random signs could give the same spectrum."],
    ),
    "under-trained": (
        after(100, layer("fc", 7.0, warning="under-trained")),
        ["fc (7, 95 %: 6.7 to 7.3) looks under-trained: alpha is above 6."],
    ),
    "over-trained": (
        after(100, layer("fc", 1.5, warning="over-trained")),
        ["fc (1.5, 95 %: 1.2 to 1.8) looks over-trained: alpha is below 2, including its confidence interval."],
    ),
    "large traps": (
        after(100, layer("fc", 3.0, num_traps=2, trap_size=8.0, trap_kind="mean")),
        ["fc (8 times the random edge) has a large correlation trap: a mean of the weights that is not 0."],
    ),
    "small traps": (
        after(100, layer("fc", 3.0, num_traps=1, trap_size=1.5)),
        ["fc (1, 1.5 times the random edge) has small correlation traps. Healthy networks trained"],
    ),
    "rates": (
        after(100, *(layer(f"fc{i}", 3.0, alpha_hill=2.0 + i) for i in range(5))),
        ["Suggested learning-rate multipliers range from 0.5 (fc1) to 1.5 (fc3)."],
    ),
    "failed": (
        after(
            100,
            layer("fc1", 3.0),
            LayerReport(name="fc2", kind="Linear", status="failed", reason="non-finite weights"),
        ),
        ["fc2 (non-finite weights) could not be analysed."],
    ),
    "unchanged": (
        after(100, layer("fc1", 3.0, unchanged_since=40), layer("fc2", 3.0)),
        ["fc1 has not changed since step 40: frozen, unused, without a gradient"],
    ),
    "lost updates": (
        after(100, layer("fc", 3.0, **STUCK), layer("e", 3.0, **SPARSE)),
        ["fc (97 % of its elements unchanged) hardly changes: most elements keep their value"],
    ),
    "one direction": (
        after(100, layer("fc", 3.0, **moved(0.995, 0.995)), layer("fc2", 3.0, **moved(0.995, 0.98))),
        ["fc (99.5 % of the last change) moves in one direction only."],
    ),
    "one direction from a baseline": (
        after(100, layer("fc", 3.0, update_sharpness=0.995), layer("fc2", 3.0, update_sharpness=0.98)),
        ["fc (99.5 % of the last change) moves in one direction only."],
    ),
    "one direction, but so far only once": (
        after(100, layer("fc", 3.0, **moved(0.995, 0.995, since=0))),
        [NOTHING],
    ),
    "two classes have one direction": (
        after(100, layer("fc", 3.0, **moved(1.0, 1.0), M=2)),
        [NOTHING],
    ),
    "too small to have changed as noise does": (
        after(100, layer("fc", 3.0, learned_pvalue=0.4, learned_norm=0.5, learned_since=0, num_evals=10)),
        [NOTHING, "Uncertain: fc has fewer than 50 eigenvalues."],
    ),
    "a fast layer": (
        after(100, *(layer(f"fc{i}", 3.0, update_norm=norm, update_since=0) for i, norm in enumerate(NORMS))),
        ["fc3 (0.2 of its norm, the median of the others is 0.01) moves at least 10 times more than the other layers."],
    ),
    "no fast layer among three": (
        after(100, *(layer(f"fc{i}", 3.0, update_norm=norm) for i, norm in enumerate(NORMS[1:]))),
        [NOTHING],
    ),
    "trained before the run": (
        after(100, layer("fc", 1.5, warning="over-trained", learned_pvalue=0.4, learned_norm=0.01, learned_since=0)),
        ["fc (0.01 of its norm changed, as noise does) looks untrained"],
    ),
    "learned without a tail": (
        after(100, layer("fc", 9.0, **NO_TAIL, learned_pvalue=1e-6, learned_norm=0.01)),
        [NOTHING],
    ),
    "all failed": (
        after(100, LayerReport(name="fc", kind="Linear", status="failed", reason="non-finite weights")),
        ["No layer could be analysed: non-finite weights."],
    ),
    "small and wide": (
        after(100, layer("fc1", 3.0, num_evals=30), layer("fc2", 3.0, alpha_low=1.0, alpha_high=6.0)),
        [
            NOTHING,
            "Uncertain: fc1 has fewer than 50 eigenvalues.",
            "Uncertain: the interval of alpha is wider than alpha itself in fc2.",
        ],
    ),
    "many": (
        after(100, *(layer(f"fc{i}", 9.0, **NO_TAIL) for i in range(5))),
        ["fc0, fc1, fc2 and 2 more layers look untrained"],
    ),
    "empty": (after(None), ["No layer could be analysed: it holds no weights."]),
}

HISTORIES = {
    "none": (History(), ["No results have come in, so there is nothing to say."]),
    "short": (history(alpha=[3.0] * 4), ["These 4 results do not show whether alpha is still falling."]),
    "constant": (history(alpha=[3.0] * 40), [NOTHING]),
    "still falling": (
        history(alpha=list(np.linspace(8, 3, 40))),
        ["The mean alpha was still falling at the end, by 1.3 per doubling of the steps"],
    ),
    "plateau": (
        history(alpha=FALLEN),
        ["fc (alpha 2.5) has an alpha that no longer falls since step 5900: weak evidence"],
    ),
    "traps that last": (
        history(alpha=[3.0] * 40, num_traps=[0] + [1] * 39, trap_size=[1.0] + [9.0] * 39, trap_kind=["rows"] * 40),
        ["fc (9 times the random edge) has a large correlation trap since step 100: single large rows."],
    ),
    "over-trained for long": (
        history(alpha=[1.5] * 40, warning=["over-trained"] * 40),
        ["fc (1.5, 95 %: 1.2 to 1.8) looks over-trained since step 0"],
    ),
}


@pytest.mark.parametrize(("report", "sentences"), REPORTS.values(), ids=REPORTS)
def test_sentences_of_reports(report, sentences):
    check(report.advice(), sentences)


@pytest.mark.parametrize(("run", "sentences"), HISTORIES.values(), ids=HISTORIES)
def test_sentences_of_histories(run, sentences):
    check(run.advice(), sentences)


def check(said, expected):
    assert len(said) == len(expected), said
    for sentence, beginning in zip(said, expected, strict=True):
        assert sentence.startswith(beginning)
        assert sentence.endswith(".")


def test_advice_on_real_weights():
    rng = np.random.default_rng(0)
    report = ww.analyze({"fresh": rng.standard_normal((300, 100)), "shifted": rng.standard_normal((300, 100)) + 1})
    said = report.advice()
    assert any(sentence.startswith("fresh") and "untrained" in sentence for sentence in said)
    assert any(
        sentence.startswith("shifted (") and "a large correlation trap: a mean of" in sentence for sentence in said
    )


def adapter(name: str, used: int, rank: int = 64) -> LayerReport:
    return LayerReport(name=name, kind="LoRA", role="adapter", lora_rank=rank, lora_used=used, norm=1.0)


def test_a_rank_that_is_paid_for_and_not_used_is_told():
    (sentence,) = Report((adapter("q", 9), adapter("k", 33), adapter("v", 64))).advice()
    assert sentence.startswith("q (rank 64 is paid for, 9 directions are used) uses at most half of its rank.")
    (sentence,) = Report(tuple(adapter(name, 1) for name in "abcde")).advice()
    assert sentence.startswith("a (rank 64 is paid for, 1 direction is used), b (")
    assert "and 2 more layers use at most half of their rank." in sentence
    assert Report((adapter("k", 33), adapter("fresh", 0))).advice() == [NOTHING]


def test_adapters_are_not_compared_with_layers_and_not_called_narrow():
    layers = [LayerReport(name=name, kind="Linear", M=60, alpha=3.0, update_norm=0.01) for name in "abcd"]
    moved = replace(adapter("q", 64), M=60, update_norm=1.0, update_sharpness=1.0)
    assert not any("q" in sentence.split() for sentence in Report((*layers, moved)).advice())
