"""What lifts the largest eigenvalue of a shuffled matrix, and what counts as a trap."""

import math

import numpy as np
import pytest

from ww_callbacks.spectra import shuffled_control, trap_cause

SHAPES = [(64, 32), (128, 128), (512, 64)]


def onset(shape):
    """The size at which a single element is an eigenvalue outside the bulk of unit Gaussian elements."""
    return math.prod(shape) ** 0.25


def normal(rng, shape):
    return rng.standard_normal(shape)


def mean(rng, shape):
    return rng.standard_normal(shape) + 2 / onset(shape)


def elements(rng, shape):
    W = rng.standard_normal(shape)
    W.reshape(-1)[rng.choice(W.size, rng.integers(1, 4), replace=False)] = 2 * onset(shape)
    return W


def rows(rng, shape):
    W = rng.standard_normal(shape)
    W[rng.integers(shape[0])] *= 2 * onset(shape)
    return W


def shifted_rows(rng, shape):
    W = rng.standard_normal(shape)
    W[rng.integers(shape[0])] += 2 * onset(shape)
    return W


def columns(rng, shape):
    return rows(rng, shape[::-1]).T


def shifted_columns(rng, shape):
    return shifted_rows(rng, shape[::-1]).T


def sparse(rng, shape):
    return rng.standard_normal(shape) * (rng.random(shape) < 0.05)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (mean, "mean"),
        (elements, "elements"),
        (rows, "rows"),
        (shifted_rows, "rows"),
        (columns, "columns"),
        (shifted_columns, "columns"),
        (sparse, "kurtosis"),
    ],
)
def test_kind_of_planted_causes(plant, kind, shape):
    """At twice the onset; a kind is given if the largest eigenvalue is above the edge, which is not always so."""
    rng = np.random.default_rng(0)
    kinds = [shuffled_control(plant(rng, shape)).trap_kind for _ in range(25)]
    named = [found for found in kinds if found is not None]
    assert len(named) >= 6
    assert named.count(kind) >= 0.95 * len(named)


def uneven(rng, shape):
    return rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], 1)))


def uneven_both(rng, shape):
    return rng.standard_normal(shape) * np.exp(
        0.5 * (rng.standard_normal((shape[0], 1)) + rng.standard_normal(shape[1]))
    )


def diagonal(rng, shape):
    return np.eye(*shape) + 0.01 * rng.standard_normal(shape)


def identity(rng, shape):
    return np.eye(*shape)


def tenth(rng, shape):
    return rng.standard_normal(shape) * (rng.random(shape) < 0.1)


def laplace(rng, shape):
    return rng.laplace(size=shape)


@pytest.mark.parametrize("draw", [normal, uneven, uneven_both, diagonal, identity, tenth, laplace, rows, columns])
@pytest.mark.parametrize("shape", SHAPES)
def test_fresh_weights_of_any_kind_have_no_traps(draw, shape):
    rng = np.random.default_rng(1)
    controls = [shuffled_control(draw(rng, shape)) for _ in range(25)]
    assert sum(control.num_traps > 0 for control in controls) <= 1
    assert sum(control.trap_pvalue <= 0.05 for control in controls) <= 5  # 1.25 expected, p = 0.001


@pytest.mark.parametrize(("kind", "size"), [("mean", 0.1), ("elements", 9.0)])
def test_traps_in_sparse_weights_are_found(kind, size):
    """Zeros move the edge by a fifth, not beyond a cause that is far above it."""
    rng = np.random.default_rng(2)
    for _ in range(10):
        W = tenth(rng, (128, 128))
        if kind == "mean":
            W += size
        else:
            W[5, 6] = size
        assert shuffled_control(W).num_traps == 1


def test_places_are_indices_of_the_matrix_as_given():
    W = np.random.default_rng(3).standard_normal((40, 90))
    W[7, 80], W[31, 2] = 60.0, -50.0
    assert shuffled_control(W).trap_places == (((7, 80), 60.0), ((31, 2), -50.0))
    stack = np.stack([np.random.default_rng(4).standard_normal(W.shape), W])[:, :, ::-1]
    assert shuffled_control(stack).trap_places == (((1, 7, 9), 60.0), ((1, 31, 87), -50.0))
    V = np.random.default_rng(4).standard_normal((60, 90))
    V[:, 17] *= 40
    cause = trap_cause(V)
    (index, scale), *others = cause.places
    assert (cause.kind, index, len(others)) == ("columns", (17,), 4)
    assert scale == pytest.approx(40, rel=0.3)
    assert max(value for _, value in others) < 3


def test_rows_of_random_signs_are_structure_and_shifted_rows_are_not():
    rng = np.random.default_rng(5)
    assert all(trap_cause(rows(rng, (128, 96))).is_structure for _ in range(20))
    assert not any(trap_cause(shifted_rows(rng, (128, 96))).is_structure for _ in range(20))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
@pytest.mark.parametrize(
    "matrix",
    [
        np.full((1, 60), 3.0),
        np.linspace(-1, 1, 60)[None],
        np.ones((20, 30)),
        np.outer(np.ones(20), np.arange(30.0)),
        np.where(np.arange(600).reshape(20, 30) % 7, 1.0, -1.0),
        np.where(np.arange(600).reshape(20, 30) == 250, 1e6, 0.0),
        np.where(np.arange(600).reshape(20, 30) == 250, 1e80, np.arange(600).reshape(20, 30) != 3),
        np.where(np.arange(600).reshape(20, 30) == 250, 1e-120, 1e-250),
    ],
    ids=["one equal row", "one row", "equal", "equal rows", "two values", "one element", "1e80 beside 1", "tiny"],
)
def test_degenerate_matrices_have_a_cause(matrix, scale):
    for each in (matrix, matrix.T):
        cause, control = trap_cause(each * scale), shuffled_control(each * scale)
        assert cause.kind in ("mean", "rows", "columns", "elements", "kurtosis", "mixed")
        assert 0 <= control.trap_pvalue <= 1
        assert all(math.isfinite(value) for _, value in cause.places)
