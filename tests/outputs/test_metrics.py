import math

import numpy as np
import pytest

import ww_callbacks as ww
from ww_callbacks.outputs.metrics import (
    LAYER_METRICS,
    MAX_FOUND,
    LoggedLayers,
    aggregate_metrics,
    expert_metrics,
    layer_metrics,
    spread,
)
from ww_callbacks.report import OPTIONAL_COLUMNS, Finding, LayerReport, Report
from ww_callbacks.report.finding import KINDS
from ww_callbacks.report.keys import tag_name


def report():
    rng = np.random.default_rng(0)
    weights = {"a/b c": rng.standard_normal((90, 60)), "bias": np.ones(9), "fc": rng.standard_t(3, (80, 70))}
    return ww.analyze(weights | {"nan": np.full((50, 50), np.nan)})


def test_the_keys_are_those_that_the_documentation_promises():
    keys = set(aggregate_metrics(report(), lag_steps=3, skipped=2, over_budget=1))
    means = {"alpha", "alpha_median", "alpha_min", "alpha_max", "alpha_hill", "alpha_weighted", "log_norm"}
    means |= {"alpha_stable", "log_spectral_norm", "stable_rank", "D"}
    counts = {"num_overtrained", "num_undertrained", "num_no_tail", "num_reliable", "num_traps", "num_trap_layers"}
    assert keys == {f"ww/{name}" for name in means | counts | {"lag_steps", "skipped", "over_budget", "failed"}}


def test_the_values_are_those_of_the_summary_and_finite_floats():
    one = report()
    metrics = aggregate_metrics(one, lag_steps=3, skipped=2, over_budget=1)
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())
    assert (metrics["ww/lag_steps"], metrics["ww/skipped"], metrics["ww/failed"]) == (3.0, 2.0, 1.0)
    assert metrics["ww/over_budget"] == 1.0
    assert metrics["ww/alpha"] == pytest.approx((one["a/b c"].alpha + one["fc"].alpha) / 2)
    assert {f"ww/{key}": value for key, value in one.summary().items()}.items() <= metrics.items()


def test_layers_have_keys_with_their_place_in_the_model_and_their_columns_as_values():
    one = report()
    metrics = layer_metrics(one, ["a/b c", "fc"])
    logged = set(LAYER_METRICS) - set(OPTIONAL_COLUMNS)
    for name in logged:
        assert metrics[f"ww_layer/{name}/000.a.b_c"] == getattr(one["a/b c"], name)
        assert metrics[f"ww_layer/{name}/002.fc"] == getattr(one["fc"], name)
    assert len(metrics) == 2 * len(logged)
    assert all(type(value) is float and math.isfinite(value) for value in metrics.values())


def test_numbers_that_do_not_exist_and_layers_that_are_not_wanted_have_no_key():
    assert layer_metrics(report(), ["bias", "nan"]) == {}
    assert layer_metrics(report(), []) == {}


def test_a_report_without_layers_gives_counts_only():
    metrics = aggregate_metrics(Report((), step=1), lag_steps=0, skipped=0, over_budget=0)
    assert "ww/alpha" not in metrics
    assert metrics["ww/failed"] == 0.0


BLOCK = "experts.*.w1"


def expert(number, alpha, *, step=5, status="ok"):
    return LayerReport(name=f"experts.{number}.w1", kind="matrix", status=status, step=step, alpha=alpha)


def test_the_experts_of_a_block_have_metrics_together():
    fc = LayerReport(name="fc", kind="matrix", step=5, alpha=2.0)
    one = Report((fc, *(expert(number, 3 + number / 100) for number in range(9)), expert(9, 7.0)), 5)
    assert expert_metrics(one, [BLOCK]) == {
        "ww_layer/experts_alpha_min/001.experts._.w1": 3.0,
        "ww_layer/experts_alpha_median/001.experts._.w1": pytest.approx(3.045),
        "ww_layer/experts_alpha_max/001.experts._.w1": 7.0,
        "ww_layer/experts_odd/001.experts._.w1": 1.0,
    }
    assert expert_metrics(one, ["fc", "experts.3.w1"]) == {}


def test_experts_that_were_not_analysed_at_this_step_have_no_metrics():
    assert expert_metrics(Report(tuple(expert(number, 3.0, step=0) for number in range(4)), 5), [BLOCK]) == {}


def test_a_block_without_a_fit_has_no_alpha_and_nan_once_experts_failed():
    small = Report(tuple(expert(number, None) for number in range(4)), 5)
    assert expert_metrics(small, [BLOCK]) == {"ww_layer/experts_odd/000.experts._.w1": 0.0}
    failed = Report(tuple(expert(number, None, status="failed") for number in range(4)), 5)
    assert math.isnan(expert_metrics(failed, [BLOCK])["ww_layer/experts_alpha_median/000.experts._.w1"])


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("encoder.0.fc-1_x", "encoder.0.fc-1_x"),
        ("a/b/c", "a.b.c"),
        ("a b:c", "a_b_c"),
        ("größe", "gr__e"),
        ("dense/kernel:0", "dense.kernel_0"),
    ],
)
def test_tags_hold_only_characters_that_every_logger_takes(name, tag):
    assert tag_name(name) == tag


def fake(count):
    return [str(i) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, 15, 16])
def test_up_to_the_limit_every_analysed_layer_is_shown(count):
    assert spread(fake(count)) == fake(count)


@pytest.mark.parametrize("count", [17, 100, 1000])
def test_beyond_the_limit_that_many_different_layers_from_first_to_last_are_shown(count):
    names = [int(name) for name in spread(fake(count))]
    assert len(names) == len(set(names)) == 16
    assert names == sorted(names)
    assert (names[0], names[-1]) == (0, count - 1)
    gaps = np.diff(names)
    assert gaps.max() - gaps.min() <= 1


def finding(kind, layers, until=None):
    return Finding(
        kind=kind, layers=layers, since=1, step=1, evidence={}, confidence="likely", text="So it is.", until=until
    )


def test_the_worst_layers_of_a_finding_get_metrics_of_their_own_and_keep_them():
    logged = LoggedLayers(["h.0"], grows=True)
    logged.add([finding("frozen", ("h.0", "h.5", "h.3", "h.4", "h.7"))])
    assert logged.names == {"h.0", "h.5", "h.3", "h.4"}
    many = tuple(f"g.{number}" for number in range(MAX_FOUND + 1))
    logged.add([finding("frozen", ("h.8",)), finding("exploding", ("h.9",), until=5), finding("not_learning", many)])
    assert logged.names == {"h.0", "h.5", "h.3", "h.4"}
    for kind in KINDS:
        logged.add([finding(kind, tuple(f"{kind}.{number}" for number in range(9)))])
    assert len(logged.names) == 1 + MAX_FOUND
    chosen = LoggedLayers(["h.0"], grows=False)
    chosen.add([finding("exploding", ("h.5",))])
    assert chosen.names == {"h.0"}
