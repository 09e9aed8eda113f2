"""The network thread: keeps a session with a broker alive, over one connection after another.

When a connection is lost it connects again, after a wait that grows and is jittered. It tells failures that may
pass from those that will not mend themselves, and gives up at the latter.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence

from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.connectors.mqtt.link import Link, LostError, PermanentError, RefusedError, TakenOverError
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
LONGEST_STOP = 5.0
"""Seconds that `NetworkThread.stop` waits for the thread to end, at most."""


class NetworkThread:
    """A thread that serves one `Link` after another.

    Args:
        connection: where the broker is.
        session: what we ask of it.
        inbox: where messages go.
        last_link: the number of the last link of an earlier thread on the same inbox; 0: there was none.
        accepted: whether the broker has accepted us before.
    """

    def __init__(
        self, connection: Connection, session: Session, inbox: Inbox, last_link: int = 0, accepted: bool = False
    ) -> None:
        self.connection = connection
        self.session = session
        self.inbox = inbox
        self.attempts = last_link
        """Attempts to connect so far, each of which has made a link with this number."""
        self.connected = False
        self.has_served = False
        """Whether there ever was a connection with all subscriptions."""
        self.problem: str | None = None
        """Why we are not connected, in one sentence."""
        self.fatal: str | None = None
        """Why we have given up."""
        self._rival: str | None = None
        self._served_since = time.monotonic()
        self._accepted = accepted
        self._must_succeed = False
        self._paused = threading.Event()
        self._stopping = threading.Event()
        self._beat = time.monotonic()
        self._link: Link | None = None
        self._thread = threading.Thread(target=self._run, name="mqtt-network", daemon=True)

    def start(self, first_must_succeed: bool) -> None:
        """Start the thread.

        Args:
            first_must_succeed: whether to give up if the first attempt to connect fails.
        """
        self._must_succeed = first_must_succeed
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def beat(self) -> float:
        """When the thread last showed that it lives (monotonic seconds)."""
        link = self._link
        return self._beat if link is None else max(self._beat, link.beat)

    @property
    def rival(self) -> str | None:
        """What tells that another client uses our client_id, in one sentence; None once all was well for long."""
        is_calm = self.connected and time.monotonic() - self._served_since > max(SHORT, 2 * LONGEST_WAIT)
        return None if is_calm else self._rival

    def acknowledge(self, link: int, packet_ids: Sequence[int]) -> None:
        """Acknowledge messages that came over a link; nothing happens if the link has ended."""
        current = self._link
        if current is not None and current.number == link:
            current.outbox.acknowledge(packet_ids)

    def publish(self, topic: str, payload: bytes) -> bool:
        """Publish at QoS 0; whether there is a link to publish over."""
        current = self._link
        if current is None or not self.connected:
            return False
        current.outbox.publish(topic, payload)
        return True

    def pause(self) -> None:
        """Read no more messages; acknowledgements still go out."""
        self._paused.set()
        self._wake()

    def stop(self) -> None:
        """Send what is to be sent, disconnect in good order, and end the thread."""
        self._stopping.set()
        self._wake()
        if self.alive:
            self._thread.join(LONGEST_STOP)

    def abandon(self) -> None:
        """Let the thread end by itself whenever it comes round, and wait for nothing."""
        self._stopping.set()

    def successor(self) -> NetworkThread:
        """A thread to take the place of this one, which was abandoned or has died."""
        return NetworkThread(self.connection, self.session, self.inbox, self.attempts, self._accepted)

    def _wake(self) -> None:
        """Make the link look at `_paused` and `_stopping`; one that is made later does so by itself."""
        if (link := self._link) is not None:
            link.outbox.wake()

    def _run(self) -> None:
        refusals = cut_off = failures = 0
        while not self._stopping.is_set():
            self._beat = time.monotonic()
            served = taken = False
            try:
                self.attempts += 1
                self._link = link = Link(
                    self.connection,
                    self.session,
                    self.inbox,
                    self.attempts,
                    self._accepted,
                    self._paused,
                    self._stopping,
                )
                try:
                    kept = link.connect()
                    if self._stopping.is_set():  # perhaps another thread has taken the place of this one
                        return
                    self._accepted = True
                    self.inbox.note_link(link.number, kept)
                    link.subscribe()
                    self._served_since = time.monotonic()
                    served = self.has_served = self.connected = True
                    self.problem = None
                    self._must_succeed = False
                    link.serve()
                finally:
                    self.connected = False
                    link.close()
            except PermanentError as error:
                self._give_up(str(error))
            except (RefusedError, UserError) as error:
                refusals += 1
                self._fail(str(error))
                if refusals >= self.session.max_refusals:
                    self._give_up(str(error))
            except TakenOverError as error:
                taken, self._rival = True, str(error)
                self.inbox.note_takeover(self.attempts)
                self._fail(str(error))
            except LostError as error:
                self._fail(str(error))
            except Exception as error:  # a bug, ours or paho's: the session goes on over a new connection
                log.exception("the link to %s broke", self.connection.address)
                self._fail(f"the link broke: {type(error).__name__}: {error}")
            if self._stopping.is_set() or self.fatal is not None:
                return
            if served:
                refusals = failures = 0
            # A rival such as we are stays away for up to twice the time that we do before it returns.
            good = max(SHORT, min(2 * LONGEST_WAIT, 2.0 ** (cut_off + 1)))
            if taken or (served and time.monotonic() - self._served_since < good):
                # We go on, ever more slowly: else a neighbour could end the recording, or two recorders fight.
                cut_off += 1
                if not taken and cut_off >= self.session.max_refusals:
                    self._suspect_rival()
            elif served or self._rival is None:
                cut_off, self._rival = 0, None
            failures += 1
            self._rest(min(LONGEST_WAIT, 0.5 * 2 ** min(max(failures, cut_off), 10)) * JITTER.uniform(0.5, 1.0))

    def _suspect_rival(self) -> None:
        """Take it that another client takes our session again and again: not every broker says so."""
        suspicion = (
            f"the broker {self.connection.address} cuts us off right after connecting, again and again, as if"
            f" another client were connected {self.session.rivalry}"
        )
        if self._rival != suspicion:
            log.warning("%s", suspicion)
        self._rival = self.problem = suspicion
        self.inbox.note_takeover(self.attempts)

    def _rest(self, seconds: float) -> None:
        """Wait before the next attempt, and until the inbox has room: a new connection brings messages at once."""
        self._stopping.wait(seconds)
        while self.inbox.full and not self._stopping.wait(0.1):
            self._beat = time.monotonic()

    def _fail(self, problem: str) -> None:
        if self._must_succeed:
            self._give_up(problem)
            return
        if self.problem != problem and not self._stopping.is_set():
            log.warning("%s; trying again", problem)
        self.problem = problem

    def _give_up(self, problem: str) -> None:
        self.problem = self.fatal = problem
