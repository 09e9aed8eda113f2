"""The packed array: an array of numbers as plain types, so that what keeps samples can be written to a file."""

from __future__ import annotations

import math
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray


class Packed(msgspec.Struct, frozen=True):
    """An array, bit by bit.

    >>> Packed.of(np.float32([[1, 2], [3, 4]])).array(np.float32, 2).tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """

    dtype: Literal["<f4", "<f8", "<i8"]
    """Of the numbers, as numpy writes it."""
    shape: list[int]
    data: bytes
    """The numbers in order of rows."""

    def __post_init__(self) -> None:
        """Refuse a shape that the data do not fill; `msgspec` tells where in a file it stands."""
        wanted = math.prod(self.shape) * int(self.dtype[2:])
        if min(self.shape, default=0) < 0 or wanted != len(self.data):
            raise ValueError(f"expected {wanted} bytes for an array {self.shape}, got {len(self.data)}")

    @classmethod
    def of(cls, array: NDArray[Any]) -> Packed:
        """An array of 32-bit or 64-bit floats, or of 64-bit integers."""
        dtype: Any = array.dtype.newbyteorder("<").str
        return cls(dtype, list(array.shape), array.astype(dtype, copy=False).tobytes())

    def array(self, dtype: type[np.number[Any]], dimensions: int = 1) -> NDArray[Any]:
        """The array, which the caller owns.

        Args:
            dtype: of its numbers.
            dimensions: that it has.

        Raises:
            ValueError: it has others.
        """
        wanted = np.dtype(dtype)
        if np.dtype(self.dtype) != wanted or len(self.shape) != dimensions:
            raise ValueError(
                f"expected an array of {dimensions} dimensions of {wanted}, got {self.shape} of {self.dtype}"
            )
        return np.frombuffer(self.data, self.dtype).astype(wanted).reshape(self.shape)
