"""Small numbers packed into larger integers, and four-bit floating-point numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0], np.float32)
"""The 16 values of a four-bit float with 2 exponent bits and 1 fraction bit (OCP Microscaling Formats, 2023)."""


def unpacked(words: NDArray[Any], bits: int, axis: int) -> NDArray[np.int32]:
    """The numbers in 32-bit words: a stream of bits along an axis, lowest bits first.

    Args:
        words: 32-bit integers.
        bits: 1 to 8 per number.
        axis: along which the numbers are packed; its length is a multiple of ``bits`` if ``bits`` does not divide 32.

    Example:
        >>> unpacked(np.array([0x76543210]), 4, 0).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7]
    """
    last = np.moveaxis(np.ascontiguousarray(words).astype(np.uint32), axis, -1)
    if 32 % bits == 0:
        shifts = np.arange(0, 32, bits, dtype=np.uint32)
        each = (last[..., None] >> shifts) & np.uint32(2**bits - 1)
    else:
        stream = np.unpackbits(np.ascontiguousarray(last).astype("<u4").view(np.uint8), axis=-1, bitorder="little")
        weights = 1 << np.arange(bits)
        each = stream.reshape(*last.shape[:-1], -1, bits) @ weights
    return np.moveaxis(each.reshape(*last.shape[:-1], -1).astype(np.int32), -1, axis)


def nibbles(octets: NDArray[np.uint8], *, high_first: bool) -> NDArray[np.uint8]:
    """The two four-bit numbers of each byte, along the last axis.

    Example:
        >>> nibbles(np.array([0x21, 0x43], np.uint8), high_first=False).tolist()
        [1, 2, 3, 4]
    """
    pairs = (octets >> 4, octets & 15) if high_first else (octets & 15, octets >> 4)
    return np.stack(pairs, -1).reshape(*octets.shape[:-1], -1)


def powers_of_two(exponents: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The values of E8M0 codes: 2 to the power of (code - 127); 255 is NaN.

    Example:
        >>> powers_of_two(np.array([126, 127, 130], np.uint8)).tolist()
        [0.5, 1.0, 8.0]
    """
    values = np.ldexp(np.float32(1), np.minimum(exponents, 254).astype(np.int32) - 127).astype(np.float32)
    return np.where(exponents == 255, np.float32(np.nan), values)
