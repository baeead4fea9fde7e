import numpy as np
import pytest
from scipy.linalg import subspace_angles

from ww_callbacks.spectra import leading_directions, num_intruders, rotation, subspace_loss

SHAPES = [(60, 40), (40, 60), (300, 200), (150, 400)]


def orthonormal(rng, rows, count):
    return np.linalg.qr(rng.standard_normal((rows, count)))[0]


def planted(rng, shape, strengths, left=None):
    """Noise of variance 1 with directions; strengths in units of the onset of detection."""
    rows, columns = shape
    left = orthonormal(rng, rows, len(strengths)) if left is None else left
    scale = (rows * columns) ** 0.25 * np.asarray(strengths)
    return rng.standard_normal(shape) + left * scale @ orthonormal(rng, columns, len(strengths)).T


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_leading_directions_are_those_of_the_full_decomposition(shape, dtype, scale):
    scale = 1.0 if dtype == "float16" else scale
    matrix = (scale * planted(np.random.default_rng(0), shape, [6, 5, 3])).astype(dtype)
    left, singular, _ = np.linalg.svd(matrix.astype(np.float64) / scale, full_matrices=False)
    found = leading_directions(matrix, 6)
    assert found.values / scale**2 == pytest.approx(singular[:6] ** 2, rel=1e-4)
    assert found.num_directions == found.num_separate == 3
    assert np.degrees(subspace_angles(found.vectors[:, :3], left[:, :3])).max() < 0.1
    assert found.vectors.T @ found.vectors == pytest.approx(np.eye(6), abs=1e-3)


def test_small_directions_beside_a_huge_one_are_computed_in_double_precision():
    rng = np.random.default_rng(1)
    left = orthonormal(rng, 300, 2)
    matrix = planted(rng, (300, 200), [1e6, 5], left).astype(np.float32)
    exact = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)[0]
    found = leading_directions(matrix, 6)
    assert found.num_separate == 2
    assert np.degrees(subspace_angles(found.vectors[:, :2], exact[:, :2])).max() < 0.1


def test_the_same_matrix_gives_the_same_directions():
    matrix = planted(np.random.default_rng(2), (300, 200), [5, 4])
    first, second = leading_directions(matrix, 6), leading_directions(matrix.copy(), 6)
    assert np.array_equal(first.vectors, second.vectors)


@pytest.mark.parametrize("size", [(50, 40), (200, 150)])
def test_matrices_without_directions_are_refused(size, capfd):
    zero, broken = np.zeros(size), np.full(size, np.nan)
    for matrix in (zero, broken, zero + np.inf):
        with pytest.raises(ValueError, match="expected finite elements that are not all zero"):
            leading_directions(matrix, 6)
    with pytest.raises(ValueError, match="count: expected at least 1 direction"):
        leading_directions(zero, 0)
    assert capfd.readouterr().err == "", "LAPACK prints nothing"


@pytest.mark.parametrize("degrees", [0, 5, 30, 90])
@pytest.mark.parametrize("shape", SHAPES[2:])
def test_the_rotation_is_the_angle_by_which_a_direction_was_turned(shape, degrees):
    rng = np.random.default_rng(3)
    left = orthonormal(rng, shape[0], 4)
    angle = np.radians(degrees)
    turned = np.column_stack([left[:, 0], np.cos(angle) * left[:, 1] + np.sin(angle) * left[:, 3], left[:, 2]])
    right = orthonormal(rng, shape[1], 3)
    scale = 20 * (shape[0] * shape[1]) ** 0.25 * np.array([3, 2, 1.5])
    noise = rng.standard_normal(shape)
    before, now = (leading_directions(noise + each * scale @ right.T, 6) for each in (left[:, :3], turned))
    assert rotation(before, now) == pytest.approx(degrees, abs=1)


def test_noise_has_no_rotation_and_turns_little():
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((300, 200))
    assert rotation(leading_directions(noise, 6), leading_directions(noise, 6)) is None
    before = planted(rng, (300, 200), [8, 6, 4])
    now = before + 0.01 * rng.standard_normal(before.shape)
    assert rotation(leading_directions(before, 6), leading_directions(now, 6)) < 1


def test_directions_with_close_eigenvalues_are_not_separated():
    rng = np.random.default_rng(5)
    left, right = orthonormal(rng, 300, 8), orthonormal(rng, 200, 8)
    equal = left * 500 @ right.T + rng.standard_normal((300, 200))
    found = leading_directions(equal, 6)
    assert (found.num_directions, found.num_separate) == (6, 0)
    assert rotation(found, found) is None


@pytest.mark.parametrize("kept", [0, 1, 3, 4])
def test_the_loss_is_the_share_of_the_directions_that_are_gone(kept):
    rng = np.random.default_rng(6)
    left = orthonormal(rng, 300, 8)
    before, now = (
        leading_directions(planted(rng, (300, 200), [40, 36, 33, 30], each), 20)
        for each in (left[:, :4], np.column_stack([left[:, :kept], left[:, 4 : 8 - kept]]))
    )
    assert before.num_directions == 4
    assert subspace_loss(before, now) == pytest.approx(1 - kept / 4, abs=0.02)


def test_without_directions_nothing_can_be_lost():
    noise = leading_directions(np.random.default_rng(7).standard_normal((300, 200)), 20)
    assert subspace_loss(noise, noise) is None


def reference_intruders(now, before, count=10, threshold=0.5):
    """Shuttleworth et al. (arXiv 2410.21228), section 3, without a null."""
    left, base = (np.linalg.svd(each, full_matrices=False)[0] for each in (now, before))
    return int((np.abs(base.T @ left[:, :count]).max(axis=0) < threshold).sum())


@pytest.mark.parametrize("rank", [1, 3, 10])
@pytest.mark.parametrize("shape", SHAPES[2:])
def test_intruders_of_low_rank_are_counted_as_in_the_paper(shape, rank):
    rng = np.random.default_rng(rank)
    base = planted(rng, shape, [9, 7, 5])
    change = 30 * orthonormal(rng, shape[0], rank) @ orthonormal(rng, shape[1], rank).T * shape[0] ** 0.5
    now = base + change
    vectors = leading_directions(now, 10).vectors
    assert num_intruders(vectors, base, change) == reference_intruders(now, base) == min(rank, 10)


@pytest.mark.parametrize("size", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES[2:])
def test_noise_makes_no_intruder_but_would_without_the_null(shape, size):
    rng = np.random.default_rng(8)
    base = planted(rng, shape, [9, 7, 5])
    change = size * rng.standard_normal(shape)
    now = base + change
    assert num_intruders(leading_directions(now, 10).vectors, base, change) == 0
    if size == 1.0:
        assert reference_intruders(now, base) > 0


def test_a_direction_of_the_base_that_grows_is_no_intruder():
    rng = np.random.default_rng(9)
    base = planted(rng, (300, 200), [9, 7, 5])
    left, _, right = np.linalg.svd(base, full_matrices=False)
    for index in (0, 50, 150):
        change = 300 * np.outer(left[:, index], right[index])
        assert num_intruders(leading_directions(base + change, 10).vectors, base, change) == 0
        assert num_intruders(leading_directions((base + change).T, 10).vectors, base.T, change.T) == 0


def test_a_base_without_full_rank_has_intruders_outside_its_range():
    rng = np.random.default_rng(10)
    left = orthonormal(rng, 300, 6)
    base = left[:, :5] * 50 @ orthonormal(rng, 200, 5).T
    change = 80 * np.outer(left[:, 5], orthonormal(rng, 200, 1))
    for now, before, moved in ((base + change, base, change), ((base + change).T, base.T, change.T)):
        assert num_intruders(leading_directions(now, 10).vectors, before, moved) == 1
