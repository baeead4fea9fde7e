"""Goodness of fit of the power law, by resampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ww_callbacks.spectra.power_law import PowerLawFit, fit_power_law

REPLICATES = 200


def goodness_of_fit(
    values: NDArray[np.floating], fit: PowerLawFit, *, seed: int = 0, replicates: int = REPLICATES
) -> float:
    """Fraction of synthetic spectra that are at least as far from their own power-law fit as this spectrum is.

    Each value of a synthetic spectrum is drawn from the fitted power law with probability k/n, and otherwise from the
    values below xmin. The power law is refitted including xmin (semi-parametric bootstrap). A small p-value (≤ 0.1)
    means that the tail is not a power law. A large p-value does not show that it is one, in particular if the tail
    has only a few dozen values. The standard error is √(p(1 - p)/replicates). Eigenvalues of a random matrix repel
    each other and are closer to a smooth curve than independent values, so their p-value is too large.

    Source: Clauset, Shalizi and Newman, *Power-law distributions in empirical data* (2009), §4.1.

    Args:
        values: positive numbers, shape (n,), n ≥ 2.
        fit: the power law fitted to ``values``.
        seed: seed of the resampling.
        replicates: number of synthetic spectra.

    Returns:
        The p-value, 0 to 1.

    Raises:
        ValueError: ``replicates`` is smaller than 1, or ``fit`` has no finite alpha.

    Example:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).pareto(2.0, 200) + 1.0
        >>> goodness_of_fit(x, fit_power_law(x), replicates=50) > 0.1
        True
    """
    if replicates < 1:
        raise ValueError(f"replicates: expected at least 1, got {replicates}")
    if not np.isfinite(fit.alpha) or fit.alpha <= 1:
        raise ValueError(f"fit: expected a finite alpha > 1, got {fit.alpha}")
    values = np.asarray(values, dtype=np.float64)
    body = values[values < fit.xmin]
    rng = np.random.default_rng([seed, len(values)])
    farther = 0
    for _ in range(replicates):
        tail = int(rng.binomial(len(values), 1 - len(body) / len(values)))
        uniform = 1 - rng.random(tail)
        synthetic = fit.xmin * np.exp(-np.log(uniform) / (fit.alpha - 1))
        if len(body):
            synthetic = np.concatenate([rng.choice(body, len(values) - tail), synthetic])
        farther += not np.ptp(synthetic) > 0 or fit_power_law(synthetic).D >= fit.D
    return farther / replicates
