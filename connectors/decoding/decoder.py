"""The decoder: raw messages in, frames of readings and labels out, and dead letters for what cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.codecs import Codec, CodecError, Sample, StatefulCodec, is_ours
from fml_lightning.connectors.codecs.checked import checked
from fml_lightning.connectors.codecs.times import from_microseconds, to_microseconds
from fml_lightning.connectors.decoding.columns import Columns
from fml_lightning.connectors.decoding.history import History
from fml_lightning.connectors.decoding.streams import Stream, StreamNames
from fml_lightning.connectors.decoding.template import Names
from fml_lightning.connectors.decoding.topics import LabelTopic, Topics
from fml_lightning.connectors.messages import Messages
from fml_lightning.connectors.readings import LABELS, TIME, Batch


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
        self._sessions = [
            topic.codec.session() if isinstance(topic.codec, StatefulCodec) else None
            for topic in self.topics.readings
        ]

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
        labels: list[tuple[int, int, int, str, str, str]] = []
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
                        labels.append((int(messages.sequence[i]), time, received, site, machine, label))
                    continue
                samples = read(payload)
            except CodecError as error:
                samples, fault = error.samples, str(error)
            except Exception as error:  # a codec's bug must not end the recording, nor come again at each start
                samples, fault = (), f"{type(error).__name__}: {error}"
            for sample in samples:
                stream = own_stream
                if stream is None or sample.channel or sample.machine or sample.site:
                    try:
                        stream = self._stream(route, sample)
                    except CodecError as error:
                        fault = fault or str(error)
                        continue
                add_place(i)
                add_stream(stream)
                add_time(sample.time)
                add_value(sample.values)
                if type(sample.values) is not float:
                    rates.append(sample.sample_rate)
            if fault is not None:
                moment = from_microseconds(int(messages.received[i]))
                dead.append(DeadLetter(int(messages.sequence[i]), moment, topic, payload, fault))

        readings, repeated = self.history.compare(
            Columns.of(messages, places, streams, times, values, rates), self._names
        )
        return Decoded(readings, ~repeated, labels, dead, self._names)

    def requests(self, now: float) -> list[tuple[str, bytes]]:
        """What stateful codecs ask to be published, as topic and payload.

        Args:
            now: seconds since 1970, UTC.
        """
        return [request for session in self._sessions if session is not None for request in session.requests(now)]

    # Names ------------------------------------------------------------------------------------------------

    def _route(self, topic: str) -> _Route:
        for label in self.topics.labels:
            if (names := label.parsed.names(topic)) is not None:
                return self._routes.setdefault(topic, _Route(None, names, None, None, label))
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
                named = site and machine and (channel or word)
                stream = self._names.number(Stream(site, machine, channel or word)) if named else None  # type: ignore[arg-type]
                return self._routes.setdefault(
                    topic, _Route(decode, Names(site, machine, channel), word, stream, None)
                )
        return self._routes.setdefault(topic, _Route(_unclaimed, Names(None, None, None), None, None, None))

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
        return self._names.number(Stream(site, machine, channel))

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
        if label.time_key is None:
            return received, site, machine, state
        if label.time_key not in content:
            raise CodecError(f"expected a time in {label.time_key!r}, got {content}")
        return to_microseconds(content[label.time_key], label.time_unit), site, machine, state


def _unclaimed(payload: bytes) -> Sequence[Sample]:
    if not payload:
        return ()
    raise CodecError("no topic of the configuration matches it; add one, or subscribe to less")
