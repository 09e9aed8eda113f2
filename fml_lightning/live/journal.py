"""The journal: what a watch has found, on disk before it counts; its snapshots bound what a restart must read.

RUN/watch/
    lock             held by the one process that watches
    journal/         records, one a line (`records`)
    snapshot         the state before the first record of a segment, and what followers have cut, as MessagePack
    outbox/          messages to publish, as they follow from the records
    published.json   up to where the broker has acknowledged them
    commands.jsonl   what `fml ack` and `fml shelve` ask for; emptied when it is long and all is obeyed
    commands.lock    held for a moment by whoever writes there
    personalize/     of the process that makes a new model of a machine that drifts (`background_process`)
"""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from fml_lightning import durable
from fml_lightning.durable import open_regular
from fml_lightning.errors import UserError
from fml_lightning.live.follower_state import FollowerState
from fml_lightning.live.log import BEGIN, Log, Place
from fml_lightning.live.records import Modelled, Record, dumps, loads
from fml_lightning.live.spectrum import Spectra
from fml_lightning.live.state import State

JOURNAL, SNAPSHOT, OUTBOX, PUBLISHED, COMMANDS = (
    "journal",
    "snapshot",
    "outbox",
    "published.json",
    "commands.jsonl",
)
FORMER = "snapshot.json"
"""The snapshot's file until format 2."""
FORMAT = 3
"""Of snapshots."""
LARGEST = 1 << 31
"""Bytes of the largest snapshot that is written and read."""
KEPT = 50
"""Segments of the journal that are kept though a snapshot knows what they hold, for whoever asks what happened."""


class Known(msgspec.Struct, frozen=True):
    """What was known before a segment of the journal."""

    segment: int
    """Its number."""
    state: State


class Snapshot(Known, frozen=True):
    """The same, and what it takes to go on from there."""

    followers: dict[str, FollowerState]
    """By site."""
    spectra: dict[str, dict[str, Spectra]]
    """By site and machine."""
    behind: dict[str, list[tuple[int, Modelled]]] = {}
    """By site whose spool could not be read: what its follower is yet to be told, each after a message."""


class _File(msgspec.Struct, frozen=True):
    """A snapshot's file."""

    format: int
    crc32: int = 0
    """Of the snapshot as it stands in the file."""
    snapshot: msgspec.Raw = msgspec.Raw(b"\xc0")


_K = TypeVar("_K", bound=Known)


class Journal:
    """The journal of a watch.

    Args:
        folder: of the watch, `RUN/watch`.
        writes: whether this process is the one that writes.

    Raises:
        UserError: the snapshot cannot be read.
    """

    def __init__(self, folder: Path, writes: bool = True) -> None:
        self.folder = folder
        self.log = Log(folder / JOURNAL, writes=writes)
        self._snapshot = _snapshot(folder / SNAPSHOT, Snapshot)
        """The newest when this began; None if there was none, or whoever goes on from it has taken it."""
        self._since = BEGIN if self._snapshot is None else Place(self._snapshot.segment, 0)
        if writes and self.log.end.segment < self._since.segment:
            self.log.roll()  # the process before was ended right after it had written the snapshot

    def take_snapshot(self) -> Snapshot | None:
        """The snapshot, which is kept here no longer: it is as large as all that followers have not cut."""
        taken, self._snapshot = self._snapshot, None
        return taken

    def records(self) -> Iterator[tuple[Place, Record]]:
        """The records since that snapshot, each with where it ends.

        Raises:
            UserError: one is of another version.
        """
        yield from _records(self.log, self._since)

    def append(self, records: Sequence[Record]) -> list[Place]:
        """Add records; they are on disk when this returns.

        Raises:
            OSError: the disk is full or failing; nothing was added.
        """
        return self.log.append([dumps(record) for record in records])

    def keep(
        self,
        state: State,
        followers: dict[str, FollowerState],
        spectra: dict[str, dict[str, Spectra]],
        behind: dict[str, list[tuple[int, Modelled]]],
    ) -> None:
        """Write a snapshot of the state after all records.

        Raises:
            OSError: the disk is full or failing, or there is too much; the snapshot before is there still.
        """
        if self.log.end.offset:
            self.log.roll()  # first: were the snapshot there without it, later records would count as known
        segment = self.log.end.segment
        snapshot = msgspec.msgpack.encode(Snapshot(segment, state, followers, spectra, behind))
        content = msgspec.msgpack.encode(_File(FORMAT, zlib.crc32(snapshot), msgspec.Raw(snapshot)))
        if len(content) > LARGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        durable.write(self.folder / SNAPSHOT, content)
        self.log.drop(segment - KEPT)


def recovered(folder: Path) -> State:
    """The state of the watch of a folder, as far as it is written; this process writes nothing.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    if not (folder / JOURNAL).is_dir():
        raise UserError(f"{folder}: nothing was watched here; start fml watch first, or name another run")
    known = _snapshot(folder / SNAPSHOT, Known)
    state, after = (State(), BEGIN) if known is None else (known.state, Place(known.segment, 0))
    for _, record in _records(Log(folder / JOURNAL, writes=False), after):
        state.apply(record)
    return state


def _records(log: Log, after: Place) -> Iterator[tuple[Place, Record]]:
    for place, line in log.read(after):
        yield place, loads(line)


def _snapshot(path: Path, kind: type[_K]) -> _K | None:
    """The snapshot of a file, as far as `kind` has it; None if there is none."""
    remedy = "watch with the version that wrote it, or move its folder away to begin anew"
    if (former := path.with_name(FORMER)).exists():
        raise UserError(f"{former}: it is of an older version; {remedy}")
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise UserError(f"{path}: expected at most {LARGEST:,} bytes; {remedy}")
            content = file.read()
        found = msgspec.msgpack.decode(content, type=_File)
        if found.format != FORMAT:
            raise UserError(f"{path}: expected format {FORMAT}, got {found.format}; {remedy}")
        if zlib.crc32(found.snapshot) != found.crc32:
            raise UserError(f"{path}: it is damaged; move its folder away to begin anew")
        return msgspec.msgpack.decode(found.snapshot, type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise UserError(f"{path}: it cannot be read ({error}); {remedy}") from error
