import numpy as np
import pytest
from shipped import shipped, tensors

import ww_callbacks as ww


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "fc1": rng.standard_normal((120, 60)),
        "conv": rng.standard_normal((20, 16, 3, 3)).astype(np.float32),
        "fc2": rng.standard_normal((60, 80)).astype(np.float16),
        "bias": rng.standard_normal(60),
    }


def test_a_model_against_itself_has_not_moved():
    report = ww.analyze(weights(), baseline=weights())
    analysed = [layer for layer in report if layer.M is not None]
    assert [layer.distance for layer in analysed] == [0, 0, 0]
    assert [layer.delta_alpha for layer in analysed] == [0, 0, 0]
    assert all(layer.hardly_moved and layer.change == "has not moved" for layer in analysed)
    assert report["bias"].distance is None


def test_the_distance_is_that_of_the_weights():
    tuned = weights()
    tuned["fc1"] = tuned["fc1"] + 0.5
    tuned["conv"] = tuned["conv"] * 1.5
    report = ww.analyze(tuned, baseline=weights())
    assert report["fc1"].distance == pytest.approx(0.5 * np.sqrt(120 * 60) / np.linalg.norm(weights()["fc1"]))
    assert report["conv"].distance == pytest.approx(0.5)
    assert report["conv"].delta_log_lambda_max == pytest.approx(np.log10(1.5**2))
    assert report["conv"].delta_alpha == pytest.approx(0, abs=1e-4)  # single precision
    assert report["fc2"].change == "has not moved"


@pytest.mark.parametrize(("bits", "is_told"), [(3, True), (8, False)])
def test_rounding_to_few_bits_is_told_as_noise(bits, is_told):
    weights = np.random.default_rng(0).standard_normal((200, 100)) / 10
    weights += np.outer(np.ones(200), np.linspace(-1, 1, 100)) / 20
    scale = np.abs(weights).max() / (2 ** (bits - 1) - 1)
    rounded = np.round(weights / scale) * scale
    layer = ww.analyze({"fc": rounded}, baseline={"fc": weights})["fc"]
    share = np.linalg.norm(rounded - weights) / np.linalg.norm(weights)
    assert (f"changed by {share:.0%} of its norm, as noise does".replace("%", " %") in layer.change) is is_told


def test_a_file_a_mapping_and_a_module_can_stand_beside_each_other(tmp_path):
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Linear(60, 100), torch.nn.ReLU(), torch.nn.Linear(100, 80))
    torch.save(module.state_dict(), tmp_path / "before.pt")
    with torch.no_grad():
        module[2].weight *= 3
    by_module = ww.analyze(module, baseline=tmp_path / "before.pt", workers=1)
    assert [layer.distance for layer in by_module] == [0, pytest.approx(2)]
    names = {"0": module[0].weight.detach().numpy(), "2": module[2].weight.detach().numpy()}
    by_mapping = ww.analyze(names, baseline=tmp_path / "before.pt")
    assert [layer.delta_log_lambda_max for layer in by_mapping] == pytest.approx([0, np.log10(9)])
    assert [layer.delta_alpha for layer in by_module] == pytest.approx([0, 0], abs=1e-4)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 1])
def test_intruders_and_forgetting_are_in_the_report_its_means_and_its_words(workers):
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.standard_normal((200, 3)))[0], np.linalg.qr(rng.standard_normal((120, 3)))[0]
    noise = rng.standard_normal((200, 120))
    base = {"kept": noise + 60 * left[:, :1] @ right[:, :1].T, "lost": noise + 60 * left[:, :1] @ right[:, :1].T}
    tuned = {"kept": base["kept"] + 0.01 * rng.standard_normal(noise.shape)}
    tuned["lost"] = base["lost"] + 200 * left[:, 1:] @ right[:, 1:].T
    base["fresh"], tuned["fresh"] = noise, noise + 0.1 * rng.standard_normal(noise.shape)
    report = ww.analyze(tuned, baseline=base, workers=workers)
    assert [layer.intruders for layer in report] == [0, 2, 0]
    assert [layer.forgetting for layer in report] == [
        pytest.approx(0, abs=0.01),
        pytest.approx(1, abs=0.01),
        None,
    ], "a layer without a tail has no leading subspace"
    assert report["kept"].update_rotation < 1
    assert report["kept"].update_unchanged == 0
    assert report["lost"].update_sharpness == pytest.approx(1 / report["lost"].update_stable_rank)
    assert report.summary()["forgetting"] == pytest.approx(0.5, abs=0.01)
    assert "2 intruder dimensions" in report["lost"].change
    assert "of the baseline's leading subspace" in report["lost"].change
    assert "intruder" not in report["kept"].change


def test_a_report_will_do_as_baseline():
    report = ww.analyze(weights(), baseline=ww.analyze(weights()))
    assert report["fc1"].delta_alpha == 0
    assert report["fc1"].distance is None


def test_pruned_layers_and_other_sizes_are_named():
    pruned = weights() | {"fc1": np.zeros((120, 60)), "conv": weights()["conv"][:, :12]}
    report = ww.analyze(pruned, baseline=weights())
    assert report["fc1"].change == "all weights are zero, the baseline has values"
    assert report["fc1"].distance == 1
    assert report["conv"].change.startswith("size differs from the baseline (20 x 16, 9 of them)")
    assert report["conv"].distance is None


def test_no_common_name_is_an_error_and_a_missing_layer_is_logged(caplog):
    with pytest.raises(ValueError, match=r"baseline: .*'other'.*'fc1'"):
        ww.analyze(weights(), baseline={"other": np.ones((60, 60))})
    ww.analyze({"fc1": weights()["fc1"]}, baseline=weights())
    assert "'conv', 'fc2'" in caplog.text


def test_layers_left_out_are_left_out_of_the_comparison(caplog):
    report = ww.analyze(weights(), baseline=weights(), layers=["fc1"])
    assert [layer.distance for layer in report] == [0, None, None, None]
    assert not caplog.text


def tuned(factors: dict[str, float]) -> dict[str, np.ndarray]:
    """A trained network with one per cent of noise on every weight and some layers multiplied by a factor."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, value in tensors("efficientnet-lite0.pth").items():
        noise = 0.01 * np.std(value) * rng.standard_normal(value.shape)
        weights[name] = (value + noise) * factors.get(name.removesuffix(".weight"), 1)
    return weights


def test_a_scale_collapse_of_a_trained_network_is_named():
    factors = {f"_blocks.{index}._expand_conv": 0.33 - 0.03 * index for index in range(2, 8)}
    report = ww.analyze(tuned(factors), baseline=shipped("efficientnet-lite0.pth"), randomize=False)
    assert [layer.name for layer in report if layer.scale_collapse] == list(factors)
    for name, factor in factors.items():
        assert "scale collapse: λ_max fell" in report[name].change
        assert report[name].delta_log_lambda_max == pytest.approx(2 * np.log10(factor), abs=0.02)


def test_five_zeroed_layers_of_a_trained_network_are_named_and_all_means_stay_finite():
    zeroed = [f"_blocks.{index}._project_conv" for index in (2, 5, 7, 11)] + ["_fc"]
    model = tuned(dict.fromkeys(zeroed, 0))
    report = ww.analyze(model, baseline=shipped("efficientnet-lite0.pth"), randomize=False)
    assert [layer.name for layer in report if layer.change.startswith("all weights are zero")] == zeroed
    assert all(np.isfinite(value) for value in report.summary().values())
