"""Norms and ranks of a layer, computed from its eigenvalues."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Norms:
    """Scale and rank metrics of one layer; undefined values are None."""

    norm: float
    log_norm: float | None
    spectral_norm: float
    log_spectral_norm: float | None
    lambda_max: float
    stable_rank: float | None
    matrix_rank: int
    rank_loss: int
    entropy: float | None


def norm_metrics(values: NDArray[np.float64], tolerance: float, rank: int | None = None) -> Norms:
    """Norms and ranks of a layer, as defined by WeightWatcher.

    norm = Σλ = ‖W‖²_F; spectral_norm = lambda_max = λ_max = ‖W‖²₂ (both squared, as in WeightWatcher); log is log10;
    stable_rank = Σλ/λ_max; matrix_rank = #{λ > tolerance}; rank_loss = #{λ ≤ tolerance};
    entropy = -Σ p ln p / ln(matrix_rank) with p = λ/Σλ, from 0 to 1 (Martin, Peng and Mahoney
    2021; Roy and Vetterli 2007 for the entropy).

    Args:
        values: eigenvalues ≥ 0 of all kernel positions together, shape (n,).
        tolerance: eigenvalues ≤ tolerance count as zero.
        rank: matrix_rank if known more precisely, from singular values.

    Raises:
        ValueError: ``values`` is empty, negative or not finite.

    Example:
        >>> import numpy as np
        >>> n = norm_metrics(np.array([0.0, 1.0, 1.0, 2.0]), tolerance=1e-12)
        >>> n.norm, n.stable_rank, n.matrix_rank, n.rank_loss
        (4.0, 2.0, 3, 1)
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not (values.min() >= 0 and values.max() < math.inf):
        raise ValueError("values: expected a non-empty array of finite eigenvalues >= 0")
    total, largest = float(values.sum()), float(values.max())
    if rank is None:
        rank = int(np.count_nonzero(values > tolerance))
    return Norms(
        norm=total,
        log_norm=_log10(total),
        spectral_norm=largest,
        log_spectral_norm=_log10(largest),
        lambda_max=largest,
        stable_rank=total / largest if largest > 0 else None,
        matrix_rank=rank,
        rank_loss=len(values) - rank,
        entropy=_entropy(values[values > 0] / total, rank) if rank > 1 else None,
    )


def log_alpha_norm(values: NDArray[np.float64], alpha: float) -> float:
    """log10 Σ λ^alpha over the positive eigenvalues, without overflow (Martin, Peng and Mahoney 2021, eq. 5).

    Args:
        values: eigenvalues, shape (n,), at least one positive.
        alpha: exponent.

    Example:
        >>> import numpy as np
        >>> round(log_alpha_norm(np.array([10.0]), 500.0), 6)
        500.0
    """
    exponents = alpha * np.log(values[values > 0])
    largest = float(exponents.max())
    return (largest + math.log(float(np.exp(exponents - largest).sum()))) / math.log(10)


def relative_distance(matrices: NDArray[np.generic], baseline: NDArray[np.generic]) -> float | None:
    """Relative distance of weights from a baseline: ‖W - W₀‖_F / ‖W₀‖_F.

    Args:
        matrices: W, any shape and real dtype.
        baseline: W₀, same shape.

    Returns:
        The distance, 0 for equal weights; None if W₀ is zero or a value is not finite.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import numpy as np
        >>> relative_distance(np.array([3.0, 4.0]), np.array([3.0, 0.0]))
        1.3333333333333333
    """
    if np.shape(matrices) != np.shape(baseline):
        raise ValueError(f"baseline: expected shape {np.shape(matrices)}, got {np.shape(baseline)}")
    moved = start = 0.0
    with np.errstate(all="ignore"):
        for now, before in zip(np.atleast_1d(matrices), np.atleast_1d(baseline), strict=True):
            old = np.asarray(before, dtype=np.float64)
            moved = math.hypot(moved, float(np.linalg.norm(now - old)))
            start = math.hypot(start, float(np.linalg.norm(old)))
        distance = moved / start if start else math.inf
    return distance if math.isfinite(distance) else None


def frobenius_norm(matrices: NDArray[np.generic]) -> float:
    """‖W‖_F without overflow; infinite or NaN if a weight is not finite.

    Args:
        matrices: W, any shape and real dtype.

    Example:
        >>> import numpy as np
        >>> frobenius_norm(np.array([[3.0, 0.0], [4.0, 0.0]]))
        5.0
    """
    parts = (np.asarray(part, dtype=np.float64) for part in np.atleast_1d(matrices))
    return math.hypot(*(float(np.linalg.norm(part)) for part in parts))


def _entropy(p: NDArray[np.float64], rank: int) -> float:
    p = p[p > 0]  # λ/Σλ may underflow
    return float(-(p * np.log(p)).sum() / math.log(rank))


def _log10(value: float) -> float | None:
    return math.log10(value) if value > 0 else None
