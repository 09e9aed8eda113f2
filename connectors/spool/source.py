"""A spool as a source: the readings and labels of the messages that it holds, and of those that arrive."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from fml_lightning.connectors.decoding.decoded import Decoded
from fml_lightning.connectors.decoding.decoder import Decoder
from fml_lightning.connectors.decoding.topics import Topics
from fml_lightning.connectors.pace import Pace
from fml_lightning.connectors.readings import Batch
from fml_lightning.connectors.spool.folder import has_topics, topics_text
from fml_lightning.connectors.spool.reader import SpoolReader
from fml_lightning.connectors.spool.snapshots import Snapshots
from fml_lightning.errors import UserError

WARM_UP = 20_000
"""Messages before the first one to read that are decoded too, to know which readings are repeated or late."""


class SpoolSource:
    """Decodes a spool, from the oldest message on or from where another reader stopped.

    `new`, `decoded` and iterations go on from one `position`: each message is read once, by whichever of them
    comes to it first. Use several sources to read a spool several times.

    A reading is compared with those of the 20,000 messages before `after`, and of all messages since: one that is
    late or repeated only in comparison with older ones is not found to be so, as it would be by a source that
    begins with the oldest message. With a stateful codec, decoding begins at the newest of the writer's snapshots
    before these messages; without one, at the oldest message.

    A recorder that was restarted may read topics in another way from then on, and says so in the spool. The source
    follows it: it reads all later messages in the new way, and none again.

    Args:
        folder: the spool's.
        topics: how messages are decoded; unless you say otherwise, as the spool's writer decodes them.
        after: the sequence number after which messages are read; -1: all messages.
        speed: null: an iteration follows the spool as it grows, without end. A number: it replays what the spool
            holds, so many times as fast as the messages were received, and ends.

    Raises:
        UserError: there is no such spool, it does not say how it is read, or the speed is not above 0.
    """

    def __init__(
        self, folder: str | Path, topics: Topics | None = None, after: int = -1, speed: float | None = None
    ) -> None:
        self.folder = Path(folder)
        self.speed = speed
        self._reader = SpoolReader(folder, after)
        self._text = topics_text(self.folder) if topics is None else None  # None: never looked at
        self._decode_with(topics or self._topics(self._text or b""))
        self._stop = threading.Event()
        if speed is not None:
            Pace(speed, self._stop)  # which refuses a speed that is not above 0

    @property
    def position(self) -> int:
        """The sequence number of the last message that was read; before the first one, `after`."""
        return self._reader.position

    @property
    def missed(self) -> int:
        """Messages that were deleted, or put into quarantine, before they were read."""
        return self._reader.missed

    def new(self) -> Iterator[Batch]:
        """What has arrived since `position`, one batch for each segment that has readings or labels."""
        return self._batches(self._reader.read())

    def decoded(self) -> Iterator[tuple[pl.DataFrame, Decoded]]:
        """What has arrived since `position`: messages, and with them their dead letters and what codecs left out.

        Yields:
            Messages (`MESSAGES`), and all that was decoded from them.
        """
        return self._decoded(self._reader.read())

    def __enter__(self) -> SpoolSource:
        """Open the source."""
        self._stop.clear()
        return self

    def __exit__(self, *error: object) -> None:
        """End an iteration."""
        self._stop.set()

    def __iter__(self) -> Iterator[Batch]:
        """Follow the spool, or replay it, from `position` on."""
        return self._batches(self._reader.tail(self._stop) if self.speed is None else self._replayed(self.speed))

    def _replayed(self, speed: float) -> Iterator[pl.DataFrame]:
        pace = Pace(speed, self._stop)
        for frame in self._reader.read():
            for due in pace.parts(frame["received"].to_physical().to_numpy() / 1e6):
                yield frame[due]
            if self._stop.is_set():
                return

    def _batches(self, frames: Iterator[pl.DataFrame]) -> Iterator[Batch]:
        for _, decoded in self._decoded(frames):
            batch = decoded.batch
            if len(batch.readings) or len(batch.labels):
                yield batch

    def _decoded(self, frames: Iterator[pl.DataFrame]) -> Iterator[tuple[pl.DataFrame, Decoded]]:
        for frame in frames:
            # Looked at after the messages were read: a writer says how they are read before it writes the first.
            if self._text is not None and has_topics(self.folder):
                text = topics_text(self.folder)
                if text != self._text:
                    self._decode_with(self._topics(text))
                    self._text = text
            if not self._is_warm:
                self._warm_up(frame["sequence"][0] - 1)
            yield frame, self._decode(frame)

    def _topics(self, text: bytes) -> Topics:
        try:
            return Topics.loads(text)
        except UserError as error:
            raise UserError(f"spool {self.folder}: {error}") from error

    def _decode_with(self, topics: Topics) -> None:
        """Decode the next messages as topics say, with a decoder that knows nothing yet."""
        self._decoder = Decoder(topics)
        self._snapshots = Snapshots(self.folder, self._decoder)
        self._decoded_to = -1
        self._is_warm = False

    def _warm_up(self, end: int) -> None:
        """Let the decoder know the messages up to `end`, or those of them that matter."""
        begin = max(-1, end - WARM_UP)
        if self._decoder.stateful:
            snapshot = self._snapshots.restore(begin)
            begin = -1 if snapshot is None else snapshot.sequence
        self._decoded_to = begin
        self._is_warm = True
        if begin >= end:
            return
        for frame in SpoolReader(self.folder, begin).read():
            earlier = frame.filter(pl.col("sequence") <= end)
            if len(earlier):
                self._decode(earlier)
            if len(earlier) < len(frame):
                return

    def _decode(self, messages: pl.DataFrame) -> Decoded:
        first = messages["sequence"][0]
        # Those between were deleted, and may have told what it takes to decode.
        if first > self._decoded_to + 1:
            self._snapshots.restore(first - 1)
        self._decoded_to = messages["sequence"][-1]
        return self._decoder.decode(messages)
