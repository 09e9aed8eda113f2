"""The decoder: raw messages in, frames of readings and labels out, and dead letters for what cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning.connectors.codecs import Codec, CodecError, Sample, StatefulCodec
from fml_lightning.connectors.codecs.times import to_microseconds
from fml_lightning.connectors.history import History
from fml_lightning.connectors.readings import LABELS, READINGS, TIME, Batch, Quality
from fml_lightning.connectors.streams import Stream, StreamNames
from fml_lightning.connectors.topics import LabelTopic, Names, Topics

PLAUSIBLE = 86_400_000_000
"""µs that a device's time may be away from the time it was received before it is flagged: a day."""


class DeadLetter(NamedTuple):
    """A message that could not be read, wholly or in part."""

    sequence: int
    received: Any
    """UTC."""
    topic: str
    payload: bytes
    error: str


@dataclass
class Decoded:
    """What a frame of raw messages says."""

    batch: Batch
    dead: list[DeadLetter]
    repeated: int = 0
    """Readings left out because they had come before: same channel, same device time, same samples."""


_Row = tuple[int, int, int | None, float | None, Any]
"""A sample: the message's row, the stream's number, time (µs), sample rate (Hz), and the value or the block."""


class _Route(NamedTuple):
    """How the messages of one topic are read."""

    decode: Callable[[bytes], Sequence[Sample]] | None
    """None for labels."""
    names: Names
    word: str | None
    """The channel, where neither a place in the topic nor the payload names it: the template's last word."""
    stream: int | None
    """The stream, where the topic alone names it."""
    label: LabelTopic | None


@dataclass
class Decoder:
    """Reads messages by their topics; it remembers streams, watermarks, and sessions of stateful codecs.

    Feed it a spool's messages in order.
    """

    topics: Topics
    history: History = field(default_factory=History)
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
        """Whether messages can only be read after those before them."""
        return any(self._sessions)

    def decode(self, messages: pl.DataFrame) -> Decoded:
        """The readings, labels and dead letters of a frame of messages (`segments.MESSAGES`)."""
        topics, payloads = messages["topic"].to_list(), messages["payload"].to_list()
        sequences = messages["sequence"].to_numpy()
        received = messages["received"].to_physical().to_numpy()
        dead: list[DeadLetter] = []
        scalars: list[_Row] = []
        blocks: list[_Row] = []
        labels: list[tuple[int, int, str, str, str]] = []
        routes, streams_of = self._routes, self._stream

        def bury(i: int, error: str) -> None:
            dead.append(DeadLetter(int(sequences[i]), messages["received"][i], topics[i], payloads[i], error))

        for i, (topic, payload) in enumerate(zip(topics, payloads, strict=True)):
            route = routes.get(topic) or self._route(topic)
            if route.decode is None:
                if payload:
                    try:
                        labels.append((int(sequences[i]), *self._label(route, payload, int(received[i]))))
                    except CodecError as error:
                        bury(i, str(error))
                continue
            fault: str | None = None
            samples: Sequence[Sample] = ()
            try:
                samples = route.decode(payload)
            except CodecError as error:
                samples, fault = error.samples, str(error)
            except Exception as error:  # a codec's bug must not end the recording, nor come again at each start
                fault = f"{type(error).__name__}: {error}"
            for sample in samples:
                stream = route.stream
                if stream is None or sample.channel or sample.machine or sample.site:
                    try:
                        stream = streams_of(route, sample)
                    except CodecError as error:
                        fault = fault or str(error)
                        continue
                values = sample.values
                rows = scalars if type(values) is float else blocks
                rows.append((i, stream, sample.time, sample.sample_rate, values))
            if fault is not None:
                bury(i, fault)

        readings, repeated = self._frame(scalars, blocks, messages, sequences, received)
        label_frame = pl.DataFrame(labels, schema={**LABELS, "time": pl.Int64()}, orient="row").cast(
            {"time": TIME}
        )
        return Decoded(Batch(readings, label_frame), dead, repeated)

    def rebirths(self, now: float) -> list[tuple[str, bytes]]:
        """What stateful codecs ask to be published, as topic and payload.

        Args:
            now: seconds since 1970, UTC.
        """
        return [request for session in self._sessions if session for request in session.rebirths(now)]

    # Names ------------------------------------------------------------------------------------------------

    def _route(self, topic: str) -> _Route:
        for label in self.topics.labels:
            if (names := label.parsed.names(topic)) is not None:
                return self._routes.setdefault(topic, _Route(None, names, None, None, label))
        for reading, session in zip(self.topics.readings, self._sessions, strict=True):
            if (names := reading.parsed.names(topic)) is not None:
                if isinstance(reading.codec, Codec):
                    decode = reading.codec.decode
                else:
                    assert session is not None
                    names = Names(None, None, None)  # the codec reads the topic itself
                    decode = partial(session.decode, topic)
                names = Names(
                    names.site or reading.site, names.machine or reading.machine, names.channel or reading.channel
                )
                word = reading.parsed.last_word
                site, machine, channel = names.site, names.machine, names.channel or word
                named = site and machine and channel
                stream = self._names.number(Stream(site, machine, channel)) if named else None  # type: ignore[arg-type]
                return self._routes.setdefault(topic, _Route(decode, names, word, stream, None))
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

    # Frames -----------------------------------------------------------------------------------------------

    def _frame(
        self,
        scalars: list[_Row],
        blocks: list[_Row],
        messages: pl.DataFrame,
        sequences: NDArray[np.int64],
        received: NDArray[np.int64],
    ) -> tuple[pl.DataFrame, int]:
        retained = messages["retained"].to_numpy()
        parts = []
        for rows in (scalars, blocks):
            if not rows:
                continue
            numbers, streams, times, rates, samples = zip(*rows, strict=True)
            message, stream = np.array(numbers), np.array(streams)
            got = received[message]
            own = np.array([t is not None for t in times])
            time = np.array(times, np.int64) if own.all() else np.where(own, [t or 0 for t in times], got)
            quality = np.where(retained[message], int(Quality.RETAINED), 0)
            quality |= np.where(np.abs(time - got) > PLAUSIBLE, int(Quality.IMPLAUSIBLE_TIME), 0)
            quality |= np.where(own, 0, int(Quality.NO_DEVICE_TIME))
            values, doubtful = _series(samples)
            columns = {
                "sequence": sequences[message],
                "time": pl.Series(time).cast(TIME),
                "received": pl.Series(got).cast(TIME),
                **self._names.columns(stream),
                "sample_rate": pl.Series(rates, dtype=pl.Float64),
                "values": values,
                "quality": (quality | doubtful).astype(np.uint8),
                "stream": stream,
            }
            parts.append(pl.DataFrame(columns))
        if not parts:
            return READINGS.to_frame(), 0
        frame = parts[0] if len(parts) == 1 else pl.concat(parts).sort("sequence", maintain_order=True)
        repeated, flags = self.history.compare(frame, self._names)
        frame = pl.DataFrame([frame[name] if name != "quality" else pl.Series(name, flags) for name in READINGS])
        return (frame.filter(~repeated), int(repeated.sum())) if repeated.any() else (frame, 0)

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
        said = content.get(label.label_key)
        machine = route.names.machine or content.get(label.machine_key) or label.machine
        site = route.names.site or label.site
        if not isinstance(said, str) or not said or not isinstance(machine, str) or not site:
            raise CodecError(
                f"expected a label in {label.label_key!r}, and a site and a machine in topic or payload; got"
                f" {content}"
            )
        if label.time_key is None:
            return received, site, machine, said
        if label.time_key not in content:
            raise CodecError(f"expected a time in {label.time_key!r}, got {content}")
        return to_microseconds(content[label.time_key], label.time_unit), site, machine, said


def _unclaimed(payload: bytes) -> Sequence[Sample]:
    if not payload:
        return ()
    raise CodecError("no topic of the configuration matches it; add one, or subscribe to less")


def _series(samples: tuple[Any, ...]) -> tuple[pl.Series, NDArray[np.int64]]:
    """Scalars or blocks as lists of float32, and what is doubtful about them as `Quality` flags, (n,)."""
    if type(samples[0]) is float:
        flat = np.array(samples, np.float32)
        return _lists(flat, 1), np.where(np.isfinite(flat), 0, int(Quality.NOT_FINITE))
    with np.errstate(invalid="ignore"):  # infinity less infinity
        doubts = np.fromiter(_doubts(samples), np.int64, len(samples))
    lengths = {len(block) for block in samples}
    if len(lengths) == 1:
        return _lists(np.concatenate(samples), lengths.pop()), doubts
    return pl.Series(samples, dtype=READINGS["values"]), doubts


def _lists(flat: NDArray[np.float32], length: int) -> pl.Series:
    """Lists of equal length, one after another in `flat`."""
    return pl.Series(flat).reshape((-1, length)).arr.to_list()


def _doubts(blocks: Iterable[NDArray[np.float32]]) -> Iterable[int]:
    for block in blocks:
        # One pass where all is well: a sum is finite only if all samples are.
        if not np.isfinite(block.sum(dtype=np.float64)):
            yield int(Quality.NOT_FINITE)
        elif block[0] == block[-1] and len(block) > 1 and block.min() == block.max():
            yield int(Quality.STUCK)
        else:
            yield 0
