"""The eigenvalues of the matrices of one layer, and what they show about the arrangement of its elements."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ww_callbacks import spectra
from ww_callbacks.spectra import Precision
from ww_callbacks.spectra.directions import DIRECTION_LEVEL
from ww_callbacks.spectra.eigen import contiguous
from ww_callbacks.spectra.types import Floats


def positions(matrices: NDArray[Any], largest: float, precision: Precision) -> tuple[list[Floats], list[float]]:
    """Eigenvalues and element variance of each kernel position.

    Args:
        matrices: shape (positions, rows, columns), finite.
        largest: largest absolute element.
        precision: of the eigenvalues.

    Raises:
        ValueError: the squares of the elements are outside the range of float64.
    """
    by_position, variances = [], []
    for matrix in map(contiguous, matrices):
        by_position.append(spectra.eigenvalues(matrix, precision, largest=largest))
        variances.append(spectra.element_variance(matrix, float(by_position[-1].sum())))
    if not any(values[-1] > 0 for values in by_position):
        raise ValueError("the squares of the weights vanish")
    return by_position, variances


def null_columns(matrices: NDArray[Any], by_position: list[Floats]) -> dict[str, Any]:
    """The columns null, null_pvalue and num_directions.

    Args:
        matrices: shape (positions, rows, columns), finite and not all zero.
        by_position: eigenvalues of each position, ascending.

    Example:
        >>> import numpy as np
        >>> matrices = np.random.default_rng(0).standard_normal((1, 100, 60))
        >>> null_columns(matrices, positions(matrices, 5.0, "float64")[0])["null"]
        'random'
    """
    try:
        test = spectra.null_test(matrices if len(matrices) > 1 else matrices[0], by_position[0])
    except ValueError:  # the signs of the elements have no effect
        return {"null": "cannot be told", "num_directions": None}
    verdict = "arranged" if test.pvalue <= spectra.LEVEL else "scales" if test.uneven else "random"
    count = _num_directions(matrices, by_position) if verdict == "arranged" else 0
    return {"null": verdict, "null_pvalue": test.pvalue, "num_directions": count}


def _num_directions(matrices: NDArray[Any], by_position: list[Floats]) -> int:
    _, rows, columns = matrices.shape
    level = DIRECTION_LEVEL / len(by_position)
    return sum(spectra.num_directions(values, rows, columns, level) for values in by_position)
