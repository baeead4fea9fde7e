"""When findings are raised, since when they hold, and when they are withdrawn."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from histories import falling, history, layer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ww_callbacks as ww
from ww_callbacks.report import SCHEMA, History, LayerReport, Report
from ww_callbacks.signals.findings import Tracker

TRAP = {"num_traps": 1, "trap_size": 8.0, "trap_kind": "columns"}
FINE = {"num_traps": 0, "trap_size": 1.0, "trap_kind": None}
LOST = {"status": "failed", "skip_reason": "non_finite", "reason": "non-finite weights"}


def run(*columns, every=100, name="fc"):
    """A history with one layer and these columns at each step."""
    return History([at(every * index, each, name=name) for index, each in enumerate(columns)])


def at(step, columns, name="fc"):
    return Report((layer(name, 3.0, step=step, **columns),), step)


def kinds(findings):
    return [finding.kind for finding in findings]


def events(reports):
    tracker = Tracker()
    return [(report.step, event) for report in reports for event in tracker.add(report)]


def test_a_finding_is_raised_once_after_its_streak_and_withdrawn_once_after_as_many_without_it():
    happened = events(run(FINE, TRAP, TRAP, TRAP, TRAP, TRAP, FINE, FINE, FINE, FINE))
    (raised_at, raised), (withdrawn_at, withdrawn) = happened
    assert (raised_at, raised.kind, raised.layers) == (300, "trap_columns", ("fc",))
    assert (raised.since, raised.step) == (100, 300)
    assert raised.evidence["fc"]["trap_size"] == 8.0
    assert (withdrawn_at, withdrawn.kind, withdrawn.since, withdrawn.until) == (800, "trap_columns", 100, 800)


def test_a_single_result_without_it_neither_withdraws_a_finding_nor_is_it_part_of_a_streak():
    assert len(events(run(FINE, TRAP, TRAP, TRAP, FINE, TRAP, FINE, FINE, TRAP))) == 1
    assert events(run(FINE, TRAP, TRAP, FINE, TRAP, TRAP, FINE)) == []


def test_facts_hold_from_the_first_result_on():
    happened = events(run(FINE, LOST, LOST, FINE))
    assert [(step, event.kind, event.since, event.until) for step, event in happened] == [
        (100, "non_finite", 100, None),
        (300, "non_finite", 100, 300),
    ]


def test_history_and_report_tell_what_holds_and_what_one_result_shows():
    reports = run(FINE, TRAP, TRAP)
    assert reports.findings == ()
    assert kinds(reports[-1].findings) == ["trap_columns"]
    reports.append(at(300, TRAP))
    (finding,) = reports.findings
    assert finding.text == "fc (8 times the random edge) has a large correlation trap since step 100: " + (
        "single large columns."
    )
    assert finding.is_alarm


def test_what_the_first_snapshot_shows_is_no_fault_of_the_training():
    assert run(*[TRAP] * 10).findings == ()
    larger = TRAP | {"trap_size": 30.0}
    assert kinds(run(TRAP, *[larger] * 3).findings) == ["trap_columns"]


def test_a_trap_that_changes_its_cause_is_the_same_finding():
    other = TRAP | {"trap_kind": "mixed"}
    ((_, raised),) = events(run(FINE, TRAP, other, TRAP, other))
    assert (raised.kind, raised.since) == ("trap_columns", 100)


def test_layers_that_take_turns_count_when_they_are_analysed():
    """Three layers, of which one is analysed in each report; the results of the others are repeated."""
    tracker, latest, happened = Tracker(), {}, []
    for turn in range(15):
        name = "abc"[turn % 3]
        columns = TRAP if name == "b" and turn >= 3 else FINE
        latest[name] = layer(name, 3.0, step=10 * turn, **columns)
        waiting = [LayerReport.waiting(each, "Linear", "other") for each in "abc" if each not in latest]
        happened += tracker.add(Report((*latest.values(), *waiting), 10 * turn))
    (raised,) = happened
    assert (raised.layers, raised.since, raised.step) == (("b",), 40, 100)


def test_layers_that_come_and_go():
    fc, other = layer("fc", 3.0, **LOST), layer("other", 3.0, **FINE)
    tracker = Tracker()
    assert kinds(tracker.add(Report((fc,), 0))) == ["non_finite"]
    ((withdrawn,), again) = tracker.add(Report((other,), 10)), tracker.add(Report((other, fc), 20))
    assert (withdrawn.until, again[0].since) == (10, 20)
    assert tracker.add(Report((), 30))[0].until == 30
    assert tracker.findings == ()


def test_layers_of_one_kind_are_one_finding_with_the_worst_first():
    def report(step):
        sizes = {"a": 5.0, "b": 20.0, "c": 1.0}
        return Report(
            tuple(
                layer(name, 3.0, step=step, **(TRAP if step else FINE) | {"trap_size": size if step else 1.0})
                for name, size in sizes.items()
            ),
            step,
        )

    (finding,) = History(map(report, [0, 10, 20, 30])).findings
    assert finding.layers == ("b", "a")
    assert finding.text.startswith("b (20 times the random edge) and a (5 times the random edge) have large")


def test_steps_are_named_for_each_layer_if_they_differ():
    frozen = [layer(name, 3.0, unchanged_since=since, step=50) for name, since in (("a", 10), ("b", 40))]
    (finding,) = Report(tuple(frozen), 50).findings
    assert finding.text.startswith("a (since step 10) and b (since step 40) have not changed:")
    assert finding.since == 10


def test_counts_are_kept_after_a_withdrawal():
    tracker = Tracker()
    for report in run(FINE, LOST):
        tracker.add(report)
    assert tracker.counts == {"non_finite": 1}
    tracker.add(at(200, FINE))
    assert tracker.counts == {"non_finite": 0}


def test_a_replayed_history_is_in_the_same_state_and_raises_nothing_again():
    reports = run(FINE, TRAP, TRAP, TRAP, LOST)
    restored = History.from_state_dict(reports.state_dict())
    tracker, again = Tracker.of(reports), Tracker.of(restored)
    assert again.findings == tracker.findings
    assert kinds(again.findings) == ["non_finite", "trap_columns"]
    assert again.add(at(500, LOST)) == ()
    assert [event.until for event in again.add(at(600, TRAP))] == [600]


def test_nothing_is_found_in_a_thinned_history_of_a_healthy_run():
    reports = History((at(100 * index, FINE) for index in range(3000)), max_entries=50)
    assert len(reports) < 60
    assert reports.findings == ()


def test_an_empty_history_and_a_single_result():
    assert History().findings == ()
    assert run(TRAP).findings == ()
    assert kinds(run(LOST).findings) == ["non_finite"]
    assert Report(()).findings == ()


def test_before_the_first_step_only_facts_are_told():
    assert at(0, TRAP).findings == ()
    assert kinds(at(0, LOST).findings) == ["non_finite"]


def test_the_plateau_is_a_finding_about_the_layers_of_the_mean():
    reports = history(names=("fc1", "fc2"), alpha=[*falling(30, rate=0.3), *[2.5] * 30])
    (finding,) = reports.findings
    assert (finding.kind, finding.layers, finding.is_alarm) == ("plateau", ("fc1", "fc2"), False)
    assert finding.evidence["fc1"] == {"alpha": 2.5}


def test_a_resumed_run_measures_changes_from_its_own_start():
    """The second half starts at another first snapshot, so the ways of both are not one."""

    def moving(step, learned, since, first=0):
        columns = {"update_norm": 0.001, "update_since": since, "learned_norm": learned, "learned_since": first}
        return at(step, columns | {"norm": 1.0})

    first = [at(0, {"norm": 1.0}), *(moving(50 * i, 0.001 * i, 50 * (i - 1)) for i in range(1, 15))]
    second = [moving(700 + 50 * i, 0.001 * i, 650 + 50 * i, 700) for i in range(1, 5)]
    assert kinds(event for _, event in events([*first, *second])) == ["rate_too_small"]
    assert events([*first[:8], *second]) == []


numbers = st.none() | st.sampled_from([0.0, 1e-300, 1e300, math.nan, math.inf, -1.0, 0.5, 3.0])
values = {"number": numbers, "count": st.none() | st.integers(0, 10**6), "flag": st.none() | st.booleans()}
columns = st.fixed_dictionaries(
    {
        name: values[column.kind]
        for name, column in SCHEMA.items()
        if column.kind in values and name not in ("step", "counted")
    }
    | {
        "status": st.sampled_from(["ok", "skipped", "failed"]),
        "skip_reason": st.sampled_from([None, "non_finite", "waiting", "zero", "analysis_failed"]),
        "role": st.sampled_from(["matrix", "embedding", "adapter", "convolution", "bias"]),
        "trap_kind": st.sampled_from([None, "mean", "mixed"]),
        "warning": st.sampled_from(["", "no tail", "over-trained", "under-trained"]),
        "step": st.none() | st.integers(0, 50),
    }
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.dictionaries(st.sampled_from("abcdef"), columns, max_size=6), min_size=1, max_size=5))
def test_whatever_the_columns_hold_nothing_raises_and_all_that_is_said_is_json(reports):
    found = []
    tracker = Tracker()
    for step, layers in enumerate(reports):
        report = Report(tuple(LayerReport(name=name, kind="Linear", **each) for name, each in layers.items()), step)
        found += [*tracker.add(report), *report.findings, *tracker.findings]
    for finding in found:
        assert ww.Finding.from_dict(finding.to_dict()) == finding
        assert not any(
            isinstance(value, float) and not math.isfinite(value)
            for each in finding.evidence.values()
            for value in each.values()
        )


@pytest.mark.parametrize("gap", [1, 5])
def test_gaps_between_results_do_not_matter(gap):
    reports = [replace(report, step=report.step) for report in run(FINE, TRAP, TRAP, TRAP)]
    moved = [
        Report(tuple(replace(each, step=each.step * gap) for each in report), report.step * gap) for report in reports
    ]
    assert kinds(History(moved).findings) == ["trap_columns"]


def test_the_layer_that_was_lost_first_is_named_first() -> None:
    """Of many lost layers a sentence names three."""

    def report(step: int, lost: set[int]) -> Report:
        layers = [LayerReport(name=f"fc{index}", kind="Linear", step=step) for index in range(6)]
        return Report(
            tuple(replace(each, **LOST) if index in lost else each for index, each in enumerate(layers)), step
        )

    tracker = Tracker()
    tracker.add(report(0, set()))
    (first,) = (each for each in tracker.add(report(10, {4})) if each.kind == "non_finite")
    assert first.text == "fc4 holds NaN or infinite weights since step 10."
    tracker.add(report(20, set(range(6))))
    (found,) = (each for each in tracker.findings if each.kind == "non_finite")
    assert found.since == 10
    assert found.layers[0] == "fc4"
    assert found.text.startswith("fc4 (since step 10), fc0 (since step 20)")
