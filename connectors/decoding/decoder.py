"""The decoder: raw messages in, frames of readings and labels out, and dead letters for what cannot be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.codecs import CodecError, PartlyRead
from fml_lightning.connectors.codecs.foreign import said
from fml_lightning.connectors.codecs.times import TimeUnit, from_microseconds
from fml_lightning.connectors.decoding.columns import Columns
from fml_lightning.connectors.decoding.dead_letter import DeadLetter
from fml_lightning.connectors.decoding.decoded import Decoded
from fml_lightning.connectors.decoding.events import events_in
from fml_lightning.connectors.decoding.history import History
from fml_lightning.connectors.decoding.routes import Route, Routes
from fml_lightning.connectors.decoding.sessions import Sessions
from fml_lightning.connectors.decoding.streams import StreamNames
from fml_lightning.connectors.decoding.topics import Topics
from fml_lightning.connectors.messages import Messages

MOST_SKIPPED = 100_000
"""Names after which no more are counted of what codecs leave out of one frame of messages."""


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
        self._names = StreamNames()
        self._sessions = Sessions(self.topics)
        self._routes = Routes(self.topics, self._sessions, self._names)

    @property
    def stateful(self) -> bool:
        """Whether a message can only be decoded after all those before it."""
        return len(self._sessions) > 0

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
        known, find = self._routes.known, self._routes.find
        # Bound once: looked up for each sample, these would be a tenth of the time.
        add_place, add_stream, add_time, add_value = places.append, streams.append, times.append, values.append

        for i, (topic, payload) in enumerate(zip(messages.topics, messages.payloads, strict=True)):
            route = known.get(topic) or find(topic)
            read, stream, is_plain = route.decode, route.stream, route.is_plain
            fault: str | None = None
            try:
                if not payload and messages.oversized[i]:
                    size = f"{messages.oversized[i]:,} bytes"
                    raise CodecError(f"a packet of {size}, whose payload was not kept: raise max_packet_bytes")
                if read is not None:
                    samples = read(payload)
                else:
                    samples, fault = (), _add_labels(labels, messages, i, route)
            except CodecError as error:
                samples, fault = error.samples, str(error)
            except Exception as error:  # a codec's bug must not end the recording, nor come again at each start
                samples, fault = (), said(error)
            for sample in samples:
                if not is_plain:
                    stream = route.stream
                    if stream < 0 or sample.channel or sample.machine or sample.site or sample.unit:
                        try:
                            stream = self._names.number(route.stream_of(sample))
                        except CodecError as error:
                            fault = fault or str(error)
                            continue
                    if sample.quality:
                        flags[len(places)] = sample.quality
                value = sample.values
                add_place(i)
                add_stream(stream)
                add_time(sample.time)
                add_value(value)
                if type(value) is not float:
                    rates.append(sample.sample_rate)
            if fault is None and type(samples) is not PartlyRead:
                continue
            sequence = int(messages.sequence[i])
            unread += not ((places and places[-1] == i) or (labels and labels[-1][0] == sequence))
            if isinstance(samples, PartlyRead) and len(skipped) < MOST_SKIPPED:
                skipped.update(samples.skipped.items())
            if fault is not None:
                moment = from_microseconds(int(messages.received[i]))
                dead.append(DeadLetter(sequence, moment, topic, payload, fault))

        readings, repeated = self.history.compare(
            Columns.of(messages, places, streams, times, values, rates, flags), self._names
        )
        return Decoded(readings, ~repeated, labels, dead, self._names, skipped, unread)

    def requests(self, now: float) -> list[tuple[str, bytes]]:
        """What stateful codecs ask to be published, as topic and payload.

        Args:
            now: seconds since 1970, UTC.
        """
        return self._sessions.requests(now)

    def states(self) -> list[bytes] | None:
        """What stateful codecs have learnt, one for each topic that has one, to be restored in another decoder.

        None where a codec's state cannot be taken out.
        """
        return self._sessions.states()

    def restore(self, states: Sequence[bytes]) -> None:
        """Know what `states` of a decoder with the same stateful topics gave, in place of what was learnt here.

        Raises:
            ValueError: they are no such states.
        """
        self._sessions.restore(states)
        self._routes.known.clear()

    def time_unit(self, topic: str) -> TimeUnit | None:
        """In which unit the times of a topic's readings are read; None where its codec has no `time_unit`."""
        for reading in self.topics.readings:
            if reading.parsed.matches(topic):
                unit: TimeUnit | None = getattr(reading.codec, "time_unit", None)
                return unit
        return None


def _add_labels(
    labels: list[tuple[int, int, int, str, str, str]], messages: Messages, i: int, route: Route
) -> str | None:
    """Add what one message says of labels, as rows of `LABELS`; what is wrong with a part of it is returned."""
    assert route.label is not None
    if not messages.payloads[i]:  # a retained label is deleted
        return None
    received, sequence = int(messages.received[i]), int(messages.sequence[i])
    events, fault = events_in(messages.payloads[i], route.label, route.names, received)
    for time, site, machine, label in events:
        # The broker gives a retained label again and again: it was said when it began to hold.
        moment = min(time, received) if messages.retained[i] else received
        labels.append((sequence, time, moment, site, machine, label))
    return fault
