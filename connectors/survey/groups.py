"""Groups: topics that differ only in a level that varies, and whose payloads are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from fml_lightning.connectors.codecs.unwrap import Wrapper
from fml_lightning.connectors.messages import Message
from fml_lightning.connectors.survey.formats import Format, Parsed, parsed
from fml_lightning.connectors.survey.shape import MOST_MEMBERS
from fml_lightning.connectors.survey.survey import Heard

MOST_LEVELS = 30
"""Levels of a topic that may vary."""
MOST_EXAMINED = 400
"""Messages of a group that are looked into."""


@dataclass(frozen=True)
class Group:
    """Topics that are read alike."""

    heard: Sequence[Heard]
    """What was heard on each of them."""
    parses: Mapping[int, Parsed]
    """What each message that is looked into is, by the `id` of the message."""

    @property
    def topics(self) -> Sequence[str]:
        """The topics."""
        return [one.topic for one in self.heard]

    @cached_property
    def messages(self) -> Sequence[Message]:
        """The messages that are looked into, in the order in which they were received: some of each topic."""
        most = max(1, MOST_EXAMINED // len(self.heard))
        return sorted(
            (message for one in self.heard[:MOST_EXAMINED] for message in one.messages[-most:]),
            key=lambda message: message.received,
        )

    @property
    def parsed(self) -> Sequence[Parsed]:
        """What these messages are."""
        return [self.parses[id(message)] for message in self.messages]

    @property
    def count(self) -> int:
        """Messages that were heard."""
        return sum(one.count for one in self.heard)

    @property
    def pattern(self) -> str:
        """The topics as one, with `*` for what differs."""
        split = [topic.split("/") for topic in self.topics]
        if len({len(levels) for levels in split}) > 1 or self.parsed[0].format == "sparkplug":
            return f"{split[0][0]}/#"
        return "/".join(words[0] if len(set(words)) == 1 else "*" for words in zip(*split, strict=True))


def grouped(heard: Sequence[Heard]) -> list[Group]:
    """The topics in groups, in the order in which they were first heard."""
    parses = {id(m): parsed(one.topic, m.payload) for one in heard for m in one.messages}
    kinds = [_kind(one, parses) for one in heard]
    leader = list(range(len(heard)))

    def root(i: int) -> int:
        while leader[i] != i:
            leader[i] = leader[leader[i]]
            i = leader[i]
        return i

    buckets: dict[object, list[int]] = {}
    for i, one in enumerate(heard):
        formats, keys = kinds[i]
        levels = one.topic.split("/")
        places: list[object] = [
            (j, (*levels[:j], "", *levels[j + 1 :])) for j in range(min(len(levels), MOST_LEVELS))
        ]
        if any(form == "sparkplug" for form, _ in formats):
            places = ["sparkplug"]  # its topics say themselves what they are
        for place in places:
            others = buckets.setdefault((formats, place), [])
            for other in others:
                if _alike(kinds[other][1], keys):
                    leader[root(i)] = root(other)
                    break
            else:
                others.append(i)
    found: dict[int, list[Heard]] = {}
    for i, one in enumerate(heard):
        found.setdefault(root(i), []).append(one)
    return [Group(members, parses) for members in found.values()]


def _kind(
    heard: Heard, parses: Mapping[int, Parsed]
) -> tuple[frozenset[tuple[Format, tuple[Wrapper, ...]]], frozenset[str]]:
    """The formats of a topic's payloads, and the keys of its documents."""
    mine = [parses[id(message)] for message in heard.messages]
    keys: set[str] = set()
    for one in mine:
        _keys(one.document, "", keys)
    return frozenset((one.format, one.wrappers) for one in mine), frozenset(keys)


def _keys(document: object, prefix: str, found: set[str]) -> None:
    """The paths of a document's members, of the two outermost levels."""
    for item in document[:3] if isinstance(document, list) else [document]:
        if isinstance(item, Mapping):
            for key, value in item.items():
                if len(found) < MOST_MEMBERS:
                    found.add(f"{prefix}.{key}")
                    if not prefix:
                        _keys(value, f".{key}", found)


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    return 2 * len(one & other) >= len(one | other)
