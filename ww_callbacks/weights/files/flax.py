"""Files of flax: the tree of ``flax.serialization`` in MessagePack, its arrays as extensions.

An array is a list of shape, name of the dtype, and numbers. One of more than 2³⁰ bytes is a mapping of flat arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.messagepack import Value, content, value_at
from ww_callbacks.weights.files.part import Joined, Part, stored_numbers
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.networks import networks_in_tree
from ww_callbacks.weights.tensor import StoredTensor

MAX_VALUES = 500_000
"""Most entries and arrays of a file."""
_MAX_NAME_BYTES = 1000
_MAX_DEPTH = 64
_MAX_DIMENSIONS = 32
_ARRAYS = (1, 3)
"""Types of the extensions for arrays and for numbers of numpy."""
_CHUNKED = "__msgpack_chunked_array__"


def tensors_of_flax(path: Location) -> list[StoredTensor]:
    """The arrays of a file, named by their keys joined by dots; the structure is read, the numbers are not.

    Raises:
        WeightsFileError: not such a file, without weights, too deep or too large a tree, a length that exceeds the
            file, a key twice, or numbers that do not fit shape and dtype.
    """
    with reading(path):
        with path.open("rb") as file:
            tree = _Reader(path, file, path.stat().st_size, MAX_VALUES).tree()
        found = networks_in_tree(tree)
    if not found:
        raise WeightsFileError(
            path, f"holds no weights but a tree with the keys {[key[:40] for key in list(tree)[:10]]}"
        )
    return [replace(tensor, name=name) for name, tensor in found.items()]


@dataclass
class _Reader:
    """Reads the tree from its start.

    Attributes:
        path: of the file.
        file: opened for reading.
        size: of the file in bytes.
        left: how many values may still be read.
        position: of the next value.
        names: of the arrays so far.
    """

    path: Location
    file: IO[bytes]
    size: int
    left: int
    position: int = 0
    names: set[str] = field(default_factory=set)

    def tree(self) -> Mapping[str, Any]:
        """The mapping that is the content of the file."""
        root = self._tree("", 0)
        if not isinstance(root, Mapping):
            raise self._error("holds no tree, which would begin with a mapping")
        if self.position != self.size:
            raise self._error(f"the tree ends at byte {self.position} of {self.size}")
        return root

    def _tree(self, name: str, depth: int) -> Any:
        """A mapping, an array, an integer, or None for any other value."""
        value = self._next(self.size)
        if value.kind not in ("map", "array"):
            if value.kind == "extension" and value.number in _ARRAYS:
                return self._array(name, value)
            self.position = value.end
            return value.number if value.kind == "integer" else None
        if depth == _MAX_DEPTH:
            raise self._error(f"entry {name[:80]!r} is nested more than {_MAX_DEPTH} times")
        if value.number > self.size - value.end:
            raise self._error(f"truncated: entry {name[:80]!r} claims {value.number} entries")
        tree: dict[str, Any] = {}
        for index in range(value.number):
            key = self._key() if value.kind == "map" else str(index)
            full = f"{name}.{key}" if name else key
            if key in tree or len(full) > _MAX_NAME_BYTES:
                problem = "occurs twice" if key in tree else f"has a name of more than {_MAX_NAME_BYTES} characters"
                raise self._error(f"entry {full[:80]!r} {problem}")
            tree[key] = self._tree(full, depth + 1)
        return self._chunked(name, tree) if _CHUNKED in tree else tree

    def _key(self) -> str:
        value = self._next(self.size)
        self.position = value.end
        if value.kind not in ("text", "bytes") or value.end - value.begin > _MAX_NAME_BYTES:
            raise self._error(f"the key at byte {value.begin} is no text of at most {_MAX_NAME_BYTES} bytes")
        return content(self.file, value).decode()

    def _array(self, name: str, extension: Value) -> StoredTensor:
        """An array, checked against its extension."""
        if name in self.names:
            raise self._error(f"array {name[:80]!r} occurs twice")
        self.names.add(name)
        self.position = extension.begin
        parts, sides = self._next(extension.end), self._next(extension.end)
        if (parts.kind, parts.number) != ("array", 3) or sides.kind != "array" or sides.number > _MAX_DIMENSIONS:
            raise self._error(f"array {name[:80]!r} is not a list of shape, dtype and numbers")
        shape = [self._next(extension.end) for _ in range(sides.number)]
        dtype, numbers = self._next(extension.end), self._next(extension.end)
        if not all(side.kind == "integer" and _is_size(side.number) for side in shape):
            raise self._error(f"array {name[:80]!r}: its shape is not a list of sizes")
        if dtype.kind not in ("text", "bytes") or dtype.end - dtype.begin > 40 or numbers.kind != "bytes":
            raise self._error(f"array {name[:80]!r} is not a list of shape, dtype and numbers")
        if numbers.end != extension.end:
            raise self._error(f"array {name[:80]!r} ends at byte {numbers.end}, not {extension.end}")
        sizes, word = tuple(side.number for side in shape), content(self.file, dtype).decode()
        return stored_numbers(self.path, name, word, sizes, numbers.begin, numbers.end - numbers.begin)

    def _chunked(self, name: str, tree: Mapping[str, Any]) -> StoredTensor:
        """An array that is stored in several flat ones."""
        shape, chunks = _listed(tree.get("shape"), int), _listed(tree.get("chunks"), StoredTensor)
        if not shape or not chunks or not all(map(_is_size, shape)) or len(shape) > _MAX_DIMENSIONS:
            raise self._error(f"array {name[:80]!r} in parts has no shape or no parts")
        held, dtypes = sum(math.prod(chunk.shape) for chunk in chunks), {chunk.dtype for chunk in chunks}
        if held != math.prod(shape) or len(dtypes) > 1 or any(len(chunk.shape) != 1 for chunk in chunks):
            raise self._error(f"array {name[:80]!r} of shape {str(tuple(shape))[:80]} does not fit its parts")
        parts = tuple(chunk.read for chunk in chunks if isinstance(chunk.read, Part))
        read = Joined(parts, tuple(shape)) if len(parts) == len(chunks) else None
        first: StoredTensor = chunks[0]
        return replace(first, name=name, shape=tuple(shape), read=read)

    def _next(self, end: int) -> Value:
        """The next value, which becomes the previous one; an extension has to be passed by the caller."""
        self.left -= 1
        if self.left < 0:
            raise self._error(f"more than {MAX_VALUES} values are not read")
        value = value_at(self.file, self.position, end)
        self.position = value.end
        return value

    def _error(self, cause: str) -> WeightsFileError:
        return WeightsFileError(self.path, cause)


def _is_size(number: int) -> bool:
    return 0 <= number < 2**63


def _listed(tree: Any, cls: type) -> Sequence[Any] | None:
    """The values of a mapping "0", "1", …; None if it is not one, or a value is of another class."""
    if not isinstance(tree, Mapping) or list(tree) != [str(index) for index in range(len(tree))]:
        return None
    return list(tree.values()) if all(type(value) is cls for value in tree.values()) else None
