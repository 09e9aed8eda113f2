"""The link: one connection to a broker, from connecting to its end.

A link puts the messages that come over it into an `Inbox`, and sends the acknowledgements in its `Outbox`. An
acknowledgement names its message by a packet identifier, and the broker may give the same identifier to another
message on its next connection. So an acknowledgement may only be sent over the connection that its message came
over: links are numbered, and a message bears the number of its link.

MQTT 5.0: https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from paho.mqtt.client import MQTT_LOG_ERR, Client, ConnectFlags
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.mqtt.buffered_client import BufferedClient
from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.connectors.mqtt.outbox import Outbox
from fml_lightning.connectors.mqtt.session import Session
from fml_lightning.connectors.spool.inbox import Inbox

log = logging.getLogger(__name__)
T = TypeVar("T")

BURST = 64
"""Reads from the socket, at most, before acknowledgements are sent and the keepalive is looked after."""
GOODBYE = 2.0
"""Seconds that sending what is left may take at the end, and as many that disconnecting may take."""


class LostError(Exception):
    """There is no connection; trying again may help."""


class RefusedError(Exception):
    """The broker refuses us, or we refuse the broker; trying again will hardly help."""


class TakenOverError(LostError):
    """Another client has taken our session."""


class PermanentError(Exception):
    """What trying again cannot mend."""


@dataclass
class _Answers:
    """What the broker has answered so far; None where it has not."""

    code: ReasonCode | None = None
    """To our request to connect."""
    kept: bool = False
    """Whether the broker had kept our session."""
    granted: Sequence[ReasonCode] | None = None
    """To our subscriptions, one for each."""
    ended: ReasonCode | None = None
    """Why the connection has ended."""
    error: str | None = None
    """What paho has logged of an error."""


class Link:
    """One connection: `connect`, `subscribe`, `serve`, and in any case `close`, all called by the network thread.

    Args:
        connection: where the broker is.
        session: what we ask of the broker.
        inbox: where messages go.
        number: counts the links; messages bear it.
        returning: whether the broker has accepted us before, so that a refusal now may pass.
        paused: while it is set, no message is read.
        stopping: once it is set, the link sends what is in its outbox, disconnects, and ends.
    """

    def __init__(
        self,
        connection: Connection,
        session: Session,
        inbox: Inbox,
        number: int,
        returning: bool,
        paused: threading.Event,
        stopping: threading.Event,
    ) -> None:
        self.connection = connection
        self.session = session
        self.inbox = inbox
        self.number = number
        self.beat = time.monotonic()
        """When the network thread was last seen at work on this link (monotonic seconds)."""
        self._returning = returning
        self._paused = paused
        self._stopping = stopping
        self._answers = _Answers()
        self._client = self._new_client()
        self.outbox = Outbox()
        """What is to be sent over this link; any thread may put something in."""

    def connect(self) -> bool:
        """Connect, until the broker accepts us.

        Returns:
            Whether it has kept our session.

        Raises:
            RefusedError: the broker refuses us, or its certificate is not valid.
            LostError: the broker cannot be reached, or does not answer.
        """
        try:
            self._client.connect(**self._arguments())
            self._await(lambda answers: answers.code is not None)
            if (code := self._answers.code) is None:
                ended = self._answers.ended
                silence = self.connection.silence(self._answers.error or (None if ended is None else str(ended)))
                may_pass = self._returning or self._stopping.is_set()
                raise LostError(silence) if may_pass else RefusedError(silence)
            if code.is_failure:
                refusal = self.connection.refusal(code)
                raise LostError(refusal) if self.connection.is_busy(code) else RefusedError(refusal)
        except OSError as error:
            is_certificate = isinstance(error, ssl.SSLCertVerificationError)
            if is_certificate or (self.connection.is_refusal(error) and not self._returning):
                raise RefusedError(self.connection.failure(error)) from error
            raise LostError(self.connection.failure(error)) from error
        self._client.on_log = None
        return self._answers.kept

    def subscribe(self) -> None:
        """Subscribe to the topics; again on every connection, since the broker may have lost the session.

        Raises:
            PermanentError: the broker refuses a subscription.
            LostError: the connection ends.
        """
        if self.connection.version == "5":
            once = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
            self._client.subscribe(
                [(f, SubscribeOptions(q, retainHandling=once)) for f, q in self.session.filters.items()]
            )
        else:
            self._client.subscribe(list(self.session.filters.items()))
        self._await(lambda answers: answers.granted is not None)
        granted = self._answers.granted or []
        for topic, code in zip(self.session.filters, granted, strict=False):
            if code.is_failure:
                raise PermanentError(
                    f"the broker {self.connection.address} refuses the subscription to {topic!r} ({code}); allow"
                    f" {self.connection.username or 'anonymous'} to read it"
                )
            if code.value < self.session.filters[topic]:
                log.warning(
                    "the broker %s sends %r at QoS 0 only: what comes while we are away is lost",
                    self.connection.address,
                    topic,
                )
        if not granted:
            raise self._end()
        self._say("online")

    def serve(self) -> None:
        """Serve the socket until we are to stop, then disconnect in good order.

        Raises:
            TakenOverError: another client has connected with our client_id.
            LostError: the connection ends.
        """
        while not self._stopping.is_set():
            if not self._turn(1.0, read=not self._paused.is_set() and not self.inbox.full):
                raise self._end()
        self._send()
        self._say("offline")
        deadline = time.monotonic() + GOODBYE
        while self._client.want_write() and time.monotonic() < deadline and self._turn(0.1, read=False):
            pass
        _say_goodbye(self._client)

    def close(self) -> None:
        """Close the socket and the outbox; a broker that got no DISCONNECT publishes that we are offline."""
        self.outbox.close()
        with contextlib.suppress(Exception):
            if (line := self._client.socket()) is not None:
                line.close()
        self._client.on_received = None  # else client and link would keep each other in memory

    def _new_client(self) -> BufferedClient:
        client = self.connection.client(self.session.client_id, BufferedClient, manual_ack=True, clean=False)
        answers = self._answers

        def on_connect(
            _client: Client, _data: object, flags: ConnectFlags, code: ReasonCode, _more: object
        ) -> None:
            answers.code, answers.kept = code, flags.session_present

        def on_disconnect(_client: Client, _data: object, _flags: object, code: ReasonCode, _: object) -> None:
            answers.ended = code

        def on_subscribe(
            _client: Client, _data: object, _mid: int, codes: list[ReasonCode], _more: object
        ) -> None:
            answers.granted = codes

        def on_log(_client: Client, _data: object, level: int, text: str) -> None:
            answers.error = text if level == MQTT_LOG_ERR else answers.error

        client.on_connect, client.on_disconnect, client.on_subscribe = on_connect, on_disconnect, on_subscribe
        client.on_received, client.link = self._receive, self.number
        client.max_packet_bytes = self.session.max_packet_bytes
        # Only paho's log says why a connection has failed; `connect` ends the logging, which is slow, afterwards.
        client.on_log = on_log
        if self.session.status_topic is not None:
            client.will_set(self.session.status_topic, b"offline", qos=1, retain=True)
        return client

    def _arguments(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "host": self.connection.host,
            "port": self.connection.effective_port,
            "keepalive": self.connection.keepalive,
        }
        if self.connection.version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = self.session.expiry
            properties.ReceiveMaximum = self.session.receive_maximum
            arguments |= {"clean_start": False, "properties": properties}
        return arguments

    def _await(self, is_answered: Callable[[_Answers], bool]) -> None:
        """Serve the socket until an answer has come, or nothing at all for `Connection.timeout` seconds."""
        last = time.monotonic()
        while time.monotonic() < last + self.connection.timeout and not self._stopping.is_set():
            if is_answered(self._answers) or self._answers.ended is not None:
                return
            is_full = self.inbox.full
            if not self._turn(0.2, read=not is_full):
                return
            # The answer may come after messages that the inbox has no room for, or that take long on the line.
            last = time.monotonic() if is_full else max(last, self._client.last_read)

    def _end(self) -> Exception:
        """The error that says why the connection has ended."""
        ended = self._answers.ended or "no answer"
        if str(ended) == "Session taken over":
            return TakenOverError(
                f"another client has connected to {self.connection.address} {self.session.rivalry}"
            )
        return LostError(f"the connection with {self.connection.address} was lost ({ended})")

    def _turn(self, timeout: float, *, read: bool) -> bool:
        """Wait until there is something to do, and do it; whether the connection still stands.

        Args:
            timeout: seconds to wait, at most.
            read: whether to read messages.
        """
        self.beat = time.monotonic()
        client, waker = self._client, self.outbox.waker
        line = client.socket()
        if line is None:
            return False
        number = line.fileno()
        in_tls = hasattr(line, "pending") and line.pending() > 0
        buffered = read and (client.has_read_ahead or in_tls)
        waiting = select.poll()  # select() knows no file descriptor above 1023
        waiting.register(waker, select.POLLIN)
        if events := (select.POLLIN if read else 0) | (select.POLLOUT if client.want_write() else 0):
            waiting.register(number, events)
        ready = dict(waiting.poll(0 if buffered else 1000 * timeout))
        if waker.fileno() in ready:
            waker.recv(4096)
        if read and (buffered or ready.get(number, 0) & ~select.POLLOUT):
            for _ in range(BURST):
                before = self.inbox.put_count
                client.loop_read()
                if self.inbox.put_count == before or self.inbox.full or client.socket() is None:
                    break
        if ready.get(number, 0) & ~select.POLLIN:
            client.loop_write()
        self._send()
        client.loop_misc()
        return client.socket() is not None

    def _send(self) -> None:
        """Send what is in the outbox."""
        if packet_ids := _emptied(self.outbox.packet_ids):
            self._client.acknowledge(packet_ids)
        for topic, payload in _emptied(self.outbox.messages):
            self._client.publish(topic, payload, qos=0)

    def _say(self, status: str) -> None:
        if self.session.status_topic is not None:
            self._client.publish(self.session.status_topic, status.encode(), qos=1, retain=True)

    def _receive(self, message: Message) -> None:
        if not self._stopping.is_set():  # else the broker delivers it again over the next connection
            self.inbox.put(message)


def _emptied(queue: deque[T]) -> list[T]:
    """Take what is in a queue to which other threads add."""
    return [queue.popleft() for _ in range(len(queue))]


def _say_goodbye(client: Client) -> None:
    """Disconnect, and wait until the broker closes the connection: then it has read our last acknowledgements.

    paho's own `disconnect` closes the socket at once. If the broker has sent something that was not read yet, that
    resets the connection, and the broker does not read what we have sent.
    """
    line = client.socket()
    if not isinstance(line, socket.socket) or client.want_write():
        return
    deadline = time.monotonic() + GOODBYE
    with contextlib.suppress(OSError):
        line.settimeout(GOODBYE)
        line.sendall(b"\xe0\x00")  # DISCONNECT
        line.shutdown(socket.SHUT_WR)
        while line.recv(1 << 16) and time.monotonic() < deadline:
            pass
