"""Events: what the messages of a topic of labels say, each that a machine is in a state from a moment on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from fml_lightning.connectors.codecs import CodecError, cbor, json_text, messagepack
from fml_lightning.connectors.codecs.codec import LONGEST_ERROR, LONGEST_NAME, Faults
from fml_lightning.connectors.codecs.fields import Fields, Member
from fml_lightning.connectors.codecs.numbers import shown
from fml_lightning.connectors.codecs.path import Each, Index, key_text, kind
from fml_lightning.connectors.codecs.unwrap import unwrap
from fml_lightning.connectors.decoding.template import Names
from fml_lightning.connectors.decoding.topics import Format, LabelTopic

_CONTENT: Mapping[Format, Callable[[bytes], Any]] = {
    "json": json_text.content,
    "cbor": cbor.content,
    "msgpack": messagepack.content,
}


class Event(NamedTuple):
    """From a moment on, a machine is in a state."""

    time: int
    """µs since 1970, UTC."""
    site: str
    machine: str
    label: str


def events_in(payload: bytes, topic: LabelTopic, names: Names, received: int) -> tuple[list[Event], str | None]:
    """The events of one message, and what is wrong with others in it; none if the payload is empty.

    Args:
        payload: the message's.
        topic: how it is read.
        names: what the message's topic names.
        received: when the message was, µs since 1970, UTC.

    Raises:
        CodecError: the payload is not of the topic's format.
    """
    payload = unwrap(payload, topic.unwrap)
    if not payload:
        return [], None
    if topic.fields is None:
        is_text = topic.format == "json"
        label = _label(json_text.bare(payload) if is_text else _CONTENT[topic.format](payload), "payload", topic)
        return [_event(received, names.or_else(topic.naming.fixed), label, "a label alone")], None
    events: list[Event] = []
    faults = Faults()
    for where, message in _messages(_CONTENT[topic.format](payload), topic.fields):
        try:
            for member in topic.fields.select(message, {}):
                try:
                    events.append(_read(member, message, topic, topic.fields, names, received))
                except CodecError as error:
                    faults.add(f"{where}{error}")
        except CodecError as error:
            faults.add(f"{where}{error}")
    return events, faults.sentence[:LONGEST_ERROR] or None


def _messages(content: Any, fields: Fields) -> Iterator[tuple[str, Any]]:
    """Each object of a list, unless the paths lead into the list themselves, and how an error says which it is."""
    if type(content) is list and not isinstance(fields.values[0].path.steps[0], Each | Index):
        if not content:
            raise CodecError("expected an object, or several in a list, got an empty list")
        yield from ((f"object {number}: ", one) for number, one in enumerate(content))
    else:
        yield "", content


def _read(
    member: Member, message: object, topic: LabelTopic, fields: Fields, names: Names, received: int
) -> Event:
    """The event of one member, which is its label."""
    label = _label(member.value, member.where, topic)
    # What the topic names, the payload is not asked for: its member of that name may be anything.
    site, machine = names.site or _name(member, "site", fields), names.machine or _name(member, "machine", fields)
    names = Names(site, machine, None).or_else(topic.naming.fixed)
    time = received
    if topic.time_key is not None:
        if "time" not in member.roles:
            raise CodecError(
                f"{topic.time_key}: expected a time, got {kind(message)}; set time_key, to null where a label"
                " holds from when it is received"
            )
        try:
            time, _ = topic.clock.read(member.roles["time"])
        except CodecError as error:
            raise CodecError(f"{fields.where('time', member)}: {error}") from error
    return _event(time, names, label, kind(message))


def _event(time: int, names: Names, label: str, said: str) -> Event:
    """An event of which nothing lacks; `said` is what the payload was, for the error."""
    if not names.site or not names.machine:
        lacking = [role for role in ("site", "machine") if not getattr(names, role)]
        raise CodecError(
            f"expected the topic or the payload to name the {' and the '.join(lacking)}, got {said}; set"
            f" {' and '.join(f'{role}_key' for role in lacking)}, a place in the topic's template, or a fixed name"
        )
    if len(longest := max(label, names.machine, names.site, key=len)) > LONGEST_NAME:
        raise CodecError(
            f"expected a label and names of at most {LONGEST_NAME} characters, got {len(longest)} in"
            f" {shown(longest)}"
        )
    return Event(time, names.site, names.machine, label)


def _label(value: object, where: str, topic: LabelTopic) -> str:
    """A text, or what it is for a number or a boolean, and what that means."""
    if type(value) is bool:
        text: str | None = "true" if value else "false"
    elif type(value) is float and math.isfinite(value):
        text = str(int(value)) if value.is_integer() else repr(value)
    else:
        text = key_text(value)
    if not text:
        raise CodecError(f"{where}: expected a label as text, a number or a boolean, got {kind(value)}")
    return topic.labels.get(text, text)


def _name(member: Member, role: str, fields: Fields) -> str | None:
    """A machine or a site that a message names, by a key on the way to the label or by a member."""
    if (named := member.named(role)) is not None:
        return named
    if role not in member.roles:
        return None
    if not (name := key_text(member.roles[role])):
        said = kind(member.roles[role])
        raise CodecError(f"{fields.where(role, member)}: expected a name ({role}), got {said}")
    return name
