"""The inbox: messages between the network thread, which must never wait, and the one that makes them durable."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from typing import NamedTuple

from fml_lightning.connectors.readings import Message


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
        self._released_bytes = 0
        self._deliveries: deque[Delivery] = deque()
        self._taken: list[Delivery] = []
        self._changed = threading.Condition()
        self._wanted = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._taken) + len(self._deliveries)

    def put(self, delivery: Delivery) -> None:
        """Add a message; never waits."""
        self._deliveries.append(delivery)
        self.put_count += 1
        self.put_bytes += len(delivery.message.payload)
        if len(self._deliveries) == 1 or len(self._deliveries) == self._wanted:
            with self._changed:
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

    def take(self, count: int, interval: float, idle: float) -> list[Delivery] | None:
        """Wait for messages, then take what is worth a commit.

        Returns as soon as `count` messages are there, `interval` seconds after the first one, or after `idle`
        seconds without a new one: a broker that waits for acknowledgements sends no more.

        Returns:
            At most `count`; nothing if no message comes for a second; None once it is closed and empty.
        """
        self.release()
        with self._changed:
            if not self._deliveries and not self._closed:
                self._changed.wait(1.0)
            deadline, seen = time.monotonic() + interval, 0
            while len(self._deliveries) < count and len(self._deliveries) > seen and not self._closed:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                seen, self._wanted = len(self._deliveries), count
                self._changed.wait(min(idle, remaining))
            self._wanted = 0
        if not self._deliveries:
            return None if self._closed else []
        taken = [self._deliveries.popleft() for _ in range(min(count, len(self._deliveries)))]
        self._taken = taken
        return taken

    def release(self) -> None:
        """What was taken last is durable, and need not be kept."""
        self._released_bytes += sum(len(delivery.message.payload) for delivery in self._taken)
        self._taken = []

    def close(self) -> None:
        """Nothing more will come; what is there can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()
