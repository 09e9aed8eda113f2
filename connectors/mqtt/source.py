"""MQTT as a source of readings: durable before acknowledged, whatever happens to broker, line, disk or process.

A `NetworkThread` reads messages into an `Inbox`. A `Recorder` takes them from the inbox, has a second thread write
them to a `Spool`, and decodes them meanwhile, to count them and to bury those that cannot be read. Once they are
durable, the recorder has them acknowledged (QoS 1, manual acknowledgement). An iteration follows the spool, and
decodes the messages that it reads there once more: so a slow consumer costs no memory and loses nothing. Two more
threads look after these: a `Supervisor` replaces a network thread that hangs or has died, and the spool's keeper
merges and deletes segments.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from fml_lightning.connectors.decoding.decoder import Decoder
from fml_lightning.connectors.decoding.topics import LabelTopic, Topic, Topics
from fml_lightning.connectors.mqtt.connection import Connection
from fml_lightning.connectors.mqtt.session import Session
from fml_lightning.connectors.mqtt.status import Status
from fml_lightning.connectors.mqtt.supervisor import Supervisor
from fml_lightning.connectors.readings import Batch
from fml_lightning.connectors.spool.folder import SESSION, has_topics, write_topics
from fml_lightning.connectors.spool.inbox import Inbox
from fml_lightning.connectors.spool.kept_session import KeptSession
from fml_lightning.connectors.spool.reader import POLL
from fml_lightning.connectors.spool.recorder import Recorder
from fml_lightning.connectors.spool.source import SpoolSource
from fml_lightning.connectors.spool.spool import Spool
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

DRAIN = 10.0
"""Seconds at the end, at most, for the messages in the inbox to become durable."""


class MQTT:
    """Records the messages of a broker into a spool, and yields their readings.

    Use it as a source, `with MQTT(...) as readings: for batch in readings: ...`, as a site's source in a
    `SpoolFleet`, or from the command line, `fml record`.

    Args:
        spool: where messages are kept; a folder, or a `Spool` with its limits.
        connection: where the broker is, and who we are.
        topics: the topics that carry readings.
        labels: the topics that carry maintenance events.
        client_id: the name of our session at the broker, which keeps our messages while we are away; it must be
            the same after a restart, and whoever knows it may take our messages, unless the broker prevents that
            (`fml broker` does). Unless you say otherwise, random, made once and kept in the spool's folder.
        share: share the subscription with all clients that name the same group: each message goes to one of them.
            The name must be a secret: with mosquitto, whoever names the group takes a part of the messages, even
            one who may not read them.
        session_expiry: seconds that the broker keeps our session and queues messages while we are away.
        receive_maximum: messages that may be unacknowledged at once (MQTT 5).
        max_packet_bytes: of a larger message nothing is kept but a dead letter that says so. We do not ask the
            broker to leave such messages out (MQTT 5's MaximumPacketSize), for it would not say that it has.
        commit_interval: seconds that a message may wait until it is durable.
        startup_error_behavior: when the broker cannot be reached at the start: `error` (end with an error),
            `retry` (wait until it can be), `ignore` (begin without, and go on trying).
        max_refusals: refusals (password, certificate) in a row after which we give up. After as many connections
            in a row that are cut off at once, the status says that another client seems to use our client_id.
        no_data_alarm: seconds of silence that count as a fault: a sensor is off, or the broker's access list lets
            us subscribe but not read.
        status_topic: where we publish, retained, `online`, and at the end `offline`; if we are cut off, the broker
            publishes `offline` for us (a last will).
        max_waiting_bytes: of memory that messages may take, about, while the disk is slow.
    """

    def __init__(
        self,
        spool: str | Spool,
        connection: Connection = Connection(),  # noqa: B008
        topics: Sequence[Topic] = (Topic(),),
        labels: Sequence[LabelTopic] = (),
        client_id: str | None = None,
        share: str | None = None,
        session_expiry: int = 7 * 86_400,
        receive_maximum: int = 2_000,
        max_packet_bytes: int = 16 << 20,
        commit_interval: float = 0.5,
        startup_error_behavior: Literal["error", "retry", "ignore"] = "error",
        max_refusals: int = 5,
        no_data_alarm: float = 300.0,
        status_topic: str | None = None,
        max_waiting_bytes: int = 64 << 20,
    ) -> None:
        if not 2 <= receive_maximum <= 10_000 or max_refusals < 1 or session_expiry < 0:
            raise UserError(
                "MQTT: expected receive_maximum of 2 to 10000, max_refusals of at least 1 and session_expiry of at"
                f" least 0, got {receive_maximum}, {max_refusals} and {session_expiry}"
            )
        if not commit_interval > 0 or not no_data_alarm > 0 or max_packet_bytes < 128 or max_waiting_bytes < 1:
            raise UserError(
                "MQTT: expected commit_interval, no_data_alarm and max_waiting_bytes above 0 and max_packet_bytes"
                " of"
                f" at least 128, got {commit_interval}, {no_data_alarm}, {max_waiting_bytes} and"
                f" {max_packet_bytes}"
            )
        if share is not None and (not share or set("/+#") & set(share)):
            raise UserError(f"MQTT: expected a share name without /, + and #, got {share!r}")
        self.spool = spool if isinstance(spool, Spool) else Spool(spool)
        self.connection = connection
        self.topics = Topics(tuple(topics), tuple(labels))
        self.startup_error_behavior = startup_error_behavior
        self.commit_interval = commit_interval
        self.no_data_alarm = no_data_alarm
        self.max_waiting_bytes = max_waiting_bytes
        prefix = "" if share is None else f"$share/{share}/"
        self.session = Session(
            client_id or "",  # which `__enter__` replaces
            {prefix + topic: qos for topic, qos in self.topics.filters().items()},
            session_expiry,
            receive_maximum,
            max_packet_bytes,
            status_topic,
            max_refusals,
        )
        self._ending = False
        self._began = time.monotonic()
        self._first = 0

    @property
    def folder(self) -> Path:
        """Folder of the spool."""
        return self.spool.folder

    def __enter__(self) -> MQTT:
        """Open the spool, connect, and wait for the broker as `startup_error_behavior` says.

        Raises:
            UserError: the spool cannot be used, or the broker cannot be reached and `startup_error_behavior` says
                that this is an error, or trying again would not help.
        """
        self.open()
        try:
            while self.awaits_broker and not self.wait(0.01):
                self.check()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def open(self) -> None:
        """Open the spool and begin to connect, without waiting for the broker; `close` belongs to it.

        Raises:
            UserError: the spool cannot be used.
        """
        self.connection.password()
        self._ending = False
        self.spool.__enter__()
        try:
            self._name_session()
            write_topics(self.folder, self.topics)
            self._first = self.spool.next_sequence
            self._began = time.monotonic()
            self.inbox = Inbox(self.max_waiting_bytes)
            self.supervisor = Supervisor(self.connection, self.session, self.inbox)
            self.recorder = Recorder(
                self.inbox,
                self.spool,
                Decoder(self.topics),
                self.supervisor.acknowledge,
                self.supervisor.publish,
                group=self.session.receive_maximum // 2,
                interval=self.commit_interval,
            )
        except BaseException:
            self.spool.__exit__()
            raise
        try:
            self.recorder.start()
            self.supervisor.start(first_must_succeed=self.startup_error_behavior == "error")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Make durable and acknowledge what has come, then disconnect; the broker keeps the session.

        Where it was never opened, there is nothing to do.
        """
        self._ending = True
        if not self._was_opened:
            return
        self.supervisor.pause()
        self.inbox.close()
        has_ended = self.recorder.finish(timeout=DRAIN)
        self.supervisor.stop()
        if has_ended:
            self.spool.__exit__()
        else:  # as long as the recorder writes, nobody else may: the lock goes when this process ends
            log.error("spool %s: a write does not end; the spool stays locked", self.folder)

    def __iter__(self) -> Iterator[Batch]:
        """Readings and labels from the opening on, as they become durable, until `stop`.

        Raises:
            UserError: the recording cannot go on.
        """
        self._check_opened()
        source = SpoolSource(self.folder, self.topics, after=self._first - 1)
        while True:
            stopping = self._ending
            yield from source.new()
            if stopping:
                return
            self.check()
            self.wait(POLL)

    @property
    def awaits_broker(self) -> bool:
        """Whether the recording is open, and must not begin yet: the broker has not accepted us so far."""
        self._check_opened()
        return self.startup_error_behavior != "ignore" and not self.supervisor.network.has_served

    def stop(self) -> None:
        """End iterations; may be called from a signal handler."""
        self._ending = True  # no Event: a signal may interrupt whoever holds the Event's lock

    def wait(self, seconds: float) -> bool:
        """Wait until the recording is stopped, `seconds` at most; whether it was stopped."""
        end = time.monotonic() + seconds
        while not self._ending and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, POLL))
        return self._ending

    def check(self) -> None:
        """Raise if the recording cannot go on.

        Raises:
            UserError: saying why.
        """
        self._check_opened()
        if (end := self._end()) is not None:
            raise UserError(end) from self.recorder.crashed

    def unfinished(self) -> str | None:
        """Once it is closed: why something that came was not made durable; None if all was."""
        self._check_opened()
        if self.recorder.drained:
            return None
        return self.recorder.problem or f"{len(self.inbox)} messages, since the disk is too slow"

    def status(self) -> Status:
        """How the recording goes; all counts begin with the opening.

        Raises:
            UserError: it was never opened.
        """
        self._check_opened()
        inbox, recorder, network = self.inbox, self.recorder, self.supervisor.network
        now = time.monotonic()
        oldest = inbox.oldest
        silence = now - max(self._began, recorder.last_commit)
        problem = self._end() or recorder.problem or network.problem or network.rival
        if problem is None and recorder.unreadable is not None:
            problem = f"nothing that arrives can be read: {recorder.unreadable}"
        if problem is None and silence > self.no_data_alarm:
            problem = (
                f"no data for {silence:.0f} s; are the sensors on, and may"
                f" {self.connection.username or 'anonymous'} read {', '.join(self.session.filters)}?"
            )
        return Status(
            connected=network.connected,
            healthy=problem is None and network.connected,
            problem=problem,
            received=inbox.put_count,
            received_bytes=inbox.put_bytes,
            committed=recorder.committed,
            waiting=len(inbox),
            lag=max(0.0, time.time() - oldest / 1e6) if oldest is not None else 0.0,
            silence=silence,
            redelivered=self.spool.redelivered,
            repeated=recorder.repeated,
            dead_letters=recorder.buried,
            doubtful=dict(recorder.doubtful),
            machines=len(recorder.machines),
            skew=max((abs(seconds) for seconds in list(recorder.decoder.history.skew.values())), default=0.0),
            connections=inbox.links,
            restarts=self.supervisor.restarts,
            gaps=recorder.gaps,
            quarantined=self.spool.quarantined,
            takeovers=inbox.takeovers,
            skipped=dict(recorder.skipped),
            warning=recorder.warning,
        )

    @property
    def _was_opened(self) -> bool:
        return hasattr(self, "recorder")

    def _check_opened(self) -> None:
        if not self._was_opened:
            raise UserError(
                f"MQTT: the recording into {self.folder} was never opened; use it in a with statement, or call"
                " open first"
            )

    def _name_session(self) -> None:
        """Take the client id that the spool remembers, unless another one is given, and have it remembered."""
        session = KeptSession(self.folder)
        # Spools of before client ids were remembered have a session at the broker, under a name that is computed.
        is_older = self.spool.next_sequence > 0 or has_topics(self.folder)
        client_id = self.session.client_id or session.client_id or _client_id(self.folder, is_older)
        try:
            session.name(client_id)
        except OSError as error:
            raise UserError(f"spool {self.folder}: cannot write {SESSION}: {error.strerror}") from error
        self.session = replace(self.session, client_id=client_id)

    def _end(self) -> str | None:
        """Why the recording cannot go on; None if it can."""
        crash = self.recorder.crashed
        if crash is not None:
            return f"recording has ended by a bug of ours: {type(crash).__name__}: {crash}"
        return self.supervisor.network.fatal


def _client_id(folder: Path, is_older: bool) -> str:
    """A name for the session that differs between spools, and that nobody guesses.

    Args:
        folder: the spool's.
        is_older: whether the name must be the one that earlier versions made of the machine's name and the folder.
    """
    name = folder.resolve().name[:12]
    if is_older:
        place = f"{socket.gethostname()}:{folder.resolve()}"
        return f"fml-{name}-{hashlib.blake2b(place.encode(), digest_size=5).hexdigest()}"
    return f"fml-{name}-{secrets.token_hex(8)}"
