"""InfluxDB's line protocol: one point with one or more fields per line.

https://docs.influxdata.com/influxdb/v2/reference/syntax/line-protocol/
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fml_lightning.connectors.codecs.codec import (
    LONGEST_NAME,
    MOST_SKIPPED,
    Codec,
    CodecError,
    Faults,
    PartlyRead,
    Sample,
)
from fml_lightning.connectors.codecs.numbers import scalar, shown
from fml_lightning.connectors.codecs.times import Precision, to_microseconds
from fml_lightning.errors import UserError

_WORD = r"(?:\\.|[^\\,= ])++"  # a backslash takes the next character with it
_HEAD = re.compile(rf"((?:\\.|[^\\, ])++)((?:,{_WORD}={_WORD})*+) +")
_TAG = re.compile(rf",({_WORD})=({_WORD})")
_FIELD = re.compile(rf'({_WORD})=(?:"(?:\\.|[^"\\])*+"|([^," ]++))(,?)')
_TAIL = re.compile(r"(?: +(-?[0-9]{1,20}))? *")
_ESCAPE = re.compile(r"\\([,= \\])")
_NUMBER = re.compile(r"([-+]?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][-+]?[0-9]++)?)|(-?[0-9]++)i|([0-9]++)u")
_BOOLEANS = {
    **dict.fromkeys(("t", "T", "true", "True", "TRUE"), 1.0),
    **dict.fromkeys(("f", "F", "false", "False", "FALSE"), 0.0),
}


@dataclass(frozen=True)
class InfluxLine(Codec):
    r"""Lines such as `motor,machine=press_07 temperature=61.5,running=true 1714564800000000000`.

    The channel is `measurement/field`, or the measurement alone if the field is called `value`. The tags that name
    neither machine nor site belong to the measurement, in the order of their keys: of `motor,axis=x rms=1.5`, the
    channel is `motor,axis=x/rms`. Booleans are 0 or 1; strings are left out, and counted by name. A bad line loses
    itself only.
    """

    time_unit: Precision = "ns"
    """What the timestamps count since 1970, UTC."""
    machine_tag: str | None = None
    """The tag that names the machine."""
    site_tag: str | None = None
    """The tag that names the site."""

    def __post_init__(self) -> None:
        if "" in (self.machine_tag, self.site_tag):
            raise UserError("InfluxLine: expected the names of tags, or none, got an empty one")

    def decode(self, payload: bytes) -> Sequence[Sample]:
        """One sample of each numeric field of each line."""
        samples: list[Sample] = []
        skipped: dict[str, str] = {}
        faults = Faults()
        for number, raw in enumerate(payload.split(b"\n"), 1):
            line = raw.strip(b" \t\r")
            if not line or line.startswith(b"#"):
                continue
            try:
                samples.extend(self._line(line.decode(), skipped))
            except (CodecError, UnicodeDecodeError) as error:
                faults.add(f"line {number}: {error}")
        return faults.check(PartlyRead(samples, skipped) if skipped else samples)

    def _line(self, line: str, skipped: dict[str, str]) -> list[Sample]:
        head = _HEAD.match(line)
        if head is None:
            raise CodecError(f"expected measurement,tag=value field=value time, got {shown(line)}")
        series, machine, site = self._names(head[1], head[2]) if head[2] else (_unescaped(head[1]), None, None)
        if len(series) > LONGEST_NAME:
            raise CodecError(
                f"expected a measurement and tags of at most {LONGEST_NAME} characters, got {len(series)}"
            )
        end = head.end()
        fields: list[tuple[str, float]] = []
        for key, value, stop in _fields(line, end):
            end = stop
            if value is not None:
                fields.append((_unescaped(key), _number(value)))
            elif len(skipped) < MOST_SKIPPED:
                skipped[f"{series}/{_unescaped(key)}"] = "text"
        tail = _TAIL.fullmatch(line, end)
        if tail is None:
            raise CodecError(f"expected field=value, or a time, got {shown(line[end:])}")
        time = None if tail[1] is None else to_microseconds(int(tail[1]), self.time_unit)
        return [
            Sample(value, time, None, series if key == "value" else f"{series}/{key}", machine, site)
            for key, value in fields
        ]

    def _names(self, measurement: str, tags: str) -> tuple[str, str | None, str | None]:
        """The series, which is the measurement with its further tags, the machine and the site."""
        machine = site = None
        further: list[tuple[str, str]] = []
        for key, value in _TAG.findall(tags):
            name = _unescaped(key)
            if name == self.machine_tag:
                machine = _unescaped(value)
            if name == self.site_tag:
                site = _unescaped(value)
            if name not in (self.machine_tag, self.site_tag):
                further.append((name, _readable(f"{key}={value}")))
        if not further:
            return _unescaped(measurement), machine, site
        return ",".join([_readable(measurement), *(text for _, text in sorted(further))]), machine, site


def _fields(line: str, start: int) -> Iterator[tuple[str, str | None, int]]:
    """Key, value (None: a string) and end of each field from `start` on."""
    more = True
    while more:
        field = _FIELD.match(line, start)
        if field is None:
            raise CodecError(f"expected field=value, got {shown(line[start:])}")
        start = field.end()
        more = bool(field[3])
        yield field[1], field[2], start


def _number(text: str) -> float:
    boolean = _BOOLEANS.get(text)
    if boolean is not None:
        return boolean
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise CodecError(f"expected a number, such as 1.5, 3i or 3u, a boolean or a string, got {shown(text)}")
    number = float(found[found.lastindex or 0])
    if not math.isfinite(number):
        raise CodecError(f"expected a number in the range of float32, got {shown(text)}")
    return scalar(number, "field")


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(r"\1", text) if "\\" in text else text


def _readable(text: str) -> str:
    """Without the escapes of spaces; commas and equals signs keep theirs: unlike series have unlike names."""
    return text.replace("\\ ", " ")
