"""A shuffled control that is used again while the distribution of a layer's elements hardly moves."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks import spectra
from ww_callbacks.spectra import ShuffledControl

LEVELS = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
SAMPLE = 2**16
"""Quantiles are those of about so many elements, evenly spaced and always the same ones."""


class Controls:
    """The shuffled control of one layer, kept from one analysis to the next.

    A shuffled matrix holds nothing but the distribution of the elements, and its eigenvalues scale with their variance.
    So a control is used again, scaled, as long as :func:`moved` says at most ``tolerance``.

    Args:
        tolerance: standard deviations; 0 for a new control each time.
        kept: what an earlier one had as ``kept``, possibly after a way through JSON.

    Example:
        >>> W = np.random.default_rng(0).standard_normal((200, 100))[None]
        >>> controls = Controls(tolerance=0.05)
        >>> first, step = controls.control(W, seed=0, variances=[W.var()], step=10)
        >>> again, step = Controls(0.05, controls.kept).control(2.01 * W, seed=0, variances=[(2.01 * W).var()], step=20)
        >>> step, round(again.max_rand_eval / first.max_rand_eval, 6)
        (10, 4.0401)
    """

    def __init__(self, tolerance: float = 0.0, kept: Mapping[str, Any] | None = None) -> None:
        self._tolerance = tolerance
        self.kept = kept

    def control(
        self,
        matrices: NDArray[Any],
        *,
        seed: int,
        variances: Sequence[float],
        largest: float | None = None,
        step: int | None = None,
    ) -> tuple[ShuffledControl, int | None]:
        """The control of some matrices, and the step of the weights that were shuffled for it.

        Args:
            matrices: shape (positions, rows, columns).
            seed: chooses the permutation.
            variances: element variance of each position.
            largest: the largest absolute element, where the caller knows it.
            step: of these weights.
        """
        if not self._tolerance:
            return spectra.shuffled_control(matrices, seed=seed, variances=variances, largest=largest), step
        variance, shape = float(np.mean(variances)), element_shape(matrices, float(np.mean(variances)))
        if self.kept is not None and moved(self.kept["shape"], shape) <= self._tolerance:
            return _scaled(self.kept, variance), self.kept["step"]
        fresh = spectra.shuffled_control(matrices, seed=seed, variances=variances, largest=largest)
        self.kept = {
            "step": step,
            "shape": shape,
            "variance": variance,
            "values": base64.b64encode(fresh.values.astype("<f8").tobytes()).decode(),
            "num_traps": fresh.num_traps,
            "trap_pvalue": fresh.trap_pvalue,
        }
        return fresh, step


def element_shape(matrices: NDArray[Any], variance: float) -> list[float]:
    """The distribution of the elements in units of their standard deviation σ.

    Args:
        matrices: shape (positions, rows, columns).
        variance: σ².

    Returns:
        Quantiles at ``LEVELS``; the eigenvalue that the mean makes, as the root of its ratio to the random edge; the
        logarithm of the largest absolute element, for that is what a shuffle cannot hide.
    """
    _, rows, columns = matrices.shape
    sigma = math.sqrt(variance) or 1.0
    flat = matrices.reshape(-1)
    sample = np.sort(flat[:: max(1, flat.size // SAMPLE)].astype(np.float64))
    levels = np.minimum((np.array(LEVELS) * len(sample)).astype(int), len(sample) - 1)
    mean = float(matrices.mean(dtype=np.float64)) / sigma
    by_mean = mean * math.sqrt(rows * columns) / (math.sqrt(rows) + math.sqrt(columns))
    return [*(sample[levels] / sigma).tolist(), by_mean, math.log(spectra.magnitude(matrices) / sigma)]


def moved(before: Sequence[float], after: Sequence[float]) -> float:
    """How far a distribution moved: the largest difference of two :func:`element_shape`.

    Example:
        >>> moved([0.0, 1.0], [0.1, 1.0])
        0.1
    """
    return max(abs(new - old) for old, new in zip(before, after, strict=True))


def _scaled(kept: Mapping[str, Any], variance: float) -> ShuffledControl:
    factor = variance / kept["variance"] if kept["variance"] else 1.0
    values = np.frombuffer(base64.b64decode(kept["values"]), dtype="<f8") * factor
    return ShuffledControl(values, float(values[-1]), kept["num_traps"], kept["trap_pvalue"])
