"""paho's client for many messages: one system call for many packets instead of three for each.

A small message costs paho three reads and an acknowledgement a write, each of which also hands the interpreter
over to another thread; every message costs it several copies, a handful of locks and an object for MQTT 5
properties that nobody asks for. Here a read takes whatever has come, a message is its topic and its bytes, and
acknowledgements leave together. Packets that are no plain messages are paho's: it reads them from the buffer.

Of what is not public in paho it uses `_sock_recv`, `_sock_send`, `_protocol`, and for its keepalive
`_last_bytes_received` and `_ping_t`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import MQTTErrorCode

READ = 1 << 16
"""Bytes read at once, at most."""
PUBLISH = 3
"""The type of a PUBLISH packet (MQTT 5.0 and 3.1.1, section 3.3)."""


class Delivered(NamedTuple):
    """A message as it came."""

    topic: bytes
    """UTF-8, unless the sender is wrong."""
    payload: bytes
    packet_id: int
    """0 for QoS 0."""
    retained: bool
    redelivered: bool
    oversized: int = 0
    """Bytes of a packet that was too large: its payload was left out."""


class BufferedClient(Client):
    """A client for a loop of one's own; paho's would wait at the socket for what is in the buffer already."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.on_delivery: Callable[[Delivered], None] | None = None
        """Called with each message of QoS 0 or 1 without properties, in place of `on_message`; it must raise
        nothing."""
        self.max_packet_bytes = 1 << 28
        """Larger packets are read past, and delivered without their payload."""
        self.last_read = 0.0
        """When something last came (monotonic seconds)."""
        self._ahead = bytearray()
        self._past: Delivered | None = None  # what is being read past
        self._unread = 0  # bytes of it
        self._packet = b""  # for paho, whole or what is left of it
        self._end: OSError | EOFError | None = None
        self._unsent = bytearray()

    @property
    def has_read_ahead(self) -> bool:
        """Whether `loop_read` has something to do though the socket may have nothing."""
        return self._end_of_next() is not None

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read what has come, once, and hand over its messages; a packet that is none ends the turn."""
        if not self.has_read_ahead and not self._read_ahead():
            return super().loop_read()  # to which `_sock_recv` tells the end
        self._deliver()
        if (end := self._end_of_next()) is None:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        self._packet = bytes(self._ahead[:end])
        del self._ahead[:end]
        return super().loop_read()

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

    def _end_of_next(self) -> int | None:
        """Where the packet at the beginning of the buffer ends, if it is whole."""
        extent = _extent(self._ahead, 0)
        return None if extent is None or extent[1] > len(self._ahead) else extent[1]

    def _deliver(self) -> None:
        """Hand over the messages in the buffer, up to a packet that is something else, or not whole."""
        if self.on_delivery is None:
            return
        ahead, begin = self._ahead, 0
        # A bytearray cannot shrink while there is a view of it, and a slice of it would be one more copy.
        with memoryview(ahead) as view:
            while (extent := _extent(ahead, begin)) is not None:
                body, end = extent
                is_oversized = end - begin > self.max_packet_bytes
                if end > len(ahead) and not is_oversized:
                    break
                there = min(end, len(ahead))
                flags = ahead[begin]
                qos = flags >> 1 & 3
                topic_begin = body + 2
                topic_end = topic_begin + (ahead[body] << 8 | ahead[body + 1] if topic_begin <= there else end)
                payload_begin = topic_end + (2 if qos else 0) + (self._protocol == MQTTv5)
                if flags >> 4 != PUBLISH or qos > 1 or payload_begin > there:
                    break
                topic = bytes(view[topic_begin:topic_end])
                packet_id = ahead[topic_end] << 8 | ahead[topic_end + 1] if qos else 0
                retained, redelivered = bool(flags & 1), bool(flags >> 3 & 1)
                if is_oversized:
                    self._past = Delivered(topic, b"", packet_id, retained, redelivered, end - begin)
                    self._unread = end - there
                    self._end_past()
                elif self._protocol == MQTTv5 and ahead[payload_begin - 1]:
                    break  # it has properties
                else:
                    payload = bytes(view[payload_begin:end])
                    self.on_delivery(Delivered(topic, payload, packet_id, retained, redelivered))
                begin = end
        del ahead[:begin]

    def _end_past(self) -> None:
        """Deliver what was read past, once all of it was."""
        if self._past is not None and not self._unread and self.on_delivery is not None:
            self.on_delivery(self._past)
            self._past = None

    def _read_ahead(self) -> bool:
        """Read from the socket into the buffer; whether the connection still stands."""
        try:
            data = super()._sock_recv(READ)
        except BlockingIOError:
            return True
        except OSError as error:
            self._end = error
            return False
        if not data:
            self._end = EOFError()
            return False
        # Who sends is alive, though the answer to a ping waits behind a packet that takes long.
        self.last_read = self._last_bytes_received = time.monotonic()
        self._ping_t = 0.0
        past = min(self._unread, len(data))
        self._unread -= past
        self._end_past()
        self._ahead += data[past:] if past else data
        return True

    def _sock_recv(self, bufsize: int) -> bytes:
        """For paho: of the packet that is its, and no more; then how the connection ended, if it has."""
        part, self._packet = self._packet[:bufsize], self._packet[bufsize:]
        if part or isinstance(self._end, EOFError):
            return part
        raise self._end or BlockingIOError

    def _flush(self) -> None:
        while self._unsent:
            del self._unsent[: super()._sock_send(self._unsent)]

    def _sock_send(self, buf: bytes | bytearray) -> int:
        self._flush()
        return super()._sock_send(buf)


def _extent(data: bytearray, begin: int) -> tuple[int, int] | None:
    """Where the fixed header (2.1) of the packet at `begin` ends, and the packet; None while that is not known.

    A length of more than four bytes is wrong: the packet is taken to end after five, where paho refuses it.
    """
    length = 0
    for at in range(begin + 1, min(begin + 5, len(data))):
        length |= (data[at] & 127) << 7 * (at - begin - 1)
        if data[at] < 128:
            return at + 1, at + 1 + length
    return (begin + 6, begin + 6) if len(data) >= begin + 5 else None
