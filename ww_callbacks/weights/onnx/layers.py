"""The layers of an ONNX model: each stored weight once, where it is used first."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ww_callbacks.report import Role, Skip
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.kinds import NORM, TABLE, Kind, is_table, layers_of_kind
from ww_callbacks.weights.layer import VECTOR, Layer
from ww_callbacks.weights.onnx.graph import Graph, Node, graph_of
from ww_callbacks.weights.onnx.passing import Weight, passed
from ww_callbacks.weights.onnx.rules import QUANTISING, input_name, is_norm, kind_of
from ww_callbacks.weights.tensor import FLOATS

_TORCH_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)+")


@dataclass(frozen=True, slots=True)
class Use:
    """A weight as an input of a node.

    Attributes:
        weight: behind the nodes that only pass it on.
        node: that uses it.
        number: of the node.
        index: of the input.
        kind: how it is interpreted; None if no rule knows this use, and for vectors.
    """

    weight: Weight
    node: Node
    number: int
    index: int
    kind: Kind | None

    @property
    def is_vector(self) -> bool:
        """Whether it has fewer than two dimensions."""
        return len(self.weight.tensor.shape) < 2


def layers_of_onnx(path: Location) -> tuple[Layer, ...]:
    """The layers of an ONNX model, in the order of its nodes; weights that no node uses are last.

    Raises:
        WeightsFileError: not such a model, damaged, or with weights outside its folder.
    """
    graph = graph_of(path)
    uses = list(_uses(graph))
    names = _Names()
    layers = _used_layers(uses, names)
    used = {use.weight.origin for use in uses}
    unused = [name for name, tensor in graph.tensors.items() if name not in used and len(tensor.shape) >= 2]
    skip = Skip("no_rule", "a weight that no node uses")
    return (*layers, *(Layer.skipped(names.free(_plain(name)), "initializer", skip) for name in unused))


def _uses(graph: Graph) -> Iterator[Use]:
    """Where the nodes use stored weights. Nodes that only pass a weight on do not use it."""
    values = {name: Weight(name, tensor) for name, tensor in graph.tensors.items() if name}  # "" is no input
    for number, node in enumerate(graph.nodes):
        result = passed(node, values)
        for index, name in enumerate(node.inputs):
            weight = values.get(name)
            if weight is not None and (result is None or index > 0):
                shape = weight.tensor.shape
                yield Use(weight, node, number, index, kind_of(node, index, shape) if len(shape) >= 2 else None)
        if result is not None and node.outputs:
            values[node.outputs[0]] = result


def _used_layers(uses: Sequence[Use], names: _Names) -> list[Layer]:
    """The layers of all uses: of each weight the first with a rule, later ones as tied."""
    main: dict[str, Use] = {}
    for use in uses:
        if use.weight.origin not in main or (use.kind and not main[use.weight.origin].kind):
            main[use.weight.origin] = use
    with_matrices = {use.number for use in uses if not use.is_vector}
    with_vectors: set[int] = set()
    layers: list[Layer] = []
    for use in uses:
        is_main = main[use.weight.origin] is use
        if use.is_vector:
            if is_main and use.number not in with_matrices | with_vectors and _is_shown(use):
                with_vectors.add(use.number)
                layers.append(_vector(use, names))
        elif is_main or use.kind is not None:
            layers += _layers(use, is_main, names)
    return layers


def _is_shown(use: Use) -> bool:
    """Whether a vector is listed: no single number, no shape or index, no scale of quantised numbers."""
    tensor = use.weight.tensor
    return math.prod(tensor.shape) > 1 and tensor.dtype in FLOATS and use.node.op not in QUANTISING


def _vector(use: Use, names: _Names) -> Layer:
    """The vectors of a node without matrices, as one entry."""
    role: Role = "norm" if is_norm(use.node) else "vector"
    return Layer(names.free(_name(use)), use.node.op, skip=NORM if role == "norm" else VECTOR, role=role)


def _layers(use: Use, is_main: bool, names: _Names) -> tuple[Layer, ...]:
    unknown = Kind(use.node.op, role="other", skip=Skip("no_rule", f"a weight of {use.node.op}"))
    kind, name = use.kind or unknown, names.free(_name(use))
    if is_table(use.weight.origin):
        kind = replace(kind, skip=TABLE)
    if is_main:
        names.main[use.weight.origin] = name
    else:
        kind = replace(kind, skip=Skip("tied", names.main[use.weight.origin]))
    return layers_of_kind(name, kind, use.weight.tensor)


class _Names:
    """Names of layers, each given once.

    Attributes:
        main: initialiser or constant → its layer.
    """

    def __init__(self) -> None:
        self.main: dict[str, str] = {}
        self._taken: set[str] = set()

    def free(self, name: str) -> str:
        """The name, with a number if it is taken."""
        candidate, number = name, 0
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate


def _name(use: Use) -> str:
    """The name in torch if the exporter kept it, otherwise that of the node."""
    origin, node = use.weight.origin, use.node
    if _TORCH_NAME.fullmatch(origin) or not node.name:
        return _plain(origin)
    return node.name + input_name(node, use.index)


def _plain(origin: str) -> str:
    return origin.removesuffix(".weight")
