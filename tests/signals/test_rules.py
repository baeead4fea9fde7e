"""True and false alarms of each rule on histories whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from histories import falling, history, layer
from hypothesis import given, settings
from hypothesis import strategies as st

from ww_callbacks.report import History, Report
from ww_callbacks.signals.rules import FUNCTIONS, RuleOptions, overtrained, plateau, traps

FIVE = RuleOptions(patience=5)


def noise(size, scale=0.02, seed=0):
    return scale * np.random.default_rng(seed).standard_normal(size)


def alphas(*parts):
    values = np.concatenate(parts)
    return list(map(float, values + noise(len(values), 0.005)))


def test_a_fall_that_ends_is_a_plateau_and_the_reason_names_layer_value_interval_step_and_rule():
    ended = history(alpha=alphas(falling(30, rate=0.3), np.full(30, 2.5)))
    finding = plateau(ended, RuleOptions(patience=10))
    assert finding.score == 1
    for word in (
        "plateau:",
        "mean alpha of fc",
        "2.5",
        "at step 5900",
        "by step",
        "results it moved by",
        "95 %: above",
    ):
        assert word in finding.reason


def test_of_a_long_run_some_hundred_reports_are_looked_at():
    class Counting(list):
        seen = 0

        def __getitem__(self, index):
            Counting.seen += 1
            return super().__getitem__(index)

    ended = Counting(history(alpha=alphas(falling(2000, rate=0.005), np.full(3000, 2.5))))
    assert plateau(ended, FIVE).score == 1
    assert Counting.seen < 300


def test_a_fall_that_turns_is_a_plateau():
    turned = history(alpha=alphas(falling(30, rate=0.3), np.linspace(2.5, 3.2, 20)))
    assert plateau(turned, RuleOptions(patience=10)).score == 1


@pytest.mark.parametrize("seed", range(5))
def test_a_fall_that_goes_on_is_no_plateau(seed):
    steady = np.linspace(8, 2.5, 40) + noise(40, seed=seed)
    slower_and_slower = 5 - 0.4 * np.log2(np.arange(1, 41)) + noise(40, seed=seed)
    for values in (steady, slower_and_slower):
        reports = history(alpha=list(values))
        assert all(plateau(reports[:end], RuleOptions(patience=10)).score < 1 for end in range(1, 41))


def test_noise_without_a_fall_is_no_plateau_nor_is_noise_that_hides_the_end_of_one():
    assert plateau(history(alpha=list(3 + noise(60, 0.3))), FIVE).score == 0
    hidden = history(alpha=[*falling(20, rate=0.3), *[2.2, 2.8] * 10])
    assert plateau(hidden, FIVE).score < 1


def test_layers_without_a_reliable_tail_do_not_count_for_a_plateau():
    ended = alphas(falling(30, rate=0.3), np.full(30, 2.5))
    assert plateau(history(alpha=ended, reliable=[False] * 60), FIVE).score == 0


def test_the_score_of_a_plateau_grows_to_one():
    ended = history(alpha=alphas(falling(30, rate=0.4), np.full(30, 2.5)))
    scores = [plateau(ended[:end], RuleOptions(patience=20)).score for end in range(10, 61)]
    assert 0 < scores[0] < scores[15] < 1
    assert scores[-1] == 1


def test_large_traps_that_last_are_an_alarm_and_the_reason_names_them():
    reports = history(alpha=[3.0] * 6, num_traps=[0, 2, 2, 2, 2, 2], ww_softrank=[0.9] * 6, trap_pvalue=[1e-4] * 6)
    assert traps(reports[:5], FIVE).score == pytest.approx(4 / 5)
    finding = traps(reports, FIVE)
    assert finding.score == 1
    for word in ("traps: fc has 2 correlation traps at step 500", "0.9", "p = 0.0001", "last 5 results"):
        assert word in finding.reason


@pytest.mark.parametrize(
    "series",
    [
        {"num_traps": [1] * 8, "ww_softrank": [0.9] * 8},  # the initialisation has it too
        {"num_traps": [0, *[1] * 7], "ww_softrank": [0.2] * 8},  # small ones, as in healthy networks
        {"num_traps": [0] * 8, "ww_softrank": [1.0] * 8},  # no signal yet, but no traps
        {"num_traps": [0, 1, 1, 1, 0, 1, 1, 1], "ww_softrank": [0.9] * 8},  # interrupted
        {"num_traps": [None] * 8, "ww_softrank": [None] * 8},  # randomize=False
        {"num_traps": [0] + [1] * 7, "ww_softrank": [math.nan] * 8},
    ],
)
def test_small_interrupted_or_unknown_traps_are_none(series):
    assert traps(history(alpha=[3.0] * 8, **series), FIVE).score < 1


def test_an_interval_below_two_that_lasts_is_overtrained():
    reports = history(alpha=[2.5, 1.6, 1.6, 1.5, 1.5, 1.5])
    finding = overtrained(reports, FIVE)
    assert finding.score == 1
    for word in ("overtrained: the alpha of fc is 1.5 (95 %: 1.2 to 1.8) at step 500", "last 5 results"):
        assert word in finding.reason


@pytest.mark.parametrize(
    "series",
    [
        {"alpha": [1.9] * 8},  # the interval reaches over 2
        {"alpha": [1.5] * 8, "reliable": [False] * 8},
        {"alpha": [1.5] * 8, "D": [0.2] * 8},
        {"alpha": [1.5] * 8, "num_pl_spikes": [12] * 8},
        {"alpha": [1.5, 1.5, 1.5, 1.5, 2.5, 1.5, 1.5, 1.5]},
        {"alpha": [math.nan] * 8},
    ],
)
def test_wide_unreliable_or_interrupted_levels_are_not_overtrained(series):
    assert overtrained(history(**series), FIVE).score < 1


def test_results_up_to_start_after_and_layers_left_out_support_nothing():
    reports = history(alpha=[1.5] * 8, num_traps=[0] + [1] * 7, ww_softrank=[0.9] * 8, names=("fc", "head"))
    for rule in (traps, overtrained):
        assert rule(reports, RuleOptions(patience=5, start_after=200)).score == 1
        assert rule(reports, RuleOptions(patience=5, start_after=300)).score == pytest.approx(4 / 5)
        assert "head" in rule(reports, RuleOptions(patience=5, layers=["!fc"])).reason
    ended = history(alpha=alphas(falling(30, rate=0.3), np.full(30, 2.5)))
    assert plateau(ended, RuleOptions(patience=10, start_after=5500)).score < 1
    assert plateau(ended, RuleOptions(patience=10, layers=["!fc"])).score == 0


def test_layers_that_vanish_or_appear_end_a_streak_and_fail_nothing():
    found = layer(alpha=1.5, num_traps=1, ww_softrank=0.9)
    gone, other = History(), layer("other", alpha=3.0)
    for step, layers in enumerate([(found, other)] * 4 + [(other,)] + [(found, other)] * 4 + [()]):
        gone.append(Report.of(layers, step))
    for end in range(len(gone) + 1):
        for rule in FUNCTIONS.values():
            assert rule(gone[:end], FIVE).score < 1


def test_a_result_repeated_by_a_rotation_counts_once():
    reports = History()
    for step in range(5, 15):
        seen = step - step % 5  # the layer is looked at in every fifth snapshot
        reports.append(Report.of([layer(alpha=1.5, step=seen, num_traps=1, ww_softrank=0.9)], step))
    assert traps(reports, FIVE).score == pytest.approx(2 / 5)


@given(
    level=st.floats(1.1, 20),
    size=st.integers(1, 60),
    patience=st.integers(1, 30),
    min_delta=st.sampled_from([0.0, 0.05, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_a_constant_history_never_stops_by_trend(level, size, patience, min_delta):
    reports = history(alpha=[level] * size)
    assert plateau(reports, RuleOptions(patience=patience, min_delta=min_delta)).score == 0


@given(
    values=st.lists(
        st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True), st.floats(1, 10)), min_size=1, max_size=30
    ),
    patience=st.integers(1, 12),
)
@settings(max_examples=100, deadline=None)
def test_whatever_the_numbers_scores_lie_between_0_and_1_and_have_a_reason(values, patience):
    reports = history(
        alpha=[3.0] * len(values), alpha_high=values, D=values, ww_softrank=values, num_traps=[1] * len(values)
    )
    odd = history(alpha=values, alpha_low=values, alpha_high=values, reliable=[True] * len(values))
    for judged in (reports, odd):
        for rule in FUNCTIONS.values():
            finding = rule(judged, RuleOptions(patience=patience))
            assert 0 <= finding.score <= 1
            assert bool(finding.reason) == (finding.score > 0)
