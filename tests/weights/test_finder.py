"""Layers that are searched for again only after a change of the model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import ww_callbacks as ww
from ww_callbacks.weights import find_layers, finder
from ww_callbacks.weights.finder import LayerFinder


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(30, 30)
        self.second = nn.Linear(30, 30)
        self.stack = nn.Parameter(torch.zeros(2, 30, 30))


def replace_weight(model: Block) -> None:
    model.first.weight = nn.Parameter(torch.zeros(30, 30))


def replace_module(model: Block) -> None:
    model.first = nn.Linear(30, 40)


def remove_module(model: Block) -> None:
    del model.second


def tie(model: Block) -> None:
    model.second.weight = model.first.weight


def tie_data(model: Block) -> None:
    model.second.weight.data = model.first.weight.data


def halve(model: Block) -> None:
    model.first.weight.data = model.first.weight.data.half()


def parametrise(model: Block) -> None:
    nn.utils.parametrizations.weight_norm(model.first)


def old_weight_norm(model: Block) -> None:
    nn.utils.weight_norm(model.first)


def prune(model: Block) -> None:
    nn.utils.prune.random_unstructured(model.first, "weight", amount=0.5)


def register(model: Block) -> None:
    ww.register_layer(Block, {"stack": "expert out in"})


CHANGES: list[Callable[[Block], None]] = [
    replace_weight,
    replace_module,
    remove_module,
    tie,
    tie_data,
    halve,
    parametrise,
    old_weight_norm,
    prune,
    register,
]


@pytest.fixture(autouse=True)
def unregistered():
    yield
    ww.register_layer(Block, None)


def described(layers):
    values = [None if layer.read is None else layer.read().astype("f8").sum() for layer in layers]
    return [(layer.name, layer.kind, layer.spec, layer.skip, layer.role) for layer in layers], values


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_after_a_change_the_layers_are_those_of_a_new_search(change):
    model = Block()
    find = LayerFinder(model)
    before = find()
    assert find() is before
    change(model)
    assert described(find()) == described(find_layers(model))
    change_back = find()
    assert described(change_back) == described(find_layers(model))


def test_without_a_change_nothing_is_searched_for_and_the_values_are_those_of_now(monkeypatch):
    model = Block()
    find = LayerFinder(model, ["first"])
    (first,) = [layer for layer in find() if layer.spec is not None]
    monkeypatch.setattr(finder, "find_layers", lambda *args, **options: pytest.fail("searched again"))
    with torch.no_grad():
        model.first.weight.fill_(3.0)
    (again,) = [layer for layer in find() if layer.spec is not None]
    assert again is first
    np.testing.assert_array_equal(again.read(), np.full((30, 30), 3.0))


def test_what_is_computed_is_searched_for_each_time():
    model = Block()
    parametrise(model)
    find = LayerFinder(model)
    assert find() is not find()
    assert described(find()) == described(find_layers(model))


def test_a_model_that_is_no_module_is_searched_each_time():
    arrays = {"a": np.ones((30, 30))}
    find = LayerFinder(arrays)
    assert [layer.name for layer in find()] == ["a"]
    arrays["b"] = np.ones((30, 30))
    assert [layer.name for layer in find()] == ["a", "b"]


def test_a_pattern_that_matches_nothing_is_an_error_at_each_search():
    with pytest.raises(ValueError, match="third"):
        LayerFinder(Block(), ["third"])()


def test_a_hook_that_replaces_another_is_a_change():
    model = Block()
    prune(model)
    find = LayerFinder(model)
    before = find()
    prune(model)  # the parameters stay, one hook takes the place of the other
    assert find() is not before
    assert described(find()) == described(find_layers(model))


def arrays() -> dict[str, np.ndarray | torch.Tensor]:
    return {"fc.weight": np.ones((30, 20)), "head.weight": torch.ones(20, 30)}


MAPPING_CHANGES = {
    "another array": lambda model: model.update({"fc.weight": np.zeros((40, 20))}),
    "another tensor": lambda model: model.update({"head.weight": torch.zeros(20, 30).half()}),
    "one more": lambda model: model.update({"more.weight": np.zeros((30, 20))}),
    "one less": lambda model: model.pop("fc.weight"),
    "other data": lambda model: setattr(model["head.weight"], "data", torch.zeros(30, 30)),
    "the same data": lambda model: model.update({"tied.weight": model["head.weight"].T}),
}


@pytest.mark.parametrize("change", MAPPING_CHANGES.values(), ids=MAPPING_CHANGES)
def test_a_mapping_is_searched_again_after_a_change(change):
    model = arrays()
    find = LayerFinder(model)
    assert find() is find()
    change(model)
    found, expected = find(), find_layers(model)
    assert [(layer.name, layer.spec, layer.reason) for layer in found] == [
        (layer.name, layer.spec, layer.reason) for layer in expected
    ]
    for layer, other in zip(found, expected, strict=True):
        if layer.read is not None:
            np.testing.assert_array_equal(layer.read(), other.read())


def test_arrays_that_change_in_place_are_read_again():
    model = arrays()
    find = LayerFinder(model)
    before = find()
    model["fc.weight"] *= 3
    model["head.weight"].mul_(5)
    assert find() is before
    assert [layer.read().max() for layer in find()] == [3, 5]


def test_lists_are_searched_again_each_time():
    """They are copied into arrays when they are found."""
    model = {"fc": [[1.0, 2.0], [3.0, 4.0]]}
    find = LayerFinder(model)
    find()
    model["fc"][0][0] = 7.0
    assert find()[0].read()[0, 0] == 7.0
