"""Eight-bit floating-point numbers as float16, which represents each value exactly; numpy has no such dtype."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def _e5m2() -> NDArray[np.float16]:
    """1 sign, 5 exponent, 2 fraction bits: the upper half of a float16."""
    return (np.arange(256, dtype=np.uint16) << 8).view(np.float16)


def _e4m3fn() -> NDArray[np.float16]:
    """1 sign, 4 exponent (bias 7), 3 fraction bits; no infinity, all ones are NaN."""
    code = np.arange(256)
    exponent, fraction = (code >> 3) & 15, code & 7
    normal = (1 + fraction / 8) * 2.0 ** (exponent - 7)
    size = np.where(exponent == 0, fraction * 2.0**-9, normal)
    size[code & 127 == 127] = np.nan
    return np.where(code < 128, size, -size).astype(np.float16)


TABLES = {"float8_e4m3fn": _e4m3fn(), "float8_e5m2": _e5m2()}
"""The 256 values of each format."""


def decode(codes: NDArray[np.uint8], dtype: str) -> NDArray[np.float16]:
    """The values of the codes (Micikevicius et al., "FP8 formats for deep learning", 2022).

    Args:
        codes: any shape.
        dtype: "float8_e4m3fn" or "float8_e5m2".

    Example:
        >>> decode(np.array([0x38, 0xC0, 0x01, 0x7E], np.uint8), "float8_e4m3fn").tolist()
        [1.0, -2.0, 0.001953125, 448.0]
    """
    return TABLES[dtype][codes]
