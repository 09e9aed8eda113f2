"""The buffered client delivers what paho's own delivers, however a stream of packets is cut."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from paho.mqtt.client import Client, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fml_lightning.connectors import Message
from fml_lightning.connectors.mqtt.buffered_client import BufferedClient

CONNACK = {MQTTv5: b"\x20\x03\x00\x00\x00", MQTTv311: b"\x20\x02\x00\x00"}
PINGRESP = b"\xd0\x00"


class Publish(NamedTuple):
    """A PUBLISH packet."""

    topic: bytes
    payload: bytes
    qos: int
    retained: bool
    redelivered: bool
    properties: bool

    def packed(self, protocol: int) -> bytes:
        body = len(self.topic).to_bytes(2, "big") + self.topic + (b"\x12\x34" if self.qos else b"")
        if protocol == MQTTv5:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            if self.properties:
                properties.MessageExpiryInterval = 9
            body += properties.pack()  # type: ignore[no-untyped-call]
        body += self.payload
        length, rest = b"", len(body)
        while rest >= 128:
            length, rest = length + bytes([rest & 127 | 128]), rest >> 7
        header = 0x30 | self.redelivered << 3 | self.qos << 1 | self.retained
        return bytes([header]) + length + bytes([rest]) + body


PUBLISHES = st.builds(
    Publish,
    st.sampled_from([b"a", b"plant/a/m/x", "plant/ü".encode()]),
    st.binary(max_size=20) | st.integers(100, 20_000).map(lambda n: b"x" * n),
    st.sampled_from([0, 1]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


@contextlib.contextmanager
def connected(kind: type[Client], protocol: int) -> Iterator[tuple[Client, socket.socket]]:
    """A client, and the broker's end of its connection, which has accepted it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = kind(CallbackAPIVersion.VERSION2, "me", protocol=protocol, manual_ack=True)  # type: ignore[call-arg,arg-type]
        client.connect("127.0.0.1", server.getsockname()[1])
        broker, _ = server.accept()
        with broker:
            broker.recv(1000)  # CONNECT
            broker.sendall(CONNACK[protocol])
            read(client)
            assert client.is_connected()
            yield client, broker
            if (line := client.socket()) is not None:
                line.close()


def read(client: Client) -> MQTTErrorCode:
    line = client.socket()
    assert isinstance(line, socket.socket)
    if not (isinstance(client, BufferedClient) and client.has_read_ahead):
        select.select([line], [], [], 5)
    return client.loop_read()


def received(
    kind: type[Client], protocol: int, parts: Sequence[bytes], count: int, max_packet_bytes: int = 1 << 28
) -> list[tuple[Any, ...]]:
    """The messages of packets that arrive in parts."""
    seen: list[tuple[Any, ...]] = []
    with connected(kind, protocol) as (client, broker):
        if isinstance(client, BufferedClient):
            client.on_received = lambda m: seen.append(
                (m.topic, m.payload, m.packet_id, m.retained, m.redelivered, m.oversized)
            )
            client.max_packet_bytes = max_packet_bytes
        else:
            client.on_message = lambda _c, _u, m: seen.append(
                (m.topic, bytes(m.payload), m.mid, m.retain, m.dup, 0)
            )
        for part in parts:
            broker.sendall(part)
            assert read(client) == MQTTErrorCode.MQTT_ERR_SUCCESS
        while len(seen) < count:
            read(client)
        assert client.is_connected()
    return seen


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(
    protocol=st.sampled_from([MQTTv5, MQTTv311]),
    packets=st.lists(PUBLISHES | st.just(PINGRESP), min_size=1, max_size=12),
    cuts=st.lists(st.floats(0, 1), max_size=6),
)
def test_it_delivers_what_paho_delivers(protocol: int, packets: list[Publish | bytes], cuts: list[float]) -> None:
    stream = b"".join(p if isinstance(p, bytes) else p.packed(protocol) for p in packets)
    places = sorted({0, len(stream), *(round(cut * len(stream)) for cut in cuts)})
    parts = [stream[begin:end] for begin, end in itertools.pairwise(places)]
    count = sum(isinstance(packet, Publish) for packet in packets)
    ours = received(BufferedClient, protocol, parts, count)
    assert ours == received(Client, protocol, parts, count)
    assert len(ours) == count
    short = received(BufferedClient, protocol, parts, count, max_packet_bytes=60)
    whole = [len(p.packed(protocol)) for p in packets if isinstance(p, Publish)]
    assert short == [
        (topic, payload if size <= 60 else b"", *rest, 0 if size <= 60 else size)
        for (topic, payload, *rest, _), size in zip(ours, whole, strict=True)
    ]


@pytest.mark.parametrize("protocol", [MQTTv5, MQTTv311])
@pytest.mark.parametrize(
    "packet",
    [
        b"\x32\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x32\x01\x00",  # too short for the length of a topic
        b"\x32\x04\x00\x09ab",  # a topic longer than its packet
        b"\x32\x04\x00\x02ab",  # no packet identifier
        b"\x36\x08\x00\x01a\x00\x01\x00\x00\x00",  # QoS 3
        b"\x00\x00",  # no type
    ],
)
def test_a_wrong_packet_is_left_to_paho(protocol: int, packet: bytes) -> None:
    outcomes = []
    for kind in (BufferedClient, Client):
        with connected(kind, protocol) as (client, broker):
            ended: list[Any] = []
            seen: list[Message] = []
            client.on_disconnect = lambda _c, _u, _f, code, _p, ended=ended: ended.append(code)
            if isinstance(client, BufferedClient):
                client.on_received = seen.append
            else:
                client.on_message = lambda *_: pytest.fail("a message")
            broker.sendall(packet)
            outcome: Any
            try:
                outcome = read(client)
            except Exception as error:
                outcome = type(error)
            assert not seen
            outcomes.append((outcome, [str(code) for code in ended]))
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("kind", [BufferedClient, Client])
def test_the_end_of_a_connection_is_told(kind: type[Client]) -> None:
    ended: list[Any] = []
    with connected(kind, MQTTv5) as (client, broker):
        client.on_disconnect = lambda _c, _u, _f, code, _p: ended.append(code)
        broker.sendall(Publish(b"a", b"12345", 1, False, False, False).packed(MQTTv5)[:-1])
        read(client)
        assert not ended
        broker.close()
        while client.socket() is not None:
            read(client)
    assert [str(code) for code in ended] == ["Unspecified error"]
