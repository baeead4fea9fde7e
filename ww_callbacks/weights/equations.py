"""Which axes of a kernel are inputs and which outputs, from the equation in which it is used."""

from __future__ import annotations

from ww_callbacks.weights.matrix import Axes


def einsum_axes(equation: str) -> Axes:
    """Axes of the kernel: those that count separate matrices, the outputs and the inputs.

    Contracted axes are the inputs, new ones the outputs; what passes through counts separate matrices.

    Args:
        equation: ``"data,kernel->result"`` in the notation of ``einsum``.

    Raises:
        ValueError: not such an equation.

    Example:
        >>> einsum_axes("abc,cde->abde")
        ((), (1, 2), (0,))
    """
    operands, output = equation.replace("...", "").split("->")
    data, kernel = operands.split(",")
    return (
        tuple(i for i, label in enumerate(kernel) if label in data and label in output),
        tuple(i for i, label in enumerate(kernel) if label not in data and label in output),
        tuple(i for i, label in enumerate(kernel) if label in data and label not in output),
    )
