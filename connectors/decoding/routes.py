"""Routes: how the messages of each topic are read, found once and remembered."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from fml_lightning.connectors.codecs import Codec, CodecError, Sample, is_ours
from fml_lightning.connectors.codecs.checked import checked
from fml_lightning.connectors.codecs.unwrap import unwrap
from fml_lightning.connectors.decoding.sessions import Sessions
from fml_lightning.connectors.decoding.streams import Stream, StreamNames
from fml_lightning.connectors.decoding.template import Names
from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics

MOST_ROUTES, LONGEST_TOPIC = 100_000, 1_000
"""Topics of which it is remembered how they are read, and characters of the longest of them; how others are read
is found out anew for each message."""
NO_STREAM = -1
NO_NAMES = Names(None, None, None)


@dataclass(frozen=True, slots=True)  # whose fields are read three times as fast as those of a NamedTuple
class Route:
    """How the messages of one topic are read."""

    decode: Callable[[bytes], Sequence[Sample]] | None
    """What decodes a payload; None where the topic carries labels."""
    stream: int
    """The number of the stream; `NO_STREAM` where it takes a payload to know it."""
    is_plain: bool
    """Whether all samples are of `stream`, and no payload says anything of their quality: nobody need look."""
    names: Names = NO_NAMES
    """What the topic, or its configuration, says of site, machine and channel."""
    unit: str | None = None
    """The unit that the configuration gives."""
    word: str | None = None
    """The last word of the template: the channel, where neither `names` nor the payload says another."""
    label: LabelTopic | None = None
    """Where the topic carries labels, how they are read."""

    def stream_of(self, sample: Sample) -> Stream:
        """The stream that topic and payload name together.

        Raises:
            CodecError: they do not name all that it takes.
        """
        names = self.names
        site, machine = sample.site or names.site, sample.machine or names.machine
        channel = "/".join(part for part in (names.channel, sample.channel) if part) or self.word
        if not site or not machine or not channel:
            lacking = [n for n, v in (("site", site), ("machine", machine), ("channel", channel)) if not v]
            raise CodecError(
                f"expected the topic or the payload to name the {' and the '.join(lacking)}; set it in the topic's"
                " template, codec, or as a fixed name"
            )
        return Stream(site, machine, channel, sample.unit or self.unit)


class Routes:
    """The routes of topics, most of which are remembered once they are found.

    Args:
        topics: the configuration.
        sessions: of its stateful codecs; whoever changes them must clear `known`.
        names: numbers the streams.
    """

    def __init__(self, topics: Topics, sessions: Sessions, names: StreamNames) -> None:
        self._topics, self._sessions, self._names = topics, sessions, names
        self.known: dict[str, Route] = {}
        """The routes that are remembered, by topic."""

    def find(self, topic: str) -> Route:
        """The route of a topic that is not known."""
        route = self._found(topic)
        if len(topic) <= LONGEST_TOPIC:
            if len(self.known) >= MOST_ROUTES:
                self.known.clear()
            self.known[topic] = route
        return route

    def _found(self, topic: str) -> Route:
        for label in self._topics.labels:
            if (names := label.naming.names(topic)) is not None:
                return Route(None, NO_STREAM, False, names, label=label)
        for number, reading in enumerate(self._topics.readings):
            # A stateful codec reads the names in the topic itself.
            of = reading.naming.names if isinstance(reading.codec, Codec) else reading.naming.made
            if (names := of(topic)) is not None:
                return self._of_readings(number, reading, topic, names.or_else(reading.naming.fixed))
        templates = [label.parsed for label in self._topics.labels]
        templates += [reading.parsed for reading in self._topics.readings if not reading.is_ignored]
        is_sent_unasked = any(template.is_narrower and template.subscribes_to(topic) for template in templates)
        return Route(_nothing if is_sent_unasked else _unclaimed, NO_STREAM, False)

    def _of_readings(self, number: int, reading: Topic, topic: str, names: Names) -> Route:
        codec = reading.codec
        decode: Callable[[bytes], Sequence[Sample]]
        decode = codec.decode if isinstance(codec, Codec) else partial(self._sessions[number].decode, topic)
        if not is_ours(codec):
            decode = checked(decode)
        if reading.unwrap:
            decode = _unwrapping(decode, reading)
        stream = NO_STREAM
        if names.site and names.machine and (channel := names.channel or reading.parsed.last_word):
            with contextlib.suppress(CodecError):  # each of its messages will say so
                stream = self._names.number(Stream(names.site, names.machine, channel, reading.unit))
        is_plain = stream != NO_STREAM and is_ours(codec) and isinstance(codec, Codec) and codec._is_plain
        return Route(decode, stream, is_plain, names, reading.unit, reading.parsed.last_word)


def _unwrapping(decode: Callable[[bytes], Sequence[Sample]], topic: Topic) -> Callable[[bytes], Sequence[Sample]]:
    def unwrap_and_decode(payload: bytes) -> Sequence[Sample]:
        return decode(unwrap(payload, topic.unwrap))

    return unwrap_and_decode


def _nothing(payload: bytes) -> Sequence[Sample]:
    return ()


def _unclaimed(payload: bytes) -> Sequence[Sample]:
    if not payload:
        return ()
    raise CodecError("no topic of the configuration matches it; add one, or subscribe to less")
