"""A log: lines that are on disk when `append` returns, in segments, so that old ones can be deleted.

A process that is killed, or a machine that loses its power, leaves whole lines and at most one that is cut;
whoever writes to the log next takes that one away.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from fml_lightning.connectors.spool.durable import open_regular
from fml_lightning.durable import make_folder, sync_folder
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

SEGMENT = 16 << 20
"""Bytes after which a segment is followed by the next one."""


class Place(NamedTuple):
    """Where a line ends, and the next one begins."""

    segment: int
    """Its number, from 1 on."""
    offset: int
    """Bytes from its begin."""


BEGIN = Place(0, 0)
"""Before every line."""


class Log:
    """A folder of segments, `00000001.log` and so on, which one process writes.

    Args:
        folder: made, by who writes, if it does not exist.
        segment: bytes of a segment, about.
        writes: whether this process is the one that writes.
    """

    def __init__(self, folder: Path, segment: int = SEGMENT, writes: bool = True) -> None:
        self.folder = folder
        self.segment = segment
        if writes:
            make_folder(folder)
        numbers = self.segments()
        self.end = Place(numbers[-1] if numbers else 1, 0)
        """Where the next line will be."""
        if numbers and writes:
            self.end = self._cut_torn(numbers[-1])

    def segments(self) -> list[int]:
        """Numbers of the segments that are there, ascending."""
        return sorted(int(path.stem) for path in self.folder.glob("*.log") if path.stem.isdecimal())

    def append(self, lines: Sequence[bytes], sync: bool = True) -> list[Place]:
        """Add lines without line breaks; all of them or none.

        Args:
            lines: at least one.
            sync: they are to survive a loss of power, not only the end of this process.

        Returns:
            Where each ends.

        Raises:
            OSError: the disk is full or failing; the log is as it was.
        """
        if self.end.offset >= self.segment:
            self.sync()  # so that a loss of power can cut none but the newest segment
            self.roll()
        path, offset = self._path(self.end.segment), self.end.offset
        is_new = not path.exists()
        framed = [b"%08x %s\n" % (zlib.crc32(line), line) for line in lines]
        with open_regular(path, "ab+") as file:
            try:
                rest = memoryview(b"".join(framed))
                while rest:
                    rest = rest[file.write(rest) :]
                if sync:
                    os.fsync(file.fileno())
            except BaseException:
                os.ftruncate(file.fileno(), offset)
                raise
        if is_new:
            sync_folder(self.folder)
        places = []
        for each in framed:
            offset += len(each)
            places.append(Place(self.end.segment, offset))
        self.end = places[-1]
        return places

    def sync(self) -> None:
        """Make the newest segment survive a loss of power."""
        if (path := self._path(self.end.segment)).exists():
            with open_regular(path, "ab+") as file:
                os.fsync(file.fileno())

    def roll(self) -> None:
        """Let the next line begin a segment of its own."""
        self.end = Place(self.end.segment + 1, 0)

    def read(self, after: Place = BEGIN) -> Iterator[tuple[Place, bytes]]:
        """The lines after a place, each with where it ends, as far as they are there now.

        Raises:
            UserError: a segment that others follow is damaged.
        """
        numbers = [number for number in self.segments() if number >= after.segment]
        for number in numbers:
            end = after.offset if number == after.segment else 0
            for place, line in self._lines(number, end):
                end = place.offset
                yield place, line
            path = self._path(number)
            if number != numbers[-1] and end < path.stat().st_size:
                raise UserError(
                    f"{path}: the line at byte {end} is damaged; move the folder {self.folder.parent} away, to"
                    " begin anew"
                )

    def drop(self, before: int) -> None:
        """Delete the segments before one, by their numbers."""
        for number in self.segments():
            if number < before:
                self._path(number).unlink(missing_ok=True)

    def _lines(self, number: int, offset: int) -> Iterator[tuple[Place, bytes]]:
        """Whole lines of a segment from a byte on, up to the first that is none."""
        with open_regular(self._path(number)) as file:
            file.seek(offset)
            rest = b""
            while part := file.read(1 << 20):
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    if not _is_whole(line):
                        return
                    offset += len(line) + 1
                    yield Place(number, offset), line[9:]

    def _cut_torn(self, number: int) -> Place:
        """Take away what follows the last whole line of a segment, and return its end."""
        end = Place(number, 0)
        for place, _ in self._lines(number, 0):
            end = place
        path = self._path(number)
        if (torn := path.stat().st_size - end.offset) > 0:
            log.warning("%s: the last %d bytes were not written to their end; they are left out", path, torn)
            os.truncate(path, end.offset)
        return end

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.log"


def _is_whole(line: bytes) -> bool:
    """Whether a line is as it was written."""
    try:
        return len(line) > 8 and line[8:9] == b" " and int(line[:8], 16) == zlib.crc32(line[9:])
    except ValueError:
        return False
