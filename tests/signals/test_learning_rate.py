"""Ratios per layer from reports: who takes part, what follows, what never happens."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ww_callbacks as ww
from ww_callbacks.report import History, LayerReport, Report
from ww_callbacks.signals.learning_rate import LayerRatios, chance_error, ratios_by_name
from ww_callbacks.signals.mappings import MAPPINGS
from ww_callbacks.spectra import eigenvalues, hill_alpha


def layer(name, alpha, *, kind="Linear", num_evals=60, **columns):
    return LayerReport(**{"name": name, "kind": kind, "N": 90, "num_evals": num_evals, "alpha_hill": alpha} | columns)


def report(*layers, step=10):
    return Report(tuple(layers), step)


def inner(*alphas):
    """A first and a last layer, and layers between them with these alphas."""
    return [layer("first", 2.0), *(layer(f"h.{i}", a) for i, a in enumerate(alphas)), layer("last", 9.0)]


def hill_of_the_paper(singular_values):
    """1 + k/(Σ ln λ_j - k ln λ_i): eigenvalues ascending from i = ⌊n/2⌋ (TempBalance)."""
    eigenvalues = sorted(value * value for value in singular_values)
    n = len(eigenvalues)
    i = n // 2
    k = n - i
    return 1 + k / (math.fsum(math.log(x) for x in eigenvalues[i:]) - k * math.log(eigenvalues[i]))


@pytest.mark.parametrize("shape", [(60, 60), (301, 97), (40, 200)])
def test_alpha_hill_is_tempbalances_for_a_matrix(shape):
    matrix = np.random.default_rng(3).standard_normal(shape) * np.geomspace(1, 30, shape[1])
    [found] = ww.analyze({"w": matrix}, randomize=False)
    expected = hill_of_the_paper(np.linalg.svd(matrix, compute_uv=False))
    assert found.alpha_hill == pytest.approx(expected, rel=1e-12, abs=0)


def test_alpha_hill_is_tempbalances_for_a_convolution():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(30, 40, 3).double()
    [found] = ww.analyze(torch.nn.Sequential(conv), randomize=False)
    slices = conv.weight.detach().numpy().transpose(2, 3, 0, 1).reshape(9, 40, 30) * math.sqrt(0.5)
    expected = hill_of_the_paper(np.linalg.svd(slices, compute_uv=False).ravel())
    assert found.alpha_hill == pytest.approx(expected, rel=1e-12, abs=0)


def test_the_first_the_last_embeddings_small_layers_and_those_without_a_number_keep_one():
    layers = [
        layer("wte", 9.0, kind="Embedding", role="embedding"),
        layer("in", 8.0),
        layer("small", 7.0, num_evals=49),
        layer("nan", math.nan),
        layer("inf", math.inf),
        layer("none", None),
        layer("wpe", 6.0, kind="Embedding", role="embedding"),
        layer("a", 2.0),
        layer("b", 3.0),
        layer("head", 1.5),
        LayerReport(name="norm", kind="LayerNorm", status="skipped", reason="a vector"),
    ]
    found = dict(zip([each.name for each in layers], LayerRatios().ratios(report(*layers)), strict=True))
    assert found == dict.fromkeys(found, 1.0) | {"in": 1.5, "a": 0.5, "b": 0.5 + 1 / 6}


def test_a_module_and_its_file_get_the_same_ratios(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    model = nn.ModuleDict({"embed": nn.Embedding(120, 80)} | {f"fc{i}": nn.Linear(80, 80) for i in range(5)})
    model["head"] = nn.Linear(80, 120, bias=False)
    model["head"].weight = model["embed"].weight
    torch.save(model.state_dict(), tmp_path / "model.pt")
    here, there = (ww.analyze(each, randomize=False) for each in (model, tmp_path / "model.pt"))
    assert [(layer.name, layer.role, layer.skip_reason) for layer in there] == [
        (layer.name, layer.role, layer.skip_reason) for layer in here
    ]
    signal = LayerRatios(shrink=False)
    ratios = signal.ratios(here)
    assert ratios[0] == ratios[-1] == 1.0
    assert min(ratios) == 0.5
    assert signal.ratios(there) == ratios


def test_patterns_choose_who_takes_part():
    layers = inner(2.0, 3.0, 4.0)
    assert LayerRatios(layers=["!h.2"]).ratios(report(*layers)) == [1.0, 0.5, 1.5, 1.0, 1.0]
    asked = LayerRatios(layers=["first", "h.0", "last"]).ratios(report(*layers))
    assert asked == [0.5, 0.5, 1.0, 1.0, 1.5]  # the ends too, if somebody asks for them


def test_normalisation_goes_with_its_partner():
    layers = inner(2.0, 3.0)
    layers.insert(2, LayerReport(name="norm", kind="BatchNorm2d", status="skipped", reason="a vector"))
    assert LayerRatios(partners={"norm": "h.0"}).ratios(report(*layers)) == [1.0, 0.5, 0.5, 1.5, 1.0]
    assert LayerRatios(partners={"norm": "gone"}).ratios(report(*layers))[2] == 1.0


def test_all_layers_of_a_block_get_one_ratio():
    names = [("in", 9.0), ("h.0.q", 2.0), ("h.0.up", 4.0), ("h.1.q", 3.0), ("h.1.up", 5.0), ("head", 9.0)]
    ratios = LayerRatios(blocks=True).ratios(report(*(layer(*each) for each in names)))
    assert ratios == [1.0, 0.5, 0.5, 1.5, 1.5, 1.0]


def test_before_the_first_step_and_from_until_on_all_are_one():
    layers, signal = inner(2.0, 3.0), LayerRatios(until=20)
    for step, expected in [(0, 1.0), (19, 0.5), (20, 1.0), (21, 1.0)]:
        assert signal.verdict(report(*layers, step=step))["ratios"][1] == expected


def test_layers_that_vanish_or_appear():
    signal, history = LayerRatios(), History()
    verdicts = []
    for step, alphas in enumerate([(2.0, 3.0), (2.0, 3.0, 4.0), (2.0,), ()], start=1):
        history.append(report(*inner(*alphas), step=step))
        verdicts.append(ratios_by_name(signal.judge(history).verdict))
    assert [each.get("h.0") for each in verdicts] == [0.5, 0.5, 1.0, None]
    assert [each.get("h.2") for each in verdicts] == [None, 1.5, None, None]
    assert signal.judge(History([Report((), 1)])).verdict == {"step": 1, "layers": [], "ratios": []}


def test_the_verdict_is_plain_and_the_metrics_are_those_who_take_part():
    judgement = LayerRatios().judge(History([report(*inner(2.0, 3.0))]))
    assert json.loads(json.dumps(judgement.verdict)) == judgement.verdict
    assert judgement.metrics == {"ww_layer/lr_ratio/001.h.0": 0.5, "ww_layer/lr_ratio/002.h.1": 1.5}
    decay = LayerRatios(quantity="weight_decay", low=2 / 3, high=5.0).judge(History([report(*inner(2.0, 3.0))]))
    assert decay.metrics == {
        "ww_layer/weight_decay_ratio/001.h.0": pytest.approx(2 / 3),
        "ww_layer/weight_decay_ratio/002.h.1": 5.0,
    }


@given(
    st.lists(st.one_of(st.floats(1.01, 20.0), st.sampled_from([None, math.nan, math.inf])), max_size=8),
    st.sampled_from(MAPPINGS),
    st.booleans(),
    st.randoms(),
)
def test_permuting_the_layers_permutes_the_ratios_whatever_their_alphas(alphas, mapping, blocks, random):
    signal = LayerRatios(mapping=mapping, blocks=blocks)
    first, *middle, last = inner(*alphas)
    moved = random.sample(middle, len(middle))
    before = ratios_by_name(signal.verdict(report(first, *middle, last)))
    assert ratios_by_name(signal.verdict(report(first, *moved, last))) == before
    assert all(0.5 <= ratio <= 1.5 for ratio in before.values())


def fresh(rng, shape, layers):
    """A report of random matrices, or of kernels, of one shape, with alpha_hill only."""
    n, m, *kernel = shape
    positions = math.prod(kernel)
    found = []
    for i in range(layers):
        matrices = rng.standard_normal((positions, n, m))
        values = np.concatenate([eigenvalues(matrix) for matrix in matrices])
        found.append(layer(f"h.{i}", hill_alpha(values), N=n, num_evals=m * positions, rf=positions))
    return report(*found)


def test_fresh_layers_are_those_of_an_analysis():
    rng = np.random.default_rng(0)
    kernels = rng.standard_normal((9, 16, 16)).reshape(3, 3, 16, 16).transpose(2, 3, 0, 1)
    [found] = ww.analyze({"w": kernels}, randomize=False)
    [same] = fresh(np.random.default_rng(0), (16, 16, 3, 3), 1)
    assert same.alpha_hill == pytest.approx(found.alpha_hill)
    assert chance_error(same) == pytest.approx(chance_error(found))


@pytest.mark.parametrize(("shape", "models"), [((64, 64), 100), ((256, 64), 60), ((16, 16, 3, 3), 60)])
def test_layers_that_differ_by_chance_keep_one(shape, models):
    rng = np.random.default_rng(0)
    moved = dict.fromkeys(MAPPINGS, 0)
    for _ in range(models):
        found = fresh(rng, shape, 10)
        for mapping in MAPPINGS:
            assert max(LayerRatios(mapping=mapping, layers=["*"], shrink=False).ratios(found)) != 1
            moved[mapping] += any(ratio != 1 for ratio in LayerRatios(mapping=mapping, layers=["*"]).ratios(found))
    allowed = 0.05 * models + 3 * math.sqrt(0.05 * 0.95 * models)
    assert {mapping: count for mapping, count in moved.items() if count > allowed} == {}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_chance_error_is_that_of_random_matrices(capsys):
    rng = np.random.default_rng(0)
    dense = [(32, 32), (64, 64), (256, 64), (512, 64), (128, 128), (256, 128), (256, 256), (512, 512)]
    for shape in [*dense, (16, 16, 3, 3)]:
        found = fresh(rng, shape, 200)
        alphas = [layer.alpha_hill for layer in found]
        error = float(np.mean([chance_error(layer) for layer in found]))
        models = [Report(found.layers[start : start + 10], 1) for start in range(0, 200, 10)]
        moved = sum(max(LayerRatios(layers=["*"]).ratios(model)) != 1 for model in models)
        with capsys.disabled():
            print(
                f"\n{shape}: sd {np.std(alphas):.4f}, estimated {error:.4f}, not 1 in {moved} of {len(models)}", end=""
            )
        assert 0.6 < np.std(alphas) / error < 1.1


def test_the_mapping_applies_in_full_where_layers_differ_and_grows_with_the_difference():
    alphas = np.array([2.01, 2.02, 2.05, 1.95])
    shares = []
    for factor in (0.1, 1.0, 3.0, 5.0, 30.0):
        values = 2 + factor * (alphas - 2)
        exact, shrunk = (LayerRatios(shrink=each).ratios(report(*inner(*values)))[1:-1] for each in (False, True))
        distance = [(ratio - 1) / (full - 1) for ratio, full in zip(shrunk, exact, strict=True) if full != 1]
        assert distance == pytest.approx([distance[0]] * len(distance))
        shares.append(distance[0])
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert 0 < shares[-2] < 1
    assert shares[-1] == 1


def test_blocks_are_compared_by_the_error_of_their_mean():
    names = [f"h.{block}.{part}" for block in range(3) for part in range(16)]
    alphas = [2.0 + 0.06 * block + 0.05 * (-1) ** part for block in range(3) for part in range(16)]
    found = report(*(layer(*each) for each in zip(names, alphas, strict=True)))
    assert set(LayerRatios(layers=["*"]).ratios(found)) == {1.0}
    assert max(LayerRatios(layers=["*"], blocks=True).ratios(found)) > 1.2


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-6, 1e6), st.sampled_from(MAPPINGS))
def test_scaling_all_weights_changes_nothing(scale, mapping):
    generator = np.random.default_rng(0)
    weights = {f"w{i}": generator.standard_normal((64, 60)) * np.geomspace(1, 2 + i, 60) for i in range(5)}
    plain, scaled = (
        LayerRatios(mapping=mapping).ratios(ww.analyze(each, randomize=False))
        for each in (weights, {name: scale * matrix for name, matrix in weights.items()})
    )
    assert scaled == pytest.approx(plain, rel=1e-9)
    assert len(set(plain)) > 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"low": 2.0, "high": 1.0}, ValueError, "low, high: expected 0 < low <= high, both finite, got 2.0 and 1.0"),
        ({"low": 0.0}, ValueError, "low, high"),
        ({"high": math.inf}, ValueError, "low, high"),
        ({"low": math.nan}, ValueError, "low, high"),
        ({"low": "small"}, TypeError, "low: expected a number"),
        ({"mapping": "cubic"}, ValueError, "mapping: expected one of 'linear'"),
        ({"quantity": "momentum"}, ValueError, "quantity"),
        ({"layers": "fc"}, TypeError, "layers"),
        ({"layers": []}, ValueError, "layers"),
        ({"until": 0}, ValueError, "until"),
        ({"blocks": 1}, TypeError, "blocks"),
        ({"shrink": 1}, TypeError, "shrink"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        LayerRatios(**arguments)


def test_a_pattern_without_a_layer_is_an_error():
    with pytest.raises(ValueError, match="layers: 'fc9' matches no layer"):
        LayerRatios(layers=["fc9"]).choose(["fc1", "fc2"])


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(None, ["b", "c"]), (["!b"], ["c"]), (["*"], ["a", "b", "c", "d"]), (["a", "c"], ["a", "c"])],
)
def test_who_can_take_part(layers, expected):
    assert LayerRatios(layers=layers).choose(["a", "b", "c", "d"]) == expected
