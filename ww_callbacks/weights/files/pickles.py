"""Pickles as plain values. Classes and functions are never looked up: what they would make is only described.

Memory is limited by the length of the pickle: whatever a function would allocate is not allocated.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar, NamedTuple

MAX_OPERATIONS = 40_000_000
"""Largest number of operations, enough for about a million tensors."""


class Name(NamedTuple):
    """The name of a class or a function.

    Attributes:
        module: where it is defined.
        name: within the module.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


_MAPPINGS = (Name("collections", "OrderedDict"), Name("collections", "defaultdict"), Name("collections", "Counter"))
_SEQUENCES = (Name("torch", "Size"), Name("builtins", "set"), Name("builtins", "frozenset"), Name("builtins", "list"))
_KEYS = (str, int, float, bool, bytes, type(None), Name)


@dataclass(eq=False, slots=True)
class Made:
    """What a class or a function would have made.

    Attributes:
        function: its name.
        arguments: with which it would have been called.
        state: what would have been set afterwards.
        items: entries that would have been added to a mapping.
        values: elements that would have been added to a list or a set.
    """

    function: Any
    arguments: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)


Make = Callable[[Any, tuple[Any, ...]], Any]


def plain_values(file: IO[bytes], make: Make = Made, persistent: Callable[[Any], Any] = lambda identifier: None) -> Any:
    """Read a pickle from a file, up to its end.

    Args:
        file: positioned at the start of the pickle.
        make: gives the value of a call of a class or a function, from its name and its arguments.
        persistent: gives the value of a persistent identifier.

    Returns:
        Numbers, texts, lists (sets too), tuples, dictionaries (``OrderedDict`` too), names of classes and functions,
        and what they would have made.

    Raises:
        pickle.UnpicklingError: not a pickle, an operation that no program uses to store values, or too many of them.

    Example:
        >>> import collections, io, os
        >>> class Evil:
        ...     def __reduce__(self):
        ...         return os.mkdir, ("x",)
        >>> data = pickle.dumps(collections.OrderedDict(a=[1, {2}], b=Evil()))
        >>> values = plain_values(io.BytesIO(data))
        >>> values["a"], str(values["b"].function), values["b"].arguments
        ([1, [2]], 'posix.mkdir', ('x',))
    """
    return _Reader(file, make, persistent).load()


def _made(make: Make, function: Any, arguments: Any) -> Any:
    """What a call makes. Mappings and sequences of known classes are plain ones."""
    if not isinstance(arguments, tuple):
        raise pickle.UnpicklingError("arguments that are no tuple")
    first = arguments[0] if arguments else ()
    if function in _MAPPINGS:
        pairs = first if isinstance(first, list) else ()
        return _dictionary([value for pair in pairs for value in pair])
    if function in _SEQUENCES and isinstance(first, (list, tuple)):
        return tuple(first) if function == _SEQUENCES[0] else list(first)
    return make(function, arguments)


def _dictionary(flat: list[Any]) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    _add(result, flat)
    return result


def _add(target: Any, flat: list[Any]) -> None:
    """Add keys and values. Tuples inside tuples are refused as keys, because their hash may take forever."""
    items = target.items if isinstance(target, Made) else target
    if not isinstance(items, dict) or len(flat) % 2:
        raise pickle.UnpicklingError("entries for what is no mapping")
    for key, value in zip(flat[::2], flat[1::2], strict=True):
        parts = key if type(key) is tuple else (key,)
        if not all(isinstance(part, (*_KEYS, Made)) for part in parts):
            raise pickle.UnpicklingError(f"a key of type {type(key).__name__}")
        items[key] = value


def _extend(target: Any, values: list[Any]) -> None:
    items = target.values if isinstance(target, Made) else target
    if not isinstance(items, list):
        raise pickle.UnpicklingError("elements for what is no list")
    items.extend(values)


class _Reader(pickle._Unpickler):
    """Runs the operations of a pickle on plain values.

    The base class is the one in Python, because its operations can be replaced one by one.
    """

    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: IO[bytes], make: Make, persistent: Callable[[Any], Any]) -> None:
        super().__init__(file, encoding="latin-1")
        self._make, self._persistent = make, persistent

    def load(self) -> Any:
        """Run the operations up to the end of the pickle."""
        self._unframer: Any = pickle._Unframer(self._file_read, self._file_readline)  # type: ignore[attr-defined]
        self.read, self.readinto, self.readline = self._unframer.read, self._unframer.readinto, self._unframer.readline
        self.metastack: list[Any] = []
        self.stack: list[Any] = []
        self.append = self.stack.append
        self.proto = 0
        read, run = self.read, self.dispatch
        for _ in range(MAX_OPERATIONS):
            operation = read(1)
            if not operation:
                raise EOFError("the pickle ends early")
            if operation == pickle.STOP:
                return self.stack.pop()
            run[operation[0]](self)
        raise pickle.UnpicklingError(f"more than {MAX_OPERATIONS} operations")

    def persistent_load(self, pid: Any) -> Any:
        return self._persistent(pid)

    def find_class(self, module: Any, name: Any) -> Any:
        return Name(str(module), str(name))

    def _instantiate(self, function: Any, arguments: Any) -> None:
        self.append(_made(self._make, function, tuple(arguments)))

    def _reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = _made(self._make, self.stack[-1], arguments)

    def _reduce_with_options(self) -> None:
        self.stack.pop()
        self._reduce()

    def _build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Made):
            self.stack[-1].state = state

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _add(self.stack[-1], [key, value])

    def _set_items(self) -> None:
        flat = self.pop_mark()
        _add(self.stack[-1], flat)

    def _dictionary(self) -> None:
        flat = self.pop_mark()
        self.append(_dictionary(flat))

    def _append(self) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def _extend(self) -> None:
        values = self.pop_mark()
        _extend(self.stack[-1], values)

    def _list(self) -> None:
        values = self.pop_mark()
        self.append(values)

    def _empty_list(self) -> None:
        self.append([])

    def _bytes(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def _refuse(self) -> None:
        raise pickle.UnpicklingError("an operation that needs something outside of the file")

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = pickle._Unpickler.dispatch | {
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.NEWOBJ_EX[0]: _reduce_with_options,
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dictionary,
        pickle.APPEND[0]: _append,
        pickle.APPENDS[0]: _extend,
        pickle.ADDITEMS[0]: _extend,
        pickle.FROZENSET[0]: _list,
        pickle.EMPTY_SET[0]: _empty_list,
        pickle.BYTEARRAY8[0]: _bytes,
        **dict.fromkeys((pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0], pickle.NEXT_BUFFER[0]), _refuse),
    }
