"""The reader of a spool: it begins anywhere, and follows the spool while another process writes."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from fml_lightning.connectors.spool import segments
from fml_lightning.connectors.spool.folder import SEGMENTS
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
        self._covering: set[str] = set()  # segments that hold the messages of those within their ranges
        self._strangers: set[str] = set()  # names of what is in the folder of the segments and is none
        if not self.folder.is_dir():
            raise UserError(f"spool {self.folder}: no such folder; start `fml record` first, or mend the path")

    def read(self) -> Iterator[pl.DataFrame]:
        """What has arrived since the last call, `MESSAGES`: of each segment a frame, of a large one several.

        Raises:
            UserError: a later version of this package has written the spool.
        """
        waiting = self._listed()
        while waiting:
            segment = waiting.popleft()
            try:
                for frame in segments.frames(segment, self.position):
                    first, last = frame["sequence"][0], frame["sequence"][-1]
                    before = self.position if self.position >= 0 else first - 1
                    self.missed += last - before - len(frame)
                    self.position = last
                    yield frame
                    del frame  # before the next one is read
            except FileNotFoundError:
                waiting = self._listed()  # the segment was merged or deleted a moment ago
            except segments.DamagedError as error:
                self._leave_out(segment, error)
                waiting = self._listed()  # perhaps it hid others

    def newest(self) -> int:
        """The sequence number of the last message that is there now; -1 if none is.

        Raises:
            UserError: a later version of this package has written the spool.
        """
        for segment in reversed(self._listed()):
            try:
                segments.look(segment)
            except (FileNotFoundError, segments.DamagedError):
                continue  # merged or deleted a moment ago; or its name is not to be believed
            return segment.last
        return self.position

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
        folder = self.folder / SEGMENTS
        if not folder.is_dir():
            if os.path.lexists(folder):
                raise UserError(f"{folder}: expected a folder, got something else; name the folder of a spool")
            return deque()
        while True:
            every = segments.every(folder, self._strangers)
            unread = (s for s in every if s.last > self.position and s.path.name not in self._damaged)
            found = segments.covering(unread)
            if all(self._covers(segment, parts) for segment, parts in found if parts):
                return deque(segment for segment, _ in found)

    def _covers(self, segment: segments.Segment, parts: Sequence[segments.Segment]) -> bool:
        """Whether a segment holds the messages of others within its range; else it is left out."""
        if segment.path.name in self._covering:
            return True
        try:
            segments.check_covers(segment, parts)
        except FileNotFoundError:
            return False
        except segments.DamagedError as error:
            self._leave_out(segment, error)
            return False
        self._covering.add(segment.path.name)
        return True

    def _leave_out(self, segment: segments.Segment, error: Exception) -> None:
        self._damaged.add(segment.path.name)
        log.error("spool %s: a segment cannot be read: %s", self.folder, error)
