"""Layers of low rank, stored as factors: the numbers of the dense product, without forming it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer, as_matrices, factors_of, joined_factors
from ww_callbacks.analysis import layer as module
from ww_callbacks.analysis.spec import Snapshot
from ww_callbacks.analysis.update import update_columns
from ww_callbacks.report import LayerReport
from ww_callbacks.report.row import from_plain
from ww_callbacks.spectra import frobenius_norm
from ww_callbacks.worker.task import make_task, run_task, weights_digest

SAME = ("N", "M", "rf", "Q", "num_evals", "norm", "log_norm", "spectral_norm", "stable_rank", "matrix_rank", "entropy")


def factors(outputs: int = 90, rank: int = 8, inputs: int = 70, seed: int = 0, decay: float = 0.7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    B, A = rng.standard_normal((outputs, rank)), rng.standard_normal((rank, inputs))
    return joined_factors(B * decay ** np.arange(rank), A)


def spec_of(stored: np.ndarray, outputs: int = 90, dtype: str | None = None) -> LayerSpec:
    shape, dtype = stored.shape, dtype or stored.dtype.name
    return LayerSpec("fc.lora_default", "LoRA", shape, dtype, ((), (), ()), "adapter", factors=outputs)


def low_rank(stored: np.ndarray, outputs: int = 90, **options: object) -> LayerReport:
    return analyze_layer(spec_of(stored, outputs), stored, Settings(**options))


def dense(stored: np.ndarray, outputs: int = 90, **options: object) -> LayerReport:
    product = as_matrices(spec_of(stored, outputs), stored)[0]
    return analyze_layer(
        LayerSpec("fc", "Linear", product.shape, "float64", ((), (0,), (1,))), product, Settings(**options)
    )


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("sides", [(90, 70), (70, 90), (8, 8), (5, 30), (30, 5)])
def test_the_columns_equal_those_of_the_dense_product(sides, scale):
    stored = scale * factors(sides[0], 8, sides[1])
    found, expected = low_rank(stored, sides[0], spectrum=True), dense(stored, sides[0], spectrum=True)
    for column in SAME:
        assert getattr(found, column) == pytest.approx(getattr(expected, column), rel=1e-6), column
    np.testing.assert_allclose(found.spectrum, expected.spectrum, rtol=1e-6, atol=1e-12 * expected.lambda_max)
    assert (found.status, found.role, found.warning, found.lora_rank) == ("ok", "adapter", "", 8)
    assert (found.num_traps, found.null, found.rand_alpha, found.num_directions) == (None, None, None, None)


def test_a_power_law_is_fitted_to_the_values_that_are_not_zero():
    stored = factors(rank=40, decay=0.95)
    found, expected = low_rank(stored), dense(stored)
    assert found.alpha == pytest.approx(expected.alpha)
    assert (found.warning, found.reliable, found.null) == ("", None, None)
    assert low_rank(factors(rank=19)).alpha is None


def test_the_rank_used_is_that_of_the_product():
    rng = np.random.default_rng(0)
    stored = joined_factors(rng.standard_normal((90, 3)) @ rng.standard_normal((3, 64)), rng.standard_normal((64, 70)))
    found = low_rank(stored)
    assert (found.lora_rank, found.lora_used, found.matrix_rank) == (64, 3, 3)


def test_a_fresh_adapter_uses_no_rank():
    stored = factors()
    stored[:, :90] = 0
    found = low_rank(stored)
    assert (found.lora_rank, found.lora_used, found.reason) == (8, 0, "all weights are zero")


def test_weights_that_are_not_finite_or_out_of_range():
    assert low_rank(factors() * np.nan).skip_reason == "non_finite"
    assert low_rank(factors() * 1e100).skip_reason == "out_of_range"
    assert low_rank(factors()[:0]).skip_reason == "empty"


def test_the_product_is_not_formed(monkeypatch):
    monkeypatch.setattr(module, "arranged", lambda *_: pytest.fail("formed"))
    assert low_rank(factors()).norm > 0


def at(step, stored):
    return Snapshot(step, stored, weights_digest(stored))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_half_precision_factors(dtype):
    stored = factors().astype(np.float32)
    stored = (stored.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else stored.astype(dtype)
    found = analyze_layer(spec_of(stored, dtype=dtype), stored, Settings())
    assert found.norm == pytest.approx(low_rank(factors()).norm, rel=0.02)


def test_the_cost_is_that_of_the_factors():
    assert spec_of(factors()).work == 160 * 8**2


def test_a_task_holds_the_factors():
    stored = factors()
    task = json.loads(json.dumps(make_task(spec_of(stored), Settings(), 3)))
    assert LayerSpec(**task["spec"]).matrix_shape == (1, 90, 70)
    assert from_plain(run_task(task, stored)["report"]).lora_used == low_rank(stored).lora_used


def test_the_change_is_that_of_the_product():
    """Of B·A, with other factors and scale, by its own number of directions."""
    before, now = factors(seed=1), factors(seed=2)
    spec = spec_of(now)
    columns = update_columns(spec, at(20, now), at(0, before), at(10, before))
    change = as_matrices(spec, now)[0] - as_matrices(spec, before)[0]
    singular = np.linalg.svd(change, compute_uv=False)
    assert columns["update_norm"] == pytest.approx(frobenius_norm(change) / frobenius_norm(as_matrices(spec, now)))
    assert columns["update_stable_rank"] == pytest.approx((singular**2).sum() / singular[0] ** 2)
    assert columns["update_sharpness"] == pytest.approx(1 / columns["update_stable_rank"])
    assert columns["update_norm_per_step"] == columns["update_norm"] / 10
    assert columns["learned_norm"] == pytest.approx(columns["update_norm"])
    assert (columns["update_rank"], columns["update_pvalue"], columns["update_unchanged"]) == (None, None, None)


def test_changes_from_and_to_nothing():
    now, fresh = factors(), factors()
    fresh[:, :90] = 0
    spec = spec_of(now)
    assert update_columns(spec, at(10, now), at(0, fresh), None)["learned_norm"] == pytest.approx(1)
    assert update_columns(spec, at(10, fresh), at(0, now), None)["learned_norm"] is None
    assert update_columns(spec, at(10, now), at(0, now), at(5, now))["update_norm"] == 0
    assert update_columns(spec, at(10, now), at(0, now * np.inf), None)["learned_norm"] is None


def test_factors_come_back_as_they_were_joined():
    rng = np.random.default_rng(0)
    B, A = rng.standard_normal((90, 8)), rng.standard_normal((8, 70))
    found = factors_of(spec_of(joined_factors(B, A)), joined_factors(B, A))
    assert np.array_equal(found[0], B)
    assert np.array_equal(found[1], A)
