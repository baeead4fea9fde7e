"""Inflation of the asymptotic 95 % interval of alpha needed to account for the choice of xmin.

Draws samples with a known power-law tail, pure and above a log-normal body, chooses xmin in each, and tabulates
the 95 % quantile of |alpha - truth| / sigma over 1.96 by the number of values in the tail. The table is stored in
``ww_callbacks/spectra/interval.py``. Takes about three minutes:

    python benchmarks/interval_inflation.py
"""

from __future__ import annotations

import numpy as np

from ww_callbacks.spectra import fit_power_law
from ww_callbacks.spectra.interval import INFLATION

SEED = 20240
ALPHA = 3.0  # (alpha_fit - 1)/(alpha - 1) does not depend on alpha
SIZES = {20: 3000, 40: 3000, 80: 2000, 160: 2000, 320: 1500, 640: 1000, 1280: 500}
# Fraction of the sample in the body, standard deviation and median of the log-normal (cut at xmin = 1).
BODIES = [(0.0, 1.0, 0.3), (0.3, 1.0, 0.3), (0.5, 1.0, 0.3), (0.5, 0.5, 0.6)]


def sample(rng: np.random.Generator, size: int, alpha: float, body: float, sd: float, median: float) -> np.ndarray:
    """Draw ``size`` values: a power law above 1, and with probability ``body`` a log-normal below 1."""
    tail = size if body == 0 else rng.binomial(size, 1 - body)
    below = np.empty(0)
    while len(below) < size - tail:
        draws = median * np.exp(sd * rng.standard_normal(4 * size))
        below = np.concatenate([below, draws[draws < 1]])
    return np.concatenate([rng.pareto(alpha - 1, tail) + 1, below[: size - tail]])


def main() -> None:
    rng = np.random.default_rng(SEED)
    tail, score = [], []
    for size, repeats in SIZES.items():
        for body in BODIES:
            for _ in range(repeats):
                fit = fit_power_law(sample(rng, size, ALPHA, *body))
                tail.append(fit.num_pl_spikes)
                score.append(abs(fit.alpha - ALPHA) / fit.sigma)
    k, z = np.array(tail), np.array(score)
    print("tail size     samples  inflation  kept")
    low = 2.0
    for high, kept in INFLATION:
        inside = (k >= low) & (k < high)
        print(f"{low:>5.0f} to {high:<6.0f} {inside.sum():>5}  {np.quantile(z[inside], 0.95) / 1.96:>9.2f}  {kept:>4}")
        low = high


if __name__ == "__main__":
    main()
