"""Times as devices write them, in microseconds since 1970, UTC."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Literal

from fml_lightning.connectors.codecs.codec import CodecError
from fml_lightning.connectors.codecs.numbers import shown

Precision = Literal["s", "ms", "us", "ns"]
"""What a number counts since 1970, UTC."""

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]
"""What a number counts since 1970, UTC; `iso`: a string in ISO 8601, with its offset from UTC."""

EARLIEST = -2_208_988_800_000_000
"""1900-01-01, µs since 1970."""
LATEST = 9_214_646_400_000_000
"""2262-01-01, µs since 1970: beyond it, nanoseconds leave int64."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_FRACTIONAL = ("s", "ms")  # units that may have a fraction
_KINDS: dict[TimeUnit, str] = {
    "s": "seconds since 1970",
    "ms": "milliseconds since 1970",
    "us": "whole microseconds since 1970",
    "ns": "whole nanoseconds since 1970",
    "iso": "a string in ISO 8601",
}


def to_microseconds(time: object, unit: TimeUnit) -> int:
    """A device's time in µs since 1970, UTC.

    Seconds and milliseconds may have a fraction; nanoseconds are cut to microseconds. A `datetime`, as CBOR and
    MessagePack have them, is read whatever the unit is.

    >>> to_microseconds(1.5, "s"), to_microseconds("1970-01-01T01:00:01+01:00", "iso")
    (1500000, 1000000)

    Raises:
        CodecError: not such a time, or outside the years 1900 to 2261.
    """
    if type(time) is float and unit in _FRACTIONAL:
        microseconds = time * _MICROSECONDS[unit]
        if EARLIEST <= microseconds < LATEST:
            return round(microseconds)
        if math.isfinite(microseconds):
            raise _out_of_range(time, unit)
    if type(time) is int and unit != "iso":
        result = time // 1_000 if unit == "ns" else time * _MICROSECONDS[unit]
    elif isinstance(time, datetime):
        result = _from_datetime(time)
    elif unit == "iso" and isinstance(time, str):
        try:
            parsed = datetime.fromisoformat(time)
        except ValueError as error:
            raise CodecError(f"expected a time in ISO 8601 with an offset from UTC, got {shown(time)}") from error
        result = _from_datetime(parsed)
    else:
        raise CodecError(f"expected a time as {_KINDS[unit]}, got {shown(time)}")
    if not EARLIEST <= result < LATEST:
        raise _out_of_range(time, unit)
    return result


def _out_of_range(time: object, unit: TimeUnit) -> CodecError:
    return CodecError(f"expected a time between 1900 and 2262, got {shown(time)} ({unit}); is the unit right?")


def from_microseconds(time: int) -> datetime:
    """µs since 1970 as a moment, UTC."""
    return _EPOCH + time * _MICROSECOND


def _from_datetime(time: datetime) -> int:
    if time.tzinfo is None:
        raise CodecError(f"expected a time with an offset from UTC, such as Z or +01:00, got {time.isoformat()!r}")
    return (time - _EPOCH) // _MICROSECOND
