import numpy as np
import pytest
from scipy.special import expi, gamma, gammaincc

from ww_callbacks.spectra import compare_alternatives, fit_power_law, fit_truncated_power_law, goodness_of_fit
from ww_callbacks.spectra.power_law import PowerLawFit
from ww_callbacks.spectra.truncated import _log_z


def truncated_sample(rng: np.random.Generator, size: int, alpha: float, rate: float) -> np.ndarray:
    """Rejection sampling from the power law."""
    found = np.empty(0)
    while len(found) < size:
        x = rng.pareto(alpha - 1, 4 * size) + 1
        found = np.concatenate([found, x[rng.random(len(x)) < np.exp(-rate * (x - 1))]])
    return found[:size]


def fixed_xmin(values: np.ndarray) -> PowerLawFit:
    alpha = 1 + len(values) / np.log(values).sum()
    return PowerLawFit(alpha, (alpha - 1) / len(values) ** 0.5, 1.0, values.max(), 0.1, len(values))


def test_normalisation_against_closed_forms():
    assert _log_z(1.0, 0.5) == pytest.approx(np.log(-expi(-0.5)), rel=1e-10)
    assert _log_z(0.0, 0.5) == pytest.approx(-0.5 - np.log(0.5), rel=1e-10)
    assert _log_z(0.5, 0.1) == pytest.approx(np.log(0.1**-0.5 * gamma(0.5) * gammaincc(0.5, 0.1)), rel=1e-9)
    assert _log_z(3.0, 1e-9) == pytest.approx(-np.log(2), abs=1e-6)


@pytest.mark.parametrize(("alpha", "rate"), [(2.0, 0.05), (3.0, 0.2), (1.5, 0.01)])
def test_truncated_power_law_is_recovered(alpha, rate):
    values = truncated_sample(np.random.default_rng(0), 4000, alpha, rate)
    fit = fit_truncated_power_law(values, 1.0)
    assert abs(fit.alpha - alpha) < 4 * fit.sigma
    assert fit.Lambda == pytest.approx(rate, rel=0.5)
    assert fit.D < 0.03


def test_truncated_fit_of_a_power_law_is_that_power_law():
    values = np.random.default_rng(2).pareto(2, 3000) + 1
    fit = fit_truncated_power_law(values, 1.0)
    assert fit.alpha == pytest.approx(fixed_xmin(values).alpha, abs=0.15)
    assert fit.Lambda < 0.02


def test_truncated_fit_scales_with_the_values():
    values = truncated_sample(np.random.default_rng(0), 500, 2, 0.1)
    one, scaled = fit_truncated_power_law(values, 1.0), fit_truncated_power_law(values * 1e-12, 1e-12)
    assert scaled.alpha == pytest.approx(one.alpha, abs=1e-4)
    assert scaled.Lambda == pytest.approx(one.Lambda * 1e12, rel=1e-3)


@pytest.mark.parametrize(("values", "xmin"), [([1.0, 2.0, 3.0], 0.0), ([1.0, 2.0], 1.0), ([1.0, 2.0, np.inf], 1.0)])
def test_truncated_fit_rejects_invalid_arguments(values, xmin):
    with pytest.raises(ValueError, match=r"values|xmin"):
        fit_truncated_power_law(np.array(values), xmin)


def verdicts(values: np.ndarray) -> list[str]:
    return [test.verdict for test in compare_alternatives(values, fixed_xmin(values))]


def test_true_distribution_is_recognised():
    rng = np.random.default_rng(0)
    assert verdicts(rng.pareto(2, 2000) + 1)[0] == "power law"
    assert verdicts(rng.exponential(1, 2000) + 1)[0] == "exponential"
    assert verdicts(truncated_sample(rng, 2000, 2, 0.2))[2] == "truncated power law"
    log_normal = np.exp(rng.standard_normal(6000) + 1)
    assert verdicts(log_normal[log_normal >= 1])[1] == "log-normal"


def test_short_tail_is_undecided():
    rng = np.random.default_rng(0)
    short = [verdicts(rng.pareto(2, 30) + 1)[1] for _ in range(40)]
    assert short.count("undecided") >= 30


def test_true_power_law_is_rarely_rejected():
    rng = np.random.default_rng(1)
    nested = [verdicts(rng.pareto(2, 200) + 1)[2] for _ in range(30)]
    assert nested.count("truncated power law") <= 7  # the test has level 0.1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_goodness_of_fit_under_the_null():
    rng = np.random.default_rng(5)
    pvalues = []
    for _ in range(400):
        values = rng.pareto(2, 150) + 1
        pvalues.append(goodness_of_fit(values, fit_power_law(values), replicates=100))
    share = np.mean(np.array(pvalues) <= 0.1)
    print(f"\np <= 0.1 in {share:.1%} of 400")
    assert 0.05 <= share <= 0.15


def test_goodness_of_fit_rejects_other_distributions():
    rng = np.random.default_rng(0)
    values = rng.uniform(1, 2, 1500)
    whole = PowerLawFit(3.0, 0.1, values.min(), values.max(), 0.2, 1500)
    assert goodness_of_fit(values, whole, replicates=20) == 0
    power = rng.pareto(2, 200) + 1
    assert goodness_of_fit(power, fit_power_law(power), replicates=40) > 0.05


def test_goodness_of_fit_is_reproducible():
    values = np.random.default_rng(0).pareto(2, 60) + 1
    fit = fit_power_law(values)
    assert goodness_of_fit(values, fit, replicates=20) == goodness_of_fit(values, fit, replicates=20)


def test_goodness_of_fit_rejects_invalid_arguments():
    values = np.array([1.0, 2.0, 4.0])
    with pytest.raises(ValueError, match="replicates"):
        goodness_of_fit(values, fit_power_law(values), replicates=0)
    with pytest.raises(ValueError, match="fit"):
        goodness_of_fit(values, PowerLawFit(np.inf, np.inf, 1.0, 4.0, 0.1, 3))
