"""The leading directions of a layer, computed once for the same weights."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks import spectra
from ww_callbacks.analysis.spec import LayerSpec, Snapshot, as_matrices
from ww_callbacks.spectra import Leading

NUM_LEADING = 6
"""Leading directions that are followed during training, and one more, which shows the gap after them."""
MAX_BYTES = 2**26
"""Memory for leading directions of earlier weights, in each process."""


def leading_of(matrices: NDArray[Any], count: int) -> Leading | None:
    """The leading directions of the outputs of a layer; None if they cannot be computed.

    The matrices of all kernel positions stand side by side: outputs x (positions · inputs).

    Args:
        matrices: shape (positions, rows, columns).
        count: number of directions.
    """
    try:
        return spectra.leading_directions(side_by_side(matrices), count)
    except (ValueError, np.linalg.LinAlgError):
        return None


def side_by_side(matrices: NDArray[Any]) -> NDArray[Any]:
    """Matrices of shape (positions, rows, columns) as one of shape (rows, positions · columns)."""
    return np.concatenate(matrices, axis=1) if len(matrices) > 1 else matrices[0]


class LeadingCache:
    """Leading directions of weights that were seen before, those used last. Safe to use from several threads.

    Args:
        max_bytes: memory for the vectors.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._known: OrderedDict[str, Leading | None] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, spec: LayerSpec, snapshot: Snapshot) -> Leading | None:
        """The ``NUM_LEADING`` leading directions of a layer.

        Args:
            spec: description of the weights.
            snapshot: the weights.
        """
        digest = snapshot.digest
        with self._lock:
            if digest in self._known:
                self._known.move_to_end(digest)
                return self._known[digest]
        found = leading_of(as_matrices(spec, snapshot.stored), NUM_LEADING)
        with self._lock:
            self._bytes += _size(found) - _size(self._known.pop(digest, None))
            self._known[digest] = found
            while self._bytes > self._max_bytes:
                self._bytes -= _size(self._known.popitem(last=False)[1])
        return found


def _size(leading: Leading | None) -> int:
    return 0 if leading is None else leading.vectors.nbytes
