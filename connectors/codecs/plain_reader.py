"""The plain reader: reads the messages in which all is as configured, as in most; each step costs them time."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

from fml_lightning.connectors.codecs.attributes import ROLES
from fml_lightning.connectors.codecs.checked import MOST_SAMPLES
from fml_lightning.connectors.codecs.codec import CodecError, Sample
from fml_lightning.connectors.codecs.message_reader import MessageReader
from fml_lightning.connectors.codecs.numbers import FLOAT32_MAX
from fml_lightning.connectors.codecs.record import RecordType
from fml_lightning.connectors.codecs.times import TimeUnit, to_microseconds

Read = Callable[[Any], Sequence[Sample] | None]
"""Reads a record as `MessageReader.read` reads the message, or returns None where that must do it: of whatever is
odd or wrong."""

_NAMES = ("channel", "machine", "site", "unit")


class PlainReader:
    """Reads messages in which all stands at keys that are known beforehand.

    Args:
        reader: what reads the other messages, and knows the paths.
        record_type: the type for the paths of its values, by their numbers, and of its roles.
    """

    type: type
    """What msgspec decodes the messages to."""
    read: Read

    def __init__(self, reader: MessageReader, record_type: RecordType) -> None:
        fields = reader.fields
        self.type = record_type.type
        self.read = _reader_of(reader, record_type)
        clock = reader.attributes.clock
        is_numbers = len(fields.values) == 1 and {*fields.roles} <= {"time", *_NAMES} and clock.time_zone is None
        if is_numbers and fields.values[0].name is None:
            self.read = _reader_of_numbers(record_type, fields.roles.keys(), clock.unit, self.read)

    @classmethod
    def of(cls, reader: MessageReader) -> PlainReader | None:
        """What reads most messages in place of another reader; None if its paths do not say beforehand where."""
        fields = reader.fields
        values = {f"value_{number}": field.path for number, field in enumerate(fields.values)}
        record_type = RecordType.of({**values, **fields.roles})
        return None if record_type is None else cls(reader, record_type)


def _reader_of_numbers(record_type: RecordType, roles: Set[str], unit: TimeUnit, read: Read) -> Read:
    """What reads one number, its time and plain names of it; another way to `read` them."""
    value_of, time_of = record_type.holder("value_0"), record_type.holder("time")
    has_time, has_names = "time" in roles, not roles.isdisjoint(_NAMES)
    names = record_type.members(*_NAMES)

    def read_number(record: Any) -> Sequence[Sample] | None:
        try:
            value = (record if value_of is None else value_of(record)).value_0
            if (type(value) is float or type(value) is int) and -FLOAT32_MAX <= value <= FLOAT32_MAX:
                time = (record if time_of is None else time_of(record)).time if has_time else None
                if type(time) is float or type(time) is int or (type(time) is str and unit == "iso"):
                    time = to_microseconds(time, unit)
                elif time is not None:
                    return read(record)
                if type(value) is int:
                    value = float(value)
                if not has_names:
                    return (Sample(value, time),)
                channel, machine, site, own_unit = names(record)
                if (
                    (channel is None or (type(channel) is str and channel))
                    and (machine is None or (type(machine) is str and machine))
                    and (site is None or (type(site) is str and site))
                    and (own_unit is None or (type(own_unit) is str and own_unit))
                ):
                    return (Sample(value, time, None, channel, machine, site, own_unit),)
        except (AttributeError, CodecError):  # AttributeError: null on the way to one of them
            return None
        return read(record)

    return read_number


def _reader_of(reader: MessageReader, record_type: RecordType) -> Read:
    """What reads any record."""
    fields, say, has_binary = reader.fields, reader.attributes.read, reader.binary is not None
    roles = record_type.members(*ROLES)
    values = record_type.members(*(f"value_{number}" for number in range(len(fields.values))))
    names = [field.name for field in fields.values]
    texts = [field.path.text for field in fields.values]
    is_one = len(names) == 1

    def where(role: str) -> str:
        return fields.roles[role].text

    def read(record: Any) -> Sequence[Sample] | None:
        samples: list[Sample] = []
        try:
            found = (values(record),) if is_one else values(record)
            said = say(where, *roles(record))
            time, channel, machine, site, unit = said.time, said.channel, said.machine, said.site, said.unit
            quality, has_one_time = said.quality, said.times is None
            for value, name, text in zip(found, names, texts, strict=True):
                own = name if channel is None or name is None else f"{channel}/{name}"
                own = channel if own is None else own
                is_number = (type(value) is float or type(value) is int) and -FLOAT32_MAX <= value <= FLOAT32_MAX
                if is_number and has_one_time:
                    samples.append(Sample(float(value), time, None, own, machine, site, unit, quality))
                elif type(value) is str and not has_binary:
                    return None
                elif value is not None:
                    samples += reader.samples(value, text, said, (own, machine, site))
        except (AttributeError, CodecError):  # AttributeError: null on the way to one of them
            return None
        return samples if 0 < len(samples) <= MOST_SAMPLES else None

    return read
