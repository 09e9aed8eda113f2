"""The session with a broker: what we ask the broker to keep for us, from one connection to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Session:
    """What we ask of the broker."""

    client_id: str
    """The name of the session; one client at a time may use it."""
    filters: Mapping[str, int]
    """Topic filters to subscribe to, and their QoS."""
    expiry: int
    """Seconds that the broker keeps the session, and queues messages, while we are away (MQTT 5)."""
    receive_maximum: int
    """Messages that the broker may have sent us without our acknowledgement at once (MQTT 5)."""
    max_packet_bytes: int
    """Larger messages are acknowledged, but their payloads are not kept."""
    status_topic: str | None
    """Where we publish, retained, that we are `online`, and the broker, when we are gone, `offline`."""
    max_refusals: int
    """Refusals in a row after which we give up; and connections in a row that the broker cuts off at once, after
    which another client seems to use our client_id."""

    @property
    def rivalry(self) -> str:
        """What another client has in common with us that takes our session, and what to do."""
        return (
            f"with our client_id {self.client_id!r}, or as our user, where one user is one client (as in `fml"
            " broker`); give each its own"
        )
