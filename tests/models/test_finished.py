import numpy as np
import pytest

import ww_callbacks as ww


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "fc1": rng.standard_normal((120, 60)),
        "conv": rng.standard_normal((20, 16, 3, 3)),
        "head": rng.standard_normal((60, 10)),
        "bias": rng.standard_normal(60),
    }


def test_every_layer_is_listed_in_order():
    report = ww.analyze(weights())
    assert [layer.name for layer in report] == ["fc1", "conv", "head", "bias"]
    assert [layer.status for layer in report] == ["ok", "ok", "skipped", "skipped"]
    assert report["head"].norm > 0
    assert report["head"].num_traps == 0


def test_the_control_of_a_layer_does_not_depend_on_the_other_layers():
    whole, alone = ww.analyze(weights()), ww.analyze(weights(), layers=["conv"])
    assert whole["conv"].max_rand_eval == alone["conv"].max_rand_eval
    assert alone["fc1"].reason == "excluded by layers="


def test_seed_moves_the_control_and_nothing_else():
    first, second = ww.analyze(weights()), ww.analyze(weights(), seed=1)
    assert first["fc1"].max_rand_eval != second["fc1"].max_rand_eval
    assert first["fc1"].alpha == second["fc1"].alpha


def test_requests_reach_the_layers():
    report = ww.analyze(
        weights(), precision="float32", interval="bootstrap", gof=True, compare=True, spectrum=True, randomize=False
    )
    layer = report["fc1"]
    assert layer.alpha_error is not None
    assert layer.gof_pvalue is not None
    assert layer.vs_lognormal is not None
    assert layer.spectrum is not None
    assert layer.num_traps is None
    assert ww.analyze(weights(), fit="TPL")["fc1"].Lambda is not None


@pytest.mark.parametrize(
    "argument",
    [
        {"precision": "half"},
        {"interval": "none"},
        {"fit": "PLL"},
        {"seed": -1},
        {"conv_scale": "x"},
        {"layers": ["zz"]},
    ],
)
def test_wrong_arguments_are_named(argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        ww.analyze(weights(), **argument)


def test_one_bad_layer_does_not_disturb_the_others():
    bad = weights() | {"nan": np.full((30, 30), np.nan)}
    report = ww.analyze(bad)
    assert report["nan"].status == "failed"
    assert report["fc1"] == ww.analyze(weights())["fc1"]
    assert report.summary()["failed"] == 1


def test_spectrum_of_the_change_from_a_baseline():
    """A learned change has its rank; noise, rounding and a common factor have none."""
    rng = np.random.default_rng(0)
    names = ("same", "noise", "learned", "learned in noise", "rounded", "scaled", "small")
    base = {name: rng.standard_normal((10 if name == "small" else 200, 100)).astype("f4") for name in names}
    tuned = {name: weights.copy() for name, weights in base.items()}
    low_rank = (0.02 * rng.standard_normal((200, 4)) @ rng.standard_normal((4, 100))).astype("f4")
    noise = (0.01 * rng.standard_normal((200, 100))).astype("f4")
    tuned["noise"] += noise
    tuned["learned"] += low_rank
    tuned["learned in noise"] += low_rank + noise
    tuned["rounded"] = np.round(tuned["rounded"] * 16) / 16
    tuned["scaled"] *= 0.9
    tuned["small"] += 1
    tuned["new"] = rng.standard_normal((200, 100))
    report = ww.analyze(tuned, baseline=base)
    ranks = {layer.name: layer.update_rank for layer in report}
    assert ranks == dict.fromkeys(("same", "noise", "rounded", "scaled"), 0) | {
        "learned": 4,
        "learned in noise": 4,
        "small": None,  # a constant change has no signs to compare
        "new": None,
    }
    assert all((report[name].update_pvalue > 0.001) == (ranks[name] == 0) for name in names[1:6])
    assert report["learned"].update_stable_rank < 4
    change = ww.analyze({"change": tuned["learned in noise"] - base["learned in noise"]})["change"]
    assert report["learned in noise"].update_alpha == change.alpha
    assert ww.analyze(tuned, baseline=base, workers=1) == report
    assert "update rank" in str(report)
