"""What the variables of Keras's layers hold, for models in memory and for files. Does not import Keras.

The rules go by the class of the layer. If a file does not tell the class, they infer it from roles and shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ww_callbacks.analysis import Axes
from ww_callbacks.report import Skip
from ww_callbacks.weights.kinds import IN_OUT, Kind, bias, convolution, depthwise, einsum_axes, embedding, named_role
from ww_callbacks.weights.tensor import StoredTensor

Group = Mapping[str, StoredTensor]
Config = Mapping[str, Any]

_CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D")
_TRANSPOSED = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_SEPARABLE = ("SeparableConv1D", "SeparableConv2D")
_DEPTHWISE = ("DepthwiseConv1D", "DepthwiseConv2D")
_GATES = {"LSTM": ("i", "f", "c", "o"), "GRU": ("z", "r", "h"), "SimpleRNN": ()}
"""The gates of recurrent layers, in the order in which a kernel holds them along its outputs."""
_GATES_OF_CLASS: dict[str, tuple[str, ...]] = _GATES | {f"{cls}Cell": gates for cls, gates in _GATES.items()}
_GATES_BY_NUMBER = {len(gates): gates for gates in _GATES.values() if gates}

_ROLES: dict[str, tuple[str, ...]] = {
    "Embedding": ("embeddings",),
    "ReversibleEmbedding": ("embeddings", "reverse_embeddings"),
    **dict.fromkeys(("Dense", "EinsumDense", *_CONVOLUTIONS, *_TRANSPOSED, *_DEPTHWISE), ("kernel", "bias")),
    **dict.fromkeys(_SEPARABLE, ("depthwise_kernel", "pointwise_kernel", "bias")),
    **dict.fromkeys(_GATES_OF_CLASS, ("kernel", "recurrent_kernel", "bias")),
}
"""The variables of each class, in the order in which they are numbered."""

_WORDS = {
    **{name.replace("Conv", "_conv").replace("D", "d").lower(): name for name in _DEPTHWISE + _SEPARABLE},
    **{name.replace("Transpose", "_transpose").lower(): name for name in _CONVOLUTIONS + _TRANSPOSED},
    "dense": "Dense",
    "embedding": "Embedding",
    "reversible_embedding": "ReversibleEmbedding",
    "lstm": "LSTM",
    "lstm_cell": "LSTMCell",
    "gru": "GRU",
    "gru_cell": "GRUCell",
    "simple_rnn": "SimpleRNN",
    "simple_rnn_cell": "SimpleRNNCell",
}
"""The names that Keras derives from classes."""

_EQUATIONS = {
    **dict.fromkeys(("query", "key", "value"), "abc,cde->abde"),
    **dict.fromkeys(("query_dense", "key_dense", "value_dense"), "abc,cde->abde"),
    **dict.fromkeys(("attention_output", "output_dense"), "abcd,cde->abe"),
}
"""The names of the projections of an attention, and how their kernels are used."""


def class_of(word: str) -> tuple[str, Config]:
    """Class and configuration behind a name that Keras chose, "" and nothing for any other name.

    Example:
        >>> class_of("conv2d_transpose"), class_of("my_layer")
        (('Conv2DTranspose', {}), ('', {}))
    """
    if word in _EQUATIONS:
        return "EinsumDense", {"equation": _EQUATIONS[word]}
    return _WORDS.get(word, ""), {}


def known_class(names: Iterable[str]) -> str:
    """The first class with a rule, "" if there is none.

    Args:
        names: of a class and its base classes, the nearest first.

    Example:
        >>> known_class(["TokenEmbedding", "Embedding", "Layer"])
        'Embedding'
    """
    return next((name for name in names if name in _ROLES), "")


def roles_of(cls: str) -> tuple[str, ...]:
    """The variables of a class that may hold matrices.

    Example:
        >>> roles_of("LSTMCell"), roles_of("MyLayer")
        (('kernel', 'recurrent_kernel'), ())
    """
    return tuple(role for role in _ROLES.get(cls, ()) if role != "bias")


def kind_of(cls: str, variable: str, word: str, group: Group, config: Config) -> tuple[str, Kind]:
    """Suffix of the name and kind of a variable with two or more dimensions.

    Args:
        cls: class of the layer, "" if it is unknown.
        variable: its role, or its number among the variables of the layer.
        word: the kind that the report shows.
        group: all such variables of the layer.
        config: configuration of the layer.
    """
    role = _role(cls, variable, group)
    shape = group[variable].shape
    if role.startswith("bias"):
        return f".{role}", bias(word)
    if role == "depthwise_kernel":
        return f".{role}", depthwise(word)
    if role == "pointwise_kernel":
        return "", _convolution(word, shape, 1)
    if role == "embeddings":
        return "", embedding(word, shape)
    if role == "reverse_embeddings":
        return f".{role}", Kind(word, IN_OUT) if len(shape) == 2 else _unknown(cls, word, "this weight of ")
    gates = _gates(cls, group)
    if role in ("kernel", "recurrent_kernel") and gates is not None:
        return f".{role}", _recurrent(word, shape, gates)
    if role == "kernel":
        return "", _kernel(cls, word, shape, config)
    return f".{role}", _unknown(cls, word, "this weight of ")


def _role(cls: str, variable: str, group: Group) -> str:
    if not variable.isdecimal():
        return variable
    unknown = () if cls else ("kernel", "recurrent_kernel") if _numbered_gates(group) else ("kernel",)
    roles = _ROLES.get(cls, unknown)
    return roles[int(variable)] if int(variable) < len(roles) else variable


def _gates(cls: str, group: Group) -> tuple[str, ...] | None:
    """The gates of a recurrent layer in their order, None for any other layer."""
    if cls in _GATES_OF_CLASS:
        return _GATES_OF_CLASS[cls]
    recurrent = group.get("recurrent_kernel")
    if not cls and recurrent is None and _numbered_gates(group):
        recurrent = group["1"]
    if cls or recurrent is None or len(recurrent.shape) != 2 or not recurrent.shape[0]:
        return None
    return _GATES_BY_NUMBER.get(recurrent.shape[1] // recurrent.shape[0], ())


def _numbered_gates(group: Group) -> bool:
    """Whether variables without names are those of a recurrent cell: kernels of three or four gates."""
    shapes = [group[number].shape for number in ("0", "1") if number in group]
    if [len(shape) for shape in shapes] != [2, 2] or shapes[0][1] != shapes[1][1]:
        return False
    return shapes[1][1] in [gates * shapes[1][0] for gates in _GATES_BY_NUMBER]


def _recurrent(word: str, shape: tuple[int, ...], gates: tuple[str, ...]) -> Kind:
    """The gates follow each other along the outputs; each is a separate matrix."""
    if len(shape) != 2 or (gates and shape[1] % len(gates)):
        return Kind(word, role="recurrent", skip=Skip("bad_shape", f"{shape} does not hold {len(gates)} gates"))
    return Kind(word, IN_OUT, "recurrent", parts=gates)


def _unknown(cls: str, word: str, what: str) -> Kind:
    owner = cls or "a layer of unknown class"
    return Kind(word, role=named_role(cls, "other"), skip=Skip("no_rule", what + owner))


def _kernel(cls: str, word: str, shape: tuple[int, ...], config: Config) -> Kind:
    rank = len(shape) - 2
    if cls in _DEPTHWISE:
        return depthwise(word)
    if cls == "EinsumDense":
        return _einsum(word, shape, config)
    if cls in _TRANSPOSED and rank >= 1:
        return Kind(word, Axes(tuple(range(rank)), (rank,), (rank + 1,)), "convolution")
    if cls in _CONVOLUTIONS and rank >= 1:
        return _convolution(word, shape, config.get("groups", 1))
    if cls in ("", "Dense") and rank == 0:
        return Kind(word, IN_OUT)
    if not cls and rank in (2, 3):
        return convolution(word, shape, channels_last=True)
    return _unknown(cls, word, f"a kernel of {len(shape)} dimensions in ")


def _convolution(word: str, shape: tuple[int, ...], groups: Any) -> Kind:
    """Stored as (positions…, inputs per group, outputs); the outputs of a group are adjacent."""
    *positions, inputs, outputs = shape
    rank = len(positions)
    taps = tuple(range(rank))
    if groups == 1:
        return Kind(word, Axes(taps, (rank + 1,), (rank,)), "convolution")
    if not isinstance(groups, int) or groups < 1 or outputs % groups:
        return Kind(word, role="convolution", skip=Skip("bad_shape", f"{outputs} outputs in {groups!r} groups"))
    if inputs == 1:
        return depthwise(word)
    axes = Axes((*taps, rank + 1), (rank + 2,), (rank,))
    return Kind(word, axes, "convolution", shape=(*positions, inputs, groups, outputs // groups))


def _einsum(word: str, shape: tuple[int, ...], config: Config) -> Kind:
    equation = str(config.get("equation"))
    try:
        axes = einsum_axes(equation)
    except ValueError:
        return Kind(word, skip=Skip("no_rule", "an EinsumDense kernel whose equation is not in the file"))
    if not axes.outputs or not axes.inputs:
        return Kind(word, skip=Skip("no_matrix", f"equation {equation} multiplies element by element"))
    if sum(map(len, axes)) != len(shape):
        return Kind(word, skip=Skip("bad_shape", f"a kernel {shape} for equation {equation}"))
    return Kind(word, axes)
