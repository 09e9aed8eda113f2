"""paho's client for many messages: one system call for many packets instead of three for each.

A small message costs paho three reads and an acknowledgement a write, each of which also hands the interpreter
over to another thread, and an object for MQTT 5 properties that nobody asks for. Here a read takes whatever has
come, acknowledgements leave together, and a message is its topic and its bytes. It overrides methods of paho's
that are not
public: should they change, it is as slow as paho, but no less right (`python -m benchmarks.ingest`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import MQTTErrorCode

READ = 1 << 16
"""Bytes read at once, at most."""


class Delivered(NamedTuple):
    """A message as it came."""

    topic: bytes
    """UTF-8, unless the sender is wrong."""
    payload: bytes
    packet_id: int
    """0 for QoS 0."""
    retained: bool
    redelivered: bool


class BufferedClient(Client):
    """A client for a loop of one's own; paho's would wait at the socket for what is in the buffer already."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.on_delivery: Callable[[Delivered], None] | None = None
        """Called with each message of QoS 0 or 1, in place of `on_message`; it must raise nothing."""
        self._ahead = b""
        self._at = 0
        self._unsent = bytearray()

    @property
    def has_read_ahead(self) -> bool:
        """Whether `loop_read` has something to do though the socket may have nothing."""
        return self._at < len(self._ahead)

    def acknowledge(self, packet_ids: Iterable[int]) -> None:
        """Acknowledge QoS 1 messages (PUBACK, MQTT 5.0 and 3.1.1, section 3.4), all of them together."""
        if super().want_write():  # a packet of paho's may have left by half
            for packet_id in packet_ids:
                self.ack(packet_id, 1)
            return
        for packet_id in packet_ids:
            self._unsent += b"\x40\x02" + packet_id.to_bytes(2, "big")
        with contextlib.suppress(OSError):  # it is full: later; or lost: the next read will say so
            self._flush()

    def want_write(self) -> bool:
        """Whether there is something to send."""
        return bool(self._unsent) or super().want_write()

    def loop_write(self) -> MQTTErrorCode:
        """Send what is to be sent."""
        with contextlib.suppress(OSError):
            self._flush()
        return super().loop_write()

    def _handle_publish(self) -> MQTTErrorCode:
        """A PUBLISH packet (3.3): topic, packet identifier if QoS is above 0, properties in MQTT 5, payload."""
        command, packet = self._in_packet["command"], self._in_packet["packet"]
        qos = command >> 1 & 3
        at = 2 + int.from_bytes(packet[:2], "big")
        begin = at + (2 if qos else 0) + (1 if self._protocol == MQTTv5 else 0)
        has_properties = self._protocol == MQTTv5 and begin <= len(packet) and packet[begin - 1] > 0
        if self.on_delivery is None or qos > 1 or begin > len(packet) or has_properties:
            return super()._handle_publish()
        topic, packet_id = bytes(packet[2:at]), int.from_bytes(packet[at : at + 2], "big") if qos else 0
        self.on_delivery(
            Delivered(topic, bytes(packet[begin:]), packet_id, bool(command & 1), bool(command >> 3 & 1))
        )
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _flush(self) -> None:
        while self._unsent:
            del self._unsent[: super()._sock_send(self._unsent)]

    def _sock_send(self, buf: bytes | bytearray) -> int:
        self._flush()
        return super()._sock_send(buf)

    def _sock_recv(self, bufsize: int) -> bytes:
        if self._at == len(self._ahead):
            if bufsize >= READ:
                return super()._sock_recv(bufsize)
            self._ahead, self._at = super()._sock_recv(READ), 0
        part = self._ahead[self._at : self._at + bufsize]
        self._at += len(part)
        return part
