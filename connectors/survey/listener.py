"""The listener: a short-lived client that hears what a broker sends, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import secrets
import select
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from paho.mqtt.client import MQTT_LOG_ERR
from paho.mqtt.reasoncodes import ReasonCode

from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.mqtt.buffered_client import BufferedClient
from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.errors import UserError

EVERYTHING = "#"
"""The filter of all topics but a broker's own (`$SYS`)."""
TURN = 0.1
"""Seconds that the listener waits for the socket, at most, before it looks whether it is to stop."""
PAUSE = 0.5
"""Seconds before it connects again, once the connection was lost."""


@dataclass
class _Answers:
    """What the broker has answered on one connection; None where it has not."""

    code: ReasonCode | None = None
    granted: Sequence[ReasonCode] | None = None
    ended: ReasonCode | None = None
    error: str | None = None


@dataclass
class Listener:
    """Subscribes to every topic, and to the configured ones, at QoS 0, in a session that ends with the connection.

    MQTT 5.0, section 3.8: https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html
    """

    connection: Connection
    filters: Sequence[str]
    """The configured topic filters, for a broker that does not let us read everything."""
    max_packet_bytes: int
    """Of a larger message, the payload is not kept."""
    refused: list[str] = field(default_factory=list, init=False)
    """Filters that the broker does not let us subscribe to."""
    lost: int = field(default=0, init=False)
    """Times that the connection was lost."""

    def listen(
        self, seconds: float, hear: Callable[[Message], None], stop: threading.Event, look: Callable[[float], None]
    ) -> None:
        """Hand every message to `hear`, for some seconds from the subscription on, or until `stop` is set.

        Args:
            seconds: how long.
            hear: what takes the messages.
            stop: ends it early.
            look: called again and again, with the seconds that are left.

        Raises:
            UserError: the broker cannot be reached, refuses us, or every subscription of ours.
        """
        deadline: float | None = None
        while not stop.is_set() and (deadline is None or time.monotonic() < deadline):
            answers = _Answers()
            client = self._client(answers, hear)
            is_subscribed = False
            try:
                self._connect(client, answers, stop)
                deadline = deadline or time.monotonic() + seconds
                is_subscribed = self._subscribe(client, answers, stop)
                while is_subscribed and time.monotonic() < deadline and not stop.is_set():
                    look(deadline - time.monotonic())
                    if not _turn(client):
                        break
            except OSError as error:
                if deadline is None:  # else the broker has accepted us before, and may come back
                    raise UserError(self.connection.failure(error)) from error
            finally:
                with contextlib.suppress(Exception):
                    client.disconnect()
            if stop.is_set() or (deadline is not None and time.monotonic() >= deadline):
                return
            self.lost += 1
            if not is_subscribed and EVERYTHING not in self.refused:
                self.refused.append(EVERYTHING)  # some brokers answer a forbidden subscription by cutting us off
            stop.wait(PAUSE)

    def _client(self, answers: _Answers, hear: Callable[[Message], None]) -> BufferedClient:
        client = self.connection.client(f"fml-check-{secrets.token_hex(6)}", BufferedClient, clean=True)

        def on_connect(_client: Any, _data: object, _flags: object, code: ReasonCode, _more: object) -> None:
            answers.code = code

        def on_disconnect(_client: Any, _data: object, _flags: object, code: ReasonCode, _more: object) -> None:
            answers.ended = code

        def on_subscribe(_client: Any, _data: object, _mid: int, codes: list[ReasonCode], _more: object) -> None:
            answers.granted = codes

        def on_log(_client: Any, _data: object, level: int, text: str) -> None:
            answers.error = text if level == MQTT_LOG_ERR else answers.error

        client.on_connect, client.on_disconnect, client.on_subscribe = on_connect, on_disconnect, on_subscribe
        client.on_log = on_log
        client.on_received = hear
        client.max_packet_bytes = self.max_packet_bytes
        return client

    def _connect(self, client: BufferedClient, answers: _Answers, stop: threading.Event) -> None:
        where = self.connection
        client.connect(where.host, where.effective_port, where.keepalive)
        self._await(client, answers, lambda: answers.code is not None, stop)
        if answers.code is not None and answers.code.is_failure:
            raise UserError(where.refusal(answers.code))
        if answers.code is None and not stop.is_set():
            raise UserError(
                where.silence(answers.error or (None if answers.ended is None else str(answers.ended)))
            )

    def _subscribe(self, client: BufferedClient, answers: _Answers, stop: threading.Event) -> bool:
        """Subscribe to everything; to the configured filters where the broker does not grant that.

        Subscribed to both, a broker may send a message twice. Returns whether the broker has answered.

        Raises:
            UserError: it grants nothing.
        """
        others = [f for f in dict.fromkeys(self.filters) if f != EVERYTHING]
        for part in ([EVERYTHING], others):
            if part is others and EVERYTHING not in self.refused:
                part = [f for f in others if f.startswith("$")]  # a broker's own topics are not in everything
            part = [f for f in part if f not in self.refused]
            if not part:
                continue
            answers.granted = None
            client.subscribe([(f, 0) for f in part])
            self._await(client, answers, lambda: answers.granted is not None, stop)
            if answers.granted is None:
                return False
            self.refused += [f for f, code in zip(part, answers.granted, strict=False) if code.is_failure]
        if {EVERYTHING, *others} <= set(self.refused):
            raise UserError(
                f"the broker {self.connection.address} lets {self.connection.username or 'an anonymous client'}"
                f" subscribe to none of {', '.join([EVERYTHING, *others])}; allow it, or name"
                " in topics what it may read"
            )
        return True

    def _await(
        self, client: BufferedClient, answers: _Answers, is_there: Callable[[], bool], stop: threading.Event
    ) -> None:
        deadline = time.monotonic() + self.connection.timeout
        while not is_there() and answers.ended is None and time.monotonic() < deadline and not stop.is_set():
            if not _turn(client):
                return


def _turn(client: BufferedClient) -> bool:
    """Wait until there is something to do, and do it; whether the connection still stands."""
    line = client.socket()
    if line is None:
        return False
    in_tls = hasattr(line, "pending") and line.pending() > 0
    is_buffered = client.has_read_ahead or in_tls
    waiting = select.poll()
    waiting.register(line.fileno(), select.POLLIN | (select.POLLOUT if client.want_write() else 0))
    ready = dict(waiting.poll(0 if is_buffered else 1000 * TURN))
    if is_buffered or ready.get(line.fileno(), 0) & ~select.POLLOUT:
        client.loop_read()
    if client.socket() is not None and ready.get(line.fileno(), 0) & select.POLLOUT:
        client.loop_write()
    client.loop_misc()
    return client.socket() is not None
