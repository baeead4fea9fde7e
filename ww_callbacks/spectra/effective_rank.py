"""The part of a spectrum whose eigenvalues multiply to one: the ERG condition of SETOL."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def det_x_size(values: NDArray[np.floating]) -> int:
    """Number of the largest eigenvalues whose product falls to 1 when the spectrum is scaled to mean 1.

    The largest k eigenvalues λ' = λ·n/Σλ are taken until Σ ln λ' < 0; the one that crosses is counted. In an ideal
    layer the tail of the power law is as large (``ERG_gap = detX_num - num_pl_spikes`` near 0). WeightWatcher's
    ``detX_num``, by logarithms, so that no product overflows.

    Source: Martin and Hinrichs, *SETOL: a semi-empirical theory of (deep) learning* (2025), on the trace-log condition.

    Args:
        values: eigenvalues ≥ 0, shape (n,), n ≥ 2, any order.

    Returns:
        1 to n; n where the product stays at 1 or above.

    Raises:
        ValueError: ``values`` is too short, negative, not finite, or constant.

    Example:
        >>> import numpy as np
        >>> det_x_size(np.array([0.1, 0.2, 0.5, 2.0]))
        3
    """
    x = np.sort(np.asarray(values, dtype=np.float64))[::-1]
    if x.ndim != 1 or len(x) < 2 or not np.isfinite(x[[0, -1]]).all() or x[-1] < 0 or x[0] == x[-1]:
        raise ValueError("values: expected at least two different finite eigenvalues >= 0")
    scaled = x / x[0]
    with np.errstate(divide="ignore"):
        log_product = np.cumsum(np.log(scaled / scaled.mean()))
    below = log_product < 0
    return int(np.argmax(below)) + 1 if below.any() else len(x)
