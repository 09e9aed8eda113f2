"""The inbox: messages between the network thread, which must never wait, and the one that makes them durable."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from typing import NamedTuple

from fml_lightning.connectors.messages import Message


class Delivery(NamedTuple):
    """A message, and the connection it came over: an acknowledgement is only valid on that one."""

    message: Message
    epoch: int
    """Counts connections."""


class Inbox:
    """A queue of deliveries that knows its size in bytes.

    What was taken still counts, until it is released or more is taken: it is in memory, and not yet durable.

    Args:
        max_bytes: of payloads; when `full`, the network thread stops reading until there is room.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.put_count = 0
        """Messages that ever came in."""
        self.put_bytes = 0
        """Their payloads' bytes."""
        self._taken_bytes = 0
        self._released_bytes = 0
        self._deliveries: deque[Delivery] = deque()
        self._taken: list[Delivery] = []
        self._changed = threading.Condition()
        self._wanted = self._wanted_bytes = sys.maxsize
        self._closed = False

    def __len__(self) -> int:
        return len(self._taken) + len(self._deliveries)

    def put(self, delivery: Delivery) -> None:
        """Add a message; never waits."""
        self._deliveries.append(delivery)
        self.put_count += 1
        self.put_bytes += len(delivery.message.payload)
        enough = len(self._deliveries) >= self._wanted or self.put_bytes >= self._wanted_bytes
        if enough or len(self._deliveries) == 1:
            with self._changed:
                self._wanted = self._wanted_bytes = sys.maxsize
                self._changed.notify()

    @property
    def full(self) -> bool:
        """Whether it holds more than it should."""
        return self.put_bytes - self._released_bytes >= self.max_bytes

    @property
    def oldest(self) -> int | None:
        """When the oldest message was received, µs since 1970; None if it is empty."""
        for deliveries in (self._taken, self._deliveries):
            with contextlib.suppress(IndexError):  # taken, or released, this moment
                return deliveries[0].message.received
        return None

    def take(self, count: int, size: int, interval: float, idle: float) -> list[Delivery] | None:
        """Wait for messages, then take what is worth a commit.

        Returns as soon as `count` messages or `size` bytes are there, `interval` seconds after the first message,
        or after `idle` seconds without a new one: a broker that waits for acknowledgements sends no more.

        Returns:
            At most `count`, and no more once `size` bytes are among them; nothing if no message comes for a
            second; None once it is closed and empty.
        """
        self.release()
        with self._changed:
            if not self._deliveries and not self._closed:
                self._changed.wait(1.0)
            deadline, seen, full = time.monotonic() + interval, 0, self._taken_bytes + size
            while seen < len(self._deliveries) < count and self.put_bytes < full and not self._closed:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                seen, self._wanted, self._wanted_bytes = len(self._deliveries), count, full
                self._changed.wait(min(idle, remaining))
        if not self._deliveries:
            return None if self._closed else []
        taken: list[Delivery] = []
        while self._deliveries and len(taken) < count and self._taken_bytes < full:
            taken.append(self._deliveries.popleft())
            self._taken_bytes += len(taken[-1].message.payload)
        self._taken = taken
        return taken

    def release(self) -> None:
        """What was taken last is durable, and need not be kept."""
        self._released_bytes, self._taken = self._taken_bytes, []

    def close(self) -> None:
        """Nothing more will come; what is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()
