"""Numbers as devices send them, checked and brought to float32's range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fml_lightning.connectors.codecs.codec import CodecError

FLOAT32_MAX = float(np.finfo(np.float32).max)


def scalar(value: object, where: str) -> float:
    """One number. NaN and infinity pass, where the format can say them: they are flagged later, not lost.

    Args:
        value: what the payload holds.
        where: its name, for the error.

    Raises:
        CodecError: not a number, or a finite one beyond float32.
    """
    if type(value) is float or (type(value) is int and value.bit_length() <= 128):
        number = float(value)
        if -FLOAT32_MAX <= number <= FLOAT32_MAX or not math.isfinite(number):
            return number
    kind = "a number in the range of float32" if type(value) in (int, float) else "a number"
    raise CodecError(f"{where}: expected {kind}, got {shown(value)}")


def block(values: Sequence[float], where: str) -> NDArray[np.float32]:
    """A block of numbers, (n,); NaN and infinity pass as in `scalar`.

    Raises:
        CodecError: empty, or a finite one beyond float32.
    """
    if not values:
        raise CodecError(f"{where}: expected numbers only, and at least one")
    try:
        numbers = np.array(values, np.float64)
    except OverflowError as error:
        raise CodecError(f"{where}: expected numbers in the range of float32") from error
    is_in_range = numbers.min() >= -FLOAT32_MAX and numbers.max() <= FLOAT32_MAX  # false of NaN
    if not is_in_range and np.any((np.abs(numbers) > FLOAT32_MAX) & np.isfinite(numbers)):
        raise CodecError(f"{where}: expected numbers in the range of float32")
    return numbers.astype(np.float32)


def scaled(raw: NDArray[np.generic], scale: float, offset: float) -> NDArray[np.float32]:
    """`raw * scale + offset` in float32, (n,); native float32 at scale 1 and offset 0 is not copied."""
    if raw.dtype == np.float32 and scale == 1 and offset == 0:
        return cast("NDArray[np.float32]", raw)
    # Values beyond float32 become infinite, and infinite samples are flagged later: no need to warn here.
    with np.errstate(over="ignore", invalid="ignore"):
        values = raw.astype(np.float32, copy=False)
        if scale != 1 or offset != 0:
            values = values * np.float32(scale)
            values += np.float32(offset)
    return values


def shown(value: object) -> str:
    """A value for an error message, never long: numbers and the beginning of text, else the type's name.

    >>> shown("x" * 100), shown(None), shown([1, 2])
    ("'xxxxxxxxxxxxxxxxxxxxxxxx…'", 'None', 'list')
    """
    if isinstance(value, str):
        return repr(value if len(value) <= 24 else value[:24] + "…")
    if value is None or isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= 64):
        return repr(value)
    return type(value).__name__
