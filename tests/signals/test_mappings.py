"""Mappings from alphas to ratios: by hand, as published, and what holds for all of them."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ww_callbacks.signals.mappings import MAPPINGS, averaged, block_means, block_of, ratios_of, share_beyond_noise

alphas = st.lists(
    st.one_of(st.floats(1.001, 30.0), st.sampled_from([None, math.nan, math.inf, -math.inf])), min_size=1, max_size=12
)
mappings = st.sampled_from(MAPPINGS)
ranges = st.tuples(st.floats(0.05, 5.0), st.floats(0.05, 5.0)).map(sorted)


def finite(alpha):
    return alpha is not None and math.isfinite(alpha)


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ("linear", [0.5, 0.5 + 1 / 14, 1.5, 0.5 + 1 / 14]),  # 2, 3, 16, 3 between 2 and 16
        ("sqrt", [4 * math.sqrt(a) / (math.sqrt(2) + 2 * math.sqrt(3) + 4) for a in (2, 3, 16, 3)]),
        ("log2", [4 * b / (1 + 2 * math.log2(3) + 4) for b in (1, math.log2(3), 4, math.log2(3))]),
        ("rank", [0.5, 0.5 + 1.5 / 4, 0.5 + 3 / 4, 0.5 + 1.5 / 4]),  # ranks 0, 1½, 3, 1½ of 4
        ("sigmoid", [0.5 * 3 ** (1 / (1 + math.exp(-10 * (a - 6)))) for a in (2, 3, 16, 3)]),
    ],
)
def test_by_hand(mapping, expected):
    low, high = (0.01, 100.0) if mapping in ("sqrt", "log2") else (0.5, 1.5)
    assert ratios_of([2.0, 3.0, 16.0, 3.0], mapping, low, high) == pytest.approx(expected, rel=1e-12)


def test_the_published_ranges():
    tempbalance = ratios_of([2.0, 2.5, 4.0], "linear", 0.5, 1.5)
    assert (min(tempbalance), max(tempbalance)) == (0.5, 1.5)
    assert ratios_of([2.0, 3.0, 4.0, 5.0], "rank", 0.5, 1.5) == [0.5, 0.75, 1.0, 1.25]  # never the upper end
    llr = ratios_of([2.0, 3.0, 4.0], "linear", 1.0, 5.0)
    assert llr == [1.0, 3.0, 5.0]
    alpha_decay = ratios_of([2.0, 4.0], "linear", 2 / 3, 5.0)
    assert alpha_decay == pytest.approx([2 / 3, 5.0])
    for s in (0.125, 1.0, 2.0):  # Model Balancing: 10^φ, φ = s (σ(τ (a - mean)) - ½), τ = 10
        values = [2.9, 3.0, 3.1]
        expected = [10 ** (s * (1 / (1 + math.exp(-10 * (a - 3.0))) - 0.5)) for a in values]
        assert ratios_of(values, "sigmoid", 10 ** (-s / 2), 10 ** (s / 2)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mapping", ["sqrt", "log2"])
def test_sqrt_and_log2_keep_the_mean_rate(mapping):
    assert math.fsum(ratios_of([2.0, 2.5, 3.0, 4.0], mapping, 0.01, 10.0)) == pytest.approx(4.0)


def test_sqrt_and_log2_end_at_the_ends_of_the_range():
    assert ratios_of([1.1, 3.0, 30.0], "sqrt", 0.5, 1.5) == [0.5, pytest.approx(3 * 3**0.5 / 8.2582, abs=1e-4), 1.5]
    assert ratios_of([1.0, 1.0, 8.0], "log2", 0.5, 1.5) == [0.5, 0.5, 1.5]


@given(alphas, mappings, ranges)
def test_within_the_range_and_one_where_there_is_no_number(values, mapping, ends):
    low, high = ends
    ratios = ratios_of(values, mapping, low, high)
    assert len(ratios) == len(values)
    for alpha, ratio in zip(values, ratios, strict=True):
        assert low <= ratio <= high or ratio == 1.0
        assert finite(alpha) or ratio == 1.0


@given(alphas, mappings, st.randoms())
def test_permuting_the_layers_permutes_the_ratios(values, mapping, random):
    order = random.sample(range(len(values)), len(values))
    ratios = ratios_of(values, mapping, 0.5, 1.5)
    assert ratios_of([values[i] for i in order], mapping, 0.5, 1.5) == [ratios[i] for i in order]


@given(alphas, mappings)
def test_a_larger_alpha_never_gets_a_smaller_ratio(values, mapping):
    pairs = sorted((a, r) for a, r in zip(values, ratios_of(values, mapping, 0.5, 1.5), strict=True) if finite(a))
    for (_, smaller), (_, larger) in pairwise(pairs):
        assert larger >= smaller - 1e-12


@given(alphas, mappings)
def test_layers_without_a_number_do_not_count_for_the_others(values, mapping):
    ratios = ratios_of(values, mapping, 0.5, 1.5)
    known = [a for a in values if finite(a)]
    assert [r for a, r in zip(values, ratios, strict=True) if finite(a)] == ratios_of(known, mapping, 0.5, 1.5)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("values", [[], [3.0], [3.0, 3.0, 3.0], [3.0, 3.0 * (1 + 1e-12)], [None, math.nan, 2.0]])
def test_equal_alphas_or_a_single_one_change_nothing(mapping, values):
    assert ratios_of(values, mapping, 0.5, 1.5) == [1.0] * len(values)


def test_huge_alphas_overflow_nowhere():
    for mapping in MAPPINGS:
        assert all(0.5 <= ratio <= 1.5 for ratio in ratios_of([1.0, 1e300, 1.7e308], mapping, 0.5, 1.5))


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("transformer.h.11.mlp.c_fc", "transformer.h.11"),
        ("encoder.layers.0.blocks.3.q", "encoder.layers.0"),
        ("block_2.attention.query", "block_2"),
        ("conv1", "conv1"),
        ("0", "0"),
    ],
)
def test_the_block_of_a_layer(name, block):
    assert block_of(name) == block


def test_a_block_has_the_mean_of_its_numbers_and_its_error():
    rng = np.random.default_rng(0)
    draws = rng.normal([2.0, 3.0, 5.0], [0.3, 0.4, 0.1], (20_000, 3))
    means, errors = block_means(["h.0.q", "h.0.k", "h.1.q"], [2.0, 3.0, 5.0], [0.3, 0.4, 0.1])
    assert means == [2.5, 2.5, 5.0]
    assert errors[0] == errors[1] == pytest.approx(np.std(draws[:, :2].mean(axis=1)), rel=0.03)
    assert errors[2] == 0.1


@pytest.mark.parametrize("errors", [[0.1] * 3, [0.1] * 10, [0.01, 0.1, 0.1, 1.0, 10.0], [1e-3, 1.0]])
def test_layers_that_differ_by_their_errors_share_nothing_in_99_of_100_draws(errors):
    rng = np.random.default_rng(1)
    found = [share_beyond_noise(list(rng.normal(2.0, errors)), errors) for _ in range(8_000)]
    assert np.mean(np.array(found) > 0) == pytest.approx(0.01, abs=0.005)


def test_one_noisy_layer_does_not_hide_that_the_others_differ():
    assert share_beyond_noise([2.0, 2.0, 3.0, 2.5], [0.01, 0.01, 0.01, 5.0]) == 1.0


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_nine_layers_that_differ_by_chance_get_one_ratio_beside_one_that_differs(mapping):
    rng = np.random.default_rng(2)
    for _ in range(50):
        alphas, errors = [*rng.normal(2.0, 0.02, 9), 3.0], [0.02] * 10
        plain = ratios_of(alphas, mapping, 0.5, 1.5)
        found = averaged(plain, alphas, errors)
        assert np.ptp(found[:9]) < 0.3 * np.ptp(plain[:9])
        assert found[9] == pytest.approx(plain[9], abs=1e-3)
        assert found[9] > max(found[:9])


@given(st.lists(st.tuples(st.floats(0.5, 1.5), st.floats(1.01, 20), st.floats(1e-3, 1)), min_size=1, max_size=8))
def test_an_average_lies_between_the_ratios_and_does_not_depend_on_the_order(rows):
    found = averaged(*(list(column) for column in zip(*rows, strict=True)))
    assert min(r for r, _, _ in rows) - 1e-9 <= min(found) <= max(found) <= max(r for r, _, _ in rows) + 1e-9
    assert averaged(*(list(column) for column in zip(*rows[::-1], strict=True)))[::-1] == pytest.approx(found)
