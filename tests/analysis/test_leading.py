from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ww_callbacks.analysis import LayerSpec
from ww_callbacks.analysis.leading import LeadingCache, leading_of, side_by_side
from ww_callbacks.analysis.spec import Snapshot

SPEC = LayerSpec("fc", "Linear", (90, 70), "float32", ((), (0,), (1,)))


def snapshot(seed):
    return Snapshot(seed, np.random.default_rng(seed).standard_normal((90, 70)).astype("f4"), f"{seed:032x}")


def test_weights_with_the_same_digest_are_decomposed_once_and_the_oldest_are_forgotten():
    size = leading_of(snapshot(0).stored[None], 6).vectors.nbytes
    cache = LeadingCache(2 * size)
    first = cache.get(SPEC, snapshot(0))
    assert cache.get(SPEC, snapshot(0)) is first
    second = cache.get(SPEC, snapshot(1))
    cache.get(SPEC, snapshot(0))
    cache.get(SPEC, snapshot(2))
    assert cache.get(SPEC, snapshot(0)) is first
    assert cache.get(SPEC, snapshot(1)) is not second


def test_threads_share_the_cache():
    cache, expected = LeadingCache(), [leading_of(snapshot(seed).stored[None], 6) for seed in range(5)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: cache.get(SPEC, snapshot(seed % 5)), range(20)))
    assert all(np.array_equal(each.vectors, expected[seed % 5].vectors) for seed, each in enumerate(found))


def test_kernel_positions_stand_side_by_side():
    kernel = np.random.default_rng(0).standard_normal((4, 30, 20))
    assert np.array_equal(side_by_side(kernel), np.hstack(list(kernel)))
    assert side_by_side(kernel[:1]) is not None
    assert leading_of(kernel, 6).vectors.shape == (30, 6)


def test_weights_without_a_decomposition_have_none():
    assert leading_of(np.zeros((1, 0, 5)), 6) is None
