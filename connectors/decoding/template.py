"""Templates: MQTT topics with places for names."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from fml_lightning.errors import UserError

_PLACE = re.compile(r"\{([A-Za-z_]\w*)\}")
_SEVERAL = re.compile(r"#|\{([A-Za-z_]\w*)#\}")
"""A level of a template that stands for any number of levels of a topic."""


class Names(NamedTuple):
    """The names that a topic gives; None for those that it does not give."""

    site: str | None
    machine: str | None
    channel: str | None

    def or_else(self, others: Names) -> Names:
        """These names, and where there is none, another one."""
        return Names(*(name or other for name, other in zip(self, others, strict=True)))


class _Places(NamedTuple):
    """A level of a template that has places: words and places in turn."""

    first: str
    """The word before the first place; it may be empty."""
    between: Sequence[tuple[str, str]]
    """The words between places and the places after them, the last ones first."""
    last: str
    """The word after the last place; it may be empty."""
    place: str
    """The name of the first place."""

    def match(self, text: str, found: dict[str, str]) -> bool:
        """Whether a level of a topic matches; what stands in the places is added to `found`.

        Each place but the last takes as much as it can. The words are looked for from the right, which takes one
        pass, however a stranger's topic is made.
        """
        if len(text) <= len(self.first) + len(self.last):
            return False
        if self.first or self.last:
            if not (text.startswith(self.first) and text.endswith(self.last)):
                return False
            text = text[len(self.first) : len(text) - len(self.last)]
        for word, place in self.between:
            at = text.rfind(word, 1, len(text) - 1)  # no place is empty
            if at < 0:
                return False
            found[place], text = text[at + len(word) :], text[:at]
        found[self.place] = text
        return True


_Run = Sequence[str | _Places | None]
"""Levels side by side; None is MQTT's `+`."""


class _Several(NamedTuple):
    """A level of a template that stands for several levels of a topic."""

    place: str | None
    """The name of the place; None if the levels name nothing."""
    may_be_none: bool
    """Whether it also stands for no level, or an empty one."""


@dataclass(frozen=True)
class Template:
    """A topic with places for names: `plant/{site}/{machine}/{channel}`.

    Between slashes stands a word, a place such as `{machine}`, words and places (`sensor_{machine}_{channel}`), or
    MQTT's `+` (any word). `#` stands for any number of words, none included, at the end or elsewhere; `{channel#}`
    is a place for one or more words with the slashes between them. Where several divisions are possible, all but
    the last place, or `#`, take as much as they can.

    The places `{site}`, `{machine}` and `{channel}` name these; any other one is there to be used in the fields of
    a `Topic`. Where a template without `{channel}` ends with `#`, these words are the channel.

    >>> Template("plant/{site}/{machine}/{channel}").places("plant/north/pump-3/vibration")
    {'site': 'north', 'machine': 'pump-3', 'channel': 'vibration'}
    >>> Template("{site}/#/sensor_{machine}/{channel#}").places("north/hall/2/sensor_7/drive/temp")
    {'machine': '7', 'channel': 'drive/temp', 'site': 'north'}
    >>> Template("plant/{site}/{machine}/{channel}").filter, Template("{site}/#/sensor_{machine}").filter
    ('plant/+/+/+', '+/#')
    """

    text: str

    def __post_init__(self) -> None:
        bad = any("+" in level and level != "+" for level in self._levels)
        bad |= any(
            set("#{}") & set(_PLACE.sub("", level)) for level in self._levels if not _SEVERAL.fullmatch(level)
        )
        bad |= "}{" in self.text or len(set(self._written)) < len(self._written)
        bad |= any(_SEVERAL.fullmatch(a) and _SEVERAL.fullmatch(b) for a, b in itertools.pairwise(self._levels))
        if not self.text or bad:
            raise UserError(
                f"topic {self.text!r}: expected words, +, {{site}}, {{machine}}, {{channel}} or other places (each"
                " once) between slashes, # or {channel#} for several words, and words between places of one level"
            )

    @cached_property
    def _levels(self) -> Sequence[str]:
        return self.text.split("/")

    @cached_property
    def _written(self) -> Sequence[str]:
        """The names of the places, in order."""
        return re.findall(r"\{(\w+)#?\}", self.text)

    @property
    def place_names(self) -> Sequence[str]:
        """The names of the places; a `#` that is the channel is one."""
        return [*self._written, "channel"] if self._ends_with_channel else self._written

    @property
    def filter(self) -> str:
        """The MQTT topic filter to subscribe to, the narrowest that matches all topics of this template."""
        levels: list[str] = []
        for level in self.text.split("/"):
            if _SEVERAL.fullmatch(level):
                return "/".join([*levels, "#"])
            levels.append("+" if _PLACE.search(level) else level)
        return "/".join(levels)

    @property
    def is_narrower(self) -> bool:
        """Whether MQTT has no filter for this template alone, so that we are sent topics that are not meant."""
        return self.filter != re.sub(r"(?<![^/])\{\w+\}(?![^/])", "+", self.text)

    @property
    def last_word(self) -> str | None:
        """The last level, if it is a word: often it is what was measured."""
        level = self.text.rpartition("/")[2]
        return None if level in ("+", "#") or "{" in level else level

    def matches(self, topic: str) -> bool:
        """Whether a topic is one of this template's."""
        return self.places(topic) is not None

    def places(self, topic: str) -> dict[str, str] | None:
        """What stands in the places of a topic; None if the topic does not match."""
        words = topic.split("/")
        runs, several, last = self._compiled
        right = len(words) - len(last)
        found: dict[str, str] = {}
        if right < 0 or (right > 0 and not runs) or not _match(last, words[right:], found):
            return None
        # As within a level: of the levels between two # those furthest to the right are taken.
        for number in reversed(range(len(runs))):
            run, (place, may_be_none) = runs[number], several[number]
            for left in reversed(range(right - len(run) + 1)) if number else range(1):
                end = left + len(run)
                is_there = right - end > 1 or words[end:right] not in ([], [""])
                if end <= right and (is_there or may_be_none) and _match(run, words[left:end], found):
                    break
            else:
                return None
            if is_there and place is not None:
                found[place] = "/".join(words[end:right])
            right = left
        return found

    def subscribes_to(self, topic: str) -> bool:
        """Whether `filter` matches a topic."""
        return Template(self.filter).matches(topic)

    @cached_property
    def _compiled(self) -> tuple[Sequence[_Run], Sequence[_Several], _Run]:
        """The levels before each that stands for several, these themselves, and the levels after them."""
        runs: list[list[str | _Places | None]] = [[]]
        several: list[_Several] = []
        for level in self._levels:
            if match := _SEVERAL.fullmatch(level):
                several.append(_Several(match[1], match[1] is None))
                runs.append([])
            elif len(parts := _PLACE.split(level)) > 1:
                between = [(parts[i], parts[i + 1]) for i in range(len(parts) - 3, 0, -2)]
                runs[-1].append(_Places(parts[0], between, parts[-1], parts[1]))
            else:
                runs[-1].append(None if level == "+" else level)
        if self._ends_with_channel:
            several[-1] = _Several("channel", True)
        return runs[:-1], several, runs[-1]

    @property
    def _ends_with_channel(self) -> bool:
        return self._levels[-1] == "#" and "channel" not in self._written


def _match(run: _Run, words: Sequence[str], found: dict[str, str]) -> bool:
    """Whether levels match, for each of which there is a word; what stands in places is added to `found`."""
    return all(
        level is None or level == word or (type(level) is _Places and level.match(word, found))
        for level, word in zip(run, words, strict=True)
    )


def places_of(text: str) -> Sequence[str]:
    """The names of the places in a text, such as a name that is made of them.

    >>> places_of("{area}-{line}"), places_of("pump 3")
    (['area', 'line'], [])
    """
    return _PLACE.findall(text)


def filled(text: str, places: Mapping[str, str]) -> str | None:
    """A text with what stands in its places; None if nothing stands in one of them.

    >>> filled("{area}-{line}", {"area": "A", "line": "7"})
    'A-7'
    """
    if not places.keys() >= set(places_of(text)):
        return None
    return _PLACE.sub(lambda place: places[place[1]], text)


def covers(wide: str, narrow: str) -> bool:
    """Whether every topic that one filter matches is matched by another.

    >>> covers("plant/+/+/+", "plant/+/+/events"), covers("plant/#", "plant/+"), covers("plant/+", "plant/#")
    (True, True, False)
    """
    ours, theirs = wide.split("/"), narrow.split("/")
    if theirs[0].startswith("$") and ours[0] in ("+", "#"):  # a broker's own topics: no wildcard matches them
        return False
    for i, level in enumerate(ours):
        if level == "#":
            return True
        if i >= len(theirs) or theirs[i] == "#" or (level != "+" and level != theirs[i]):
            return False
    return len(ours) == len(theirs)
