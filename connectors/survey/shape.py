"""The shape of documents: which members objects have, at which paths, and what stands there, over many of them."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

NUMBER = re.compile(r"\s*[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?\s*")
"""A number as text, without a unit."""
DEEPEST = 12
"""Objects and arrays within one another that are looked into."""
CONTAINERS = {
    *("object", "decodedpayload", "payloadfields", "decoded", "decodeddata", "decodedobject", "values", "value"),
    *("data", "payload", "fields", "measurements", "measurement", "readings", "reading", "metrics", "sensors"),
    *("sensor", "params", "telemetry", "d", "reported", "state", "message", "msg", "body", "content", "tags"),
    *("results", "result", "attributes", "properties", "points", "channels", "signals", "samples", "variables"),
    *("v", "val"),
}
"""Keys, in small letters and digits, that say nothing of what is under them."""
MOST_MEMBERS = 300
"""Members of one object that are told apart."""
MOST_ITEMS = 50
"""Items of one array that are looked at."""
MOST_EXAMPLES = 200
"""Values of one place that are kept."""


def plain(key: object) -> str:
    """A key as names are compared: small letters and digits.

    >>> plain("Time_Stamp"), plain("devEUI")
    ('timestamp', 'deveui')
    """
    return re.sub(r"[^a-z0-9äöüß]", "", str(key).lower())


class Every(enum.Enum):
    """A step of a path that is no key of one member."""

    ITEM = "every item of an array"
    KEY = "every member of an object whose keys are names, such as those of channels"


Step = str | int | Every
Path = tuple[Step, ...]


@dataclass
class Shape:
    """What stands at one place of documents."""

    count: int = 0
    """How often something stood there."""
    numbers: list[float] = field(default_factory=list)
    """Numbers; booleans are 1 and 0."""
    texts: list[str] = field(default_factory=list)
    moments: list[datetime] = field(default_factory=list)
    """Dates of CBOR and MessagePack."""
    blobs: list[bytes] = field(default_factory=list)
    is_boolean: bool = False
    """Whether all numbers are booleans."""
    is_whole: bool = True
    """Whether all numbers are whole and written so."""
    members: dict[str | int, Shape] = field(default_factory=dict)
    """Of objects."""
    items: Shape | None = None
    """Of arrays, all their items together."""
    lengths: list[int] = field(default_factory=list)
    """Of arrays."""

    def add(self, value: Any, depth: int = 0) -> None:
        """See one more value there; null is none."""
        if value is None or depth > DEEPEST:
            return
        self.count += 1
        if isinstance(value, bool):
            self.is_boolean = self.is_boolean or not self.numbers
            _keep(self.numbers, float(value))
        elif isinstance(value, int | float):
            self.is_boolean = False
            self.is_whole = self.is_whole and isinstance(value, int)
            _keep(self.numbers, float(value) if abs(value) < 1e300 or value != value else float("inf"))
        elif isinstance(value, str):
            _keep(self.texts, value)
        elif isinstance(value, datetime):
            _keep(self.moments, value)
        elif isinstance(value, bytes | bytearray | memoryview):
            _keep(self.blobs, bytes(value))
        elif isinstance(value, Mapping):
            for key, member in value.items():
                if isinstance(key, str | int) and (key in self.members or len(self.members) < MOST_MEMBERS):
                    self.members.setdefault(key, Shape()).add(member, depth + 1)
        elif isinstance(value, list | tuple | np.ndarray):
            _keep(self.lengths, len(value))
            self.items = self.items or Shape()
            for item in value[:MOST_ITEMS]:
                self.items.add(item.item() if isinstance(item, np.generic) else item, depth + 1)

    def merge(self, other: Shape) -> None:
        """See what another shape has seen."""
        self.is_boolean = other.is_boolean if not self.numbers else self.is_boolean and other.is_boolean
        self.is_whole = self.is_whole and other.is_whole
        self.count += other.count
        for name in ("numbers", "texts", "moments", "blobs", "lengths"):
            for example in getattr(other, name):
                _keep(getattr(self, name), example)
        for key, member in other.members.items():
            self.members.setdefault(key, Shape()).merge(member)
        if other.items is not None:
            self.items = self.items or Shape()
            self.items.merge(other.items)

    @property
    def is_array(self) -> bool:
        """Whether there are arrays of numbers only, such as samples."""
        return self.items is not None and bool(self.items.numbers) and self.items.is_leaf and not self.items.texts

    @property
    def is_leaf(self) -> bool:
        """Whether nothing stands below it."""
        return not self.members and self.items is None

    @property
    def text_numbers(self) -> list[float]:
        """The numbers that texts are, if all of them are numbers."""
        return [float(text) for text in self.texts] if all(map(NUMBER.fullmatch, self.texts)) else []

    @property
    def is_number(self) -> bool:
        """Whether there are numbers, or texts that are numbers."""
        return self.is_leaf and (bool(self.numbers) or bool(self.texts and self.text_numbers))


def shape_of(documents: Sequence[Any]) -> Shape:
    """The shape of all documents together."""
    shape = Shape()
    for document in documents:
        shape.add(document)
    return shape


def _keep(examples: list[Any], value: Any) -> None:
    if len(examples) < MOST_EXAMPLES:
        examples.append(value)


def places(shape: Shape, path: Path = ()) -> Iterator[tuple[Path, Shape]]:
    """Every place where a value stands, or an array of numbers, and its path.

    Members whose keys are names, such as those of channels, are one place: their paths have `Every.KEY`.
    """
    if shape.items is not None and not shape.is_array:
        yield from places(shape.items, (*path, Every.ITEM))
    named = _named_members(shape)
    if named:
        together = Shape()
        for key in named:
            together.merge(shape.members[key])
        yield from places(together, (*path, Every.KEY))
    for key, member in shape.members.items():
        if key not in named:
            yield from places(member, (*path, key))
    if shape.is_array or (shape.numbers or shape.texts or shape.moments or shape.blobs):
        yield path, shape


def _named_members(shape: Shape) -> list[str | int]:
    """The keys of an object that are names: what stands under them is alike, an object with a value, or a list."""
    lists = [k for k, m in shape.members.items() if m.items is not None and m.items.members and not m.members]
    if len(lists) > 1 and len(lists) == sum(not m.is_leaf for m in shape.members.values()):
        bodies = [body for key in lists if (body := shape.members[key].items) is not None]
        return lists if all(_alike(bodies[0], body) for body in bodies) else []
    objects = {key: member for key, member in shape.members.items() if member.members and member.items is None}
    valued = [key for key, member in objects.items() if any(_is_value(k, m) for k, m in member.members.items())]
    if len(valued) == 1 and plain(valued[0]) in CONTAINERS:
        valued = []
    if valued and len(valued) == len(objects):
        return valued
    alike = [key for key in objects if all(_alike(objects[key], other) for other in objects.values())]
    return alike if len(alike) > 1 else []


def _is_value(key: object, member: Shape) -> bool:
    return str(key).lower() in ("value", "v", "val") and (member.is_number or member.is_array)


def _alike(one: Shape, other: Shape) -> bool:
    mine, theirs = set(one.members), set(other.members)
    return 2 * len(mine & theirs) > len(mine | theirs)
