"""The spectrum of a product from its factors equals the dense one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ww_callbacks import spectra


def factors(rng, outputs, rank, inputs):
    return rng.standard_normal((outputs, rank)), rng.standard_normal((rank, inputs))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 24)] * 3),
    exponents=st.tuples(*[st.integers(-30, 30)] * 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_values_equal_those_of_the_dense_product(shape, exponents, seed):
    B, A = factors(np.random.default_rng(seed), *shape)
    up, down = (10.0**exponent for exponent in exponents)
    dense = np.linalg.svd(B @ A, compute_uv=False)[::-1] * up * down
    values = spectra.factor_singular_values(B * up, A * down)
    assert len(values) == min(shape)
    np.testing.assert_allclose(values, dense[-len(values) :], rtol=1e-6, atol=1e-12 * dense[-1])
    np.testing.assert_allclose(dense[: -len(values)], 0, atol=1e-12 * dense[-1])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_dtype_and_any_order_in_memory_will_do(dtype):
    B, A = (each.astype(dtype) for each in factors(np.random.default_rng(0), 50, 4, 30))
    dense = np.linalg.svd(B.astype(float) @ A.astype(float), compute_uv=False)[:4]
    np.testing.assert_allclose(spectra.factor_singular_values(np.asfortranarray(B), A)[::-1], dense, rtol=1e-6)


def test_a_zero_factor_gives_zeros():
    B, A = factors(np.random.default_rng(0), 6, 3, 8)
    assert not spectra.factor_singular_values(0 * B, A).any()
    assert not spectra.factor_singular_values(B, 0 * A).any()


def test_factors_whose_product_alone_is_in_range():
    values = spectra.factor_singular_values(np.full((4, 1), 1e300), np.full((1, 4), 1e-300))
    np.testing.assert_allclose(values, [4.0])
    assert spectra.factor_singular_values(np.full((4, 1), 1e300), np.full((1, 4), 1e300)).tolist() == [np.inf]


@pytest.mark.parametrize("shapes", [((4, 2), (3, 5)), ((4,), (4, 5)), ((0, 2), (2, 5)), ((4, 0), (0, 5))])
def test_shapes_that_do_not_fit_are_an_error(shapes):
    with pytest.raises(ValueError, match="B, A: expected shapes"):
        spectra.factor_singular_values(*map(np.ones, shapes))


@settings(deadline=None, max_examples=60)
@given(values=st.lists(st.floats(0, 1e300), min_size=1, max_size=30), share=st.floats(0.1, 0.999))
def test_the_rank_used_is_the_smallest_that_holds_the_share(values, share):
    values = np.sort(values)
    used = spectra.rank_used(values, share)
    scaled = values / (values[-1] or 1.0)
    held = [scaled[len(scaled) - k :].sum() for k in range(len(scaled) + 1)]
    assert held[used] >= share * held[-1] * (1 - 1e-12)
    assert used == 0 or held[used - 1] <= share * held[-1] * (1 + 1e-12)


def test_truncation_to_the_rank_used_changes_a_tenth_of_the_norm_at_most():
    B, A = factors(np.random.default_rng(0), 80, 16, 60)
    B = B * 0.6 ** np.arange(16)
    values = spectra.factor_singular_values(B, A)
    used = spectra.rank_used(values**2)
    assert 1 < used < 16
    assert np.linalg.norm(values[: 16 - used]) <= 0.1 * np.linalg.norm(values)
    assert np.linalg.norm(values[: 17 - used]) > 0.1 * np.linalg.norm(values)
