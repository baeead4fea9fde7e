"""Rules in words: what each axis of a weight counts, such as ``"expert in out"``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ww_callbacks.analysis import Axes
from ww_callbacks.report import Role, Skip
from ww_callbacks.weights.kinds import Kind, named_role

_WORDS = ("out", "in", "position", "expert")


def axes_of(words: str) -> Axes:
    """The axes that the words describe, one word per axis.

    Args:
        words: "out" (outputs), "in" (inputs), "position" (of a convolution kernel) and "expert" (separate matrices).
            Outputs and inputs may span several axes.

    Raises:
        ValueError: an unknown word, no outputs, no inputs, or several axes of experts.

    Example:
        >>> axes_of("out in position position")
        Axes(pooled=(2, 3), outputs=(0,), inputs=(1,))
        >>> axes_of("expert in out")
        Axes(pooled=(0,), outputs=(2,), inputs=(1,))
    """
    each = words.split()
    unknown = [word for word in each if word not in _WORDS]
    if unknown:
        raise ValueError(f"rule: expected words out of {_WORDS}, got {unknown[0]!r} in {words!r}")
    if "out" not in each or "in" not in each or each.count("expert") > 1:
        raise ValueError(f"rule: expected 'out', 'in' and at most one 'expert', got {words!r}")
    outputs, inputs = (tuple(i for i, word in enumerate(each) if word == axis) for axis in ("out", "in"))
    return Axes(tuple(i for i, word in enumerate(each) if word not in ("out", "in")), outputs, inputs)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a weight holds.

    Attributes:
        words: what each axis counts, see :func:`axes_of`. Each expert becomes a separate layer.
        parts: suffixes of the matrices that share the outputs in equal parts; none for one matrix.
        skip: why the weight is not analysed; None if it is.
        role: of a weight that is not analysed.
        suffix: what the weight adds to the name of its layer; None for its own name, or nothing if it is called
            "weight" or "kernel".

    Example:
        >>> Rule("out in").kind("Linear", (4, 3)).axes
        Axes(pooled=(), outputs=(0,), inputs=(1,))
        >>> Rule("expert in out").kind("Experts", (2, 3, 4)).parts
        ('0', '1')
    """

    words: str = ""
    parts: tuple[str, ...] = ()
    skip: Skip | None = None
    role: Role = "other"
    suffix: str | None = None

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.words.split())

    def suffix_of(self, parameter: str) -> str:
        """What a parameter with this rule adds to the name of its layer."""
        if self.suffix is not None:
            return self.suffix
        return "" if parameter in ("weight", "kernel") else f".{parameter}"

    def kind(self, word: str, shape: tuple[int, ...], suffix: str = "") -> Kind:
        """How a weight of that shape is interpreted.

        Args:
            word: the kind that the report shows.
            shape: of the weight.
            suffix: what the weight adds to the name of its layer; it comes behind the number of an expert.
        """
        if self.skip is not None:
            return Kind(word, role=self.role, skip=self.skip)
        each = self.words.split()
        role: Role = "convolution" if "position" in each else named_role(word, "matrix")
        if len(shape) != self.rank:
            skip = Skip("bad_shape", f"{len(shape)} dimensions, but the rule {self.words!r} has {self.rank}")
            return Kind(word, role=role, skip=skip)
        axes = axes_of(self.words)
        if "expert" not in each:
            return Kind(word, axes, role, parts=self.parts)
        axis = each.index("expert")
        return Kind(word, axes, role, parts=tuple(map(str, range(shape[axis]))), parts_axis=axis, tail=suffix)


def kinds_by_name(
    rules: Mapping[str, Rule], word: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[str, Kind]]:
    """What rules by the name of the weight say: name → suffix of the layer's name, and how the weight is interpreted.

    Args:
        rules: name → rule.
        word: the kind that the report shows.
        shapes: name → shape, of the weights of a layer.
    """
    found = {name: rule for name, rule in rules.items() if name in shapes}
    suffixes = {name: rule.suffix_of(name) for name, rule in found.items()}
    return {name: (suffixes[name], rule.kind(word, shapes[name], suffixes[name])) for name, rule in found.items()}
