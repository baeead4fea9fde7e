"""The eigenvalues whose product is one: the exact renormalization group (ERG) condition of SETOL."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def det_x_size(values: NDArray[np.floating]) -> int:
    """Number of largest eigenvalues whose product falls to 1 after scaling the spectrum to mean 1.

    Eigenvalues λ' = λ·n/Σλ are taken in descending order until Σ ln λ' < 0, including the one that crosses 0. In an
    ideal layer the power-law tail has the same size (``ERG_gap = detX_num - num_pl_spikes`` near 0). This is
    WeightWatcher's ``detX_num``, computed with logarithms to avoid overflow.

    Source: Martin and Hinrichs, *SETOL: a semi-empirical theory of (deep) learning* (2025), on the trace-log condition.

    Args:
        values: eigenvalues ≥ 0, shape (n,), n ≥ 2, in any order.

    Returns:
        The number, 1 to n; n if the product never falls below 1.

    Raises:
        ValueError: ``values`` is too short, negative, not finite, or constant.

    Example:
        >>> import numpy as np
        >>> det_x_size(np.array([0.1, 0.2, 0.5, 2.0]))
        3
    """
    x = np.sort(np.asarray(values, dtype=np.float64))[::-1]
    if x.ndim != 1 or len(x) < 2 or not 0 <= x[-1] < x[0] < np.inf:
        raise ValueError("values: expected at least two different finite eigenvalues >= 0")
    scaled = x / x[0]
    with np.errstate(divide="ignore"):
        log_product = np.log(scaled / scaled.mean()).cumsum()
    below = log_product < 0
    first = int(below.argmax())
    return first + 1 if below[first] else len(x)
