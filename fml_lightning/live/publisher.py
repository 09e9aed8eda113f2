"""The publisher: sends an outbox's messages to a broker, whenever there is one; whoever fills it never waits."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.connectors.mqtt.publisher import Publisher, Will
from fml_lightning.errors import UserError
from fml_lightning.live.board import MachineView
from fml_lightning.live.log import Place
from fml_lightning.live.messages import Topics, discovery
from fml_lightning.live.outbox import Outbox

log = logging.getLogger(__name__)

AGAIN = 5.0
"""Seconds after which a broker that we could not reach, or that has refused us, is tried again."""
SAVE = 0.5
"""Seconds between two times that it is written down what the broker has."""
ALIVE = 30.0
"""Seconds between two times that we say that we are online. It is not retained: so who subscribes later, such as a
Home Assistant that was started anew, learns of it."""
OFFLINE, ONLINE = b"offline", b"online"


class HealthPublisher:
    """Publishes while it is entered, from a thread of its own: each message at least once, and in order.

    Args:
        connection: where the broker is, and who we are.
        outbox: the messages.
        topics: where they go.
        views: the machines, for Home Assistant.
        expire_after: seconds after which Home Assistant no longer takes what was published last for true.
    """

    def __init__(
        self,
        connection: Connection,
        outbox: Outbox,
        topics: Topics,
        views: Callable[[], list[MachineView]],
        expire_after: float,
    ) -> None:
        self.connection = connection
        self.outbox = outbox
        self.topics = topics
        self.views = views
        self.expire_after = expire_after
        self.problem: str | None = None
        """Why nothing can be published now; None if it can."""
        self._stop = threading.Event()
        self._flush = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health publisher", daemon=True)

    def __enter__(self) -> HealthPublisher:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End; what is not published stays in the outbox."""
        self._stop.set()
        self._thread.join(2 * self.connection.timeout)

    def flush(self, seconds: float) -> bool:
        """Wait until all messages are published; false if they are not after so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.outbox.is_empty:
            if time.monotonic() > deadline:
                return False
            self._flush.wait(0.05)
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with Publisher(self.connection, "watch", will=Will(self.topics.status, OFFLINE)) as publisher:
                    self._publish(publisher)
            except UserError as error:
                self._tell(f"health is not published: {error}; it is kept, and published when that is mended")
            except Exception as error:  # such as a disk that is full: what is published is published again
                log.exception("publishing health failed")
                self.problem = f"health is not published: {error}"
            self._stop.wait(AGAIN)

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("%s", problem)
        self.problem = problem

    def _publish(self, publisher: Publisher) -> None:
        """Publish over one publisher, until we are stopped."""
        sent: deque[Place | None] = deque()  # None: something that is in no outbox
        place = self.outbox.taken
        acknowledged, links, known, saved = 0, 0, set[tuple[str, str]](), time.monotonic()
        alive = -ALIVE
        newest: Place | None = None  # that the broker has, and that is not written down

        def send(topic: str, payload: bytes, where: Place | None, retain: bool = False) -> bool:
            if not publisher.publish(topic, payload, self._stop, retain):
                return False
            sent.append(where)
            return True

        def note() -> None:
            nonlocal acknowledged, saved, newest
            while acknowledged < publisher.acknowledged:
                newest = sent.popleft() or newest
                acknowledged += 1
            if newest is not None and (not sent or time.monotonic() - saved > SAVE):
                self.outbox.note_published(newest)
                newest, saved = None, time.monotonic()

        while not self._stop.is_set():
            self.problem = None
            if publisher.connections != links:  # the broker may have been restarted, and know nothing
                links, known, alive = publisher.connections, set(), -ALIVE
            if time.monotonic() - alive >= ALIVE:
                alive = time.monotonic()
                if not send(self.topics.status, ONLINE, None):
                    break
            if self.topics.home_assistant:
                for view in self.views():
                    if (view.site, view.machine) not in known:
                        known.add((view.site, view.machine))
                        for topic, payload in discovery(self.topics, view, self.expire_after):
                            send(topic, payload, None, retain=True)
            came = False
            for end, message in self.outbox.after(place):
                if not send(message.topic, bytes(message.payload), end):
                    break
                place, came = end, True
                note()
                if publisher.connections != links:
                    break
            if not came:
                publisher.flush(self._stop, 0.02)
                note()
                self.outbox.wait(0.02 if sent else 0.2)
        publisher.flush(timeout=1.0)
        note()
        if publisher.publish(self.topics.status, OFFLINE, self._stopped_now()):
            publisher.flush(timeout=1.0)

    @staticmethod
    def _stopped_now() -> threading.Event:
        """An event that is set after a second: a farewell may not keep us."""
        event = threading.Event()
        timer = threading.Timer(1.0, event.set)
        timer.daemon = True
        timer.start()
        return event
