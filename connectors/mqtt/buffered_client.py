"""paho's client for many messages: one system call for many packets instead of three for each.

For each small message paho reads from the socket three times and writes an acknowledgement of its own; each of
these calls also lets another thread have the interpreter. paho further copies every message several times, takes a
handful of locks for it, and makes an object of its MQTT 5 properties, which nobody reads. `BufferedClient` instead
reads as much as has come into a buffer, cuts plain messages out of that buffer itself, and sends acknowledgements
together. All other packets it leaves to paho, which reads them from the buffer as if the buffer were the socket.

It relies on these parts of paho that are not public: `_sock_recv`, `_sock_send`, `_protocol`, and, for the
keepalive, `_last_bytes_received` and `_ping_t`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from typing import Any

from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import MQTTErrorCode

from fml_lightning.connectors.messages import Message

READ = 1 << 16
"""Bytes read at once, at most."""
PUBLISH = 3
"""The type of a PUBLISH packet (MQTT 5.0 and 3.1.1, section 3.3)."""
NOT_UTF8 = "(topic is not UTF-8)"
"""In place of a topic whose bytes are no UTF-8."""


class BufferedClient(Client):
    """A paho client that is driven by `loop_read`, `loop_write` and `loop_misc`.

    paho's own loops (`loop_forever`, `loop_start`) do not fit: they would wait for the socket while the buffer
    still holds packets.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.on_received: Callable[[Message], None] | None = None
        """Called with every message."""
        self.link = 0
        """The number that messages bear (`Message.link`)."""
        self.max_packet_bytes = 1 << 28
        """Of a message in a larger packet, the payload is not kept."""
        self.last_read = 0.0
        """When bytes last came (monotonic seconds)."""
        self.on_message = _receive_from_paho
        self._buffer = bytearray()  # read from the socket, and not yet used
        self._oversized: Message | None = None  # the message whose payload is being skipped
        self._to_skip = 0  # bytes of that payload that are still to come
        self._for_paho = b""  # of the packet that paho reads now, what it has not read yet
        self._end: OSError | EOFError | None = None  # how the connection has ended
        self._unsent = bytearray()  # acknowledgements

    @property
    def has_read_ahead(self) -> bool:
        """Whether `loop_read` has something to do though the socket may have nothing."""
        return self._end_of_next() is not None

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read from the socket once and hand over the messages; leave the first other packet, if any, to paho."""
        if not self.has_read_ahead and not self._fill_buffer():
            return super().loop_read()  # paho learns from `_sock_recv` that the connection has ended
        self._hand_over_messages()
        if (end := self._end_of_next()) is None:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        self._for_paho = bytes(self._buffer[:end])
        del self._buffer[:end]
        return super().loop_read()

    def acknowledge(self, packet_ids: Iterable[int]) -> None:
        """Acknowledge QoS 1 messages (PUBACK, MQTT 5.0 and 3.1.1, section 3.4), all of them together."""
        if super().want_write():  # paho may have sent half of a packet: only paho may send the rest, then these
            for packet_id in packet_ids:
                self.ack(packet_id, 1)
            return
        for packet_id in packet_ids:
            self._unsent += b"\x40\x02" + packet_id.to_bytes(2, "big")
        # The socket may be full, then `loop_write` sends the rest; or closed, which the next `loop_read` finds.
        with contextlib.suppress(OSError):
            self._send_acknowledgements()

    def want_write(self) -> bool:
        """Whether there is something to send."""
        return bool(self._unsent) or super().want_write()

    def loop_write(self) -> MQTTErrorCode:
        """Send what is to be sent."""
        with contextlib.suppress(OSError):
            self._send_acknowledgements()
        return super().loop_write()

    def _end_of_next(self) -> int | None:
        """Where the packet at the beginning of the buffer ends; None if the buffer does not hold all of it."""
        extent = _extent(self._buffer, 0)
        return None if extent is None or extent[1] > len(self._buffer) else extent[1]

    def _hand_over_messages(self) -> None:
        """Hand over the messages in the buffer, up to a packet that is no message, or is not all there yet."""
        if self.on_received is None:
            return
        buffer, begin = self._buffer, 0
        # A bytearray cannot shrink while there is a view of it, and a slice of it would be one more copy.
        with memoryview(buffer) as view:
            while (extent := _extent(buffer, begin)) is not None:
                body, end = extent
                is_oversized = end - begin > self.max_packet_bytes
                if end > len(buffer) and not is_oversized:
                    break
                there = min(end, len(buffer))
                flags = buffer[begin]
                qos = flags >> 1 & 3
                topic_begin = body + 2
                topic_end = topic_begin + (buffer[body] << 8 | buffer[body + 1] if topic_begin <= there else end)
                payload_begin = topic_end + (2 if qos else 0) + (self._protocol == MQTTv5)
                if flags >> 4 != PUBLISH or qos > 1 or payload_begin > there:
                    break
                packet_id = buffer[topic_end] << 8 | buffer[topic_end + 1] if qos else 0
                if is_oversized:
                    payload, size = b"", end - begin
                elif self._protocol == MQTTv5 and buffer[payload_begin - 1]:
                    break  # it has properties, which paho knows how to read
                else:
                    payload, size = bytes(view[payload_begin:end]), 0
                message = Message(
                    _text(bytes(view[topic_begin:topic_end])),
                    payload,
                    time.time_ns() // 1000,
                    bool(flags & 1),
                    packet_id,
                    bool(flags >> 3 & 1),
                    size,
                    self.link,
                )
                if is_oversized:
                    self._oversized, self._to_skip = message, end - there
                    self._hand_over_oversized()
                else:
                    self.on_received(message)
                begin = end
        del buffer[:begin]

    def _hand_over_oversized(self) -> None:
        """Hand over the message whose payload is being skipped, once all of the payload has come."""
        if self._oversized is not None and not self._to_skip and self.on_received is not None:
            self.on_received(self._oversized)
            self._oversized = None

    def _fill_buffer(self) -> bool:
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
        # A broker that sends is alive, though its answer to our ping may wait behind a packet that takes long.
        self.last_read = self._last_bytes_received = time.monotonic()
        self._ping_t = 0.0
        skipped = min(self._to_skip, len(data))
        self._to_skip -= skipped
        self._hand_over_oversized()
        self._buffer += data[skipped:] if skipped else data
        return True

    def _sock_recv(self, bufsize: int) -> bytes:
        """Give paho, which believes that it reads the socket, the next bytes of the packet that is left to it.

        Once paho has read all of that packet, this method does what the socket would do: if the connection has
        ended, it returns no bytes (the broker has closed it) or raises the socket's error; while the connection
        stands, it raises BlockingIOError, so that paho stops reading.
        """
        part, self._for_paho = self._for_paho[:bufsize], self._for_paho[bufsize:]
        if part or isinstance(self._end, EOFError):
            return part
        raise self._end or BlockingIOError

    def _send_acknowledgements(self) -> None:
        while self._unsent:
            del self._unsent[: super()._sock_send(self._unsent)]

    def _sock_send(self, buf: bytes | bytearray) -> int:
        """Send bytes of paho's; acknowledgements that were sent by half are finished first."""
        self._send_acknowledgements()
        return super()._sock_send(buf)


def _receive_from_paho(client: Client, _userdata: object, message: MQTTMessage) -> None:
    """Hand over a message that paho has read, since it has properties or came at QoS 2."""
    assert isinstance(client, BufferedClient)
    if client.on_received is None:
        return
    try:
        topic = message.topic
    except UnicodeDecodeError:
        topic = NOT_UTF8
    received = time.time_ns() // 1000
    payload = bytes(message.payload)
    client.on_received(Message(topic, payload, received, message.retain, message.mid, message.dup, 0, client.link))


def _text(topic: bytes) -> str:
    try:
        return topic.decode()
    except UnicodeDecodeError:
        return NOT_UTF8


def _extent(data: bytearray, begin: int) -> tuple[int, int] | None:
    """Where the fixed header (section 2.1) of the packet at `begin` ends, and where the packet ends.

    None while the header is not all there. A length of more than four bytes is wrong: the packet is then taken to
    end after the fifth, and paho, to which it is left, refuses it.
    """
    length = 0
    for at in range(begin + 1, min(begin + 5, len(data))):
        length |= (data[at] & 127) << 7 * (at - begin - 1)
        if data[at] < 128:
            return at + 1, at + 1 + length
    return (begin + 6, begin + 6) if len(data) >= begin + 5 else None
