"""The columns of a report: each is one field of a dataclass, and its metadata is all that other modules need."""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections import namedtuple
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeGuard, TypeVar

T = TypeVar("T")
R = TypeVar("R", bound="Record")

Kind = Literal["text", "flag", "count", "number"]
Scaling = Literal["invariant", "proportional", "inverse", "log", "alpha log"]

_KINDS: dict[type, Kind] = {str: "text", bool: "flag", int: "count", float: "number"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        name: of the field.
        kind: "text", "flag", "count" or "number", from the annotation of the field.
        text: what it holds; the documentation of the class shows it.
        label: on the axes of figures.
        scaling: what happens when all eigenvalues are multiplied by c: nothing ("invariant"), the value is multiplied
            by c ("proportional"), divided by c ("inverse"), grows by log10 c ("log") or by alpha · log10 c
            ("alpha log").
        mean: whether ``Report.summary()`` and the logged metrics hold its mean over the counted layers.
        compared: whether ``compare`` shows its mean.
        logged: whether it is logged for each layer.
        optional: whether reports that have no value leave it out.
        signed: whether a count may be negative.
        or_none: whether None is a value.
        choices: the allowed texts; empty if every text is allowed.
    """

    name: str
    kind: Kind
    text: str
    label: str
    scaling: Scaling = "invariant"
    mean: bool = False
    compared: bool = False
    logged: bool = False
    optional: bool = False
    signed: bool = False
    or_none: bool = False
    choices: tuple[str, ...] = ()

    def accepts(self, value: object) -> bool:
        """Whether a value, such as one read from a file, is of the type of the column, finite and among its choices.

        Example:
            >>> alpha = Column(name="alpha", kind="number", text="", label="", or_none=True)
            >>> [alpha.accepts(value) for value in (2.5, 3, None, "2.5", float("nan"), 10**400, True)]
            [True, True, True, False, False, False, False]
        """
        if value is None:
            return self.or_none
        if self.kind == "text":
            return isinstance(value, str) and (not self.choices or value in self.choices)
        if self.kind == "count":
            return is_count(value) and (self.signed or value >= 0)
        return is_flag(value) if self.kind == "flag" else is_number(value)


def is_flag(value: object) -> TypeGuard[bool]:
    """Whether a value is True or False."""
    return isinstance(value, bool)


def is_count(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number that 64 bits can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def column(
    text: str,
    *,
    default: Any = None,
    label: str = "",
    scaling: Scaling = "invariant",
    mean: bool = False,
    compared: bool = False,
    logged: bool = False,
    optional: bool = False,
    signed: bool = False,
) -> Any:
    """A dataclass field with a default and the metadata of a column; the arguments are those of :class:`Column`.

    Args:
        text: what it holds.
        default: of the field.
        label: on the axes of figures; empty for the name of the field.
        scaling: what happens when all eigenvalues are multiplied by a number.
        mean: whether its mean is logged; implies ``compared``.
        compared: whether ``compare`` shows its mean.
        logged: whether it is logged for each layer.
        optional: whether reports that have no value leave it out.
        signed: whether a count may be negative.
    """
    metadata = {
        "text": text,
        "label": label,
        "scaling": scaling,
        "mean": mean,
        "compared": compared or mean,
        "logged": logged,
        "optional": optional,
        "signed": signed,
    }
    return field(default=default, metadata=metadata)


def columns_of(cls: type[Any]) -> Mapping[str, Column]:
    """The columns of a dataclass by name, in order; fields that hold no text, flag or number are left out.

    Example:
        >>> @dataclass
        ... class Row:
        ...     depth: int | None = column("position of the layer", label="depth of the layer")
        >>> columns_of(Row)["depth"].kind, columns_of(Row)["depth"].label
        ('count', 'depth of the layer')
    """
    hints = typing.get_type_hints(cls)
    found: dict[str, Column] = {}
    for each in fields(cls):
        kind = _kind(hints[each.name])
        if kind is not None:
            label = each.metadata.get("label") or each.name
            also = {"or_none": type(None) in typing.get_args(hints[each.name]), "choices": _choices(hints[each.name])}
            found[each.name] = Column(**{**each.metadata, **also, "name": each.name, "kind": kind, "label": label})
    return types.MappingProxyType(found)


class Record(tuple[Any, ...]):
    """Base of a frozen dataclass that is the tuple of its values. The class needs the decorator :func:`record`.

    An object then takes a fraction of a microsecond to make, whatever the number of its fields.

    Example:
        >>> @record
        ... @dataclass(frozen=True, kw_only=True)
        ... class Point(Record):
        ...     x: int
        ...     y: int = 0
        >>> Point(x=3), Point(x=3)[1], Point.from_row((3, 4)).y
        (Point(x=3, y=0), 0, 4)
    """

    __slots__ = ()

    @classmethod
    def from_row(cls: type[R], row: Iterable[Any]) -> R:
        """The object with these values.

        Args:
            row: one value per field, in their order.
        """
        return tuple.__new__(cls, row)

    def __reduce__(self) -> Any:
        return type(self).from_row, (tuple(self),)


def record(cls: type[R]) -> type[R]:
    """Class decorator for a frozen dataclass that inherits :class:`Record`."""
    declared = fields(cls)  # type: ignore[arg-type]
    names = tuple(each.name for each in declared)
    defaults = {each.name: each.default for each in declared if each.default is not MISSING}
    known = set(names)

    def new(cls: type[R], **values: Any) -> R:
        complete = defaults | values
        if complete.keys() != known:
            odd = ", ".join(sorted(complete.keys() ^ known))
            raise TypeError(f"{cls.__name__}: fields that are missing or unknown: {odd}")
        return cls.from_row([complete[name] for name in names])

    cls.__signature__ = inspect.signature(cls)  # type: ignore[attr-defined]
    del cls.__init__  # of the dataclass: it sets one attribute after the other
    cls.__new__ = new  # type: ignore[assignment]
    for name, getter in vars(namedtuple("_", names)).items():
        if name in known:
            setattr(cls, name, getter)
    return cls


def documented(cls: type[T]) -> type[T]:
    """Class decorator: append the text of each field to the docstring, as its section ``Attributes``."""
    lines = [f"    {each.name}: {each.metadata['text']}" for each in fields(cls)]  # type: ignore[arg-type]
    cls.__doc__ = "\n".join([inspect.cleandoc(cls.__doc__ or ""), "", "Attributes:", *lines])
    return cls


def _choices(hint: Any) -> tuple[str, ...]:
    """The texts that an annotation allows; empty if it allows all."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return options
    return next((choices for option in options if (choices := _choices(option))), ())


def _kind(hint: Any) -> Kind | None:
    """The kind of a scalar annotation, with or without None; None for other annotations."""
    options = [option for option in typing.get_args(hint) or (hint,) if option is not type(None)]
    if typing.get_origin(hint) is Literal:
        return _KINDS.get(type(options[0]))
    if len(options) == 1 and typing.get_origin(options[0]) is Literal:
        return _kind(options[0])
    return _KINDS.get(options[0]) if len(options) == 1 else None
