"""Which matrices a torch module holds: held against what the module itself does with a random input."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import ww_callbacks as ww
from ww_callbacks.analysis import as_matrices
from ww_callbacks.weights import find_layers
from ww_callbacks.weights.split import split_layers

Array = np.ndarray
Matrices = dict[str, Array]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated", "ignore:.*spectral_norm.*is deprecated"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:.*quantized tensor.*deprecated"),
]


def matrices_of(module: nn.Module, **arguments: Any) -> Matrices:
    """What we extract: name without that of the module → (pooled, rows = outputs, columns = inputs)."""
    layers = find_layers(nn.Sequential(module), **arguments)
    found = [layer for layer in layers if layer.spec is not None and layer.role != "adapter"]
    assert len({layer.name for layer in found}) == len(found)
    read = {layer.name.removeprefix("0").removeprefix("."): layer for layer in found}
    for layer in found:
        assert layer.read().shape == layer.spec.shape
        assert layer.read().dtype == layer.spec.storage_dtype
    return {name: as_matrices(layer.spec, layer.read()).astype(np.float64) for name, layer in read.items()}


def reasons_of(module: nn.Module, **arguments: Any) -> dict[str, str]:
    return {
        layer.name.removeprefix("0").removeprefix("."): layer.reason
        for layer in find_layers(nn.Sequential(module), **arguments)
        if layer.spec is None
    }


def noise(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def only(matrices: Matrices) -> Array:
    assert list(matrices) == [""], list(matrices)
    return matrices[""]


# --- what modules do, in numpy ---------------------------------------------------------------------------------------


def linear(matrices: Matrices, x: Array) -> Array:
    (matrix,) = only(matrices)
    return x @ matrix.T


def embedding(matrices: Matrices, x: Array) -> Array:
    (matrix,) = only(matrices)
    return matrix.T[x]


def bag(matrices: Matrices, x: Array) -> Array:
    return embedding(matrices, x).mean(1)


def convolution(*kernel: int, groups: int = 1) -> Callable[[Matrices, Array], Array]:
    """Sum over positions of one matrix each, per group (the last of the pooled axes)."""

    def forward(matrices: Matrices, x: Array) -> Array:
        taps = only(matrices).reshape(*kernel, groups, *only(matrices).shape[1:])
        size = [have - k + 1 for have, k in zip(x.shape[2:], kernel, strict=True)]
        x = x.reshape(len(x), groups, -1, *x.shape[2:])
        out = np.zeros((len(x), groups, taps.shape[-2], *size))
        for position in np.ndindex(*kernel):
            window = x[(..., *(slice(at, at + n) for at, n in zip(position, size, strict=True)))]
            out += np.einsum("goi,bgi...->bgo...", taps[position], window)
        return out.reshape(len(x), -1, *size)

    return forward


def transposed(*kernel: int, groups: int = 1) -> Callable[[Matrices, Array], Array]:
    """Each input spreads over the positions, by one matrix each, per group."""

    def forward(matrices: Matrices, x: Array) -> Array:
        taps = only(matrices).reshape(*kernel, groups, *only(matrices).shape[1:])
        size = [have + k - 1 for have, k in zip(x.shape[2:], kernel, strict=True)]
        given = x.shape[2:]
        x = x.reshape(len(x), groups, -1, *given)
        out = np.zeros((len(x), groups, taps.shape[-2], *size))
        for position in np.ndindex(*kernel):
            where = (..., *(slice(at, at + n) for at, n in zip(position, given, strict=True)))
            out[where] += np.einsum("goi,bgi...->bgo...", taps[position], x)
        return out.reshape(len(x), -1, *size)

    return forward


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def single(matrices: Matrices) -> Matrices:
    return {name: matrix for name, (matrix,) in matrices.items()}


def lstm_way(of: Mapping[str, Array], x: Array, end: str) -> Array:
    """One direction of one layer; ``weight_hr`` projects the hidden state where there is one."""
    hr = of.get(f"weight_hr{end}")
    cells = len(of[f"weight_ih{end}.i"])
    h, c = np.zeros((len(x), cells if hr is None else len(hr))), np.zeros((len(x), cells))
    states = []
    for now in x.transpose(1, 0, 2):
        i, f, g, o = (now @ of[f"weight_ih{end}.{k}"].T + h @ of[f"weight_hh{end}.{k}"].T for k in "ifgo")
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        h = h if hr is None else h @ hr.T
        states.append(h)
    return np.stack(states, 1)


def lstm(matrices: Matrices, x: Array) -> Array:
    """Two layers, both ways."""
    of = single(matrices)
    for layer in range(2):
        ways = [lstm_way(of, x, f"_l{layer}"), lstm_way(of, x[:, ::-1], f"_l{layer}_reverse")[:, ::-1]]
        x = np.concatenate(ways, axis=-1)
    return x


def gru(matrices: Matrices, x: Array) -> Array:
    of = single(matrices)
    h = np.zeros((len(x), len(of["weight_ih_l0.r"])))
    for now in x.transpose(1, 0, 2):
        r, z = (sigmoid(now @ of[f"weight_ih_l0.{k}"].T + h @ of[f"weight_hh_l0.{k}"].T) for k in "rz")
        n = np.tanh(now @ of["weight_ih_l0.n"].T + r * (h @ of["weight_hh_l0.n"].T))
        h = (1 - z) * n + z * h
    return h


def rnn(matrices: Matrices, x: Array) -> Array:
    of = single(matrices)
    h = np.zeros((len(x), len(of["weight_ih_l0"])))
    for now in x.transpose(1, 0, 2):
        h = np.tanh(now @ of["weight_ih_l0"].T + h @ of["weight_hh_l0"].T)
    return h


def one_step(step: Callable[[Matrices, Array], Array]) -> Callable[[Matrices, Array], Array]:
    """A cell is a recurrent layer on a series of one."""
    return lambda matrices, x: step({name.replace("h.", "h_l0.", 1) if "." in name else f"{name}_l0": m
                                     for name, m in matrices.items()}, x[:, None])  # fmt: skip


def lstm_once(matrices: Matrices, x: Array) -> Array:
    return lstm_way(single(matrices), x, "_l0")[:, -1]


def attention(matrices: Matrices, x: Array, memory: Array | None = None, heads: int = 2) -> Array:
    of = single(matrices)
    memory = x if memory is None else memory
    split = lambda y: y.reshape(*y.shape[:2], heads, -1).transpose(0, 2, 1, 3)  # noqa: E731
    q, k, v = split(x @ of["q"].T), split(memory @ of["k"].T), split(memory @ of["v"].T)
    scores = np.exp(q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]))
    mixed = (scores / scores.sum(-1, keepdims=True)) @ v
    return mixed.transpose(0, 2, 1, 3).reshape(x.shape) @ of["out_proj"].T


# --- the modules -----------------------------------------------------------------------------------------------------


class Lora(nn.Module):
    """A layer with low-rank additions as peft documents it, for one adapter or several."""

    def __init__(self, base: nn.Module, rank: int = 2, alpha: float = 3.0, fan_in_fan_out: bool = False) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A, self.lora_B = nn.ModuleDict(), nn.ModuleDict()
        self.lora_embedding_A, self.lora_embedding_B = nn.ParameterDict(), nn.ParameterDict()
        self.scaling: dict[str, float] = {}
        self.active_adapters = ["default"]
        self.merged = self.disable_adapters = False
        self.fan_in_fan_out = fan_in_fan_out
        for name in ("default", "other"):
            self.add(name, base, rank)
            self.scaling[name] = alpha / rank

    def add(self, name: str, base: Any, rank: int) -> None:
        if isinstance(base, nn.Embedding):
            self.lora_embedding_A[name] = nn.Parameter(torch.randn(rank, base.num_embeddings))
            self.lora_embedding_B[name] = nn.Parameter(torch.randn(base.embedding_dim, rank))
        elif isinstance(base, nn.Conv2d):
            self.lora_A[name] = nn.Conv2d(base.in_channels, rank, base.kernel_size, bias=False)
            self.lora_B[name] = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        else:
            sides = base.weight.shape if self.fan_in_fan_out else base.weight.shape[::-1]
            self.lora_A[name] = nn.Linear(sides[0], rank, bias=False)
            self.lora_B[name] = nn.Linear(rank, sides[1], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.base_layer(x)
        active = [self.active_adapters] if isinstance(self.active_adapters, str) else self.active_adapters
        for name in [] if self.merged or self.disable_adapters else active:
            if name in self.lora_A:
                result = result + self.lora_B[name](self.lora_A[name](x)) * self.scaling[name]
            else:
                down, up = self.lora_embedding_A[name], self.lora_embedding_B[name]
                result = result + nn.functional.embedding(x, down.T) @ up.T * self.scaling[name]
        return result


def lora(base: nn.Module, **changes: Any) -> Lora:
    layer = Lora(base, fan_in_fan_out=changes.pop("fan_in_fan_out", False))
    for name, value in changes.items():
        setattr(layer, name, value)
    return layer


def hf_conv1d() -> nn.Module:
    module = pytest.importorskip("transformers.pytorch_utils").Conv1D(4, 5)
    nn.init.normal_(module.weight)
    return module


def quantised(module: nn.Module, kind: type) -> nn.Module:
    quantization = pytest.importorskip("torch.ao.quantization")
    return quantization.quantize_dynamic(nn.Sequential(module), {kind}, dtype=torch.qint8)[0]


class Scaled(nn.Module):
    """A parametrisation of a user's own, which draws random numbers and counts while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return 2 * weight + torch.rand(()) * 0 + (torch.rand_like(weight) if self.training else 0)


def scaled(module: nn.Module) -> nn.Module:
    nn.utils.parametrize.register_parametrization(module, "weight", Scaled())
    return module


def pruned(module: nn.Module) -> nn.Module:
    return prune.random_unstructured(module, "weight", 0.5)


@dataclass
class Case:
    """A module, an input, and what the module makes of the input, computed with our matrices."""

    module: Callable[[], nn.Module]
    x: Array
    forward: Callable[[Matrices, Array], Array]
    call: Callable[[Any, torch.Tensor], Any] = lambda module, x: module(x)


def last(module: Any, x: torch.Tensor) -> torch.Tensor:
    return module(x)[0][:, -1]


VECTORS, SERIES, IDS = noise(3, 5), noise(3, 6, 5), np.array([[0, 3], [8, 3]])
PLAIN: dict[str, Any] = {"bias": False}
BATCH: dict[str, Any] = {"bias": False, "batch_first": True}

CASES = {
    "Linear": Case(lambda: nn.Linear(5, 4, **PLAIN), VECTORS, linear),
    "Linear in bfloat16": Case(
        lambda: nn.Linear(5, 4, **PLAIN, dtype=torch.bfloat16), VECTORS, linear, lambda m, x: m.float()(x)
    ),
    "Linear in float16": Case(
        lambda: nn.Linear(5, 4, **PLAIN, dtype=torch.float16), VECTORS, linear, lambda m, x: m.float()(x)
    ),
    "Conv1d": Case(lambda: nn.Conv1d(5, 4, 3, **PLAIN), noise(2, 5, 7), convolution(3)),
    "Conv2d": Case(lambda: nn.Conv2d(3, 4, (3, 2), **PLAIN), noise(2, 3, 6, 5), convolution(3, 2)),
    "Conv3d": Case(lambda: nn.Conv3d(2, 4, (3, 2, 1), **PLAIN), noise(2, 2, 4, 5, 3), convolution(3, 2, 1)),
    "Conv1d, groups": Case(lambda: nn.Conv1d(6, 9, 2, groups=3, **PLAIN), noise(2, 6, 5), convolution(2, groups=3)),
    "Conv2d, groups": Case(
        lambda: nn.Conv2d(8, 6, (3, 2), groups=2, **PLAIN), noise(2, 8, 6, 5), convolution(3, 2, groups=2)
    ),
    "Conv2d, channels last": Case(
        lambda: nn.Conv2d(8, 6, (3, 2), groups=2, **PLAIN).to(memory_format=torch.channels_last),
        noise(2, 8, 6, 5),
        convolution(3, 2, groups=2),
    ),
    "ConvTranspose1d": Case(lambda: nn.ConvTranspose1d(5, 4, 3, **PLAIN), noise(2, 5, 7), transposed(3)),
    "ConvTranspose2d": Case(lambda: nn.ConvTranspose2d(3, 4, (3, 2), **PLAIN), noise(2, 3, 4, 5), transposed(3, 2)),
    "ConvTranspose3d": Case(
        lambda: nn.ConvTranspose3d(2, 4, (3, 2, 1), **PLAIN), noise(2, 2, 3, 4, 3), transposed(3, 2, 1)
    ),
    "ConvTranspose2d, groups": Case(
        lambda: nn.ConvTranspose2d(8, 6, (3, 2), groups=2, **PLAIN), noise(2, 8, 4, 5), transposed(3, 2, groups=2)
    ),
    "Embedding": Case(lambda: nn.Embedding(9, 4), IDS, embedding),
    "EmbeddingBag": Case(lambda: nn.EmbeddingBag(9, 4), IDS, bag),
    "LSTM": Case(lambda: nn.LSTM(5, 4, 2, bidirectional=True, **BATCH), SERIES, lstm, lambda m, x: m(x)[0]),
    "LSTM with projections": Case(
        lambda: nn.LSTM(5, 4, 2, bidirectional=True, proj_size=3, **BATCH), SERIES, lstm, lambda m, x: m(x)[0]
    ),
    "GRU": Case(lambda: nn.GRU(5, 4, **BATCH), SERIES, gru, last),
    "RNN": Case(lambda: nn.RNN(5, 4, **BATCH), SERIES, rnn, last),
    "LSTMCell": Case(lambda: nn.LSTMCell(5, 4, **PLAIN), VECTORS, one_step(lstm_once), lambda m, x: m(x)[0]),
    "GRUCell": Case(lambda: nn.GRUCell(5, 4, **PLAIN), VECTORS, one_step(gru)),
    "RNNCell": Case(lambda: nn.RNNCell(5, 4, **PLAIN), VECTORS, one_step(rnn)),
    "MultiheadAttention": Case(
        lambda: nn.MultiheadAttention(8, 2, **BATCH), noise(2, 3, 8), attention, lambda m, x: m(x, x, x)[0]
    ),
    "MultiheadAttention, other sizes": Case(
        lambda: nn.MultiheadAttention(8, 2, kdim=5, vdim=5, **BATCH),
        noise(2, 3, 8),
        lambda matrices, x: attention(matrices, x, x[..., :5]),
        lambda m, x: m(x, x[..., :5], x[..., :5])[0],
    ),
    "Conv1D of transformers": Case(hf_conv1d, VECTORS, linear),
    "weight_norm": Case(lambda: parametrizations.weight_norm(nn.Linear(5, 4, **PLAIN)), VECTORS, linear),
    "spectral_norm": Case(
        lambda: parametrizations.spectral_norm(nn.Linear(5, 4, **PLAIN)).eval(), VECTORS, linear
    ),
    "orthogonal": Case(lambda: parametrizations.orthogonal(nn.Linear(5, 5, **PLAIN)), VECTORS, linear),
    "parametrised convolution": Case(
        lambda: parametrizations.weight_norm(nn.Conv2d(8, 6, (3, 2), groups=2, **PLAIN)),
        noise(2, 8, 6, 5),
        convolution(3, 2, groups=2),
    ),
    "parametrised twice": Case(
        lambda: scaled(parametrizations.weight_norm(nn.Linear(5, 4, **PLAIN))).eval(), VECTORS, linear
    ),
    "weight_norm by hook": Case(lambda: nn.utils.weight_norm(nn.Linear(5, 4, **PLAIN)), VECTORS, linear),
    "spectral_norm by hook": Case(lambda: nn.utils.spectral_norm(nn.Linear(5, 4, **PLAIN)).eval(), VECTORS, linear),
    "spectral_norm by hook, transposed": Case(
        lambda: nn.utils.spectral_norm(nn.ConvTranspose1d(5, 4, 3, **PLAIN)).eval(), noise(2, 5, 7), transposed(3)
    ),
    "pruned": Case(lambda: pruned(nn.Linear(5, 4, **PLAIN)), VECTORS, linear),
    "pruned twice": Case(lambda: pruned(pruned(nn.Linear(5, 4, **PLAIN))), VECTORS, linear),
    "recurrent with weight_norm by hook": Case(
        lambda: nn.utils.weight_norm(nn.GRU(5, 4, **BATCH), "weight_hh_l0"), SERIES, gru, last
    ),
    "LoRA": Case(lambda: lora(nn.Linear(5, 4, **PLAIN)), VECTORS, linear),
    "LoRA, two adapters": Case(
        lambda: lora(nn.Linear(5, 4, **PLAIN), active_adapters=["default", "other"]), VECTORS, linear
    ),
    "LoRA, older": Case(lambda: lora(nn.Linear(5, 4, **PLAIN), active_adapters="other"), VECTORS, linear),
    "LoRA, merged": Case(lambda: lora(nn.Linear(5, 4, **PLAIN), merged=True), VECTORS, linear),
    "LoRA, switched off": Case(lambda: lora(nn.Linear(5, 4, **PLAIN), disable_adapters=True), VECTORS, linear),
    "LoRA of a convolution": Case(
        lambda: lora(nn.Conv2d(3, 4, (3, 2), **PLAIN)), noise(2, 3, 6, 5), convolution(3, 2)
    ),
    "LoRA of an embedding": Case(lambda: lora(nn.Embedding(9, 4)), IDS, embedding),
    "LoRA of a Conv1D": Case(lambda: lora(hf_conv1d(), fan_in_fan_out=True), VECTORS, linear),
    # Ones and zeros: dynamic quantisation rounds its inputs as well.
    "quantised Linear": Case(
        lambda: quantised(nn.Linear(5, 4, **PLAIN), nn.Linear), np.eye(5, dtype=np.float32), linear
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_module_does_what_our_matrices_do(name: str) -> None:
    torch.manual_seed(0)
    case = CASES[name]
    module = case.module()
    state = copy.deepcopy({key: value for key, value in module.state_dict().items() if torch.is_tensor(value)})
    matrices = matrices_of(module)
    after = module.state_dict()
    assert all(torch.equal(after[key], value) for key, value in state.items())
    with torch.no_grad():
        expected = case.call(module, torch.from_numpy(case.x)).numpy()
    seen = case.forward(matrices, case.x)
    assert seen.shape == expected.shape
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(seen, expected, rtol=2e-3, atol=2e-5)


COMPUTED = ("norm", "LoRA", "orthogonal", "pruned", "parametrised", "quantised")


@pytest.mark.parametrize("name", [name for name in CASES if not any(word in name for word in COMPUTED)])
def test_no_weight_of_a_module_is_passed_over(name: str) -> None:
    """The elements of the matrices are those of the weights, where these are stored as they are used."""
    torch.manual_seed(0)
    module = CASES[name].module()
    own = dict(module.named_parameters())
    held = sum(parameter.numel() for parameter in own.values() if parameter.ndim >= 2)
    assert sum(matrix.size for matrix in matrices_of(module).values()) == held


# --- nothing about a module changes ----------------------------------------------------------------------------------

TRAINED = {
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(30, 20)),
    "spectral_norm by hook": lambda: nn.utils.spectral_norm(nn.Linear(30, 20)),
    "weight_norm by hook": lambda: nn.utils.weight_norm(nn.Linear(30, 20)),
    "of a user's own": lambda: scaled(nn.Linear(30, 20)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(30, 20)),
    "LoRA": lambda: lora(nn.Linear(30, 20)),
    "pruned": lambda: pruned(nn.Linear(30, 20)),
}


@pytest.mark.parametrize("make", TRAINED.values(), ids=TRAINED)
def test_reading_a_module_in_training_changes_nothing(make) -> None:
    torch.manual_seed(0)
    module = make().train()
    module(torch.randn(2, 30)).sum().backward()
    state = copy.deepcopy(module.state_dict())
    grads = {name: parameter.grad for name, parameter in module.named_parameters()}
    modes = [inner.training for inner in module.modules()]
    attributes = [sorted(vars(inner)) for inner in module.modules()]
    random_state = torch.get_rng_state()
    for _ in range(2):
        matrices_of(module)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert [inner.training for inner in module.modules()] == modes
    assert [sorted(vars(inner)) for inner in module.modules()] == attributes
    assert all(grads[name] is parameter.grad for name, parameter in module.named_parameters())


def test_the_weight_that_spectral_norm_used_last_is_the_one_we_see() -> None:
    torch.manual_seed(0)
    module = parametrizations.spectral_norm(nn.Linear(30, 20, bias=False)).train()
    x = torch.eye(30)
    used = module(x).detach().numpy().T
    np.testing.assert_allclose(only(matrices_of(module))[0], used, rtol=1e-5, atol=1e-7)


def test_weights_of_a_parametrised_module_follow_its_training() -> None:
    module = parametrizations.weight_norm(nn.Linear(5, 4))
    (layer,) = find_layers(nn.Sequential(module))
    with torch.no_grad():
        module.parametrizations.weight.original0.mul_(3)
    np.testing.assert_allclose(layer.read(), module.weight.detach().numpy(), rtol=1e-6)


def test_a_parametrisation_that_fails_is_told_and_stops_nothing() -> None:
    class Fails(nn.Module):
        fails = False

        def forward(self, weight):
            if self.fails:
                raise RuntimeError("out of order")
            return weight

    module = nn.Linear(5, 4)
    nn.utils.parametrize.register_parametrization(module, "weight", Fails())
    module.parametrizations.weight[0].fails = True
    assert reasons_of(module) == {"": "computed weight: computing it failed: out of order"}


# --- what is listed --------------------------------------------------------------------------------------------------


def test_large_embeddings_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ww_callbacks.weights.kinds.MAX_ROWS", 8)
    assert reasons_of(nn.Embedding(9, 4))[""].startswith("embedding with 9 rows, more than 8;")
    assert reasons_of(nn.Embedding(8, 4)) == {}


def test_biases_of_an_attention_are_listed() -> None:
    assert reasons_of(nn.MultiheadAttention(8, 2, add_bias_kv=True)) == {
        "bias_k": "no matrix: a bias",
        "bias_v": "no matrix: a bias",
    }


def test_further_weights_of_a_module_that_has_a_rule_are_listed() -> None:
    class Gated(nn.Linear):
        def __init__(self) -> None:
            super().__init__(5, 4)
            self.gate = nn.Parameter(torch.randn(5, 4))

    assert list(matrices_of(Gated())) == [""]
    assert "no rule" in reasons_of(Gated())["gate"]


def test_a_low_rank_variant_that_is_no_sum_is_skipped() -> None:
    module = lora(nn.Linear(5, 4), use_dora={"default": True})
    assert reasons_of(module) == {"": "low-rank adapter: DoRA without its magnitudes"}
    module = lora(nn.Linear(5, 4), lora_variant={"default": nn.Identity()})
    assert reasons_of(module) == {"": "low-rank adapter: the variant Identity is not supported"}


@pytest.mark.parametrize("changes", [{}, {"merged": True}, {"disable_adapters": True}])
@pytest.mark.parametrize(
    ("base", "sides"), [(nn.Linear(5, 4), (4, 5)), (nn.Conv2d(3, 4, (3, 2)), (4, 18)), (nn.Embedding(9, 4), (4, 9))]
)
def test_each_active_adapter_is_a_layer_of_low_rank(base: nn.Module, sides: tuple[int, int], changes: Any) -> None:
    module = lora(base, active_adapters=["default", "other"], **changes)
    layers = [layer for layer in find_layers(nn.Sequential(module)) if layer.role == "adapter"]
    assert [layer.name for layer in layers] == ["0.lora_default", "0.lora_other"]
    assert [layer.spec.matrix_shape for layer in layers] == [(1, *sides)] * 2
    for layer, name in zip(layers, module.active_adapters, strict=True):
        if name in module.lora_A:
            A, B = (part[name].weight.detach().numpy() for part in (module.lora_A, module.lora_B))
        else:
            A, B = (part[name].detach().numpy() for part in (module.lora_embedding_A, module.lora_embedding_B))
        product = 1.5 * B.reshape(len(B), -1) @ A.reshape(len(A), -1)
        np.testing.assert_allclose(as_matrices(layer.spec, layer.read())[0], product, rtol=1e-5, atol=1e-6)
        assert layer.read().dtype == layer.spec.storage_dtype


def test_factors_that_do_not_fit_are_told() -> None:
    module = lora(nn.Linear(5, 4))
    module.lora_B["default"] = nn.Linear(3, 4)
    assert "do not fit" in reasons_of(module)["lora_default"]
    module = lora(nn.Linear(5, 4), r={"default": 1})
    assert reasons_of(module)["lora_default"].endswith("do not fit rank 1")


def test_quantised_recurrent_layers_are_skipped_with_the_reason() -> None:
    assert reasons_of(quantised(nn.LSTM(5, 4), nn.LSTM)) == {"": "quantised weights: packed gates"}


def test_a_tensor_class_that_dequantises_itself() -> None:
    """As torchao's: a subclass that holds integers and gives the numbers by its own method."""

    class Packed(torch.Tensor):
        @staticmethod
        def __new__(cls, codes, scale):
            return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.bfloat16)

        def __init__(self, codes, scale) -> None:
            self.codes, self.scale = codes, scale

        def dequantize(self):
            return self.codes.float() * self.scale

        @classmethod
        def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
            if function is torch.ops.aten.detach.default:
                return args[0]
            raise NotImplementedError(str(function))

    codes = torch.randint(-8, 8, (4, 5), dtype=torch.int8)
    module = nn.Linear(5, 4)
    module.weight = nn.Parameter(Packed(codes, 0.5), requires_grad=False)
    np.testing.assert_array_equal(only(matrices_of(module))[0], codes.numpy() * 0.5)


# --- layers that a user knows ----------------------------------------------------------------------------------------


class Experts(nn.Module):
    """Stacked matrices (experts, inputs, outputs)."""

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.stack = nn.Parameter(torch.randn(count, 60, 80))
        self.router = nn.Linear(60, 2)


@pytest.fixture
def registered():
    ww.register_layer(Experts, lambda layer: {str(i): weight.T for i, weight in enumerate(layer.stack)})
    yield
    ww.register_layer(Experts, None)


def test_stacked_experts_are_one_matrix_each() -> None:
    module = Experts()
    for number, layer in enumerate(layer for layer in find_layers(module) if "stack" in layer.name):
        assert layer.name == f"Experts.{number}.stack"
        np.testing.assert_array_equal(layer.read()[0], module.stack[number].detach().numpy())


@pytest.mark.usefixtures("registered")
def test_a_registered_class_and_its_subclasses_give_what_was_registered() -> None:
    class More(Experts):
        pass

    module = More()
    matrices = matrices_of(module)
    assert list(matrices) == ["0", "1", "router"]
    np.testing.assert_allclose(matrices["1"][0], module.stack[1].detach().numpy().T)
    (layer, *_) = find_layers(nn.Sequential(module))
    with torch.no_grad():
        module.stack.fill_(7)
    assert (layer.read() == 7).all()


@pytest.mark.usefixtures("registered")
def test_a_registered_class_is_watched_while_it_trains() -> None:
    model = nn.Sequential(Experts())
    with ww.Monitor(model, every_n_steps=1, executor="sync", layers=["0.?"]) as monitor:
        with torch.no_grad():
            model[0].stack.mul_(2)
        monitor.step(1)
    first, last = monitor.history[0], monitor.history[-1]
    assert last["0.1"].norm == pytest.approx(4 * first["0.1"].norm, rel=1e-5)


@pytest.mark.parametrize(
    ("extract", "reason"),
    [
        (lambda layer: layer.nothing, "the registered rule failed: AttributeError"),
        (lambda layer: {3: layer.stack[0]}, "failed: TypeError: expected suffixes that are strings, got 3"),
        (lambda layer: layer.stack[0, 0], "fewer than two dimensions"),
    ],
)
def test_a_registration_that_fails_is_told_and_stops_nothing(registered, extract, reason) -> None:
    ww.register_layer(Experts, extract)
    assert reason in reasons_of(Experts())[""]
    assert list(matrices_of(Experts())) == ["router"]


@pytest.mark.usefixtures("registered")
def test_words_give_the_matrices_of_the_function() -> None:
    module = Experts()
    by_function = matrices_of(module)
    ww.register_layer(Experts, {"stack": "expert in out"})
    in_words = matrices_of(module)
    assert list(in_words) == ["0.stack", "1.stack", "router"]
    for seen, expected in zip(in_words.values(), by_function.values(), strict=True):
        np.testing.assert_array_equal(seen, expected)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("words", ["in out expert", "position out in", "out in in"])
def test_each_axis_counts_what_its_word_says(words: str) -> None:
    module = Experts()
    ww.register_layer(Experts, {"stack": words})
    stack = module.stack.detach().numpy()
    expected = {
        "in out expert": stack.transpose(2, 1, 0)[:, None],
        "position out in": stack[None],
        "out in in": stack.reshape(1, 1, 2, -1),
    }[words]
    found = [matrices for name, matrices in matrices_of(module).items() if name.endswith("stack")]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("registered")
def test_words_are_followed_while_the_weights_train() -> None:
    ww.register_layer(Experts, {"stack": "expert in out"})
    model = nn.Sequential(Experts())
    (first, *_) = find_layers(model)
    with torch.no_grad():
        model[0].stack.fill_(7)
    assert (first.read() == 7).all()
    with ww.Monitor(model, every_n_steps=1, layers=["0.*.stack"]) as monitor:
        monitor.wait_for_first()
    assert [(layer.name, layer.N, layer.M) for layer in monitor.history[0] if layer.N] == [
        ("0.0.stack", 80, 60),
        ("0.1.stack", 80, 60),
    ]


@pytest.mark.usefixtures("registered")
def test_registered_stacks_have_the_names_of_those_that_are_found() -> None:
    ww.register_layer(Experts, None)
    model = nn.ModuleDict({"experts": Experts(4)})
    found = [layer.name for layer in ww.analyze(model)]
    ww.register_layer(Experts, {"stack": "expert in out"})
    report = ww.analyze(model)
    assert [layer.name for layer in report] == found
    assert [(block.name, len(block.layers)) for block in report.experts()] == [("experts.*.stack", 4)]


@pytest.mark.parametrize(
    ("rule", "name", "reason"),
    [
        ({"stak": "out in"}, "", "the registered rule failed: no parameter 'stak'"),
        ({"stack": "out in"}, "stack", "unexpected shape: 3 dimensions, but the rule 'out in' has 2"),
    ],
)
def test_words_that_do_not_fit_the_layer_are_told(registered, rule, name, reason) -> None:
    ww.register_layer(Experts, rule)
    assert reasons_of(Experts())[name] == reason
    assert list(matrices_of(Experts())) == ["router"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("expert in outs", "'outs' in 'expert in outs'"),
        ("expert in", "got 'expert in'"),
        ("expert expert in out", "at most one 'expert'"),
        ("", "got ''"),
    ],
)
def test_words_that_are_no_rule_are_refused(words: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"rule: expected .*{problem}"):
        ww.register_layer(Experts, {"stack": words})


@pytest.mark.parametrize("arguments", [("Experts", print), (Experts, "print"), (Experts, {"stack": 3})])
def test_wrong_registrations_are_refused(arguments) -> None:
    with pytest.raises(TypeError, match="expected "):
        ww.register_layer(*arguments)


# --- fused projections -----------------------------------------------------------------------------------------------


def test_a_fused_projection_is_taken_apart_by_pattern() -> None:
    module = nn.Sequential(nn.Linear(8, 24), nn.Linear(8, 24))
    report = ww.analyze(module, split={"0": 3, "1": [8, 12, 4]})
    assert [(layer.name, layer.N, layer.M) for layer in report] == [
        ("0.0", 8, 8), ("0.1", 8, 8), ("0.2", 8, 8), ("1.0", 8, 8), ("1.1", 12, 8), ("1.2", 8, 4),
    ]  # fmt: skip
    (_, layer, *_) = find_layers(module, split={"0": 3})
    np.testing.assert_array_equal(layer.read(), module[0].weight[8:16].detach().numpy())


@pytest.mark.parametrize("executor", ["sync", "process"])
def test_a_monitor_takes_them_apart_too(executor: str) -> None:
    model = nn.Sequential(nn.Linear(60, 180))
    with ww.Monitor(model, every_n_steps=1, split={"*": 3}, executor=executor) as monitor:
        monitor.step(1)
    assert [layer.name for layer in monitor.history[-1]] == ["0.0", "0.1", "0.2"]


def test_a_split_that_fits_nothing_is_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"split: '\*\.qkv' matches no layer"):
        ww.Monitor(nn.Linear(8, 24), split={"*.qkv": 3})
    with pytest.raises(ValueError, match="split: 'Linear' has 24 outputs, which 5 does not divide"):
        ww.analyze(nn.Linear(8, 24), split={"*": 5})


# --- weights on a device ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Linear", "LSTM", "Conv2d, groups", "weight_norm", "LoRA", "MultiheadAttention"])
def test_what_is_sent_from_a_device_is_what_is_read(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """There may be no device: every tensor counts as on one, and is sent by being read."""
    tensors, *others = (
        importlib.import_module(f"ww_callbacks.weights.torch.{part}") for part in ("tensors", "effective", "lora")
    )
    for module in (tensors, *others):
        monkeypatch.setattr(module, "is_on_device", lambda tensor: True)
    monkeypatch.setattr(tensors, "send", lambda tensor, read: read(tensor.clone()))
    torch.manual_seed(0)
    layers = find_layers(CASES[name].module())
    analysed = [layer for layer in layers if layer.spec is not None]
    if not any(layer.spec.role == "convolution" or layer.spec.shape[0] % 2 for layer in analysed):
        analysed += [layer for layer in split_layers(analysed, {"*": 2}) if layer.spec is not None]
    for layer in analysed:
        assert layer.source is not layer.read
        np.testing.assert_array_equal(layer.source(), layer.read())
        assert layer.source().shape == layer.spec.shape


def test_nothing_is_sent_from_where_it_is() -> None:
    assert all(layer.send is None for layer in find_layers(nn.LSTM(5, 4)))


# --- modules of other kinds ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated")
def test_scripted_modules_are_listed_and_stop_nothing() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(5, 4)))
    assert ["no rule" in layer.reason for layer in find_layers(scripted)] == [True]


def test_a_module_that_looks_like_an_addition_and_is_none() -> None:
    module = nn.Module()
    module.base_layer, module.lora_A, module.lora_B = nn.Linear(5, 4), nn.Linear(5, 2), nn.Linear(2, 4)
    assert list(matrices_of(module)) == ["base_layer", "lora_A", "lora_B"]


def trained(every_n_steps: int | None) -> dict[str, torch.Tensor]:
    """A small network of parametrised layers after eight steps, watched or not."""
    torch.manual_seed(0)
    model = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(30, 40)), nn.ReLU(), nn.Dropout(),
        nn.utils.spectral_norm(nn.Linear(40, 40)), nn.utils.weight_norm(nn.Linear(40, 30)),
        scaled(nn.Linear(30, 30)), pruned(nn.Linear(30, 30)), lora(nn.Linear(30, 20)),
    )  # fmt: skip
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    with ExitStack() as stack:
        monitor = None
        if every_n_steps is not None:
            monitor = stack.enter_context(ww.Monitor(model, every_n_steps=every_n_steps, executor="sync"))
        for step in range(1, 9):
            optimizer.zero_grad()
            model(torch.randn(5, 30)).square().mean().backward()
            optimizer.step()
            if monitor is not None:
                monitor.step(step)
                assert len(monitor.history) == step + 1
    return model.state_dict()


def test_training_of_such_layers_is_the_same_bit_by_bit_with_and_without_a_monitor() -> None:
    alone, watched = trained(None), trained(1)
    assert all(torch.equal(watched[name], value) for name, value in alone.items())


def test_three_dimensions_of_a_registered_function_are_refused() -> None:
    """They may be those of a kernel or of stacked matrices."""
    ww.register_layer(Experts, lambda layer: {"stack": layer.stack})
    try:
        reason = reasons_of(Experts())["stack"]
    finally:
        ww.register_layer(Experts, None)
    assert "three dimensions without axes; register words such as 'expert out in'" in reason
