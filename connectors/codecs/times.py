"""Times as devices write them, in microseconds since 1970, UTC."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Literal
from zoneinfo import ZoneInfo

from fml_lightning.connectors.codecs.codec import CodecError
from fml_lightning.connectors.codecs.numbers import shown
from fml_lightning.connectors.codecs.scalars import number_of
from fml_lightning.connectors.quality import Quality
from fml_lightning.errors import UserError

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
LONGEST_TIME = 64
"""Characters of a time as text."""

_LIKE_ISO = re.compile(r"\s*(\d{4}[-/]\d\d[-/]\d\d)(.*?)\s*(z|utc|gmt)?\s*", re.ASCII | re.IGNORECASE)
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
        parsed = _from_iso(time)
        if parsed is None:
            raise CodecError(f"expected a time in ISO 8601 with an offset from UTC, got {shown(time)}")
        result = _from_datetime(parsed)
    else:
        raise CodecError(f"expected a time as {_KINDS[unit]}, got {shown(time)}")
    if not EARLIEST <= result < LATEST:
        raise _out_of_range(time, unit)
    return result


def _from_iso(text: str) -> datetime | None:
    """A moment in ISO 8601, or in what devices take for it; None if it is none.

    >>> _from_iso(" 2024/05/01 12:00:00 UTC ") == _from_iso("2024-05-01t12:00:00z") == _from_iso("20240501T12Z")
    True
    """
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    found = _LIKE_ISO.fullmatch(text) if len(text) <= LONGEST_TIME else None
    if found is None:
        return None
    try:
        return datetime.fromisoformat("".join((found[1].replace("/", "-"), found[2], "Z" if found[3] else "")))
    except ValueError:
        return None


def _out_of_range(time: object, unit: TimeUnit) -> CodecError:
    return CodecError(f"expected a time between 1900 and 2262, got {shown(time)} ({unit}); is the unit right?")


def from_microseconds(time: int) -> datetime:
    """µs since 1970 as a moment, UTC."""
    return _EPOCH + time * _MICROSECOND


def _from_datetime(time: datetime) -> int:
    if time.tzinfo is None:
        raise CodecError(
            f"expected a time with an offset from UTC, such as Z or +01:00, got {time.isoformat()!r}; if it is"
            " local time, set time_zone"
        )
    return (time - _EPOCH) // _MICROSECOND


@dataclass(frozen=True)
class Clock:
    """How a device writes its times.

    >>> berlin = Clock("iso", "Europe/Berlin")
    >>> berlin.read("2024-05-01T14:00:00") == berlin.read("2024-05-01T12:00:00Z") == (1714564800000000, 0)
    True
    >>> berlin.read("2024-10-27T02:30:00")  # there twice that night: taken as the first, and flagged
    (1729989000000000, 128)
    """

    unit: TimeUnit
    """What a number counts, or `iso`."""
    time_zone: str | None = None
    """The name of the zone, such as Europe/Berlin, of times without an offset from UTC; None: there are none."""

    def __post_init__(self) -> None:
        _ = self._zone

    @cached_property
    def _zone(self) -> ZoneInfo | None:
        if self.time_zone is None:
            return None
        try:
            return ZoneInfo(self.time_zone)
        except (ValueError, OSError, KeyError) as error:  # also of names that are paths, or none
            raise UserError(
                f"time_zone: expected a name of the IANA, such as Europe/Berlin, got {self.time_zone!r} ({error});"
                " if the name is right, run: pip install tzdata"
            ) from error

    def read(self, time: object) -> tuple[int, int]:
        """A device's time in µs since 1970, UTC, and `Quality` flags.

        As `to_microseconds` says; a number may also be text, and a time without an offset is in `time_zone`. The
        hour that is there twice as clocks are set back is taken as the first, and the one that is not there at
        all, as if the clocks had not been set forward; both are flagged.

        Raises:
            CodecError: as of `to_microseconds`.
        """
        if type(time) is float or type(time) is int:
            return to_microseconds(time, self.unit), 0
        if isinstance(time, str) and self.unit != "iso" and (number := number_of(time)) is not None:
            time = number
        if self._zone is None or not isinstance(time, str | datetime) or (local := self._local(time)) is None:
            return to_microseconds(time, self.unit), 0
        first, second = local.replace(tzinfo=self._zone, fold=0), local.replace(tzinfo=self._zone, fold=1)
        doubt = 0 if first.utcoffset() == second.utcoffset() else int(Quality.AMBIGUOUS_TIME)
        return to_microseconds(first, self.unit), doubt

    def _local(self, time: str | datetime) -> datetime | None:
        """A time without an offset; None if it has one, or is no time."""
        if isinstance(time, str):
            if self.unit != "iso":
                return None
            if (parsed := _from_iso(time)) is None:
                return None
            time = parsed
        return time if time.tzinfo is None else None
