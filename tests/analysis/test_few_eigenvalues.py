"""Layers of 8 to 19 eigenvalues, which are fitted on request."""

from __future__ import annotations

import numpy as np
import pytest

from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer, joined_factors
from ww_callbacks.report import LayerReport
from ww_callbacks.spectra import fit_short_power_law


def analyze(array: np.ndarray, **options: object) -> LayerReport:
    spec = LayerSpec("fc", "Linear", array.shape, str(array.dtype), ((), (0,), (1,)))
    return analyze_layer(spec, array, Settings(**options))


def learned(outputs: int) -> np.ndarray:
    """Noise with three strong directions."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((outputs, 80)) + 3 * rng.standard_normal((outputs, 3)) @ rng.standard_normal((3, 80))


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_layer_of_twelve_eigenvalues_has_an_alpha_that_is_marked(precision):
    layer = analyze(learned(12), min_evals=8, spectrum=True, precision=precision, gof=True, compare=True, farms=True)
    assert layer.alpha == fit_short_power_law(np.array(layer.spectrum)).alpha
    assert layer.alpha_low < layer.alpha < layer.alpha_high
    assert layer.alpha_high - layer.alpha_low > 0.8 * (layer.alpha - 1)
    assert (layer.status, layer.null, layer.reliable, layer.warning) == ("ok", "arranged", False, "")
    assert layer.rand_alpha > 1
    assert layer.alpha_weighted == pytest.approx(layer.alpha * np.log10(layer.lambda_max))
    assert (layer.alpha_stable, layer.gof_pvalue, layer.vs_lognormal, layer.alpha_farms) == (None, None, None, None)


def test_a_layer_is_skipped_below_the_minimum():
    assert "a power-law fit needs 20" in analyze(learned(19)).reason
    assert analyze(learned(20)).alpha is not None
    assert "7 non-zero eigenvalues, a power-law fit needs 8" in analyze(learned(7), min_evals=8).reason
    assert analyze(learned(8), min_evals=8).alpha is not None
    assert "a power-law fit needs 50" in analyze(learned(40), min_evals=50).reason


def test_equal_eigenvalues_have_no_alpha():
    layer = analyze(np.eye(12), min_evals=8)
    assert (layer.alpha, layer.skip_reason) == (None, "equal_eigenvalues")


def test_an_adapter_of_rank_twelve_has_an_alpha():
    rng = np.random.default_rng(0)
    stored = joined_factors(rng.standard_normal((90, 12)) * 0.7 ** np.arange(12), rng.standard_normal((12, 70)))
    spec = LayerSpec("fc.lora_a", "LoRA", stored.shape, "float64", ((), (), ()), "adapter", factors=90)
    assert analyze_layer(spec, stored, Settings()).alpha is None
    assert analyze_layer(spec, stored, Settings(min_evals=8)).alpha > 1
