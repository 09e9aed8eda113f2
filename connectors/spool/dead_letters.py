"""Dead letters: messages that could not be decoded, kept with their bytes and the reason."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from fml_lightning import durable
from fml_lightning.connectors.decoding.dead_letter import DeadLetter
from fml_lightning.connectors.spool import segments

LARGEST = 64 << 20
"""Bytes after which a new file begins; the one before is kept, older ones are not."""


class _Sequence(msgspec.Struct):
    """The one member of a line that it takes to know which messages are buried already."""

    sequence: int


class _Line(msgspec.Struct):
    sequence: int
    received: datetime
    topic: str
    error: str
    payload: bytes
    """In base64, as msgspec has bytes in JSON."""


AnyLine = TypeVar("AnyLine", _Sequence, _Line)


class DeadLetters:
    """A file of JSON lines, one per message: sequence, received, topic, error, payload (base64).

    Args:
        file: where they go; `FILE.1` is the one before.
        end: the spool's next sequence number. Letters from it on are of messages that are no longer there, such as
            those of a spool whose segments somebody has deleted; so they do not count as buried.
    """

    def __init__(self, file: Path, end: int = segments.NUMBERS) -> None:
        self.file = file
        self.last_sequence = -1
        """The last message that was buried; -1 if none was."""
        for line in self._lines(_Sequence):
            if line.sequence < end:
                self.last_sequence = line.sequence

    def __iter__(self) -> Iterator[DeadLetter]:
        """All that are kept, oldest first; a line cut short by a crash is left out."""
        for line in self._lines(_Line):
            yield DeadLetter(line.sequence, line.received, line.topic, line.payload, line.error)

    def bury(self, letters: Sequence[DeadLetter]) -> None:
        """Write the letters that are not there yet; they are on disk when this returns.

        Raises:
            OSError: the disk is full or failing.
        """
        new = [letter for letter in letters if letter.sequence > self.last_sequence]
        if not new:
            return
        if self.file.is_file() and self.file.stat().st_size > LARGEST:
            os.replace(self.file, self.file.with_name(self.file.name + ".1"))
        lines = [_Line(d.sequence, d.received, d.topic, d.error, d.payload) for d in new]
        durable.add_lines(self.file, map(msgspec.json.encode, lines))
        self.last_sequence = new[-1].sequence

    def _lines(self, kind: type[AnyLine]) -> Iterator[AnyLine]:
        """The lines of both files, oldest first, but for those that a crash has cut short."""
        for path in (self.file.with_name(self.file.name + ".1"), self.file):
            if path.is_file():
                with open(path, "rb") as file:
                    for line in file:
                        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                            yield msgspec.json.decode(line, type=kind)
