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
HELD = 5.0
"""Seconds for which a broker must live on before a message that it has acknowledged counts as published. A broker
that is killed loses what it has neither passed on nor written down; `fml broker` writes every 3 seconds."""
SAVE = 0.5
"""Seconds between two times that it is written down what is published."""
ALIVE = 30.0
"""Seconds between two times that we say that we are online. It is not retained: so who subscribes later, such as a
Home Assistant that was started anew, learns of it, and who is told late that our connection before has ended."""
LOOK = 1.0
"""Seconds between two looks at which machines there are."""
OFFLINE, ONLINE, NOT_SCORING = b"offline", b"online", b"not scoring"


class HealthPublisher:
    """Publishes while it is entered, from a thread of its own: each message at least once, and in order.

    After a broker was away, it publishes once more what it has published in the `HELD` seconds before.

    Args:
        connection: where the broker is, and who we are.
        outbox: the messages.
        topics: where they go.
        views: the machines, for Home Assistant.
        expire_after: seconds after which Home Assistant no longer takes what was published last for true.
        is_scoring: whether windows are scored now, as the status says.
    """

    def __init__(
        self,
        connection: Connection,
        outbox: Outbox,
        topics: Topics,
        views: Callable[[], list[MachineView]],
        expire_after: float,
        is_scoring: Callable[[], bool] = lambda: True,
    ) -> None:
        self.connection = connection
        self.outbox = outbox
        self.topics = topics
        self.views = views
        self.is_scoring = is_scoring
        self.expire_after = expire_after
        self._problem: str | None = None
        self._publisher: Publisher | None = None
        self._acknowledged = outbox.taken
        self._discovered: dict[tuple[str, str], MachineView] = {}  # of whom Home Assistant was told
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health publisher", daemon=True)

    def __enter__(self) -> HealthPublisher:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End; what is not published stays in the outbox."""
        self._stop.set()
        self._thread.join(2 * self.connection.timeout)

    @property
    def problem(self) -> str | None:
        """Why nothing can be published now; None if it can."""
        publisher = self._publisher  # which the other thread may take away at any moment
        lost = None if publisher is None else publisher.problem
        return self._problem if lost is None else _kept(lost)

    def flush(self, seconds: float, stop: threading.Event) -> bool:
        """Wait until the broker has all messages; false if it has not in so many seconds, or before `stop`."""
        deadline = time.monotonic() + seconds
        while next(self.outbox.after(self._acknowledged), None) is not None:
            if time.monotonic() > deadline or stop.wait(0.05):
                return False
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with Publisher(self.connection, "watch", will=Will(self.topics.status, OFFLINE)) as publisher:
                    self._publisher = publisher
                    self._publish(publisher)
            except UserError as error:
                self._tell(_kept(str(error)))
            except Exception as error:  # a bug: what is published is published again
                log.exception("publishing health failed")
                self._problem = _kept(str(error))
            self._publisher = None
            self._stop.wait(AGAIN)

    def _tell(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("%s", problem)
        self._problem = problem

    def _publish(self, publisher: Publisher) -> None:
        """Publish over one publisher, until we are stopped."""
        sent: deque[Place | None] = deque()  # None: something that is in no outbox
        held: deque[tuple[float, Place]] = deque()  # when the broker acknowledged it
        place = self.outbox.taken
        acknowledged, links, saved = 0, 0, 0.0
        alive, looked, status = -ALIVE, 0.0, b""
        is_new, next_look = True, 0.0  # of what Home Assistant is told over this connection

        def send(topic: str, payload: bytes, where: Place | None, retain: bool = False) -> bool:
            if not publisher.publish(topic, payload, self._stop, retain):
                return False
            sent.append(where)
            return True

        def note() -> None:
            """Write down what is published: acknowledged for long enough when the newest acknowledgement came."""
            nonlocal acknowledged, saved, looked
            count = publisher.acknowledged
            if publisher.connections != links:
                return  # some may be of another connection
            lived, looked, newest = looked if count > acknowledged else 0.0, time.monotonic(), None
            while acknowledged < count:
                acknowledged += 1
                if (which := sent.popleft()) is not None:
                    held.append((looked, which))
                    self._acknowledged = which
            if looked - saved >= SAVE:
                while held and held[0][0] <= lived - HELD:
                    newest = held.popleft()[1]
            if newest is not None:
                saved = looked
                self._note_published(newest)

        while not self._stop.is_set():
            if publisher.connections != links:  # the broker may have been restarted, and know nothing
                links, alive = publisher.connections, -ALIVE
                place = self._acknowledged = self.outbox.taken
                sent = deque([None] * len(sent))  # they come once more, at their place
                held.clear()
                is_new, next_look = True, 0.0
            told, status = status, ONLINE if self.is_scoring() else NOT_SCORING
            if status != told or time.monotonic() - alive >= ALIVE:
                alive = time.monotonic()
                if not send(self.topics.status, status, None):
                    break
            if self.topics.home_assistant and time.monotonic() >= next_look:
                next_look, earlier = time.monotonic() + LOOK, self._discovered
                views = {(view.site, view.machine): view for view in self.views()}
                for new in views if is_new else views.keys() - earlier.keys():
                    for topic, payload in discovery(self.topics, views[new], self.expire_after):
                        send(topic, payload, None, retain=True)
                # Of whom the connection before had told, too: the broker has it still.
                for forgotten in earlier.keys() - views.keys():
                    for topic, _ in discovery(self.topics, earlier[forgotten], self.expire_after):
                        send(topic, b"", None, retain=True)
                self._discovered, is_new = views, False
            came = False
            for end, message in self.outbox.after(place):
                if not send(message.topic, bytes(message.payload), end):
                    break
                place, came = end, True
                note()
                if publisher.connections != links:
                    break
            if not came:
                if publisher.flush(self._stop, 0.02):
                    self._problem = None  # it takes all of them, not only the first
                note()
                self.outbox.wait(0.02 if sent else 0.2)
        if publisher.flush(timeout=1.0) and publisher.problem is None:
            note()
            if held:
                self._note_published(held[-1][1])
        if publisher.publish(self.topics.status, OFFLINE, self._stopped_now()):
            publisher.flush(timeout=1.0)

    def _note_published(self, place: Place) -> None:
        """Write down that messages up to a place are published, if the disk has room for it."""
        self._problem = None
        try:
            self.outbox.note_published(place)
        except OSError as error:
            log.warning(
                "%s: it cannot be written down what is published (%s); a restart publishes it again",
                self.outbox.log.folder,
                error.strerror or error,
            )

    @staticmethod
    def _stopped_now() -> threading.Event:
        """An event that is set after a second: a farewell may not keep us."""
        event = threading.Event()
        timer = threading.Timer(1.0, event.set)
        timer.daemon = True
        timer.start()
        return event


def _kept(problem: str) -> str:
    """A sentence about why nothing is published."""
    return f"health is not published: {problem}; it is kept, and published when that is mended"
