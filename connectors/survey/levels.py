"""Levels: which level of topics names site, machine and channel, by what varies and by the words around it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fml_lightning.connectors.survey.shape import plain

Place = Literal["site", "machine", "channel"]

_BEFORE: Mapping[str, Place] = {
    **dict.fromkeys(("site", "sites", "plant", "plants", "factory", "factories", "building", "werk"), "site"),
    **dict.fromkeys(
        ("device", "devices", "machine", "machines", "node", "nodes", "asset", "assets", "equipment", "unit"),
        "machine",
    ),
    **dict.fromkeys(
        ("gateway", "gateways", "thing", "things", "deveui", "tele", "stat", "zigbee2mqtt", "shellies", "esphome"),
        "machine",
    ),
    **dict.fromkeys(
        ("channel", "channels", "sensor", "sensors", "signal", "signals", "metric", "metrics"), "channel"
    ),
}
"""Words after which the next level names something."""
_SAYS_NOTHING = {
    *(
        "value",
        "values",
        "val",
        "state",
        "status",
        "up",
        "uplink",
        "down",
        "data",
        "json",
        "telemetry",
        "out",
    ),
    *(
        "in",
        "rx",
        "tx",
        "get",
        "set",
        "sensor",
        "sensors",
        "result",
        "message",
        "messages",
        "msg",
        "event",
        "events",
    ),
    *("reading", "readings", "measurement", "measurements", "update", "payload", "attributes", "info"),
    *("ddata", "nbirth", "v1", "v2", "v3", "metrics", "stream", "samples", "live", "report", "properties", "post"),
    *(
        "label",
        "labels",
        "cbor",
        "msgpack",
        "binary",
        "senml",
        "influx",
        "csv0",
        "test",
        "pub",
        "notify",
        "gz",
        "b64",
    ),
    *(
        "fault",
        "faults",
        "alarm",
        "alarms",
        "all",
        "batch",
        "any",
        "everything",
        "default",
        "main",
        "topic",
        "mqtt",
    ),
}
"""Words that say how something is sent, and name nothing."""
FIXED: Mapping[Place, str] = {"site": "n", "machine": "m", "channel": "value"}
"""Names where there is none."""


@dataclass(frozen=True)
class Naming:
    """A template, and the names that neither it nor the payload gives."""

    template: str
    fixed: Mapping[str, str]
    comments: Mapping[str, str] = field(default_factory=dict)
    """What a person should look at, by field of a topic."""


def has_room(topic: str) -> bool:
    """Whether a topic names something in a level below its first."""
    return any(word and not _says_nothing(word) for word in topic.split("/")[1:])


def varying(topics: Sequence[str], among: Sequence[str]) -> frozenset[int]:
    """The levels of topics that vary: other topics, among all, are the same but for this level.

    >>> sorted(varying(["p/a/t"], ["p/a/t", "p/b/t", "q/c/t"]))
    [1]
    """
    words: dict[tuple[int, tuple[str, ...]], set[str]] = {}
    for topic in among:
        levels = topic.split("/")
        for i, level in enumerate(levels):
            words.setdefault((i, (*levels[:i], "", *levels[i + 1 :])), set()).add(level)
    found: set[int] = set()
    for topic in topics:
        levels = topic.split("/")
        found |= {
            i for i in range(len(levels)) if len(words.get((i, (*levels[:i], "", *levels[i + 1 :])), ())) > 1
        }
    return frozenset(found)


def naming(
    topics: Sequence[str],
    given: frozenset[str],
    among: Sequence[str],
    names_in_payload: Collection[str] = (),
    pinned: bool = False,
) -> Naming:
    """How a group of topics is read.

    Args:
        topics: topics of as many levels each, which differ in some of them.
        given: what the payloads name: `site`, `machine`, `channel`.
        among: all topics that were heard, which tell what varies.
        names_in_payload: texts of the payloads that may be names, which tell what a level of the same text is.
        pinned: whether levels that do not vary within the group are to be words, so that no other topic matches.
    """
    split = [topic.split("/") for topic in topics]
    own = {i for i in range(len(split[0])) if len({levels[i] for levels in split}) > 1}
    vary = own | varying(topics, [t for t in among if t.split("/")[0] == split[0][0]])
    joint = (
        {} if given & {"machine", "channel"} else {i: sign for i in own if (sign := _joint([w[i] for w in split]))}
    )
    given |= {"machine", "channel"} if joint else set()
    places = _places(split[0], own - set(joint), vary, given, set(names_in_payload))
    parts = _parts(own - set(joint), places, given)
    levels: list[str] = []
    fixed: dict[str, str] = {}
    for i, word in enumerate(split[0]):
        place = places.get(i)
        if i in joint:
            levels.append(f"{{machine}}{joint[i]}{{channel}}")
        elif place is not None and (i in own or not pinned):
            levels.append(f"{{{place}}}")
        elif place is not None:
            levels.append(word)
            fixed[place] = word
        elif i in parts:
            levels.append(f"{{level{i + 1}}}")
        elif i in own or set(word) & set("{}") or (not pinned and i in _naming_levels(split[0], names_in_payload)):
            levels.append("+")
        else:
            levels.append(word)
    for part in sorted(set(parts.values())):
        whole = sorted(i for i in range(len(levels)) if part in (parts.get(i), places.get(i)))
        fixed[part] = ("-" if part == "machine" else "/").join(levels[i] for i in whole)
    comments: dict[str, str] = {}
    last = levels[-1]
    for place in FIXED:
        if place in given or place in places.values() or place in fixed:
            continue
        if place == "channel" and last not in ("+", "#") and not last.startswith("{"):
            continue  # it is the template's last word
        fixed[place] = FIXED[place]
        comments[place] = "which? neither the topic nor the payload names it"
    return Naming("/".join(levels), fixed, comments)


def _joint(words: Sequence[str]) -> str | None:
    """The sign between the names of machines and of channels in the words of one level, if they are made of both.

    >>> _joint(["press_rms", "press_temp", "saw_rms"]), _joint(["oil_temp", "air_temp"])
    ('_', None)
    """
    for sign in "_-.:":
        pairs = {word.rpartition(sign)[::2] for word in words}
        machines, channels = ([pair[i] for pair in pairs] for i in (0, 1))
        repeat = all(1 < len(set(names)) < len(names) for names in (machines, channels))
        if repeat and all(machines) and not any(channel.isdigit() or not channel for channel in channels):
            return sign
    return None


def _parts(own: Collection[int], places: Mapping[int, Place], given: frozenset[str]) -> dict[int, Place]:
    """Levels that vary and have no place: part of the channel's name, or of the machine's to the left of it.

    Without them, what differs would be read as one.
    """
    machine = next((i for i, place in places.items() if place == "machine"), None)
    if {"machine", "channel"} <= given:
        return {}  # the payload tells them apart
    return {
        i: "channel" if machine is None or (i > machine and "channel" not in given) else "machine"
        for i in own
        if i not in places
    }


def _places(
    words: Sequence[str], own: set[int], vary: set[int], given: frozenset[str], named: set[str]
) -> dict[int, Place]:
    """Which level names what."""
    places: dict[int, Place] = {}
    hints = {
        i: _BEFORE[plain(words[i - 1])]
        for i in range(1, len(words))
        if plain(words[i - 1]) in _BEFORE and (i in own or not _says_nothing(words[i]))
    }
    free = [
        i
        for i, word in enumerate(words)
        if word and (i in own or not (_says_nothing(word) or set(word) & set("{}")))
    ]

    def take(place: Place, candidates: Sequence[int]) -> int | None:
        chosen = next((i for i in candidates if i not in places), None)
        if chosen is not None:
            places[chosen] = place
        return chosen

    if "channel" not in given and len(words) == 1 and not own:
        return {}  # the word is the channel
    machine: int | None = None
    if "machine" not in given:
        said = [i for i in free if words[i] in named]
        hinted = [i for i in free if hints.get(i) == "machine"]
        machine = take("machine", [*said[::-1], *hinted[::-1]])
    if "channel" not in given:
        hinted = [i for i in free if hints.get(i) == "channel"]
        right = [i for i in reversed(free) if hints.get(i) not in ("site", "machine") and i not in places]
        take("channel", [*hinted[::-1], *right])
    channel = next((i for i, place in places.items() if place == "channel"), None)
    if "machine" not in given and machine is None:
        left = [i for i in reversed(free) if channel is None or i < channel]
        left = [i for i in left if hints.get(i) != "site"]
        inner = [i for i in left if i > 0 or i in vary] or left
        if channel is None and len(inner) > 2 and inner[0] in vary - own:
            inner = inner[1:]  # what is sent beside it differs in kind, as channels do
        machine = take("machine", [*(i for i in inner if i in own), *(i for i in inner if i in vary), *inner])
    if "channel" in given and machine is not None and channel is None:
        # What varies to the right of the machine tells its channels apart.
        take("channel", [i for i in reversed(free) if i > machine and i in vary])
        channel = next((i for i, place in places.items() if place == "channel"), None)
    if "site" not in given:
        end = min([i for i in (machine, channel) if i is not None], default=len(words))
        hinted = [i for i in free if hints.get(i) == "site" and i < end]
        left = [i for i in reversed(free) if i < end and (i in vary or (i == end - 1 and i > 0))]
        left = left if machine is not None else [i for i in left if i in own]
        take("site", [*hinted, *left])
    return places


def _naming_levels(words: Sequence[str], names_in_payload: Collection[str]) -> set[int]:
    """Levels that name a device, by the word before them or since the payload has the same text."""
    said = {i for i, word in enumerate(words) if word in names_in_payload}
    return said | {
        i
        for i in range(1, len(words))
        if _BEFORE.get(plain(words[i - 1])) == "machine" and not _says_nothing(words[i])
    }


def _says_nothing(word: str) -> bool:
    return plain(word) in _SAYS_NOTHING or bool(re.fullmatch(r"v?\d{1,2}\.?\d*", word)) or plain(word) in _BEFORE
