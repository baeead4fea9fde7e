import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import ww_callbacks as ww
from ww_callbacks.analysis import as_matrices
from ww_callbacks.weights import find_layers
from ww_callbacks.weights.names import plain_name


def named(model):
    return {layer.name: layer for layer in find_layers(model)}


def outcome(model):
    return {layer.name: layer.reason or "analysed" for layer in find_layers(model)}


class Special(nn.Linear):
    pass


class Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))


# --- what is analysed ------------------------------------------------------------------------------------------------


def test_the_matrix_of_a_linear_layer_is_its_weight():
    linear = nn.Linear(5, 7)
    layer = named(nn.Sequential(linear))["0"]
    assert (layer.kind, layer.spec.shape, layer.spec.dtype, layer.spec.role) == ("Linear", (7, 5), "float32", "matrix")
    np.testing.assert_array_equal(as_matrices(layer.spec, layer.read()), linear.weight.detach().numpy()[None])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_matrices_of_a_convolution_are_one_per_kernel_position(memory_format):
    conv = nn.Conv2d(4, 6, (3, 2)).to(memory_format=memory_format)
    layer = named(nn.Sequential(conv))["0"]
    assert (layer.kind, layer.spec.role, layer.spec.matrix_shape) == ("Conv2d", "convolution", (6, 6, 4))
    matrices = as_matrices(layer.spec, np.ascontiguousarray(layer.read()))
    positions = [(i, j) for i in range(3) for j in range(2)]
    for matrix, (i, j) in zip(matrices, positions, strict=True):
        np.testing.assert_array_equal(matrix, conv.weight[:, :, i, j].detach().numpy())


def test_subclasses_are_analysed_under_their_own_kind():
    layer = named(nn.Sequential(Special(5, 7)))["0"]
    assert (layer.kind, layer.spec.shape) == ("Special", (7, 5))


def test_layers_come_in_the_order_of_the_model_under_full_dotted_names():
    model = nn.Sequential()
    model.add_module("stem", nn.Conv2d(3, 4, 3))
    model.add_module("body", nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Sequential(nn.Linear(5, 6))))
    model.add_module("head", nn.Linear(6, 2))
    assert list(named(model)) == ["stem", "body.0", "body.2.0", "head"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
def test_weights_of_every_precision_are_read_exactly(dtype, transposed):
    torch.manual_seed(0)
    weight = (torch.randn(8, 8) * torch.logspace(-9, 4, 8)).to(dtype)
    linear = nn.Linear(8, 8)
    linear.weight = nn.Parameter(weight.t() if transposed else weight)
    layer = named(nn.Sequential(linear))["0"]
    assert layer.read().dtype == layer.spec.storage_dtype
    matrix = as_matrices(layer.spec, layer.read())[0]
    np.testing.assert_array_equal(matrix.astype(np.float64), linear.weight.detach().double().numpy())


def test_bfloat16_special_values_survive():
    linear = nn.Linear(2, 2, dtype=torch.bfloat16)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[float("nan"), float("inf")], [-float("inf"), -0.0]]))
    layer = named(nn.Sequential(linear))["0"]
    matrix = as_matrices(layer.spec, layer.read())[0]
    np.testing.assert_array_equal(matrix, [[np.nan, np.inf], [-np.inf, 0.0]])
    assert np.signbit(matrix[1, 1])


def test_reading_gives_the_weights_as_they_are_now_and_on_the_cpu_without_a_copy():
    linear = nn.Linear(3, 4)
    layer = named(nn.Sequential(linear))["0"]
    with torch.no_grad():
        linear.weight.fill_(7.0)
    assert (layer.read() == 7.0).all()
    assert layer.read().ctypes.data == linear.weight.data_ptr()


def test_a_replaced_parameter_is_read_when_layers_are_found_again():
    linear = nn.Linear(3, 4)
    model = nn.Sequential(linear)
    find_layers(model)
    linear.weight = nn.Parameter(torch.full((4, 3), 9.0))
    assert (named(model)["0"].read() == 9.0).all()


# --- what is listed with the reason ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.BatchNorm2d(4), "fewer than two dimensions"),
        (nn.LayerNorm(4), "fewer than two dimensions"),
        (nn.PReLU(), "fewer than two dimensions"),
        (nn.LayerNorm((4, 5), bias=False), "normalisation weights"),
        (nn.Bilinear(3, 4, 5), "bilinear form"),
        (nn.Conv2d(4, 4, 3, groups=4), "does not mix channels"),
        (nn.ConvTranspose2d(4, 4, 3, groups=4), "does not mix channels"),
        (nn.Linear(3, 4, dtype=torch.complex64), "complex64"),
        (Unknown(), "no rule for this weight; add one with register_layer(Unknown, ...)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value,
)
def test_layers_that_are_not_analysed_are_listed_once_with_the_reason(module, reason):
    layers = find_layers(nn.Sequential(module, nn.Linear(2, 3)))
    assert [layer.name for layer in layers] == ["0", "1"]
    assert (layers[0].spec, layers[0].read, layers[0].kind) == (None, None, type(module).__name__)
    assert reason in layers[0].reason
    assert layers[1].spec is not None


def test_layers_without_weights_are_not_listed():
    assert find_layers(nn.Sequential(nn.ReLU(), nn.Dropout(), nn.MaxPool2d(2), nn.LayerNorm(4, bias=False))) != ()
    assert find_layers(nn.Sequential(nn.ReLU(), nn.Dropout(), nn.BatchNorm1d(3, affine=False))) == ()


def test_integer_weights_are_skipped():
    linear = nn.Linear(3, 4)
    linear.weight = nn.Parameter(torch.ones(4, 3, dtype=torch.int8), requires_grad=False)
    assert "int8" in outcome(nn.Sequential(linear))["0"]


def test_sparse_weights_are_skipped():
    linear = nn.Linear(3, 4)
    linear.weight = nn.Parameter(torch.ones(4, 3).to_sparse())
    assert "sparse" in outcome(nn.Sequential(linear))["0"]


def test_kinds_are_the_classes_that_users_know():
    layers = find_layers(
        nn.Sequential(nn.MultiheadAttention(8, 2), nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)))
    )
    assert {layer.name: layer.kind for layer in layers}["0.out_proj"] == "Linear"
    assert layers[-1].kind == "Linear"


def test_a_tied_weight_is_analysed_once_and_the_alias_names_the_first():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    assert outcome(model) == {"0": "analysed", "1": "analysed", "2": "shares its weight with 0"}


def test_a_module_that_is_used_twice_is_listed_once():
    linear = nn.Linear(6, 6)
    assert list(outcome(nn.Sequential(linear, nn.ReLU(), linear))) == ["0"]


def test_a_head_tied_to_an_embedding_is_analysed_once():
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
    model[1].weight = model[0].weight
    assert outcome(model) == {"0": "analysed", "1": "shares its weight with 0"}


def test_a_head_tied_to_an_embedding_that_is_too_large_is_analysed(monkeypatch):
    monkeypatch.setattr("ww_callbacks.weights.kinds.MAX_ROWS", 9)
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10))
    model[1].weight = model[0].weight
    first, second = find_layers(model)
    assert first.reason.startswith("embedding with 10 rows, more than 9;")
    assert second.spec is not None


def test_views_of_one_memory_are_one_weight_and_slices_of_it_are_not():
    model = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
    model[1].weight = nn.Parameter(model[0].weight.detach())
    model[2].weight = nn.Parameter(model[0].weight.detach().t())
    model[3].weight = nn.Parameter(torch.randn(12, 6)[6:])
    assert [layer.reason for layer in find_layers(model)] == ["", *2 * ["shares its weight with 0"], ""]


@pytest.mark.parametrize(
    ("lazy", "data"), [(nn.LazyLinear(5), torch.ones(2, 3)), (nn.LazyConv2d(5, 3), torch.ones(1, 2, 8, 8))]
)
def test_lazy_layers_are_listed_first_and_analysed_once_they_have_weights(lazy, data):
    model = nn.Sequential(lazy)
    assert "not initialised yet" in outcome(model)["0"]
    model(data)
    assert outcome(model) == {"0": "analysed"}


def test_lazy_norms_are_listed_first_too():
    assert "not initialised yet" in outcome(nn.Sequential(nn.LazyBatchNorm1d()))["0"]


def test_weights_on_the_meta_device_are_skipped_until_they_are_somewhere():
    model = nn.Sequential(nn.Linear(3, 4, device="meta"))
    assert "meta device" in outcome(model)["0"]
    model.to_empty(device="cpu")
    assert outcome(model) == {"0": "analysed"}


# --- names -----------------------------------------------------------------------------------------------------------


def plain_model():
    return nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 5)))


def compiled_inside():
    model = plain_model()
    model[1] = torch.compile(model[1])
    return model


@pytest.mark.parametrize(
    "wrapped",
    [
        torch.compile(plain_model()),
        compiled_inside(),
        nn.DataParallel(plain_model()),
        nn.DataParallel(torch.compile(plain_model())),
        nn.DataParallel(nn.DataParallel(plain_model())),
    ],
    ids=["compile", "inner compile", "DataParallel", "DataParallel of compile", "twice"],
)
def test_names_are_the_same_with_and_without_wrappers(wrapped):
    assert outcome(wrapped) == outcome(plain_model()) == {"0": "analysed", "1.0": "analysed"}


def test_names_are_the_same_where_a_wrapped_model_is_compiled():
    # torch's advice for DDP: wrap first, compile the wrapper.
    assert outcome(torch.compile(nn.DataParallel(plain_model()))) == outcome(plain_model())


@pytest.mark.timeout(60)
def test_names_are_the_same_under_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert outcome(nn.parallel.DistributedDataParallel(plain_model())) == outcome(plain_model())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("", ""),
        ("_orig_mod", ""),
        ("_fsdp_wrapped_module.encoder._checkpoint_wrapped_module.fc", "encoder.fc"),
        ("my_orig_mod.fc", "my_orig_mod.fc"),
    ],
)
def test_plain_name_takes_only_whole_parts_away(name, plain):
    assert plain_name(name) == plain


@pytest.mark.parametrize("wrap", [lambda model: model, torch.compile], ids=["plain", "compiled"])
def test_a_model_that_is_itself_a_layer_is_named_by_its_class(wrap):
    assert outcome(wrap(nn.Linear(3, 4))) == {"Linear": "analysed"}
    assert list(outcome(wrap(nn.LSTM(3, 4)))) != []


def test_a_compiled_parametrised_layer_is_listed_once():
    model = torch.compile(parametrizations.weight_norm(nn.Linear(3, 4)))
    assert len(find_layers(model)) == 1


def test_parameters_of_the_root_module_are_listed_under_their_own_names():
    model = nn.Module()
    model.scale = nn.Parameter(torch.ones(3))
    model.table = nn.Parameter(torch.ones(3, 4))
    model.fc = nn.Linear(3, 4)
    result = outcome(model)
    assert list(result) == ["scale", "table", "fc"]
    assert "fewer than two dimensions" in result["scale"]
    assert "no rule" in result["table"]
    assert result["fc"] == "analysed"


def test_names_of_layers_are_unique():
    model = nn.Module()
    model.Linear = nn.Linear(2, 3)
    model.attention = nn.MultiheadAttention(4, 2)
    model.norm = parametrizations.weight_norm(nn.Linear(3, 4))
    names = [layer.name for layer in find_layers(model)]
    assert len(names) == len(set(names))


# --- the model is only read ------------------------------------------------------------------------------------------


def test_the_power_iteration_of_spectral_norm_is_not_advanced():
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(30, 30)), nn.Linear(30, 30))
    model.train()
    before = copy.deepcopy(model.state_dict())
    assert any(key.endswith("_u") for key in before)
    find_layers(model)
    ww.analyze(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    _ = model[0].weight  # what the test is about: reading it in training mode does advance the iteration
    assert not all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_nothing_about_the_model_changes():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 30, 3), nn.BatchNorm2d(30), nn.Linear(40, 50), nn.LSTM(4, 4), nn.LazyLinear(3), nn.Dropout()
    ).to(torch.bfloat16)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    model[2].eval()
    state = {key: value.clone() for key, value in model.state_dict().items() if not nn.parameter.is_lazy(value)}
    versions = [parameter._version for parameter in model[:4].parameters()]
    attributes = [sorted(vars(module)) for module in model.modules()]
    ww.analyze(model)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    assert [parameter._version for parameter in model[:4].parameters()] == versions
    assert [sorted(vars(module)) for module in model.modules()] == attributes
    assert (model[0].weight.grad == 1).all()
    assert [module.training for module in model] == [True, True, False, True, True, True]
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert nn.parameter.is_lazy(model[4].weight)


def test_global_random_states_are_not_touched():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    model = nn.Sequential(nn.Linear(60, 80), nn.Conv2d(30, 30, 2), nn.LazyLinear(4))
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    find_layers(model)
    assert ww.analyze(model)["0"].status == "ok"
    after = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert all(np.array_equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert before[2] == after[2]


def test_analysis_is_the_same_in_every_precision_that_holds_the_weights_exactly():
    torch.manual_seed(0)
    linear = nn.Linear(60, 80).to(torch.bfloat16)
    alphas = [ww.analyze(copy.deepcopy(linear).to(dtype))["Linear"].alpha for dtype in (torch.bfloat16, torch.float64)]
    assert alphas[0] == pytest.approx(alphas[1], rel=1e-9)
