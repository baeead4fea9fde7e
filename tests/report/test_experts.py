"""A mixture of experts stays readable."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ww_callbacks as ww
from ww_callbacks.report import LayerReport, Report
from ww_callbacks.report.experts import summarise_experts


def layer(name, alpha=None, **columns):
    status = "ok" if alpha is not None else "skipped"
    return LayerReport(name=name, kind="expert", N=9, M=9, alpha=alpha, status=status, rf=1, **columns)


def expert(number, alpha, block=0):
    return layer(f"blocks.{block}.experts.{number}.down_proj", alpha)


def test_each_block_has_its_smallest_median_and_largest_alpha():
    layers = [expert(number, 2 + number / 10, block) for block in range(2) for number in range(5)]
    first, second = Report((*layers, layer("blocks.0.router", 9.0))).experts()
    assert first.name == "blocks.0.experts.*.down_proj"
    assert first.layers == tuple(f"blocks.0.experts.{number}.down_proj" for number in range(5))
    assert (first.fitted, first.alpha_min, first.alpha_median, first.alpha_max) == (5, 2.0, 2.2, 2.4)
    assert second.name == "blocks.1.experts.*.down_proj"


def test_an_expert_far_from_the_others_and_a_dead_one_are_odd():
    layers = [expert(number, 3 + number / 100) for number in range(20)]
    assert summarise_experts((each.name, each.alpha) for each in layers)[0].odd == ()
    layers[7], layers[9] = expert(7, 4.5), expert(9, None)
    assert summarise_experts((each.name, each.alpha) for each in layers)[0].odd == (layers[7].name, layers[9].name)


def test_few_healthy_experts_are_called_odd():
    """Of 100 models with 64 normal alphas each, under one in a thousand is."""
    generator = np.random.default_rng(0)
    odd = 0
    for _ in range(100):
        alphas = generator.normal(3, 0.3, 64)
        (block,) = summarise_experts((f"experts.{number}.w", alpha) for number, alpha in enumerate(alphas))
        odd += len(block.odd)
    assert odd <= 6


@pytest.mark.parametrize("names", [["experts.0.w", "experts.1.w", "experts.2.w"], ["expertise.3", "layers.4.fc"]])
def test_few_experts_and_other_numbers_are_no_block(names):
    assert summarise_experts((name, 3.0) for name in names) == ()


def test_the_table_has_a_line_for_a_block_and_one_for_each_odd_expert():
    layers = [expert(number, 3 + number / 100) for number in range(128)]
    layers[5], layers[6] = expert(5, 9.0), layer(layers[6].name, reason="all weights are zero")
    lines = str(Report.of(layers, 10)).splitlines()
    assert [line.split("  ")[0] for line in lines[2:4]] == [
        "blocks.0.experts.*.down_proj (127, min to max)",
        "blocks.0.experts.5.down_proj",
    ]
    assert "3.00 to 9.00" in lines[2]
    assert lines[4] == "skipped: blocks.0.experts.6.down_proj (all weights are zero)"


def test_the_table_of_a_large_mixture_has_a_line_per_matrix_of_a_block():
    layers = [
        layer(f"layers.{block}.mlp.experts.{number}.{matrix}_proj", 3 + number / 1000)
        for block in range(60)
        for number in range(128)
        for matrix in ("gate", "up", "down")
    ]
    assert len(str(Report.of(layers)).splitlines()) == 1 + 3 * 60 + 1


def test_experts_of_mlx_have_their_number_last():
    names = [f"layers.0.mlp.switch_mlp.up_proj.{number}" for number in range(5)]
    (block,) = summarise_experts((name, 3.0) for name in names)
    assert (block.name, block.layers) == ("layers.0.mlp.switch_mlp.up_proj.*", tuple(names))


@given(
    st.lists(st.tuples(st.sampled_from([f"experts.{i}.w" for i in range(9)]), st.none() | st.floats(1, 9)), unique=True)
)
def test_no_layer_is_lost_or_shown_twice(alphas):
    for block in summarise_experts(alphas):
        assert set(block.odd) <= set(block.layers)
        assert block.fitted <= len(block.layers)


def test_experts_of_a_model():
    stack = np.random.default_rng(0).standard_normal((6, 60, 40))
    report = ww.analyze({"mlp.experts.down_proj": stack, "mlp.router.weight": stack[0]}, randomize=False)
    (block,) = report.experts()
    assert (block.name, block.fitted) == ("mlp.experts.*.down_proj", 6)
