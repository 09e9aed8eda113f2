"""Snapshots: what stateful codecs had learnt by some message, kept beside the segments as `states/SEQUENCE.json`.

A birth of Sparkplug may be long before the data that refer to it. With the newest snapshot at or before a message,
the messages after it are read as they would be after all of those before; also where these were deleted.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from fml_lightning import durable
from fml_lightning.connectors.codecs import StatefulCodec, describe
from fml_lightning.connectors.decoding.decoder import Decoder
from fml_lightning.connectors.spool import segments
from fml_lightning.connectors.spool.folder import SEGMENTS, STATES
from fml_lightning.connectors.spool.spool import REDELIVERY_WINDOW
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

LARGEST = 256 << 20
"""Bytes of the largest snapshot that is read."""
_NAME = re.compile(r"[0-9]{18}\.json")


class Snapshot(msgspec.Struct, forbid_unknown_fields=True):
    """What was learnt from messages."""

    sequence: int
    """The last of these messages."""
    since: int
    """The first of them. Where an older one exists, all messages tell more than this does."""
    topics: str
    """A digest of the topics that have a stateful codec; others may come and go."""
    states: list[bytes]
    """`Decoder.states`."""
    version: Literal[1] = 1


class Snapshots:
    """The snapshots of a spool that were made by decoders with the same stateful codecs at the same topics.

    Args:
        folder: the spool's.
        decoder: the one to restore, and to take snapshots of.
    """

    def __init__(self, folder: Path, decoder: Decoder) -> None:
        self.folder = folder / STATES
        self.segment_folder = folder / SEGMENTS
        self.decoder = decoder
        try:
            stateful = [t for t in decoder.topics.readings if isinstance(t.codec, StatefulCodec)]
            text = msgspec.json.encode(
                [(topic.template, describe(topic.codec), *topic.unwrap) for topic in stateful]
            )
            self.topics = hashlib.blake2b(text, digest_size=16).hexdigest()
        except UserError:  # a codec that has no description: no snapshot is of it
            self.topics = ""
        self._warned: set[str] = set()

    @property
    def wanted(self) -> bool:
        """Whether a codec is stateful, and other processes can make it too."""
        return self.decoder.stateful and bool(self.topics)

    def restore(self, target: int) -> Snapshot | None:
        """Let the decoder know what the newest snapshot at or before a message knows.

        Args:
            target: the message's sequence number. If messages up to and beyond it were deleted, those before the
                oldest that exists count.

        Returns:
            The snapshot, after which is to be read; None if there is none, and all messages must be read.
        """
        if not self.wanted:
            return None
        oldest = min((segment.first for segment in self._segments()), default=0)
        for path in reversed(self._paths()):
            if int(path.stem) > max(target, oldest - 1):
                continue
            try:
                snapshot = _read(path)
                if snapshot.topics != self.topics or snapshot.since > oldest:
                    continue
                self.decoder.restore(snapshot.states)
            except FileNotFoundError:  # the writer has just deleted it
                continue
            except (OSError, ValueError, RecursionError) as error:
                if path.name not in self._warned:
                    self._warned.add(path.name)
                    log.warning("%s: it is no snapshot of this spool and is ignored: %s", path, error)
                continue
            return snapshot
        return None

    def write(self, sequence: int, since: int, states: list[bytes]) -> Snapshot | None:
        """Take a snapshot durably, and delete those that it takes to read nothing that exists.

        Args:
            sequence: the last message of which the decoder knows.
            since: the first of them.
            states: `Decoder.states`.

        Returns:
            The snapshot; None if it is too large, and no other one is left.

        Raises:
            OSError: the disk is full or failing.
        """
        snapshot = Snapshot(sequence, since, self.topics, states)
        content = msgspec.json.encode(snapshot)
        if len(content) > LARGEST:
            log.error("%s: a snapshot is too large (%s bytes), so none is kept", self.folder, f"{len(content):,}")
            self.drop()
            return None
        self.folder.mkdir(exist_ok=True)
        durable.write(self.folder / f"{sequence:018}.json", content)
        paths = self._paths()
        for path in set(paths) - set(self._needed(paths)):
            path.unlink(missing_ok=True)
        return snapshot

    def drop(self) -> None:
        """Delete all snapshots: without a newer one, they would be taken for all that is known later.

        Raises:
            OSError: the disk is failing.
        """
        for path in self._paths():
            path.unlink(missing_ok=True)

    def clear(self, end: int) -> None:
        """Delete what a writer must not leave: snapshots that are none, of other topics, or of another spool.

        Args:
            end: the sequence number of the next message, which no snapshot can know yet.

        Raises:
            OSError: the disk is failing.
        """
        for partial in self.folder.glob("*.tmp"):
            partial.unlink()
        others = 0
        for path in self._paths():
            try:
                snapshot = _read(path)
                if snapshot.topics == self.topics and snapshot.sequence < end:
                    continue
                others += 1
            except (OSError, ValueError, RecursionError) as error:
                log.warning("%s: it is no snapshot of this spool and is deleted: %s", path, error)
            path.unlink(missing_ok=True)
        if others:
            log.warning(
                "%s: %d snapshots are deleted, since other stateful codecs or topics made them; until devices say"
                " again what they are, messages that refer to it cannot be read",
                self.folder,
                others,
            )

    def _needed(self, paths: list[Path]) -> Iterator[Path]:
        """The newest of all, the newest before each segment, and some of the last, for a writer's next start."""
        firsts = [segment.first for segment in self._segments()]
        for path, later in itertools.pairwise(paths):
            # A segment needs it that begins after it, but not after the next one.
            if bisect_right(firsts, int(path.stem)) < bisect_right(firsts, int(later.stem)):
                yield path
        yield from paths[-1:]
        parts = {int(path.stem) // REDELIVERY_WINDOW: path for path in reversed(paths)}  # the first of each part
        yield from (parts[part] for part in sorted(parts)[-3:])

    def _segments(self) -> list[segments.Segment]:
        return segments.listing(self.segment_folder) if self.segment_folder.is_dir() else []

    def _paths(self) -> list[Path]:
        """The files that have a snapshot's name, in order; never a link, a pipe or a folder."""
        if not self.folder.is_dir():
            return []
        with os.scandir(self.folder) as entries:
            return sorted(
                Path(e.path) for e in entries if _NAME.fullmatch(e.name) and e.is_file(follow_symlinks=False)
            )


def _read(path: Path) -> Snapshot:
    """A snapshot from a file, which may be anything.

    Raises:
        OSError: the file is gone or cannot be read.
        ValueError: it holds no snapshot.
    """
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"expected at most {LARGEST:,} bytes, got {size:,}")
    snapshot = msgspec.json.decode(path.read_bytes(), type=Snapshot)
    if snapshot.sequence != int(path.stem) or not 0 <= snapshot.since <= snapshot.sequence + 1:
        raise ValueError(f"expected {int(path.stem)}, as its name says, got {snapshot.sequence}")
    return snapshot
