"""The weights of a module as its forward pass uses them, computed if necessary. Reading changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ww_callbacks.report import Skip
from ww_callbacks.weights.combined import combine
from ww_callbacks.weights.combined.torchao import parts_of
from ww_callbacks.weights.tensor import PartOf, StoredTensor
from ww_callbacks.weights.torch.sharded import is_sharded
from ww_callbacks.weights.torch.tensors import (
    DTYPES,
    Compute,
    Reader,
    is_float8,
    is_on_device,
    place_of,
    stored_dtype,
    unreadable,
)

Form = tuple[tuple[int, ...], torch.dtype]


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight of a module.

    Attributes:
        shape: of the tensor; empty if it does not exist yet.
        dtype: of that tensor.
        source: the tensor if it is stored as it is used, or a function that returns the current weight.
        identity: equal for weights with the same memory.
        skip: why it cannot be read; None if it can.
        is_on_device: whether it can be copied from a device during training.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    source: Tensor | Compute
    identity: Hashable
    skip: Skip | None = None
    is_on_device: bool = False

    def stored(self, name: str, same_as: str) -> StoredTensor:
        """The weight as a tensor that can be read."""
        dtype = DTYPES.get(self.dtype, str(self.dtype))
        return StoredTensor(name, self.shape, dtype, Reader(self.source, self.is_on_device), self.skip, same_as)

    def tensor(self) -> Tensor:
        """The current weight, which may share memory with the model."""
        return self.source if isinstance(self.source, Tensor) else self.source()

    @property
    def is_late(self) -> bool:
        """Whether the weight does not exist yet."""
        return self.skip is not None and self.skip.reason == "not_built"


def weights_of(module: nn.Module) -> dict[str, Weight]:
    """Name → weight, as the module itself reads the attribute.

    Parametrised weights are computed, by ``torch.nn.utils.parametrize`` and by the hooks that came before it
    (``weight_norm``, ``spectral_norm``, pruning); their source tensors are not listed.
    """
    computed: dict[str, Weight] = {}
    sources: set[str] = set()
    if parametrize.is_parametrized(module):
        for key, parametrizations in module.parametrizations.items():  # type: ignore[union-attr, operator]
            computed[key] = _parametrised(parametrizations)
    for hook in module._forward_pre_hooks.values():
        found = _hooked(module, hook)
        if found is not None:
            key, names, compute = found
            sources.update(names)
            computed[key] = computed_weight(hook, [getattr(module, name) for name in names], compute)
    own = {key: value for key, value in module._parameters.items() if value is not None and key not in sources}
    return {key: tensor_weight(value) for key, value in own.items()} | computed


def tensor_weight(tensor: Tensor) -> Weight:
    """A weight that is stored as it is used, or whose class has a ``dequantize`` method."""
    if nn.parameter.is_lazy(tensor):
        return Weight((), torch.float32, tensor, id(tensor), unreadable(tensor))
    shape = tuple(tensor.shape)
    if tensor.is_quantized or type(tensor).dequantize is not Tensor.dequantize:
        return Weight(shape, torch.float32, partial(_dequantised, tensor), id(tensor), None, is_on_device(tensor))
    if type(tensor) not in (Tensor, nn.Parameter) and (parts := list(parts_of("weight", tensor, _described))):
        return _from_parts(tensor, parts)
    skip = unreadable(tensor)
    is_unique = skip is not None or not tensor.numel() or is_sharded(tensor)
    identity = id(tensor) if is_unique else place_of(tensor)
    return Weight(shape, tensor.dtype, tensor, identity, skip, is_on_device(tensor))


def named_tensor(name: str, tensor: Tensor, first: dict[Hashable, str]) -> StoredTensor:
    """A tensor of a state dict; codes can be read too.

    Args:
        name: of the tensor.
        tensor: any tensor.
        first: identity of a weight → name of the first tensor with it; this one is added.
    """
    weight, dtype = tensor_weight(tensor), stored_dtype(tensor.dtype)
    skip = weight.skip
    if skip is not None and skip.reason == "unsupported_dtype" and dtype is not None:
        skip = None
    same_as = "" if skip else first.setdefault(weight.identity, name)
    stored = weight.stored(name, "" if same_as == name else same_as)
    if weight.dtype == tensor.dtype and dtype is not None:
        stored = replace(stored, dtype=dtype, is_float8=is_float8(tensor.dtype))
    return replace(stored, skip=skip)


def _dequantised(tensor: Tensor) -> Tensor:
    weight, inputs = tensor.dequantize().float(), getattr(tensor, "act_pre_scale", None)
    return weight if inputs is None else weight * inputs.float().reshape(-1)


def _described(value: object) -> tuple[str, Mapping[str, object]] | None:
    cls = type(value)
    return (f"{cls.__module__}.{cls.__qualname__}", vars(value)) if isinstance(value, Tensor) else None


def _from_parts(tensor: Tensor, inside: Iterable[tuple[str, Tensor, PartOf]]) -> Weight:
    """A weight of torchao without a method ``dequantize``, multiplied out as in a file."""
    parts = [replace(named_tensor(name, inner, {}), part_of=part) for name, inner, part in inside]
    found = combine(parts)
    if len(found) != 1:
        return Weight(tuple(tensor.shape), tensor.dtype, tensor, id(tensor), unreadable(tensor))
    return Weight(found[0].shape, torch.float32, partial(_combined, found[0]), id(tensor), found[0].skip)


def _combined(tensor: StoredTensor) -> Tensor:
    assert tensor.read is not None
    return torch.from_numpy(tensor.read())


_forms: WeakKeyDictionary[object, tuple[tuple[Form, ...], Form]] = WeakKeyDictionary()
"""Shape and dtype of computed weights, so that they are computed only when they are read."""


def computed_weight(owner: object, sources: Sequence[Tensor], compute: Compute) -> Weight:
    """A weight that is computed from tensors.

    Args:
        owner: the object that computes it, one weight per object.
        sources: the tensors.
        compute: returns the weight without side effects.
    """
    compute = partial(_without_gradient, compute)
    largest = max(sources, key=lambda source: 0 if nn.parameter.is_lazy(source) else source.ndim)
    for source in sources:
        if nn.parameter.is_lazy(source) or source.is_meta:
            return Weight((), torch.float32, compute, id(owner), unreadable(source))
    if any(is_sharded(source) for source in sources):
        skip = Skip("sharded", "this weight is computed from them")
        return Weight(tuple(largest.shape), torch.float32, compute, id(owner), skip)
    before = tuple((tuple(source.shape), source.dtype) for source in sources)
    known = _forms.get(owner)
    if known is None or known[0] != before:
        try:
            weight = compute()
        except Exception as error:
            skip = Skip("computed", f"computing it failed: {error}")
            return Weight(tuple(largest.shape), torch.float32, compute, id(owner), skip)
        known = _forms[owner] = before, (tuple(weight.shape), weight.dtype)
    shape, dtype = known[1]
    unsupported = None if dtype in DTYPES else Skip("unsupported_dtype", str(dtype))
    on_device = any(is_on_device(source) for source in sources)
    return Weight(shape, dtype, compute, id(owner), unsupported, on_device)


def _without_gradient(compute: Compute) -> Tensor:
    with torch.no_grad():
        return compute()


def _parametrised(parametrizations: nn.Module) -> Weight:
    stored = (*parametrizations._parameters.values(), *parametrizations._buffers.values())
    sources = [tensor for tensor in stored if tensor is not None]
    return computed_weight(parametrizations, sources, partial(_evaluated, parametrizations))


def _evaluated(module: nn.Module) -> Tensor:
    with undisturbed(module):
        result: Tensor = module()
    return result


def _hooked(module: nn.Module, hook: object) -> tuple[str, tuple[str, ...], Compute] | None:
    """Name, sources and function of a hook that computes a weight before each forward pass; None for other hooks."""
    if isinstance(hook, WeightNorm):
        return hook.name, (f"{hook.name}_g", f"{hook.name}_v"), partial(hook.compute_weight, module)
    if isinstance(hook, SpectralNorm):
        return hook.name, (f"{hook.name}_orig",), partial(hook.compute_weight, module, do_power_iteration=False)
    if isinstance(hook, BasePruningMethod):
        name = hook._tensor_name
        return name, (f"{name}_orig",), partial(hook.apply_mask, module)
    return None


@contextlib.contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Evaluate a module in eval mode without gradients; restore its buffers, mode and the random state at the end."""
    modes = [(inner, inner.training) for inner in module.modules()]
    buffers = [(buffer, buffer._version, buffer.detach().clone()) for buffer in module.buffers()]
    devices = {tensor.device for tensor in (*module.parameters(), *module.buffers())}
    cuda = [device for device in devices if device.type == "cuda"]
    try:
        for inner, _ in modes:
            inner.training = False
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(torch.random.fork_rng(cuda))
            for kind in {device.type for device in devices if device.type in ("cpu", "cuda")}:
                stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        for inner, mode in modes:
            inner.training = mode
        with torch.no_grad():
            for buffer, version, value in buffers:
                if buffer._version != version:
                    buffer.copy_(value)
