"""The survey: what was heard on each topic, in bounded memory whatever is sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from fml_lightning.connectors.messages import Message

MOST_TOPICS = 2_000
"""Topics that are told apart; of others only their messages are counted."""
LONGEST_TOPIC = 1_000
"""Characters of a topic that is told apart."""
FIRST, LAST = 8, 8
"""Messages of a topic that are kept: the first and the last ones."""
LARGEST = 1 << 20
"""Bytes of a payload that is kept."""
MOST_BYTES = 64 << 20
"""Of all payloads that are kept together."""


@dataclass
class Heard:
    """What was heard on one topic."""

    topic: str
    count: int = 0
    """Messages."""
    too_large: int = 0
    """Messages whose payloads were too large to be kept."""
    first: list[Message] = field(default_factory=list)
    """The first messages."""
    last: deque[Message] = field(default_factory=deque)
    """The last messages, none of which is among the first."""

    @property
    def messages(self) -> Sequence[Message]:
        """The messages that were kept, in order."""
        return [*self.first, *self.last]


class Survey:
    """Collects messages: `add` each; `topics` then says what was heard on each topic."""

    def __init__(self) -> None:
        self.topics: dict[str, Heard] = {}
        """By topic."""
        self.count = 0
        """Messages, of all topics."""
        self.beyond = 0
        """Messages of topics that are too many, or too long, to be told apart."""
        self._bytes = 0

    def add(self, message: Message) -> None:
        """Hear one message; an empty payload, by which retained messages are deleted, says nothing."""
        if not message.payload and not message.oversized:
            return
        self.count += 1
        heard = self.topics.get(message.topic)
        if heard is None:
            if len(self.topics) >= MOST_TOPICS or len(message.topic) > LONGEST_TOPIC:
                self.beyond += 1
                return
            heard = self.topics[message.topic] = Heard(message.topic)
        heard.count += 1
        size = len(message.payload)
        if (
            message.oversized
            or size > LARGEST
            or (self._bytes + size > MOST_BYTES and not self._makes_room(heard, size))
        ):
            heard.too_large += 1
            return
        self._bytes += size
        if len(heard.first) < FIRST:
            heard.first.append(message)
            return
        if len(heard.last) == LAST:
            self._bytes -= len(heard.last.popleft().payload)
        heard.last.append(message)

    def _makes_room(self, heard: Heard, size: int) -> bool:
        """Whether forgetting the topic's own earlier messages leaves room for one of `size` bytes."""
        while heard.last and self._bytes + size > MOST_BYTES:
            self._bytes -= len(heard.last.popleft().payload)
        return self._bytes + size <= MOST_BYTES
