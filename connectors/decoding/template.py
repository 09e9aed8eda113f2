"""Templates: MQTT topics with places for the names of site, machine and channel."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from fml_lightning.errors import UserError

LEVEL = re.compile(r"\{(site|machine|channel)\}|\+|#|[^+#{}]*")


class Names(NamedTuple):
    """The names that a topic gives; None for those that it does not give."""

    site: str | None
    machine: str | None
    channel: str | None


@dataclass(frozen=True)
class Template:
    """A topic with places for names: `plant/{site}/{machine}/{channel}`.

    Between slashes stands a word, `{site}`, `{machine}`, `{channel}`, or MQTT's `+` (any word); at the end also
    `#` (any words). Where a template without `{channel}` ends with `#`, these words are the channel.

    >>> Template("plant/{site}/{machine}/{channel}").names("plant/north/pump-3/vibration")
    Names(site='north', machine='pump-3', channel='vibration')
    >>> Template("plant/{site}/{machine}/{channel}").filter
    'plant/+/+/+'
    """

    text: str

    def __post_init__(self) -> None:
        levels = self.text.split("/")
        bad = [level for level in levels if not LEVEL.fullmatch(level)]
        places = re.findall(r"\{(\w+)\}", self.text)
        if not self.text or bad or "#" in levels[:-1] or len(set(places)) < len(places):
            raise UserError(
                f"topic {self.text!r}: expected words, +, {{site}}, {{machine}}, {{channel}} (each once) between"
                " slashes, and # only at the end"
            )

    @property
    def filter(self) -> str:
        """The MQTT topic filter to subscribe to."""
        return re.sub(r"\{\w+\}", "+", self.text)

    @property
    def last_word(self) -> str | None:
        """The last level, if it is a word: often it is what was measured."""
        level = self.text.rpartition("/")[2]
        return None if level in ("+", "#") or level.startswith("{") else level

    def names(self, topic: str) -> Names | None:
        """The names in a topic; None if the topic does not match."""
        match = self._pattern.fullmatch(topic)
        if match is None:
            return None
        found = match.groupdict()
        return Names(found.get("site"), found.get("machine"), found.get("channel") or found.get("rest") or None)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        parts = []
        for level in self.text.split("/"):
            if level == "#":
                parts.append("(?P<rest>.*)")
            elif level == "+":
                parts.append("[^/]*")
            elif level.startswith("{"):
                parts.append(f"(?P<{level[1:-1]}>[^/]+)")
            else:
                parts.append(re.escape(level))
        pattern = "/".join(parts)
        if len(parts) > 1 and self.text.endswith("#"):  # a/# matches a too
            pattern = "/".join(parts[:-1]) + f"(?:/{parts[-1]})?"
        return re.compile(pattern, re.DOTALL)


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
