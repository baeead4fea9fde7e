import numpy as np
import pytest

from ww_callbacks.analysis import LayerSpec, Settings, analyze_layer
from ww_callbacks.spectra import asymptotic_interval, bootstrap_interval, fit_power_law, rounding_shift


def spectrum(rng: np.random.Generator, size: int, alpha: float, body: float) -> np.ndarray:
    """Independent values: a log-normal below 1 with probability ``body``, otherwise a power law from 1 on."""
    tail = size if body == 0 else rng.binomial(size, 1 - body)
    below = 0.3 * np.exp(rng.standard_normal(20 * size))
    return np.concatenate([rng.pareto(alpha - 1, tail) + 1, below[below < 1][: size - tail]])


def interval(values: np.ndarray, kind: str) -> tuple[float, float]:
    fit = fit_power_law(values)
    if kind == "bootstrap":
        return bootstrap_interval(values, fit)
    return asymptotic_interval(fit.alpha, fit.sigma, fit.num_pl_spikes)


def coverage(kind: str, size: int, body: float, count: int, alpha: float = 3.0) -> float:
    rng = np.random.default_rng([11, size, int(10 * body)])
    intervals = [interval(spectrum(rng, size, alpha, body), kind) for _ in range(count)]
    return float(np.mean([low < alpha < high for low, high in intervals]))


@pytest.mark.parametrize("body", [0.0, 0.5])
def test_asymptotic_interval_contains_the_true_alpha(body):
    assert 0.90 <= coverage("asymptotic", 100, body, 300) <= 0.99


def test_bootstrap_interval_contains_the_true_alpha():
    assert 0.88 <= coverage("bootstrap", 100, 0.0, 60) <= 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["asymptotic", "bootstrap"])
@pytest.mark.parametrize("body", [0.0, 0.5])
@pytest.mark.parametrize("size", [100, 300, 1000])
def test_coverage(kind, body, size):
    count = 2000 if kind == "asymptotic" else 400
    share = coverage(kind, size, body, count)
    print(f"\n{kind}, n = {size}, body {body}: {share:.1%} of {count}")
    assert 0.90 <= share <= 0.99


def test_interval_of_a_layer_with_a_planted_tail():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(20):
        values = spectrum(rng, 100, 2.5, 0.0)
        left, _ = np.linalg.qr(rng.standard_normal((150, 100)))
        right, _ = np.linalg.qr(rng.standard_normal((100, 100)))
        spec = LayerSpec("layer", "Linear", (150, 100), "float64", ((), (0,), (1,)))
        layer = analyze_layer(spec, (left * np.sqrt(values)) @ right, Settings(randomize=False))
        covered += layer.alpha_low < 2.5 < layer.alpha_high
    assert 16 <= covered <= 20


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("rows", "columns"), [(600, 200), (1200, 400)])
def test_random_matrices_with_a_power_law_population(rows, columns):
    """Prints the coverage, without a limit: the eigenvalues are neither independent nor exactly a power law."""
    rng = np.random.default_rng(0)
    fits, covered = [], 0
    for _ in range(100):
        population = (rng.pareto(2, columns) + 1) / rows
        W = rng.standard_normal((rows, columns)) * np.sqrt(population)
        fits.append(fit_power_law(np.linalg.eigvalsh(W.T @ W)))
        low, high = asymptotic_interval(fits[-1].alpha, fits[-1].sigma, fits[-1].num_pl_spikes)
        covered += low < 3 < high
    alphas = [fit.alpha for fit in fits]
    print(f"\n{rows} x {columns}: {covered} of 100 contain 3, bias {np.mean(alphas) - 3:+.2f}, sd {np.std(alphas):.2f}")
    assert abs(np.mean(alphas) - 3) < 1


def test_bootstrap_depends_on_the_seed_only():
    values = np.random.default_rng(0).pareto(2, 60) + 1
    fit = fit_power_law(values)
    assert bootstrap_interval(values, fit) == bootstrap_interval(values, fit)
    assert bootstrap_interval(values, fit) != bootstrap_interval(values, fit, seed=1)


def test_interval_narrows_with_tail_size():
    wide, narrow = asymptotic_interval(3, 0.2, 20), asymptotic_interval(3, 0.2, 1000)
    assert wide[0] < narrow[0] < 3 - 1.96 * 0.2 < 3 < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("values", "replicates", "name"),
    [([1.0, 2.0], 1, "replicates"), ([1.0], 40, "values"), ([2.0, 2.0], 40, "values"), ([1.0, np.nan], 40, "values")],
)
def test_invalid_arguments_raise(values, replicates, name):
    fit = fit_power_law(np.array([1.0, 2.0, 4.0]))
    with pytest.raises(ValueError, match=name):
        bootstrap_interval(np.array(values), fit, replicates=replicates)


def test_rounding_shift_grows_with_the_bound():
    values = np.random.default_rng(0).pareto(2, 300) + 1
    fit = fit_power_law(values)
    shifts = [rounding_shift(values, fit, bound) for bound in (0.0, 1e-9, 1e-4)]
    assert shifts[0] == 0
    assert 0 < shifts[1] < 1e-6 < shifts[2]
