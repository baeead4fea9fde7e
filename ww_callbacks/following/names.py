"""What the names of files and folders say: the step, and whether they are a checkpoint or unfinished."""

from __future__ import annotations

import re

from ww_callbacks.weights.files.directory import ENDINGS, is_weights

_STEP = re.compile(r"(?:step|iter|iteration|checkpoint|ckpt)s?[=_\-. ]?(\d+)(?!\.?\d|[a-z])", re.IGNORECASE)
_EPOCH = re.compile(r"epoch[=_\-. ]?(\d+)(?![a-z])", re.IGNORECASE)
_DECIMAL = re.compile(r"\d+\.\d+(e[+-]?\d+)?|\d+e[+-]?\d+", re.IGNORECASE)
_WHOLE = re.compile(r"(?<![A-Za-z\d])\d+(?![A-Za-z\d])")
_UNFINISHED = re.compile(r"^\.|^tmp[-_.]|[-_.](tmp|temp|partial|part|incomplete)(\b|[-_.\d]|$)|~$", re.IGNORECASE)
_OF_A_FOLDER = re.compile(
    r"(model|pytorch_model|diffusion_pytorch_model|adapter_model|flax_model)\.(?!\d)|consolidated\.|.*-\d+-of-\d+\.",
    re.IGNORECASE,
)


def step_after_word(name: str) -> int | None:
    """The number in a name after a word such as "step" or, without one, after "epoch"; None if there is none.

    Example:
        >>> [
        ...     step_after_word(name)
        ...     for name in ("epoch=3-step=400.ckpt", "checkpoint-500", "iter_0001000", "epoch=3.ckpt")
        ... ]
        [400, 500, 1000, 3]
        >>> [step_after_word(name) for name in ("last.ckpt", "run-5", "1000")]
        [None, None, None]
    """
    for pattern in (_STEP, _EPOCH):
        found = pattern.findall(name)
        if found:
            return int(found[-1])
    return None


def only_number(name: str) -> int | None:
    """The only whole number in a name; None if there is none, or several.

    Example:
        >>> [only_number(name) for name in ("model_0100.pt", "05-0.31.weights.h5", "1000", "resnet50.pt", "1-2.pt")]
        [100, 5, 1000, None, None]
    """
    numbers = _WHOLE.findall(_DECIMAL.sub("", _without_ending(name)))
    return int(numbers[0]) if len(numbers) == 1 else None


def is_unfinished(name: str) -> bool:
    """Whether a name is one that programs give while they write, or that is hidden.

    Example:
        >>> [is_unfinished(name) for name in ("tmp-checkpoint-500", "7.orbax-checkpoint-tmp-1", ".x.pt.tmp", "a.part")]
        [True, True, True, True]
        >>> [is_unfinished(name) for name in ("checkpoint-500", "template.pt", "partial_conv.pt")]
        [False, False, False]
    """
    return _UNFINISHED.search(name) is not None


def is_of_folder(name: str) -> bool:
    """Whether a file has a name that is the same in every checkpoint, so that its folder is the checkpoint.

    Example:
        >>> [is_of_folder(name) for name in ("model.safetensors", "model-00001-of-00002.safetensors", "step-5.pt")]
        [True, True, False]
    """
    return is_weights(name) and _OF_A_FOLDER.match(name) is not None


def _without_ending(name: str) -> str:
    for ending in (".weights.h5", *ENDINGS):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name
