"""The recorder: writes messages to the spool and decodes them meanwhile; only then it has them acknowledged."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import TypeVar

import numpy as np

from fml_lightning.connectors.codecs.times import from_microseconds
from fml_lightning.connectors.decoding.decoded import Decoded
from fml_lightning.connectors.decoding.decoder import Decoder
from fml_lightning.connectors.decoding.time_check import TimeCheck
from fml_lightning.connectors.messages import Message, Messages
from fml_lightning.connectors.quality import DOUBTFUL
from fml_lightning.connectors.spool.dead_letters import DeadLetters
from fml_lightning.connectors.spool.folder import DEAD_LETTERS
from fml_lightning.connectors.spool.inbox import Inbox
from fml_lightning.connectors.spool.kept_session import KeptSession
from fml_lightning.connectors.spool.reader import SpoolReader
from fml_lightning.connectors.spool.snapshots import Snapshot, Snapshots
from fml_lightning.connectors.spool.spool import REDELIVERY_WINDOW, Spool
from fml_lightning.names import escaped

log = logging.getLogger(__name__)
T = TypeVar("T")

GROUP_BYTES = 8 << 20
"""Bytes of the messages in one group, about: more would not fit the processor's caches."""
IDLE = 0.02
"""Seconds without a new message after which a group is written: the broker may be waiting for acknowledgements."""
ENOUGH = 10
"""Messages in a row that cannot be read, from which on the status says so."""
REST = 1.0
"""Seconds between two attempts to write to a disk that fails."""
MOST_NAMES, LONGEST_NAME = 1_000, 100
"""Names that are counted one by one, and characters of each that are kept."""
OTHERS = "(further names)"
"""Under which all others are counted."""
SHOWN = 5
"""Names that a sentence lists."""


class Recorder:
    """Takes messages from an inbox, a group at a time: writes, decodes, buries the dead letters, acknowledges.

    Args:
        inbox: where messages come from.
        spool: where they go; open.
        decoder: what decodes them.
        acknowledge: acknowledges messages to the broker.
        publish: publishes a topic and a payload that a codec asks for; whether there is a connection to do so.
        group: messages in a group, at most; no more than may be unacknowledged.
        interval: seconds that a message may wait until its group is written.
    """

    def __init__(
        self,
        inbox: Inbox,
        spool: Spool,
        decoder: Decoder,
        acknowledge: Callable[[Sequence[Message]], None],
        publish: Callable[[str, bytes], bool],
        group: int,
        interval: float,
    ) -> None:
        self.inbox = inbox
        self.spool = spool
        self.decoder = decoder
        self._acknowledge = acknowledge
        self._publish = publish
        self.group = group
        self.interval = interval
        self.dead_letters = DeadLetters(spool.folder / DEAD_LETTERS, spool.next_sequence)
        self.machines: set[tuple[str, str]] = set()
        """Site and machine of all readings so far."""
        self.buried = 0
        """Messages that could not be read, wholly or in part."""
        self.repeated = 0
        """Readings that had come before with the same device time; readers of the spool leave them out."""
        self.doubtful: Counter[str] = Counter()
        """Readings with each `Quality` flag, by its name in lower case; NO_DEVICE_TIME is not counted."""
        self.skipped: Counter[str] = Counter()
        """Messages with something of each name that their codec left out (`PartlyRead`)."""
        self.committed = 0
        """Messages made durable."""
        self.last_commit = 0.0
        """When messages were last made durable (monotonic seconds); 0 if never."""
        self.gaps = 0
        """Times that messages may have been lost: the broker had lost our session, or another client had it."""
        self.problem: str | None = None
        """Why nothing can be made durable at present; None if it can."""
        self.unreadable: str | None = None
        """Why none of the last messages could be read; None if one could."""
        self._unread = 0  # messages since the last that could be read, and why
        self._unread_why = ""
        self._unread_names: dict[tuple[str, str], None] = {}  # what was left out of them, and what it is
        self._time_check = TimeCheck(decoder.time_unit)
        self._snapshots = Snapshots(spool.folder, decoder)
        self._snapshot: Snapshot | None = None  # the last
        self._since: int | None = None  # the first message of which the decoder knows
        self.crashed: BaseException | None = None
        """The bug that ended the thread."""
        self.drained = False
        """Whether all messages of the inbox, which was closed, were made durable."""
        self._requests: deque[tuple[str, bytes]] = deque()  # what codecs ask to be published
        self._abandon = threading.Event()
        self._writer = ThreadPoolExecutor(1, "recorder-writer")
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._last_message: datetime | None = None
        self._session = KeptSession(spool.folder)
        self._gap_end: datetime | None = None  # of the last gap

    @property
    def warning(self) -> str | None:
        """What is wrong with the times of most of the last readings, in one sentence; None if nothing is."""
        return self._time_check.warning

    def start(self) -> None:
        """Start the thread, which first buries the dead letters that a crash has left unburied."""
        self._thread.start()

    def finish(self, timeout: float) -> bool:
        """Make durable what is in the inbox, which must be closed, and end the thread.

        Args:
            timeout: seconds until the thread gives up messages that a failing or slow disk has not taken. They are
                not acknowledged, so the broker keeps them.

        Returns:
            Whether the thread has ended; if not, it is stuck in a write to the spool.
        """
        if self._thread.is_alive():
            self._thread.join(timeout)
            self._abandon.set()
            self._thread.join(REST + timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._recover()
            while not self._abandon.is_set():
                if (messages := self.inbox.take(self.group, GROUP_BYTES, self.interval, IDLE)) is None:
                    self._note_sessions(None)
                    self.drained = True
                    break
                for link, group in itertools.groupby(messages, lambda message: message.link):
                    self._note_sessions(link)
                    self._commit(list(group))
                if not messages:
                    self._note_sessions(None)
                self.inbox.release()
                if messages:
                    self._acknowledge(messages)
                self._requests.extend(self.decoder.requests(time.time()))
                while self._requests and self._publish(*self._requests[0]):
                    self._requests.popleft()
        except _AbandonedError:
            pass
        except BaseException as error:
            log.exception("the recorder broke")
            self.crashed = error
        finally:
            self._writer.shutdown()

    def _recover(self) -> None:
        """Decode the spool's last messages: to know repeated readings, and to bury what a crash left unburied."""
        after = max(-1, self.spool.next_sequence - 1 - REDELIVERY_WINDOW)
        if self._snapshots.wanted:
            self._insist(partial(self._snapshots.clear, self.spool.next_sequence))
        if (restored := self._snapshots.restore(after)) is not None:
            after, self._snapshot, self._since = restored.sequence, restored, restored.since
        for frame in SpoolReader(self.spool.folder, after).read():
            if self._since is None:
                self._since = frame["sequence"][0]
            decoded = self.decoder.decode(frame)
            self._last_message = frame["received"][-1]
            # Without a snapshot, a stateful codec cannot read messages from the middle of a spool on.
            if restored is not None or self._since == 0 or not self.decoder.stateful:
                self._insist(partial(self.dead_letters.bury, decoded.dead))
            self._keep_state(frame["sequence"][-1])
        if self._since is None:  # there was no message
            self._since = self.spool.next_sequence

    def _note_sessions(self, link: int | None) -> None:
        """Note what happened to our session before the messages of a link; None: whatever happened."""
        while (change := self.inbox.session_change(link)) is not None:
            known = (self._last_message, self._session.begun, self._gap_end)
            begin = max((time for time in known if time is not None), default=None)
            if change.kind == "new":
                self.spool.begin_session()
                if begin is not None:
                    self._note_gap(
                        self.spool.note_lost_session, begin, change.time, "the broker had lost our session"
                    )
                self._insist(partial(self._session.begin, change.time))
            elif change.kind == "back":
                self._note_gap(self.spool.note_taken_session, begin, change.time, "another client had our session")
            else:  # the gap that counts ends once we have the session back
                reason = "another client has taken our session"
                self._insist(partial(self.spool.note_taken_session, begin, change.time, reason))

    def _note_gap(self, note: Callable[[T, datetime, str], None], begin: T, end: datetime, reason: str) -> None:
        self.gaps += 1
        self._gap_end = end
        log.warning("messages between %s and %s may be lost: %s", begin, end, reason)
        self._insist(partial(note, begin, end, reason))

    def _commit(self, messages: Sequence[Message]) -> None:
        prepared = self.spool.prepare(messages)
        writing = self._writer.submit(self._insist, partial(self.spool.write, prepared))
        fresh = prepared.messages
        decoded = self.decoder.decode(fresh) if len(fresh) else None  # while the other thread writes
        writing.result()
        self.committed += len(fresh)
        self.last_commit = time.monotonic()
        if decoded is not None:
            self._last_message = from_microseconds(int(fresh.received[-1]))
            self._insist(partial(self.dead_letters.bury, decoded.dead))
            self._keep_state(int(fresh.sequence[-1]))
            self._count(decoded, fresh)

    def _keep_state(self, sequence: int) -> None:
        """Take a snapshot after a message, where codecs know more or less than at the last one, or it is long ago.

        So no birth lies between a snapshot and the next segment, whichever segments are deleted one day.
        """
        states = self.decoder.states() if self._snapshots.wanted else None
        last = self._snapshot
        if states is None:
            if last is not None:
                self._insist(self._snapshots.drop)
                self._snapshot = None
            return
        if last is None or states != last.states or sequence - last.sequence >= REDELIVERY_WINDOW:
            assert self._since is not None
            self._snapshot = self._insist(partial(self._snapshots.write, sequence, self._since, states))

    def _insist(self, write: Callable[[], T]) -> T:
        """Call `write` until the disk fails no more, and return its result; meanwhile nothing is acknowledged."""
        while True:
            try:
                result = write()
            except OSError as error:
                problem = (
                    f"spool {self.spool.folder}: {error.strerror or error}; nothing is acknowledged meanwhile"
                )
                if self.problem != problem:
                    log.error("%s", problem)
                self.problem = problem
                if self._abandon.wait(REST):
                    raise _AbandonedError from error
            else:
                self.problem = None
                return result

    def _count(self, decoded: Decoded, messages: Messages) -> None:
        readings = decoded.columns
        self.buried += len(decoded.dead)
        self.repeated += decoded.repeated
        self.machines.update(decoded.names[stream][:2] for stream in np.unique(readings.stream).tolist())
        quality = readings.quality[decoded.kept]
        for flag in DOUBTFUL if quality.any() else ():
            if count := int(np.count_nonzero(quality & int(flag))):
                self.doubtful[flag.word] += count
        first = int(messages.sequence[0])
        self._time_check.add(readings, decoded.kept, lambda sequence: messages.topics[sequence - first])
        self._count_skipped(decoded)
        if len(readings) or decoded.labels:
            self._unread = 0
            self._unread_names.clear()
        else:
            self._unread += decoded.unread
            if len(self._unread_names) < MOST_NAMES:
                self._unread_names.update(dict.fromkeys(decoded.skipped))
            if decoded.dead:
                self._unread_why = decoded.dead[-1].error
            elif decoded.skipped:
                self._unread_why = _left_out(self._unread_names)
        self.unreadable = self._unread_why if self._unread >= ENOUGH else None

    def _count_skipped(self, decoded: Decoded) -> None:
        """Count what codecs left out, and log each name once."""
        new: list[str] = []
        for (name, kind), count in decoded.skipped.items():
            counted = _beginning(name)
            if counted not in self.skipped and len(self.skipped) >= MOST_NAMES:
                counted = OTHERS
            if counted not in self.skipped:
                new.append(counted if counted == OTHERS else f"{counted} ({_beginning(kind)})")
            self.skipped[counted] += count
        if new:
            log.warning("left out of the messages that come, since no number is found there: %s", ", ".join(new))


def _left_out(names: Iterable[tuple[str, str]]) -> str:
    """A sentence of what was left out.

    >>> _left_out([("a.b", "within objects"), ("unit", "text"), ("a.c", "within objects")]).partition("; give")[0]
    'the members a.b, a.c are within objects; the members unit are text'
    """
    by_kind: dict[str, list[str]] = {}
    for name, kind in names:
        by_kind.setdefault(_beginning(kind), []).append(_beginning(name))
    parts = []
    for kind, found in by_kind.items():
        more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
        parts.append(f"the members {', '.join(found[:SHOWN])}{more} are {kind}")
    return "; ".join(
        [*parts[:SHOWN], "give their paths, states or sample rate in the topic's codec (docs/recording.md)"]
    )


def _beginning(name: str) -> str:
    """The beginning of a stranger's name, as it may be shown."""
    return escaped(name[:LONGEST_NAME])


class _AbandonedError(Exception):
    """The disk still fails, and `finish` waits no longer."""
