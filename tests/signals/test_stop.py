"""When training should end: the rules joined, remembered and told; the same through a monitor in a loop."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from histories import falling, history

import ww_callbacks as ww
from ww_callbacks.checks import arguments_of
from ww_callbacks.signals.rules import PATIENCE
from ww_callbacks.signals.stop import EarlyStopping, Metric, StopRules, progress_message, stop_message


def trapped(size=6, **series):
    """Traps in each result but the first, at step 0."""
    return history(alpha=[3.0] * size, num_traps=[0, *[1] * (size - 1)], trap_size=[1.0, *[7.0] * (size - 1)], **series)


def overtrained(size=6, **series):
    return history(alpha=[1.5] * size, **series)


def levelled():
    """An alpha that fell by 0.5 per doubling of the steps up to step 800, and then no longer."""
    return history(first=100, alpha=[2.5 + 0.5 * max(3 - np.log2(i), 0) + 0.001 * (-1) ** i for i in range(1, 91)])


def test_the_metric_that_must_stall_is_found():
    run = trapped()
    assert EarlyStopping(rules=["traps"], patience=3).judge(run).verdict["stop"]
    awaiting = EarlyStopping(rules=["traps"], patience=3)
    awaiting.awaits_metric = True  # a validation loss may still come
    assert not awaiting.judge(trapped()).verdict["stop"]
    improving = trapped()
    for step, loss in enumerate([4.0, 3.0, 2.0, 1.0]):
        improving.record("eval_loss", loss, step)
    assert StopRules().metric_of(improving) == Metric("eval_loss", (4.0, 3.0, 2.0, 1.0))
    assert not EarlyStopping(rules=["traps"], patience=3).judge(improving).verdict["stop"]
    assert EarlyStopping(rules=["traps"], patience=3, and_monitor=None).judge(improving).verdict["stop"]
    assert StopRules(and_monitor="val_acc").metric_of(improving) == Metric("val_acc", ())


def test_a_verdict_is_plain_values():
    verdict = StopRules(patience=5).verdict(trapped())
    assert json.loads(json.dumps(verdict)) == verdict
    assert (verdict["stop"], verdict["rule"], verdict["step"]) == (True, "traps", 500)
    assert verdict["scores"] == {"plateau": 0.0, "traps": 1.0}
    nothing = StopRules(patience=5).verdict(trapped()[:3])
    assert (nothing["stop"], nothing["rule"], nothing["reason"]) == (False, None, "")
    assert StopRules().verdict([])["step"] is None


def test_any_subset_of_the_rules_is_judged_and_no_other():
    assert not StopRules(rules=["plateau"], patience=5).verdict(trapped())["stop"]
    assert StopRules(rules=["overtrained", "traps"], patience=5).verdict(trapped())["rule"] == "traps"


def test_overtrained_stops_only_together_with_traps_or_a_stalled_metric():
    rules = StopRules(rules=["overtrained"], patience=3)
    alone = rules.verdict(overtrained())
    assert (alone["stop"], alone["scores"]["overtrained"]) == (False, 1.0)
    assert alone["reason"].startswith("overtrained: the alpha of fc is 1.5")
    assert rules.verdict(overtrained(num_traps=[0] + [1] * 5))["stop"]
    assert not rules.verdict(overtrained(num_traps=[0, 1, 1, 1, 0, 1]))["stop"]
    watching = StopRules(rules=["overtrained"], patience=3, and_monitor="val_loss")
    assert not watching.verdict(overtrained(), Metric("val_loss", [4, 3, 2, 1]))["stop"]
    stalled = watching.verdict(overtrained(), Metric("val_loss", [4, 1, 2, 2, 2]))
    assert stalled["stop"]
    assert stalled["reason"].endswith("and val_loss has not improved in its last 3 values")


def test_with_a_metric_no_rule_stops_before_it_has_stalled():
    rules = StopRules(patience=3, and_monitor="val_acc", and_mode="max")
    assert not rules.verdict(trapped(), Metric("val_acc", []))["stop"]
    assert not rules.verdict(trapped(), Metric("val_acc", [0.1, 0.2, 0.3, 0.4]))["stop"]
    assert rules.verdict(trapped(), Metric("val_acc", [0.5, 0.2, 0.3, float("nan")]))["stop"]


def test_the_first_stop_of_a_history_stays_and_another_history_begins_anew():
    signal = EarlyStopping(rules=["traps"], patience=3)
    run = ww.History()
    verdicts = []
    for report in history(alpha=[3.0] * 8, num_traps=[0, 1, 1, 1, 1, 0, 0, 0], trap_size=[1.0, *[7.0] * 7]):
        run.append(report)
        judgement = signal.judge(run)
        verdicts.append(judgement.verdict)
    assert [verdict["stop"] for verdict in verdicts] == [False, False, False, True, True, True, True, True]
    assert verdicts[-1] == verdicts[3]
    assert judgement.metrics == {"ww/stop/traps": 0.0}
    assert not signal.judge(history(alpha=[3.0])).verdict["stop"]


def test_a_signal_can_be_copied_with_its_trainer():
    signal = EarlyStopping(patience=3)
    signal.judge(trapped())
    for twin in (copy.deepcopy(signal), pickle.loads(pickle.dumps(signal))):
        assert arguments_of(twin) == arguments_of(signal)
        assert not twin.judge(history(alpha=[3.0])).verdict["stop"]


@pytest.mark.parametrize(
    ("error", "argument", "message"),
    [
        (ValueError, {"rules": ["alpha"]}, "rules: expected one of 'plateau', 'traps', 'overtrained', got 'alpha'"),
        (TypeError, {"rules": "traps"}, "rules: expected a list"),
        (ValueError, {"rules": []}, "rules: expected at least one"),
        (ValueError, {"patience": 0}, "patience: expected at least 1, got 0"),
        (ValueError, {"min_delta": -1}, "min_delta: expected a finite number of at least 0, got -1"),
        (ValueError, {"min_delta": float("nan")}, "min_delta: expected a finite number"),
        (TypeError, {"min_delta": "x"}, "min_delta: expected a number"),
        (ValueError, {"start_after": -1}, "start_after: expected at least 0"),
        (ValueError, {"layers": []}, "layers: expected at least one pattern"),
        (TypeError, {"and_monitor": ""}, "and_monitor: expected the name of a metric"),
        (ValueError, {"and_mode": "least"}, "and_mode: expected one of 'min', 'max'"),
    ],
)
def test_wrong_arguments_are_told_at_construction(error, argument, message):
    with pytest.raises(error, match=message):
        EarlyStopping(**argument)


def test_patterns_that_match_nothing_are_told():
    StopRules(layers=["fc*"]).check_layers(["fc1", "fc2"])
    with pytest.raises(ValueError, match="layers: 'conv' matches no layer"):
        StopRules(layers=["conv"]).check_layers(["fc1", "fc2"])


def test_scaling_all_weights_changes_no_verdict():
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((120, 60)) for _ in range(9)]
    for step, matrix in enumerate(weights):
        matrix[3, 4] = 60.0 * (step > 2)
    for scale in (1e-3, 1.0, 1e3):
        run = ww.History()
        for step, matrix in enumerate(weights):
            run.append(ww.Report.of(ww.analyze({"fc": scale * matrix}).layers, step))
        verdict = StopRules(rules=["plateau", "traps", "overtrained"], patience=4).verdict(run)
        assert (verdict["stop"], verdict["rule"]) == (True, "traps")
        assert verdict["scores"]["overtrained"] == 0


def train(monitor, weights, steps, validation=None):
    """Ten results, from the third one on with a trap; the step at which the loop was told to end."""
    for step in range(1, steps + 1):
        weights["fc"] += 0.001
        weights["fc"][3, 4] = 60.0 * (step >= 25)
        if validation and step % 5 == 0:
            monitor.record("val_loss", validation(step))
        monitor.step(step)
        if monitor.should_stop:
            return step
    return None


def fresh():
    return {"fc": np.random.default_rng(0).standard_normal((120, 60))}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("executor", "told"), [("sync", 50), ("process", 60)])
def test_a_loop_is_told_at_a_snapshot_step_why_and_when(executor, told):
    weights = fresh()
    monitor = ww.Monitor(weights, every_n_steps=10, executor=executor, deterministic=True)
    monitor.attach("stop", EarlyStopping(rules=["traps"], patience=3))
    with monitor:
        assert train(monitor, weights, 200) == told
        start = f"traps at step 50 (stopped at {told}): fc has 1 correlation trap at step 50 (cause: elements)"
        assert monitor.stop_reason.startswith(start)
    assert monitor.metrics["ww/stop/traps"] == 1


@pytest.mark.timeout(60)
def test_a_loop_with_a_validation_value_ends_when_that_has_stalled_too():
    weights = fresh()
    monitor = ww.Monitor(weights, every_n_steps=10, executor="sync")
    monitor.attach("stop", EarlyStopping(rules=["traps"], patience=3, and_monitor="val_loss"))
    with monitor:
        assert train(monitor, weights, 200, validation=lambda step: max(100 - step, 20)) == 100
    assert "val_loss has not improved in its last 3 values" in monitor.stop_reason
    assert monitor.history.recorded("val_loss")[1] == (9, 90.0)


@pytest.mark.timeout(60)
def test_should_stop_without_a_signal_follows_the_default_rules_without_their_metrics():
    weights = fresh()
    with ww.Monitor(weights, every_n_steps=10, executor="sync") as monitor:
        assert train(monitor, weights, 30) is None
        assert monitor.stop_reason == ""
        assert set(monitor.published.verdicts["stop"]["scores"]) == {"plateau", "traps"}
        assert not any(key.startswith("ww/stop/") for key in monitor.metrics)


def test_the_message_begins_with_rule_judged_step_and_step_of_the_verdict():
    verdict = StopRules(patience=5).verdict(trapped())
    assert stop_message(verdict, 700).startswith("traps at step 500 (stopped at 700): fc has 1 correlation trap")
    assert stop_message(verdict, 700, "warn").startswith("traps at step 500 (warned at 700): fc has 1 correlation trap")


def test_how_near_each_rule_is_says_its_score_and_its_text():
    message = progress_message(StopRules(patience=5).verdict(trapped()[:4]))
    assert message.startswith(
        "plateau 0, traps 0.6 (fc has 1 correlation trap at step 300, the largest at 7 times the random edge;"
    )
    assert message.endswith("above 4 in each of the last 3 results)")
    assert progress_message({}) == "No results came in."


def test_a_rule_at_full_score_says_what_it_waits_for():
    def told(monitored=(), run=trapped, rates=(), **options):
        rules = StopRules(patience=3, **options)
        metric = Metric("val_loss", monitored) if rules.and_monitor == "val_loss" else None
        (text,) = rules.verdict(run(), metric, rates)["texts"].values()
        return text.rpartition("; ")[2]

    traps, over = {"rules": ["traps"]}, {"rules": ["overtrained"]}
    assert told(**traps) == "above 4 in each of the last 3 results"
    assert told(and_monitor="val_loss", **traps) == "it waits for val_loss: 0 values so far, a stall needs at least 4"
    improving = [4, 3, 2, 1]
    assert told(improving, and_monitor="val_loss", **traps) == (
        "it waits for val_loss, which has improved in its last 3 values"
    )
    stalled = told([1, 2, 2, 2], and_monitor="val_loss", **traps)
    assert stalled == "and val_loss has not improved in its last 3 values"
    decayed = StopRules(rules=["plateau"]).verdict(levelled(), rates=[(100, 0.1), (9000, 0.01)])
    assert (decayed["stop"], decayed["scores"]["plateau"]) == (False, 1.0)
    assert decayed["texts"]["plateau"].endswith(
        "; but the learning rate fell from 0.1 to 0.01 since step 100, which explains it"
    )
    assert StopRules(rules=["plateau"]).verdict(levelled(), rates=[(100, 0.1), (9000, 0.06)])["stop"]
    alone = "it ends training only together with persistent traps or a stalled and_monitor"
    assert told(run=overtrained, **over) == alone


def test_a_history_shorter_than_patience_never_stops():
    for size in range(PATIENCE + 1):  # one of them is the baseline, which does not count
        for run in (trapped(size), history(alpha=falling(size)), overtrained(size)) if size else ([],):
            assert not StopRules(rules=["plateau", "traps", "overtrained"]).verdict(run)["stop"]
