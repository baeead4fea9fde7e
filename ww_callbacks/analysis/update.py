"""The change of one layer between two snapshots: how large it is, and in how many directions it points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ww_callbacks import spectra
from ww_callbacks.analysis.flat import flat
from ww_callbacks.analysis.null import null_columns, positions
from ww_callbacks.analysis.spec import LayerSpec, Snapshot, as_matrices, as_numbers, factors_of
from ww_callbacks.spectra import Leading
from ww_callbacks.spectra.types import Floats

MAX_ERROR = 0.01
"""Largest error of an eigenvalue of a change, relative to the mean eigenvalue."""


@dataclass(frozen=True, slots=True)
class Update:
    """The change ΔW of a layer's weights W. A number that does not exist is None.

    Attributes:
        norm: ‖ΔW‖_F/‖W‖_F, with W the later weights.
        unchanged: share of the elements that have the same value as before, of those that were not 0.
        stable_rank: Σλ/λ_max over the eigenvalues λ of ΔWᵀΔW.
        sharpness: λ_max/Σλ, the share of the largest direction.
        rank: number of directions that stand out from noise of the same norm; 0 if ΔW could be noise.
        pvalue: p-value of the spectrum of ΔW if the signs of its elements are random.
        rotation: largest principal angle between the leading subspaces of W before and after, in degrees.
    """

    norm: float | None = None
    unchanged: float | None = None
    stable_rank: float | None = None
    sharpness: float | None = None
    rank: int | None = None
    pvalue: float | None = None
    rotation: float | None = None


NO_UPDATE = Update(norm=0.0, unchanged=1.0, rank=0, rotation=0.0)
"""The weights are the same as before."""


def update_of(spec: LayerSpec, stored: NDArray[Any], before: NDArray[Any], norm: float) -> Update:
    """The change of a layer from one snapshot to a later one.

    ΔW is computed in single precision for weights of at most 32 bits, otherwise in double precision. Its directions are
    counted as those of W: with the test :func:`ww_callbacks.spectra.null_test` and
    :func:`ww_callbacks.spectra.num_directions`. A gradient has at most as many directions as the batch has samples (or
    tokens), so the change in a few steps points in few directions even if the layer learns nothing of use.
    Directions of weights B·A of low rank are not counted, because the test needs the elements of ΔW.

    Args:
        spec: description of the weights.
        stored: the weights, of ``spec.shape`` and ``spec.storage_dtype``.
        before: the earlier weights, of the same shape and dtype.
        norm: Frobenius norm of the weights.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> before = rng.standard_normal((100, 60))
        >>> noise, learned = rng.standard_normal((100, 60)), np.outer(rng.standard_normal(100), rng.standard_normal(60))
        >>> spec = LayerSpec("fc", "Linear", (100, 60), "float64", ((), (0,), (1,)))
        >>> update_of(spec, before + 0.01 * noise, before, 77.0).rank
        0
        >>> update_of(spec, before + 0.01 * noise + 0.01 * learned, before, 77.0).rank
        1
    """
    if np.array_equal(stored, before):
        return NO_UPDATE
    if spec.factors:
        return _low_rank_update(spec, stored, before, norm)
    dtype = np.float64 if spec.storage_dtype.itemsize > 4 else np.float32
    with np.errstate(all="ignore"):
        old = as_matrices(spec, before)
        change = np.subtract(as_matrices(spec, stored), old, dtype=dtype)
        largest = spectra.magnitude(change)
        if not 0 < largest < math.inf:
            return Update()
        try:
            by_position = _eigenvalues(change, largest)
        except ValueError:  # the squares of the change are out of range
            return Update()
        test = null_columns(change, by_position)
        total, top = math.fsum(map(np.sum, by_position)), max(float(values[-1]) for values in by_position)
    return Update(
        norm=math.sqrt(total) / norm if 0 < norm < math.inf else None,
        unchanged=share_unchanged(old, change),
        stable_rank=total / top,
        sharpness=top / total,
        rank=test["num_directions"],
        pvalue=test.get("null_pvalue"),
    )


def share_unchanged(before: NDArray[Any], change: NDArray[Any]) -> float:
    """Share of the elements that have the same value as before, of those that were not 0."""
    others = before != 0
    return float(np.mean(change[others] == 0)) if others.any() else 0.0


def _low_rank_update(spec: LayerSpec, stored: NDArray[Any], before: NDArray[Any], norm: float) -> Update:
    """The change of weights B·A. It is the product of [B, -B'] and A above A', so it is not formed."""
    now, old = (as_numbers(spec, each).astype(np.float64) for each in (stored, before))
    old[:, : spec.factors] *= -1
    stacked = replace(spec, shape=(2 * spec.shape[0], spec.shape[1]), dtype="float64")
    with np.errstate(all="ignore"):
        values = _singular_values(stacked, np.concatenate([now, old])) ** 2
        total, top = float(values.sum()), float(values[-1])
    if not 0 < total < math.inf:
        return Update()
    return Update(
        norm=math.sqrt(total) / norm if 0 < norm < math.inf else None, stable_rank=total / top, sharpness=top / total
    )


def _norm(spec: LayerSpec, stored: NDArray[Any]) -> float:
    if spec.factors:
        return math.hypot(*_singular_values(spec, as_numbers(spec, stored)).tolist())
    return spectra.frobenius_norm(as_matrices(spec, stored))


def _singular_values(spec: LayerSpec, numbers: NDArray[Any]) -> Floats:
    """Singular values of weights B·A; NaN if a weight is not finite."""
    if not numbers.size or not np.isfinite(numbers).all():
        return np.array([math.nan])
    return spectra.factor_singular_values(*factors_of(spec, numbers))


def _eigenvalues(change: NDArray[Any], largest: float) -> list[Floats]:
    """In single precision, which takes less time, unless its error could be a hundredth of the mean eigenvalue."""
    _, rows, columns = change.shape
    by_position, _ = positions(change, largest, "float32")
    top, mean = max(values[-1] for values in by_position), np.mean(by_position)
    if spectra.float32_error(float(top), rows, columns) > MAX_ERROR * mean:
        by_position, _ = positions(change, largest, "float64")
    return by_position


def update_columns(
    spec: LayerSpec,
    now: Snapshot,
    start: Snapshot | None,
    previous: Snapshot | None,
    leading: Callable[[Snapshot], Leading | None] | None = None,
) -> dict[str, Any]:
    """The columns of a report about the change since the first and since the previous snapshot.

    Args:
        spec: description of the weights.
        now: this snapshot.
        start: the first snapshot, if known.
        previous: the previous snapshot, if known.
        leading: computes the leading directions of the layer, to measure how far they turned; None if the spectrum of
            the weights could be noise.
    """
    if start is not None and start.step >= now.step:
        start = None
    if start is None and previous is None:
        return {}
    norm = _norm(spec, now.stored)
    columns: dict[str, Any] = {}
    update = None
    if previous is not None:
        update = _with_rotation(update_of(spec, now.stored, previous.stored, norm), now, previous, leading)
        columns = _since_previous(update, now.step, previous.step)
    if start is None:
        return columns
    if update is None or previous is None or previous.step != start.step:
        update = _with_rotation(update_of(spec, now.stored, start.stored, norm), now, start, leading)
    return columns | _since_start(update, start.step)


def _with_rotation(
    update: Update, now: Snapshot, before: Snapshot, leading: Callable[[Snapshot], Leading | None] | None
) -> Update:
    if leading is None or update is NO_UPDATE:
        return update
    then, found = leading(before), leading(now)
    return update if then is None or found is None else replace(update, rotation=spectra.rotation(then, found))


def unchanged_columns(now: Snapshot, start: Snapshot | None, previous: Snapshot | None) -> dict[str, Any]:
    """The columns that are new in a report if the weights are those of the previous snapshot.

    Args:
        now: this snapshot.
        start: the first snapshot, if known.
        previous: the previous snapshot, if known.
    """
    if previous is None:
        return {}
    columns = _since_previous(NO_UPDATE, now.step, previous.step)
    if start is None or now.digest != start.digest:
        return columns
    return columns | _since_start(NO_UPDATE, start.step)


def _since_previous(update: Update, step: int, since: int) -> dict[str, Any]:
    columns = {f"update_{name}": value for name, value in flat(update).items()}
    rate = None if update.norm is None else update.norm / (step - since)
    return columns | {"update_since": since, "update_norm_per_step": rate}


def _since_start(update: Update, since: int) -> dict[str, Any]:
    columns = {f"learned_{name}": value for name, value in flat(update).items() if name != "unchanged"}
    return columns | {"learned_since": since}
