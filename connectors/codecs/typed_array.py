"""Typed arrays of CBOR: samples packed in bytes, whose tag says how. https://www.rfc-editor.org/rfc/rfc8746."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TYPES = {
    64: "u1",
    **{65: ">u2", 66: ">u4", 67: ">u8"},
    68: "u1",  # clamped as it was made, which is all the same now
    **{69: "<u2", 70: "<u4", 71: "<u8"},
    72: "i1",
    **{73: ">i2", 74: ">i4", 75: ">i8"},
    **{77: "<i2", 78: "<i4", 79: "<i8"},
    **{80: ">f2", 81: ">f4", 82: ">f8"},
    **{84: "<f2", 85: "<f4", 86: "<f8"},
}
"""Section 2.1, but for floats of 128 bits, which no sensor sends."""


def typed_array(dtype: str, value: Any, _immutable: bool = False) -> NDArray[Any]:
    """The samples of a typed array, (n,).

    >>> typed_array("<i2", bytes([1, 0, 254, 255]))
    array([ 1, -2], dtype=int16)

    Raises:
        ValueError: the value is no bytes, or no whole number of samples.
    """
    if not isinstance(value, bytes):
        raise ValueError("a typed array that is no bytes")
    return np.frombuffer(value, dtype)


DECODERS: dict[int, Callable[..., Any]] = {tag: partial(typed_array, dtype) for tag, dtype in _TYPES.items()}
"""What makes the arrays of these tags, for cbor2."""
