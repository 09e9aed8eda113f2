"""The supervisor: owns the network thread, replaces it when it has died or hangs, and tells it what to send."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.connectors.mqtt.network_thread import LONGEST_WAIT, NetworkThread
from fml_lightning.connectors.mqtt.session import Session
from fml_lightning.connectors.spool.inbox import Inbox

log = logging.getLogger(__name__)

STUCK = 3
"""Keepalive times without a sign of life after which the network thread counts as hanging."""
LOOK = 1.0
"""Seconds between two looks at the network thread."""


class Supervisor:
    """Keeps a network thread running: `start`, then `pause` and `stop`.

    A network thread that hangs cannot be ended from outside. It is told to end by itself when it comes round, and
    from then on reaches nothing that its successor uses, but the inbox, into which it no longer puts anything.

    Args:
        connection: where the broker is.
        session: what we ask of it.
        inbox: where messages go.
    """

    def __init__(self, connection: Connection, session: Session, inbox: Inbox) -> None:
        self.connection = connection
        self.network = NetworkThread(connection, session, inbox)
        """The network thread of now."""
        self.restarts = 0
        """Times that it was replaced."""
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="mqtt-supervisor", daemon=True)

    def start(self, first_must_succeed: bool) -> None:
        """Start the network thread, and to watch it.

        Args:
            first_must_succeed: whether to give up if the first attempt to connect fails.
        """
        self.network.start(first_must_succeed)
        self._watcher.start()

    def acknowledge(self, messages: Iterable[Message]) -> None:
        """Acknowledge messages over the connections that they came over, as far as these still stand.

        Messages of connections that have ended are left out: the broker delivers them again.
        """
        packet_ids: dict[int, list[int]] = {}
        for message in messages:
            if message.packet_id:
                packet_ids.setdefault(message.link, []).append(message.packet_id)
        network = self.network
        for link, ids in packet_ids.items():
            network.acknowledge(link, ids)

    def publish(self, topic: str, payload: bytes) -> bool:
        """Publish at QoS 0; whether there is a connection to do so. What must arrive needs a `Publisher`."""
        return self.network.publish(topic, payload)

    def pause(self) -> None:
        """Read no more messages, and replace the network thread no more; acknowledgements still go out."""
        self._ending.set()
        if self._watcher.is_alive():
            self._watcher.join()  # it may be about to replace the network thread
        self.network.pause()

    def stop(self) -> None:
        """Send what is to be sent, disconnect in good order, and end."""
        self.pause()
        self.network.stop()

    def _watch(self) -> None:
        longest = STUCK * self.connection.keepalive + self.connection.timeout + LONGEST_WAIT
        while not self._ending.wait(LOOK):
            network = self.network
            hangs = network.alive and time.monotonic() - network.beat > longest
            if network.fatal is not None or (network.alive and not hangs):
                continue
            log.error("the network thread %s; it is replaced", "hangs" if hangs else "has died")
            self.restarts += 1
            network.abandon()
            self.network = network.successor()
            self.network.start(first_must_succeed=False)
