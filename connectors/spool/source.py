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
from fml_lightning.connectors.spool.reader import SpoolReader
from fml_lightning.connectors.spool.snapshots import Snapshots
from fml_lightning.errors import UserError

TOPICS = "topics.json"
"""The file in a spool's folder that says how its messages are read."""
WARM_UP = 20_000
"""Messages before the first new one that are decoded too, to know which new readings are repeated or late."""


class SpoolSource:
    """Decodes a spool, from the oldest message on or from where another reader stopped.

    Args:
        folder: the spool's.
        topics: how messages are decoded; unless you say otherwise, as the spool's writer decodes them.
        after: the sequence number after which readings and labels are yielded; -1: of all messages.
        speed: null: an iteration follows the spool as it grows, without end. A number: it replays what the spool
            holds, so many times as fast as the messages were received, and ends.

    With a stateful codec, decoding begins at the newest of the writer's snapshots before that message; without
    one, at the oldest message, whatever `after` says.

    Raises:
        UserError: there is no such spool, it does not say how it is read, or the speed is not above 0.
    """

    def __init__(
        self, folder: str | Path, topics: Topics | None = None, after: int = -1, speed: float | None = None
    ) -> None:
        self.folder = Path(folder)
        self.speed = speed
        self.reader = SpoolReader(folder)
        if topics is None:
            file = self.folder / TOPICS
            if not file.is_file():
                raise UserError(f"spool {folder}: no {TOPICS} in it, so its topics must be given")
            topics = Topics.loads(file.read_bytes())
        self.decoder = Decoder(topics)
        self._snapshots = Snapshots(self.folder, self.decoder)
        self.after = after
        self._stop = threading.Event()
        if speed is not None:
            Pace(speed, self._stop)  # which refuses a speed that is not above 0
        begin = after if speed is not None else max(-1, after - WARM_UP)
        if not self.decoder.stateful:
            self.reader.position = begin
        elif (snapshot := self._snapshots.restore(begin)) is not None:
            self.reader.position = snapshot.sequence
        self._decoded_to = self.reader.position

    def new(self) -> Iterator[Batch]:
        """What has arrived since the last call, one batch for each segment."""
        return self._batches(self.reader.read())

    def __enter__(self) -> SpoolSource:
        """Open the source."""
        self._stop.clear()
        return self

    def __exit__(self, *error: object) -> None:
        """End an iteration."""
        self._stop.set()

    def __iter__(self) -> Iterator[Batch]:
        """Follow the spool, or replay it."""
        return self._batches(self.reader.tail(self._stop) if self.speed is None else self._replayed(self.speed))

    def _replayed(self, speed: float) -> Iterator[pl.DataFrame]:
        pace = Pace(speed, self._stop)
        for frame in self.reader.read():
            if frame["sequence"][-1] <= self.after:  # only a stateful codec needs it: without waiting
                yield frame
                continue
            for due in pace.parts(frame["received"].to_physical().to_numpy() / 1e6):
                yield frame[due]
            if self._stop.is_set():
                return

    def decoded(self) -> Iterator[tuple[pl.DataFrame, Decoded]]:
        """What has arrived since the last call, decoded ones and dead letters, whatever `after` says.

        Yields:
            Messages (`MESSAGES`), and all that was decoded from them.
        """
        return self._decode(self.reader.read())

    def _decode(self, frames: Iterator[pl.DataFrame]) -> Iterator[tuple[pl.DataFrame, Decoded]]:
        for frame in frames:
            first = frame["sequence"][0]
            # Those between were deleted, and may have told what it takes to decode.
            if first > self._decoded_to + 1:
                self._snapshots.restore(first - 1)
            self._decoded_to = frame["sequence"][-1]
            yield frame, self.decoder.decode(frame)

    def _batches(self, frames: Iterator[pl.DataFrame]) -> Iterator[Batch]:
        for frame, decoded in self._decode(frames):
            batch = decoded.batch
            if frame["sequence"][0] <= self.after:
                later = pl.col("sequence") > self.after
                batch = Batch(batch.readings.filter(later), batch.labels.filter(later))
            if len(batch.readings) or len(batch.labels):
                yield batch
