from dataclasses import fields

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import ww_callbacks as ww
from ww_callbacks.analysis import Settings
from ww_callbacks.models.controls import rescaled
from ww_callbacks.weights import find_layers


def model(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "fc": scale * rng.standard_t(3, (120, 60)),
        "conv": scale * rng.standard_normal((20, 16, 3, 3)).astype(np.float32),
        "head": rng.standard_normal((60, 10)),
        "bias": rng.standard_normal(60),
    }


def series(number: int = 5) -> dict[str, dict[str, np.ndarray]]:
    """Models that differ in scale and in nothing else."""
    return {f"m{i}": model(i, 1.3**i) for i in range(number)}


def test_the_table_holds_the_means_of_the_reports():
    models = series(2)
    comparison = ww.compare(models, randomize=False)
    summary = ww.analyze(models["m1"], randomize=False).summary()
    row = comparison.to_dicts()[1]
    assert (row["model"], row["quality"], row["layers"]) == ("m1", None, 2)
    assert {name: row[name] for name in ("alpha", "alpha_weighted", "log_norm", "stable_rank", "D")} == {
        name: summary[name] for name in ("alpha", "alpha_weighted", "log_norm", "stable_rank", "D")
    }
    assert comparison.correlations() == ()
    assert "correlation" not in str(comparison)
    assert comparison.to_pandas().loc["m1", "alpha"] == summary["alpha"]


def test_a_quality_that_follows_the_scale_is_put_down_to_scale():
    """The quality is the scale: shuffled weights follow it as well, at equal scale nothing is left."""
    comparison = ww.compare(series(), quality={f"m{i}": i for i in range(5)}, randomize=False)
    found = {each.metric: each for each in comparison.correlations()}
    assert found["log_norm"].pearson > 0.99
    assert found["log_norm"].shuffled_pearson == pytest.approx(found["log_norm"].pearson)
    assert found["log_norm"].rescaled_pearson is None
    assert "update_norm" not in found, "no model has a value: it is not tested"
    assert f"{len(found)} metrics are tested" in str(comparison)
    assert found["log_spectral_norm"].cause == "scale and depth"
    assert "log_norm (r = 0.999, shuffled 0.999, rms 1 -)" in str(comparison)
    assert "n = 5 models" in str(comparison)
    assert "says nothing about the shape" in str(comparison)


def test_the_reports_are_those_of_analyze_with_the_same_arguments():
    models = series(2)
    options = {"split": {"fc": [80, 40]}, "interval": "bootstrap", "seed": 3, "layers": ["fc.*", "conv"]}
    comparison = ww.compare(models, quality={"m0": 1.0}, **options)
    for name, each in models.items():
        assert comparison.reports[name] == ww.analyze(each, **options)
    assert [layer.name for layer in comparison.shuffled["m0"]][:2] == ["fc.0", "fc.1"]
    truncated = ww.compare(models, fit="TPL", randomize=False)
    assert truncated.reports["m1"] == ww.analyze(models["m1"], fit="TPL", randomize=False)


def test_the_shuffled_control_is_that_of_analyze():
    (name,) = models = {"a": model(0)}
    comparison = ww.compare(models, quality={name: 1.0})
    for layer, control in zip(comparison.reports[name], comparison.shuffled[name], strict=True):
        assert layer.name == control.name
        if layer.M is not None:
            assert control.lambda_max == pytest.approx(layer.max_rand_eval, rel=1e-5)
            assert control.norm == pytest.approx(layer.norm)
        if layer.rand_alpha is not None:
            assert control.alpha == pytest.approx(layer.rand_alpha, rel=1e-3)


@pytest.mark.parametrize("conv_scale", ["weightwatcher", "paper", "none"])
def test_the_rescaled_report_is_that_of_rescaled_weights(conv_scale):
    weights = {name: 3.7 * array for name, array in model(0).items()}
    equal = {name: array / np.sqrt(np.mean(np.square(array))) for name, array in weights.items()}
    settings = Settings(conv_scale=conv_scale)
    direct = ww.analyze(equal, conv_scale=conv_scale)
    by_name = {layer.name: layer.spec for layer in find_layers(weights)}
    for layer in ww.analyze(weights, conv_scale=conv_scale):
        found = rescaled(layer, by_name[layer.name], settings)
        for column in fields(found):
            value, expected = getattr(found, column.name), getattr(direct[layer.name], column.name)
            if isinstance(expected, float) and column.name not in ("trap_pvalue", "rand_distance"):
                assert value == pytest.approx(expected, rel=1e-4, abs=1e-4), column.name


def test_layers_that_cannot_be_shuffled_disturb_nothing():
    models = {f"m{i}": model(i) | {"nan": np.full((30, 30), np.nan), "zero": np.zeros((40, 40))} for i in range(2)}
    comparison = ww.compare(models, quality={"m0": 1.0, "m1": 2.0}, workers=1)
    assert comparison.shuffled["m0"]["nan"].status == "failed"
    assert comparison.shuffled["m0"]["zero"].status == "skipped"
    assert all(np.isfinite(row["alpha"]) for row in comparison.to_dicts())


def test_models_without_a_quality_are_left_out_of_the_correlations_only():
    comparison = ww.compare(series(), quality={"m0": 1.0, "m2": 2.0, "m3": 3.0}, randomize=False)
    assert [row["quality"] for row in comparison.to_dicts()] == [1.0, None, 2.0, 3.0, None]
    assert comparison.correlations()[0].n == 3
    assert set(comparison.shuffled) == {"m0", "m2", "m3"}
    two = ww.compare(series(2), quality={"m0": 1.0, "m1": 2.0}, randomize=False)
    assert two.conclusions() == ["n = 2: a correlation needs at least three models."]


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"models": [1]}, TypeError, "models"),
        ({"models": {}}, ValueError, "models"),
        ({"quality": [1.0, 2.0]}, TypeError, "quality"),
        ({"quality": {"m7": 1.0}}, ValueError, "'m7'"),
        ({"quality": {"m0": float("nan")}}, ValueError, "'m0'"),
        ({"quality": {"m0": "good"}}, ValueError, "'good'"),
        ({"layers": ["zz"]}, ValueError, "layers"),
        ({"workers": -1}, ValueError, "workers"),
        ({"split": {"zz": 2}}, ValueError, "split"),
        ({"split": 2}, TypeError, "split"),
        ({"interval": "exact"}, ValueError, "interval"),
        ({"fit": "line"}, ValueError, "fit"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, says):
    with pytest.raises(error, match=says):
        ww.compare(**({"models": series(2)} | arguments))


def trained(steps: int) -> tuple[dict[str, np.ndarray], float]:
    """Two hidden layers after some steps on scikit-learn's digits, and the error on other digits in %."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 120), torch.nn.Linear(120, 100), torch.nn.Linear(100, 10)]
    network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(steps):
        batch = slice(64 * step % 1200, 64 * step % 1200 + 64)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
        optimizer.step()
    wrong = network(x[1300:]).argmax(1) != y[1300:]
    weights = {f"fc{index}": layer.weight.detach().numpy() for index, layer in enumerate(layers)}
    return weights, 100 * wrong.double().mean().item()


def test_of_networks_trained_for_longer_weighted_alpha_and_its_shuffled_control_order_alike():
    runs = {f"{steps} steps": trained(steps) for steps in (4, 12, 36, 108, 324)}
    errors = {name: error for name, (_, error) in runs.items()}
    comparison = ww.compare({name: weights for name, (weights, _) in runs.items()}, quality=errors, randomize=False)
    found = {each.metric: each for each in comparison.correlations()}
    means = [comparison.reports[name].summary()["alpha_weighted"] for name in runs]
    assert found["alpha_weighted"].pearson == pytest.approx(np.corrcoef(means, list(errors.values()))[0, 1])
    assert found["alpha_weighted"].pearson < -0.9
    assert found["alpha_weighted"].shuffled_pearson < -0.9
    assert found["alpha_weighted"].rescaled_pearson > 0.5
    assert found["alpha_weighted"].cause == "scale and depth"
    assert found["alpha"].kendall == pytest.approx(1), "alpha falls as the networks learn"
    assert any("alpha_weighted" in line and "scale and depth explain it" in line for line in comparison.conclusions())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((model(0), model(1)), r"models: expected one mapping name -> model, got 2 arguments: compare\(\{\"a\": model"),
        (("a.pt", "b.pt"), "got 2 arguments: .*analyze.model, baseline=other. says how a model differs from another"),
        (([model(0), model(1)],), "models: expected a mapping name -> model, got a list: "),
        (({1: model(0)},), "models: expected a mapping name -> model, got names such as 1: "),
        ((model(0),), "models: 'fc' is an array, expected a model; is this mapping one model"),
        (({"a": ww.Report(())},), "models: 'a' is a Report already; Comparison"),
    ],
)
def test_what_is_no_mapping_of_models_is_told_how_to_compare(given, message):
    with pytest.raises(TypeError, match=message) as caught:
        ww.compare(*given)
    assert len(str(caught.value)) < 250


def test_the_quality_has_the_names_of_the_models():
    with pytest.raises(TypeError, match="quality: expected a mapping name of a model -> number, got a list"):
        ww.compare(series(2), quality=[1.0, 2.0])
