"""The reader of a spool: it begins anywhere, and follows the spool while another process writes."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from fml_lightning.connectors.spool import segments
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

POLL = 0.2
"""Seconds between two looks for new segments."""


class SpoolReader:
    """Reads messages in order, each once, and remembers how far it has come. It writes nothing.

    Args:
        folder: the spool's.
        after: the sequence number after which to begin; -1 to begin with the oldest message.

    Raises:
        UserError: there is no such spool.
    """

    def __init__(self, folder: str | Path, after: int = -1) -> None:
        self.folder = Path(folder)
        self.position = after
        """The sequence number of the last message that was read."""
        self.missed = 0
        """Messages that were deleted, or put into quarantine, before they were read."""
        self._damaged: set[str] = set()
        if not self.folder.is_dir():
            raise UserError(f"spool {self.folder}: no such folder; start `fml record` first, or mend the path")

    def read(self) -> Iterator[pl.DataFrame]:
        """What has arrived since the last call, a segment at a time: `MESSAGES`."""
        waiting = self._listed()
        while waiting:
            segment = waiting.popleft()
            try:
                frame = segments.read(segment)
            except FileNotFoundError:
                waiting = self._listed()  # the segment was merged or deleted a moment ago
                continue
            except segments.DamagedError as error:
                self._damaged.add(segment.path.name)
                log.error("spool %s: a segment cannot be read: %s", self.folder, error)
                continue
            if segment.first <= self.position:
                frame = frame.filter(pl.col("sequence") > self.position)
            before = self.position if self.position >= 0 else segment.first - 1
            self.missed += segment.last - before - len(frame)
            self.position = segment.last
            yield frame

    def tail(self, stop: threading.Event, poll: float = POLL) -> Iterator[pl.DataFrame]:
        """What has arrived and what arrives, until `stop` is set; looks for more every `poll` seconds."""
        while True:
            stopping = stop.is_set()
            yield from self.read()
            if stopping:
                return
            stop.wait(poll)

    def _listed(self) -> deque[segments.Segment]:
        """The segments that hold what was not read yet, in order."""
        folder = self.folder / "segments"
        if not folder.is_dir():
            return deque()
        found = (s for s in segments.every(folder) if s.last > self.position and s.path.name not in self._damaged)
        return deque(segments.effective(found))
