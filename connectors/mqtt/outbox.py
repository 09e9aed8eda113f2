"""The outbox: what other threads want sent over one connection, and a way to wake the thread that sends it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Sequence


class Outbox:
    """Acknowledgements and messages for one connection: any thread puts them in, the network thread sends them.

    Every connection has an outbox of its own, which ends with it. So a connection that was given up can neither
    send nor drop what belongs to the one that took its place.
    """

    def __init__(self) -> None:
        self.packet_ids: deque[int] = deque()
        """Packet identifiers to acknowledge."""
        self.messages: deque[tuple[str, bytes]] = deque()
        """Topics and payloads to publish."""
        self.waker, self._wake_writer = socket.socketpair()
        """A socket that can be read as soon as somebody has called `wake`."""
        self._wake_writer.setblocking(False)
        self._lock = threading.Lock()

    def acknowledge(self, packet_ids: Sequence[int]) -> None:
        """Acknowledge messages that came over this connection."""
        self.packet_ids.extend(packet_ids)
        self.wake()

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish a message at QoS 0."""
        self.messages.append((topic, payload))
        self.wake()

    def wake(self) -> None:
        """Wake the thread that waits for `waker`."""
        # The lock: between looking at the descriptor and writing, another thread could close and reuse it.
        with self._lock, contextlib.suppress(OSError):  # it is closed, or full: then the thread is awake already
            self._wake_writer.send(b"\0")

    def close(self) -> None:
        """The connection has ended: nobody sends what is left, and there is nobody to wake."""
        with self._lock:
            self.waker.close()
            self._wake_writer.close()
