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
