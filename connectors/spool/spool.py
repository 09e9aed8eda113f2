"""The spool: a durable log of raw messages on a site's disk, written by one process and followed by any number.

When `append` or `write` returns, the messages are on disk, and may be acknowledged to whoever sent them. They keep
the order in which they came, numbered by `sequence`. In the background small segments are merged and old ones
deleted. What lies where is in `folder`.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import stat
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fml_lightning import durable
from fml_lightning.connectors.codecs.times import from_microseconds
from fml_lightning.connectors.messages import Message, Messages
from fml_lightning.connectors.spool import gaps, segments
from fml_lightning.connectors.spool.ages import Ages
from fml_lightning.connectors.spool.folder import (
    AGES,
    DEAD_LETTERS,
    GAPS,
    LOCK,
    OLDER_DEAD_LETTERS,
    QUARANTINE,
    SEGMENTS,
    STATES,
)
from fml_lightning.connectors.spool.gaps import Gap
from fml_lightning.connectors.spool.page_buffer import PageBuffer
from fml_lightning.connectors.spool.segments import Content, DamagedError, Segment
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

REDELIVERY_WINDOW = 20_000
"""Messages with which a redelivered one is compared: more than can be unacknowledged at once."""
SMALL, MANY = 1 << 20, 64
"""`MANY` neighbouring segments of fewer than `SMALL` bytes each are merged into one; and likewise as many of fewer
than half of `Spool.segment_bytes`."""
MOST_MESSAGES = 1 << 18
"""Messages in a merged segment, at most: small ones compress so well that bytes on disk would not bound memory."""
MERGED_BYTES = 32 << 20
"""Bytes of topics and payloads in a merged segment, at most: constant ones compress to nothing."""
KEEP = 5.0
"""Seconds between two times that a spool is maintained."""
SHARE = 100
"""Retention by age deletes one in so many segments at once, at most (but at least one): should its clock be wrong
in spite of all, there is time to see what it logs."""
FILES = (LOCK, GAPS, AGES, DEAD_LETTERS, OLDER_DEAD_LETTERS)
"""What must be a regular file, if it is there."""
FOLDERS = (QUARANTINE, STATES)
"""What must be a folder, if it is there."""


class Prepared(NamedTuple):
    """Messages that are about to be written."""

    messages: Messages
    """Numbered."""
    keys: dict[int, None]
    """Hashes by which a redelivery of one of them is known, in order."""
    redelivered: int
    """Messages that are left out, since they were redeliveries."""


class Spool:
    """The writer of a spool: `with Spool(folder) as spool: spool.append(messages)`.

    Args:
        folder: where the spool is; made if it does not exist.
        max_bytes: of all segments together, and of the snapshots of `states/` that nobody needs without them;
            beyond it the oldest are deleted.
        max_age_days: messages received longer ago are deleted; counted are days that the computer ran (`ages`).
        segment_bytes: size on disk up to which segments are merged, and up to 32 MiB of payloads.
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
        self.redelivered = 0
        """Redelivered messages that the spool had already."""
        self.quarantined = 0
        """Segments that could not be read."""
        # The keys (`_redelivery_key`) of the last messages; true: this process has written the message.
        self._recent: dict[int, bool] = {}
        self._buffer = PageBuffer()
        self._contents: dict[str, Content] = {}  # of segments, by their names
        self._left_out: dict[str, Segment] = {}  # could neither be read nor moved to quarantine, by their names
        self._strangers: set[str] = set()  # names of what is in the folder of the segments and is none
        self._maintaining = threading.Lock()
        self._noting = threading.Lock()  # both the recorder and the keeper note gaps
        self._ages: Ages | None = None
        self._lock: IO[bytes] | None = None
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None

    @property
    def segment_folder(self) -> Path:
        """The folder of the segments."""
        return self.folder / SEGMENTS

    @property
    def quarantine(self) -> Path:
        """The folder of segments that could not be read."""
        return self.folder / QUARANTINE

    def __enter__(self) -> Spool:
        """Become the one writer, and clear up what a crash has left.

        Raises:
            UserError: another process writes to this spool, or the folder cannot be used.
        """
        try:
            self.segment_folder.mkdir(parents=True, exist_ok=True)
            for folder in (self.folder, self.folder.parent):
                durable.sync_folder(folder)
            self._check_folder()
            lock = durable.open_regular(self.folder / LOCK, "ab+")
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
            self._clear_up()
            self._recall()
            self._ages = Ages(self.folder / AGES, self.next_sequence, self.max_age.total_seconds())
            self._mark(always=True)
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
            self._keeper = None
            self._mark(always=True)
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
            content = Content.of(prepared.messages)
            segments.write(self.segment_folder, prepared.messages.frame(), content, buffer=self._buffer)
            self.next_sequence += len(prepared.messages)
            self._remember(prepared.keys, ours=True)
        self.redelivered += prepared.redelivered

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
        with self._noting:
            gaps.note(self.folder, [Gap(begin, end, reason, before=self.next_sequence)])

    def note_taken_session(self, begin: datetime | None, end: datetime, reason: str) -> None:
        """Note, on disk, that another client had our session, which goes on, and that messages may be missing.

        Args:
            begin: when the last message before was received; None: there was none.
            end: until when the other client had it, as far as is known.
            reason: for people.

        Raises:
            OSError: the disk is full or failing; nothing was noted, and it may be noted again.
        """
        with self._noting:
            gaps.note(self.folder, [Gap(begin, end, reason, "taken")])

    def maintain(self) -> None:
        """Delete segments that are too old or too many, and merge neighbouring small ones."""
        with self._maintaining:
            self._mark()
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

    def _check_folder(self) -> None:
        """Refuse a folder in which something else lies where our files go."""
        for name in (*FILES, *FOLDERS):
            path = self.folder / name
            is_right = stat.S_ISDIR if name in FOLDERS else stat.S_ISREG
            if os.path.lexists(path) and not is_right(path.lstat().st_mode):
                kind = "folder" if name in FOLDERS else "file"
                raise UserError(f"{path}: expected a {kind}, got something else; move it away")

    def _clear_up(self) -> None:
        """Delete what a crash has left, and put into quarantine what is not what its name says."""
        for partial in self.segment_folder.glob("*.tmp"):
            try:
                partial.unlink()
            except OSError as error:  # a folder, which we have not made
                log.warning("%s: left alone: %s", partial, error.strerror)
        self._contents.clear()
        self._left_out.clear()
        self._listed()

    def _listed(self) -> list[Segment]:
        """The segments in order, after damaged ones are in quarantine, and merged parts deleted."""
        every = segments.every(self.segment_folder, self._strangers)
        every = [segment for segment in every if segment.path.name not in self._left_out]
        for segment in every:
            if segment.path.name not in self._contents:
                try:
                    self._contents[segment.path.name] = segments.look(segment)
                except DamagedError as error:
                    self._quarantine(segment, error)
        for name in self._contents.keys() - {segment.path.name for segment in every}:
            del self._contents[name]
        whole = [segment for segment in every if segment.path.name in self._contents]
        for segment, parts in segments.covering(whole):
            if parts:
                self._drop_replaced(segment, parts)
        return segments.effective(segment for segment in whole if segment.path.name in self._contents)

    def _drop_replaced(self, segment: Segment, parts: Sequence[Segment]) -> None:
        """Delete the parts of a merged segment; if it does not hold their messages, they stay and it goes."""
        try:
            segments.check_covers(segment, parts)
        except DamagedError as error:
            self._quarantine(segment, error)
            for rest, within in segments.covering(parts):
                if within:
                    self._drop_replaced(rest, within)
            return
        for part in parts:
            part.path.unlink()
            del self._contents[part.path.name]

    def _recall(self) -> None:
        """Read from disk the next sequence number, and the keys of the messages that may be redelivered."""
        known = self._listed()
        lost = list(self._left_out.values())
        lost += segments.every(self.quarantine) if self.quarantine.is_dir() else []
        # A name alone, of a file that cannot be read, may not use up all numbers.
        lost = [segment for segment in lost if segment.last < segments.NUMBERS // 10]
        self.next_sequence = max((segment.last + 1 for segment in (*known, *lost)), default=0)
        if self.next_sequence >= segments.NUMBERS // 2:
            raise UserError(
                f"spool {self.folder}: expected sequence numbers that a recording can reach, got"
                f" {self.next_sequence - 1}; begin a new spool, or move {known[-1].path.name} away"
            )
        begin = self._session_begin()
        recent: deque[int] = deque(maxlen=REDELIVERY_WINDOW)
        for segment in self._newest(known, REDELIVERY_WINDOW):
            try:
                for frame in segments.frames(segment, begin - 1):
                    rows = frame.tail(REDELIVERY_WINDOW).select("topic", "payload", "packet_id")
                    recent.extend(_redelivery_key(*row) for row in rows.iter_rows())
                    del frame, rows  # before the next one is read
            except DamagedError as error:
                self._quarantine(segment, error)
        self._remember(recent, ours=False)

    def _newest(self, known: Sequence[Segment], messages: int) -> list[Segment]:
        """The last segments that hold so many messages, in order."""
        count = 0
        for place in range(len(known), 0, -1):
            if count >= messages:
                return list(known[place:])
            count += self._contents[known[place - 1].path.name].rows
        return list(known)

    def _session_begin(self) -> int:
        """The first message of the present session with the broker: only from it on are there redeliveries."""
        begins = [gap.before for gap in gaps.read(self.folder) if gap.kind == "session" and gap.before is not None]
        return next((begin for begin in reversed(begins) if 0 <= begin <= self.next_sequence), 0)

    def _quarantine(self, segment: Segment, error: Exception) -> None:
        log.error("spool %s: a segment cannot be read and goes to quarantine: %s", self.folder, error)
        content = self._contents.pop(segment.path.name, None)
        begin, end = _moments(content.received if content else None)
        self._note([Gap(begin, end, str(error), "quarantined", first=segment.first, last=segment.last)])
        self.quarantined += 1
        try:
            self.quarantine.mkdir(exist_ok=True)
            os.replace(segment.path, self.quarantine / segment.path.name)
        except OSError as move_error:
            self._left_out[segment.path.name] = segment
            log.error("%s: cannot be moved to quarantine: %s", segment.path, move_error.strerror or move_error)

    def _note(self, found: Sequence[Gap]) -> bool:
        """Note gaps, and return whether the disk has taken them; what caused them goes on in any case."""
        try:
            with self._noting:
                gaps.note(self.folder, found)
        except OSError as error:
            log.error("spool %s: cannot note in %s: %s", self.folder, GAPS, error.strerror or error)
            return False
        return True

    def _mark(self, *, always: bool = False) -> None:
        """Advance the spool's clock, and mark which messages were there."""
        assert self._ages is not None
        sequence = self.next_sequence
        jump = self._ages.advance()
        if jump is not None:
            log.warning("spool %s: %s; nothing is deleted for that", self.folder, jump)
            self._note([Gap(jump.expected, jump.shown, str(jump), "clock")])
        try:
            self._ages.mark(sequence, always=always)
        except OSError as error:
            log.warning("spool %s: cannot note the age of messages: %s", self.folder, error.strerror or error)

    def _keep(self) -> None:
        """Maintain every few seconds until the spool is closed."""
        problem: str | None = None  # of the disk, which is logged once, for as long as it lasts
        while not self._closing.wait(KEEP):
            try:
                self.maintain()
                problem = None
            except OSError as error:
                if problem != (problem := f"{error.strerror or error}"):
                    log.warning("spool %s: not maintained, until the disk allows it: %s", self.folder, problem)
            except Exception:
                log.exception("spool %s: maintenance failed; it is tried again", self.folder)

    def _merge(self, size: int) -> None:
        """Merge every run of at least `MANY` neighbours below `size`, up to `segment_bytes` on disk each."""
        most = np.array([self.segment_bytes, MOST_MESSAGES, MERGED_BYTES])
        run: list[Segment] = []
        total = np.zeros_like(most)
        for segment in [*self._listed(), None]:
            amount = self._amount(segment, size) if segment else None
            is_next = not run or (segment is not None and segment.first == run[-1].last + 1)
            if segment and amount is not None and is_next and (total + amount <= most).all():
                run.append(segment)
                total += amount
                continue
            if len(run) >= MANY or (len(run) > 1 and (total > most // 2).any()):
                self._merge_run(run)
            run, total = ([segment], amount) if segment and amount is not None else ([], np.zeros_like(most))

    def _amount(self, segment: Segment, size: int) -> NDArray[np.int64] | None:
        """Bytes on disk, messages, and bytes of these: (3,); None: the segment is not to be merged."""
        content, length = self._contents[segment.path.name], segment.path.stat().st_size
        is_small = length < size and content.rows <= MOST_MESSAGES // 2
        # Of a segment older than versions nobody knows what it decompresses to.
        if not is_small or content.size is None or content.size > MERGED_BYTES // 3:
            return None
        return np.array([length, content.rows, content.size])

    def _merge_run(self, run: Sequence[Segment]) -> None:
        frames = []
        for segment in run:
            try:
                frames.append(segments.read(segment))
            except DamagedError as error:
                self._quarantine(segment, error)
                return
        parts = [self._contents[segment.path.name] for segment in run]
        received = parts[0].received and parts[-1].received and (parts[0].received[0], parts[-1].received[1])
        content = Content(sum(p.rows for p in parts), sum(p.size or 0 for p in parts), received)
        segments.write(self.segment_folder, pl.concat(frames), content, "zstd")
        for segment in run:
            segment.path.unlink()

    def _retain(self) -> None:
        """Delete the oldest segments, but never the last one, which knows the next sequence number."""
        assert self._ages is not None
        kept = self._listed()
        sizes = {segment: segment.path.stat().st_size for segment in kept}
        states = self._states()
        numbers = [int(path.stem) for path, _ in states]
        ends = [0, *itertools.accumulate(size for _, size in states)]
        # If a segment is the oldest, nobody needs so many of the snapshots: of those before it, all but the last.
        unneeded = [max(0, bisect_left(numbers, segment.first) - 1) for segment in kept]
        freed = [ends[count] for count in unneeded]
        excess = sum(sizes.values()) + max(freed, default=0) - self.max_bytes
        too_many = 0
        while excess > 0 and too_many < len(kept) - 1:
            excess -= sizes[kept[too_many]] + freed[too_many + 1] - freed[too_many]
            too_many += 1
        self._delete(kept[:too_many], f"more than max_bytes, {self.max_bytes}")
        for path, _ in states[: unneeded[too_many]] if kept else ():
            path.unlink(missing_ok=True)
        rest = kept[too_many:-1]
        older = self._ages.older(self.max_age.total_seconds())
        too_old = sum(segment.last < older for segment in rest)
        days = self.max_age / timedelta(days=1)
        self._delete(rest[: min(too_old, max(1, len(kept) // SHARE))], f"older than max_age_days, {days:g}")

    def _states(self) -> list[tuple[Path, int]]:
        """The snapshots (`snapshots`) and their sizes, in order."""
        found = []
        for path in sorted((self.folder / STATES).glob("[0-9]" * 18 + ".json")):
            with contextlib.suppress(FileNotFoundError):  # the recorder has just deleted it
                found.append((path, path.stat().st_size))
        return found

    def _delete(self, old: Sequence[Segment], reason: str) -> None:
        """Delete segments, neighbours, and say which."""
        if not old:
            return
        first, last = old[0].first, old[-1].last
        begin, end = self._received(old[0])[0], self._received(old[-1])[1]
        log.info(
            "spool %s: deletes messages %d to %d, from %s to %s: %s", self.folder, first, last, begin, end, reason
        )
        gap = Gap(begin, end, reason, "deleted", first=first, last=last)
        is_noted = self._note([gap])
        for segment in old:
            segment.path.unlink()
        if not is_noted:  # on a full disk there is room only now
            self._note([gap])

    def _received(self, segment: Segment) -> tuple[datetime | None, datetime | None]:
        """When the first and the last message of a segment were received, as far as can be known."""
        try:
            received = self._contents[segment.path.name].received
            if received is None:
                found = [frame["received"].to_physical() for frame in segments.frames(segment)]
                received = found[0][0], found[-1][-1]
            return _moments(received)
        except DamagedError:
            return None, None


def _moments(received: tuple[int, int] | None) -> tuple[datetime | None, datetime | None]:
    """Two moments in µs since 1970; None, if nobody knows them, or no calendar has them."""
    try:
        return (from_microseconds(received[0]), from_microseconds(received[1])) if received else (None, None)
    except OverflowError:
        return None, None


def _redelivery_key(topic: str, payload: bytes, packet_id: int) -> int:
    """A hash by which a redelivery is known; 0 for a message of QoS 0, which is never redelivered."""
    return hash((topic, payload, packet_id)) if packet_id else 0
