"""Records: types that msgspec decodes a message to, with nothing but the members that are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import msgspec

from fml_lightning.connectors.codecs.path import Key, Path


class _Nothing:
    """The type of what must not be there: msgspec takes no value for one of it, null neither."""


@dataclass(frozen=True)
class RecordType:
    """The type of messages in which paths say where all stands; what is not read then costs next to nothing.

    Of a message in which the whole text of a path with several keys is one key, msgspec makes no record.

    >>> record_type = RecordType.of({"value": Path.parse("up.rms"), "time": Path.parse("at")})
    >>> record = msgspec.json.decode(b'{"at": 5, "up": {"rms": 1.5, "other": [1, 2]}}', type=record_type.type)
    >>> record_type.members("time", "site", "value")(record)
    (5, None, 1.5)
    """

    type: type[msgspec.Struct]
    """For msgspec; nested as the paths are."""
    places: Mapping[str, str]
    """Where a record has what stands at each path: attributes, joined by dots, the last one of the path's name."""

    @classmethod
    def of(cls, paths: Mapping[str, Path]) -> RecordType | None:
        """The type for paths by their names; None if there can be none.

        They must have nothing but keys that a field of msgspec can have, and none may lead beyond another.
        """
        tree: dict[str, Any] = {}
        for name, path in paths.items():
            *outer, last = [step.name if isinstance(step, Key) else "" for step in path.steps]
            node = tree
            for key in outer:
                node = node.setdefault(key, {})
                if not isinstance(node, dict):
                    return None
            if last in node or "" in (*outer, last):
                return None
            node[last] = name
        whole = [path.text for path in paths.values() if path.may_be_one_key]
        if any(text in tree for text in whole):
            return None
        places: dict[str, str] = {}
        try:
            return cls(_struct({**tree, **dict.fromkeys(whole)}, "", places), places)
        except ValueError:  # msgspec knows no keys with quotes or backslashes in them
            return None

    def members(self, *names: str) -> Callable[[Any], Any]:
        """What gets that of a record which stands at the paths of these names, None where nothing does.

        Of several names, it gets a tuple. It raises AttributeError where null stands on the way.
        """
        return attrgetter(*(self.places.get(name, "nothing") for name in names))

    def holder(self, name: str) -> Callable[[Any], Any] | None:
        """What gets that of a record which has what stands at a path, as an attribute; None: the record has it."""
        outer, _, _ = self.places.get(name, "").rpartition(".")
        return attrgetter(outer) if outer else None


def _struct(tree: Mapping[str, Any], prefix: str, places: dict[str, str]) -> type[msgspec.Struct]:
    """The type of a map with these keys; where each name stands is added to `places`.

    At a key is a name, the tree of what is below, or None where nothing must be.
    """
    fields: list[tuple[str, Any, Any]] = []
    rename: dict[str, str] = {}
    for i, (key, below) in enumerate(tree.items()):
        name = below if isinstance(below, str) else f"member_{i}"
        if below is None:
            fields.append((name, _Nothing, msgspec.UNSET))
        elif isinstance(below, dict):
            inner = _struct(below, f"{prefix}{name}.", places)
            fields.append((name, inner | None, inner()))
        else:
            fields.append((name, Any, None))
            places[name] = prefix + name
        rename[name] = key
    return msgspec.defstruct("Record", fields, rename=rename, namespace={"nothing": None}, gc=False, frozen=True)
