import numpy as np
import pytest

from ww_callbacks.spectra import LEVEL, eigenvalues, null_test, num_directions

SHAPES = [(64, 32), (128, 128), (512, 64)]


def planted(rng, shape, rank, strength=2.0):
    """Directions at ``strength`` times the onset in Gaussian noise."""
    left = np.linalg.qr(rng.standard_normal((shape[0], rank)))[0]
    right = np.linalg.qr(rng.standard_normal((shape[1], rank)))[0]
    return rng.standard_normal(shape) + strength * (shape[0] * shape[1]) ** 0.25 * left @ right.T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 2, 5, 20])
def test_planted_directions_are_counted(rank, shape):
    rng = np.random.default_rng([7, rank])
    found = [num_directions(eigenvalues(planted(rng, shape, rank)), *shape) for _ in range(25)]
    if 20 * rank <= (shape[0] * shape[1]) ** 0.5:
        assert found.count(rank) >= 22
    else:
        assert max(found) <= rank  # a lower bound


def test_a_decaying_spectrum_without_noise_has_few_directions_that_stand_out():
    values = 1 / np.arange(1, 101) ** 2.0
    assert 1 <= num_directions(values, 300, 100) <= 8


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_low_rank_matrices_without_noise_have_their_rank(shape, scale):
    rng = np.random.default_rng(1)
    W = rng.standard_normal((shape[0], 4)) @ rng.standard_normal((4, shape[1])) * scale
    assert num_directions(eigenvalues(W), *shape) == 4
    assert num_directions(np.zeros(min(shape)), *shape) == 0


def count(W):
    """As in an analysis: no direction unless the null hypothesis is rejected."""
    values = eigenvalues(W)
    return num_directions(values, *W.shape) if null_test(W, values).pvalue <= LEVEL else 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, shape: rng.standard_normal(shape),
        lambda rng, shape: rng.choice([-1.0, 1.0], shape),
        lambda rng, shape: rng.standard_t(5, shape),
        lambda rng, shape: rng.standard_normal(shape) * (rng.random(shape) < 0.1),
        lambda rng, shape: rng.standard_normal(shape) * np.exp(rng.standard_normal((shape[0], 1))),
    ],
    ids=["Gaussian", "signs", "Student-t", "sparse", "uneven rows"],
)
def test_noise_has_no_directions(draw, shape):
    rng = np.random.default_rng(2)
    assert sum(count(draw(rng, shape)) > 0 for _ in range(30)) <= 1


def test_wrong_number_of_eigenvalues():
    with pytest.raises(ValueError, match="expected 20 eigenvalues for 30 x 20"):
        num_directions(np.ones(30), 30, 20)
