"""The inbox: what comes from the network thread, which must never wait, until the recorder makes it durable."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from fml_lightning.connectors.messages import Message

OVERHEAD = 300
"""Bytes of a message's objects, about, beside its topic and payload."""


class SessionChange(NamedTuple):
    """What has happened to our session at the broker."""

    link: int
    """The first link after it; messages of earlier links came before."""
    time: datetime
    """When it happened."""
    kind: Literal["new", "taken", "back"]
    """The broker has begun a new session; another client has taken ours; we have back what it had taken."""


class Inbox:
    """A queue of messages that knows its size in bytes, and of what happened to the session meanwhile.

    Messages that were taken still count until they are released, or more are taken: they are in memory, and not
    yet durable.

    Args:
        max_bytes: of memory that messages take, about; while the inbox is `full`, the network thread
            reads nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.put_count = 0
        """Messages that ever came in."""
        self.links = 0
        """Connections that the broker has ever accepted."""
        self.takeovers = 0
        """Times that another client has taken our session, or seems to have."""
        self._changes: deque[SessionChange] = deque()
        self._is_taken = False
        self._put_size = self._taken_size = self._released_size = 0
        self._messages: deque[Message] = deque()
        self._taken: list[Message] = []
        self._changed = threading.Condition()
        self._wanted = self._wanted_size = sys.maxsize
        self._closed = False

    def __len__(self) -> int:
        return len(self._taken) + len(self._messages)

    def put(self, message: Message) -> None:
        """Add a message; never waits. Once the inbox is closed the message is dropped, and never acknowledged."""
        if self._closed:
            return
        self._messages.append(message)
        self.put_count += 1
        self._put_size += len(message.payload) + len(message.topic) + OVERHEAD
        waiting = len(self._messages)
        if waiting == 1 or waiting >= self._wanted or self._put_size >= self._wanted_size:
            with self._changed:
                self._wanted = self._wanted_size = sys.maxsize
                self._changed.notify()

    @property
    def put_bytes(self) -> int:
        """Bytes of the topics and payloads of all messages that ever came in."""
        return self._put_size - self.put_count * OVERHEAD

    def note_link(self, number: int, session_kept: bool) -> None:
        """Note that the broker has accepted a connection; never waits.

        Args:
            number: `Message.link` of the messages that will come over it.
            session_kept: whether the broker has kept our session. If not, messages may have been lost, and packet
                identifiers begin anew.
        """
        self.links += 1
        if not session_kept or self._is_taken:
            self._changes.append(SessionChange(number, datetime.now(UTC), "back" if session_kept else "new"))
        self._is_taken = False

    def note_takeover(self, number: int) -> None:
        """Note that another client has taken our session, which ended the link with this number; never waits."""
        self.takeovers += 1
        self._is_taken = True
        self._changes.append(SessionChange(number + 1, datetime.now(UTC), "taken"))

    def session_change(self, link: int | None) -> SessionChange | None:
        """The oldest change of our session that was not told before; None if there is none.

        Args:
            link: of the changes before the messages of this link; None: of all.
        """
        if not self._changes or (link is not None and self._changes[0].link > link):
            return None
        return self._changes.popleft()

    @property
    def full(self) -> bool:
        """Whether it holds `max_bytes` or more."""
        return self._put_size - self._released_size >= self.max_bytes

    @property
    def oldest(self) -> int | None:
        """When the oldest message was received, µs since 1970; None if it is empty."""
        for messages in (self._taken, self._messages):
            with contextlib.suppress(IndexError):  # another thread may take or release the last one this moment
                return messages[0].received
        return None

    def take(self, count: int, size: int, interval: float, idle: float) -> list[Message] | None:
        """Wait for messages, then take a group of them.

        The wait ends as soon as there are `count` messages or `size` bytes of memory, `interval` seconds after
        the first message, or after `idle` seconds without a new one: a broker that waits for acknowledgements
        sends no more.

        Returns:
            At most `count` messages, the last of which is the first to reach `size` bytes; none if no message
            comes for a second; None once the inbox is closed and empty.
        """
        self.release()
        with self._changed:
            if not self._messages and not self._closed:
                self._changed.wait(1.0)
            deadline, seen, full = time.monotonic() + interval, 0, self._taken_size + size
            while seen < len(self._messages) < count and self._put_size < full and not self._closed:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                seen, self._wanted, self._wanted_size = len(self._messages), count, full
                self._changed.wait(min(idle, remaining))
        if not self._messages:
            return None if self._closed else []
        taken: list[Message] = []
        size = self._taken_size
        while self._messages and len(taken) < count and size < full:
            message = self._messages.popleft()
            taken.append(message)
            size += len(message.payload) + len(message.topic) + OVERHEAD
        self._taken_size = size
        self._taken = taken
        return taken

    def release(self) -> None:
        """The messages that were taken last are durable: they no longer count."""
        self._released_size, self._taken = self._taken_size, []

    def close(self) -> None:
        """Let nothing more in; what is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()
