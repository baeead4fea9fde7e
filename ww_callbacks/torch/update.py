"""Update each parameter at its own learning rate, invisibly to everything else.

Only while the update runs, ``optimizer.param_groups`` is a different list: each group is split into one group per
ratio. The user's list and groups are kept unchanged, so the closure (in Lightning the whole ``training_step``),
schedulers, checkpoints and loggers see what the user wrote.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

Group = dict[str, Any]
SCALED = ("lr", "weight_decay")

_aside: WeakKeyDictionary[Optimizer, _Aside] = WeakKeyDictionary()


class _Aside:
    """The user's groups, and the origin of each group of the update."""

    def __init__(self, groups: list[Group]) -> None:
        self.groups = groups
        self.parts: list[tuple[Group, Group]] = []

    def split(self, group: Group, key: str, ratios: Mapping[Tensor, float]) -> list[Group]:
        by_ratio: dict[float, list[Tensor]] = {}
        for parameter in group["params"]:
            by_ratio.setdefault(ratios.get(parameter, 1.0), []).append(parameter)
        if key not in group or not by_ratio.keys() - {1.0}:
            return [group]
        parts = [
            {**group, "params": parameters, key: group[key] if ratio == 1 else group[key] * ratio}
            for ratio, parameters in by_ratio.items()
        ]
        origin = next((origin for part, origin in self.parts if part is group), group)
        self.parts += [(part, origin) for part in parts]
        return parts

    def keep_changes(self) -> None:
        """Copy what the optimizer wrote into its groups, such as step counters, to the user's groups."""
        for part, origin in reversed(self.parts):
            for key, value in part.items():
                if key != "params" and key not in SCALED and value is not origin.get(key):
                    origin[key] = value


def scale_updates(optimizer: Optimizer, key: str, ratios: Callable[[], Mapping[Tensor, float]]) -> Callable[[], None]:
    """Let every update run with ``key`` multiplied by a ratio per parameter.

    Args:
        optimizer: of torch, or a subclass.
        key: "lr" or "weight_decay".
        ratios: called before each update; a parameter without a ratio has 1.

    Returns:
        A function that ends it.

    Raises:
        TypeError: ``optimizer`` is not an ``Optimizer`` of torch.
        ValueError: it takes one step for all parameters together (LBFGS).
    """
    check_optimizer(optimizer)

    def apply() -> None:
        aside = _aside.setdefault(optimizer, _Aside(optimizer.param_groups))
        found = ratios()
        optimizer.param_groups = [part for group in optimizer.param_groups for part in aside.split(group, key, found)]

    def before(_: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            apply()
            return args, kwargs

        @functools.wraps(closure)
        def wrapped() -> Any:
            _restore(optimizer)
            result = closure()
            apply()
            return result

        return (args, kwargs | {"closure": wrapped}) if "closure" in kwargs else ((args[0], wrapped, *args[2:]), kwargs)

    def after(*_: Any) -> None:
        _restore(optimizer)

    handles = [optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)]
    optimizer._optimizer_step_post_hooks.move_to_end(handles[1].id, last=False)  # type: ignore[attr-defined]
    unguard = _guard(optimizer, handles[0].id)

    def end() -> None:
        _restore(optimizer)
        unguard()
        for handle in handles:
            handle.remove()

    return end


def check_optimizer(optimizer: object) -> None:
    """Complain about an optimizer that has no rate per parameter.

    Raises:
        TypeError: it is not an ``Optimizer`` of torch, or only a wrapper around one.
        ValueError: it takes one step for all parameters together (LBFGS).
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
    if not hasattr(optimizer, "_optimizer_step_pre_hooks"):  # accelerate's, for one
        raise TypeError(f"optimizer: {type(optimizer).__name__} wraps an optimizer of torch, give that one")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise ValueError("optimizer: LBFGS takes one step for all parameters, there is no rate per layer")


def _restore(optimizer: Optimizer) -> None:
    aside = _aside.pop(optimizer, None)
    if aside is not None:
        aside.keep_changes()
        optimizer.param_groups = aside.groups


class _Guard:
    """Wraps ``step``: our hooks run last, and the groups are restored if the update raises (no post-hook runs then)."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.hooks: set[int] = set()
        self._before = optimizer.__dict__.get("step")  # that of a scheduler, or None
        inner = optimizer.step

        @functools.wraps(inner)
        def step(self_: Optimizer, *args: Any, **kwargs: Any) -> Any:
            present: Any = self_._optimizer_step_pre_hooks
            for hook in self.hooks & present.keys():
                present.move_to_end(hook)
            try:
                return inner(*args, **kwargs)
            except BaseException:
                _restore(self_)
                raise

        step._ww_guard = self  # type: ignore[attr-defined]
        self._step = types.MethodType(step, optimizer)
        optimizer.step = self._step  # type: ignore[method-assign]

    def remove(self, optimizer: Optimizer, hook: int) -> None:
        self.hooks.discard(hook)
        if self.hooks or optimizer.__dict__.get("step") is not self._step:
            return  # a scheduler has wrapped step since
        if self._before is None:
            del optimizer.step
        else:
            optimizer.step = self._before  # type: ignore[method-assign]


def _guard(optimizer: Optimizer, hook: int) -> Callable[[], None]:
    """One guard per optimizer, even if both rate and decay are scaled."""
    guard: _Guard = getattr(optimizer.step, "_ww_guard", None) or _Guard(optimizer)
    guard.hooks.add(hook)
    return functools.partial(guard.remove, optimizer, hook)
