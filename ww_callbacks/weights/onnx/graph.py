"""The nodes of an ONNX model and its stored tensors, without the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import IO

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from ww_callbacks.report import Skip
from ww_callbacks.weights.files.errors import WeightsFileError, reading
from ww_callbacks.weights.files.remote import Location
from ww_callbacks.weights.onnx import wire
from ww_callbacks.weights.onnx.tensors import Place, stored_tensor, text
from ww_callbacks.weights.tensor import StoredTensor

Attribute = int | float | str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    Attributes:
        op: its type, with the domain if that is not ONNX's own: "Gemm", "com.microsoft::MatMulNBits".
        name: given by the exporter, often empty.
        inputs: names of values; "" where an optional one is left out.
        outputs: names of values.
        attributes: numbers, texts and lists of integers.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]

    def number(self, name: str, default: int) -> int:
        """An integer attribute."""
        value = self.attributes.get(name, default)
        return value if isinstance(value, int) else default


@dataclass(frozen=True, slots=True)
class Graph:
    """A model: its nodes in their order, those of branches and loops behind their node.

    Attributes:
        nodes: in the order of the file, which is that of the computation.
        tensors: name of a value → stored tensor, of initialisers and constants.
    """

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, StoredTensor] = field(default_factory=dict)


def graph_of(path: Location) -> Graph:
    """The graph of a model.

    Raises:
        WeightsFileError: not an ONNX model, damaged, or with tensors that do not fit their numbers.
    """
    graph = Graph()
    with reading(path, "not an ONNX model, or a damaged one"), path.open("rb") as file:
        for part in wire.fields(file, 0, path.stat().st_size):
            if part.number == ModelProto.GRAPH_FIELD_NUMBER:
                _add_graph(graph, path, file, part)
    if not graph.nodes and not graph.tensors:
        raise WeightsFileError(path, "not an ONNX model: it holds no graph")
    return graph


def _add_graph(graph: Graph, path: Location, file: IO[bytes], whole: wire.Field) -> None:
    for part in wire.fields(file, whole.begin, whole.end):
        if part.number == GraphProto.INITIALIZER_FIELD_NUMBER:
            tensor = _initialiser(path, file, part)
            graph.tensors[tensor.name] = tensor
        elif part.number == GraphProto.SPARSE_INITIALIZER_FIELD_NUMBER:
            sparse = SparseTensorProto.FromString(wire.content(file, part.begin, part.end))
            graph.tensors[text(sparse.values.name)] = _sparse(sparse)
        elif part.number == GraphProto.NODE_FIELD_NUMBER:
            _add_node(graph, path, file, part)


def _initialiser(path: Location, file: IO[bytes], part: wire.Field) -> StoredTensor:
    """The tensor of an initialiser, whose numbers stay in the file."""
    message, raw = wire.without(file, part.begin, part.end, TensorProto.RAW_DATA_FIELD_NUMBER)
    place = None if raw is None else Place(path, raw.begin, raw.end - raw.begin)
    again = partial(_initialiser_again, path, part)
    return stored_tensor(path, TensorProto.FromString(message), place, again)


def _initialiser_again(path: Location, part: wire.Field) -> TensorProto:
    with path.open("rb") as file:
        tensor: TensorProto = TensorProto.FromString(wire.content(file, part.begin, part.end))
    return tensor


def _sparse(sparse: SparseTensorProto) -> StoredTensor:
    skip = Skip("unsupported_tensor", "a sparse initialiser")
    return StoredTensor(sparse.values.name, tuple(sparse.dims), "sparse", skip=skip)


def _add_node(graph: Graph, path: Location, file: IO[bytes], part: wire.Field) -> None:
    outer = NodeProto.FromString(wire.content(file, part.begin, part.end))
    for i, (name, proto) in enumerate(_tensors_in(outer)):
        graph.tensors[text(name)] = stored_tensor(path, proto, None, partial(_tensor_again, path, part, i))
    graph.nodes.extend(_node(node) for node in _nodes_in(outer) if node.op_type != "Constant")


def _tensor_again(path: Location, part: wire.Field, number: int) -> TensorProto:
    """A tensor inside a node, by its number."""
    with path.open("rb") as file:
        outer = NodeProto.FromString(wire.content(file, part.begin, part.end))
    return next(islice(_tensors_in(outer), number, None))[1]


def _tensors_in(outer: NodeProto) -> Iterator[tuple[str, TensorProto]]:
    """Constants and the initialisers of branches and loops, with the names of their values."""
    for node in _nodes_in(outer):
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and node.output:
                yield node.output[0], attribute.t
        for inner in _graphs_in(node):
            for tensor in inner.initializer:
                yield tensor.name, tensor


def _nodes_in(node: NodeProto) -> Iterator[NodeProto]:
    """A node and those of its branches and loops."""
    yield node
    for inner in _graphs_in(node):
        for below in inner.node:
            yield from _nodes_in(below)


def _graphs_in(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _node(proto: NodeProto) -> Node:
    op, domain = text(proto.op_type), text(proto.domain)
    attributes = {text(attribute.name): _value(attribute) for attribute in proto.attribute}
    known = {name: value for name, value in attributes.items() if value is not None}
    inputs, outputs = (tuple(map(text, names)) for names in (proto.input, proto.output))
    return Node(op if domain in ("", "ai.onnx") else f"{domain}::{op}", text(proto.name), inputs, outputs, known)


def _value(attribute: AttributeProto) -> Attribute | None:
    if attribute.type == AttributeProto.INT:
        return int(attribute.i)
    if attribute.type == AttributeProto.FLOAT:
        return float(attribute.f)
    if attribute.type == AttributeProto.STRING:
        return str(attribute.s, "utf-8")
    return tuple(attribute.ints) if attribute.type == AttributeProto.INTS else None
