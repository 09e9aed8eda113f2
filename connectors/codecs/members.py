"""Members of a map, in JSON, CBOR or MessagePack, as samples: which key says what."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import msgspec

from fml_lightning.connectors.codecs.codec import MOST_SKIPPED, Codec, CodecError, Faults, PartlyRead, Sample
from fml_lightning.connectors.codecs.numbers import FLOAT32_MAX, block, scalar, shown
from fml_lightning.connectors.codecs.times import TimeUnit, to_microseconds
from fml_lightning.errors import UserError

_KINDS: dict[type, str] = {
    str: "text",
    bool: "booleans",
    list: "arrays without a sample rate",
    dict: "empty objects",
}
_ROLES = ("time", "channel", "machine", "site", "sample_rate")


class Record(Protocol):
    """The members of one map that a codec reads; UNSET or None where it has no such member."""

    value: object
    time: object
    channel: object
    machine: object
    site: object
    sample_rate: object


@dataclass(frozen=True)
class Members(Codec):
    """Which member of a map says what; no other member is read."""

    value: tuple[str, ...] | str = "value"
    """The key of the value, a number, or an array of numbers, which is a block. Several keys: each is a channel of
    that name, and those that are absent or null are skipped. `*`: every other member with a number, or, with a
    sample rate, an array, is a channel; the names of those with anything else, but for null, are counted."""
    time: str | None = "time"
    """The key of the device's time; where it is absent or null, the device sends none."""
    time_unit: TimeUnit = "ms"
    """What the time counts since 1970, UTC; `iso`: a string such as 2024-05-01T12:00:00.5Z."""
    channel: str | None = None
    """The key of the channel, with one `value` key only."""
    machine: str | None = None
    """The key of the machine."""
    site: str | None = None
    """The key of the site."""
    sample_rate: float | str | None = None
    """Hz, of blocks; or the key that says it."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        values = (self.value,) if isinstance(self.value, str) else self.value
        if not values:
            raise UserError(f"{name}.value: expected a key, several, or *, got none")
        if self.channel is not None and not self._single:
            raise UserError(f"{name}.channel: expected none where keys name the channels, got {self.channel!r}")
        keys = [*values, *self._roles.values()]
        if "" in keys or len(set(keys)) < len(keys):
            raise UserError(f"{name}: expected keys that are not empty and differ from one another, got {keys}")
        if isinstance(self.sample_rate, int | float) and not 0 < self.sample_rate < math.inf:
            raise UserError(f"{name}.sample_rate: expected Hz above 0 or a key, got {self.sample_rate}")

    @property
    def _single(self) -> bool:
        return isinstance(self.value, str) and self.value != "*"

    @cached_property
    def _roles(self) -> dict[str, str]:
        """The key of each field that is not a value, where it has one."""
        keys = {name: getattr(self, name) for name in _ROLES}
        return {name: key for name, key in keys.items() if isinstance(key, str)}

    @cached_property
    def _type(self) -> Any:
        """The type for msgspec to decode: a Struct of the members that are read, as the others then cost nothing.

        Where keys name channels, a dict.
        """
        if not self._single:
            return dict[str, Any]
        absent = dict.fromkeys(name for name in _ROLES if name not in self._roles)
        return msgspec.defstruct(
            "Record",
            [("value", Any, msgspec.UNSET), *((name, Any, None) for name in self._roles)],
            rename={"value": str(self.value), **self._roles},
            namespace=absent,
            gc=False,
        )

    @cached_property
    def _is_plain(self) -> bool:
        """Whether a payload names neither channel nor machine nor site."""
        return not {"channel", "machine", "site"} & set(self._roles)

    def _from_record(self, record: Record) -> Sequence[Sample]:
        """The sample of a map that was decoded as a Struct."""
        value, time = record.value, record.time
        micros = None if time is None else to_microseconds(time, self.time_unit)
        if self._is_plain and type(value) is float and -FLOAT32_MAX <= value <= FLOAT32_MAX:
            return (Sample(value, micros),)  # most messages are so, and every further call costs time
        channel, machine, site = record.channel, record.machine, record.site
        channel = None if channel is None else _name(channel, "channel")
        machine = None if machine is None else _name(machine, "machine")
        site = None if site is None else _name(site, "site")
        return (self._sample(str(self.value), value, micros, channel, machine, site, record.sample_rate),)

    def _from_mapping(self, mapping: Mapping[str, object]) -> Sequence[Sample]:
        """The samples of a map that was decoded as a dict, where keys name channels."""
        roles = {name: mapping.get(key) for name, key in self._roles.items()}
        time = roles.get("time")
        micros = None if time is None else to_microseconds(time, self.time_unit)
        machine, site = (
            None if roles.get(name) is None else _name(roles[name], name) for name in ("machine", "site")
        )
        rate = roles.get("sample_rate")
        samples: list[Sample] = []
        skipped: dict[str, str] = {}
        faults = Faults()
        for key, value in self._channels(mapping, skipped):
            try:
                samples.append(self._sample(key, value, micros, key, machine, site, rate))
            except CodecError as error:
                faults.add(str(error))
        return faults.check(PartlyRead(samples, skipped) if skipped else samples)

    def _channels(self, mapping: Mapping[str, object], skipped: dict[str, str]) -> Iterable[tuple[str, object]]:
        """The members that are channels; of `*`, those that cannot be are added to `skipped`."""
        if self.value == "*":
            return self._every(mapping, skipped)
        found = [(key, mapping[key]) for key in self.value if mapping.get(key) is not None]
        if not found:
            raise CodecError(f"expected at least one of {', '.join(self.value)}, got none")
        return found

    def _every(self, mapping: Mapping[str, object], skipped: dict[str, str]) -> Iterator[tuple[str, object]]:
        own = set(self._roles.values())
        kinds = {int, float} if self.sample_rate is None else {int, float, list}
        for key, value in mapping.items():
            if type(value) in kinds and key not in own and isinstance(key, str):
                yield key, value
            elif value is not None and key not in own and len(skipped) < MOST_SKIPPED:
                skipped.update(_unreadable(key, value))

    def _sample(
        self,
        key: str,
        value: object,
        time: int | None,
        channel: str | None,
        machine: str | None,
        site: str | None,
        rate: object,
    ) -> Sample:
        if type(value) is not list:
            return Sample(scalar(value, key), time, None, channel, machine, site)
        hertz = rate if isinstance(self.sample_rate, str) else self.sample_rate
        if hertz is None:
            raise CodecError(f"{key}: expected a number, or a sample rate with an array, got an array alone")
        hertz = scalar(hertz, "sample rate")
        if not 0 < hertz < math.inf:
            raise CodecError(f"sample rate: expected Hz above 0, got {hertz}")
        return Sample(block(value, key), time, hertz, channel, machine, site)


def _unreadable(key: object, value: object) -> Mapping[str, str]:
    """Name and kind of a member that is no channel: of an object's, those of its members.

    >>> _unreadable("Payload", {"rms": {"Value": 0.5}, "peak": 1.5})
    {'Payload.rms': 'within objects', 'Payload.peak': 'within objects'}
    """
    name = key if isinstance(key, str) else shown(key)
    if isinstance(value, Mapping) and value:
        some = itertools.islice(value, MOST_SKIPPED)
        return {f"{name}.{inner if isinstance(inner, str) else shown(inner)}": "within objects" for inner in some}
    if type(value) in (int, float):
        return {name: "not named by text"}
    return {name: _KINDS.get(type(value), "neither numbers nor text")}


def _name(value: object, role: str) -> str:
    """The name of a machine, site or channel; a number is its digits."""
    if type(value) is int and value.bit_length() <= 64:
        return str(value)
    if isinstance(value, str) and value:
        return value
    raise CodecError(f"{role}: expected its name, got {shown(value)}")
