"""The network thread: keeps a session with a broker alive, whatever happens to the line.

It connects again with jittered back-off, and tells passing failures from those that will not mend themselves.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.connectors.mqtt.link import Link, LostError, PermanentError, RefusedError
from fml_lightning.connectors.mqtt.orders import Orders
from fml_lightning.connectors.mqtt.session import Session
from fml_lightning.connectors.spool.inbox import Inbox
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

JITTER = random.SystemRandom()
"""Not the generator that training is seeded with: a lost line must not change its numbers."""
SHORT = 5.0
"""Seconds; a connection that ends sooner was not a good one."""
LONGEST_WAIT = 60.0
"""Seconds between two attempts, at most."""


class NetworkThread:
    """A thread with one `Link` after another; it does what its `orders` say.

    Args:
        connection: where the broker is.
        session: what we ask of it.
        inbox: where messages go.
        on_session: called at each connection with whether the broker has kept our session, and the epoch.
        epoch: where to go on counting, above those of any thread before on the same inbox.
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
        self.orders = Orders()
        self.epoch = epoch
        """Attempts to connect so far."""
        self.connected = False
        self.problem: str | None = None
        """Why we are not connected, in one sentence."""
        self.fatal: str | None = None
        """Why we have given up."""
        self.settled = threading.Event()
        """Set once the first attempt has succeeded or failed."""
        self._beat = time.monotonic()
        self._link: Link | None = None
        self._thread: threading.Thread | None = None
        self._accepted = False

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="mqtt-network", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def beat(self) -> float:
        """When the thread last showed that it lives (monotonic seconds)."""
        link = self._link
        return self._beat if link is None else max(self._beat, link.beat)

    def stop(self, timeout: float = 5.0) -> None:
        """Send what is to be sent, disconnect in good order, and end the thread."""
        self.orders.stop()
        if self._thread is None:
            self.orders.close()
        else:
            self._thread.join(timeout)

    def abandon(self) -> None:
        """Let the thread end by itself whenever it comes round, and wait for nothing."""
        self.orders.stopping.set()

    def _run(self) -> None:
        try:
            self._keep_connected()
        finally:
            self.orders.close()

    def _keep_connected(self) -> None:
        refusals = short = failures = 0
        while not self.orders.stopping.is_set():
            began = self._beat = time.monotonic()
            served = False
            self.epoch += 1
            try:
                self._link = Link(
                    self.connection, self.session, self.inbox, self.orders, self.epoch, self._accepted
                )
                try:
                    kept = self._link.connect()
                    self._accepted = True
                    self.on_session(kept, self.epoch)
                    self._link.subscribe()
                    served = self.connected = True
                    self.problem = None
                    self.settled.set()
                    self._link.serve()
                finally:
                    self.connected = False
                    self._link.close()
            except PermanentError as error:
                self._give_up(str(error))
                return
            except (RefusedError, UserError) as error:
                refusals += 1
                self._fail(str(error))
                if refusals >= self.session.max_refusals:
                    self._give_up(str(error))
                    return
            except LostError as error:
                self._fail(str(error))
            except Exception as error:  # a bug, ours or paho's: the session goes on over a new connection
                log.exception("the link to %s broke", self.connection.address)
                self._fail(f"the link broke: {type(error).__name__}: {error}")
            if self.orders.stopping.is_set():
                return
            if served:
                refusals = failures = 0
            short = short + 1 if served and time.monotonic() - began < SHORT else 0
            if short >= self.session.max_refusals:  # not every broker says why
                self._give_up(
                    f"the broker {self.connection.address} cut us off right after connecting, {short} times in a"
                    f" row; is another client connected with the client_id {self.session.client_id!r}?"
                )
                return
            failures += 1
            self._rest(min(LONGEST_WAIT, 0.5 * 2 ** min(failures, 10)) * JITTER.uniform(0.5, 1.0))

    def _rest(self, seconds: float) -> None:
        """Wait before the next attempt; also until there is room for what comes with a new connection."""
        self.orders.stopping.wait(seconds)
        while self.inbox.full and not self.orders.stopping.wait(0.1):
            self._beat = time.monotonic()

    def _fail(self, problem: str) -> None:
        self.connected = False
        # What happens at the start is told by who starts us.
        if self.problem != problem and self.settled.is_set() and not self.orders.stopping.is_set():
            log.warning("%s; trying again", problem)
        self.problem = problem
        self.settled.set()

    def _give_up(self, problem: str) -> None:
        self.connected = False
        self.problem = self.fatal = problem
        self.settled.set()
