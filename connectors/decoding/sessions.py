"""The sessions of stateful codecs: what they have learnt, and what they ask of devices."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

from fml_lightning.connectors.codecs import CodecSession, StatefulCodec
from fml_lightning.connectors.codecs.foreign import said
from fml_lightning.connectors.decoding.topics import Topics
from fml_lightning.errors import UserError

log = logging.getLogger(__name__)

MOST_REQUESTS = 10_000
"""Requests that are taken from a session at a time."""
MOST_REPORTED = 100
"""Bugs of sessions, outside of `decode`, that are logged."""


class Sessions:
    """One session of each topic of readings that has a stateful codec.

    A session may be the user's own, so a bug in it must not end the recording: it is logged, once.

    Args:
        topics: all topics.

    Raises:
        UserError: a codec makes no session.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._sessions = _made(topics)
        self._reported: set[str] = set()

    def __getitem__(self, number: int) -> CodecSession:
        """The session of a topic, by the topic's place in `Topics.readings`."""
        return self._sessions[number]

    def __len__(self) -> int:
        return len(self._sessions)

    def requests(self, now: float) -> list[tuple[str, bytes]]:
        """What the sessions ask to be published (`CodecSession.requests`)."""
        found: list[tuple[str, bytes]] = []
        for session in self._sessions.values():
            try:
                asked = itertools.islice(session.requests(now), MOST_REQUESTS)
                found += [(str(topic), bytes(payload)) for topic, payload in asked]
            except (Exception, SystemExit) as error:
                self._report(session, "requests", error)
        return found

    def states(self) -> list[bytes] | None:
        """What each has learnt, in order; None where a session's state cannot be taken out."""
        found: list[bytes] = []
        for session in self._sessions.values():
            try:
                state = session.state()
            except (Exception, SystemExit) as error:
                self._report(session, "state", error)
                return None
            if not isinstance(state, bytes):
                return None
            found.append(state)
        return found

    def restore(self, states: Sequence[bytes]) -> None:
        """Begin anew, with what `states` gave; if it cannot be restored, nothing changes.

        Raises:
            ValueError: they are no such states.
        """
        sessions = _made(self._topics)
        for session, state in zip(sessions.values(), states, strict=True):
            try:
                session.restore(state)
            except (Exception, SystemExit) as error:
                raise ValueError(f"{type(session).__name__}: {said(error)}") from error
        self._sessions = sessions

    def _report(self, session: object, method: str, error: BaseException) -> None:
        word = f"{type(session).__name__}.{method}: {said(error)}"
        if word not in self._reported and len(self._reported) < MOST_REPORTED:
            self._reported.add(word)
            log.error("a bug of a codec: %s", word)


def _made(topics: Topics) -> dict[int, CodecSession]:
    """New sessions, by the places of their topics."""
    sessions: dict[int, CodecSession] = {}
    for number, topic in enumerate(topics.readings):
        codec = topic.codec
        if not isinstance(codec, StatefulCodec):
            continue
        try:
            session = codec.session()
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{type(codec).__name__}: it makes no session: {said(error)}") from error
        if not isinstance(session, CodecSession):
            raise UserError(f"{type(codec).__name__}.session: expected a CodecSession, got {session!r:.100}")
        sessions[number] = session
    return sessions
