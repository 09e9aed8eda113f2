"""The publisher: sends messages to a broker at QoS 1, through lost connections and restarts of the broker.

MQTT 5.0, "Operational behavior": https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html
"""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from paho.mqtt.client import Client
from paho.mqtt.reasoncodes import ReasonCode

from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

JITTER = random.SystemRandom()
"""Not the generator that training is seeded with: a lost line must not change its numbers."""

ATTEMPTS = 5
"""Refusals in a row after which we give up a broker that had accepted us before."""
SHORT = 5.0
"""Seconds; a connection that ends sooner was not a good one."""
LONGEST_WAIT = 10.0
"""Seconds between two attempts, at most."""


class Will(NamedTuple):
    """What the broker says of us when we are gone without a farewell."""

    topic: str
    payload: bytes


class Publisher:
    """A connection to publish over: `with Publisher(connection, "plant1") as publisher: publisher.publish(...)`.

    After a reconnection, messages that the broker has not acknowledged are sent again before any new one: messages
    arrive at least once, sometimes twice, and in order. Once we were connected, we wait for a broker that is gone;
    meanwhile at most `window` messages are kept, and `publish` waits.

    Args:
        connection: where the broker is, and who we are.
        name: the client id begins with it; the rest is random, so that two publishers never share one.
        window: messages that may be unacknowledged, 1 to 20 (paho sends no more at once).
        will: our last will, if any.
    """

    def __init__(self, connection: Connection, name: str, window: int = 20, will: Will | None = None) -> None:
        self.connection = connection
        self.window = window
        self.published = 0
        """Messages handed over."""
        self.acknowledged = 0
        """How many of these the broker has acknowledged."""
        self.connections = 0
        """How often the broker has accepted us."""
        self.problem: str | None = None
        """Why there is no connection, after there was one; None while there is."""
        self._client = connection.client(f"{name}-{secrets.token_hex(4)}", Client)
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._changed = threading.Condition()
        self._connected = False
        self._resending = False
        self._code: ReasonCode | None = None
        self._fatal: str | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name=f"publisher-{name}", daemon=True)

    def __enter__(self) -> Publisher:
        """Connect.

        Raises:
            UserError: the broker cannot be reached, or refuses us.
        """
        self._thread.start()
        try:
            if not self._wait(lambda: self._connected, timeout=self.connection.timeout):
                raise UserError(
                    f"the broker {self.connection.address} does not answer; is it one, and does it expect tls?"
                )
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Disconnect; call `flush` first."""
        self._close()

    def publish(self, topic: str, payload: bytes, stop: threading.Event, retain: bool = False) -> bool:
        """Publish a message as soon as the window has room; false if `stop` is set first.

        Args:
            topic: of the message.
            payload: of the message.
            stop: ends the wait.
            retain: let the broker keep it for whoever subscribes later.

        Raises:
            UserError: the broker refuses us or an earlier message.
        """
        if not self._wait(lambda: self._has_room, stop):
            return False
        with self._changed:
            self.published += 1
        self._client.publish(topic, payload, qos=1, retain=retain)
        return True

    def flush(self, stop: threading.Event | None = None, timeout: float | None = None) -> bool:
        """Wait until all messages are acknowledged; false if `stop` is set or `timeout` seconds pass first.

        Raises:
            UserError: the broker refuses us or a message.
        """
        return self._wait(lambda: self.acknowledged == self.published, stop, timeout)

    @property
    def _has_room(self) -> bool:
        return self._connected and not self._resending and self.published - self.acknowledged < self.window

    def _wait(
        self, ready: Callable[[], bool], stop: threading.Event | None = None, timeout: float | None = None
    ) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                if self._fatal is not None:
                    raise UserError(self._fatal)
                if ready():
                    return True
                if (stop is not None and stop.is_set()) or (deadline is not None and time.monotonic() > deadline):
                    return False
                self._changed.wait(0.1)  # `stop` does not notify

    def _close(self) -> None:
        self._closing.set()
        self._client.disconnect()
        self._thread.join(self.connection.timeout + 1)

    def _serve(self) -> None:
        """Connect again and again, until we close or give up; the publisher's thread runs this."""
        failures = refusals = short = 0
        accepted = False
        while not self._closing.is_set():
            self._code = None
            began = time.monotonic()
            refused = False
            try:
                self._client.connect(
                    self.connection.host, self.connection.effective_port, self.connection.keepalive
                )
                self._client.loop_forever()
            except OSError as error:
                problem, refused = self.connection.failure(error), self.connection.is_refusal(error)
            except Exception as error:  # a bug, ours or paho's: go on over a new connection
                log.exception("the connection with %s broke", self.connection.address)
                problem = f"the connection with {self.connection.address} broke: {error!r}"
            else:
                problem = f"the connection with the broker {self.connection.address} was lost"
                if self._code is not None and self._code.is_failure:
                    problem, refused = self.connection.refusal(self._code), True
                elif self._code is not None:
                    accepted, refusals = True, 0
                    failures = short = short + 1 if time.monotonic() - began < SHORT else 0
                    if short == ATTEMPTS:
                        log.warning(
                            "the broker %s cuts us off right after connecting, again and again; is another client"
                            " connected as the user %r, where each needs one of its own?",
                            self.connection.address,
                            self.connection.username,
                        )
            if self._closing.is_set():
                return
            refusals = refusals + 1 if refused else 0
            if not accepted or refusals >= ATTEMPTS:
                self._give_up(problem)
                return
            self.problem = problem
            if failures <= 1:
                log.warning("%s; trying again", problem)
            self._closing.wait(min(LONGEST_WAIT, 0.1 * 2 ** min(failures, 10)) * JITTER.uniform(0.5, 1.0))
            failures += 1

    def _give_up(self, problem: str) -> None:
        with self._changed:
            self._fatal = problem
            self._changed.notify_all()

    # An exception in one of these callbacks would end paho's loop, so they raise none.

    def _on_connect(self, _client: Any, _userdata: Any, _flags: Any, code: ReasonCode, _properties: Any) -> None:
        with self._changed:
            self._code = code
            self._connected = not code.is_failure
            self.connections += self._connected
            self.problem = None if self._connected else self.problem
            self._resending = self.acknowledged < self.published
            self._changed.notify_all()
        if self._closing.is_set():
            self._client.disconnect()

    def _on_disconnect(self, *_: Any) -> None:
        with self._changed:
            self._connected = False
            self._changed.notify_all()

    def _on_publish(self, _client: Any, _userdata: Any, _mid: int, code: ReasonCode, _properties: Any) -> None:
        if code.is_failure:  # it does not count as acknowledged
            self._give_up(
                f"the broker {self.connection.address} refuses a message of the user {self.connection.username!r}"
                f" ({str(code).lower()}); allow them to write these topics"
            )
            return
        with self._changed:
            self.acknowledged += 1
            self._resending = self._resending and self.acknowledged < self.published
            self._changed.notify_all()
