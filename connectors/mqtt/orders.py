"""Orders: what other threads want of the network thread, and a way to wake it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Iterable

from fml_lightning.connectors.messages import Message


class Orders:
    """What is to be acknowledged and published, and whether to pause or to stop; any thread may give them."""

    def __init__(self) -> None:
        self.acks: deque[tuple[int, list[int]]] = deque()
        """Packet identifiers to acknowledge, and the epoch of the connection that they came over."""
        self.outgoing: deque[tuple[str, bytes]] = deque()
        """Topics and payloads to publish."""
        self.paused = threading.Event()
        """Read no more messages; acknowledgements still go out."""
        self.stopping = threading.Event()
        """Send what is to be sent, disconnect, and end."""
        self.waker, self._wake_writer = socket.socketpair()
        """Can be read as soon as there is an order."""
        self._wake_writer.setblocking(False)

    def ack(self, messages: Iterable[Message]) -> None:
        """Acknowledge messages; the link drops those that came over a connection before it."""
        by_epoch: dict[int, list[int]] = {}
        for message in messages:
            if message.packet_id:
                by_epoch.setdefault(message.link, []).append(message.packet_id)
        self.acks.extend(by_epoch.items())
        self._wake()

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 0, as soon as we are connected; what must arrive needs a `Publisher`."""
        self.outgoing.append((topic, payload))
        self._wake()

    def pause(self) -> None:
        """Read no more messages."""
        self.paused.set()
        self._wake()

    def stop(self) -> None:
        """Come to an end."""
        self.stopping.set()
        self._wake()

    def close(self) -> None:
        """There is nobody to wake any more."""
        self.waker.close()
        self._wake_writer.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is awake already, or has ended
            self._wake_writer.send(b"\0")
