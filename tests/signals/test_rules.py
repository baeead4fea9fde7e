"""True and false alarms of each rule on histories whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from histories import history, layer
from hypothesis import given, settings
from hypothesis import strategies as st

from ww_callbacks.report import History, Report
from ww_callbacks.signals.rules import FUNCTIONS, LOOKS_PER_DOUBLING, RuleOptions, overtrained, plateau, traps

FIVE = RuleOptions(patience=5)


def noise(size, scale=0.02, seed=0):
    return scale * np.random.default_rng(seed).standard_normal(size)


def ended(size=60, bend=8, noise_scale=0.005, seed=0):
    """Alphas that fall by 0.5 per doubling of the steps up to a bend, and then no longer."""
    at = np.log2(np.arange(1, size + 1))
    return list(2.5 + 0.5 * np.maximum(math.log2(bend) - at, 0) + noise(size, noise_scale, seed))


def stops_at(reports, options=FIVE, rule=plateau):
    """Step of the first report at which a rule is sure; None if it never is."""
    return next(
        (reports[end - 1].step for end in range(1, len(reports) + 1) if is_sure(reports[:end], options, rule)), None
    )


def is_sure(reports, options, rule):
    return rule(reports, options).score >= 1


def test_a_fall_that_ends_is_a_plateau_and_the_reason_names_layer_value_interval_step_and_rule():
    score = plateau(history(alpha=ended(), first=100), RuleOptions(patience=10))
    assert score.score == 1
    for word in ("plateau:", "mean alpha of fc", "2.5", "at step", "by step", "it moved by", "99.5 %: above"):
        assert word in score.reason


def test_of_a_long_run_some_hundred_reports_are_looked_at():
    class Counting(list):
        seen = 0

        def __getitem__(self, index):
            found = super().__getitem__(index)
            if isinstance(index, slice):
                return Counting(found)
            Counting.seen += 1
            return found

    reports = Counting(history(alpha=ended(5000, 300), first=100))
    assert plateau(reports, FIVE).score == 1
    assert Counting.seen < 300


def test_a_fall_that_turns_is_a_plateau():
    turned = [*ended(20), *np.linspace(2.5, 3.2, 40)]
    assert stops_at(history(alpha=turned, first=100), RuleOptions(patience=10)) is not None


@pytest.mark.parametrize("rho", [0.0, 0.8])
@pytest.mark.parametrize(("fall", "scale"), [(0.05, 0.02), (0.1, 0.02), (0.3, 0.1), (0.0, 0.05)])
def test_a_fall_that_goes_on_and_noise_are_no_plateau(fall, scale, rho):
    rng = np.random.default_rng(7)
    at = np.log2(np.arange(1, 91))
    for _ in range(5):
        lasting = rng.standard_normal(90)
        for i in range(1, 90):
            lasting[i] = rho * lasting[i - 1] + math.sqrt(1 - rho * rho) * lasting[i]
        assert stops_at(history(alpha=list(6 - fall * at + scale * lasting), first=100)) is None


def test_noise_that_hides_the_end_of_a_fall_is_no_plateau():
    hidden = history(alpha=[*ended(20), *[2.2, 2.8] * 10], first=100)
    assert plateau(hidden, FIVE).score < 1


def test_the_decision_hardly_depends_on_the_number_of_steps_between_results():
    rng = np.random.default_rng(2)
    steps = np.arange(10, 9610, 10)
    lasting = rng.standard_normal(len(steps))
    for i in range(1, len(steps)):
        lasting[i] = 0.9 * lasting[i - 1] + math.sqrt(1 - 0.81) * lasting[i]
    alphas = 2.5 + 0.5 * np.maximum(math.log2(1000) - np.log2(steps), 0) + 0.01 * lasting
    found = []
    for gap in (1, 2, 4, 8, 16):  # a result every 10 to 160 steps
        run = History(
            Report.of([layer(alpha=float(alpha), step=int(step))], int(step))
            for alpha, step in zip(alphas[gap - 1 :: gap], steps[gap - 1 :: gap], strict=True)
        )
        found.append(stops_at(run))
    decisions = [math.floor(LOOKS_PER_DOUBLING * math.log2(step)) for step in found]
    assert max(decisions) - min(decisions) <= 1


def test_between_two_decisions_nothing_changes():
    reports = history(alpha=ended(60), first=100)
    scores = [plateau(reports[:end], FIVE).score for end in range(46, 61)]
    assert len(set(scores)) == 1  # steps 4,600 to 6,000; the decisions are at 4,096 and 5,793
    assert plateau(reports[:40], FIVE).score != 0


def test_the_smoother_series_is_used_where_there_is_one():
    jumps = [value + 0.8 * (i % 3 == 0) for i, value in enumerate(ended())]
    assert stops_at(history(alpha=jumps, first=100)) is None
    assert stops_at(history(alpha=jumps, alpha_stable=ended(), first=100)) is not None


def test_layers_without_a_reliable_tail_do_not_count_for_a_plateau():
    assert plateau(history(alpha=ended(), reliable=[False] * 60, first=100), FIVE).score == 0


def test_the_score_of_a_plateau_grows_to_one():
    reports = history(alpha=ended(90, 12), first=100)
    scores = [plateau(reports[:end], FIVE).score for end in (23, 32, 90)]
    assert 0 < scores[0] < scores[1] < scores[2] == 1


SIZES = {"trap_size": [1.0, *[7.0] * 7]}


def test_large_traps_that_last_are_an_alarm_and_the_reason_names_them():
    reports = history(
        alpha=[3.0] * 6, num_traps=[0, 2, 2, 2, 2, 2], trap_size=[1.0, *[7.0] * 5], trap_kind=["rows"] * 6
    )
    assert traps(reports[:5], FIVE).score == pytest.approx(4 / 5)
    score = traps(reports, FIVE)
    assert score.score == 1
    for word in ("traps: fc has 2 correlation traps at step 500", "rows", "7 times the random edge", "last 5 results"):
        assert word in score.reason


@pytest.mark.parametrize(
    "series",
    [
        {"num_traps": [1] * 8, "trap_size": [7.0] * 8},  # the initialisation has it too
        {"num_traps": [1, *[2] * 7], "trap_size": [6.0, *[9.0] * 7]},  # and training hardly made it larger
        {"num_traps": [0, *[1] * 7], "trap_size": [1.0, *[2.2] * 7]},  # small ones, as in healthy networks
        {"num_traps": [0, *[1] * 7], **SIZES, "trap_kind": ["mean"] * 8},  # as in healthy recurrent networks
        {"num_traps": [0, *[1] * 7], **SIZES, "trap_kind": ["kurtosis"] * 8},
        {"num_traps": [0] * 8, **SIZES},  # explained by uneven weights
        {"num_traps": [0, *[1] * 7], **SIZES, "unchanged_since": [0] * 8},  # weights that do not move
        {"num_traps": [0, 1, 1, 1, 0, 1, 1, 1], **SIZES},  # interrupted
        {"num_traps": [None] * 8, "trap_size": [None] * 8},  # randomize=False
        {"num_traps": [0] + [1] * 7, "trap_size": [math.nan] * 8},
    ],
)
def test_traps_that_are_small_interrupted_unknown_or_not_of_training_are_none(series):
    assert traps(history(alpha=[3.0] * 8, **series), FIVE).score < 1


def test_what_the_first_result_of_a_resumed_run_shows_does_not_count():
    resumed = history(first=5000, alpha=[3.0] * 8, num_traps=[1] * 8, trap_size=[7.0] * 8)
    assert traps(resumed, FIVE).score == 0


def test_traps_have_to_last_for_a_fifth_of_the_steps():
    def run(first):
        return history(every=1, first=first, alpha=[3.0] * 30, num_traps=[0, *[1] * 29], trap_size=[1.0, *[7.0] * 29])

    assert traps(run(0), FIVE).score == 1
    assert traps(run(1000), FIVE).score < 0.2


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
    reports = history(alpha=[1.5] * 8, num_traps=[0] + [1] * 7, **SIZES, names=("fc", "head"))
    for rule in (traps, overtrained):
        assert rule(reports, RuleOptions(patience=5, start_after=200)).score == 1
        assert rule(reports, RuleOptions(patience=5, start_after=300)).score == pytest.approx(4 / 5)
        assert "head" in rule(reports, RuleOptions(patience=5, layers=["!fc"])).reason
    levelled = history(alpha=ended(), first=100)
    assert plateau(levelled, RuleOptions(patience=10, start_after=5500)).score < 1
    assert plateau(levelled, RuleOptions(patience=10, layers=["!fc"])).score == 0


def test_layers_that_vanish_or_appear_end_a_streak_and_fail_nothing():
    found = layer(alpha=1.5, num_traps=1, trap_size=7.0)
    gone, other = History(), layer("other", alpha=3.0)
    for step, layers in enumerate([(found, other)] * 4 + [(other,)] + [(found, other)] * 4 + [()]):
        gone.append(Report.of(layers, step))
    for end in range(len(gone) + 1):
        for rule in FUNCTIONS.values():
            assert rule(gone[:end], FIVE).score < 1


def test_a_result_repeated_by_a_rotation_counts_once():
    reports = History([Report.of([layer(alpha=1.5, step=0)], 0)])
    for step in range(5, 15):
        seen = step - step % 5  # the layer is looked at in every fifth snapshot
        reports.append(Report.of([layer(alpha=1.5, step=seen, num_traps=1, trap_size=7.0)], step))
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
        alpha=[3.0] * len(values), alpha_high=values, D=values, trap_size=values, num_traps=[1] * len(values)
    )
    odd = history(alpha=values, alpha_low=values, alpha_high=values, reliable=[True] * len(values))
    for judged in (reports, odd):
        for rule in FUNCTIONS.values():
            finding = rule(judged, RuleOptions(patience=patience))
            assert 0 <= finding.score <= 1
            assert bool(finding.reason) == (finding.score > 0)
