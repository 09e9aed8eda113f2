"""The decoder: raw messages in, frames of readings and labels out, and dead letters for what cannot be read."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.codecs import (
    Codec,
    CodecError,
    CodecSession,
    PartlyRead,
    Sample,
    StatefulCodec,
    is_ours,
)
from fml_lightning.connectors.codecs.checked import checked
from fml_lightning.connectors.codecs.codec import LONGEST_ERROR
from fml_lightning.connectors.codecs.numbers import shown
from fml_lightning.connectors.codecs.times import TimeUnit, from_microseconds, to_microseconds
from fml_lightning.connectors.decoding.columns import Columns
from fml_lightning.connectors.decoding.history import History
from fml_lightning.connectors.decoding.streams import LONGEST_NAME, Stream, StreamNames
from fml_lightning.connectors.decoding.template import Names
from fml_lightning.connectors.decoding.topics import LabelTopic, Topics
from fml_lightning.connectors.messages import Messages
from fml_lightning.connectors.readings import LABELS, TIME, Batch
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

MOST_ROUTES, LONGEST_TOPIC = 100_000, 1_000
"""Topics of which a decoder remembers how they are read, and characters of the longest of them; how others are
read is found out anew for each message."""
MOST_REQUESTS = 10_000
"""Requests that are taken from a codec at a time."""
MOST_SKIPPED = 100_000
"""Names after which no more are counted of what codecs leave out of one frame of messages."""
MOST_REPORTED = 100
"""Bugs of codecs, outside of `decode`, that are logged."""


class DeadLetter(NamedTuple):
    """A message that could not be read, wholly or in part."""

    sequence: int
    received: datetime
    """UTC."""
    topic: str
    payload: bytes
    error: str


@dataclass(frozen=True)
class Decoded:
    """What was decoded from messages."""

    columns: Columns
    """All n readings, repeated ones too."""
    kept: NDArray[np.bool_]
    """Which readings are not repeated (`History.compare`), (n,)."""
    labels: Sequence[tuple[int, int, int, str, str, str]]
    """Rows of `LABELS`, times in µs since 1970."""
    dead: Sequence[DeadLetter]
    """What could not be read."""
    names: StreamNames
    """The streams that `columns` refers to by number."""
    skipped: Counter[tuple[str, str]]
    """How many messages had something that was left out, by its name and what it is (`PartlyRead.skipped`); of
    more than `MOST_SKIPPED` names not all."""
    unread: int
    """How many messages say something of which nothing could be read."""

    @property
    def repeated(self) -> int:
        """How many readings are repeated, and so not in `batch`."""
        return len(self.kept) - int(self.kept.sum())

    @cached_property
    def batch(self) -> Batch:
        """The readings that are not repeated, and the labels."""
        labels = pl.DataFrame(
            self.labels, schema={**LABELS, "time": pl.Int64(), "received": pl.Int64()}, orient="row"
        )
        return Batch(self.columns.frame(self.names, self.kept), labels.cast({"time": TIME, "received": TIME}))


class _Route(NamedTuple):
    """How the messages of one topic are read."""

    decode: Callable[[bytes], Sequence[Sample]] | None
    """What decodes a payload; None where the topic carries labels."""
    names: Names
    """What the topic, or its configuration, says of site, machine and channel."""
    unit: str | None
    """The unit that the configuration gives."""
    word: str | None
    """The last word of the template: the channel, where neither `names` nor the payload says another."""
    stream: int | None
    """The number of the stream, where it takes no payload to know it."""
    label: LabelTopic | None
    """Where the topic carries labels, how they are read."""


@dataclass
class Decoder:
    """Decodes messages, each as the configuration says of its topic.

    It must be given the messages of a spool in order: it remembers the streams, what came before on each, and what
    stateful codecs have learnt.
    """

    topics: Topics
    history: History = field(default_factory=History, init=False)
    """What came before."""

    def __post_init__(self) -> None:
        self._routes: dict[str, _Route] = {}
        self._names = StreamNames()
        self._sessions = _sessions(self.topics)
        self._reported: set[str] = set()

    @property
    def stateful(self) -> bool:
        """Whether a message can only be decoded after all those before it."""
        return any(session is not None for session in self._sessions)

    def decode(self, messages: pl.DataFrame | Messages) -> Decoded:
        """The readings, labels and dead letters of messages.

        Args:
            messages: as columns, or as a frame (`MESSAGES`).
        """
        if isinstance(messages, pl.DataFrame):
            messages = Messages.of(messages)
        dead: list[DeadLetter] = []
        places: list[int] = []
        streams: list[int] = []
        times: list[int | None] = []
        values: list[float | NDArray[np.float32]] = []
        rates: list[float | None] = []
        flags: dict[int, int] = {}
        labels: list[tuple[int, int, int, str, str, str]] = []
        skipped: Counter[tuple[str, str]] = Counter()
        unread = 0
        routes = self._routes
        # Bound once: looked up for each sample, these would be a tenth of the time.
        add_place, add_stream, add_time, add_value = places.append, streams.append, times.append, values.append

        for i, (topic, payload) in enumerate(zip(messages.topics, messages.payloads, strict=True)):
            route = routes.get(topic) or self._route(topic)
            read, own_stream = route.decode, route.stream
            fault: str | None = None
            try:
                if not payload and messages.oversized[i]:
                    size = f"{messages.oversized[i]:,} bytes"
                    raise CodecError(f"a packet of {size}, whose payload was not kept: raise max_packet_bytes")
                if read is None:
                    if payload:
                        received = int(messages.received[i])
                        time, site, machine, label = self._label(route, payload, received)
                        # The broker gives a retained label again and again: it was said when it began to hold.
                        said = min(time, received) if messages.retained[i] else received
                        labels.append((int(messages.sequence[i]), time, said, site, machine, label))
                    continue
                samples = read(payload)
            except CodecError as error:
                samples, fault = error.samples, str(error)
            except Exception as error:  # a codec's bug must not end the recording, nor come again at each start
                samples, fault = (), _said(error)
            for sample in samples:
                stream = own_stream
                if stream is None or sample.channel or sample.machine or sample.site or sample.unit:
                    try:
                        stream = self._stream(route, sample)
                    except CodecError as error:
                        fault = fault or str(error)
                        continue
                if sample.quality:
                    flags[len(places)] = sample.quality
                add_place(i)
                add_stream(stream)
                add_time(sample.time)
                add_value(sample.values)
                if type(sample.values) is not float:
                    rates.append(sample.sample_rate)
            if fault is None and type(samples) is not PartlyRead:
                continue
            unread += not (places and places[-1] == i)
            if isinstance(samples, PartlyRead) and len(skipped) < MOST_SKIPPED:
                skipped.update(samples.skipped.items())
            if fault is not None:
                moment = from_microseconds(int(messages.received[i]))
                dead.append(DeadLetter(int(messages.sequence[i]), moment, topic, payload, fault))

        readings, repeated = self.history.compare(
            Columns.of(messages, places, streams, times, values, rates, flags), self._names
        )
        return Decoded(readings, ~repeated, labels, dead, self._names, skipped, unread)

    def requests(self, now: float) -> list[tuple[str, bytes]]:
        """What stateful codecs ask to be published, as topic and payload.

        Args:
            now: seconds since 1970, UTC.
        """
        found: list[tuple[str, bytes]] = []
        for session in self._sessions:
            try:
                if session is not None:
                    asked = itertools.islice(session.requests(now), MOST_REQUESTS)
                    found += [(str(topic), bytes(payload)) for topic, payload in asked]
            except (Exception, SystemExit) as error:  # a codec's bug must not end the recording
                self._report(session, "requests", error)
        return found

    def states(self) -> list[bytes] | None:
        """What stateful codecs have learnt, one for each topic that has one, to be restored in another decoder.

        None where a codec's state cannot be taken out.
        """
        found: list[bytes] = []
        for session in self._sessions:
            if session is None:
                continue
            try:
                state = session.state()
            except (Exception, SystemExit) as error:
                self._report(session, "state", error)
                return None
            if not isinstance(state, bytes):
                return None
            found.append(state)
        return found

    def restore(self, states: Sequence[bytes]) -> None:
        """Know what `states` of a decoder with the same stateful topics gave, in place of what was learnt here.

        Raises:
            ValueError: they are no such states.
        """
        sessions = _sessions(self.topics)
        stateful = [session for session in sessions if session is not None]
        for session, state in zip(stateful, states, strict=True):
            try:
                session.restore(state)
            except (Exception, SystemExit) as error:
                raise ValueError(f"{type(session).__name__}: {_said(error)}") from error
        self._sessions = sessions
        self._routes.clear()

    def time_unit(self, topic: str) -> TimeUnit | None:
        """In which unit the times of a topic's readings are read; None where its codec has no `time_unit`."""
        for reading in self.topics.readings:
            if reading.parsed.names(topic) is not None:
                unit: TimeUnit | None = getattr(reading.codec, "time_unit", None)
                return unit
        return None

    def _report(self, session: object, method: str, error: BaseException) -> None:
        """Log a bug of a session of the user's own, once."""
        word = f"{type(session).__name__}.{method}: {_said(error)}"
        if word not in self._reported and len(self._reported) < MOST_REPORTED:
            self._reported.add(word)
            log.error("a bug of a codec: %s", word)

    # Names ------------------------------------------------------------------------------------------------

    def _route(self, topic: str) -> _Route:
        """How the messages of a topic are read, which is remembered."""
        route = self._found(topic)
        if len(topic) <= LONGEST_TOPIC:
            if len(self._routes) >= MOST_ROUTES:
                self._routes.clear()
            self._routes[topic] = route
        return route

    def _found(self, topic: str) -> _Route:
        for label in self.topics.labels:
            if (names := label.parsed.names(topic)) is not None:
                return _Route(None, names, None, None, None, label)
        for reading, session in zip(self.topics.readings, self._sessions, strict=True):
            if (found := reading.parsed.names(topic)) is not None:
                decode: Callable[[bytes], Sequence[Sample]]
                if isinstance(reading.codec, Codec):
                    decode = reading.codec.decode
                else:
                    assert session is not None
                    found = Names(None, None, None)  # a stateful codec reads the names in the topic itself
                    decode = partial(session.decode, topic)
                if not is_ours(reading.codec):
                    decode = checked(decode)
                site, machine = found.site or reading.site, found.machine or reading.machine
                channel, word = found.channel or reading.channel, reading.parsed.last_word
                stream = None
                if site and machine and (name := channel or word):
                    with contextlib.suppress(CodecError):  # each of its messages will say so
                        stream = self._names.number(Stream(site, machine, name, reading.unit))
                return _Route(decode, Names(site, machine, channel), reading.unit, word, stream, None)
        return _Route(_unclaimed, Names(None, None, None), None, None, None, None)

    def _stream(self, route: _Route, sample: Sample) -> int:
        """The number of the stream that topic and payload name together."""
        names = route.names
        site, machine = sample.site or names.site, sample.machine or names.machine
        channel = "/".join(part for part in (names.channel, sample.channel) if part) or route.word
        if not site or not machine or not channel:
            lacking = [n for n, v in (("site", site), ("machine", machine), ("channel", channel)) if not v]
            raise CodecError(
                f"expected the topic or the payload to name the {' and the '.join(lacking)}; set it in the topic's"
                " template, codec, or as a fixed name"
            )
        return self._names.number(Stream(site, machine, channel, sample.unit or route.unit))

    # Labels ---------------------------------------------------------------------------------------------

    def _label(self, route: _Route, payload: bytes, received: int) -> tuple[int, str, str, str]:
        """Time, site, machine and label of a maintenance event."""
        label = route.label
        assert label is not None
        try:
            content = msgspec.json.decode(payload, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise CodecError(
                f"expected a JSON object with {label.label_key!r}, got something else ({error})"
            ) from error
        state = content.get(label.label_key)
        machine = route.names.machine or content.get(label.machine_key) or label.machine
        site = route.names.site or label.site
        if not isinstance(state, str) or not state or not isinstance(machine, str) or not site:
            raise CodecError(
                f"expected a label in {label.label_key!r}, and a site and a machine in topic or payload; got"
                f" {content}"
            )
        if len(longest := max(state, machine, site, key=len)) > LONGEST_NAME:
            raise CodecError(
                f"expected a label and names of at most {LONGEST_NAME} characters, got {len(longest)} in"
                f" {shown(longest)}"
            )
        if label.time_key is None:
            return received, site, machine, state
        if label.time_key not in content:
            raise CodecError(f"expected a time in {label.time_key!r}, got {content}")
        return to_microseconds(content[label.time_key], label.time_unit), site, machine, state


def _sessions(topics: Topics) -> list[CodecSession | None]:
    """A new session of each topic of readings that has a stateful codec."""
    sessions: list[CodecSession | None] = []
    for codec in (topic.codec for topic in topics.readings):
        try:
            sessions.append(codec.session() if isinstance(codec, StatefulCodec) else None)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{type(codec).__name__}: it makes no session: {_said(error)}") from error
        if isinstance(codec, StatefulCodec) and not isinstance(sessions[-1], CodecSession):
            raise UserError(f"{type(codec).__name__}.session: expected a CodecSession, got {sessions[-1]!r:.100}")
    return sessions


def _said(error: BaseException) -> str:
    """What an error says, never long; an error may be a user's own, and unable to say anything."""
    try:
        return f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
    except Exception:
        return type(error).__name__


def _unclaimed(payload: bytes) -> Sequence[Sample]:
    if not payload:
        return ()
    raise CodecError("no topic of the configuration matches it; add one, or subscribe to less")
