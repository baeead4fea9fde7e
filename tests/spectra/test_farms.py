import numpy as np
import pytest

from ww_callbacks.spectra import eigenvalues, farms_alpha, hill_alpha

POPULATIONS = {
    "noise": np.ones(64),
    "power law": (np.arange(1, 65) / 64) ** -0.25,
    "spikes": np.concatenate([np.full(4, 6.0), np.ones(60)]),
}


@pytest.mark.parametrize("population", POPULATIONS)
def test_estimate_is_the_same_for_every_shape(population):
    """Within 2 % of the mean over shapes from 64 x 64 to 1024 x 64; alpha_hill grows by half or more."""
    rng, farms, hill = np.random.default_rng(0), [], []
    for rows in (64, 96, 128, 250, 512, 1024):
        matrices = [rng.standard_normal((rows, 64)) * POPULATIONS[population] for _ in range(2560 // rows + 8)]
        farms.append(np.mean([farms_alpha(matrix) for matrix in matrices]))
        hill.append(np.mean([hill_alpha(eigenvalues(matrix)) for matrix in matrices]))
    assert max(farms) / min(farms) < 1.04
    assert all(abs(value / np.mean(farms) - 1) < 0.02 for value in farms)
    assert max(hill) / min(hill) > 1.4


def test_kernel_positions_are_pooled():
    rng = np.random.default_rng(1)
    stack = rng.standard_normal((9, 40, 40))
    values = np.concatenate([eigenvalues(matrix) for matrix in stack])
    assert farms_alpha(stack) == pytest.approx(1 + (hill_alpha(values) - 1) * 179 / 180)


def test_windows_cover_every_row_and_do_not_depend_on_the_orientation():
    """Without one of its rows, a matrix has another estimate, wherever the row is."""
    W = np.random.default_rng(2).standard_normal((100, 40))
    assert farms_alpha(W) == farms_alpha(W.T)
    assert farms_alpha(W, seed=1) != farms_alpha(W)
    for row in range(100):
        changed = W.copy()
        changed[row] *= 3
        assert farms_alpha(changed) != farms_alpha(W)


@pytest.mark.parametrize("bad", [np.eye(40), np.zeros((60, 40)), np.full((60, 40), np.nan), np.zeros((0, 4))])
def test_no_estimate(bad):
    with pytest.raises(ValueError):  # noqa: PT011 - the reason depends on the matrix
        farms_alpha(bad)
