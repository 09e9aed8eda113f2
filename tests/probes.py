"""What tests of the connectors look with: wait for something, flood a broker, read a spool."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fml_lightning.connectors import MQTT, Broker, Connection
from fml_lightning.connectors.broker.broker import find_mosquitto
from fml_lightning.connectors.codecs.sparkplug_payload import payload_type
from fml_lightning.connectors.messages import MESSAGES
from fml_lightning.connectors.spool.reader import SpoolReader
from fml_lightning.errors import UserError

NOW = 1_714_564_800_000_000
"""2024-05-01T12:00:00Z in µs since 1970."""
SECOND = 1_000_000
LONG = 300.0
"""Seconds after which a wait counts as a hang; a busy machine takes less for anything that is waited for."""


def until(
    condition: Callable[[], object], seconds: float = LONG, what: Callable[[], object] | None = None
) -> None:
    """Wait until it is true; fail if it hangs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what() if what else "it did not come true"
        time.sleep(0.01)


def spooled(folder: Path | str) -> pl.DataFrame:
    """All messages of a spool."""
    return pl.concat([MESSAGES.to_frame(), *SpoolReader(folder).read()])


def payloads(folder: Path | str) -> list[bytes]:
    """Their payloads."""
    return spooled(folder)["payload"].to_list()


def numbers(folder: Path | str) -> list[int]:
    """Their payloads, which are numbers."""
    return [int(payload) for payload in payloads(folder)]


def source(folder: Path, broker: Broker | Connection, **options: Any) -> MQTT:
    """A recording that commits often."""
    connection = broker.connection("server.recorder") if isinstance(broker, Broker) else broker
    return MQTT(folder, connection, **{"client_id": "recorder", "commit_interval": 0.05, **options})


def until_done(readings: MQTT, count: int) -> None:
    """Wait until so many messages, and no more, are durable, read and acknowledged."""
    until(lambda: readings.status().committed == count and not readings.status().waiting, what=readings.status)


def flood(broker: Broker) -> Flood:
    """A flood for a broker."""
    return Flood(broker.port, "server", broker.passwords["server"])


def said(value: float | list[float] | None, at: int | None = NOW, **more: Any) -> bytes:
    """A JSON object with a value, and the device's time in ms."""
    content = {"value": value, **more} | ({} if at is None else {"time": at / 1000})
    return json.dumps(content).encode()


def spark(seq: int, *metrics: dict[str, Any]) -> bytes:
    """The payload of a Sparkplug message."""
    message = payload_type()(timestamp=NOW // 1000, seq=seq)
    for metric in metrics:
        message.metrics.add(**metric)
    return bytes(message.SerializeToString())


BIRTH = {"name": "Temperature", "alias": 1, "datatype": 9, "float_value": 20.0}


class Flood:
    """A publisher that limits nothing: MQTT 3.1.1, QoS 1, straight onto a socket.

    Written by hand, for speed: https://docs.oasis-open.org/mqtt/mqtt/v3.1.1/os/mqtt-v3.1.1-os.html
    """

    def __init__(self, port: int, username: str, password: str, window: int = 2000) -> None:
        self.window = window
        self.acknowledged = 0
        """Messages that the broker has taken."""
        self._line = socket.create_connection(("127.0.0.1", port), timeout=LONG)
        body = b"".join(
            [_text(b"MQTT"), b"\x04\xc2\x00\x00", _text(b""), _text(username.encode()), _text(password.encode())]
        )
        self._line.sendall(b"\x10" + _length(len(body)) + body)
        assert self._read(4) == b"\x20\x02\x00\x00"
        self._sent = 0

    def __enter__(self) -> Flood:
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._line.sendall(b"\xe0\x00")
        self._line.close()

    def publish(self, messages: Iterable[tuple[str, bytes]], qos: int = 1, retain: bool = False) -> None:
        """Publish, and wait until the broker has taken all."""
        packets: list[bytes] = []
        for topic, payload in messages:
            identifier = struct.pack(">H", self._sent % 65535 + 1) if qos else b""
            body = _text(topic.encode()) + identifier + payload
            packets.append(bytes([0x30 | qos << 1 | retain]) + _length(len(body)) + body)
            self._sent += 1
            if len(packets) == self.window // 4:
                self._send(packets, qos)
        self._send(packets, qos)
        while qos and self.acknowledged < self._sent:
            self._acknowledge()
        if not qos:
            self._sent = self.acknowledged

    def _send(self, packets: list[bytes], qos: int) -> None:
        while qos and self._sent - self.acknowledged > self.window:
            self._acknowledge()
        self._line.sendall(b"".join(packets))
        packets.clear()

    def _acknowledge(self) -> None:
        assert self._read(4)[:2] == b"\x40\x02"
        self.acknowledged += 1

    def _read(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            more = self._line.recv(count - len(got))
            if not more:
                raise ConnectionError("the broker has gone")
            got += more
        return got


@contextlib.contextmanager
def in_background(work: Callable[[], None]) -> Iterator[threading.Thread]:
    """Do it in a thread, and raise here what it raises there."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield thread
    thread.join(LONG)
    assert not thread.is_alive()
    if errors:
        raise errors[0]


def _text(content: bytes) -> bytes:
    return struct.pack(">H", len(content)) + content


def _length(length: int) -> bytes:
    encoded = bytearray()
    while length > 127:
        encoded.append(length & 127 | 128)
        length >>= 7
    return bytes([*encoded, length])


def needs_mosquitto() -> None:
    """Skip where mosquitto is not installed; fail in CI."""
    try:
        find_mosquitto()
    except UserError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
