"""Events: what the messages of a topic of labels say, each that a machine is in a state from a moment on."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from fml_lightning.connectors.codecs import CodecError
from fml_lightning.connectors.codecs.numbers import shown
from fml_lightning.connectors.codecs.times import to_microseconds
from fml_lightning.connectors.decoding.streams import LONGEST_NAME
from fml_lightning.connectors.decoding.template import Names
from fml_lightning.connectors.decoding.topics import LabelTopic


class Event(NamedTuple):
    """From a moment on, a machine is in a state."""

    time: int
    """µs since 1970, UTC."""
    site: str
    machine: str
    label: str


def events_in(payload: bytes, topic: LabelTopic, names: Names, received: int) -> tuple[list[Event], str | None]:
    """The events of one message, and what is wrong with others in it.

    Args:
        payload: the message's.
        topic: how it is read.
        names: what the message's topic names.
        received: when the message was, µs since 1970, UTC.

    Raises:
        CodecError: none can be read.
    """
    try:
        content = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(
            f"expected a JSON object with {topic.label_key!r}, got something else ({error})"
        ) from error
    state = content.get(topic.label_key)
    fixed = topic.naming.fixed
    machine, site = names.machine or content.get(topic.machine_key) or fixed.machine, names.site or fixed.site
    if not isinstance(state, str) or not state or not isinstance(machine, str) or not site:
        raise CodecError(
            f"expected a label in {topic.label_key!r}, and a site and a machine in topic or payload; got {content}"
        )
    if len(longest := max(state, machine, site, key=len)) > LONGEST_NAME:
        raise CodecError(
            f"expected a label and names of at most {LONGEST_NAME} characters, got {len(longest)} in"
            f" {shown(longest)}"
        )
    if topic.time_key is None:
        return [Event(received, site, machine, state)], None
    if topic.time_key not in content:
        raise CodecError(f"expected a time in {topic.time_key!r}, got {content}")
    return [Event(to_microseconds(content[topic.time_key], topic.time_unit), site, machine, state)], None
