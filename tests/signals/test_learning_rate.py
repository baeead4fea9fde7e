"""Ratios per layer from reports: who takes part, what follows, what never happens."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import ww_callbacks as ww
from ww_callbacks.report import History, LayerReport, Report
from ww_callbacks.signals.learning_rate import LayerRatios, null_error, ratios_by_name
from ww_callbacks.signals.mappings import MAPPINGS
from ww_callbacks.spectra import eigenvalues, farms_alpha, hill_alpha


def layer(name, alpha, *, kind="Linear", num_evals=3000, **columns):
    """A layer so large that its alpha has hardly an error."""
    return LayerReport(**{"name": name, "kind": kind, "N": 3000, "num_evals": num_evals, "alpha_hill": alpha} | columns)


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
    assert signal.judge(History([Report((), 1)])).verdict["ratios"] == []


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
@example([2.0, 19.0, 19.125], "sigmoid", False, Random(0))
def test_permuting_the_layers_permutes_the_ratios_whatever_their_alphas(alphas, mapping, blocks, random):
    signal = LayerRatios(mapping=mapping, blocks=blocks)
    first, *middle, last = inner(*alphas)
    moved = random.sample(middle, len(middle))
    before = ratios_by_name(signal.verdict(report(first, *middle, last)))
    assert ratios_by_name(signal.verdict(report(first, *moved, last))) == before
    assert all(0.5 <= ratio <= 1.5 for ratio in before.values())


ELEMENTS = {
    "Gaussian": lambda rng, shape: rng.standard_normal(shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "heavy-tailed": lambda rng, shape: rng.standard_t(3, shape),
    "uneven rows": lambda rng, shape: rng.standard_normal(shape) * np.exp(0.3 * rng.standard_normal((*shape[:2], 1))),
    "power law": lambda rng, shape: rng.standard_normal(shape) * np.arange(1, shape[2] + 1) ** -0.5,
}
"""Exchangeable layers: populations from which matrices of shape (positions, rows, columns) are drawn."""
KERNEL = (9, 16, 16)
MODELS = {
    "64 x 64": [(1, 64, 64)],
    "transformer": [(1, 64, 64), (1, 64, 64), (1, 256, 64)],
    "Q from 1 to 16": [(1, 64, 64), (1, 96, 64), (1, 50, 800), (1, 1024, 64)],
    "convolutions": [KERNEL, (9, 32, 16), (9, 64, 32), (25, 16, 6)],
    "all": [KERNEL, (9, 64, 32), (1, 64, 64), (1, 256, 64), (1, 128, 128)],
}


def fresh(rng, shape, elements="Gaussian", name="h"):
    """The report of one random layer, with the columns that the ratios use."""
    matrices = ELEMENTS[elements](rng, shape)
    positions, n, m = shape[0], max(shape[1:]), min(shape[1:])
    return layer(
        name,
        hill_alpha(np.concatenate([eigenvalues(matrix) for matrix in matrices])),
        alpha_farms=farms_alpha(matrices),
        **{"N": n, "M": m, "Q": n / m, "rf": positions, "num_evals": m * positions},
    )


def model_of(layers):
    return report(*(replace(each, name=f"h.{i}") for i, each in enumerate(layers)))


@pytest.fixture(scope="module")
def pool():
    """Random layers of each shape and population, of which models are made."""
    rng, made = np.random.default_rng(0), {}

    def drawn(shape, elements, count=40):
        if (shape, elements) not in made:
            made[shape, elements] = [fresh(rng, shape, elements) for _ in range(count)]
        return made[shape, elements]

    return drawn


def test_fresh_layers_are_those_of_an_analysis():
    rng = np.random.default_rng(0)
    kernels = rng.standard_normal((9, 16, 16)).reshape(3, 3, 16, 16).transpose(2, 3, 0, 1)
    [found] = ww.analyze({"w": kernels}, randomize=False, farms=True)
    same = fresh(np.random.default_rng(0), KERNEL)
    assert (same.alpha_hill, same.alpha_farms) == pytest.approx((found.alpha_hill, found.alpha_farms))
    for estimate in ("alpha_hill", "alpha_farms"):
        assert null_error(same, estimate) == pytest.approx(null_error(found, estimate))


@pytest.mark.parametrize("elements", ELEMENTS)
@pytest.mark.parametrize("model", MODELS)
def test_exchangeable_layers_keep_one(pool, model, elements):
    """Ten layers of one population, of one shape or of several: every ratio within 0.05 of 1, in 99 of 100 models."""
    rng = np.random.default_rng(1)
    moved = dict.fromkeys(MAPPINGS, 0)
    for _ in range(100):
        shapes = [MODELS[model][i] for i in rng.integers(len(MODELS[model]), size=10)]
        found = model_of([pool(shape, elements)[rng.integers(40)] for shape in shapes])
        for mapping in MAPPINGS:
            ratios = LayerRatios(mapping=mapping, layers=["*"]).ratios(found)
            moved[mapping] += max(abs(ratio - 1) for ratio in ratios) > 0.05
    assert max(moved.values()) <= 1, moved


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_as_published_exchangeable_layers_differ_and_those_of_other_shapes_most(pool, mapping):
    shapes = [(1, 64, 64)] * 5 + [(1, 256, 64)] * 5
    found = model_of([pool(shape, "Gaussian")[i] for i, shape in enumerate(shapes)])
    ratios = LayerRatios(mapping=mapping, layers=["*"], shrink=False).ratios(found)
    assert min(ratios[5:]) > max(ratios[:5]) + 0.05
    assert len(set(ratios[:5])) == 5


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("shape", [(1, 128, 128), (1, 512, 128), (9, 64, 64)])
def test_a_layer_that_differs_gets_a_ratio_on_its_side(pool, shape, mapping):
    far = {"linear": 0.4, "rank": 0.3, "sigmoid": 0.4, "sqrt": 0.05, "log2": 0.15}[mapping]
    for population, odd, side in (("Gaussian", "power law", -1), ("power law", "Gaussian", 1)):
        layers = [*(pool(shape, population)[i] for i in range(9)), pool(shape, odd)[0]]
        found = LayerRatios(mapping=mapping, layers=["*"]).ratios(model_of(layers))
        assert side * (found[9] - 1) > far
        assert np.ptp(found[:9]) < 0.1


def test_without_alpha_farms_layers_of_one_aspect_ratio_are_compared_and_others_keep_one():
    square = [layer(f"h.{i}", 2 + i, Q=1.0) for i in range(4)]
    assert LayerRatios().ratios(report(*square)) != [1.0] * 4
    found = report(*square[:2], replace(square[2], Q=4.0), square[3])
    assert LayerRatios().ratios(found) == [1.0] * 4
    assert LayerRatios().left_out(found) == ["first", "unlike_shapes", "unlike_shapes", "last"]
    assert LayerRatios(shrink=False).ratios(found) != [1.0] * 4
    known = report(*(replace(each, alpha_farms=2.0 + i) for i, each in enumerate(found.layers)))
    assert LayerRatios(layers=["*"]).ratios(known) == pytest.approx([0.5, 0.5 + 1 / 3, 0.5 + 2 / 3, 1.5], abs=0.05)


def test_a_layer_without_alpha_farms_does_not_count_beside_others_with_it():
    layers = [layer(f"h.{i}", 2.0, alpha_farms=farms) for i, farms in enumerate([2.0, 2.0, None, 4.0, 2.0])]
    assert LayerRatios().left_out(report(*layers)) == ["first", None, "no_alpha", None, "last"]
    assert LayerRatios().ratios(report(*layers)) == pytest.approx([1.0, 0.5, 1.0, 1.5, 1.0], abs=0.02)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("elements", ELEMENTS)
def test_null_error_is_that_of_random_matrices(capsys, elements):
    rng = np.random.default_rng(0)
    square = [(1, m, m) for m in (50, 64, 128, 256, 512, 1024)]
    long = [(1, 96, 64), (1, 256, 64), (1, 800, 50), (1, 1024, 64), (1, 512, 256)]
    kernels = [KERNEL, (9, 32, 16), (9, 64, 32), (9, 64, 64), (25, 16, 6)]
    means = {}
    for shape in [*square, *long, *kernels]:
        m = min(shape[1:])
        found = [fresh(rng, shape, elements) for _ in range(200 if m < 256 else 80 if m < 512 else 20)]
        for estimate in ("alpha_farms", "alpha_hill"):
            alphas = np.array([getattr(each, estimate) for each in found])
            error = float(np.mean([null_error(each, estimate) for each in found]))
            if estimate == "alpha_farms":
                means[shape] = alphas.mean(), error
            factor = alphas.std(ddof=1) / (alphas.mean() - 1)
            factor *= math.sqrt(math.prod(shape) if estimate == "alpha_farms" else shape[0] * m * m)
            with capsys.disabled():
                print(
                    f"\n{elements} {shape} {estimate}: mean {alphas.mean():.3f}, sd {alphas.std(ddof=1):.4f}, "
                    f"estimated {error:.4f}, factor {factor:.1f}",
                    end="",
                )
            assert 0.1 < alphas.std(ddof=1) / error < (1.3 if estimate == "alpha_farms" else 2)
    largest = means[square[-1]][0]
    assert all(abs(mean - largest) < 2.5 * error for mean, error in means.values()), means


def test_the_mapping_applies_in_full_where_layers_differ_and_grows_with_the_difference():
    alphas = np.array([2.01, 2.02, 2.05, 1.95])
    shares = []
    for factor in (0.1, 0.2, 0.28, 0.3, 0.33, 1.0, 10.0):
        exact, shrunk = (
            LayerRatios(shrink=each).ratios(report(*inner(*2 + factor * (alphas - 2))))[1:-1] for each in (False, True)
        )
        assert np.argsort(exact).tolist() == np.argsort(shrunk).tolist() or len(set(shrunk)) == 1
        shares.append(np.ptp(shrunk) / np.ptp(exact))
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert any(0.02 < share < 0.7 for share in shares)
    assert shares[-1] == 1


def test_blocks_are_compared_by_the_error_of_their_mean():
    names = [f"h.{block}.{part}" for block in range(3) for part in range(16)]
    alphas = [2.0 + 0.006 * block + 0.002 * (-1) ** part for block in range(3) for part in range(16)]
    found = report(*(layer(*each) for each in zip(names, alphas, strict=True)))
    assert set(LayerRatios(layers=["*"]).ratios(found)) == {1.0}
    assert max(LayerRatios(layers=["*"], blocks=True).ratios(found)) > 1.2


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-6, 1e6), st.sampled_from(MAPPINGS))
def test_scaling_all_weights_changes_nothing(scale, mapping):
    generator = np.random.default_rng(0)
    weights = {f"w{i}": generator.standard_normal((64, 60)) * np.geomspace(1, 10.0**i, 60) for i in range(5)}
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
