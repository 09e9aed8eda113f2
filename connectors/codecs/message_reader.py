"""The message reader: the members of one decoded message, as samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fml_lightning.connectors.codecs.attributes import AttributeReader, Attributes
from fml_lightning.connectors.codecs.binary import Binary
from fml_lightning.connectors.codecs.checked import MOST_SAMPLES
from fml_lightning.connectors.codecs.codec import MOST_SKIPPED, CodecError, Faults, PartlyRead, Sample
from fml_lightning.connectors.codecs.fields import Fields, Member
from fml_lightning.connectors.codecs.numbers import FLOAT32_MAX, shown
from fml_lightning.connectors.codecs.path import fixed_keys, key_text
from fml_lightning.connectors.codecs.scalars import Scalars

_KINDS: dict[type, str] = {
    int: "not within objects",
    float: "not within objects",
    bool: "not within objects",
    str: "text",
    bytes: "bytes",
    list: "arrays without a sample rate",
    np.ndarray: "arrays without a sample rate",
    dict: "empty objects",
}
_NOTHING_SAID = Attributes()
Names = tuple[str | None, str | None, str | None]
"""Of channel, machine and site."""


@dataclass(frozen=True)
class MessageReader:
    """Reads messages that were decoded as dicts, lists, and what is in them."""

    fields: Fields
    """Which members are values, and which say something of them."""
    attributes: AttributeReader
    """What the latter say."""
    scalars: Scalars
    """What stands for a number."""
    binary: Binary | None
    """How samples are packed in text or bytes."""

    def read(self, content: object) -> Sequence[Sample]:
        """The samples of a message; one bad value loses itself only.

        Raises:
            CodecError: something is not as it should be; the error keeps the samples.
        """
        return _Message(self).read(content)

    def samples(
        self, value: Any, where: str, said: Attributes, names: Names, index: int | None = None
    ) -> Sequence[Sample]:
        """The samples of one value.

        Args:
            value: as it stands in the message.
            where: where that is, for the errors.
            said: what the message says of it.
            names: of the samples' channel, machine and site.
            index: which one of a list's items it is, if it is one.

        Raises:
            CodecError: it is not what it should be; the error keeps the samples of those parts that are good.
        """
        if self.binary is not None and isinstance(value, str | bytes):
            channel, machine, site = names
            samples: list[Sample] = []
            for own, values in self.binary.read(value, where):
                name = own if channel is None or own is None else f"{channel}/{own}"
                samples += self._series(values, where, said, (name or channel, machine, site))
            return samples
        if isinstance(value, list | np.ndarray):
            return self._series(value, where, said, names)
        time, flags = said.time, said.quality
        if said.times is not None:
            time, flags = self._time_of(said, index, where)
        return (Sample(self.scalars.number(value, where), time, None, *names, said.unit, flags),)

    def _series(
        self, values: list[Any] | NDArray[Any], where: str, said: Attributes, names: Names
    ) -> Sequence[Sample]:
        """A block; without a sample rate, scalars that have a time each."""
        if said.rate_fault:
            raise CodecError(said.rate_fault)
        if said.sample_rate is not None:
            time, flags = said.time, said.quality
            if said.times:
                time, flags = self._time_of(said, 0, where)
            block = self.scalars.block(values, where)
            return (Sample(block, time, said.sample_rate, *names, said.unit, flags),)
        if said.times is None:
            if isinstance(values, np.ndarray) and len(values) == 1:
                return (Sample(float(values[0]), said.time, None, *names, said.unit, said.quality),)
            rate = self.fields.roles.get("sample_rate")
            lacks = "" if rate is None else f"; {rate.text}: expected a sample rate in Hz, got none"
            raise CodecError(
                f"{where}: expected a number, or a sample rate with an array, got an array alone{lacks}"
            )
        if len(values) != len(said.times) or len(values) > MOST_SAMPLES:
            raise CodecError(
                f"{where}: expected as many values as times, at most {MOST_SAMPLES:,}, got {len(values)} values"
                f" and {len(said.times)} times"
            )
        samples: list[Sample] = []
        faults = Faults()
        for i, value in enumerate(values.tolist() if isinstance(values, np.ndarray) else values):
            if value is not None:
                try:
                    samples += self.samples(value, f"{where}[{i}]", said, names, i)
                except CodecError as error:
                    faults.add(str(error))
        return faults.check(samples)

    def _time_of(self, said: Attributes, index: int | None, where: str) -> tuple[int | None, int]:
        """The time of one of several values, and `Quality` flags."""
        times = said.times or []
        if index is None or index >= len(times):
            raise CodecError(f"{where}: expected a time for each value in {said.times_at}, got {len(times)}")
        if times[index] is None:
            return None, said.quality
        time, doubt = self.attributes.time(times[index], f"{said.times_at}[{index}]")
        return time, said.quality | doubt


@dataclass
class _Block:
    """The samples of a block that the last `[*]` of a path finds one by one."""

    said: Attributes
    """What the message says of the first one."""
    names: Names
    where: str
    numbers: list[float]


class _Message:
    """What was read of one message so far."""

    def __init__(self, reader: MessageReader) -> None:
        self._reader = reader
        self._samples: list[Sample] = []
        self._blocks: dict[object, _Block] = {}
        self._skipped: dict[str, str] = {}
        self._found: list[Member] = []
        self._faults = Faults()
        self._roles: Mapping[str, Any] | None = None
        self._said = _NOTHING_SAID

    def read(self, content: object) -> Sequence[Sample]:
        fields = self._reader.fields
        passed: dict[str, object] = {}
        try:
            members = fields.object_of_every(content)
            if members is not None:
                self._read_every(fields.of_message(content), members)
            else:
                has_others = len(fields.values) > 1
                for member in fields.select(content, passed):
                    read_before = len(self._samples)
                    self._try(member)
                    if has_others and len(self._samples) > read_before and len(self._found) < MOST_SKIPPED:
                        self._found.append(member)
        except CodecError as error:
            self._faults.add(str(error))
        for where, node in passed.items():
            self._skip(where, node)
        for member in self._found if self._skipped else ():  # what one path passes over, another one may read
            for count in range(1, len(member.keys) + 1):
                self._skipped.pop(member.field.path.written(member.keys[:count]), None)
        samples = [*self._samples, *self._whole_blocks()] if self._blocks else self._samples
        return self._faults.check(PartlyRead(samples, self._skipped) if self._skipped else samples)

    def _read_every(self, roles: Mapping[str, Any], members: Mapping[Any, Any]) -> None:
        """Read what `Fields.every` finds, as of `Fields.select`, in less time: many devices send such messages."""
        fields, samples, field = self._reader.fields, self._samples, self._reader.fields.every
        assert field is not None
        own = fields.passed_over_keys
        try:
            said = self._said = self._reader.attributes.read(
                lambda role: fields.where(role, Member(None, roles, field, ())), **roles
            )
        except CodecError:
            if any(value is not None and key_text(key) not in own for key, value in members.items()):
                raise
            return  # there is nothing of which it is said
        self._roles = roles
        is_plain = said.is_plain and said.channel is None
        time, machine, site, unit, quality = said.time, said.machine, said.site, said.unit, said.quality
        for key, value in members.items():
            if value is None or key in own:
                continue
            is_number = (type(value) is float or type(value) is int) and -FLOAT32_MAX <= value <= FLOAT32_MAX
            if is_number and is_plain and type(key) is str:
                samples.append(Sample(float(value), time, None, key, machine, site, unit, quality))
            elif key_text(key) not in own:
                self._try(Member(value, roles, field, (*fixed_keys(field.path.steps), key)))
        self._bound()

    def _try(self, member: Member) -> None:
        """Read one member; a bad one loses itself only."""
        try:
            if member.roles is not self._roles:
                self._say(member)
            self._add(member)
        except CodecError as error:
            self._samples += error.samples
            self._faults.add(str(error))
        if len(self._samples) > MOST_SAMPLES:
            self._bound()

    def _bound(self) -> None:
        """Raise a CodecError if there are too many samples."""
        if len(self._samples) > MOST_SAMPLES:
            del self._samples[MOST_SAMPLES:]
            raise CodecError(f"expected at most {MOST_SAMPLES:,} samples in one message, got more")

    def _say(self, member: Member) -> None:
        """Read what the message says of a member, and of others for which it says the same."""
        fields = self._reader.fields
        self._said = self._reader.attributes.read(lambda role: fields.where(role, member), **member.roles)
        self._roles = member.roles

    def _add(self, member: Member) -> None:
        """Read one member."""
        reader, said, value, path = self._reader, self._said, member.value, member.field.path
        kind = type(value)
        is_number = (kind is float or kind is int) and -FLOAT32_MAX <= value <= FLOAT32_MAX
        if is_number and said.is_plain and type(member.keys[-1]) is str:
            # Most members are so, and each further call costs time.
            channel, machine, site = self._names(member, said)
            number = float(value)
            self._samples.append(Sample(number, said.time, None, channel, machine, site, said.unit, said.quality))
            return
        is_item = path.last_each is not None
        if is_item and said.sample_rate is not None and self._is_sample(value):
            self._add_to_block(member, said)
            return
        if value is None:
            return
        of_list = is_item and path.last_each == len(path.steps) - 1
        if reader.binary is None and not of_list and reader.scalars.is_nan(value):
            self._skip(member.where, value, "NaN")
            return
        if path.is_open and not member.is_one_key and (reason := self._no_channel(member, said)):
            self._skip(member.where, value, reason)
            return
        last = member.keys[-1]
        index = last if is_item and type(last) is int else None
        self._samples.extend(reader.samples(value, member.where, said, self._names(member, said), index))

    def _names(self, member: Member, said: Attributes) -> Names:
        """The names of channel, machine and site: what keys say, or else what the attributes say."""
        key, channel = member.field.channel(member.keys), said.channel
        if key is not None:
            channel = key if channel is None else f"{channel}/{key}"
        if not member.field.places or member.is_one_key:
            return channel, said.machine, said.site
        return channel, member.named("machine") or said.machine, member.named("site") or said.site

    def _is_sample(self, value: object) -> bool:
        """Whether a value is one number, not several."""
        several = (list, np.ndarray) if self._reader.binary is None else (list, np.ndarray, str, bytes)
        return not isinstance(value, several)

    def _add_to_block(self, member: Member, said: Attributes) -> None:
        each = member.field.path.last_each
        assert each is not None
        key = (member.field.path.text, member.keys[:each], member.keys[each + 1 :])
        block = self._blocks.get(key)
        if block is None:
            block = _Block(said, self._names(member, said), member.where, [])
            self._blocks[key] = block
        block.numbers.append(math.nan)  # what is no number would else shift those after it
        if member.value is not None:
            block.numbers[-1] = self._reader.scalars.number(member.value, member.where)

    def _whole_blocks(self) -> Iterator[Sample]:
        for block in self._blocks.values():
            said, numbers = block.said, np.array(block.numbers, np.float32)
            if not np.isnan(numbers).all():
                try:
                    yield from self._reader.samples(numbers, block.where, said, block.names)
                except CodecError as error:
                    self._faults.add(str(error))

    def _no_channel(self, member: Member, said: Attributes) -> str | None:
        """Why a member that `*` finds is no channel; None if it is one."""
        value = member.value
        if isinstance(value, list | np.ndarray):
            if said.sample_rate is None and said.times is None:
                return _KINDS[list]
        elif isinstance(value, str | bytes):
            try:
                self._reader.samples(value, "", said, (None, None, None), 0)
            except CodecError:
                return _KINDS[type(value)]
        elif type(value) not in (int, float, bool):
            return _KINDS.get(type(value), "neither numbers nor text")
        if any(key_text(member.keys[place]) is None for place in member.field.parts):
            return "not named by text"
        return None

    def _skip(self, where: str, value: object, reason: str | None = None) -> None:
        """Count what was left out: of an object, its members."""
        if len(self._skipped) >= MOST_SKIPPED:
            return
        if isinstance(value, dict) and value:
            for key in itertools.islice(value, MOST_SKIPPED):
                self._skipped[f"{where}.{key_text(key) or shown(key)}"] = "within objects"
        else:
            self._skipped[where] = reason or _KINDS.get(type(value), "neither numbers nor text")
