"""Which matrices a torch module holds: held against what the module itself does with a random input."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from ww_callbacks.analysis import as_matrices
from ww_callbacks.weights import find_layers

Array = np.ndarray
Matrices = dict[str, Array]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated", "ignore:.*spectral_norm.*is deprecated"),
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:.*quantized tensor.*deprecated"),
]


def matrices_of(module: nn.Module, **arguments: Any) -> Matrices:
    """What we extract: name without that of the module → (pooled, rows = outputs, columns = inputs)."""
    found = [layer for layer in find_layers(nn.Sequential(module), **arguments) if layer.spec is not None]
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
