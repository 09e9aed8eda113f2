"""The spool: a durable log of raw messages on a site's disk, written by one process and followed by any number.

When `append` or `write` returns, the messages are on disk, and may be acknowledged to whoever sent them. They keep
the order in which they came, numbered by `sequence`. In the background small segments are merged and old ones
deleted.

FOLDER/
    lock                     held by the one process that writes
    topics.json              how the messages are decoded (topics and codecs; no secrets)
    session.json             our session at the broker: its client id, which nobody else should know, and its begin
    segments/FIRST-LAST-CRC32.parquet
    quarantine/              segments that could not be read
    dead_letters.jsonl       messages that could not be decoded
    gaps.jsonl               times in which messages may have been lost, since the broker had lost our session
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import polars as pl

from fml_lightning.connectors.messages import Message, Messages
from fml_lightning.connectors.spool import durable, segments
from fml_lightning.connectors.spool.page_buffer import PageBuffer
from fml_lightning.connectors.spool.segments import DamagedError, Segment
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

REDELIVERY_WINDOW = 20_000
"""Messages with which a redelivered one is compared: more than can be unacknowledged at once."""
SMALL, MANY = 1 << 20, 64
"""`MANY` neighbouring segments of fewer than `SMALL` bytes each are merged into one; and likewise as many of fewer
than half of `Spool.segment_bytes`."""
MOST_MESSAGES = 1 << 18
"""Messages in a merged segment, at most: small ones compress so well that bytes on disk would not bound memory."""


class Prepared(NamedTuple):
    """Messages that are about to be written."""

    messages: Messages
    """Numbered."""
    keys: dict[int, None]
    """Hashes by which a redelivery of one of them is known, in order."""
    duplicates: int
    """Messages that are left out, since they were redeliveries."""


class Spool:
    """The writer of a spool: `with Spool(folder) as spool: spool.append(messages)`.

    Args:
        folder: where the spool is; made if it does not exist.
        max_bytes: of all segments together; beyond it the oldest are deleted.
        max_age_days: messages received longer ago are deleted.
        segment_bytes: size on disk up to which segments are merged.
    """

    def __init__(
        self,
        folder: str | Path,
        max_bytes: int = 100 << 30,
        max_age_days: float = 365.0,
        segment_bytes: int = 64 << 20,
    ) -> None:
        if max_bytes < 1 or not max_age_days > 0 or segment_bytes < 1:
            raise UserError(
                "Spool: expected max_bytes, max_age_days and segment_bytes above 0, got"
                f" {max_bytes}, {max_age_days} and {segment_bytes}"
            )
        self.folder = Path(folder)
        self.max_bytes = max_bytes
        self.max_age = timedelta(days=max_age_days)
        self.segment_bytes = segment_bytes
        self.next_sequence = 0
        """The number that the next message gets."""
        self.duplicates = 0
        """Redelivered messages that the spool had already."""
        self.quarantined = 0
        """Segments that could not be read."""
        # The keys (`_redelivery_key`) of the last messages; true: this process has written the message.
        self._recent: dict[int, bool] = {}
        self._buffer = PageBuffer()
        self._lock: IO[bytes] | None = None
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None

    @property
    def segment_folder(self) -> Path:
        """The folder of the segments."""
        return self.folder / "segments"

    @property
    def quarantine(self) -> Path:
        """The folder of segments that could not be read."""
        return self.folder / "quarantine"

    @property
    def gaps(self) -> Path:
        """The file of times in which messages may have been lost."""
        return self.folder / "gaps.jsonl"

    def __enter__(self) -> Spool:
        """Become the one writer, and clear up what a crash has left.

        Raises:
            UserError: another process writes to this spool, or the folder cannot be used.
        """
        try:
            self.segment_folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder, self.folder.parent):
                durable.sync_folder(folder)
            lock = open(self.folder / "lock", "ab")
        except OSError as error:
            raise UserError(f"spool {self.folder}: {error.strerror}; name a folder that can be written") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UserError(
                f"spool {self.folder}: another process writes to it; stop that one, or name another folder"
            ) from None
        try:
            for partial in self.segment_folder.glob("*.tmp"):
                partial.unlink()
            self._quarantine_unreadable()
            self._drop_replaced()
            self._recall()
        except BaseException:
            lock.close()
            raise
        self._lock = lock
        self._closing.clear()
        self._keeper = threading.Thread(target=self._keep, name="spool-keeper", daemon=True)
        self._keeper.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Let another process write."""
        self._closing.set()
        if self._keeper is not None:
            self._keeper.join()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def append(self, messages: Sequence[Message]) -> Messages:
        """Write messages durably, without redeliveries: `prepare`, then `write`.

        Returns:
            What was written, numbered.

        Raises:
            OSError: the disk is full or failing; nothing was written, and the messages may be appended again.
        """
        prepared = self.prepare(messages)
        self.write(prepared)
        return prepared.messages

    def prepare(self, messages: Sequence[Message]) -> Prepared:
        """Number the messages that are to be written next, without redeliveries.

        A redelivery is a message that the broker has marked as such, and that has the packet identifier, topic and
        payload of an earlier one (MQTT 5.0, 4.4, https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html).
        """
        fresh: list[Message] = []
        keys: dict[int, None] = {}
        for message in messages:
            key = _redelivery_key(message.topic, message.payload, message.packet_id)
            if key and message.redelivered and (key in keys or self._is_known(key, message)):
                continue
            fresh.append(message)
            keys.pop(key, None)
            keys[key] = None
        return Prepared(Messages.numbered(fresh, self.next_sequence), keys, len(messages) - len(fresh))

    def write(self, prepared: Prepared) -> None:
        """Write durably the messages that `prepare` was called with last.

        Raises:
            OSError: the disk is full or failing; nothing was written, and `write` may be called again.
            UserError: the spool is not open.
            ValueError: other messages were written since.
        """
        if self._lock is None:
            raise UserError(f"spool {self.folder}: it is not open; write within `with Spool(...) as spool:`")
        if len(prepared.messages) and prepared.messages.sequence[0] != self.next_sequence:
            raise ValueError(f"prepared as {prepared.messages.sequence[0]}, but {self.next_sequence} is next")
        if len(prepared.messages):
            segments.write(self.segment_folder, prepared.messages.frame(), buffer=self._buffer)
            self.next_sequence += len(prepared.messages)
            self._remember(prepared.keys, ours=True)
        self.duplicates += prepared.duplicates

    def begin_session(self) -> None:
        """Forget the last messages: the broker has begun a new session, whose packet identifiers begin anew."""
        self._recent.clear()

    def note_lost_session(self, begin: datetime, end: datetime, reason: str) -> None:
        """Note, on disk, that the broker had lost our session, and that messages may be missing.

        Args:
            begin: when the last message before was received.
            end: when the new session began.
            reason: for people.

        Raises:
            OSError: the disk is full or failing; nothing was noted, and it may be noted again.
        """
        gap = {"begin": begin, "end": end, "before": self.next_sequence, "reason": reason}
        durable.add_lines(self.gaps, [msgspec.json.encode(gap)])

    def note_taken_session(self, begin: datetime | None, end: datetime, reason: str) -> None:
        """Note, on disk, that another client had our session, which goes on, and that messages may be missing.

        Args:
            begin: when the last message before was received; None: there was none.
            end: until when the other client had it, as far as is known.
            reason: for people.

        Raises:
            OSError: the disk is full or failing; nothing was noted, and it may be noted again.
        """
        gap = {"begin": begin, "end": end, "reason": reason}
        durable.add_lines(self.gaps, [msgspec.json.encode(gap)])

    def maintain(self) -> None:
        """Delete segments that are too old or too many, and merge neighbouring small ones."""
        self._retain()  # first, since merging needs room on the disk
        for size in (SMALL, self.segment_bytes // 2):
            self._merge(size)

    def _is_known(self, key: int, message: Message) -> bool:
        """Whether the spool has the message that is redelivered.

        Of an oversized message only its dead letter tells the size. If another process has written the message, it
        may have ended before it buried that letter: then the redelivery is taken for a new message.
        """
        return self._recent.get(key, False) or (key in self._recent and not message.oversized)

    def _remember(self, keys: Iterable[int], *, ours: bool) -> None:
        for key in keys:
            if key:
                self._recent.pop(key, None)
                self._recent[key] = ours
        while len(self._recent) > REDELIVERY_WINDOW:
            del self._recent[next(iter(self._recent))]

    def _recall(self) -> None:
        """Read from disk the next sequence number, and the keys of the messages that may be redelivered."""
        tail: list[pl.DataFrame] = []
        for segment in reversed(segments.listing(self.segment_folder)):
            try:
                tail.insert(0, segments.read(segment))
            except DamagedError as error:
                self._quarantine(segment, error)
            if sum(map(len, tail)) >= REDELIVERY_WINDOW:
                break
        if tail:
            rows = pl.concat(tail).tail(REDELIVERY_WINDOW).filter(pl.col("sequence") >= self._session_begin())
            known = rows.select("topic", "payload", "packet_id").iter_rows()
            self._remember((_redelivery_key(*row) for row in known), ours=False)
        every = segments.every(self.segment_folder)
        every += segments.every(self.quarantine) if self.quarantine.is_dir() else []
        self.next_sequence = max((segment.last + 1 for segment in every), default=0)

    def _session_begin(self) -> int:
        """The first message of the present session with the broker: only from it on are there redeliveries."""
        begin = 0
        for line in self.gaps.read_bytes().splitlines() if self.gaps.is_file() else []:
            with contextlib.suppress(msgspec.MsgspecError):  # cut short by a crash
                begin = msgspec.json.decode(line, type=dict[str, Any]).get("before", begin)
        return begin

    def _quarantine_unreadable(self) -> None:
        for segment in segments.every(self.segment_folder):
            try:
                segments.check(segment)
            except DamagedError as error:
                self._quarantine(segment, error)

    def _quarantine(self, segment: Segment, error: Exception) -> None:
        self.quarantine.mkdir(exist_ok=True)
        os.replace(segment.path, self.quarantine / segment.path.name)
        self.quarantined += 1
        log.error(
            "spool %s: segment %s cannot be read and is in quarantine: %s", self.folder, segment.path.name, error
        )

    def _drop_replaced(self) -> None:
        kept = {segment.path for segment in segments.listing(self.segment_folder)}
        for segment in segments.every(self.segment_folder):
            if segment.path not in kept:
                segment.path.unlink()

    def _keep(self) -> None:
        """Maintain every few seconds until the spool is closed."""
        while not self._closing.wait(5.0):
            try:
                self.maintain()
            except Exception:
                log.exception("spool %s: maintenance failed; it is tried again", self.folder)

    def _merge(self, size: int) -> None:
        """Merge every run of at least `MANY` neighbours below `size`, up to `segment_bytes` each."""
        run: list[Segment] = []
        total = count = 0
        for segment in [*segments.listing(self.segment_folder), None]:
            length = segment.path.stat().st_size if segment else 0
            messages = segment.last + 1 - segment.first if segment else 0
            fits = segment is not None and length < size and messages <= MOST_MESSAGES // 2
            if segment and fits and total + length <= self.segment_bytes and count + messages <= MOST_MESSAGES:
                run.append(segment)
                total, count = total + length, count + messages
                continue
            full = total > self.segment_bytes // 2 or count > MOST_MESSAGES // 2
            if len(run) >= MANY or (len(run) > 1 and full):
                self._merge_run(run)
            run, total, count = ([segment], length, messages) if segment and fits else ([], 0, 0)

    def _merge_run(self, run: Sequence[Segment]) -> None:
        frames = []
        for segment in run:
            try:
                frames.append(segments.read(segment))
            except DamagedError as error:
                self._quarantine(segment, error)
                return
        received = run[-1].path.stat().st_mtime
        merged = segments.write(self.segment_folder, pl.concat(frames), "zstd")
        os.utime(merged.path, (received, received))  # its age, for retention
        for segment in run:
            segment.path.unlink()

    def _retain(self) -> None:
        """Delete the oldest segments, but never the last one, which knows the next sequence number."""
        kept = segments.listing(self.segment_folder)
        sizes = {segment: segment.path.stat().st_size for segment in kept}
        total = sum(sizes.values())
        oldest = datetime.now(UTC) - self.max_age
        for segment in kept[:-1]:
            too_old = segment.path.stat().st_mtime < oldest.timestamp()
            if total <= self.max_bytes and not too_old:
                return
            segment.path.unlink()
            total -= sizes[segment]


def _redelivery_key(topic: str, payload: bytes, packet_id: int) -> int:
    """A hash by which a redelivery is known; 0 for a message of QoS 0, which is never redelivered."""
    return hash((topic, payload, packet_id)) if packet_id else 0
