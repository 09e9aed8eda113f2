"""Members of a map, in JSON, CBOR or MessagePack, as samples: which path says what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from fml_lightning.connectors.codecs.attributes import ROLES, AttributeReader, Good
from fml_lightning.connectors.codecs.binary import Binary
from fml_lightning.connectors.codecs.codec import Codec
from fml_lightning.connectors.codecs.fields import Fields
from fml_lightning.connectors.codecs.message_reader import MessageReader
from fml_lightning.connectors.codecs.name_pattern import NamePattern
from fml_lightning.connectors.codecs.plain_reader import PlainReader
from fml_lightning.connectors.codecs.scalars import Scalars, states_by_text
from fml_lightning.connectors.codecs.times import Clock, TimeUnit
from fml_lightning.errors import UserError


@dataclass(frozen=True)
class Members(Codec):
    """Which members of a map say what; no other member is read. Each is named by its path (`Path`).

    A path with the wildcards of `value` is taken by the same keys: `unit: units.*` beside `value: values.*`.
    """

    value: tuple[str, ...] | str | Mapping[str, str] = field(default="value", hash=False)
    """The path of the value: a number, a number as text, a boolean (1 or 0), a text of `states`, or an array of
    them, which is a block. Several paths: each is a channel of the name of its last key, and those that are absent
    or null are skipped. A mapping: the path of each channel, by its name. `*` in a path: every member of an object
    there is a channel; the names of those that are no numbers, but for null, are counted."""
    time: str | None = "time"
    """The path of the device's time; where it is absent or null, the device sends none."""
    time_unit: TimeUnit = "ms"
    """What the time counts since 1970, UTC; `iso`: a string such as 2024-05-01T12:00:00.5Z."""
    channel: str | None = None
    """The path of the channel, where no key of `value` names it."""
    machine: str | None = None
    """The path of the machine."""
    site: str | None = None
    """The path of the site."""
    sample_rate: float | str | None = None
    """Hz, of blocks; or the path to it. Numbers that the last `[*]` of `value` finds are then a block, too."""
    unit: str | None = None
    """The path of the unit."""
    quality: str | None = None
    """The path of what the device says of a value; what is not in `good` is flagged as bad."""
    good: tuple[Good, ...] = (True, 192, "good")
    """What the device says of a good value; text in any case."""
    states: Mapping[str, float] = field(default_factory=dict, hash=False)
    """The number that stands for each text, in any case, such as `{running: 1, stopped: 0}`."""
    name: str | None = None
    """The path of a text that names several things at once; see `pattern`."""
    pattern: str = "{machine}.{channel}"
    """How `name` is parted. Each place but the last takes as much as it can: L1.Pump.Speed is Speed of L1.Pump."""
    time_zone: str | None = None
    """The zone, such as Europe/Berlin, of times without an offset from UTC; null: there are none."""
    ignore: tuple[str, ...] = ()
    """Paths of members that `*` passes over."""
    binary: Binary | None = None
    """How samples are packed in a value that is text or bytes; null: they are not."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        object.__setattr__(self, "states", states_by_text(self.states))
        if isinstance(self.value, Mapping):  # YAML reads digits as a number
            object.__setattr__(self, "value", {str(channel): path for channel, path in self.value.items()})
        if isinstance(self.sample_rate, int | float) and not 0 < self.sample_rate < math.inf:
            raise UserError(f"{name}.sample_rate: expected Hz above 0 or a path, got {self.sample_rate}")
        reader = self._new_reader()  # kept nowhere yet, as jsonargparse reads an instance's dict
        reader.scalars.check(name)
        fields, roles = reader.fields, reader.fields.roles
        of_name = reader.attributes.pattern.places if self.name is not None else []
        for role in ("site", "machine", "channel"):
            by_key = any(role in one.places for one in fields.values)
            if (role in roles) + by_key + (role in of_name) > 1:
                raise UserError(
                    f"{name}.{role}: expected one path that says it, got several; leave out all but one"
                )
        if self.channel is not None and any(one.parts or one.name for one in fields.values):
            raise UserError(
                f"{name}.channel: expected none where keys name the channels, got {self.channel!r}; where both"
                f" are to name them, set name: {self.channel} with pattern: '{{channel}}'"
            )

    @cached_property
    def _reader(self) -> MessageReader:
        return self._new_reader()

    def _new_reader(self) -> MessageReader:
        roles = {name: path for name in ROLES if isinstance(path := getattr(self, name), str)}
        rate = None if isinstance(self.sample_rate, str) else self.sample_rate
        pattern = NamePattern(self.pattern)
        return MessageReader(
            Fields.of(type(self).__name__, self.value, roles, self.ignore),
            AttributeReader(Clock(self.time_unit, self.time_zone), pattern, self.good, rate),
            Scalars(self.states),
            self.binary,
        )

    @cached_property
    def _plain_reader(self) -> PlainReader | None:
        """What reads most messages in less time than `_reader`, if there is such."""
        return PlainReader.of(self._reader)

    @cached_property
    def _is_plain(self) -> bool:
        """See `Codec._is_plain`: whether no role, key or packed channel says more than a time."""
        fields = self._reader.fields
        is_named = any(one.parts or one.places or one.name for one in fields.values)
        says_more = not {*fields.roles} <= {"time", "sample_rate"} or self.time_zone is not None
        return not is_named and not says_more and self.binary is None
