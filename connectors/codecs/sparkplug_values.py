"""What Sparkplug B's values say: numbers of each datatype, arrays, data sets, and a metric's properties.

https://sparkplug.eclipse.org/specification/version/3.0/documents/sparkplug-specification-3.0.0.pdf, section 6.4
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fml_lightning.connectors.codecs.codec import LONGEST_NAME, CodecError
from fml_lightning.connectors.codecs.numbers import FLOAT32_MAX, scalar, shown
from fml_lightning.connectors.quality import Quality

_INTEGERS = {1: 8, 2: 16, 3: 32, 4: 64, 5: 8, 6: 16, 7: 32, 8: 64}  # Int8 … Int64, UInt8 … UInt64: their bits
_LAST_SIGNED = 4
_FLOAT, _DOUBLE = 9, 10
BOOLEAN = 11
"""The last datatype that is one number; strings, times, sets, templates and arrays follow."""
DATE_TIME, DATA_SET, TEMPLATE = 13, 16, 19
_ARRAYS = {
    22 + i: np.dtype(f"<{kind}")
    for i, kind in enumerate(("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"))
}
_BOOLEAN_ARRAY = 32
ARRAYS = frozenset({*_ARRAYS, _BOOLEAN_ARRAY})
"""Datatypes of arrays of numbers; arrays of strings and of times are none."""

_BAD = int(Quality.BAD)
_GOOD = 192
"""The `Quality` of a good value; 0 is bad, and 500 stale."""


class Properties(NamedTuple):
    """What a metric's properties say of its value."""

    unit: str | None = None
    """`engUnit`."""
    rate: float | None = None
    """Hz, of the property that is configured as the sample rate."""
    quality: int = 0
    """`BAD`, where `Quality` is not good."""


def number_of(holder: Any, datatype: int, where: str) -> float | None:
    """The number in a metric, in a cell of a data set or in a property; None where it has no value.

    Args:
        holder: the protobuf message that has one of the fields `int_value`, `long_value`, and so on.
        datatype: of the number, at most `BOOLEAN`.
        where: the name of the value, for the error.

    Raises:
        CodecError: the value is not of its datatype, or is beyond float32.
    """
    stored = holder.WhichOneof("value")
    if stored is None:
        return None
    value = getattr(holder, stored)
    if type(value) is float and datatype in (_FLOAT, _DOUBLE) and -FLOAT32_MAX <= value <= FLOAT32_MAX:
        return value  # most values are so
    if datatype in _INTEGERS and stored in ("int_value", "long_value"):
        return float(_integer(value, 32 if stored == "int_value" else 64, datatype, where))
    if datatype == BOOLEAN and stored == "boolean_value":
        return float(value)
    if datatype not in (_FLOAT, _DOUBLE) or stored not in ("float_value", "double_value"):
        raise CodecError(f"metric {shown(where)}: expected a value of datatype {datatype}, got {stored}")
    return scalar(value, f"metric {shown(where)}")


def array_of(metric: Any, datatype: int, where: str) -> NDArray[Any]:
    """The numbers of an array, (n,), n ≥ 0: packed in little-endian; booleans as bits, after a count of 4 bytes.

    Args:
        metric: the protobuf message, which has a value.
        datatype: one of `ARRAYS`.
        where: the metric's name, for the error.

    Raises:
        CodecError: the value is no bytes, or not so many as these numbers take.
    """
    if (stored := metric.WhichOneof("value")) != "bytes_value":
        raise CodecError(f"metric {shown(where)}: expected an array as bytes_value, got {stored}")
    raw: bytes = metric.bytes_value
    if datatype == _BOOLEAN_ARRAY:
        count = int.from_bytes(raw[:4], "little")
        if len(raw) < 4 or len(raw) - 4 != (count + 7) // 8:
            raise CodecError(
                f"metric {shown(where)}: expected 4 bytes and a bit for each boolean, got {len(raw)} bytes"
            )
        return np.unpackbits(np.frombuffer(raw, np.uint8, offset=4))[:count]  # the highest bit first
    dtype = _ARRAYS[datatype]
    if len(raw) % dtype.itemsize:
        raise CodecError(
            f"metric {shown(where)}: expected numbers of {dtype.itemsize} bytes, got {len(raw)} bytes"
        )
    return np.frombuffer(raw, dtype)


def columns_of(data_set: Any, where: str) -> Iterator[tuple[str, int, Sequence[Any]]]:
    """Name, datatype and cells of each column of a data set; a column without a name has its number, from 0.

    Raises:
        CodecError: the names, the datatypes and the cells of the rows do not match.
    """
    names, types = data_set.columns, data_set.types
    widths = {len(names), len(types), *(len(row.elements) for row in data_set.rows)}
    if len(widths) > 1:
        raise CodecError(
            f"metric {shown(where)}: expected a data set with a name, a type and a cell for each column,"
            f" got {len(names)} names, {len(types)} types and rows of other lengths"
        )
    for i, (name, datatype) in enumerate(zip(names, types, strict=True)):
        if not isinstance(name, str):  # protobuf gives bytes where they are not UTF-8
            raise CodecError(f"metric {shown(where)}: expected a column's name in UTF-8")
        yield name or str(i), datatype, [row.elements[i] for row in data_set.rows]


def properties_of(metric: Any, rate_name: str | None) -> Properties:
    """Unit, sample rate and quality of a metric that has properties.

    Args:
        metric: the protobuf message.
        rate_name: the property with the sample rate; None if there is none.

    Raises:
        CodecError: a sample rate that is no number above 0, or a unit that is too long.
    """
    unit, rate, quality = None, None, 0
    for name, value in zip(metric.properties.keys, metric.properties.values, strict=False):
        stored = value.WhichOneof("value")
        if value.is_null or stored is None:
            continue
        said = getattr(value, stored)
        if name == rate_name:
            rate = _hertz(said, name)
        elif name == "Quality":
            quality = 0 if said in (_GOOD, str(_GOOD)) or str(said).casefold() == "good" else _BAD
        elif name == "engUnit" and isinstance(said, str):
            if len(said) > LONGEST_NAME:
                raise CodecError(f"engUnit: expected at most {LONGEST_NAME} characters, got {shown(said)}")
            unit = said or None
    return Properties(unit, rate, quality)


def _hertz(said: object, name: str) -> float:
    """A sample rate; it may be text."""
    try:
        rate = float(said) if isinstance(said, str | int | float) and not isinstance(said, bool) else math.nan
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise CodecError(f"property {shown(name)}: expected a sample rate in Hz above 0, got {shown(said)}")
    return rate


def _integer(raw: int, width: int, datatype: int, where: str) -> int:
    """An integer from the unsigned field, `width` bits wide, that Sparkplug keeps all integers in.

    Some senders extend the sign of an Int8 to the whole field, others leave it in the low 8 bits; both are read.
    """
    bits = _INTEGERS[datatype]
    low, high = 0, 1 << bits
    value = raw
    if datatype <= _LAST_SIGNED:
        low, high = -(1 << (bits - 1)), 1 << (bits - 1)
        if raw >> (width - 1):
            value = raw - (1 << width)
        elif raw >> (bits - 1) == 1:
            value = raw - (1 << bits)
    if not low <= value < high:
        raise CodecError(f"metric {shown(where)}: expected an integer of {bits} bits, got {value}")
    return value
