import numpy as np
import pytest
import torch

import ww_callbacks as ww
from ww_callbacks.weights import find_layers


def only_layer(value):
    (layer,) = find_layers({"w": value})
    return layer


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((), "fewer than two dimensions"),
        ((7,), "fewer than two dimensions"),
        ((3, 4, 5), "3 dimensions"),
        ((2, 3, 4, 5, 6), "5 dimensions"),
    ],
)
@pytest.mark.parametrize("make", [np.ones, torch.ones], ids=["numpy", "torch"])
def test_arrays_that_are_no_matrix_and_no_kernel_are_listed_with_the_reason(shape, reason, make):
    layer = only_layer(make(shape))
    assert (layer.spec, layer.read) == (None, None)
    assert reason in layer.reason


@pytest.mark.parametrize("make", [np.ones, torch.ones], ids=["numpy", "torch"])
def test_two_dimensions_are_a_matrix_and_four_a_kernel_in_torch_order(make):
    matrix, kernel = find_layers({"m": make((7, 5)), "k": make((8, 4, 3, 2))})
    assert (matrix.kind, matrix.spec.matrix_shape, matrix.spec.role) == ("matrix", (1, 7, 5), "matrix")
    assert (kernel.kind, kernel.spec.matrix_shape, kernel.spec.role) == ("kernel", (6, 8, 4), "convolution")


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i8", "f2", ">f4", "f8"])
def test_real_numbers_of_any_kind_give_the_alpha_of_the_same_numbers_in_float64(dtype):
    array = (30 * np.random.default_rng(0).standard_normal((60, 40))).astype("i1").astype(dtype)
    report = ww.analyze({"w": array})["w"]
    expected = ww.analyze({"w": array.astype("f8")})["w"]
    assert report.status == "ok"
    assert report.alpha == pytest.approx(expected.alpha, rel=1e-9)
    assert report.norm == pytest.approx(expected.norm, rel=1e-9)


@pytest.mark.parametrize(
    "value",
    [
        np.ones((30, 30), complex),
        np.array([["a", "b"], ["c", "d"]]),
        np.array([[None, 1], [2, 3]], dtype=object),
        np.zeros((3, 3), "M8[s]"),
        np.zeros((3, 3), [("x", "f4")]),
        "weights",
        None,
    ],
    ids=["complex", "strings", "objects", "dates", "records", "str", "None"],
)
def test_what_are_no_real_numbers_is_skipped_with_its_dtype_and_stops_nothing(value):
    report = ww.analyze({"odd": value, "w": np.random.default_rng(0).standard_normal((60, 40))})
    assert report["odd"].status == "skipped"
    assert "unsupported dtype" in report["odd"].reason
    assert report["w"].status == "ok"


def test_nested_mappings_are_a_tree_whose_names_are_joined():
    weights = np.random.default_rng(0).standard_normal((60, 40))
    tree = {"encoder": {"fc": {"weight": weights, "bias": np.zeros(60)}, "label": "text"}, "head.weight": weights.T}
    assert [(layer.name, layer.reason) for layer in find_layers(tree)] == [
        ("encoder.fc", ""),
        ("head", "shares its weight with encoder.fc"),
    ]
    checkpoint = {"model": {"fc.weight": weights}, "optimizer": {"state": {0: {"exp_avg": weights.copy()}}}}
    assert [layer.name for layer in find_layers(checkpoint)] == ["fc"]
    alike = {"optimal": {"kernel": weights}, "net": {"optimal": {"kernel": weights.copy()}}}
    assert [layer.name for layer in find_layers(alike)] == ["optimal", "net.optimal"]
    assert [layer.name for layer in find_layers({"value": weights, "empty": {}})] == ["value"]


def test_a_ragged_list_stops_nothing_but_its_own_layer():
    report = ww.analyze({"odd": [[1.0], [1.0, 2.0]], "w": np.random.default_rng(0).standard_normal((60, 40))})
    assert report["odd"].status == "skipped"
    assert report["odd"].reason
    assert report["w"].status == "ok"


def test_nested_lists_are_taken_as_arrays():
    layer = only_layer([[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(layer.read(), [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("name", [1, None, ("a", "b"), b"w"])
def test_names_that_are_no_strings_are_refused(name):
    with pytest.raises(TypeError, match="names that are strings"):
        find_layers({name: np.ones((3, 3))})


@pytest.mark.parametrize("model", [None, 3, b"model.pt", np.ones((3, 3)), [np.ones((3, 3))], torch.ones(3, 3)])
def test_models_of_an_unknown_kind_are_refused_by_name_of_the_argument(model):
    with pytest.raises(TypeError, match=r"^model: expected .*" + type(model).__name__):
        find_layers(model)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).reshape(3, 4).t(),
        torch.arange(12.0).reshape(3, 4).requires_grad_(),
        torch.nn.Parameter(torch.arange(12.0).reshape(4, 3)),
    ],
    ids=["transposed", "requires_grad", "parameter"],
)
def test_torch_tensors_in_a_mapping_are_read_as_they_are_stored(tensor):
    layer = only_layer(tensor)
    np.testing.assert_array_equal(layer.read(), tensor.detach().numpy())
    assert layer.spec.dtype == "float32"


def test_arrays_are_read_anew_at_each_read():
    array = np.zeros((3, 4))
    layer = only_layer(array)
    array[1, 2] = 5.0
    assert layer.read()[1, 2] == 5.0


def test_a_state_dict_gives_the_results_of_its_module():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(80, 60), torch.nn.Conv2d(30, 40, 2))
    by_module, by_mapping = ww.analyze(module), ww.analyze(module.state_dict())
    for name in ("0", "1"):
        assert by_module[name].alpha == by_mapping[name].alpha
    assert [layer.name for layer in by_mapping] == ["0", "1"]


def test_an_empty_mapping_has_no_layers():
    assert find_layers({}) == ()


def test_a_module_in_a_mapping_is_told_what_to_do():
    report = ww.analyze({"generator": torch.nn.Linear(60, 40), "w": np.random.default_rng(0).standard_normal((60, 40))})
    assert "pass it alone or in an nn.ModuleDict" in report["generator"].reason
    assert report["w"].status == "ok"


def test_weights_tied_by_a_transposed_view_are_analysed_once():
    weight = torch.randn(60, 40)
    report = ww.analyze({"a.weight": weight, "b.weight": weight.T, "c.weight": weight.clone()})
    assert [layer.reason for layer in report] == ["", "shares its weight with a", ""]
