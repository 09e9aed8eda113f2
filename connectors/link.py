"""The link: one thread that keeps a session with a broker alive, whatever happens to the line.

It reads messages into an `Inbox` and sends acknowledgements that others hand it. It connects again with jittered
back-off, tells passing failures from those that will not mend themselves, and counts connections (epochs), because
an acknowledgement that is sent over another connection than its message may belong to another message.

MQTT 5.0: https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html
"""

from __future__ import annotations

import contextlib
import logging
import random
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import MQTT_LOG_ERR, Client, MQTTMessage
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from fml_lightning.connectors.buffered_client import BufferedClient, Delivered
from fml_lightning.connectors.connection import Connection
from fml_lightning.connectors.inbox import Delivery, Inbox
from fml_lightning.connectors.messages import Message
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

JITTER = random.SystemRandom()
"""Not the generator that training is seeded with: a lost line must not change its numbers."""

BURST = 64
"""Packets read between two looks at what else there is to do."""
SHORT = 5.0
"""Seconds; a connection that ends sooner was not a good one."""
GOODBYE = 2.0
"""Seconds that sending, and disconnecting, may take at the end."""
LONGEST_WAIT = 60.0
"""Seconds between two attempts, at most."""


@dataclass(frozen=True)
class Session:
    """What we ask of the broker for a session."""

    client_id: str
    """Its name; one client at a time may use it."""
    filters: Mapping[str, int]
    """Topic filters to subscribe to, and their QoS."""
    expiry: int
    """Seconds that the broker keeps the session, and queues messages, while we are away (MQTT 5)."""
    receive_maximum: int
    """Messages that may be unacknowledged at once (MQTT 5)."""
    max_packet_bytes: int
    """Larger messages are acknowledged, but their payloads are not kept."""
    status_topic: str | None
    """Where we say, retained, that we are `online`, and the broker says for us that we are `offline`."""
    attempts: int
    """Refusals in a row after which we give up."""


class LostError(Exception):
    """There is no connection; trying again may help."""


class RefusedError(Exception):
    """The broker refuses us, or we it; trying again will hardly help."""


class HopelessError(RefusedError):
    """Trying again would do harm."""


class Link:
    """The network thread.

    Args:
        connection: where the broker is.
        session: what we ask of it.
        inbox: where messages go.
        on_session: called at each connection with whether the broker has kept our session, and the epoch.
        epoch: where to go on counting, above those of any link before on the same inbox.
    """

    def __init__(
        self,
        connection: Connection,
        session: Session,
        inbox: Inbox,
        on_session: Callable[[bool, int], None],
        epoch: int = 0,
    ) -> None:
        self.connection = connection
        self.session = session
        self.inbox = inbox
        self.on_session = on_session
        self.epoch = epoch
        """Attempts to connect so far."""
        self.connected = False
        self.problem: str | None = None
        """Why we are not connected, in one sentence."""
        self.fatal: str | None = None
        """Why we have given up."""
        self.settled = threading.Event()
        """Set once the first attempt has succeeded or failed."""
        self.beat = time.monotonic()
        """When the thread last showed that it lives."""
        self._acks: deque[tuple[int, list[int]]] = deque()
        self._outgoing: deque[tuple[str, bytes]] = deque()
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_writer.setblocking(False)
        self._paused = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._accepted = False

    # What other threads call ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="mqtt-link", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def ack(self, deliveries: Iterable[Delivery]) -> None:
        """Acknowledge messages, as far as the connection they came over still stands."""
        by_epoch: dict[int, list[int]] = {}
        for message, epoch in deliveries:
            if message.packet_id:
                by_epoch.setdefault(epoch, []).append(message.packet_id)
        self._acks.extend(by_epoch.items())
        self._wake()

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish a request, QoS 0, as soon as we are connected."""
        self._outgoing.append((topic, payload))
        self._wake()

    def pause(self) -> None:
        """Read no more messages; acknowledgements still go out."""
        self._paused.set()
        self._wake()

    def stop(self, timeout: float = 5.0) -> None:
        """Send what is to be sent, disconnect in good order, and end the thread."""
        self._stopping.set()
        self._wake()
        if self._thread is None:
            self._sleep()
        else:
            self._thread.join(timeout)

    def abandon(self) -> None:
        """Let the thread end by itself whenever it comes round, and wait for nothing."""
        self._stopping.set()

    # The thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._keep_connected()
        finally:
            self._sleep()

    def _keep_connected(self) -> None:
        refusals = short = failures = 0
        while not self._stopping.is_set():
            began = self.beat = time.monotonic()
            served = False
            try:
                client, outcome = self._connect()
                try:
                    self._subscribe(client, outcome)
                    served = True
                    self._serve(client, outcome)
                finally:
                    self.connected = False
                    _close(client)
            except HopelessError as error:
                self._give_up(str(error))
                return
            except (RefusedError, UserError) as error:
                refusals += 1
                self._fail(str(error))
                if refusals >= self.session.attempts:
                    self._give_up(str(error))
                    return
            except LostError as error:
                self._fail(str(error))
            except Exception as error:  # a bug, ours or paho's: the session goes on over a new connection
                log.exception("the link to %s broke", self.connection.address)
                self._fail(f"the link broke: {type(error).__name__}: {error}")
            if self._stopping.is_set():
                return
            if served:
                refusals = failures = 0
            short = short + 1 if served and time.monotonic() - began < SHORT else 0
            if short >= self.session.attempts:  # not every broker says why
                self._give_up(
                    f"the broker {self.connection.address} cut us off right after connecting, {short} times in a"
                    f" row; is another client connected with the client_id {self.session.client_id!r}?"
                )
                return
            failures += 1
            self._rest(min(LONGEST_WAIT, 0.5 * 2 ** min(failures, 10)) * JITTER.uniform(0.5, 1.0))

    def _rest(self, seconds: float) -> None:
        """Wait before the next attempt; also until there is room for what comes with a new connection."""
        self._stopping.wait(seconds)
        while self.inbox.full and not self._stopping.wait(0.1):
            self.beat = time.monotonic()

    def _fail(self, problem: str) -> None:
        self.connected = False
        # What happens at the start is told by who starts us.
        if self.problem != problem and self.settled.is_set() and not self._stopping.is_set():
            log.warning("%s; trying again", problem)
        self.problem = problem
        self.settled.set()

    def _give_up(self, problem: str) -> None:
        self.connected = False
        self.problem = self.fatal = problem
        self.settled.set()

    def _connect(self) -> tuple[BufferedClient, dict[str, Any]]:
        """Connect, until the broker accepts us.

        Returns:
            A client, and what happens to it: `kept` (the session), `granted` (subscriptions), `ended`.

        Raises:
            RefusedError: the broker does not want us, or its certificate is not valid.
            LostError: there is no connection to be had.
        """
        self.epoch += 1
        client = self.connection.client(self.session.client_id, BufferedClient, manual_ack=True, clean=False)
        outcome: dict[str, Any] = {}
        client.on_connect = lambda _c, _u, flags, code, _p: outcome.update(code=code, kept=flags.session_present)
        client.on_disconnect = lambda _c, _u, _flags, code, _p: outcome.update(ended=code)
        client.on_subscribe = lambda _c, _u, _mid, codes, _p: outcome.update(granted=codes)
        client.on_message = self._on_message  # what has properties
        client.on_delivery = self._on_delivery
        client.max_packet_bytes = self.session.max_packet_bytes
        # paho tells nobody else why a connection ended; while messages come, this would cost too much.
        client.on_log = lambda _c, _u, level, text: outcome.update({"said": text} if level == MQTT_LOG_ERR else {})
        if self.session.status_topic is not None:
            client.will_set(self.session.status_topic, b"offline", qos=1, retain=True)
        try:
            client.connect(**self._arguments())
            self._await(client, lambda: "code" in outcome or "ended" in outcome)
            if (code := outcome.get("code")) is None:
                silence = self.connection.silence(str(outcome.get("said", outcome.get("ended", ""))) or None)
                raise LostError(silence) if self._accepted or self._stopping.is_set() else RefusedError(silence)
            if code.is_failure:
                refusal = self.connection.refusal(code)
                raise LostError(refusal) if self.connection.is_busy(code) else RefusedError(refusal)
        except OSError as error:
            _close(client)
            is_certificate = isinstance(error, ssl.SSLCertVerificationError)
            if is_certificate or (self.connection.is_refusal(error) and not self._accepted):
                raise RefusedError(self.connection.failure(error)) from error
            raise LostError(self.connection.failure(error)) from error
        except BaseException:
            _close(client)
            raise
        client.on_log = None
        self._accepted = True
        self.on_session(bool(outcome["kept"]), self.epoch)
        return client, outcome

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

    def _subscribe(self, client: BufferedClient, outcome: dict[str, Any]) -> None:
        """Ask for the topics; again at every connection, since the broker may have lost the session.

        Raises:
            HopelessError: the broker refuses a subscription.
            LostError: the connection ends.
        """
        if self.connection.version == "5":
            once = SubscribeOptions.RETAIN_SEND_IF_NEW_SUB
            client.subscribe(
                [(f, SubscribeOptions(q, retainHandling=once)) for f, q in self.session.filters.items()]
            )
        else:
            client.subscribe(list(self.session.filters.items()))
        self._await(client, lambda: "granted" in outcome or "ended" in outcome)
        granted = outcome.get("granted", [])
        for topic, code in zip(self.session.filters, granted, strict=False):
            if code.is_failure:
                raise HopelessError(
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
            raise self._end(outcome)
        self.connected, self.problem = True, None
        self.settled.set()
        if self.session.status_topic is not None:
            client.publish(self.session.status_topic, b"online", qos=1, retain=True)

    def _await(self, client: BufferedClient, done: Callable[[], bool]) -> None:
        """Serve the socket until `done`, at most as long as a connection may take."""
        deadline = time.monotonic() + self.connection.timeout
        while not done() and time.monotonic() < deadline and not self._stopping.is_set():
            is_full = self.inbox.full
            if is_full:  # the answer may be behind messages that have to wait
                deadline = time.monotonic() + self.connection.timeout
            if not self._turn(client, 0.2, read=not is_full):
                return

    def _serve(self, client: BufferedClient, outcome: dict[str, Any]) -> None:
        """Serve the socket until we are to stop.

        Raises:
            HopelessError: another client has our name.
            LostError: the connection ends.
        """
        while not self._stopping.is_set():
            if not self._turn(client, 1.0, read=not self._paused.is_set() and not self.inbox.full):
                raise self._end(outcome)
        self._send(client)
        if self.session.status_topic is not None:
            client.publish(self.session.status_topic, b"offline", qos=1, retain=True)
        deadline = time.monotonic() + GOODBYE
        while client.want_write() and time.monotonic() < deadline and self._turn(client, 0.1, read=False):
            pass
        _say_goodbye(client)

    def _end(self, outcome: Mapping[str, Any]) -> Exception:
        """What the end of a connection means."""
        ended = outcome.get("ended", "no answer")
        if str(ended) == "Session taken over":
            return HopelessError(
                f"another client has connected to {self.connection.address} with our client_id"
                f" {self.session.client_id!r}; give each its own"
            )
        return LostError(f"the connection with {self.connection.address} was lost ({ended})")

    def _turn(self, client: BufferedClient, timeout: float, *, read: bool) -> bool:
        """Wait for something to do and do it; whether the connection still stands."""
        self.beat = time.monotonic()
        line = client.socket()
        if line is None:
            return False
        number = line.fileno()
        in_tls = hasattr(line, "pending") and line.pending() > 0
        buffered = read and (client.has_read_ahead or in_tls)
        waiting = select.poll()  # select() knows no file descriptor above 1023
        waiting.register(self._wake_reader, select.POLLIN)
        if events := (select.POLLIN if read else 0) | (select.POLLOUT if client.want_write() else 0):
            waiting.register(number, events)
        ready = dict(waiting.poll(0 if buffered else 1000 * timeout))
        if self._wake_reader.fileno() in ready:
            self._wake_reader.recv(4096)
        if read and (buffered or ready.get(number, 0) & ~select.POLLOUT):
            for _ in range(BURST):
                before = self.inbox.put_count
                client.loop_read()
                if self.inbox.put_count == before or self.inbox.full or client.socket() is None:
                    break
        if ready.get(number, 0) & ~select.POLLIN:
            client.loop_write()
        self._send(client)
        client.loop_misc()
        return client.socket() is not None

    def _send(self, client: BufferedClient) -> None:
        """Send acknowledgements of this connection, and what is to be published; drop those of earlier ones."""
        while self._acks:
            epoch, packet_ids = self._acks.popleft()
            if epoch == self.epoch:
                client.acknowledge(packet_ids)
        while self._outgoing and self.connected:
            topic, payload = self._outgoing.popleft()
            client.publish(topic, payload, qos=0)

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        try:
            topic = message.topic.encode()
        except UnicodeDecodeError:
            topic = b"\xff"  # as wrong as what came
        self._on_delivery(Delivered(topic, bytes(message.payload), message.mid, message.retain, message.dup))

    def _on_delivery(self, delivered: Delivered) -> None:
        if self._stopping.is_set():  # it will be delivered again, or has been: to the link that replaced this one
            return
        topic, payload, packet_id, retained, redelivered, oversized = delivered
        try:
            name = topic.decode()
        except UnicodeDecodeError:
            name = "(topic is not UTF-8)"
        received = time.time_ns() // 1000
        message = Message(name, payload, received, retained, packet_id, redelivered, oversized)
        self.inbox.put(Delivery(message, self.epoch))

    def _sleep(self) -> None:
        """There is nobody to wake any more."""
        self._wake_reader.close()
        self._wake_writer.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is awake already, or has ended
            self._wake_writer.send(b"\0")


def _say_goodbye(client: Client) -> None:
    """Disconnect, and wait until the broker does: it has then read our last acknowledgements.

    paho closes at once. Where there is something from the broker that nobody has read, this resets the connection,
    and the broker reads no more.
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


def _close(client: Client) -> None:
    with contextlib.suppress(Exception):
        if (line := client.socket()) is not None:
            line.close()
